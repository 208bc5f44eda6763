"""`s4gen import`: weights of state-spaces/s4 as a checkpoint."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from s4gen.cli.output import print_json
from s4gen.folders import user_path

if TYPE_CHECKING:
    from s4gen.importing import Imported

SUMMARY = "Read weights of state-spaces/s4 as a checkpoint."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", type=user_path, help="a state dict (.pt), or a Lightning checkpoint (.ckpt)"
    )
    parser.add_argument("out", metavar="OUT", type=user_path, help="folder of the checkpoint")
    parser.add_argument(
        "--config",
        metavar="JSON|YAML",
        type=user_path,
        help="the model's configuration, for what the weights do not tell (default: what a .ckpt holds beside them)",
    )
    parser.add_argument(
        "--dt",
        choices=("exp", "softplus"),
        help="the step size as a function of its parameter, which no file tells (default: the configuration's, or a "
        "guess from the version, which is said)",
    )
    parser.add_argument("--force", action="store_true", help="replace the checkpoint that is at OUT")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every key")


def run(args: argparse.Namespace) -> int:
    from s4gen.checkpoint import check_target
    from s4gen.importing import import_weights, save_imported

    check_target(args.out, args.force)
    imported = import_weights(args.file, args.config, args.dt)
    save_imported(imported, args.out, args.file.name, args.force)
    if args.json:
        print_json({"file": str(args.file), "out": str(args.out), **imported.to_dict()})
        return 0
    print("\n".join(report(imported, str(args.file))))
    print(f"written to {args.out}")
    return 0


def report(imported: Imported, file: str) -> list[str]:
    """Lines that show what became of every key, alike ones together, and what was assumed."""
    parameters = sum(parameter.numel() for parameter in imported.model.parameters())
    lines = [f"{file}: layout {imported.version}, {parameters:,} parameters"]
    groups: dict[tuple[str, str], int] = {}
    for key, fate in imported.fate.items():
        group = fate, re.sub(r"\.\d+(?=\.|$)", ".*", key)
        groups[group] = groups.get(group, 0) + 1
    for kind in ("used", "derived", "ignored"):
        for (fate, pattern), count in groups.items():
            if fate.startswith(kind):
                why = fate.partition(": ")[2]
                why = re.sub(r"\.\d+(?=\.|$)", ".*", why)
                lines.append(f"  {kind:<8} {count:>4} x {pattern}" + (f"  ({why})" if why else ""))
    if imported.condition is not None and imported.error is not None:
        lines.append(
            f"  C from C~: condition number at most {imported.condition:.1e}, "
            f"estimated relative error {imported.error:.0e}"
        )
    return lines + [f"  note: {note}" for note in imported.notes]
