"""From a config, or from what a checkpoint says of itself, to objects."""
