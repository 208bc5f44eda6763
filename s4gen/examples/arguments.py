"""The argument parser of the examples, which reports errors as the command line of s4gen does."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that refuses wrong arguments in one line, without the usage, and with exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(self.refuse(message))

    def refuse(self, message: str) -> int:
        """Print the message to standard error as one line, and return the exit code, 2."""
        print(f"s4gen: error: {message}", file=sys.stderr)
        return 2
