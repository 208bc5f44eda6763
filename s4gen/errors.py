"""The one exception that means: the person at the keyboard can fix this."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave us: a path, a key, a value, a full disk.

    The message is one sentence: what arrived, what was expected, what to do. The command line prints it as
    one line and exits with code 2; every other exception is a bug in s4gen and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class WriteError(UserError):
    """Something could not be written: the disk is full, may not be written to, or is broken."""
