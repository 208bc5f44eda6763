"""The worker: a thread that draws what is ordered, and a second one that reads prompts meanwhile.

Orders wait in a queue of bounded length until there is room for all of their rows, in the order in which they came.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor

from s4gen.errors import UserError
from s4gen.sampling.prompts import Start
from s4gen.serving.batch import Batch, Line
from s4gen.serving.limits import Limits
from s4gen.serving.metrics import Metrics
from s4gen.serving.orders import Order, Part
from s4gen.serving.refusal import RefusedError

LONGEST_WAIT = 60
"""Seconds that a client is told to wait at most before it asks again."""
STOPPING = "the server is stopping; ask again when it is back"


class Worker:
    """Draws the rows of all orders, from `start` to `stop`. Its methods may be called from any thread."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._changed = threading.Condition()  # guards everything below but the batches
        self._queue: deque[Order] = deque()
        self._under_way: set[Order] = set()
        self._read: deque[tuple[Order, Part, Start]] = deque()
        self._accepting, self._running = True, True
        self._seconds = 1.0  # a running mean of how long orders take
        self._batches: dict[Hashable, Batch] = {}  # only the worker's thread looks at them
        self._reader = ThreadPoolExecutor(1, "reading prompts")
        self._thread = threading.Thread(target=self._run, name="drawing", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def submit(self, order: Order) -> None:
        """Take an order. What is drawn, and the end, come in its channel.

        Raises:
            RefusedError: the queue is full, or the server is stopping.
        """
        with self._changed:
            if not self._accepting:
                raise RefusedError(503, STOPPING, code="stopping", retry=1)
            self._forget_closed()
            if len(self._queue) >= self._limits.queue:
                self._metrics.count("refused", reason="queue")
                wait = math.ceil(self._seconds * (1 + len(self._queue) / max(1, len(self._under_way))))
                raise RefusedError(
                    429,
                    f"{len(self._queue)} requests are waiting, which is as many as may; ask again later",
                    code="queue_full",
                    retry=min(max(1, wait), LONGEST_WAIT),
                )
            self._queue.append(order)
            self._admit()
            self._changed.notify()

    def wake(self) -> None:
        """Notice that somebody has closed the channel of an order."""
        with self._changed:
            self._forget_closed()
            self._changed.notify()

    def drain(self) -> None:
        """Take no more orders, and tell those that wait in the queue; the others go on."""
        with self._changed:
            self._accepting = False
            for order in self._queue:
                order.channel.close(RefusedError(503, STOPPING, code="stopping", retry=1))
            self._queue.clear()
            self._changed.notify()

    def end_all(self) -> None:
        """Tell every order under way that the server stops now."""
        with self._changed:
            for order in self._under_way:
                order.channel.close(
                    RefusedError(503, "the server has stopped before this was finished", code="stopping")
                )
            self._changed.notify()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        with self._changed:
            return not self._queue and not self._under_way

    def stop(self) -> None:
        """End all orders and both threads; return when they have ended."""
        self.drain()
        self.end_all()
        with self._changed:
            self._running = False
            self._changed.notify()
        self._reader.shutdown(wait=True, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join()

    def gauges(self) -> dict[str, int]:
        """Return how much is under way now: orders in the queue, orders and rows that are read and drawn."""
        with self._changed:
            return {"queue": len(self._queue), "orders": len(self._under_way), "rows": self._rows()}

    # The methods below are called with `_changed` held.

    def _rows(self) -> int:
        return sum(order.going for order in self._under_way)

    def _forget_closed(self) -> None:
        """Leave out the orders of the queue that nobody waits for any more."""
        if any(order.channel.closed for order in self._queue):
            self._queue = deque(order for order in self._queue if not order.channel.closed)

    def _admit(self) -> None:
        """Have the prompts read of the orders for which there is room now."""
        self._forget_closed()
        while self._queue and self._rows() + len(self._queue[0]) <= self._limits.rows:
            order = self._queue.popleft()
            self._under_way.add(order)
            order.unread = len(order.parts)
            for part in order.parts:
                self._reader.submit(self._read_part, order, part)

    # This one is called in the reader's thread.

    def _read_part(self, order: Order, part: Part) -> None:
        start: Start | None = None
        try:
            if not order.channel.closed:
                start = part.read()
        except UserError as error:
            order.channel.close(RefusedError(500, str(error), code="model_error"))
        except RefusedError as refusal:
            order.channel.close(refusal)
        except BaseException as error:
            self._failed([order], error)
        with self._changed:
            order.unread -= 1
            if start is not None:
                self._read.append((order, part, start))
            self._changed.notify()

    # The rest is called in the worker's thread.

    def _run(self) -> None:
        while self._take_in():
            for batch in list(self._batches.values()):
                self._advance(batch)
            self._tidy_up()

    def _take_in(self) -> bool:
        """Wait until there is something to do, and let rows join that have been read; return False at the end."""
        with self._changed:
            while self._running and not self._read and not self._batches and not self._finished():
                self._changed.wait()
            read, self._read = self._read, deque()
            running = self._running
        for order, part, start in read:
            try:
                self._join(order, part, start)
            except Exception as error:
                self._failed([order], error)
        return running

    def _join(self, order: Order, part: Part, start: Start) -> None:
        if not order.channel.closed:
            key: Hashable = (order.model, order.filters) if order.model.together else part
            if key not in self._batches:
                self._batches[key] = Batch(order.model.engine_for(order.filters))
            self._batches[key].join(order, part.rows, start)

    def _advance(self, batch: Batch) -> None:
        lines = batch.lines()
        try:
            drawn, seconds = batch.advance()
            for line, tokens in drawn:
                self._hand_out(line, tokens)
        except Exception as error:  # one row is no number, or there is no memory: no row of this session can go on
            self._failed({line.order for line in lines}, error)
            return
        if drawn:
            self._metrics.stepped(len(drawn[0][1]), seconds)

    def _hand_out(self, line: Line, tokens: list[int]) -> None:
        used = line.row.take(tokens[: line.row.left], line.order.channel)
        self._metrics.count("tokens", used, model=line.order.model.name)

    def _failed(self, orders: set[Order] | list[Order], error: BaseException) -> None:
        known = isinstance(error, UserError)
        if not known:  # a bug: the client is told so, and whoever runs the server sees where
            traceback.print_exception(error, file=sys.stderr)
        message = str(error) if known else f"an error in s4gen ({type(error).__name__}); the server has printed it"
        for order in orders:
            order.channel.close(RefusedError(500, message, code="model_error" if known else "internal_error"))

    def _finished(self) -> list[Order]:
        """Return the orders that are done with, and not read any more."""
        return [order for order in self._under_way if not order.unread and (order.channel.closed or not order.going)]

    def _tidy_up(self) -> None:
        """Close the channels of orders that have ended, drop empty batches, and let others in."""
        self._batches = {key: batch for key, batch in self._batches.items() if len(batch)}
        with self._changed:
            for order in self._finished():
                if not order.channel.closed:
                    self._seconds += 0.1 * (time.monotonic() - order.came - self._seconds)
                order.channel.close()
                self._under_way.discard(order)
            self._admit()
