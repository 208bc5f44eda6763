"""How a program says what its user can mend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest


def assert_refused_in_one_line(
    main: Callable[[Sequence[str]], int], arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, nothing on standard output, and one line on standard error that holds the message."""
    try:
        code: object = main(arguments)
    except SystemExit as done:
        code = done.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("s4gen: error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
