"""`python -m toktune`, and the console script: the command line."""

import signal
import sys

from . import _toktune


def main() -> int:
    """Runs the command line with the process's arguments; the exit status."""
    # Ctrl-C is the command line's to answer, not the interpreter's
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _toktune.command_line(["toktune", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
