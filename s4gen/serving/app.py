"""Which address is answered by what."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from s4gen.errors import UserError
from s4gen.serving import completions, pictures, sounds
from s4gen.serving.guard import Guard
from s4gen.serving.limits import Limits
from s4gen.serving.metrics import Metrics
from s4gen.serving.refusal import RefusedError
from s4gen.serving.served import Served
from s4gen.serving.state import State, state_of
from s4gen.serving.streams import ClientGoneError, as_json, refused
from s4gen.serving.worker import Worker

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/panels.js": ("panels.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The files of the page, by their paths: no others are ever opened for a request."""

Answer = Callable[[Request, bytes], Awaitable[Response]]


def make_app(
    models: dict[str, Served], limits: Limits | None = None, *, loopback: bool = True, token: str | None = None
) -> tuple[ASGIApp, State]:
    """Return the app for these models, and what its requests share; its worker is to be started and stopped.

    Args:
        models: the models by name.
        limits: what requests may take; None: the usual.
        loopback: whether it is to answer to the names of this machine alone.
        token: what every request has to know; None: nothing.
    """
    limits, metrics = limits or Limits(), Metrics()
    state = State(models, Worker(limits, metrics), limits, metrics)
    routes = [
        Route("/v1/completions", _answered_by(completions.complete), methods=["POST"]),
        Route("/images", _answered_by(pictures.draw), methods=["POST"]),
        Route("/audio", _answered_by(sounds.draw), methods=["POST"]),
        Route("/v1/models", _models),
        Route("/v1/models/{name:path}", _model),
        Route("/healthz", _health),
        Route("/metrics", _metrics),
        *(Route(path, _file(*file)) for path, file in FILES.items()),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    app.state.shared = state
    return Guard(app, metrics, loopback=loopback, token=token), state


def _answered_by(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await answer(request, await _body(request))
        except RefusedError as refusal:
            return refused(refusal)
        except UserError as error:
            return refused(RefusedError(400, str(error)))
        except ClientDisconnect:
            raise ClientGoneError from None

    return endpoint


async def _body(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        RefusedError: it is longer than it may be; no more of it is then read.
    """
    most = state_of(request).limits.body
    refusal = RefusedError(
        413, f"the body has more than {most:,} bytes, which is what a request may have", code="too_large"
    )
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or int(said) > most:
        raise refusal
    body, stall = bytearray(), state_of(request).limits.stall
    try:
        async with asyncio.timeout(stall):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise refusal
    except TimeoutError:
        raise RefusedError(408, f"the body did not come within {stall:g} s", code="timeout") from None
    return bytes(body)


async def _models(request: Request) -> Response:
    models = state_of(request).models.values()
    return as_json({"object": "list", "data": [model.about() for model in models]})


async def _model(request: Request) -> Response:
    name, models = request.path_params["name"], state_of(request).models
    if name not in models:
        return refused(RefusedError(404, f"the models are: {', '.join(models)}", param="model", code="model_not_found"))
    return as_json(models[name].about())


async def _health(request: Request) -> Response:
    return as_json({"status": "ok"})


async def _metrics(request: Request) -> Response:
    state = state_of(request)
    content = state.metrics.text(state.worker.gauges())
    return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (PAGE / name).read_bytes()

    async def endpoint(request: Request) -> Response:
        return Response(content, headers={"content-type": kind})

    return endpoint


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {404: "there is nothing at this path", 405: "this path takes another method"}
    response = refused(RefusedError(error.status_code, told.get(error.status_code, error.detail)))
    response.headers.update(error.headers or {})
    return response
