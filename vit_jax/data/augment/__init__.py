"""Random changes of an image on the host."""
