"""Datasets made of what the user has."""
