"""How the work of a step, and what a run remembers, is spread over the ranks.

    Whole     one process: everything here; a step is what it is without this module
    Copies    every rank has the whole model and a share of the rows; gradients are added up (DistributedDataParallel)
    Shards    every rank has a part of each parameter, of its gradient, running mean and moments, too (fully_shard)

In all of them the loss of a step is the mean over the whole batch, and so is its gradient.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from s4gen.config import OptimConfig
from s4gen.models.density import DensityModel
from s4gen.models.states import detached, map_tensors
from s4gen.train.optim import build_optimizers
from s4gen.train.ranks import Ranks
from s4gen.train.stop import StopRequest
from s4gen.train.tasks import Batch

_ROUNDS = 3
"""Forward and backward passes without messages whose time is measured, after one that warms up; the best one counts."""


class Loss(nn.Module):
    """The share that a part has in the mean over a batch's tokens that count, as a module, which ranks can wrap."""

    def __init__(self, model: DensityModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, part: Batch, state: Any, share: float | Tensor) -> tuple[Tensor, Any]:
        """Return the loss and, where the batch has a target, the state after it without its gradients.

        `share` is what the mean over the part counts for; with a mask it is the number of tokens that count in the
        whole batch.
        """
        if part.target is None:
            nats, after = self._nats(part), None
        else:
            nats, after = self.model.score(part.tokens, part.target, state)
            after = detached(after)
        if part.counted is None:
            return nats.mean() * share, after
        return torch.where(part.counted, nats, 0).sum() / share, after

    def _nats(self, part: Batch) -> Tensor:
        first = next(iter(self.model.blocks.parameters()), None)
        if part.label is None or not isinstance(first, DTensor):
            return self.model.nats(part.tokens, part.label)
        # The first state of a sharded model is zeros like its parameters, and thereby sharded as well.
        state = map_tensors(_whole, self.model.initial_state(len(part.tokens), part.label))
        fed = nn.functional.pad(part.tokens[:, :-1], (1, 0), value=self.model.bos)
        return self.model.score(fed, part.tokens, state)[0]


class Whole:
    """The work of a step in one process."""

    def __init__(self, model: DensityModel, ranks: Ranks | None = None) -> None:
        self.model, self.ranks = model, ranks or Ranks(device=model.device)
        self._loss: nn.Module = Loss(model)
        self.stop: StopRequest | None = None
        """Whether somebody wants this rank to stop."""
        self.exchange = 0.0
        """Seconds from the first gradient of the last step to its last message."""
        self._began = 0.0

    @property
    def stops(self) -> bool:
        """Whether the run is to stop after the steps that are done; the same on all ranks."""
        return bool(self.stop)

    def parameters(self) -> dict[str, Tensor]:
        """Return what the optimisers change and what has a running mean, by the model's names."""
        return dict(self.model.named_parameters())

    def optimizers(self, config: OptimConfig, precision: str) -> list[torch.optim.Optimizer]:
        """Make the optimisers of `parameters`."""
        return build_optimizers(self.model, config, precision)

    def begin(self, seed: int, step: int) -> None:
        """Prepare for a step. One process goes on with the random numbers where it is."""

    def parts(self, batch: Batch, n: int) -> list[Batch]:
        """Return the rows of this rank in at most n parts."""
        return batch.parts(n)

    def loss(self, part: Batch, state: Any, batch: Batch) -> tuple[Tensor, Any]:
        """Return the share of a part in the batch's mean loss, and the state after it."""
        share = len(part.tokens) / len(batch.tokens) if batch.counted is None else batch.counted.sum()
        found: tuple[Tensor, Any] = self._loss(part, state, share)
        return found

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of what `loss` returned to that of the parameters."""
        loss.backward()

    def exchanging(self, last: bool) -> AbstractContextManager[Any]:
        """Surround `loss` and `backward` of a part; gradients go from rank to rank with the last one."""
        return contextlib.nullcontext()

    def clip(self, most: float) -> float:
        """Scale the whole gradient to a norm of at most `most`; return its norm before."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), most).item()

    def agree(self, nats: float) -> float:
        """Return the loss of all ranks, and let all of them know who wants to stop."""
        return nats

    def whole(self, parts: Mapping[str, Tensor], everywhere: bool = True) -> dict[str, Tensor]:
        """Return whole tensors from what this rank has of them; if not `everywhere`, at rank 0 alone, else {}."""
        return dict(parts) if everywhere or self.ranks.leads else {}

    def part(self, name: str, tensor: Tensor) -> Tensor:
        """Return what this rank has of a whole tensor that belongs to the parameter `name`."""
        return tensor

    def apart_seconds(self, batch: Batch, states: Sequence[Any], accumulate: int, precision: str) -> float | None:
        """Return how long the gradient of this rank's rows takes without any message; None where that is unknown."""
        return None


class Copies(Whole):
    """Every rank has the whole model and computes the gradient of its rows; the gradients are added up."""

    def __init__(self, model: DensityModel, ranks: Ranks) -> None:
        super().__init__(model, ranks)
        self._stops = False
        self._wrap()

    def _wrap(self) -> None:
        with warnings.catch_warnings():  # torch 2.13 has another name for broadcast_buffers, which 2.11 does not know
            warnings.simplefilter("ignore", FutureWarning)
            self._wrapped = DistributedDataParallel(self._loss, broadcast_buffers=False, gradient_as_bucket_view=True)

    @property
    def stops(self) -> bool:
        return self._stops

    def begin(self, seed: int, step: int) -> None:
        """Seed the random numbers by seed, step and rank, so that dropout is the same however often a run resumes."""
        # The large odd numbers keep the seeds of neighbouring steps and ranks apart.
        self._began = time.perf_counter()
        torch.manual_seed((seed * 1_000_003 + step) * 1_000_033 + self.ranks.rank & (1 << 63) - 1)

    def parts(self, batch: Batch, n: int) -> list[Batch]:
        columns = (batch.tokens, batch.target, batch.counted, batch.label)
        own = self.ranks.rows(len(batch.tokens))
        return Batch(*(x if x is None else x[own] for x in columns)).parts(n)  # type: ignore[arg-type]

    def loss(self, part: Batch, state: Any, batch: Batch) -> tuple[Tensor, Any]:
        share = len(part.tokens) / len(batch.tokens) if batch.counted is None else batch.counted.sum()
        found: tuple[Tensor, Any] = self._wrapped(part, state, share)
        return found

    def backward(self, loss: Tensor) -> None:
        # DistributedDataParallel divides by the number of ranks, where the shares of a mean are to be added.
        (loss * self.ranks.world).backward()

    def exchanging(self, last: bool) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if last else self._silent()

    def _silent(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._wrapped.no_sync()
        return context

    def agree(self, nats: float) -> float:
        total, stopping = self.ranks.totals(nats, float(bool(self.stop)))
        self._stops = stopping > 0
        self.exchange = time.perf_counter() - self._began
        return total

    def apart_seconds(self, batch: Batch, states: Sequence[Any], accumulate: int, precision: str) -> float | None:
        times = []
        for _ in range(1 + _ROUNDS):
            self.ranks.wait()
            began = time.perf_counter()
            for i, part in enumerate(self.parts(batch, accumulate)):
                with self._silent():
                    with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=precision == "bf16"):
                        loss, _ = self.loss(part, states[i] if states else None, batch)
                    self.backward(loss)
                loss.item()  # the device has finished
            times.append(time.perf_counter() - began)
        self.model.zero_grad(set_to_none=True)
        return min(times[1:])


def _whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x
