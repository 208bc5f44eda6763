"""Define the one exception that means that the person at the keyboard can fix the problem."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can fix: a wrong path, key or value, a full disk.

    The message is one sentence that says what arrived, what was expected and what to do. The command line prints it as
    one line and exits with code 2; every other exception is a bug in s4gen and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        """Take the message; line breaks in it, as in quoted errors of other programs, become spaces."""
        super().__init__(" ".join(message.split()))


class WriteError(UserError):
    """Something could not be written: the disk is full, is broken, or does not let us write to it."""
