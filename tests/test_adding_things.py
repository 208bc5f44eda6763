"""ARCHITECTURE.md says where to add things. Each test follows a row: it edits the files named there, and no others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Copy:
    """A copy of the package, in which things are added; it notes which files were touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.touched: set[str] = set()
        for part in ("s4gen", "train", "models"):  # with the recipes and presets that ship
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))

    def replace(self, file: str, old: str, new: str) -> None:
        """Put `new` in the only place in a file where `old` stands."""
        path = self.folder / file
        source = path.read_text(encoding="utf-8")
        assert source.count(old) == 1, f"{old!r} in {file}"
        path.write_text(source.replace(old, new), encoding="utf-8")
        self.touched.add(file)

    def insert(self, file: str, before: str, text: str) -> None:
        """Insert a text before the only place in a file where `before` stands."""
        self.replace(file, before, text + before)

    def create(self, file: str, text: str) -> None:
        assert not (self.folder / file).exists()
        (self.folder / file).write_text(text, encoding="utf-8")
        self.touched.add(str(Path(file).parent) + "/")

    def run(self, code: str) -> str:
        """Run a program with this copy of s4gen and return its output."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=self.folder, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def row_of(thing: str) -> set[str]:
    """Return the files and folders of the package that the row names."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {re.escape(thing)} \| (.*) \|$", text, flags=re.MULTILINE)
    return {name for name in re.findall(r"`([^`]+)`", row) if name.startswith("s4gen/")}


MODEL = """
import torch
from s4gen.config import DensityConfig, ModelConfig, SSMConfig, TextLayout
from s4gen.models.build import build_model
from s4gen.models.flops import count_flops
from s4gen.sampling.convert import convert
from s4gen.sampling.engines import make_engine
from s4gen.sampling.filters import Filters
from s4gen.sampling.generate import generate

torch.manual_seed(0)
"""


def add_lowest(copy: Copy) -> None:
    """Add the filter `lowest`: tokens below it are never drawn."""
    copy.insert(
        "s4gen/config/filters.py",
        "    repetition_penalty: float = _setting(",
        '    lowest: int = _setting(0, "N", lambda value: value >= 0, "at least 0", "draw no token below N")\n\n',
    )
    copy.insert(
        "s4gen/sampling/filters.py",
        "        logits = apply_temperature(",
        "        logits = logits.masked_fill(torch.arange(logits.shape[-1]) < self.lowest, -math.inf)\n",
    )
    copy.insert(
        "s4gen/sampling/engines/native/draw.h", "  bool keep_all() const { return ", "  int64_t lowest = 0;\n\n"
    )
    copy.insert("s4gen/sampling/engines/native/draw.h", "temperature == 1 && top_p >= 1", "lowest == 0 && ")
    copy.replace("s4gen/sampling/engines/native/draw.h", "int64_t best = 0;", "int64_t best = f.lowest;")
    copy.insert(
        "s4gen/sampling/engines/native/draw.h",
        "      if (logits[i] > logits[best]) best = i;",
        "      if (i < f.lowest) {\n        logit_[i] = REMOVED;\n        continue;\n      }\n",
    )


DRAW = """
config = DensityConfig(TextLayout(9, 0, length=40), ModelConfig(d_model=8, n_layers=1, d_ff=0), SSMConfig(d_state=4))
recurrent = convert(build_model(config).eval())
tokens = generate(recurrent, 4, seed=0, filters=Filters(lowest=5), engine=ENGINE)
free = generate(recurrent, 4, seed=0, engine=ENGINE)
print(make_engine(ENGINE, recurrent, Filters(lowest=5)).name, tokens.min().item(), free.min().item() < 5)
"""


def test_a_filter(copy: Copy) -> None:
    add_lowest(copy)
    assert copy.touched == row_of("a filter")
    assert copy.run(MODEL + 'ENGINE = "eager"' + DRAW).split() == ["eager", "5", "True"]
    help_text = copy.run("from s4gen.cli import main; main(['sample', '-h'])")
    assert "--lowest" in help_text and "draw no token below N" in help_text


@pytest.mark.slow
def test_a_filter_in_the_native_engine(copy: Copy) -> None:
    """It is compiled anew, which takes its time."""
    add_lowest(copy)
    assert copy.run(MODEL + 'ENGINE = "native"' + DRAW).split() == ["native", "5", "True"]


