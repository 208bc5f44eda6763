"""The program: `python -m s4gen`, and the command `s4gen`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def program() -> int:
    """Run the command line and return its exit code; Ctrl-C is one line, also while modules are being loaded."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a script
        signal.signal(signal.SIGINT, _stop)
    from s4gen.cli import main

    code = main()
    if code == 130:
        # A module whose loading was interrupted may fail once more while Python takes itself down.
        sys.stderr.flush()
        os._exit(code)
    return code


def _stop(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"s4gen: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(program())
