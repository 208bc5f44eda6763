"""Share the work of a step, and what a run remembers, among the ranks. There are three ways:

    Whole     one process does everything
    Copies    each rank has the whole model and a share of the rows; gradients are added up (DistributedDataParallel)
    Shards    each rank also has only a part of each parameter, gradient, running mean and moment (s4gen.train.shards)

In all three the loss of a step is the mean over the whole batch, and the gradient is that of this mean.
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
from torch.nn.parallel import DistributedDataParallel

from s4gen.config import OptimConfig
from s4gen.models.build import AnyModel
from s4gen.train.batches import Batch
from s4gen.train.optim import build_optimizers
from s4gen.train.ranks import Ranks
from s4gen.train.stop import StopRequest

_ROUNDS = 3
"""How many passes without messages are timed, after one that warms up. The fastest counts."""


class Loss(nn.Module):
    """The loss of a part of a batch: its share in the mean over all losses of the batch that count.

    It is a module because DistributedDataParallel and fully_shard wrap modules, and their hooks run in `forward`.
    """

    def __init__(self, model: AnyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, part: Batch, state: Any, share: float | Tensor) -> tuple[Tensor, Any]:
        """Return the loss and, if rows go on in the next step, the state after the part, without its gradients.

        `share` is the part's share in the batch, 0 to 1, by which its mean is weighted. With a mask (`part.counted`) it
        is the number of losses that count in the whole batch, because parts may hold unequally many.
        """
        losses, after = part.losses(self.model, state)
        if part.counted is None:
            return losses.mean() * share, after
        return torch.where(part.counted, losses, 0).sum() / share, after


class Whole:
    """The work of a step in one process, and the interface of the other two ways."""

    def __init__(self, model: AnyModel, ranks: Ranks | None = None) -> None:
        self.model, self.ranks = model, ranks or Ranks(device=model.device)
        self._loss: nn.Module = Loss(model)
        self.stop_request: StopRequest | None = None
        """True once a signal has asked this rank to stop; None before the loop."""
        self.exchange = 0.0
        """Seconds from the beginning of the last step to its last message."""
        self._began = 0.0

    @property
    def must_stop(self) -> bool:
        """Whether the run is to stop now; all ranks give the same answer."""
        return bool(self.stop_request)

    def parameters(self) -> dict[str, Tensor]:
        """Return what the optimisers change, by the model's names; the running mean has the same names and shapes."""
        return dict(self.model.named_parameters())

    def optimizers(self, config: OptimConfig, precision: str) -> list[torch.optim.Optimizer]:
        """Return the optimisers of `parameters`."""
        return build_optimizers(self.model, config, precision)

    def begin(self, seed: int, step: int) -> None:
        """Prepare for a step. One process does nothing: its random numbers continue, and are in checkpoints."""

    def parts(self, batch: Batch, n: int) -> list[Batch]:
        """Return this rank's rows of a batch, in at most n parts."""
        return batch.parts(n)

    def loss(self, part: Batch, state: Any, batch: Batch) -> tuple[Tensor, Any]:
        """Return what a part contributes to the batch's mean loss, and the state after it (None without a target)."""
        share = part.rows / batch.rows if batch.counted is None else batch.counted.sum()
        found: tuple[Tensor, Any] = self._loss(part, state, share)
        return found

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to the gradients of the parameters."""
        loss.backward()

    def exchanging(self, last: bool) -> AbstractContextManager[Any]:
        """Return a context for `loss` and `backward` of a part; ranks exchange gradients only for the last part."""
        return contextlib.nullcontext()

    def clip(self, most: float) -> float:
        """Scale the gradient to a norm of at most `most`; return the norm that it had."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), most).item()

    def agree(self, loss: float) -> float:
        """Return the loss summed over all ranks; the same message tells them whether one is to stop."""
        return loss

    def whole(self, parts: Mapping[str, Tensor], everywhere: bool = True) -> dict[str, Tensor]:
        """Return whole tensors from the parts on all ranks. Unless `everywhere`, only rank 0 gets any."""
        return dict(parts) if everywhere or self.ranks.leads else {}

    def part(self, name: str, tensor: Tensor) -> Tensor:
        """Return this rank's part of a whole tensor that belongs to the parameter `name`."""
        return tensor

    def apart_seconds(self, batch: Batch, states: Sequence[Any], accumulate: int, precision: str) -> float | None:
        """Measure the seconds that this rank's gradient takes without messages; None if that cannot be measured."""
        return None


class Copies(Whole):
    """Each rank has the whole model and computes the gradient of its rows; the gradients are added up."""

    def __init__(self, model: AnyModel, ranks: Ranks) -> None:
        super().__init__(model, ranks)
        self._stops = False
        self._wrap()

    def _wrap(self) -> None:
        with warnings.catch_warnings():  # torch 2.13 has another name for broadcast_buffers, which 2.11 does not know
            warnings.simplefilter("ignore", FutureWarning)
            self._wrapped = DistributedDataParallel(self._loss, broadcast_buffers=False, gradient_as_bucket_view=True)

    @property
    def must_stop(self) -> bool:
        return self._stops

    def begin(self, seed: int, step: int) -> None:
        """Seed the random numbers from seed, step and rank, so that dropout is the same in a run that was resumed.

        A checkpoint holds the state of rank 0's generators alone, and may be resumed by another number of ranks.
        """
        # The large odd numbers keep the seeds of neighbouring steps and ranks apart.
        self._began = time.perf_counter()
        torch.manual_seed((seed * 1_000_003 + step) * 1_000_033 + self.ranks.rank & (1 << 63) - 1)

    def parts(self, batch: Batch, n: int) -> list[Batch]:
        return batch.chosen(self.ranks.rows(batch.rows)).parts(n)

    def loss(self, part: Batch, state: Any, batch: Batch) -> tuple[Tensor, Any]:
        share = part.rows / batch.rows if batch.counted is None else batch.counted.sum()
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

    def agree(self, loss: float) -> float:
        total, stopping = self.ranks.totals(loss, float(bool(self.stop_request)))
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
                    with torch.autocast(batch.read.device.type, torch.bfloat16, enabled=precision == "bf16"):
                        loss, _ = self.loss(part, states[i] if states else None, batch)
                    self.backward(loss)
                loss.item()  # the device has finished
            times.append(time.perf_counter() - began)
        self.model.zero_grad(set_to_none=True)
        return min(times[1:])
