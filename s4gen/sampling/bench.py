"""The benchmark: our recurrent mode beside our convolution mode and Transformers, and the machine's limits.

Embedding, head and the draw are part of every step; loading and compiling are part of none. The Transformer has the
width, the depth and (through d_ff) the parameter count of the model. Steps of a multi-scale stack are timed in whole
turns of all its levels: what is shown is the mean.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from s4gen import timing
from s4gen.config import AudioLayout, DensityConfig, ImageLayout, density_config_to_dict
from s4gen.errors import UserError
from s4gen.progress import progress_bar
from s4gen.sampling.baselines import matched_transformer, parameter_count
from s4gen.sampling.engines.native import NativeUnavailable
from s4gen.sampling.engines.native.build import library, made_for
from s4gen.sampling.limits import Job, limits_apart
from s4gen.sampling.measure import AGAIN, CACHED, Row, Task, measure_apart
from s4gen.sampling.scoring import LOSSY

ENGINES = ("eager", "compiled", "native", "native-bf16", "native-int8")
"""Of s4gen.sampling.engines, those to measure."""
DEFAULT_ENGINES = ("eager", "compiled", "native")
BASELINES = {"conv": ("conv",), "transformer": ("transformer", "transformer-bf16", "transformer-no-cache")}
"""The baselines, and the rows that each stands for."""
POSITIONS = (100, 1_000, 10_000, 100_000)
"""Where the cost of single tokens is measured."""
POSITION_NOTE = (
    "The state at a position is that of a random sequence of this length, read by convolution, and stepped "
    "on from there; the Transformer's cache is filled up to there with random numbers."
)

_TITLES = {
    "compiled": "recurrent, torch.compile",
    "conv": "convolution again per token",
    "transformer": "Transformer, KV cache",
    "transformer-bf16": "Transformer, KV cache, bf16",
    "transformer-no-cache": "Transformer, no cache",
}


@dataclass(frozen=True)
class BenchResult:
    """Everything that one call of `run` measured."""

    name: str
    config: DensityConfig
    transformer: DensityConfig
    parameters: int
    """Of the model."""
    transformer_parameters: int
    machine: dict[str, str | int]
    engines: tuple[str, ...]
    positions: tuple[int, ...]
    rows: list[Row]

    @property
    def batches(self) -> list[int]:
        """Batch sizes, in the order given."""
        return list(dict.fromkeys(row.batch for row in self.rows))

    @property
    def lengths(self) -> list[int]:
        """Lengths, in the order given; everything but Transformers with a cache was measured at the first alone."""
        return list(dict.fromkeys(row.length for row in self.rows))

    def best(self, batch: int) -> Row | None:
        """Our fastest engine at this batch size, of those that change no result if there is one."""
        ours = [row for row in self.rows if row.batch == batch and row.way in self.engines and row.ms_per_step > 0]
        exact = [row for row in ours if row.way not in LOSSY]
        return min(exact or ours, key=lambda row: row.ms_per_step, default=None)

    def ratio(self, row: Row) -> float:
        """How many times as long as our best engine this way takes at its batch size; NaN: unknown."""
        best = self.best(row.batch)
        return row.ms_per_step / best.ms_per_step if best else math.nan

    def tokens_per_second(self, row: Row) -> float:
        """Of the whole batch."""
        return row.batch / row.ms_per_step * 1e3

    def sequences_per_second(self, row: Row) -> float:
        """Of the whole batch, a sequence having the layout's number of tokens: images, or seconds of sound."""
        return self.tokens_per_second(row) / self.config.layout.length

    def rates(self, row: Row) -> dict[str, float]:
        """What else than tokens there is to count; texts have no length."""
        match self.config.layout:
            case ImageLayout():
                return {"images_per_second": self.sequences_per_second(row)}
            case AudioLayout():
                whole = self.sequences_per_second(row)
                return {"audio_seconds_per_second": whole, "real_time_factor": whole / row.batch}
        return {}

    def fraction(self, row: Row) -> float:
        """Time that the machine allows / time taken; NaN: unknown."""
        return row.limit.limit_ms / row.ms_per_step if row.limit else math.nan

    def to_dict(self) -> dict[str, Any]:
        """For JSON: machine, model, rows, ratios by length and batch size, cost by position."""
        model = {"name": self.name, "parameters": self.parameters, **density_config_to_dict(self.config)}
        return {
            "machine": self.machine,
            "model": model,
            "rows": [self._row_to_dict(row) for row in self.rows],
            "ratios": self._ratios(),
            "position_note": POSITION_NOTE,
            "position": [
                {
                    self._kind(row): row.way,
                    "batch": row.batch,
                    "points": [{"position": p, "ms_per_step": ms} for p, ms in row.cost_by_position.items()],
                }
                for row in self.rows
                if row.cost_by_position
            ],
        }

    def _ratios(self) -> dict[str, dict[str, dict[str, str | float]]]:
        """length -> batch -> best_engine, and the ratio of every way; engines take as long at any length."""
        ratios: dict[str, dict[str, dict[str, str | float]]] = {}
        for length in self.lengths:
            for batch in self.batches:
                if best := self.best(batch):
                    rows = [row for row in self.rows if row.batch == batch and self._is_at(row, length)]
                    entry = {row.way: self.ratio(row) for row in rows}
                    ratios.setdefault(str(length), {})[str(batch)] = {"best_engine": best.way, **entry}
        return ratios

    def _is_at(self, row: Row, length: int) -> bool:
        return row.length == length or row.way in self.engines

    def _kind(self, row: Row) -> str:
        return "engine" if row.way in self.engines else "baseline"

    def _row_to_dict(self, row: Row) -> dict[str, Any]:
        values = asdict(replace(row, loss=None, limit=None))
        for key in ("way", "cost_by_position", "loss", "limit"):
            del values[key]
        is_transformer = row.way.startswith("transformer")
        return {
            self._kind(row): row.way,
            **values,
            "tokens_per_second": self.tokens_per_second(row),
            **self.rates(row),
            "parameters": self.transformer_parameters if is_transformer else self.parameters,
            "fraction_of_limit": self.fraction(row),
            "limit": asdict(row.limit) if row.limit else None,
            "bits_per_dim_lost": asdict(row.loss) if row.loss else None,
        }

    def title(self, row: Row) -> str:
        """The way to generate, in words, with the length where it was measured at several."""
        return (
            f"{way_title(row.way)}, length {row.length:,}"
            if row.way in CACHED and self.lengths[1:]
            else way_title(row.way)
        )


