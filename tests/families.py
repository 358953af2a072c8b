"""A tiny model of every family: `TINY` of the family's own test file, tests/models/test_FAMILY.py."""

from own_rows import own_rows

TINY = own_rows("model", "TINY")
