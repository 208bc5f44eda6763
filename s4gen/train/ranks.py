"""The processes that train one model together, as `torchrun` starts them, and the messages between them.

Each of these processes is a rank; rank 0 leads. Every rank makes the same batch and takes its own rows of it, so that
the mean over all ranks' rows is the mean over the batch. A process that was not started by torchrun is a group of one,
for which every function here returns at once what it was given.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from s4gen.errors import UserError
from s4gen.evaluate.scorers import Scorer
from s4gen.machine.device import best_device
from s4gen.models.states import joined, leaves, rebuilt
from s4gen.train.watch import Watch


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    """0 to world - 1. Rank 0 leads: it alone writes files and prints messages."""
    world: int = 1
    """Number of ranks on all hosts."""
    local_rank: int = 0
    """0 to local_world - 1 on this host. Local rank 0 prepares the data of its host."""
    local_world: int = 1
    """Number of ranks on this host."""
    device: torch.device = field(default_factory=best_device)
    """The device that computes. Every rank of a host has its own GPU, or all share the CPU."""
    watch: Watch | None = field(default=None, compare=False, repr=False)
    """Finds out which rank is lost; None for a group of one."""

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.world == 1

    @property
    def build_device(self) -> torch.device:
        """The device where a model is built or loaded: with many ranks the CPU, as theirs may get only parts of it."""
        return self.device if self.alone else torch.device("cpu")

    def rows(self, n: int) -> slice:
        """Return the slice of a batch's n rows that is this rank's; n must be a multiple of the number of ranks."""
        return slice(self.rank * (n // self.world), (self.rank + 1) * (n // self.world))

    def reached(self, step: int) -> None:
        """Tell the other ranks that this one has done `step` steps."""
        if self.watch is not None:
            self.watch.reached(step)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Mark work that other ranks wait for and that may take any time: preparing, evaluating, saving."""
        if self.watch is None:
            yield
            return
        with self.watch.apart():
            yield

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Keep the watch from ending this process inside the block, which writes a checkpoint, if a rank is lost."""
        if self.watch is None:
            yield
            return
        with self.watch.undisturbed():
            yield

    @contextlib.contextmanager
    def judged(self) -> Iterator[None]:
        """If a message between ranks fails inside the block, find out which rank is lost and end this process.

        torchrun sends SIGTERM to all ranks as soon as one has ended. That would kill this process before it can name
        the lost rank, so use this only where SIGTERM is handled (`stop.stop_on_signal`).
        """
        try:
            yield
        except Exception as error:
            if self.watch is not None:
                self.watch.judge(error)
            raise

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.totals(0.0)

    def totals(self, *values: float) -> list[float]:
        """Return the sums of a few numbers over all ranks, in float64. It is one small message."""
        if self.alone:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def added(self, tensor: Tensor) -> Tensor:
        """Return the sum over all ranks of a tensor on the CPU, which it overwrites; all ranks have the same shape."""
        if not self.alone:
            dist.all_reduce(tensor)
        return tensor

    def from_leader(self, make: Callable[[], Any]) -> Any:
        """Call `make` on rank 0 alone, and return on every rank what it returned; JSON must be able to hold that."""
        if self.alone:
            return make()
        # Not torch's broadcast_object_list: it unpickles what it receives, and so could run code from another host.
        content = json.dumps(make()).encode() if self.leads else b""
        size = torch.tensor([len(content)])
        dist.broadcast(size, 0)
        found = (
            torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if content
            else torch.empty(int(size), dtype=torch.uint8)
        )
        if len(found):
            dist.broadcast(found, 0)
        return json.loads(found.numpy().tobytes())

    def tensors_from_leader(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return rank 0's tensors on every rank, on the CPU; the other ranks may give none."""
        if self.alone:
            return dict(tensors)
        kinds = {name: (list(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in tensors.items()}
        found = {}
        for name, (shape, dtype) in self.from_leader(lambda: kinds).items():
            own = tensors[name].detach().cpu().contiguous() if self.leads else None
            found[name] = torch.empty(shape, dtype=getattr(torch, dtype)) if own is None else own
            dist.broadcast(found[name], 0)
        return found

    def joined_rows(self, tensor: Tensor) -> Tensor | None:
        """Concatenate the rows of all ranks' tensors, which have one shape, in the order of ranks.

        Returns the result on rank 0, on the CPU, and None on all others.
        """
        if self.alone:
            return tensor
        own = tensor.detach().cpu().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.world)] if self.leads else None
        dist.gather(own, parts, 0)
        return None if parts is None else torch.cat(parts)


