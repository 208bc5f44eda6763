"""The card of a model on the hub: the head of README.md that says what the model is and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from s4gen.config import DensityConfig

PIPELINES = {"image": "unconditional-image-generation", "text": "text-generation", "audio": None}
"""The task under which the hub lists a model of this kind; None: it has none that fits."""
UNITS = ("bits_per_dim", "bits_per_sample", "word_perplexity")
"""Names of measurements in the metrics of a checkpoint."""


def card_with_metadata(card: str, config: DensityConfig, metrics: Mapping[str, Any], name: str) -> str:
    """Return the card with a head for the hub: library, tags, kind of model, and what was measured.

    What is there already is kept.
    """
    given, text = {}, card
    if card.startswith("---"):
        parsed = ModelCard(card, ignore_metadata_errors=True)
        given, text = parsed.data.to_dict(), parsed.text
    layout = config.layout
    data: dict[str, Any] = {"library_name": "s4gen", "tags": _tags(config)}
    if pipeline := PIPELINES[layout.kind]:
        data["pipeline_tag"] = pipeline
    if results := _results(metrics, pipeline or "audio-generation"):
        data |= {"model_name": given.get("model_name", name), "eval_results": results}
    head = ModelCardData(**{**data, **given}).to_yaml()
    return f"---\n{head}\n---\n\n{text.lstrip()}"


def _tags(config: DensityConfig) -> list[str]:
    model = config.model
    tags = ["density-estimation", "autoregressive", config.layout.kind, model.mixer]
    return [*tags, "state-space-model", *(["sashimi"] if model.pool else [])]


def _results(metrics: Mapping[str, Any], task: str) -> list[EvalResult]:
    """Return what a checkpoint's metrics say of a test split, in the units that it was measured in."""
    tables = [metrics, metrics.get("test", {}), (metrics.get("test") or {}).get("stream", {})]
    found = {unit: table[unit] for table in tables if isinstance(table, Mapping) for unit in UNITS if unit in table}
    dataset = str(metrics.get("dataset", "test split"))
    return [EvalResult(task, dataset, dataset, unit, value) for unit, value in found.items()]
