"""Measure speed and memory: recurrence against convolution and Transformers, or S4 against its ancestors."""

from __future__ import annotations

import argparse
from pathlib import Path

from s4gen.cli.arguments import whole
from s4gen.cli.output import check_output, print_json
from s4gen.cli.presets import is_preset
from s4gen.config import DensityConfig, load_preset
from s4gen.config.names import ENGINES
from s4gen.errors import UserError
from s4gen.folders import user_path

SUMMARY = "Measure speed and memory: recurrence against convolution and Transformers, or S4 against its ancestors."
"""The command line shows this sentence for `-h`."""

# Of what does not go with --ancestors.
DEFAULTS = {
    "subject": None,
    "batch": [1, 64],
    "length": None,
    "engine": ["eager", "compiled", "native"],
    "baseline": ["conv", "transformer"],
    "no_baseline": False,
    "position": None,
    "plot": None,
    "force": False,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(**DEFAULTS)
    parser.add_argument("subject", metavar="CHECKPOINT|PRESET", nargs="?", help="a path or a shipped name")
    parser.add_argument(
        "--ancestors",
        action="store_true",
        help="instead of a model: time and memory of a training step of LSSL, S4, S4D and DSS at dimensions 128, "
        "256 and 512, beside table 2 of the S4 paper (takes minutes, and many GB of memory)",
    )
    parser.add_argument("--batch", metavar="B", type=whole(1), nargs="+", help="batch sizes (default: 1 64)")
    parser.add_argument(
        "--length",
        metavar="L",
        type=whole(1),
        nargs="+",
        help="tokens per sequence (default: the model's); the Transformer with a cache is measured at each, what runs "
        "the prefix again for each token at the first, and the engines once, as they take as long at any",
    )
    parser.add_argument(
        "--engine",
        nargs="+",
        choices=[name for name in ENGINES if name != "auto"],
        help="of the recurrent mode; bf16 and int8 weights lose something, which is measured too (default: eager "
        "compiled native)",
    )
    compared = parser.add_mutually_exclusive_group()
    compared.add_argument(
        "--baseline",
        nargs="+",
        choices=("conv", "transformer"),
        help="conv: the convolution again for each token; transformer: of equal size, with a key-value cache (float32 "
        "and bf16) and without (default: both)",
    )
    compared.add_argument("--no-baseline", action="store_true", help="measure the engines alone")
    parser.add_argument(
        "--position",
        metavar="P",
        type=whole(1),
        nargs="*",
        help="measure also what one token costs at these positions, after a random sequence of this length has been "
        "read, which takes long for a large model (without numbers: 100 1000 10000 100000; default: no positions)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--plot", metavar="FILE", type=user_path, help="write the curves as a PNG: against position, length, batch"
    )
    parser.add_argument("--force", action="store_true", help="write over an existing plot")


def run(args: argparse.Namespace) -> int:
    if args.ancestors:
        return compare_ancestors(args)
    if args.subject is None:
        raise UserError("bench needs a CHECKPOINT or PRESET, or --ancestors (see s4gen bench -h)")
    if args.plot is not None:
        if args.plot.suffix.lower() != ".png":
            raise UserError(f"{args.plot}: the plot is written as PNG; use a name that ends in .png")
        check_output(args.plot, args.force)
    config, checkpoint = find_model(args.subject)
    check_size(args.subject, config)
    from s4gen.atomic import write_file_atomic
    from s4gen.sampling import bench, bench_report

    result = bench.run(
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
        write_file_atomic(args.plot, bench_report.plot(result))
    if args.json:
        print_json(result.to_dict())
    else:
        print(bench_report.format_table(result))
    return 0


def positions_of(given: list[int] | None) -> tuple[int, ...]:
    """The positions that `--position` asks for: none without it, and the usual ones where it names none."""
    from s4gen.sampling import bench

    return () if given is None else tuple(given) or bench.POSITIONS


def compare_ancestors(args: argparse.Namespace) -> int:
    """`--ancestors`: the table on standard output, or its JSON.

    Raises:
        UserError: the command line asks for something that this does not measure.
    """
    given = [name for name, default in DEFAULTS.items() if getattr(args, name) != default]
    if given:
        names = ", ".join(str(args.subject) if name == "subject" else "--" + name.replace("_", "-") for name in given)
        raise UserError(f"--ancestors measures no model, and goes with --json alone: leave out {names}")
    from s4gen.sampling import ancestors

    result = ancestors.run(progress=True)
    if args.json:
        print_json(result.to_dict())
    else:
        print(ancestors.format_table(result))
    return 0


def check_size(name: str, config: DensityConfig) -> None:
    """Refuse a model whose weights do not fit into memory twice: as it is, and in the form that is measured.

    Raises:
        UserError: it says how much they need.
    """
    from s4gen.device import best_device
    from s4gen.memory import check_room
    from s4gen.models.build import build_shapes

    needed = 2 * sum(parameter.nbytes for parameter in build_shapes(config).parameters())
    check_room(needed, best_device(), f"measuring {name}", "choose a smaller model")


def find_model(name_or_path: str) -> tuple[DensityConfig, Path | None]:
    """What to measure: a checkpoint and where it is, or a preset that says what sequences it is for.

    Raises:
        UserError: neither of that name, it is wrong, or the preset has no layout.
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
