"""The benchmark of generation: our recurrent mode beside our convolution mode, Transformers, and the machine's limits.

One more token for every sequence of a batch is timed, in the mean over the positions of a sequence. Embedding, head and
the draw are part of every step; loading and compiling are part of none. The Transformer has the width, the depth and
(through d_ff) the parameter count of the model. Steps of a multi-scale stack are timed in whole turns of all its
levels, so their mean is fair.

`workload` says what is timed and what comes out, `measure` how, `limits` what the machine would allow, and `result`
what is made of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from s4gen.bench.baselines import matched_transformer, parameter_count
from s4gen.bench.instruments import machine
from s4gen.bench.limits import LimitsWorkload, limits_apart
from s4gen.bench.measure import measure_apart
from s4gen.bench.result import GenerationResult
from s4gen.bench.ways import AGAIN, BASELINES, BATCHES, CACHED, DEFAULT_ENGINES, ENGINES, title_of
from s4gen.bench.workload import GenerationMeasurement, GenerationWorkload
from s4gen.config import DensityConfig
from s4gen.errors import UserError
from s4gen.machine.device import best_device
from s4gen.sampling.engines.native import NativeUnavailable
from s4gen.sampling.engines.native.build import library, made_for
from s4gen.showing.progress import progress_bar


def run(
    name: str,
    config: DensityConfig,
    *,
    checkpoint: Path | None = None,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] | None = None,
    engines: Sequence[str] = DEFAULT_ENGINES,
    baselines: Sequence[str] = tuple(BASELINES),
    device: str | torch.device | None = None,
    budget: float = 3.0,
    positions: Sequence[int] = (),
    compiled_transformer: bool = True,
    progress: bool = False,
) -> GenerationResult:
    """Measure every engine and baseline at every batch size, each in a process of its own.

    Args:
        name: the model's name, for the result.
        config: the model.
        checkpoint: folder of its weights; None: random ones, which are as fast.
        batches: batch sizes, in sequences.
        lengths: tokens per sequence; None: the layout's. An engine takes as long for every token, so it is measured
            once for each batch size; a Transformer with a cache at every length; what runs the prefix again for every
            token at the first length.
        engines: some of `ways.ENGINES`.
        baselines: some of `ways.BASELINES`.
        device: None: the GPU where there is one, else the CPU.
        budget: seconds of measuring for each workload, start-up and compilation apart.
        positions: where to measure the cost of a single token, at the smallest batch size.
        compiled_transformer: False leaves out what takes a minute to compile: the Transformer with a cache runs
            eagerly, and not in bf16, which is slower so.
        progress: whether to show a bar on standard error, with the time that is left and what is being measured.

    Raises:
        UserError: an unknown engine or baseline, a size below 1, or a model that is not recurrent.
    """
    lengths = tuple(dict.fromkeys(lengths or (config.layout.length,)))
    device = torch.device(device) if device else best_device()
    _check(config, batches, lengths, engines, baselines, positions)
    transformer = matched_transformer(config)
    ways = [*engines, *(way for baseline in baselines for way in BASELINES[baseline])]
    if not compiled_transformer:
        ways = [way for way in ways if way != "transformer-bf16"]
    if device.type == "cpu" and any(engine.startswith("native") for engine in engines):
        with contextlib.suppress(NativeUnavailable):  # its measurements will say why
            library()  # where it must be compiled, that is seen, and falls into no measurement
    workloads = [
        GenerationWorkload(
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
    rows: list[GenerationMeasurement] = []
    with progress_bar(len(workloads) + 1, "measurement", progress, "measuring") as bar:
        for workload in workloads:
            bar.set_postfix_str(f"{title_of(workload.way)}, batch {workload.batch}", refresh=True)
            rows += measure_apart(workload)
            bar.update(1)
        bar.set_postfix_str("what the machine allows", refresh=True)
        rows = _with_limits(rows, config, transformer, checkpoint, device)
        bar.update(1)
    return GenerationResult(
        name=name,
        config=config,
        transformer=transformer,
        parameters=parameter_count(config),
        transformer_parameters=parameter_count(transformer),
        machine=machine(device) | _target(engines, device),
        engines=tuple(engines),
        positions=tuple(sorted(positions)),
        rows=rows,
    )


def _target(engines: Sequence[str], device: torch.device) -> dict[str, str | int]:
    """Return what the native engine was compiled for, if it is measured and there is one."""
    if device.type == "cpu" and any(engine.startswith("native") for engine in engines):
        with contextlib.suppress(NativeUnavailable):
            return {"native_engine": made_for(library())}
    return {}


def _with_limits(
    rows: Sequence[GenerationMeasurement],
    config: DensityConfig,
    transformer: DensityConfig,
    checkpoint: Path | None,
    device: torch.device,
) -> list[GenerationMeasurement]:
    """Return the measurements with their limits, measured for all that ran and do not run the prefix again."""
    steps = tuple((row.way, row.batch, row.length) for row in rows if row.way not in AGAIN and row.ms_per_step > 0)
    workload = LimitsWorkload(steps, config, checkpoint, transformer, str(device), torch.get_num_threads())
    limits = limits_apart(workload) if steps else {}
    return [replace(row, limit=limits.get((row.way, row.batch, row.length))) for row in rows]


def _check(
    config: DensityConfig,
    batches: Sequence[int],
    lengths: Sequence[int],
    engines: Sequence[str],
    baselines: Sequence[str],
    positions: Sequence[int],
) -> None:
    """Refuse with a UserError what cannot be measured."""
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
