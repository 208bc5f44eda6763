"""The ways to generate that the benchmark compares, by name; nothing here needs PyTorch."""

from __future__ import annotations

from s4gen.config import names

ENGINES = tuple(name for name in names.ENGINES if name != "auto")
"""Engines of `s4gen.sampling.engines` that can be measured; "auto" is always one of them, and so is left out."""
DEFAULT_ENGINES = ("eager", "compiled", "native")
"""Engines that are measured where none is named."""
LOSSY = ("native-bf16", "native-int8")
"""Engines that compute something else than the model, because its weights are rounded."""
CACHED = ("transformer", "transformer-bf16")
"""Transformers with a key-value cache; in bf16, weights and cache are rounded to it."""
AGAIN = ("conv", "transformer-no-cache")
"""Ways that run the whole prefix again for every token."""
BASELINES = {"conv": ("conv",), "transformer": (*CACHED, "transformer-no-cache")}
"""Baselines that can be asked for, and the ways that each stands for."""
BATCHES = (1, 64)
"""Batch sizes that are measured where none is named."""
POSITIONS = (100, 1_000, 10_000, 100_000)
"""Positions at which the cost of a single token is measured where no others are named."""

_TITLES = {
    "compiled": "recurrent, torch.compile",
    "conv": "convolution again per token",
    "transformer": "Transformer, KV cache",
    "transformer-bf16": "Transformer, KV cache, bf16",
    "transformer-no-cache": "Transformer, no cache",
}


def title_of(way: str) -> str:
    """Return the way to generate in words, for tables and plots."""
    return _TITLES.get(way, f"recurrent, {way}")


def precision_of(way: str) -> str:
    """Return the precision of the weights of a way: "fp32", "bf16" or "int8"."""
    last = way.rpartition("-")[2]
    return last if last in ("bf16", "int8") else "fp32"
