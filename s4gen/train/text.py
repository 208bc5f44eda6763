"""Training on text. Rows continue from step to step, and the state with them; the loss is in nats and perplexity."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import Tensor

from s4gen.config import Recipe
from s4gen.data.text import Tokenizer, TrainStream, layout_of, open_split, prepare_tokenizer
from s4gen.evaluate.scorers import by_convolution
from s4gen.evaluate.text import Counts, evaluate_stream, perplexities
from s4gen.files.atomic import write_file_atomic
from s4gen.models.density import DensityModel
from s4gen.train.batches import TokenBatch
from s4gen.train.ranks import Ranks
from s4gen.train.tasks import DensityTask, Measured, Values

CHUNK = 8192
"""How many tokens an evaluation scores at a time. This affects only its speed."""


class TextTask(DensityTask):
    """A task that reads rows of text and reports perplexity.

    The validation split is scored as one stream, at most `eval_limit` chunks of it.
    """

    measures = ("nats", "perplexity", "word_perplexity", "bits_per_byte")
    curve = "nats"
    counted = "n_tokens"
    unit = "tokens"

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer | None = None, progress: bool = True) -> None:
        data, train = recipe.data, recipe.train
        known = tokenizer or prepare_tokenizer(data.dataset, data.tokenizer, data.vocab_size, progress)
        self.tokenizer = self._known = known
        self.layout = self._layout = layout_of(known)
        self._training = open_split(data.dataset, "train", known, progress)
        self._held = open_split(data.dataset, "validation", known, progress) if data.validation else None
        self._stream = TrainStream(self._training.tokens, train.batch_size, train.chunk)
        self._limit = train.eval_limit * train.chunk
        self.rows = train.batch_size

    def batch(self, step: int) -> TokenBatch:
        return TokenBatch(*self._stream.batch(step))

    def example(self, rows: int) -> TokenBatch:
        first = self.batch(0).tokens[:1].expand(rows, -1)
        return TokenBatch(first, first)

    def epoch(self, step: int) -> float:
        return self._stream.epoch(step)

    def measure(self, nats: float) -> Values:
        return perplexities(nats, Counts.of(self._training))

    def evaluate(self, model: DensityModel, ranks: Ranks) -> Measured | None:
        """Score on rank 0 alone, while the others wait: the state of one stream continues, so it cannot be shared."""
        if self._held is None:
            return None
        return Measured(**ranks.from_leader(lambda: dataclasses.asdict(self._evaluated(model))))

    def _evaluated(self, model: DensityModel) -> Measured:
        assert self._held is not None
        found = evaluate_stream(by_convolution(model), self._held, self._layout.start, CHUNK, self._limit)
        return Measured({name: getattr(found, name) for name in self.measures}, found.n_tokens)

    def say(self, values: Values) -> str:
        return f"perplexity {values['perplexity']:.1f}, {values['bits_per_byte']:.3f} bits/byte"

    def card(self, recipe: Recipe, latest: Measured | None) -> list[str]:
        train = recipe.train
        times = f"{self.epoch(train.steps):.1f} times"
        lines = [
            f"Each step read {train.chunk} tokens of each of {train.batch_size} rows, with the state of the last step; "
            f"all {train.steps:,} steps read the {len(self._training):,} tokens of the training split {times}.",
            f"Tokeniser: {self._known.kind}, {self._known.vocab:,} tokens.",
        ]
        if latest is not None:
            v = latest.values
            lines += [
                "",
                f"Validation split, its first {latest.n:,} tokens as one stream: perplexity {v['perplexity']:.2f} per "
                f"token, {v['word_perplexity']:.2f} per word, {v['bits_per_byte']:.4f} bits/byte.",
            ]
        return lines

    def save_sample(self, sequences: Tensor, path: Path) -> None:
        texts = [self._known.decode(row) for row in sequences.tolist()]
        write_file_atomic(path.with_suffix(".txt"), "\n\n---\n\n".join(texts).encode("utf-8"))
