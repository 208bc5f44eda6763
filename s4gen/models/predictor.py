"""A model that answers what it has read: the class of a row, numbers that belong to it, or the values that follow it.

    row -> reader -> blocks -> norm -> mean over the positions so far, or the last one -> linear -> answer

It is a sequence module like all others: in parallel, in chunks and step by step it gives the same answers, one after
every position, unless its layers read in both directions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4gen.config import AudioLayout, ImageLayout, PredictorConfig, SeriesLayout, TextLayout
from s4gen.config.combinations import key_of_rows
from s4gen.models.adaptive import AdaptiveEmbedding
from s4gen.models.bidirectional import Bidirectional
from s4gen.models.blocks import make_blocks, make_scanned, scan_of
from s4gen.models.density import cross_entropy
from s4gen.models.embedding import AudioEmbedding, ImageEmbedding
from s4gen.models.norms import NoNorm, make_norm
from s4gen.models.raster import Raster
from s4gen.models.sequence import SequenceModel
from s4gen.models.spectrum import frame_stride, log_spectrum, unit_peak
from s4gen.models.ssm_layers import check_lengths
from s4gen.models.taps import Taps

ONE_DIRECTION = (
    "this model reads rows in both directions (task.bidirectional = true), so it has no answer before a row has ended, "
    "and cannot be stepped; train one with task.bidirectional = false"
)


class PredictorState(NamedTuple):
    """Everything that a predictor remembers of the positions fed so far. It is a value."""

    position: Tensor  # int64 (B,): positions fed so far
    blocks: tuple[Any, ...]
    total: Tensor | tuple[()]  # float64 (B, H): the sum of the features so far, where their mean is taken


class Predictor(SequenceModel):
    """A residual stack with a pooled linear head.

    What it reads depends on `config.reader`: values are r(B, L, C), tokens int64 (B, L), and for the spectrum samples
    r(B, L, 1). Answers are r(B, out): logits of classes; or standardised numbers; of a forecast those of step 1 for
    each column, then those of step 2, and so on.
    """

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        model, ssm = config.model, config.ssm
        self.embedding = _reader(config)
        layout = config.layout
        self.raster = Raster(layout.height, layout.width) if isinstance(layout, ImageLayout) else None
        blocks = list(make_blocks(model, ssm, self.raster))
        if config.task.bidirectional:
            # Read from the end, rows run to the left and columns upwards, so the layers of images know nothing of it.
            for i, block in enumerate(blocks):
                block.mixer = Bidirectional(block.mixer, make_scanned(model, ssm, self.raster, scan_of(model, i)))
                if self.raster is not None and block.taps is not None:
                    block.taps = Bidirectional(block.taps, Taps(model.d_model, self.raster))
        self.blocks = nn.ModuleList(blocks)
        self.norm = make_norm(model) if model.norm == "pre" else NoNorm()
        self.head = nn.Linear(model.d_model, config.n_out)
        self._follows = _columns_to_follow(config)
        if self._follows is not None:  # to begin with, the forecast is that nothing changes
            nn.init.zeros_(self.head.weight), nn.init.zeros_(self.head.bias)

    def initial_state(self, batch: int) -> PredictorState:
        """Return the state of `batch` rows before anything was read.

        Raises:
            ValueError: the model reads in both directions.
        """
        self._check_steps()
        position = torch.zeros(batch, dtype=torch.int64, device=self.device)
        total: Tensor | tuple[()] = ()
        if self.config.task.pooling == "mean":
            # In float64, because a stream may go on for millions of positions.
            total = torch.zeros(batch, self.config.model.d_model, dtype=torch.float64, device=self.device)
        return PredictorState(position, tuple(block.initial_state(batch) for block in self._blocks()), total)

    def forward(
        self, inputs: Tensor, state: PredictorState | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, PredictorState]:
        """Read rows in parallel after `state` (None: the start).

        Returns the answers r(B, L, out) after each position, and the state at the end, or after `lengths` int64 (B,)
        positions of each row.

        Raises:
            ValueError: the model reads in both directions, or shapes do not fit.
        """
        self._check(inputs, lengths)
        state = self.initial_state(len(inputs)) if state is None else state
        L = inputs.shape[1]
        x, blocks = self._run_blocks(self._read(inputs, state.position), state.blocks, lengths)
        features, total = self.norm(x, lengths), state.total
        if isinstance(total, Tensor):
            sums = total[:, None] + features.double().cumsum(1)
            counts = state.position[:, None] + torch.arange(1, L + 1, device=x.device)
            features = (sums / counts[..., None]).to(features.dtype)
            total = sums[:, -1] if lengths is None else _at(torch.cat((total[:, None], sums), 1), lengths)
        read = L if lengths is None else lengths
        return self._answers(features, inputs), PredictorState(state.position + read, blocks, total)

    def step(self, input: Tensor, state: PredictorState) -> tuple[Tensor, PredictorState]:
        """Read one position, values r(B, C) or tokens int64 (B,); return the answers r(B, out) and the new state."""
        features, state = self.advance(input, state)
        return self.answer_after(features, input), state

    def advance(self, input: Tensor, state: PredictorState) -> tuple[Tensor, PredictorState]:
        """Do what `step` does but for the head: return the pooled features r(B, H) and the new state.

        Where many positions are read and few answers wanted, `answer_after` turns the features into these.
        """
        self._check_steps()
        x, states = self._read(input[:, None], state.position)[:, 0], []
        for block, before in zip(self._blocks(), state.blocks, strict=True):
            x, after = block.step(x, before)
            states.append(after)
        features, position, total = self.norm(x), state.position + 1, state.total
        if isinstance(total, Tensor):
            total = total + features.double()
            features = (total / position[:, None]).to(features.dtype)
        return features, PredictorState(position, tuple(states), total)

    def answer_after(self, features: Tensor, input: Tensor) -> Tensor:
        """Return the answers r(B, out) that pooled features r(B, H) give; `input` is what was read last."""
        return self._answers(features[:, None], input[:, None])[:, 0]

    def answer(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the answers r(B, out) to whole rows, of which row b ends after `lengths[b]` >= 1 positions.

        What lies behind the end of a row changes nothing.

        Raises:
            ValueError: shapes or lengths do not fit.
        """
        self._check(inputs, lengths)
        config, counts = self.config, lengths
        if lengths is not None and config.reader == "values":
            # A product with 0 would not silence NaN or infinity behind the end of a row.
            inside = torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]
            inputs = torch.where(inside[..., None], inputs, 0)
        if config.reader == "spectrum":
            n = torch.full((len(inputs),), inputs.shape[1], device=inputs.device) if lengths is None else lengths
            assert isinstance(config.layout, AudioLayout)
            x, counts = log_spectrum(unit_peak(inputs[..., 0], n), n, config.layout.rate)
            x = self.embedding(x)
        else:
            x = self._read(inputs, torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device))
        # Outputs of causal layers do not depend on what comes later, so only these two need to know where rows end.
        ends = counts if config.task.bidirectional or config.model.batch_norm else None
        x, _ = self._run_blocks(x, None, ends)
        features = self.norm(x, counts)
        if config.task.pooling == "mean":
            pooled = features.mean(1) if counts is None else _mean(features, counts)
        else:
            pooled = features[:, -1] if counts is None else _at(features, counts - 1)
        last = inputs[:, -1] if lengths is None else _at(inputs, lengths - 1)
        return self.answer_after(pooled, last)

    def losses(self, inputs: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the loss of each row, r(B,), that training makes small.

        target int64 (B,) are classes, and the loss is their cross-entropy in nats; or r(B, out) standardised numbers,
        and it is their mean squared error.
        """
        answer = self.answer(inputs, lengths)
        if self.config.task.kind == "classify":
            return cross_entropy(answer, target)
        return F.mse_loss(answer, target.to(answer.dtype), reduction="none").mean(-1)

    def _read(self, inputs: Tensor, position: Tensor) -> Tensor:
        """Return the input of the stack, r(B, L, H); `position` int64 (B,) is that of the first input."""
        if self.config.reader == "values":
            return self.embedding(inputs.to(self.embedding.weight.dtype))
        if isinstance(self.embedding, ImageEmbedding):
            # A density model reads a value together with the position of the next one, which this table has learnt.
            steps = torch.arange(1, inputs.shape[1] + 1, device=inputs.device)
            return self.embedding(inputs, position[:, None] + steps)
        if isinstance(self.embedding, AudioEmbedding):
            return self.embedding(inputs, None)
        return self.embedding(inputs)

    def _answers(self, features: Tensor, inputs: Tensor) -> Tensor:
        """Return r(B, L, out) for pooled features r(B, L, H) and the inputs r(B, L, ...) that came with them."""
        found = self.head(features)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        if self._follows is None:
            return found
        last = inputs[..., self._follows].to(found.dtype)  # r(B, L, K)
        return found + last.repeat(1, 1, self.config.task.horizon)

    def _check(self, inputs: Tensor, lengths: Tensor | None) -> None:
        dims, channels = (2, ()) if self.config.reader == "tokens" else (3, (self.config.channels,))
        if inputs.dim() != dims or not inputs.shape[1] or inputs.shape[2:] != channels:
            expected = ", ".join(("batch", "length >= 1", *map(str, channels)))
            raise ValueError(f"inputs have shape {tuple(inputs.shape)}, expected ({expected})")
        if lengths is not None:
            check_lengths(lengths, inputs)
        if self.config.task.bidirectional and key_of_rows(self.config.model) and self.raster is not None:
            # From the end of less than an image, the reversed lines would be none of its rows and columns.
            whole = self.raster.pixels
            if inputs.shape[1] != whole or (lengths is not None and (lengths != whole).any()):
                raise ValueError(f"this model reads whole images of {whole} pixels, and in both directions")

    def _check_steps(self) -> None:
        if self.config.task.bidirectional:
            raise ValueError(ONE_DIRECTION)


def _reader(config: PredictorConfig) -> Any:
    """Return the module that turns inputs into features. Tables of tokens are named as those of density models."""
    layout, model = config.layout, config.model
    if config.reader == "spectrum":
        assert isinstance(layout, AudioLayout)
        return nn.Linear(frame_stride(layout.rate) + 1, model.d_model)
    if config.reader == "values" or isinstance(layout, SeriesLayout):
        return nn.Linear(config.channels, model.d_model)
    if isinstance(layout, ImageLayout):
        return ImageEmbedding(layout, model.d_model)
    if isinstance(layout, AudioLayout):
        return AudioEmbedding(layout, model.d_model)
    assert isinstance(layout, TextLayout)
    if model.tied or model.cutoffs:
        return AdaptiveEmbedding(layout.vocab, model.d_model, model.cutoffs, model.div, model.dropout)
    return nn.Embedding(layout.vocab, model.d_model)


def _columns_to_follow(config: PredictorConfig) -> list[int] | None:
    """Return where the columns that are forecast stand in an input; None if forecasts are not relative to them."""
    if config.task.kind != "forecast" or not config.task.relative:
        return None
    assert isinstance(config.layout, SeriesLayout)
    return [config.layout.columns.index(name) for name in config.answers.names]


def _at(x: Tensor, index: Tensor) -> Tensor:
    """Return position index[b] int64 of each row of x (B, L, ...)."""
    return x[torch.arange(len(x), device=x.device), index]


def _mean(x: Tensor, counts: Tensor) -> Tensor:
    """Average the first `counts` positions of x r(B, T, H): r(B, H)."""
    inside = torch.arange(x.shape[1], device=x.device) < counts[:, None]
    return torch.where(inside[..., None], x, 0).sum(1) / counts.clamp_min(1)[:, None]
