"""Connections on which nothing moves are closed: those that ask nothing, and those that nobody reads from."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.types import Scope
from uvicorn.server import ServerState

EVERY = 0.5
"""Seconds between two looks."""


class Watch:
    """Looks at all connections of a server, and closes those on which nothing has moved for too long.

    A request that is waited for, and one that is answered, may take longer: they have a timeout of their own.
    """

    def __init__(self, server: ServerState, stall: float) -> None:
        """Watch a server's connections, of which each may stand still for `stall` seconds."""
        self._server, self._stall = server, stall
        self._since: dict[Any, tuple[int, float]] = {}  # what waits to be sent, and since when it is so much

    async def run(self) -> None:
        """Look again and again, until this is cancelled."""
        while True:
            await asyncio.sleep(min(EVERY, self._stall))
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Close what has stood still, at the time `now`."""
        standing = {}
        for connection in list(self._server.connections):
            unsent = connection.transport.get_write_buffer_size()
            if not unsent and not _asks_nothing(connection):
                continue
            before, since = self._since.get(connection, (-1, now))
            standing[connection] = (unsent, since if before == unsent else now)
            if before == unsent and now - since >= self._stall:
                connection.transport.abort()
        self._since = standing

    def hang_up(self, scope: Scope) -> None:
        """Close the connection of a request at once, and drop what was not sent yet."""
        connections: list[Any] = list(self._server.connections)
        for connection in connections:
            if connection.client == scope["client"]:
                connection.transport.abort()


def _asks_nothing(connection: Any) -> bool:
    """Return whether there is no request on the connection that has not been answered."""
    return connection.cycle is None or connection.cycle.response_complete
