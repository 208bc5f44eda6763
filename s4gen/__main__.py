"""Start the program, as `python -m s4gen` or as the command `s4gen`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def program() -> int:
    """Run the command line and return its exit code; Ctrl-C prints one line, also while modules are being loaded."""
    # A shell script has its background jobs ignore Ctrl-C, and that is to stay so.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _stop)
    from s4gen.cli import main

    code = main()
    if code == 130:
        # A module whose loading was interrupted may raise again while Python shuts down: leave without that.
        sys.stderr.flush()
        os._exit(code)
    return code


def _stop(signum: int, frame: FrameType | None) -> None:
    """End the program at once: while torch is being loaded, its code may swallow KeyboardInterrupt or abort on it."""
    os.write(2, b"s4gen: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(program())
