"""Predictors: the same answers in parallel, in chunks and step by step; padding changes nothing; batch norms."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_predictor import CLASSES, LAYOUTS, config_of, predictor, rows_for
from torch import nn

from s4gen.config import (
    Answers,
    DensityConfig,
    ModelConfig,
    PredictorConfig,
    SSMConfig,
    TaskConfig,
    predictor_config_from_dict,
    predictor_config_to_dict,
)
from s4gen.config.checks import ConfigError
from s4gen.config.mixers import MIXERS
from s4gen.models.bidirectional import Bidirectional
from s4gen.models.flops import count_flops
from s4gen.models.norms import BatchNorm
from s4gen.models.predictor import Predictor
from s4gen.sampling.streams import Stepped, Stream

ALIKE: dict[str, float] = {"rtol": 0, "atol": 1e-10}
KINDS = [
    config_of("series"),
    config_of("series", pool="last", batch_norm=True),
    config_of("series", "regress", norm="post", batch_norm=True),
    config_of("series", "forecast"),
    config_of("series", "forecast", relative=False, pool="mean", scalar_norm=True),
    config_of("text", pool="last", norm="post", mixer="s4"),
    config_of("text", mixer="attention", n_heads=3, window=5, tied=False),
    config_of("text", mixer="h3"),
    config_of("image"),
    config_of("image", reader="tokens", mixer="dss"),
    config_of("image", taps=True, scan=("row", "none", "column")),
    config_of("image", taps=True, norm="post", batch_norm=True, scan=("column",), mixers_per_block=2),
    config_of("audio", mixer="lssl", d_state=4),
    config_of("audio", reader="tokens", mixers_per_block=2),
]
BOTH = [
    config_of("series", bidirectional=True),
    config_of("series", "forecast", bidirectional=True, batch_norm=True),
    config_of("text", bidirectional=True, pool="last", mixer="s4", norm="post"),
    config_of("audio", bidirectional=True, reader="spectrum"),
]
SQUARES = [
    config_of("image", bidirectional=True, taps=True, scan=("row", "column", "none"), n_layers=3),
    config_of("image", bidirectional=True, batch_norm=True, scan=("column",)),
    config_of("image", bidirectional=True, taps=True),
]
"""Models that read whole images in both directions along rows and columns."""


def name_of(config: PredictorConfig) -> str:
    return f"{config.layout.kind}-{config.task.kind}-{config.reader}-{config.model.mixer}-{config.task.pooling}"


@pytest.mark.parametrize("config", KINDS, ids=name_of)
@torch.no_grad()
def test_in_parallel_in_chunks_and_step_by_step_the_answers_are_the_same(config: PredictorConfig) -> None:
    model, rows = predictor(config), rows_for(config, 3, 17)
    whole, after = model(rows)
    assert whole.shape == (3, 17, config.n_out)
    first, state = model(rows[:, :5])
    second, state = model(rows[:, 5:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole, **ALIKE)
    stepped, steps = [], model.initial_state(3)
    for position in rows.unbind(1):
        answer, steps = model.step(position, steps)
        stepped.append(answer)
    torch.testing.assert_close(torch.stack(stepped, 1), whole, **ALIKE)
    assert state.position.tolist() == after.position.tolist() == steps.position.tolist() == [17] * 3
    torch.testing.assert_close(model.answer(rows), whole[:, -1], **ALIKE)
    assert (whole[:, 4] - whole[:, -1]).abs().amax(-1).min() > 1e-4, "answers must differ for this to mean anything"
    # The converted model, which streams use, takes the same steps.
    torch.testing.assert_close(Stepped(model).answer(rows), whole[:, -1], **ALIKE)
    stream = Stream(model)
    for position in rows[1]:
        stream.read(position[None])
    torch.testing.assert_close(stream.answer(), whole[1, -1], **ALIKE)
    assert stream.position == 17


@pytest.mark.parametrize("config", KINDS, ids=name_of)
@torch.no_grad()
def test_a_stream_that_comes_in_blocks_of_any_size_has_the_answers_of_one_that_is_stepped(
    config: PredictorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s4gen.sampling.streams.PIECES", (8, 4))
    model, row = predictor(config), rows_for(config, 1, 37)[0]
    wanted = model(row[None])[0][0, 4::5]
    blocks, stream = row.split([0, 1, 20, 3, 13]), Stream(model)
    torch.testing.assert_close(torch.stack(list(stream.answers(blocks, 5))), wanted, **ALIKE)
    assert stream.position == 37
    long = Stream(model)
    long.read(row)
    long.read(row[:0])
    torch.testing.assert_close(long.answer(), model.answer(row[None])[0], **ALIKE)


@pytest.mark.parametrize("config", [*KINDS, *BOTH], ids=name_of)
@torch.no_grad()
def test_what_stands_behind_the_end_of_a_row_changes_nothing(config: PredictorConfig) -> None:
    model, rows, lengths = predictor(config), rows_for(config, 4, 24), torch.tensor([24, 1, 13, 8])
    together = model.answer(rows, lengths)
    apart = torch.cat([model.answer(row[None, :n]) for row, n in zip(rows, lengths.tolist(), strict=True)])
    torch.testing.assert_close(together, apart, **ALIKE)
    filled = rows.clone()
    for row, n in zip(filled, lengths.tolist(), strict=True):
        row[n:] = 5 if config.reader == "tokens" else float("nan")
    assert torch.equal(model.answer(filled, lengths), together)
    if not config.task.bidirectional:
        torch.testing.assert_close(Stepped(model).answer(rows, lengths), together, **ALIKE)


@pytest.mark.parametrize("config", [c for c in (*KINDS, *BOTH) if c.reader == "values"], ids=name_of)
@pytest.mark.parametrize("training", [False, True])
def test_no_gradient_comes_from_padding_and_one_from_every_position_that_counts(
    config: PredictorConfig, training: bool
) -> None:
    model = predictor(config).train(training)
    rows = rows_for(config, 3, 12).requires_grad_()
    target = torch.tensor([0, 1, 2]) if config.task.kind == "classify" else torch.zeros(3, config.n_out)
    model.losses(rows, target, torch.tensor([12, 5, 9])).sum().backward()
    assert rows.grad is not None
    reached = rows.grad.abs().sum(-1) > 0
    wanted = torch.arange(12) < torch.tensor([[12], [5], [9]])
    assert torch.equal(reached, wanted)


@torch.no_grad()
def test_a_state_after_lengths_is_that_of_each_row_at_its_end() -> None:
    config = config_of("series")
    model, rows, lengths = predictor(config), rows_for(config, 3, 9), torch.tensor([9, 0, 4])
    _, state = model(rows, lengths=lengths)
    more = rows_for(config, 3, 4, seed=2)
    continued, _ = model(more, state)
    for i, n in enumerate(lengths.tolist()):
        whole = model.answer(torch.cat((rows[i, :n], more[i]))[None])
        torch.testing.assert_close(continued[i, -1], whole[0], **ALIKE)


@pytest.mark.parametrize("config", BOTH, ids=name_of)
def test_a_model_of_both_directions_refuses_steps_and_says_why(config: PredictorConfig) -> None:
    model = predictor(config)
    for refused in (
        lambda: model.initial_state(1),
        lambda: model(rows_for(config, 1, 9)),
        lambda: Stream(model),
        lambda: Stepped(model),
    ):
        with pytest.raises(ValueError, match=r"in both directions \(task.bidirectional = true\), so it has no answer"):
            refused()


@pytest.mark.parametrize("config", SQUARES, ids=name_of)
@torch.no_grad()
def test_an_image_read_from_its_other_end_is_read_along_the_same_rows_and_columns(config: PredictorConfig) -> None:
    """With both directions exchanged, the image turned by half a turn has the features of the image, turned likewise.

    So layers along rows see rows, and not what else stands side by side when pixels are counted from the end.
    """
    model, images = predictor(config), rows_for(config, 2, 20)
    turned = copy.deepcopy(model)
    for block in turned.blocks:
        for both in (block.mixer, block.taps):
            if isinstance(both, Bidirectional):
                both.forward_layer, both.backward_layer = both.backward_layer, both.forward_layer
    torch.testing.assert_close(turned.answer(images.flip(1)), model.answer(images), **ALIKE)
    # A pixel beyond the end of a row is no neighbour: rows are 5 wide, so pixel 4 and pixel 5 are in different ones.
    only_rows = predictor(config_of("image", bidirectional=True, scan=("row",), n_layers=1, d_ff=0))
    features = only_rows.blocks[0](torch.zeros(1, 20, 12, dtype=torch.float64))[0]
    changed = torch.zeros(1, 20, 12, dtype=torch.float64)
    changed[0, 5] = torch.arange(12)
    differs = (only_rows.blocks[0](changed)[0] - features).abs().amax(-1)[0] > 1e-9
    assert differs.tolist() == [5 <= pixel < 10 for pixel in range(20)]


@pytest.mark.parametrize("config", SQUARES, ids=name_of)
def test_an_image_in_both_directions_is_read_whole_or_refused(config: PredictorConfig) -> None:
    model = predictor(config)
    for rows, lengths in ((rows_for(config, 2, 15), None), (rows_for(config, 2, 20), torch.tensor([20, 15]))):
        with pytest.raises(ValueError, match="reads whole images of 20 pixels"):
            model.answer(rows, lengths)


def test_a_batch_norm_is_that_of_torch_and_counts_valid_positions_alone() -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm(5).double(), nn.BatchNorm1d(5).double()
    x = 3 * torch.randn(4, 7, 5, dtype=torch.float64) + 2
    for _ in range(3):
        torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2), **ALIKE)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, **ALIKE)
    torch.testing.assert_close(ours.running_var, theirs.running_var, **ALIKE)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.transpose(1, 2)).transpose(1, 2), **ALIKE)
    lengths = torch.tensor([7, 1, 3, 5])
    packed = torch.cat([row[:n] for row, n in zip(x, lengths.tolist(), strict=True)])
    one, other = BatchNorm(5).double(), BatchNorm(5).double()
    other(packed[None])
    poisoned = x.masked_fill(torch.arange(7)[None, :, None] >= lengths[:, None, None], 1e9)
    found = one(poisoned, lengths)
    wanted = BatchNorm(5).double()(packed[None])[0].split(lengths.tolist())
    for row, n, whole in zip(found, lengths.tolist(), wanted, strict=True):
        torch.testing.assert_close(row[:n], whole, **ALIKE)
    torch.testing.assert_close(one.running_mean, other.running_mean, **ALIKE)
    torch.testing.assert_close(one.running_var, other.running_var, **ALIKE)


@torch.no_grad()
def test_a_relative_forecast_follows_the_level_of_its_column_alone() -> None:
    """Untrained it forecasts the last value; the shift that a trained one is given comes out again."""
    config = config_of("series", "forecast")
    rows = rows_for(config, 2, 12)
    last = rows[:, -1, 1:2].expand(-1, 3)
    torch.testing.assert_close(Predictor(config).double().eval().answer(rows), last, rtol=0, atol=1e-6)
    assert not torch.allclose(Predictor(config_of("series", "forecast", relative=False)).double()(rows)[0][:, -1], last)


def test_losses_are_cross_entropy_and_mean_squared_errors() -> None:
    config = config_of("series")
    model, rows = predictor(config), rows_for(config, 4, 6)
    target = torch.tensor([0, 2, 1, 1])
    wanted = -model.answer(rows).log_softmax(-1)[torch.arange(4), target]
    torch.testing.assert_close(model.losses(rows, target), wanted, **ALIKE)
    config = config_of("series", "forecast")
    model, truth = predictor(config), torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(model.losses(rows, truth), (model.answer(rows) - truth).square().mean(-1), **ALIKE)


@pytest.mark.parametrize("config", [*KINDS, *BOTH, *SQUARES], ids=name_of)
def test_a_configuration_survives_the_trip_through_json(config: PredictorConfig) -> None:
    assert predictor_config_from_dict(predictor_config_to_dict(config)) == config


@pytest.mark.parametrize("config", [KINDS[0], KINDS[5], BOTH[0], SQUARES[0]], ids=name_of)
def test_operations_are_those_that_torch_counts(config: PredictorConfig) -> None:
    """What two more rows cost: kernels are made once for all rows, and do not count."""
    from torch.utils.flop_counter import FlopCounterMode

    model, counted = predictor(config).float(), []
    length = 20 if config.layout.kind == "image" else 40
    for n in (1, 3):
        with FlopCounterMode(display=False) as counter:
            model.answer(rows_for(config, n, length).to(torch.int64 if config.reader == "tokens" else torch.float32))
        counted.append(counter.get_total_flops())
    assert count_flops(model, length).forward == pytest.approx((counted[1] - counted[0]) / 2, rel=0.05)


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("series", "classify", {"mixer": "wavenet"}, 'model.mixer = "wavenet" is for density models'),
    ("series", "classify", {"mixer": "attention", "n_heads": 3}, "model.window = 0: attention needs a window"),
    ("series", "classify", {"bidirectional": True, "mixer": "h3"}, "does not go with task.bidirectional = true"),
    ("series", "classify", {"reader": "tokens"}, 'task.reader = "tokens" does not go with data of kind series'),
    ("text", "classify", {"reader": "values"}, 'task.reader = "values" does not go with data of kind text'),
    ("audio", "classify", {"reader": "spectrum"}, "needs task.bidirectional = true"),
    ("text", "classify", {"reader": "spectrum", "bidirectional": True}, "goes with audio, not with data of kind text"),
    ("series", "classify", {"horizon": 3}, 'task.horizon = 3 goes with task.kind = "forecast", not with "classify"'),
    ("series", "classify", {"pool": "max"}, 'task.pool = "max": expected one of auto, mean, last'),
    ("series", "forecast", {"horizon": 0}, "task.horizon = 0: expected at least 1"),
    ("series", "forecast", {"reader": "values"}, 'task.reader = "values" goes with task.kind = "classify"'),
    ("text", "classify", {"taps": True}, "model.taps = true goes with images, not with data of kind text"),
    ("series", "forecast", {"scan": ("row",)}, "model.scan = ['row'] goes with images, not with data of kind series"),
    ("image", "classify", {"taps": True, "reader": "tokens"}, 'model.taps goes with task.reader = "values"'),
    ("image", "classify", {"scan": ("row",), "mixer": "h3"}, 'does not go with model.mixer = "h3": expected "raster"'),
    ("audio", "classify", {"recent": 4}, 'model.recent = 4 goes with task.kind = "density", not with "classify"'),
    (
        "series",
        "classify",
        {"batch_norm": True, "scalar_norm": True},
        "model.batch_norm = true does not go with model.sc",
    ),
]


@pytest.mark.parametrize(("kind", "task", "changes", "message"), REFUSED, ids=[row[3][:40] for row in REFUSED])
def test_what_cannot_be_is_refused_in_one_line(kind: str, task: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_of(kind, task, **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_density_model_has_no_batch_norm() -> None:
    for layout in (LAYOUTS["image"], LAYOUTS["text"], LAYOUTS["audio"]):
        with pytest.raises(ConfigError, match=r'model.batch_norm = true goes with task.kind = "classify" or "regress"'):
            DensityConfig(layout, ModelConfig(d_model=8, batch_norm=True), SSMConfig())  # type: ignore[arg-type]


def test_every_mixer_that_can_stand_in_a_block_can_predict() -> None:
    made = {config.model.mixer for config in KINDS}
    assert made == {name for name, mixer in MIXERS.items() if not mixer.whole_stack}


def test_answers_are_named_and_scaled_or_refused() -> None:
    for bad in (Answers, lambda names: Answers(names, (1.0,), ()), lambda names: Answers(names, (1.0,), (0.0,))):
        with pytest.raises(ConfigError):
            bad(() if bad is Answers else ("a",))
    with pytest.raises(ConfigError, match="none of the columns that are read"):
        PredictorConfig(
            LAYOUTS["series"],
            ModelConfig(),
            SSMConfig(),
            TaskConfig("forecast", window=4, horizon=1),
            Answers(("c",), (0.0,), (1.0,)),
        )
    assert config_of("series").answers.names == CLASSES
    assert np.isfinite(config_of("series").layout.length)
