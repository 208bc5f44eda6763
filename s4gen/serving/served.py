"""A model that is served: its converted form, what its sequences mean, and its engines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4gen.checkpoint import Checkpoint, load_checkpoint
from s4gen.config import AudioLayout, DensityConfig, TextLayout
from s4gen.config.names import PLURAL
from s4gen.data.audio import format_of
from s4gen.data.text import Tokenizer
from s4gen.errors import UserError
from s4gen.machine.device import best_device
from s4gen.models.states import leaves
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.converted import recurrent_of
from s4gen.sampling.engines import Engine, make_engine
from s4gen.sampling.engines.native import NativeEngine
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.prompts import Starts, checked_prompt


@dataclass(eq=False)
class Served:
    """A model that is served. Nothing in it changes, so every thread may use it."""

    name: str
    """The name by which requests ask for it."""
    recurrent: RecurrentModel
    engine: Engine
    """The engine without filters."""
    tokenizer: Tokenizer | None = None
    """The tokeniser of a model of text; None for the others."""
    ending: int = 0
    """Samples of silence that end a clip; 0: nothing ends it."""
    parameters: int = 0
    since: int = field(default_factory=lambda: int(time.time()))
    """When it was loaded, in seconds since 1970."""

    @property
    def config(self) -> DensityConfig:
        """The configuration of the model."""
        return self.recurrent.config

    @property
    def kind(self) -> str:
        """The kind of its sequences: "image", "text" or "audio"."""
        return self.config.layout.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that it is conditional on; empty if there are none."""
        return getattr(self.config.layout, "classes", ())

    @cached_property
    def together(self) -> bool:
        """Whether rows at different positions can be drawn in one session.

        A cache that grows has the same length for all of its rows, and a number in a state is the same for all.
        """
        tensors = all(isinstance(leaf, Tensor) for leaf in leaves(self.recurrent.initial_state(1)))
        return tensors and self.config.model.traits.state != "growing"

    def engine_for(self, filters: Filters) -> Engine:
        """Return an engine with these filters, which shares its weights with all others of this model."""
        if filters == self.engine.filters:
            return self.engine
        if isinstance(self.engine, NativeEngine) and not filters.eager_only:
            return self.engine.with_filters(filters)
        return make_engine("eager", self.recurrent, filters)

    def about(self) -> dict[str, Any]:
        """Return what `GET /v1/models` says of it: OpenAI's fields, and what the page has to know."""
        layout = self.config.layout
        found = {"id": self.name, "object": "model", "created": self.since, "owned_by": "s4gen", "kind": layout.kind}
        found |= {"parameters": self.parameters, "classes": list(self.classes), "engine": self.engine.name}
        for key in ("height", "width", "channels", "levels", "rate", "vocab"):
            if hasattr(layout, key):
                found[key] = getattr(layout, key)
        return found


def served(checkpoint: Checkpoint, name: str, engine: str = "auto") -> Served:
    """Return a checkpoint as a model that is served under a name.

    Raises:
        UserError: its tokeniser is missing or damaged, or there is no such engine.
    """
    recurrent = recurrent_of(checkpoint).to(best_device())
    layout = checkpoint.config.layout
    tokenizer = checkpoint.tokenizer() if isinstance(layout, TextLayout) else None
    tail = 0.0 if checkpoint.recipe is None else checkpoint.recipe.data.tail
    ending = round(tail / 2 * format_of(layout).rate) if isinstance(layout, AudioLayout) else 0
    parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    return Served(name, recurrent, make_engine(engine, recurrent, KEEP_ALL), tokenizer, ending, parameters)


def load_all(arguments: list[str], engine: str = "auto") -> dict[str, Served]:
    """Load the models of these arguments, each `CHECKPOINT` or `NAME=CHECKPOINT`; return them by name.

    Without a name, a model is called like its folder.

    Raises:
        UserError: one is missing, damaged or no density model; or two have one name.
    """
    found: dict[str, Served] = {}
    for argument in arguments:
        given, sign, place = argument.partition("=")
        if not sign or Path(argument).exists():
            given, place = "", argument
        elif not given:
            raise UserError(f"{argument} has no name before the =: write NAME={place}, or {place} alone")
        checkpoint = load_checkpoint(place)
        name = given or checkpoint.path.resolve().name
        if name in found:
            raise UserError(f"two models are called {name}; give one of them another name: NAME={place}")
        found[name] = served(checkpoint, name, engine)
        warm_up(found[name])
    return found


def warm_up(model: Served) -> None:
    """Draw a token for a few rows, so that the first request does not wait for what is measured and made only once.

    Raises:
        UserError: the model's output is not a finite number.
    """
    recurrent, n = model.recurrent, 8  # rows from which on the native engine times its layouts
    start = Starts(recurrent, checked_prompt(recurrent, n, None)).of(range(n))
    model.engine.begin(start.state).advance(start.token, torch.full((n, 1), 0.5, dtype=torch.float64))


def chosen(models: dict[str, Served], name: str | None, kind: str) -> Served | str:
    """Return the model of this name; without a name, the only one of its kind; or why there is none."""
    fitting = [model for model in models.values() if model.kind == kind]
    names = ", ".join(model.name for model in fitting) or "none"
    if name is None:
        if len(fitting) == 1:
            return fitting[0]
        return f"model is missing; the models of {PLURAL[kind]} are: {names}"
    if name not in models:
        return f"there is no model {name!r}; the models of {PLURAL[kind]} are: {names}"
    if models[name].kind != kind:
        return f"{name} is a model of {PLURAL[models[name].kind]}; the models of {PLURAL[kind]} are: {names}"
    return models[name]
