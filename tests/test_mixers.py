"""The table of mixers says what is so, and a new mixer needs its file, one line of the table and one builder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from test_models import SSM_KINDS
from torch import Tensor, nn

from s4gen.cli.info import preset_facts
from s4gen.config import DensityConfig, ImageLayout, Layout, ModelConfig, SSMConfig
from s4gen.config.checks import ConfigError
from s4gen.config.combinations import check_window
from s4gen.config.mixers import MIXERS, Mixer
from s4gen.models.build import build_model
from s4gen.models.mixers import BUILDERS, make_mixer
from s4gen.models.states import leaves
from s4gen.sampling.certify import certify
from s4gen.sampling.convert import convert
from s4gen.sampling.engines import make_engine
from s4gen.sampling.generate import generate

PACKAGE = Path(__file__).resolve().parent.parent / "s4gen"
GREY = ImageLayout(height=3, width=2, channels=1, levels=5)


def config_of(name: str, layout: Layout = GREY) -> DensityConfig:
    return DensityConfig(layout, ModelConfig(name, d_model=4, n_layers=1, n_heads=2, d_ff=3), SSMConfig(d_state=4))


def test_every_mixer_of_the_table_is_built_and_tested() -> None:
    assert set(BUILDERS) == set(MIXERS)
    assert {mixer for mixer, _ in SSM_KINDS.values()} == {
        name for name, mixer in MIXERS.items() if not mixer.whole_stack
    }


@pytest.mark.parametrize("name", MIXERS)
def test_the_traits_are_those_of_the_module(name: str) -> None:
    mixer, config = MIXERS[name], ModelConfig(name, d_model=4, n_heads=2, n_layers=1, d_ff=3)
    module = make_mixer(config, SSMConfig(d_state=4)).eval()
    u = torch.randn(2, 5, 4)
    assert any(hasattr(part, "rescale_dt_") for part in module.modules()) == mixer.has_dt
    assert hasattr(module, "out") == mixer.mixes_features
    if mixer.ragged:
        module(u, None, torch.tensor([2, 5]))
    elif name == "attention":
        with pytest.raises(ValueError, match="lengths"):
            module(u, None, torch.tensor([2, 5]))
    state = module.initial_state(2)
    before = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves(state)]
    after = module.step(u[:, 0], state)[1]
    shapes = [[getattr(leaf, "shape", None) for leaf in leaves(each)] for each in (state, after)]
    untouched = all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(before, leaves(state), strict=True)
    )
    found = "growing" if shapes[0] != shapes[1] else "fixed" if untouched else "in place"
    assert found == mixer.state


def test_nothing_else_asks_a_mixer_for_its_name() -> None:
    names = "|".join(MIXERS)
    asking = re.compile(rf'mixer\s*(==|!=|\bin\b|\bnot in\b)|(==|!=|\bin\b)\s*\(?"({names})"')
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if asking.search(line) and not re.search(r"\bfor \w*,? ?mixer in\b", line)
    ]
    allowed = ("importing/", "sampling/ancestors.py", "bench/")
    assert [line for line in found if not line.startswith(allowed)] == []


class RunningMean(nn.Module):
    """y_k = y_(k-1) / 2 + linear(u_k) / 2: a mixer that the package does not have."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.out = nn.Linear(d_model, d_model)

    def initial_state(self, batch: int) -> Tensor:
        return self.out.weight.new_zeros(batch, self.out.in_features)

    def forward(self, u: Tensor, state: Tensor | None = None, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, state = [], self.initial_state(len(u)) if state is None else state
        for u_k in u.unbind(1):
            y_k, state = self.step(u_k, state)
            y.append(y_k)
        whole = torch.stack(y, 1)
        return whole, whole[:, -1]

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y = (state + self.out(u)) / 2
        return y, y


def test_a_new_mixer_is_a_line_of_the_table_and_a_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "mean", Mixer("mean", ragged=False))
    monkeypatch.setitem(BUILDERS, "mean", lambda model, _: RunningMean(model.d_model))
    recurrent = convert(build_model(config_of("mean")))
    assert certify(recurrent, torch.randint(5, (2, 6))).max_abs_logprob_difference < 1e-4
    assert make_engine("auto", recurrent).name == "eager"
    prompt = torch.randint(5, (2, 2))
    drawn = generate(recurrent, 2, seed=0, prompt=prompt, engine="eager")
    assert drawn.shape == (2, 6)
    assert torch.equal(drawn[:, :2], prompt)


def test_the_keys_that_a_mixer_reads_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One with a size of its own, but no initial Lambda and no dt, has one key of [ssm]; attention has none."""
    monkeypatch.setitem(MIXERS, "mean", Mixer("mean", reads=("d_state",)))
    monkeypatch.setitem(BUILDERS, "mean", lambda model, _: RunningMean(model.d_model))
    monkeypatch.setattr(RunningMean, "flops", lambda self, length: 2 * length * self.out.weight.numel(), raising=False)
    shown = {}
    for name in ("mean", "attention", "s4", "s4d"):
        (tmp_path / f"{name}.toml").write_text(f'[model]\nmixer = "{name}"\nd_model = 8\nn_heads = 2\n')
        shown[name] = set(preset_facts(str(tmp_path / f"{name}.toml")).get("ssm", {}))
    assert shown["mean"] == {"d_state"}
    assert shown["attention"] == set()
    assert shown["s4"] - shown["s4d"] == {"tie_Q"} and shown["s4d"] - shown["s4"] == {"tie_dt"}


def test_a_mixer_for_some_kinds_of_data_is_refused_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "mean", Mixer("mean", kinds=("text", "audio")))
    check_window("audio", ModelConfig("mean"), "it")
    with pytest.raises(ConfigError, match='"mean" goes with text and sound, not with these images'):
        check_window("image", ModelConfig("mean"), "these images")
