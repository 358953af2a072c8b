"""The checkpoints of a run: `writing` saves and restores them, `reading` gives what inference needs of them."""
