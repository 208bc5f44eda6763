"""Tiny models that are served, in this process and without a socket, and what asks them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import torch
from engines import shaken
from tiny_audio import sounding_model

from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig, TextLayout
from s4gen.data.text import ByteTokenizer
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.sampling.convert import convert
from s4gen.sampling.engines import make_engine
from s4gen.serving.app import make_app
from s4gen.serving.limits import Limits
from s4gen.serving.served import Served
from s4gen.serving.state import State

T = TypeVar("T")

SIZE: dict[str, Any] = {"d_model": 6, "n_layers": 1, "d_ff": 10}
SSM = SSMConfig(d_state=4, init="lin", dt_min=0.01, dt_max=0.5)
TOKENIZER = ByteTokenizer()
CLASSES = ("cat", "dog", "owl")


def text_model(mixer: str = "s4d") -> DensityModel:
    """A model of bytes."""
    torch.manual_seed(0)
    assert TOKENIZER.eos is not None
    layout = TextLayout(TOKENIZER.vocab, TOKENIZER.eos, length=64)
    ssm = SSMConfig(d_state=4) if mixer == "lssl" else SSM
    return shaken(build_model(DensityConfig(layout, ModelConfig(mixer, **SIZE, n_heads=2, window=8), ssm)))


def image_model(classes: tuple[str, ...] = (), channels: int = 1) -> DensityModel:
    """A model of small images of 11 levels."""
    torch.manual_seed(0)
    layout = ImageLayout(height=6, width=5, channels=channels, levels=11, classes=classes)
    return shaken(build_model(DensityConfig(layout, ModelConfig("s4d", **SIZE), SSM)))


def served(name: str, model: DensityModel, engine: str = "auto") -> Served:
    """Return a model as it is served."""
    recurrent = convert(model)
    tokenizer = TOKENIZER if model.config.layout.kind == "text" else None
    return Served(name, recurrent, make_engine(engine, recurrent), tokenizer, ending=0)


def all_kinds() -> dict[str, Served]:
    """Return a model of each kind, by name."""
    models = [
        served("words", text_model()),
        served("grey", image_model()),
        served("animals", image_model(CLASSES, channels=3)),
        served("digits", sounding_model("s4d")),
    ]
    return {model.name: model for model in models}


class Site:
    """An app with its worker, for `with Site(..) as site:`; it is asked by `site.post(..)` and the like."""

    def __init__(self, models: dict[str, Served] | None = None, limits: Limits | None = None, **guarding: Any) -> None:
        self.app, self.state = make_app(all_kinds() if models is None else models, limits, **guarding)

    def __enter__(self) -> Site:
        self.state.worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.state.worker.stop()

    def run(self, work: Callable[[httpx.AsyncClient, State], Awaitable[T]]) -> T:
        """Run a coroutine that asks by itself."""

        async def running() -> T:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                return await asyncio.wait_for(work(client, self.state), 60)

        return asyncio.run(running())

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(lambda client, _: client.request(method, path, **options))

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, content=content, **options)

    def whole(self, path: str, body: Any) -> Any:
        """Return the JSON of an answer that has to be one."""
        answer = self.post(path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, path: str, body: Any) -> list[Any]:
        """Return the values of a stream of events, which has to end as it should."""
        answer = self.post(path, {**body, "stream": True})
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream"), answer.text
        return events_in(answer.content)


def events_in(content: bytes) -> list[Any]:
    """Return the values of a stream of events, which has to end as it should."""
    *pieces, done, rest = content.decode().split("\n\n")
    assert done == "data: [DONE]" and rest == ""
    return [json.loads(piece.removeprefix("data: ")) for piece in pieces]
