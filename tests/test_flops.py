"""Operations counted from shapes are those that PyTorch counts while it computes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s4gen.config import AudioLayout, DensityConfig, ImageLayout, ModelConfig, SSMConfig, TextLayout
from s4gen.config.layouts import Layout
from s4gen.models.build import build_model, build_shapes
from s4gen.models.density import DensityModel
from s4gen.models.flops import Flops, count_flops

COLOUR = ImageLayout(height=12, width=10, channels=3, levels=9)
GREY = ImageLayout(height=9, width=20, channels=1, levels=9)
TEXT, SOUND = TextLayout(vocab=60, start=0, length=150), AudioLayout(rate=300, bits=5)
SSM = SSMConfig(d_state=8)
BASE = ModelConfig(d_model=24, n_layers=2, d_ff=40, n_heads=3)
PIXELS = dataclasses.replace(BASE, whole_pixels=True, neighbourhood=2, taps=True, scan=("row", "column"))
CASES: dict[str, tuple[Layout, ModelConfig]] = {
    "values": (COLOUR, BASE),
    "values, one block of the convolution": (dataclasses.replace(COLOUR, channels=1), BASE),
    "S4": (COLOUR, dataclasses.replace(BASE, mixer="s4")),
    "LSSL": (GREY, dataclasses.replace(BASE, mixer="lssl")),
    "no feed-forward": (GREY, dataclasses.replace(BASE, d_ff=0)),
    "attention": (GREY, dataclasses.replace(BASE, mixer="attention")),
    "U-Net": (COLOUR, dataclasses.replace(BASE, mixer="s4", pool=(3, 4), unet=True)),
    "pixels, mixture": (COLOUR, dataclasses.replace(PIXELS, head="mixture", components=3)),
    "pixels, softmax": (COLOUR, PIXELS),
    "pixels, grey": (GREY, PIXELS),
    "pixels, raster": (COLOUR, dataclasses.replace(PIXELS, scan=("raster", "none"))),
    "text": (TEXT, dataclasses.replace(BASE, mixer="h3")),
    "text in a window": (TEXT, dataclasses.replace(BASE, mixer="attention", window=40)),
    "sound": (SOUND, dataclasses.replace(BASE, pool=(4, 4))),
    "sound, its last samples": (SOUND, dataclasses.replace(BASE, recent=20)),
    "WaveNet": (SOUND, dataclasses.replace(BASE, mixer="wavenet")),
}


def counted(model: DensityModel, rows: int, length: int) -> Flops:
    """What PyTorch counts of a forward and a backward pass."""
    x = torch.randint(model.config.layout.vocab, (rows, length))
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of a CPU are not counted
        with FlopCounterMode(display=False) as forward:
            loss = model.nats(x).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return Flops(forward.get_total_flops(), backward.get_total_flops())


@pytest.mark.parametrize("case", CASES)
def test_a_count_from_shapes_is_what_is_computed(case: str) -> None:
    """The difference of two batches: kernels, which every batch needs once, are no operations of a sequence."""
    layout, model = CASES[case]
    config = DensityConfig(layout, model, SSM)
    built, wanted = build_model(config), count_flops(build_shapes(config), layout.length)
    few, many = (counted(built, rows, layout.length) for rows in (2, 5))
    assert (many.forward - few.forward) / 3 == pytest.approx(wanted.forward, rel=1e-9)
    assert (many.backward - few.backward) / 3 == pytest.approx(wanted.backward, rel=0.03)


def test_a_mixer_that_is_not_known_is_asked_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero would be the utilisation of a mixer that costs nothing."""

    class Foreign(nn.Linear):
        """A module that is in no table."""

    with_blocks = build_shapes(DensityConfig(GREY, BASE, SSM))
    counts = {}
    for block in with_blocks.blocks:
        counts[block] = block.mixer
        block.mixer = Foreign(24, 24)
    with pytest.raises(TypeError, match=r"operations of Foreign are not known: give it a method flops\(length\)"):
        count_flops(with_blocks, GREY.length)
    found = []
    for each in (0, 7):
        monkeypatch.setattr(Foreign, "flops", lambda _, length, each=each: each * length, raising=False)
        found.append(count_flops(with_blocks, GREY.length))
    added = len(with_blocks.blocks) * 7 * GREY.length
    assert found[1].forward - found[0].forward == added
    assert found[1].backward - found[0].backward == 2 * added


def test_an_adaptive_softmax_counts_its_first_part() -> None:
    """That part is all there is for tokens below the first cutoff; then the counts agree."""
    config = DensityConfig(TEXT, dataclasses.replace(BASE, mixer="h3", cutoffs=(20,)), SSM)
    model, wanted = build_model(config), count_flops(build_shapes(config), TEXT.length)
    found = []
    for rows in (2, 5):
        with FlopCounterMode(display=False) as counter:
            model.nats(torch.zeros(rows, TEXT.length, dtype=torch.int64))
        found.append(counter.get_total_flops())
    assert (found[1] - found[0]) / 3 == pytest.approx(wanted.forward, rel=1e-9)
