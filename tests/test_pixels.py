"""Whole-pixel models: the contracts of their parts and of the whole, and that their probabilities are probabilities."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from test_models import assert_same, leaves, noisy, run_steps
from torch import Tensor

from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig
from s4gen.evaluate import scorers
from s4gen.models.axial import Axial
from s4gen.models.blocks import Block
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.models.mixture import MixtureHead, median_edge
from s4gen.models.raster import Raster, neighbourhood
from s4gen.models.ssm_layers import S4, S4D
from s4gen.models.taps import Taps

COLOUR = ImageLayout(height=5, width=4, channels=3, levels=7)
GREY = ImageLayout(height=6, width=5, channels=1, levels=11)
SSM = SSMConfig(d_state=8, init="lin", dt_min=0.01, dt_max=0.5)
BASE = ModelConfig(d_model=8, n_layers=2, d_ff=12, n_heads=2, whole_pixels=True)
KINDS: dict[str, dict[str, Any]] = {
    "left pixel": {},
    "neighbourhood": {"neighbourhood": 2},
    "taps": {"taps": True},
    "mixture": {"neighbourhood": 2, "taps": True, "head": "mixture", "components": 3},
    "zero start": {"neighbourhood": 1, "taps": True, "head": "mixture", "components": 3, "zero_start": True},
    "axial": {"neighbourhood": 2, "taps": True, "scan": ("row", "column"), "head": "mixture", "components": 2},
    "column": {"scan": ("column",)},
    "no ssm": {"neighbourhood": 2, "taps": True, "scan": ("none",)},
    "some ssm": {"taps": True, "scan": ("none", "raster"), "head": "mixture"},
    "s4": {"mixer": "s4", "head": "mixture", "taps": True},
    "h3": {"mixer": "h3", "head": "mixture"},
}
LAYOUTS = {"colour": COLOUR, "grey": GREY}


def pixel_model(kind: str, layout: ImageLayout, dtype: torch.dtype = torch.float64) -> DensityModel:
    torch.manual_seed(0)
    model = dataclasses.replace(BASE, **KINDS[kind])
    init = "legs" if model.mixer == "s4" else SSM.init
    built: DensityModel = noisy(build_model(DensityConfig(layout, model, dataclasses.replace(SSM, init=init)))).to(
        dtype
    )
    return built


def images(layout: ImageLayout, n: int = 3) -> Tensor:
    return torch.randint(layout.levels, (n, layout.length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("colours", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_gives_the_same_at_once_in_chunks_and_in_steps(kind: str, colours: str, dtype: torch.dtype) -> None:
    """Chunks end in the middle of pixels and rows, and the sequence goes on into a second image."""
    layout = LAYOUTS[colours]
    model, x = pixel_model(kind, layout, dtype), images(layout)
    fed = torch.cat((torch.full_like(x[:, :1], model.bos), x, x.flip(1)[:, :17]), dim=1)
    with torch.no_grad():
        whole, after = model(fed)
        parts, state = [], None
        for first, last in itertools.pairwise((0, 1, 2, 9, 10, 23, fed.shape[1])):
            part, state = model(fed[:, first:last], state)
            parts.append(part)
        stepped, last_state = run_steps(model, fed, model.initial_state(len(x)))
    assert_same(torch.cat(parts, 1), whole, dtype)
    assert_same(stepped, whole, dtype)
    for a, b, c in zip(leaves(after), leaves(state), leaves(last_state), strict=True):
        assert_same(b.double(), a.double(), dtype)
        assert_same(c.double(), a.double(), dtype)


@pytest.mark.parametrize("colours", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_unequal_length_and_place_are_as_if_alone(kind: str, colours: str) -> None:
    """Prompts of 0 to 14 tokens are read together; then rows at different places read a chunk, and are stepped."""
    layout = LAYOUTS[colours]
    model, x = pixel_model(kind, layout), images(layout, 4)
    lengths = torch.tensor([0, 5, 6, 14])
    with torch.no_grad():
        logits, state = model.prefill(x[:, :14], lengths=lengths)
        more, after = model(x[:, 14:21], state)
        step, _ = model.step(x[:, 21], after)
        for row, n in enumerate(lengths.tolist()):
            own = slice(row, row + 1)
            alone, alone_state = model.prefill(x[own, :n])
            assert_same(logits[own], alone, torch.float64)
            alone_more, alone_after = model(x[own, 14:21], alone_state)
            assert_same(more[own], alone_more, torch.float64)
            assert_same(step[own], model.step(x[own, 21], alone_after)[0], torch.float64)
            for ours, theirs in zip(leaves(after), leaves(alone_after), strict=True):
                assert_same(ours[own].double(), theirs.double(), torch.float64)


@pytest.mark.parametrize("colours", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_quick_likelihood_of_whole_images_is_that_of_their_tokens(kind: str, colours: str) -> None:
    layout = LAYOUTS[colours]
    model, x = pixel_model(kind, layout), images(layout)
    tokens = scorers.fed(x, model.bos)
    with torch.no_grad():
        quick = model.nats(x)
        slow, after = DensityModel.score(model, tokens, x)
    assert_same(quick, slow, torch.float64)
    for size in (layout.channels * 4, 5):  # pieces of whole pixels, and others
        state, parts = None, []
        with torch.no_grad():
            for piece, target in zip(tokens.split(size, 1), x.split(size, 1), strict=True):
                nats, state = model.score(piece, target, state)
                parts.append(nats)
        assert_same(torch.cat(parts, 1), slow, torch.float64)
        for ours, theirs in zip(leaves(state), leaves(after), strict=True):
            assert_same(ours.double(), theirs.double(), torch.float64)


def test_targets_that_are_not_fed_are_scored_as_in_every_density_model() -> None:
    """The quick likelihood takes the earlier channels from the targets, so these must be what is fed."""
    model, x = pixel_model("mixture", COLOUR), images(COLOUR)
    tokens, other = scorers.fed(x, model.bos), (x + 1) % COLOUR.levels
    with torch.no_grad():
        assert_same(model.score(tokens, other)[0], DensityModel.score(model, tokens, other)[0], torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_changes_the_probability_of_an_earlier_one(kind: str) -> None:
    model, x = pixel_model(kind, COLOUR), images(COLOUR, 1)
    with torch.no_grad():
        nats = model.nats(x)
        for t in range(COLOUR.length):
            changed = x.clone()
            changed[0, t] = (changed[0, t] + 3) % COLOUR.levels
            assert torch.equal(model.nats(changed)[:, :t], nats[:, :t])


@pytest.mark.parametrize("kind", ["taps", "axial", "no ssm", "some ssm"])
def test_no_gradient_flows_from_a_block_to_a_later_pixel(kind: str) -> None:
    """And there is one to every earlier pixel in the block's reach: of a raster layer, to all of them."""
    raster = Raster(4, 3)
    model = dataclasses.replace(BASE, **KINDS[kind])
    for scan in set(model.scan):
        block = noisy(Block(model, SSM, raster, scan)).double()
        u = torch.randn(1, raster.pixels, 8, dtype=torch.float64, requires_grad=True)
        y, _ = block(u)
        for t in range(raster.pixels):
            (gradient,) = torch.autograd.grad(y[0, t].sum(), u, retain_graph=True)
            size = gradient[0].abs().sum(-1)
            assert size[t + 1 :].eq(0).all()
            assert size[t] > 0
            if scan == "raster":
                assert size[:t].gt(0).all()


