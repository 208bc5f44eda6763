"""Clips of sound: drawn batch by batch, handed on while they grow; what they cost; the published choice among them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from s4gen.audio_evaluation import by_convolution
from s4gen.data.audio import AudioFormat
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine
from s4gen.sampling.filters import Filters
from s4gen.sampling.generate import batches_of
from s4gen.sampling.generation import Generation
from s4gen.sampling.prompts import Prompts, checked_prompts, starts

LOWEST, HIGHEST = 40, 5
"""Per cent of the least and of the most likely clips that are left out."""
SAMPLES_AT_A_TIME = 1 << 22
"""Samples of all clips of a batch together that are scored at a time, so that memory stays small."""


class Begin(NamedTuple):
    """The beginning of a clip."""

    prompt: int
    """Which of the prompts."""
    label: int | None
    """Its class, where there are some."""


@dataclass(frozen=True)
class ClipRequest:
    """Which clips are to be drawn, from what and how."""

    recurrent: RecurrentModel
    engine: Engine
    filters: Filters
    """The filters that the engine was made with."""
    format: AudioFormat
    """How the codes of the clips are turned into sound."""
    classes: tuple[str, ...]
    """The classes that the model is conditional on."""
    prompts: list[Tensor]
    """int64 (P_i,), on the CPU."""
    begins: list[Begin]
    """One for each clip."""
    samples: int
    """Drawn for each clip, behind its prompt, at most."""
    seed: int
    batch: int
    """Clips at a time."""
    ending: int = 0
    """Samples of silence with which a clip ends; 0: only when it has all its samples."""

    def prompt(self, clip: int) -> Tensor:
        """Return what the clip begins with."""
        return self.prompts[self.begins[clip].prompt]

    def name(self, clip: int) -> str | None:
        """Return the name of the class that the clip shall be of, if any."""
        label = self.begins[clip].label
        return None if label is None else self.classes[label]

    def sound(self, codes: Tensor) -> NDArray[np.float32]:
        """Turn codes of any integer type into samples of the same shape."""
        return self.format.quantiser.decode(codes.numpy())

    def draw(self) -> Iterator[tuple[range, Iterator[Tensor]]]:
        """Draw the clips of one batch after another: their numbers, and their codes as they are drawn.

        The codes are int64 (rows, S) at a time, on the CPU, without the prompts. What several clips begin with is read
        once.

        Raises:
            UserError: a prompt does not fit the model.
        """
        begin = starts(self.recurrent, self._prompts())
        for members in batches_of(len(self.begins), self.batch):
            generation = Generation(
                self.recurrent, self.engine, self.filters, seed=self.seed, sequences=members, start=begin(members)
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

    def bits_per_sample(self, clips: Sequence[Tensor]) -> list[float]:
        """Return what each whole clip (L_i,) costs under the model, by convolution; its prompt counts as known.

        Without temperature and filters, whatever it was drawn with.
        """
        score, labels, bits = by_convolution(self.recurrent.source), labels_of(self.begins), []
        rows = max(1, min(self.batch, SAMPLES_AT_A_TIME // max(map(len, clips))))
        for first in range(0, len(clips), rows):
            part = slice(first, first + rows)
            codes = pad_sequence([clip.to(torch.int64) for clip in clips[part]], batch_first=True)
            with torch.inference_mode():
                nats = score(codes, None if labels is None else labels[part]).double().cpu()
            for i, row in enumerate(nats, first):
                bits.append(row[len(self.prompt(i)) : len(clips[i])].mean().item() / math.log(2))
        return bits

    def endings(self, rows: int) -> Endings:
        """Return the ends of so many clips side by side."""
        return Endings(rows, self.format.quantiser.silence, self.ending)

    def speed(self, drawn: int, seconds: float) -> str:
        """Say how fast so many samples, of all clips together, were drawn in so much time."""
        at_once = len(batches_of(len(self.begins), self.batch)[0])
        rate = drawn / seconds
        each = f" ({rate / self.format.rate / at_once:.3g} for each of {at_once} side by side)" if at_once > 1 else ""
        real_time = f"real-time factor {rate / self.format.rate:.3g}{each}"
        return f"{seconds:.2f} s: {rate:,.0f} samples/s, {real_time} ({self.engine.name})"


class Endings:
    """The ends of clips that are drawn side by side: behind the first silence of `ending` samples; 0: nowhere.

    A model that was trained on clips with silence behind them knows nothing of what comes after it.
    """

    def __init__(self, rows: int, silence: int, ending: int) -> None:
        self._silence, self._ending = silence, ending
        self._silent = torch.zeros(rows, dtype=torch.int64)  # samples of silence at the end so far
        self._over = torch.zeros(rows, dtype=torch.bool)

    @property
    def all_over(self) -> bool:
        """Tell whether there is nothing more to come."""
        return bool(self._over.all())

    def counts(self, codes: Tensor) -> list[int]:
        """Count the codes at the front of each row of the next ones (rows, S) that belong to its clip."""
        n, S = codes.shape
        if not self._ending:
            return [S] * n
        position = torch.arange(1, S + 1).expand(n, -1)
        loud = (
            torch.where(codes == self._silence, -self._silent[:, None], position).cummax(dim=1).values
        )  # the last one
        ends = (position - loud >= self._ending) | self._over[:, None]
        count = torch.where(self._over, 0, torch.where(ends.any(1), ends.int().argmax(1) + 1, S))
        self._silent, self._over = S - loud[:, -1], ends.any(1)
        counts: list[int] = count.tolist()
        return counts


def labels_of(begins: Sequence[Begin]) -> Tensor | None:
    """Return labels int64 (n,), or None where there are none."""
    labels = [begin.label for begin in begins if begin.label is not None]
    return torch.tensor(labels) if labels else None


def in_turn(n: int, prompts: int, labels: Sequence[int]) -> list[Begin]:
    """Return n beginnings that take so many prompts, and the labels, if any, in turn."""
    return [Begin(i % prompts, labels[i % len(labels)] if labels else None) for i in range(n)]


def with_candidates(begins: Sequence[Begin]) -> list[Begin]:
    """Return the same, and behind them as many more of each kind as `select` needs to leave out what it does."""
    more = list(begins)
    for begin, n in Counter(begins).items():
        drawn = -(-100 * n // (100 - LOWEST - HIGHEST))
        more += [begin] * (drawn - n)
    return more


def select(begins: Sequence[Begin], bits: Sequence[float], n: int) -> list[int]:
    """Choose among these candidates one for each of the first n, of the same beginning, and return their numbers.

    Of those that begin alike, the 40 % of the lowest likelihood and the 5 % of the highest are left out, which sound
    worse (arXiv 2202.09729, appendix C.3.1); with few candidates, rounding drops a few unlikely clips more. Likelihoods
    compare only where prompt and class are the same.
    """
    chosen = {}
    for begin, wanted in Counter(begins[:n]).items():
        alike = sorted((i for i, other in enumerate(begins) if other == begin), key=lambda i: bits[i], reverse=True)
        end = len(alike) - round(len(alike) * HIGHEST / 100)
        chosen[begin] = iter(sorted(alike[end - wanted : end]))
    return [next(chosen[begin]) for begin in begins[:n]]
