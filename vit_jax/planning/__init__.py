"""What a step needs of devices that are not there."""
