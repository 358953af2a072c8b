"""The hybrid in other libraries' checkpoints."""
