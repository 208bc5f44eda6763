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
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from s4gen.config import OptimConfig
from s4gen.models.blocks import Block
from s4gen.models.density import DensityModel
from s4gen.models.states import detached, map_tensors
from s4gen.models.wavenet import GatedConvolution
from s4gen.train.muon import Muon, orthogonal
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


class Shards(Copies):
    """Every rank has a part of the rows of each parameter; the whole ones are there for as long as a block computes.

    Optimisers, clipping and running mean work on plain tensors, which share their memory with the parts.
    """

    def __init__(self, model: DensityModel, ranks: Ranks) -> None:
        self._sizes = {name: parameter.shape for name, parameter in model.named_parameters()}
        super().__init__(model, ranks)

    def _wrap(self) -> None:
        # The state that a block returns may be a view, as the warning says; nothing here changes it in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
        mesh = init_device_mesh(self.ranks.device.type, (self.ranks.world,))
        for module in self.model.modules():
            if isinstance(module, Block | GatedConvolution):
                fully_shard(module, mesh=mesh)
        fully_shard(self._loss, mesh=mesh)
        for module in self._loss.modules():
            if isinstance(module, FSDPModule):  # gloo has no mean, and shares of a mean are to be added
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)
        self._wrapped = self._loss  # type: ignore[assignment]
        self._own: dict[str, Tensor] = {
            name: nn.Parameter(parameter.detach().to_local())  # type: ignore[attr-defined]
            for name, parameter in self.model.named_parameters()
        }

    def parameters(self) -> dict[str, Tensor]:
        return self._own

    def optimizers(self, config: OptimConfig, precision: str) -> list[torch.optim.Optimizer]:
        sizes = {id(self._own[name]): size for name, size in self._sizes.items()}

        def muon(*args: Any, **settings: Any) -> Muon:
            return _ShardedMuon(self.ranks, sizes, *args, **settings)

        return build_optimizers(self.model, config, precision, self._own, muon)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def _silent(self) -> AbstractContextManager[Any]:
        # Whole gradients would have to be kept; so every part of a batch sends its own, and they are added as shards.
        return contextlib.nullcontext()

    def clip(self, most: float) -> float:
        for name, parameter in self.model.named_parameters():
            assert isinstance(parameter.grad, DTensor)
            self._own[name].grad = parameter.grad.to_local()
        gradients = [own.grad for own in self._own.values() if own.grad is not None]
        squares = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
        dist.all_reduce(squares)
        norm = squares.sqrt()
        factor = (most / (norm + 1e-6)).clamp_max(1.0)  # as torch.nn.utils.clip_grad_norm_ has it
        for gradient in gradients:
            gradient.mul_(factor)
        return norm.item()

    def whole(self, parts: Mapping[str, Tensor], everywhere: bool = True) -> dict[str, Tensor]:
        found = {}
        for name, part in parts.items():
            rows = self._sizes[name][0]
            padded = part.detach().new_zeros(-(-rows // self.ranks.world), *part.shape[1:]).cpu()
            padded[: len(part)] = part.detach().cpu()
            if everywhere:
                gathered = [torch.empty_like(padded) for _ in range(self.ranks.world)]
                dist.all_gather(gathered, padded)
                found[name] = torch.cat(gathered)[:rows]
            elif (joined := self.ranks.joined_rows(padded)) is not None:
                found[name] = joined[:rows].clone()
        return found

    def part(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.shape != self._sizes[name]:  # AdamW's number of steps
            return tensor
        return _own_rows(tensor, self.ranks).clone()

    def apart_seconds(self, batch: Batch, states: Sequence[Any], accumulate: int, precision: str) -> float | None:
        return None  # without messages there would be no whole parameters to compute with


class _ShardedMuon(Muon):
    """Muon of matrices of which each rank has some rows: it makes whole ones orthogonal, and keeps its rows of them."""

    def __init__(self, ranks: Ranks, sizes: Mapping[int, torch.Size], *args: Any, **settings: Any) -> None:
        self._ranks, self._sizes = ranks, sizes
        super().__init__(*args, **settings)

    def _shape(self, parameter: Tensor) -> torch.Size:
        return self._sizes[id(parameter)]

    def _orthogonal(self, matrices: Tensor, shape: torch.Size) -> Tensor:
        world = self._ranks.world
        padded = matrices.new_zeros(len(matrices), -(-shape[0] // world), shape[1])
        padded[:, : matrices.shape[1]] = matrices
        gathered = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(gathered, padded)
        whole = orthogonal(torch.cat(gathered, dim=1)[:, : shape[0]], self._dtype)
        return _own_rows(whole.transpose(0, 1), self._ranks).transpose(0, 1)


def _own_rows(tensor: Tensor, ranks: Ranks) -> Tensor:
    """Return the rows of a rank, as fully_shard deals them out: equally many, but for the last ranks."""
    size = -(-len(tensor) // ranks.world)
    return tensor[ranks.rank * size : (ranks.rank + 1) * size]


def _whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x
