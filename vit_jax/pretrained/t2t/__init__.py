"""T2T-ViT in other libraries' checkpoints."""
