"""What a train step needs of its devices, which need not be there."""
