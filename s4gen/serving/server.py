"""The server: its socket, its signals and its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from s4gen.errors import UserError
from s4gen.serving.state import State
from s4gen.serving.watching import Watch

BACKLOG = 128
SENT_AHEAD = 1 << 17
"""Bytes that the system takes for a client that does not read; without a bound it would take megabytes."""
CONNECTIONS = 512
"""Connections at a time; on one more, a request is answered with 503."""
HEADER = 1 << 14
"""Bytes that the head of a request may have."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at this address; port 0 is one that is free.

    Raises:
        UserError: the port is in use or reserved, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: there is no such address ({error}); expected one of this machine") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_AHEAD)
        found.bind(address)
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        where = f"cannot listen on {host}, port {port}"
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"{where}: another program does; choose another with --port, 0 for any") from None
        raise UserError(f"{where}: {error.strerror}") from None
    found.setblocking(False)
    return found


def address_of(found: socket.socket) -> str:
    """Return the address of the page."""
    host, port = found.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to us: it would raise them again at its end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


_NO_NEWS = ("ASGI callable returned without completing response", "socket.send() raised exception")
"""Messages of uvicorn and asyncio about clients that have gone, and of streams that are ended on purpose."""


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out what says that a client is gone, or that a stream ended early: both are usual, and are in /metrics."""
    return not record.getMessage().startswith(_NO_NEWS)


def serve(app: ASGIApp, state: State, listening: socket.socket, ready: Callable[[], None]) -> int:
    """Answer requests until a signal comes, then let those under way end; return the number of the signal.

    `ready` is called once requests are answered. A second signal ends everything at once.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        backlog=BACKLOG,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEADER,
    )
    server = _Server(config)
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    state.worker.start()
    try:
        return asyncio.run(_serve(server, state, listening, ready))
    finally:
        state.worker.stop()


async def _serve(server: _Server, state: State, listening: socket.socket, ready: Callable[[], None]) -> int:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        stopped.set()
        if len(received) > 1:
            state.worker.end_all()
            server.force_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell script has its background jobs ignore Ctrl-C, and that is to stay so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop, number)
    watch = Watch(server.server_state, state.limits.stall)
    state.hang_up = watch.hang_up
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    watching = asyncio.create_task(watch.run())
    ending = asyncio.create_task(stopped.wait())
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        ready()
        await asyncio.wait([serving, ending], return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            await _drained(server, state)
        await serving
    finally:
        watching.cancel()
        ending.cancel()
    return received[0] if received else signal.SIGTERM


async def _drained(server: _Server, state: State) -> None:
    """Stop accepting; wait until the requests under way have ended, or their time is over and they are told so."""
    worker, until = state.worker, time.monotonic() + state.limits.grace
    for listener in server.servers:
        listener.close()
    worker.drain()
    if not worker.idle:
        under_way = worker.gauges()["orders"]
        print(f"s4gen: finishing {under_way} of the requests, for {state.limits.grace:g} s at most", file=sys.stderr)
    while not worker.idle and time.monotonic() < until and not server.force_exit:
        await asyncio.sleep(0.02)
    worker.end_all()
    server.should_exit = True
