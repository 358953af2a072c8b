"""DeiT in other libraries' formats; what is read of it there is a ViT with its options."""
