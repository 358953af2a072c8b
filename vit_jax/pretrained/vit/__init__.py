"""The Vision Transformer in other libraries' checkpoints."""
