"""What the command lines of the examples have in common."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Wrong arguments in one line, as the command line of s4gen has it."""

    def error(self, message: str) -> NoReturn:
        self.exit(self.refuse(message))

    def refuse(self, message: str) -> int:
        """Say it; returns the exit code."""
        print(f"s4gen: error: {message}", file=sys.stderr)
        return 2
