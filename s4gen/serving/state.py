"""The state that all requests share: the models, the worker, the limits and the counters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Scope

from s4gen.serving.limits import Limits
from s4gen.serving.metrics import Metrics
from s4gen.serving.served import Served
from s4gen.serving.worker import Worker


def _stay(scope: Scope) -> None:
    """Do nothing: without a server there is no connection to close."""


@dataclass
class State:
    """The state that all requests share."""

    models: dict[str, Served]
    worker: Worker
    limits: Limits
    metrics: Metrics
    hang_up: Callable[[Scope], None] = _stay
    """Closes the connection of a request at once, whatever was not sent yet."""


def state_of(request: Request) -> State:
    """Return what the request shares with all others."""
    found: State = request.app.state.shared
    return found