def test_a_data_set(copy: Copy) -> None:
    copy.create(
        "s4gen/data/stripes.py",
        "import numpy as np\n\n\ndef load(split):\n"
        '    images = np.zeros((20 if split == "train" else 4, 4, 4, 1), np.uint8)\n'
        "    images[:, ::2] = 255\n"
        '    return images, np.zeros(len(images), np.int64), "made"\n',
    )
    copy.replace("s4gen/config/names.py", "\nIMAGE_SETS = (", '\nIMAGE_SETS = ("stripes", ')
    copy.insert("s4gen/data/opening.py", "from s4gen.data.folder_images", "from s4gen.data import stripes\n")
    copy.insert(
        "s4gen/data/opening.py",
        '    "mnist": Published(',
        '    "stripes": Published(stripes.load, ImageLayout(4, 4, 1), ("stripes",)),\n',
    )
    assert copy.touched == row_of("a data set of images")
    settings = ["data.dataset=stripes", "data.validation=4", "train.steps=40", "train.n_samples=0", "optim.lr=0.01"]
    small = ["model.d_model=8", "model.n_layers=1", "model.d_ff=0", "ssm.d_state=4"]
    code = "import sys\nfrom s4gen.cli import main\n"
    code += f"assert main(['train', 'mnist-small', '--out', 'run', '--set', *{[*settings, *small]}]) == 0\n"
    code += "sys.exit(main(['eval', 'run/checkpoint']))"
    found = copy.run(code)
    assert re.match(r"run/checkpoint on stripes test: \d\.\d+ ± \d\.\d+ bits/dim \(4 images", found), found


def test_a_layer(copy: Copy) -> None:
    """The running mean of `examples/own_layer.py`, as a mixer of a language model: trained, converted and sampled."""
    example = (ROOT / "s4gen" / "examples" / "own_layer.py").read_text(encoding="utf-8")
    layer = (
        example[: example.index("torch.manual_seed")]
        .rstrip()
        .replace("state: Tensor | None = None", "state=None, lengths=None")
    )
    layer += "\n\n    def flops(self, length):\n        return 2 * length**2 * len(self.rate)\n"
    copy.create("s4gen/models/running_mean.py", layer)
    copy.insert(
        "s4gen/config/mixers.py",
        '    Mixer("attention"',
        '    Mixer("mean", ragged=False, mixes_features=False),\n',
    )
    copy.insert(
        "s4gen/models/mixers.py", "from s4gen.models.ssm_layers", "from s4gen.models.running_mean import RunningMean\n"
    )
    copy.insert(
        "s4gen/models/mixers.py",
        '    "attention": lambda',
        '    "mean": lambda model, _: RunningMean(model.d_model),\n',
    )
    assert copy.touched == row_of("a layer (mixer)")
    code = """
model = ModelConfig(mixer="mean", d_model=8, n_layers=2, d_ff=16)
config = DensityConfig(TextLayout(9, 0, length=40), model, SSMConfig())
model = build_model(config)
x = torch.arange(40)[None] % 9
optimizer = torch.optim.Adam(model.parameters(), 0.02)
for _ in range(60):
    loss = model.nats(x).mean()
    optimizer.zero_grad(), loss.backward(), optimizer.step()
recurrent = convert(model.eval())
state, steps = recurrent.initial_state(1), []
for token in [0, *x[0, :-1].tolist()]:
    logits, state = recurrent.step(torch.tensor([token]), state)
    steps.append(logits)
whole, _ = model(torch.cat([torch.zeros(1, 1, dtype=torch.int64), x[:, :-1]], 1))
print(loss.item() < 1, (torch.stack(steps, 1) - whole).abs().max().item() < 1e-4, generate(recurrent, 2, seed=0).shape)
without = build_model(DensityConfig(TextLayout(9, 0, length=40), ModelConfig("mean", 8, 1, d_ff=16), SSMConfig()))
print(count_flops(model, 40).forward - count_flops(without, 40).forward)
"""
    shown, flops = copy.run(MODEL + code).splitlines()
    assert shown.split(maxsplit=2) == ["True", "True", "torch.Size([2, 40])"]
    # A block more: the mixer's own count, its gated output and its feed-forward.
    assert int(flops) == 2 * 40**2 * 8 + 2 * 40 * (8 * 16 + 2 * 8 * 16)
