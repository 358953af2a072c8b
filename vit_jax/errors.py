"""The errors that the command line reports in one line."""

from vit_jax.system.terminal import visible


class InputError(Exception):
    """Something the user gave is wrong: one line that names it and says what would be valid.

    The command line prints it without a traceback and exits with status 2.
    """

    def __str__(self) -> str:
        """Return the message with visible control characters, which a name in it may hold."""
        return visible(super().__str__())


class TrainingDiverged(Exception):
    """Too many steps in a row had a loss or gradient that is not finite."""