@pytest.mark.parametrize("head", ["categorical", "mixture"])
def test_the_probabilities_of_all_sequences_sum_to_one(head: str) -> None:
    layout = ImageLayout(height=2, width=1, channels=2, levels=4)
    model = dataclasses.replace(BASE, head=head, components=3 if head == "mixture" else 10, neighbourhood=1)
    built = noisy(build_model(DensityConfig(layout, model, SSM))).double()
    every = torch.tensor(list(itertools.product(range(4), repeat=4)))
    with torch.no_grad():
        total = built.log_prob(every).exp().sum().item()
    assert total == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 11, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_mixture_sums_to_one_even_far_from_its_means(channels: int, levels: int) -> None:
    """In float32 too; the tails do not become zero, so that no value costs infinitely much."""
    torch.manual_seed(0)
    head = MixtureHead(8, channels, levels, 5, zero_start=False)
    with torch.no_grad():
        head.linear.weight.mul_(20)
        kept = head.prepare(torch.randn(64, 8), 3 * torch.rand(64, channels) - 1.5)
        for c in range(channels):
            known = torch.randint(levels, (64, channels))
            log_probs = head.log_probs(kept, known, torch.full((64,), c))
            assert (log_probs.double().exp().sum(-1) - 1).abs().max() < 2e-6
            assert log_probs.isfinite().all()


