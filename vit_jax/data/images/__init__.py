"""From an encoded image to a model's input, on the host."""
