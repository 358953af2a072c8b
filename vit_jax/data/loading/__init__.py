"""Batches: their order, their reading, their workers."""