def test_the_mixture_is_a_mixture_of_discretised_logistics() -> None:
    """Against the definition with S itself, in float64, for three channels with coupling."""
    torch.manual_seed(0)
    K, C, V = 4, 3, 256
    head = noisy(MixtureHead(8, C, V, K, zero_start=False)).double()
    with torch.no_grad():
        head.linear.bias[1::10] += 0.1
        hidden, base = torch.randn(1, 8, dtype=torch.float64), torch.tensor([[0.02, -0.3, 0.9]]).double()
        pixel = torch.tensor([[130, 90, 255]])
        output = head.linear(hidden)[0].view(K, -1)
        got = head.nats(head.prepare(hidden, base), pixel)[0]
    weights, scale = output[:, 0].softmax(0), (4 * output[:, 4:7]).clamp(-7, 2).exp()
    v, a, joint = 2 * pixel[0].double() / (V - 1) - 1, output[:, 7:].tanh(), [torch.ones(K)]
    for c in range(C):
        mean = base[0, c] + output[:, 1 + c]
        for j in range(c):
            mean = mean + a[:, c * (c - 1) // 2 + j] * (v[j] - base[0, j])
        upper = torch.sigmoid((v[c] + 1 / 255 - mean) / scale[:, c]) if pixel[0, c] < 255 else 1.0
        lower = torch.sigmoid((v[c] - 1 / 255 - mean) / scale[:, c]) if pixel[0, c] > 0 else 0.0
        joint.append(joint[-1] * (upper - lower))
    masses = [(weights * j).sum() for j in joint]
    wanted = torch.stack([-torch.log(b / a) for a, b in itertools.pairwise(masses)])
    assert_same(got, wanted, torch.float64)


def test_the_predictor_is_the_median_of_its_three_guesses() -> None:
    left, above, corner = torch.rand(3, 1000, dtype=torch.float64)
    wanted = torch.stack((left, above, left + above - corner)).median(0).values
    assert_same(median_edge(left, above, corner), wanted, torch.float64)


@pytest.mark.parametrize("width", [1, 2, 9])
def test_the_neighbourhood_lies_before_the_pixel_and_inside_of_the_image(width: int) -> None:
    raster, place = Raster(4, width), torch.arange(4 * width)
    offsets = neighbourhood(2, width)
    assert len(set(offsets)) == len(offsets)
    inside = raster.inside(place, offsets)
    for offset, column in zip(offsets, inside.unbind(1), strict=True):
        back = raster.distance(offset)
        assert back >= 1
        for k in place.tolist():
            row, at = divmod(k, width)
            expected = row + offset[0] >= 0 and 0 <= at + offset[1] < width
            assert bool(column[k]) == expected
            if expected:
                assert divmod(k - back, width) == (row + offset[0], at + offset[1])


def test_taps_read_the_four_neighbours() -> None:
    raster = Raster(3, 4)
    taps = noisy(Taps(2, raster)).double()
    u = torch.randn(1, 12, 2, dtype=torch.float64)
    grid, padded = u.view(3, 4, 2), torch.zeros(4, 6, 2, dtype=torch.float64)
    padded[1:, 1:5] = grid
    w = taps.weight
    wanted = padded[1:, :4] * w[0] + padded[:3, :4] * w[1] + padded[:3, 1:5] * w[2] + padded[:3, 2:] * w[3]
    assert_same(taps(u)[0], wanted.reshape(1, 12, 2), torch.float64)


@pytest.mark.parametrize("layer", [S4D, S4])
def test_an_axial_layer_is_the_layer_along_rows_or_columns(layer: Any) -> None:
    raster, inner = Raster(4, 3), noisy(layer(5, dataclasses.replace(SSM, init="legs"))).double()
    u = torch.randn(2, 12, 5, dtype=torch.float64)
    with torch.no_grad():
        grid = u.view(2, 4, 3, 5)
        for axis, wanted in (
            ("row", torch.stack([inner(grid[:, r])[0] for r in range(4)], dim=1)),
            ("column", torch.stack([inner(grid[:, :, c])[0] for c in range(3)], dim=2)),
        ):
            assert_same(Axial(inner, axis, raster)(u)[0], wanted.reshape(2, 12, 5), torch.float64)


@pytest.mark.parametrize("kind", ["left pixel", "mixture", "axial", "h3"])
def test_a_zero_start_leaves_the_stack_silent(kind: str) -> None:
    """Every block is the identity, and the mixture does not depend on the pixel: it is a prediction from neighbours."""
    model = dataclasses.replace(BASE, **KINDS[kind], zero_start=True)
    built = build_model(DensityConfig(COLOUR, model, SSM))
    x = torch.randn(2, COLOUR.length // 3, 8)
    with torch.no_grad():
        for block in built.blocks:
            assert torch.equal(block(x)[0], x)


def test_an_untrained_mixture_around_the_predictor_beats_a_uniform_guess_on_a_smooth_image() -> None:
    layout = ImageLayout(16, 16, 3)
    model = dataclasses.replace(BASE, head="mixture", zero_start=True)
    built = build_model(DensityConfig(layout, model, SSM))
    ramp = (torch.arange(16)[:, None] * 6 + torch.arange(16) * 5).expand(3, 16, 16).permute(1, 2, 0).reshape(1, -1)
    with torch.no_grad():
        bits = built.nats(ramp).mean().item() / math.log(2)
    assert bits < 6