def way_title(way: str) -> str:
    """The way to generate, in words."""
    return _TITLES.get(way, f"recurrent, {way}")


def run(
    name: str,
    config: DensityConfig,
    *,
    checkpoint: Path | None = None,
    batches: Sequence[int] = (1, 64),
    lengths: Sequence[int] | None = None,
    engines: Sequence[str] = DEFAULT_ENGINES,
    baselines: Sequence[str] = tuple(BASELINES),
    device: str | torch.device | None = None,
    budget: float = 3.0,
    positions: Sequence[int] = (),
    compiled_transformer: bool = True,
    progress: bool = False,
) -> BenchResult:
    """Measure every engine and baseline at every batch size, each in a process of its own.

    Args:
        name: of the model, for the result.
        checkpoint: where its weights are; None: random ones, which are as fast.
        lengths: tokens per sequence; None: the layout's. An engine takes as long for every token, so it is measured
            once for each batch size; a Transformer with a cache at every length; what runs the prefix again for every
            token at the first length.
        device: None: the GPU where there is one, else the CPU.
        budget: seconds of measuring per row, start-up and compilation apart.
        positions: where to measure the cost of a single token, at the smallest batch size.
        compiled_transformer: False leaves out what takes a minute to compile: the Transformer with a cache runs
            eagerly, and not in bf16, which is slower so.
        progress: on standard error a bar with the time that is left, and what is being measured.

    Raises:
        UserError: an unknown engine or baseline, a size below 1, or a model that is not recurrent.
    """
    lengths = tuple(dict.fromkeys(lengths or (config.layout.length,)))
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    _check(config, batches, lengths, engines, baselines, positions)
    transformer = matched_transformer(config)
    ways = [*engines, *(way for baseline in baselines for way in BASELINES[baseline])]
    if not compiled_transformer:
        ways = [way for way in ways if way != "transformer-bf16"]
    if device.type == "cpu" and any(engine.startswith("native") for engine in engines):
        with contextlib.suppress(NativeUnavailable):  # its rows will say why
            library()  # where it must be compiled, that is seen, and part of no row
    tasks = [
        Task(
            way=way,
            config=transformer if way.startswith("transformer") else config,
            checkpoint=checkpoint,
            batch=batch,
            lengths=lengths if way in CACHED else lengths[:1],
            device=str(device),
            threads=torch.get_num_threads(),
            budget=budget,
            positions=tuple(positions) if batch == min(batches) else (),
            loss=batch == min(batches),
            compiled=compiled_transformer,
        )
        for batch in dict.fromkeys(batches)
        for way in ways
    ]
    rows: list[Row] = []
    with progress_bar(len(tasks) + 1, "row", progress, "measuring") as bar:
        for task in tasks:
            bar.set_postfix_str(f"{way_title(task.way)}, batch {task.batch}", refresh=True)
            rows += measure_apart(task)
            bar.update(1)
        bar.set_postfix_str("what the machine allows", refresh=True)
        rows = _with_limits(rows, config, transformer, checkpoint, device)
        bar.update(1)
    return BenchResult(
        name=name,
        config=config,
        transformer=transformer,
        parameters=parameter_count(config),
        transformer_parameters=parameter_count(transformer),
        machine=timing.machine(device) | _target(engines, device),
        engines=tuple(engines),
        positions=tuple(sorted(positions)),
        rows=rows,
    )


