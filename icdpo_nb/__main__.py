"""The command `icdpo-nb`, also `python -m icdpo_nb`: it answers Ctrl-C while the libraries are still being loaded."""

import os
import signal
import sys


def main() -> int:
    """The command line, see `cli.main`. Returns the exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as it is in a shell's background
        signal.signal(signal.SIGINT, _leave)
    from .cli import main

    return main()


def _leave(*signalled: object) -> None:
    """End at once: nothing was begun, and an exception within an import may be lost or leave it half done."""
    os.write(2, b"icdpo-nb: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
