"""Checkpoints of other libraries: read, checked, written, each by its own names of the weights."""