def _target(engines: Sequence[str], device: torch.device) -> dict[str, str | int]:
    """What the native engine was compiled for, where it is measured and there is one."""
    if device.type == "cpu" and any(engine.startswith("native") for engine in engines):
        with contextlib.suppress(NativeUnavailable):
            return {"native_engine": made_for(library())}
    return {}


def _with_limits(
    rows: Sequence[Row],
    config: DensityConfig,
    transformer: DensityConfig,
    checkpoint: Path | None,
    device: torch.device,
) -> list[Row]:
    cases = tuple((row.way, row.batch, row.length) for row in rows if row.way not in AGAIN and row.ms_per_step > 0)
    job = Job(cases, config, checkpoint, transformer, str(device), torch.get_num_threads())
    limits = limits_apart(job) if cases else {}
    return [replace(row, limit=limits.get((row.way, row.batch, row.length))) for row in rows]


def _check(
    config: DensityConfig,
    batches: Sequence[int],
    lengths: Sequence[int],
    engines: Sequence[str],
    baselines: Sequence[str],
    positions: Sequence[int],
) -> None:
    if config.model.traits.state == "growing":
        raise UserError("bench measures a recurrent model against Transformers, and this one is a Transformer")
    for kind, given, known in (("engine", engines, ENGINES), ("baseline", baselines, tuple(BASELINES))):
        for name in given:
            if name not in known:
                raise UserError(f"bench knows no {kind} {name!r}: expected some of {', '.join(known)}")
    if not batches or not (engines or baselines):
        raise UserError("there is nothing to measure: name at least one batch size and one engine or baseline")
    for what, values in (("batch", batches), ("length", lengths)):
        for value in values:
            if value < 1:
                raise UserError(f"{what} {value}: expected at least 1")
    for position in positions:
        if position < 1:
            raise UserError(f"position {position}: expected at least 1, one token being known")
