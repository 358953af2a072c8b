"""The subcommands of `vit-jax`, one a file."""
