"""Put clips into batches, whole or as crops, padded, with lengths, in an order that is a function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from s4gen.data.audio.clips import AudioSet
from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_POOL = 32
"""Batches that are sorted by length together: enough for little padding, few enough for batches that differ."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Sequences side by side. Positions from `lengths` on are padding: they never count."""

    codes: Tensor
    """(n, L) int64; the padding is the code of silence."""
    lengths: Tensor
    """(n,) int64, 1 to L."""
    labels: Tensor | None
    """(n,) int64 classes, or None where the set has none."""
    clips: Tensor
    """(n,) int64: which clip of the set each row is from."""

    def part(self, rows: range) -> ClipBatch:
        """Return some of the rows, as long as before."""
        chosen = slice(rows.start, rows.stop)
        labels = None if self.labels is None else self.labels[chosen]
        return ClipBatch(self.codes[chosen], self.lengths[chosen], labels, self.clips[chosen])

    def mask(self) -> Tensor:
        """Return (n, L) bool: True for samples, False for padding."""
        import torch

        return torch.arange(self.codes.shape[1]) < self.lengths[:, None]


@dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of clips, each of them one sequence."""

    clips: Ints
    """(m,) index of the clip."""
    starts: Ints
    """(m,) first sample, within the clip."""
    lengths: Ints
    """(m,) samples, at least 1."""

    def __len__(self) -> int:
        return len(self.clips)


def windows_in_order(audio: AudioSet, crop: int | None) -> Windows:
    """Cut clips so that every sample is in one window: whole clips, or pieces of `crop` samples and what is left."""
    lengths = audio.lengths
    size = int(lengths.max()) if crop is None else crop
    pieces = -(-lengths // size)
    clips = np.repeat(np.arange(len(audio)), pieces)
    starts = (np.arange(len(clips)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * size
    return Windows(clips, starts, np.minimum(size, lengths[clips] - starts))


def windows_at_random(audio: AudioSet, crop: int | None, seed: int, epoch: int) -> Windows:
    """Draw as many windows of each clip as `windows_in_order` has, each beginning anywhere that leaves it whole.

    The beginning of window i is a function of (seed, epoch, i). A clip shorter than `crop` comes whole.
    """
    ordered = windows_in_order(audio, crop)
    room = audio.lengths if crop is None else np.minimum(crop, audio.lengths)
    lengths = room[ordered.clips]
    positions = audio.lengths[ordered.clips] - lengths + 1
    starts = np.floor(_generator(seed, epoch, 0).random(len(ordered)) * positions).astype(np.int64)
    return Windows(ordered.clips, starts, lengths)


def gather(audio: AudioSet, windows: Windows, indices: Ints) -> ClipBatch:
    """Gather the windows of these indices into one batch, as long as the longest of them."""
    import torch

    lengths = windows.lengths[indices]
    codes = np.full((len(indices), int(lengths.max())), audio.format.quantiser.silence, np.int64)
    for row, index, length in zip(codes, indices, lengths, strict=True):
        start = audio.starts[windows.clips[index]] + windows.starts[index]
        row[:length] = audio.codes[start : start + length]
    clips = windows.clips[indices]
    return ClipBatch(
        codes=torch.from_numpy(codes),
        lengths=torch.from_numpy(lengths),
        labels=None if audio.labels is None else torch.from_numpy(audio.labels[clips]),
        clips=torch.from_numpy(clips),
    )


class TrainingBatches:
    """The batches of every step, for ever. An epoch is a fresh permutation, cut into whole batches of like lengths.

    Step by step the same for the same arguments, wherever one begins.

    Raises:
        UserError: `batch_size` or `crop` is less than 1.
    """

    def __init__(self, audio: AudioSet, crop: int | None, batch_size: int, seed: int) -> None:
        _check_sizes(crop, batch_size)
        self._audio, self._crop, self._seed = audio, crop, seed
        total = len(windows_in_order(audio, crop))
        self.batch_size = min(batch_size, total)
        """Sequences per batch; fewer than asked for where the set is smaller."""
        self.per_epoch = total // self.batch_size
        """Steps per epoch; the windows that make no whole batch are others each time."""
        self._epoch = lru_cache(maxsize=1)(self._make_epoch)

    def at(self, step: int) -> ClipBatch:
        """Return the batch of step 0, 1, ..."""
        epoch, number = divmod(step, self.per_epoch)
        windows, batches = self._epoch(epoch)
        return gather(self._audio, windows, batches[number])

    def _make_epoch(self, epoch: int) -> tuple[Windows, list[Ints]]:
        windows = windows_at_random(self._audio, self._crop, self._seed, epoch)
        return windows, bucketed(windows.lengths, self.batch_size, _generator(self._seed, epoch, 1))


def evaluation_batches(audio: AudioSet, crop: int | None, batch_size: int) -> Iterator[ClipBatch]:
    """Yield all windows in order of length, each exactly once; the last batch may have fewer.

    `ClipBatch.clips` says which clip a row is from. A window knows nothing of what comes before it in its clip.

    Raises:
        UserError: `batch_size` or `crop` is less than 1.
    """
    _check_sizes(crop, batch_size)
    windows, order = in_order_of_length(audio, crop)
    return (gather(audio, windows, order[i : i + batch_size]) for i in range(0, len(order), batch_size))


def in_order_of_length(audio: AudioSet, crop: int | None) -> tuple[Windows, Ints]:
    """Return all windows, and their indices (m,) in order of length, in which little of a batch is padding."""
    windows = windows_in_order(audio, crop)
    return windows, np.argsort(windows.lengths, kind="stable")


def bucketed(lengths: Ints, batch_size: int, generator: np.random.Generator) -> list[Ints]:
    """Permute the indices, sort them by length within pools of batches, and shuffle the batches, whole ones alone."""
    n = len(lengths) // batch_size * batch_size
    order = generator.permutation(len(lengths))[:n]
    size = batch_size * _POOL
    pools = (order[i : i + size] for i in range(0, n, size))
    batches = [b for pool in pools for b in pool[np.argsort(lengths[pool], kind="stable")].reshape(-1, batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def _generator(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, purpose])


def _check_sizes(crop: int | None, batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: expected at least 1")
    if crop is not None and crop < 1:
        raise UserError(f"crops of {crop} samples: expected at least 1")
