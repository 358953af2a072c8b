"""Swin in other libraries' checkpoints."""
