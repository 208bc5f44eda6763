"""Clips of sound: they are drawn batch by batch and handed on while they grow, then scored, and the best are chosen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from s4gen.bulk.dealing import WHOLE, Batches, Piece, Shard, even_batches, pieces
from s4gen.data.audio import AudioFormat
from s4gen.evaluate.audio import clip_nats, piece_of
from s4gen.evaluate.scorers import by_convolution, in_whole_rows
from s4gen.models.states import least_length, row_multiple
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine
from s4gen.sampling.generation import Generation
from s4gen.sampling.prompt_cache import PromptCache
from s4gen.sampling.prompts import Prompts, Starts, checked_prompts

LOWEST, HIGHEST = 40, 5
"""Percentages of the candidates that `select` leaves out: of the least likely clips, and of the most likely ones."""
SAMPLES_AT_A_TIME = 1 << 22
"""Samples of all clips of a batch together that are scored at a time, so that memory stays small."""


class Begin(NamedTuple):
    """The prompt and the class that a clip begins with."""

    prompt: int
    """Index of the prompt in the list of prompts."""
    label: int | None
    """Number of the class; None for a model without classes."""


@dataclass(frozen=True)
class ClipRequest:
    """Which clips are to be drawn, from what and how."""

    recurrent: RecurrentModel
    engine: Engine
    format: AudioFormat
    """How the codes of the clips are turned into sound."""
    classes: tuple[str, ...]
    """Names of the classes that the model is conditional on; empty if there are none."""
    prompts: list[Tensor]
    """The prompts, int64 (P_i,) on the CPU."""
    begins: list[Begin]
    """How each clip begins: one entry for every clip."""
    samples: int
    """The most samples to draw for a clip; its prompt is not counted."""
    seed: int
    batch: int
    """The most clips that are drawn side by side."""
    ending: int = 0
    """A clip ends behind this many samples of silence; 0 lets it end only when it has all its samples."""
    prompt_cache: PromptCache | None = None
    """Where prompts that were read before are found, and new ones are kept."""

    def prompt(self, clip: int) -> Tensor:
        """Return the prompt of this clip, int64 (P,) on the CPU."""
        return self.prompts[self.begins[clip].prompt]

    def name(self, clip: int) -> str | None:
        """Return the name of the class of this clip, or None for a model without classes."""
        label = self.begins[clip].label
        return None if label is None else self.classes[label]

    def sound(self, codes: Tensor) -> NDArray[np.float32]:
        """Decode codes, of any integer type and any shape, to samples from -1 to 1 in the same shape."""
        return self.format.quantiser.decode(codes.numpy())

    @property
    def batches(self) -> Batches:
        """The clips in the batches in which they are drawn."""
        return even_batches(len(self.begins), self.batch)

    def pieces(self, shard: Shard = WHOLE) -> Iterator[Piece]:
        """Yield the clips of a shard in the batches in which they are drawn."""
        return pieces(self.batches, shard)

    def draw(self, batches: Iterable[range] | None = None) -> Iterator[tuple[range, Iterator[Tensor]]]:
        """Draw the clips of these batches (None: of all); yield for each the numbers of its clips and their codes.

        The codes are an iterator, which yields them as they are drawn, int64 (rows, S) at a time, on the CPU and
        without the prompts.
        A beginning that several clips share is read only once.

        Raises:
            UserError: a prompt does not fit the model.
        """
        starts = Starts(self.recurrent, self._prompts(), self.engine.filters, self.prompt_cache)
        for members in self.batches if batches is None else batches:
            generation = Generation(
                self.recurrent, self.engine, seed=self.seed, sequences=members, start=starts.of(members)
            )
            yield members, (chunk.cpu() for chunk in generation.chunks(self.samples))

    def _prompts(self) -> Prompts:
        distinct = list(dict.fromkeys(self.begins))
        prompts = [self.prompts[begin.prompt] for begin in distinct]
        checked = checked_prompts(self.recurrent, prompts, labels_of(distinct))
        if len(distinct) == len(self.begins):
            return checked
        row = {begin: i for i, begin in enumerate(distinct)}
        return checked._replace(shared=torch.tensor([row[begin] for begin in self.begins]))

    def bits_per_sample(self, clips: Sequence[Tensor], first: int = 0) -> list[float]:
        """Return the bits per sample that each clip costs under the model, computed by convolution.

        Clips are int64 (L_i,), with their prompts; a prompt counts as known, so the mean is over the samples behind it.
        The model is taken as it is, without the temperature and the filters that the clip was drawn with. The clips are
        those from number `first` on. A clip costs the same, bit for bit, whichever others are scored beside it.
        """
        score, labels, bits = by_convolution(self.recurrent.source), labels_of(self.begins), []
        longest = max(len(prompt) for prompt in self.prompts) + self.samples
        rows = max(1, min(self.batch, SAMPLES_AT_A_TIME // longest))
        # Rounding depends on where pieces end and on how many rows there are, so both are the same for all clips.
        piece = piece_of(rows, longest, least_length(self.recurrent.config))
        if len(self.begins) > 1:
            score = in_whole_rows(score, row_multiple(self.recurrent.config.ssm.d_state))
        for start in range(0, len(clips), rows):
            part = clips[start : start + rows]
            codes = pad_sequence([clip.to(torch.int64) for clip in part], batch_first=True)
            numbers = range(first + start, first + start + len(part))
            with torch.inference_mode():
                label = None if labels is None else labels[numbers.start : numbers.stop]
                nats = clip_nats(score, codes, self.recurrent.bos, label, piece).double().cpu().numpy()
            for number, row, clip in zip(numbers, nats, part, strict=True):
                bits.append(float(row[len(self.prompt(number)) : len(clip)].mean()) / math.log(2))
        return bits

    def endings(self, rows: int) -> Endings:
        """Return the bookkeeping of where clips end, for a batch of `rows` clips."""
        return Endings(rows, self.format.quantiser.silence, self.ending)

    def speed(self, drawn: int, seconds: float) -> str:
        """Describe the speed for the user, given the samples drawn for all clips together and the seconds it took."""
        at_once = len(self.batches[0])
        rate = drawn / seconds
        each = f" ({rate / self.format.rate / at_once:.3g} for each of {at_once} side by side)" if at_once > 1 else ""
        real_time = f"real-time factor {rate / self.format.rate:.3g}{each}"
        return f"{seconds:.2f} s: {rate:,.0f} samples/s, {real_time} ({self.engine.name})"


class Endings:
    """Finds where clips that are drawn side by side end: behind the first `ending` samples of silence in a row.

    With `ending` 0 they never end by themselves. A model that was trained on clips with silence behind them has learnt
    nothing about what follows that silence, so whatever it draws there is left out.
    """

    def __init__(self, rows: int, silence: int, ending: int) -> None:
        self._silence, self._ending = silence, ending
        self._silent = torch.zeros(rows, dtype=torch.int64)  # length of the silence at the end of each row so far
        self._over = torch.zeros(rows, dtype=torch.bool)

    @property
    def all_over(self) -> bool:
        """Whether every clip has ended."""
        return bool(self._over.all())

    def counts(self, codes: Tensor) -> list[int]:
        """Take the next codes, int64 (rows, S); return how many at the front of each row still belong to its clip."""
        n, S = codes.shape
        if not self._ending:
            return [S] * n
        # The silence at a position is as long as the way back to the last loud sample. Positions count from 1 in this
        # chunk, so a loud sample in an earlier chunk is at minus the length of the silence since then.
        position = torch.arange(1, S + 1).expand(n, -1)
        loud = torch.where(codes == self._silence, -self._silent[:, None], position).cummax(dim=1).values
        ends = (position - loud >= self._ending) | self._over[:, None]
        count = torch.where(self._over, 0, torch.where(ends.any(1), ends.int().argmax(1) + 1, S))
        self._silent, self._over = S - loud[:, -1], ends.any(1)
        counts: list[int] = count.tolist()
        return counts


def labels_of(begins: Sequence[Begin]) -> Tensor | None:
    """Return the labels of these beginnings, int64 (n,), or None for a model without classes."""
    labels = [begin.label for begin in begins if begin.label is not None]
    return torch.tensor(labels) if labels else None


def in_turn(n: int, prompts: int, labels: Sequence[int]) -> list[Begin]:
    """Return n beginnings that take the prompts 0 .. `prompts` - 1, and the labels if there are any, in turn."""
    return [Begin(i % prompts, labels[i % len(labels)] if labels else None) for i in range(n)]


def with_candidates(begins: Sequence[Begin]) -> list[Begin]:
    """Return `begins`, followed by as many more of each kind as `select` needs to be able to leave some out."""
    more = list(begins)
    for begin, n in Counter(begins).items():
        drawn = -(-100 * n // (100 - LOWEST - HIGHEST))  # n / 55 %, rounded up
        more += [begin] * (drawn - n)
    return more


def select(begins: Sequence[Begin], bits: Sequence[float], n: int) -> list[int]:
    """Choose the best n candidates; return their numbers, each in the place of a clip that begins alike.

    Among clips that begin alike, those of the lowest 40 % and of the highest 5 % in likelihood are left out, because
    they sound worse (arXiv 2202.09729, appendix C.3.1). With few candidates, rounding drops a few unlikely clips more.
    Likelihoods of clips with different prompts or classes are never compared: they mean different things.

    Args:
        begins: how each candidate begins; the first n are those that were asked for.
        bits: bits per sample of each candidate.
        n: how many clips are wanted.
    """
    chosen = {}
    for begin, wanted in Counter(begins[:n]).items():
        alike = sorted((i for i, other in enumerate(begins) if other == begin), key=lambda i: bits[i], reverse=True)
        end = len(alike) - round(len(alike) * HIGHEST / 100)
        # The window is counted from the likely end, so that rounding is at the cost of the unlikely end. Sorting by
        # number restores the order in which the clips were drawn.
        chosen[begin] = iter(sorted(alike[end - wanted : end]))
    return [next(chosen[begin]) for begin in begins[:n]]
