"""Linen layers that models are made of."""
