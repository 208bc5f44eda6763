"""The page of `s4gen serve` in a real browser; it needs selenium, Chromium and its driver."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_serve_process import saved, server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        None in (shutil.which("chromium"), shutil.which("chromedriver"), importlib.util.find_spec("selenium")),
        reason="there is no Chromium here, or no selenium",
    ),
]
__all__ = ["saved"]  # a fixture


@pytest.mark.parametrize("size", [(1200, 900), (390, 844)], ids=["desktop", "phone"])
def test_every_panel_works_and_fits(saved: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    with server(saved / "words", saved / "animals", saved / "digits") as (_, url):
        driving = [sys.executable, str(Path(__file__).parent / "drive_page.py"), url, *map(str, size)]
        done = subprocess.run([*driving, str(tmp_path / "page.png")], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
