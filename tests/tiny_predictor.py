"""Small predictors, and toy data for them that need no file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from s4gen.config import (
    Answers,
    AudioLayout,
    ImageLayout,
    InputLayout,
    ModelConfig,
    PredictorConfig,
    SeriesLayout,
    SSMConfig,
    TaskConfig,
    TextLayout,
)
from s4gen.data.examples import Examples, ExampleSplits, Series
from s4gen.data.text import ByteTokenizer
from s4gen.models.predictor import Predictor

LAYOUTS: dict[str, InputLayout] = {
    "series": SeriesLayout(("a", "b"), (0.0, 1.0), (1.0, 2.0), ("hour",), length=30),
    "text": TextLayout(257, 256),
    "image": ImageLayout(4, 5, 3),
    "audio": AudioLayout(800),
}
CLASSES = ("no", "yes", "perhaps")


def config_of(kind: str = "series", task: str = "classify", **changes: Any) -> PredictorConfig:
    """Return a small configuration; changes are keys of [model], [ssm] or [task]."""
    tables: dict[str, dict[str, Any]] = {
        "model": {"d_model": 12, "n_layers": 2, "d_ff": 10},
        "ssm": {"d_state": 8, "dt_max": 0.5},
        "task": {"kind": task} | ({"window": 12, "horizon": 3} if task == "forecast" else {}),
    }
    for key, value in changes.items():
        section = next(
            name
            for name, kind_ in (("task", TaskConfig), ("ssm", SSMConfig), ("model", ModelConfig))
            if key in kind_.__dataclass_fields__ and (key, name) != ("window", "task")
        )
        tables[section][key] = value
    answers = {
        "classify": Answers(CLASSES),
        "regress": Answers(("pulse", "rate"), (3.0, 1.0), (2.0, 0.5)),
        "forecast": Answers(("b",), (1.0,), (2.0,)),
    }[task]
    model, ssm, settings = (
        kind_(**tables[name]) for name, kind_ in (("model", ModelConfig), ("ssm", SSMConfig), ("task", TaskConfig))
    )
    return PredictorConfig(LAYOUTS[kind], model, ssm, settings, answers)


def predictor(config: PredictorConfig, seed: int = 0) -> Predictor:
    """Return a model with no weight zero, and no norm that does nothing, in float64 and evaluation mode."""
    torch.manual_seed(seed)
    model = Predictor(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return model.double().eval()


def rows_for(config: PredictorConfig, n: int, length: int, seed: int = 1) -> torch.Tensor:
    """Return rows that the model can read."""
    generator = torch.Generator().manual_seed(seed)
    if config.reader == "tokens":
        vocab = {"image": 256, "audio": 256, "text": 257}[config.layout.kind]
        return torch.randint(vocab, (n, length), generator=generator)
    return torch.randn(n, length, config.channels, generator=generator, dtype=torch.float64)


def toy_splits(n: int = 60, seed: int = 0) -> ExampleSplits:
    """Return texts of bytes of several lengths; their class is whether they hold more of "a" or of "b"."""
    rng = np.random.default_rng(seed)

    def part(n: int) -> Examples:
        rows = []
        for _ in range(n):
            share = rng.choice([0.2, 0.8])
            rows.append(np.where(rng.random(rng.integers(9, 16)) < share, 97, 98).astype(np.int64))
        labels = [int((row == 97).mean() > 0.5) for row in rows]
        return Examples(rows, np.array(labels, np.int64))

    return ExampleSplits(part(n), part(20), part(40), TextLayout(257, 256), ("b", "a"), ByteTokenizer())


def toy_series(n: int = 400) -> Series:
    """Return two noisy sines, one of which lags behind the other, and the hour of the day."""
    rng, t = np.random.default_rng(0), np.arange(n)
    values = np.stack([np.sin(t / 4), np.sin((t - 3) / 4) + 0.01 * rng.standard_normal(n)], 1)
    mean, std = values[:240].mean(0), values[:240].std(0)
    hours = ((t % 24) / 23 - 0.5).astype(np.float32)[:, None]
    standardised = ((values - mean) / std).astype(np.float32)
    borders = ((0, 240), (240, 320), (320, n))
    return Series(standardised, hours, mean, std, ("x", "y"), ("hour",), borders)
