"""The room that every test runs in: seeded, without a network, without the user's data, cache or screen."""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fault_table import Note, rows_of, table
from hypothesis import settings

from s4gen.files.folders import cache_folder
from s4gen.sampling.engines.native import NativeUnavailable
from s4gen.sampling.engines.native.build import library

os.environ["MPLBACKEND"] = "Agg"

LOOPBACK = "127.0.0.1"
"""The only address that a test may connect to, apart from sockets in the file system."""

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes that run tests at once
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that it starts
    torch.set_num_threads(1)

# The same examples every time, and no deadline: other processes share the cores.
settings.register_profile("s4gen", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("s4gen")


def pytest_collection() -> None:
    """Let the thousands of tests be found without looking for garbage, since none of them is."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from now on, but no more among modules and tests, which stay to the end."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("S4GEN_DATA"):
        return
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason="S4GEN_DATA is not set"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if mark := item.get_closest_marker("faults"):
        item.user_properties.append(("faults", mark.args[0]))


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Adds to the table of `make test-faults`; with several processes, what they add travels in their reports."""

    def add(row: str, tried: int, survived: int, remark: str = "", lost: int = 0) -> None:
        request.node.user_properties.append(("fault", [row, tried, survived, remark, lost]))

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of faults, where any were tried."""
    reports = [
        report
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call" or report.failed
    ]
    if rows := rows_of(reports):
        terminalreporter.section("faults")
        for line in table(rows):
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """PyTorch parts large products between its threads, which must not change how they are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _only_its_own_data(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("data"):
        monkeypatch.delenv("S4GEN_DATA", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, and its children inherit that: then no test could interrupt anything.

    With handlers in this process, the processes that it starts begin with the system's own.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own() -> Iterator[None]:
    """One for the session, so that the full CIFAR-10 is decoded once; with the engine, which takes long to compile."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        compiled = _compiled_engine()
        patch.delenv("S4GEN_CACHE", raising=False)
        patch.setenv("XDG_CACHE_HOME", folder)
        if compiled is not None:
            cache_folder().mkdir()
            (cache_folder() / compiled.name).symlink_to(compiled)
        yield


def _compiled_engine() -> Path | None:
    """The library of the native engine in the user's cache, for this processor; None where there is none."""
    try:
        path = Path(library()._name)
    except NativeUnavailable:
        return None
    return path if path.parent == cache_folder() else None


@pytest.fixture(autouse=True, scope="session")
def _unplugged() -> Iterator[None]:
    """What a machine without a network does; sockets between processes of this machine still work."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] != LOOPBACK:
            raise OSError(f"no network in tests: {address}")
        connect(self, address)

    def no_names(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in (LOOPBACK, LOOPBACK.encode()):
            return getaddrinfo(host, *args, **kwargs)
        raise socket.gaierror(socket.EAI_NONAME, f"no network in tests: {host}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        patch.setattr(socket, "getaddrinfo", no_names)
        yield
