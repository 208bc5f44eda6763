"""Measure speed, memory and size: generation with a model, the core, S4 beside its ancestors, compression."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Protocol

from s4gen.bench.published import BATCH, DIMENSIONS, LENGTH
from s4gen.bench.ways import BASELINES, BATCHES, DEFAULT_ENGINES, ENGINES, POSITIONS
from s4gen.cli import bench_compress
from s4gen.cli.arguments import path_to_write, whole
from s4gen.cli.output import check_file, check_output, json_text, print_json
from s4gen.cli.parser import Parser
from s4gen.cli.presets import is_preset
from s4gen.config import DensityConfig, load_preset
from s4gen.errors import UserError

SUMMARY = "Measure speed, memory and size: generation with a model, the core, S4 beside its ancestors, compression."
"""The command line shows this sentence for `-h`."""
EXAMPLES = (
    "s4gen bench mnist-small --batch 1 64 --baseline conv transformer",
    "s4gen bench core -o runs/core.json",
    "s4gen bench ancestors --dimension 256",
)

CORE = "Measure time and memory of kernels and layers against state size, features and length."
ANCESTORS = "Measure a training step of LSSL, S4 (in two ways), S4D and DSS, beside table 2 of the S4 paper."


class Result(Protocol):
    """The form that the results of all benchmarks have."""

    def to_dict(self) -> dict[str, Any]: ...

    def table(self) -> str: ...


def add_arguments(parser: Parser) -> None:
    parser.usage = "%(prog)s [option ...] CHECKPOINT|PRESET\n       %(prog)s core [option ...]\n"
    parser.usage += (
        "       %(prog)s ancestors [option ...]\n       %(prog)s compress [option ...] CHECKPOINT [FILE ...]"
    )
    parser.description = (
        "Measure speed, memory and size. The first word says of what:\n\n"
        "  CHECKPOINT|PRESET  generation, beside convolution and Transformers\n"
        "  core               kernels and layers, against state size, features and length\n"
        "  ancestors          a training step of LSSL, S4, S4D and DSS, as in the S4 paper\n"
        "  compress           the size of files by s4gen compress, beside other codecs\n\n"
        "The options below are those of generation."
    )
    _add_generation(parser)
    _add_core(parser.add_command("core", CORE))
    _add_ancestors(parser.add_command("ancestors", ANCESTORS))
    bench_compress.add_arguments(parser.add_command("compress", bench_compress.SUMMARY))


def _add_generation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="CHECKPOINT|PRESET", nargs="?", help="a path or a shipped name")
    parser.add_argument(
        "--batch",
        metavar="B",
        type=whole(1),
        nargs="+",
        default=list(BATCHES),
        help=f"batch sizes (default: {_words(BATCHES)})",
    )
    parser.add_argument(
        "--length",
        metavar="L",
        type=whole(1),
        nargs="+",
        help="tokens per sequence (default: the model's). The Transformer with a cache is measured at each length. "
        "What runs the prefix again for each token is measured at the first one. The engines are measured once, "
        "because their steps take as long at any length",
    )
    parser.add_argument(
        "--engine",
        nargs="+",
        choices=ENGINES,
        default=list(DEFAULT_ENGINES),
        help="engines to measure; those with bf16 and int8 weights lose something, which is measured too (default: "
        f"{_words(DEFAULT_ENGINES)})",
    )
    compared = parser.add_mutually_exclusive_group()
    compared.add_argument(
        "--baseline",
        nargs="+",
        choices=tuple(BASELINES),
        default=list(BASELINES),
        help="what to compare with. conv runs the convolution again for each token; transformer has equal size and "
        "runs with a key-value cache (float32 and bf16) and without one (default: both)",
    )
    compared.add_argument("--no-baseline", action="store_true", help="measure the engines alone")
    parser.add_argument(
        "--position",
        metavar="P",
        type=whole(1),
        nargs="*",
        help="also measure what one token costs at these positions, after as many random tokens have been read, which "
        f"takes long for a large model (without numbers: {_words(POSITIONS)}; default: no positions)",
    )
    _add_json(parser)
    parser.add_argument(
        "--plot", metavar="FILE", type=path_to_write, help="write the curves as a PNG: against position, length, batch"
    )
    parser.add_argument("--force", action="store_true", help="write over an existing plot")


def _add_core(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_core)
    parser.add_argument("--quick", action="store_true", help="measure one small size only")
    _add_json(parser)
    parser.add_argument("-o", "--out", metavar="FILE", type=path_to_write, help="write the JSON object to a file, too")
    parser.add_argument("--force", action="store_true", help="write over an existing file")


def _add_ancestors(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_ancestors)
    parser.add_argument(
        "--dimension",
        metavar="N",
        type=even,
        nargs="+",
        default=list(DIMENSIONS),
        help=f"state size and number of features (default: {_words(DIMENSIONS)}, as in the paper, which takes minutes, "
        "and many GB of memory)",
    )
    parser.add_argument(
        "--length", metavar="L", type=whole(1), default=LENGTH, help=f"tokens per sequence (default: {LENGTH})"
    )
    parser.add_argument(
        "--batch", metavar="B", type=whole(1), default=BATCH, help=f"sequences at a time (default: {BATCH})"
    )
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _words(values: tuple[Any, ...]) -> str:
    return " ".join(map(str, values))


def even(text: str) -> int:
    """Parse an even number, at least 2: states are stored as complex numbers, which are pairs."""
    value = whole(2)(text)
    if value % 2:
        raise argparse.ArgumentTypeError(f"got {text}, expected an even number")
    return value


def run(args: argparse.Namespace) -> int:
    """Measure generation: `s4gen bench CHECKPOINT|PRESET`."""
    if args.subject is None:
        raise UserError(
            "bench needs a CHECKPOINT or PRESET, or the word core, ancestors or compress (see s4gen bench -h)"
        )
    if args.subject in ("core", "ancestors", "compress"):
        raise UserError(
            f"{args.subject} comes first: s4gen bench {args.subject} [option ...]; for a checkpoint or preset of this "
            f"name write ./{args.subject}"
        )
    if args.plot is not None:
        if args.plot.suffix.lower() != ".png":
            raise UserError(f"{args.plot}: the plot is written as PNG; use a name that ends in .png")
        check_output(args.plot, args.force)
    config, checkpoint = find_model(args.subject)
    check_size(args.subject, config)
    from s4gen.bench import generation, plots
    from s4gen.files.atomic import write_file_atomic

    result = generation.run(
        args.subject,
        config,
        checkpoint=checkpoint,
        batches=args.batch,
        lengths=args.length,
        engines=args.engine,
        baselines=() if args.no_baseline else args.baseline,
        positions=positions_of(args.position),
        progress=True,
    )
    if not any(row.ms_per_step > 0 for row in result.rows):
        raise UserError("nothing could be measured: " + "; ".join(dict.fromkeys(row.note for row in result.rows)))
    if args.plot is not None:
        write_file_atomic(args.plot, plots.plot(result))
    return show(result, args.json)


def run_core(args: argparse.Namespace) -> int:
    """Measure kernels and layers: `s4gen bench core`."""
    if args.out is not None:
        check_file(args.out, args.force)
    from s4gen.bench import core
    from s4gen.files.atomic import write_file_atomic

    result = core.run(args.quick, progress=True)
    show(result, args.json)  # first, so that nothing is lost where the file cannot be written
    if args.out is not None:
        write_file_atomic(args.out, (json_text(result.to_dict(), indent=2) + "\n").encode())
    return 0


def run_ancestors(args: argparse.Namespace) -> int:
    """Measure S4 and its ancestors: `s4gen bench ancestors`."""
    from s4gen.bench import ancestors

    return show(ancestors.run(args.dimension, length=args.length, batch=args.batch, progress=True), args.json)


def show(result: Result, as_json: bool) -> int:
    """Print a result, as a table or as one JSON object, and return the exit code."""
    if as_json:
        print_json(result.to_dict())
    else:
        print(result.table())
    return 0


def positions_of(given: list[int] | None) -> tuple[int, ...]:
    """Return the positions that `--position` asks for: none without it, and the usual ones where it names none."""
    return () if given is None else tuple(given) or POSITIONS


def check_size(name: str, config: DensityConfig) -> None:
    """Refuse a model whose weights do not fit into memory twice: as it is, and in the form that is measured.

    Raises:
        UserError: it says how much they need.
    """
    from s4gen.machine.device import best_device
    from s4gen.machine.memory import check_room
    from s4gen.models.build import build_shapes

    needed = 2 * sum(parameter.nbytes for parameter in build_shapes(config).parameters())
    check_room(needed, best_device(), f"measuring {name}", "choose a smaller model")


def find_model(name_or_path: str) -> tuple[DensityConfig, Path | None]:
    """Return what to measure: a checkpoint's configuration and folder, or a preset's configuration and None.

    Raises:
        UserError: there is neither of that name, it is wrong, or the preset has no layout.
    """
    if not is_preset(name_or_path):
        from s4gen.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(name_or_path)
        return checkpoint.config, checkpoint.path
    model, ssm, layout = load_preset(name_or_path)
    if layout is None:
        raise UserError(
            f"{name_or_path} says nothing of the sequences: add a [layout] with height, width and channels, or with "
            'kind = "text" or "audio"'
        )
    return DensityConfig(layout, model, ssm), None
