"""Answers: JSON, and streams that end when their client goes, does not read, or has waited long enough."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from s4gen.serving.orders import Order
from s4gen.serving.refusal import RefusedError
from s4gen.serving.state import State, state_of

T = TypeVar("T")

GONE = 499
"""The status, which nobody receives, under which a request is counted whose client has gone."""


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer that is one JSON value."""
    content = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    return Response(content, status, headers, "application/json")


def refused(refusal: RefusedError) -> Response:
    """Return the answer to a request that is not carried out."""
    return as_json(refusal.body(), refusal.status, refusal.headers())


def server_sent(value: Any) -> bytes:
    """Return one event of a stream of events (text/event-stream) that holds a JSON value."""
    return (
        b"data: "
        + json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
        + b"\n\n"
    )


DONE = b"data: [DONE]\n\n"
"""The last event of a stream, as OpenAI ends them."""


async def collected(request: Request, order: Order, collect: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Order, and return what `collect` makes of the events; the order is given up if the client goes, or time is out.

    Raises:
        RefusedError: the order is not carried out, or not to its end.
    """
    state = state_of(request)
    state.worker.submit(order)
    try:
        async with asyncio.timeout(state.limits.timeout):
            return await _unless_gone(request.receive, collect())
    except TimeoutError:
        raise _too_long(state) from None
    finally:
        _give_up(state, order)


class Stream(Response):
    """An answer that is sent while it is drawn. The order is given when this object is made.

    Raises:
        RefusedError: the order is not taken.
    """

    def __init__(
        self,
        request: Request,
        order: Order,
        pieces: Callable[[], AsyncIterator[bytes]],
        media_type: str,
        failed: Callable[[RefusedError], bytes] | None = None,
    ) -> None:
        """Take the pieces of the answer.

        Args:
            request: the request.
            order: what it orders.
            pieces: returns the pieces; its iterator may raise RefusedError.
            media_type: what the pieces are.
            failed: what is sent last where the order was not carried out to its end; without it the stream breaks off.
        """
        super().__init__(None, 200, {"x-accel-buffering": "no"}, media_type)
        del self.headers["content-length"]
        self._state, self._order, self._pieces, self._failed = state_of(request), order, pieces, failed
        self._state.worker.submit(order)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        timeout = self._state.limits.timeout
        try:
            sending = asyncio.create_task(self._send(scope, receive, send))
            ends = [sending, asyncio.create_task(_gone(receive)), asyncio.create_task(self._dropped())]
            try:
                await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done() and not ends[1].done() and not ends[2].done():
                    self._order.channel.close(_too_long(self._state))
                    await asyncio.wait(ends, timeout=self._state.limits.stall, return_when=asyncio.FIRST_COMPLETED)
                whole = sending.done() and sending.result()
            finally:
                for task in ends:
                    task.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
            if not whole:
                self._state.metrics.count("dropped")
                self._state.hang_up(scope)
        finally:
            _give_up(self._state, self._order)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Send the pieces; return whether the client has the answer as a whole, or was told why not.

        Nothing is sent before the first piece is there, so that a failure before it still has its own status.
        """
        begun = False

        async def piece(content: bytes, more: bool = True) -> None:
            nonlocal begun
            if not begun:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            begun = True
            await send({"type": "http.response.body", "body": content, "more_body": more})

        try:
            async for content in self._pieces():
                await piece(content)
        except RefusedError as refusal:
            if not begun:
                await refused(refusal)(scope, receive, send)
                return True
            if self._failed is None:
                return False
            await piece(self._failed(refusal))
        await piece(b"", more=False)
        return True

    async def _dropped(self) -> None:
        """Return when the client is found not to read, which a `send` that waits for it cannot notice."""
        channel = self._order.channel
        await channel.broken.wait()
        if channel.failure is None or channel.failure.code != "slow_client":
            await asyncio.Event().wait()


async def _gone(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class ClientGoneError(Exception):
    """The client has gone, so that nothing needs to be answered."""


async def _unless_gone(receive: Receive, wanted: Awaitable[T]) -> T:
    """Return what `wanted` returns.

    Raises:
        ClientGoneError: the client has gone before that.
    """
    own, gone = asyncio.ensure_future(wanted), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait([own, gone], return_when=asyncio.FIRST_COMPLETED)
        if own.done():
            return own.result()
        raise ClientGoneError
    finally:
        for task in (own, gone):
            task.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.gather(own, gone, return_exceptions=True)


def _give_up(state: State, order: Order) -> None:
    order.channel.close()
    state.worker.wake()


def _too_long(state: State) -> RefusedError:
    return RefusedError(
        504, f"it took longer than {state.limits.timeout:g} s, which a request may take", code="timeout"
    )
