"""Training with a model that is split among the ranks (`train.shard`): FSDP2's `fully_shard`, and a Muon to go with it.

Each rank holds some rows of every parameter, of its gradient, of its running mean and of what the optimisers remember.
"""

from __future__ import annotations

import contextlib
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

from s4gen.config import OptimConfig
from s4gen.models.blocks import Block
from s4gen.models.build import AnyModel
from s4gen.models.wavenet import GatedConvolution
from s4gen.train.batches import Batch
from s4gen.train.muon import Muon, orthogonal
from s4gen.train.optim import build_optimizers
from s4gen.train.ranks import Ranks
from s4gen.train.spread import Copies


class Shards(Copies):
    """Each rank keeps some rows of every parameter; a whole parameter exists only while its block computes.

    Optimisers, clipping and running mean work on plain tensors that share their memory with this rank's rows.
    """

    def __init__(self, model: AnyModel, ranks: Ranks) -> None:
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
            if isinstance(module, FSDPModule):
                # The loss of a rank is its share of a mean, so gradients are added, not averaged; Gloo cannot average.
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
        # Muon needs the size of each whole matrix, and knows a parameter only as an object.
        sizes = {id(self._own[name]): size for name, size in self._sizes.items()}

        def muon(*args: Any, **settings: Any) -> Muon:
            return _ShardedMuon(self.ranks, sizes, *args, **settings)

        return build_optimizers(self.model, config, precision, self._own, muon)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # not times the number of ranks, as in Copies: nothing divides the sum here

    def _silent(self) -> AbstractContextManager[Any]:
        # Holding messages back would mean to keep whole gradients. So each part sends its own, and shards add them up.
        return contextlib.nullcontext()

    def clip(self, most: float) -> float:
        for name, parameter in self.model.named_parameters():
            assert isinstance(parameter.grad, DTensor)
            self._own[name].grad = parameter.grad.to_local()
        gradients = [own.grad for own in self._own.values() if own.grad is not None]
        # Every rank scales by the norm of the whole gradient, of which it holds a part.
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
            # The last ranks may hold fewer rows, or none, but a collective operation takes equal shapes only.
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
        if tensor.shape != self._sizes[name]:  # AdamW's count of steps, a single number
            return tensor
        return _own_rows(tensor, self.ranks).clone()

    def apart_seconds(self, batch: Batch, states: Sequence[Any], accumulate: int, precision: str) -> float | None:
        return None  # cannot be measured: without messages there are no whole parameters to compute with


class _ShardedMuon(Muon):
    """Muon for matrices of which each rank holds some rows: it gathers them, makes them orthogonal, keeps its rows."""

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
    """Return the rows of this rank as `fully_shard` deals them out: equally many, except for the last ranks."""
    size = -(-len(tensor) // ranks.world)
    return tensor[ranks.rank * size : (ranks.rank + 1) * size]