def joined_states(ranks: Ranks, parts: Sequence[Any], n: int) -> list[Any]:
    """Gather the states of all rows on rank 0, as `n` parts of the whole batch in the order of its rows.

    `parts` are the states of this rank's rows. Returns [] on all other ranks, and if there are no states yet.
    """
    if not parts or ranks.alone:
        return list(parts)
    found = joined(parts)
    whole = [ranks.joined_rows(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves(found)]
    return _parted(rebuilt(found, iter(whole)), n) if ranks.leads else []


def own_states(ranks: Ranks, parts: Sequence[Any], n: int) -> list[Any]:
    """Return this rank's rows of the states of a whole batch, as `n` parts; the inverse of `joined_states`."""
    if not parts or ranks.alone:
        return list(parts)
    whole = joined(parts)
    own = [x[ranks.rows(len(x))].to(ranks.device) if isinstance(x, Tensor) else x for x in leaves(whole)]
    return _parted(rebuilt(whole, iter(own)), n)


def _parted(state: Any, n: int) -> list[Any]:
    """Cut a state into n parts along its rows, or into single rows if there are fewer."""
    rows = next(len(leaf) for leaf in leaves(state) if isinstance(leaf, Tensor))
    columns = [leaf.tensor_split(min(n, rows)) if isinstance(leaf, Tensor) else [leaf] * n for leaf in leaves(state)]
    return [rebuilt(state, iter(part)) for part in zip(*columns, strict=False)]


def scored_together(ranks: Ranks, score: Callable[..., Tensor], batches: Iterable[Sequence[Any]]) -> list[Tensor]:
    """Return `score(*batch)` r(B,) for every batch, on the CPU in float64; the ranks share the batches among them.

    Each batch is scored whole by one rank, so every number is bit for bit that of one process with as many threads.
    """
    # Each rank leaves zeros for the batches of the others, so that one sum over the ranks brings all scores everywhere.
    found = [
        score(*batch).double().cpu() if i % ranks.world == ranks.rank else torch.zeros(len(batch[0])).double()
        for i, batch in enumerate(batches)
    ]
    if not found:
        return []
    return list(ranks.added(torch.cat(found)).split([len(part) for part in found]))


def known_scores(known: Iterable[Tensor]) -> Scorer:
    """Return a scorer that replays the scores of `scored_together`, batch by batch, without any model.

    The whole -log p of a row is at its first token, and the others have 0: only sums over rows are read.
    """
    rest = iter(known)

    def score(tokens: Tensor, target: Tensor, state: Any = None, label: Tensor | None = None) -> tuple[Tensor, Any]:
        if state is not None:  # a later piece of long rows, whose sums were returned with the first piece
            return torch.zeros(target.shape, dtype=torch.float64), state
        return F.pad(next(rest)[:, None], (0, target.shape[1] - 1)), "begun"

    return score


def check_evenly(ranks: Ranks, rows: int, accumulate: int) -> None:
    """Refuse a batch whose rows cannot be shared evenly by all ranks and the `accumulate` parts of each.

    Raises:
        UserError: they cannot; the message names batch sizes that would do.
    """
    share = ranks.world * accumulate
    if ranks.alone or rows % share == 0:
        return
    fits = [str(n) for n in (rows // share * share, math.ceil(rows / share) * share) if n]
    parts = f" in {accumulate} parts each (train.accumulate)" if accumulate > 1 else ""
    raise UserError(
        f"a batch of {rows} rows cannot be shared evenly by {ranks.world} ranks{parts}: choose a train.batch_size that "
        f"is a multiple of {share}, such as {' or '.join(fits)}, or another number of ranks"
    )
