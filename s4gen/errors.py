"""Define the one exception that means that the person at the keyboard can fix the problem."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def shortened(text: str, most: int = 300) -> str:
    """Return a text of at most `most` characters: a longer one without its middle, since its end may say what to do."""
    if len(text) <= most:
        return text
    head = (most - 3) * 2 // 3
    return f"{text[:head]}...{text[len(text) - (most - 3 - head) :]}"


def printable(text: str) -> str:
    """Return a text of a stranger, such as the name of a file, with escapes for what would command the terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class UserError(Exception):
    """Something that the user can fix: a wrong path, key or value, a full disk.

    The message is one sentence that says what arrived, what was expected and what to do. The command line prints it as
    one line and exits with code 2; every other exception is a bug in s4gen and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        """Take the message; line breaks in it, as in quoted errors of other programs, become spaces.

        A message may quote a file of a stranger. Characters that would command the terminal are written as escapes.
        """
        line = " ".join(message.split())
        super().__init__(printable(shortened(line, 2000)))


class WriteError(UserError):
    """Something could not be written: the disk is full, is broken, or does not let us write to it."""
