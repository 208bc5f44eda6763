"""The data that one step reads, and the losses that a model has on them."""

from __future__ import annotations

import dataclasses
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor

from s4gen.models.density import DensityModel
from s4gen.models.predictor import Predictor
from s4gen.models.states import detached, map_tensors


@dataclass(frozen=True)
class Batch(ABC):
    """Rows of tensors side by side. Every field is a tensor whose first axis is the rows, or None."""

    @property
    @abstractmethod
    def read(self) -> Tensor:
        """The inputs of the model, (B, L) or (B, L, C)."""

    @property
    def counted(self) -> Tensor | None:
        """bool, of the shape of the losses: those that count; None if all do."""
        return None

    @abstractmethod
    def losses(self, model: Any, state: Any) -> tuple[Tensor, Any]:
        """Return the losses r(B, ...) of the model after `state`, and, if rows go on in the next step, the state."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.read)

    @property
    def length(self) -> int:
        """How many positions a row has, padding included."""
        return self.read.shape[1]

    def parts(self, n: int) -> list[Self]:
        """Cut the batch into at most n parts whose numbers of rows differ by 1 at most."""
        count = min(n, self.rows)
        columns = [[None] * count if x is None else x.tensor_split(count) for x in self._tensors()]
        return [type(self)(*part) for part in zip(*columns, strict=True)]

    def chosen(self, rows: slice) -> Self:
        """Return some of the rows."""
        return self._map(lambda x: x[rows])

    def to(self, device: Any) -> Self:
        """Return the batch on a device."""
        return self._map(lambda x: x.to(device))

    def _tensors(self) -> list[Tensor | None]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*(None if x is None else function(x) for x in self._tensors()))


@dataclass(frozen=True)
class TokenBatch(Batch):
    """Sequences for a density model. Their losses are nats, one for each token."""

    tokens: Tensor
    """int64 (B, L): whole sequences or, if there is a target, the tokens that are fed."""
    target: Tensor | None = None
    """int64 (B, L): the token that follows each token. Rows and model state then continue from step to step."""
    mask: Tensor | None = None
    """bool (B, L): the tokens whose loss counts; None if all do."""
    label: Tensor | None = None
    """int64 (B,): the classes, for a model that is conditional on them."""

    @property
    def read(self) -> Tensor:
        return self.tokens

    @property
    def counted(self) -> Tensor | None:
        return self.mask

    def losses(self, model: DensityModel, state: Any) -> tuple[Tensor, Any]:
        if self.target is None:
            return self._nats(model), None
        nats, after = model.score(self.tokens, self.target, state)
        return nats, detached(after)

    def _nats(self, model: DensityModel) -> Tensor:
        first = next(iter(model.blocks.parameters()), None)
        if self.label is None or not _is_sharded(first):
            return model.nats(self.tokens, self.label)
        # The initial state of a sharded model is made from its parameters, so it is sharded, too: make it whole first.
        state = map_tensors(_whole, model.initial_state(len(self.tokens), self.label))
        fed = F.pad(self.tokens[:, :-1], (1, 0), value=model.bos)
        return model.score(fed, self.tokens, state)[0]


@dataclass(frozen=True)
class ExampleBatch(Batch):
    """Rows for a predictor, and what it is to answer. There is one loss for each row."""

    inputs: Tensor
    """The inputs of the model's reader: r(B, L, C), or tokens int64 (B, L)."""
    target: Tensor
    """int64 (B,) classes, or float32 (B, out) standardised numbers."""
    lengths: Tensor | None = None
    """int64 (B,): where rows end; None if all have L positions."""

    @property
    def read(self) -> Tensor:
        return self.inputs

    def losses(self, model: Predictor, state: Any) -> tuple[Tensor, Any]:
        return model.losses(self.inputs, self.target, self.lengths), None


def _is_sharded(x: Any) -> bool:
    """Tell whether x is a DTensor, whose class takes a second to import: where nobody has, x is none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def _whole(x: Any) -> Tensor:
    """Return the whole of a sharded tensor, and any other tensor as it is."""
    return x.full_tensor() if _is_sharded(x) else x
