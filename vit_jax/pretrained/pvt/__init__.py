"""PVT in other libraries' checkpoints."""
