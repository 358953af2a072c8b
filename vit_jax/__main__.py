"""`vit-jax`, which is `python -m vit_jax` as well."""

import os
import signal
import sys


def main() -> int:
    """Import the command line and run it; gives its exit status. Ctrl-C is one line during the import too."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from vit_jax.cli.main import main as run

    signal.signal(signal.SIGINT, before)
    return run()


def _end(*_: object) -> None:
    os.write(2, b"vit-jax: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
