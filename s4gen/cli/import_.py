"""Run `s4gen import`, which turns weights of state-spaces/s4 into a checkpoint."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from s4gen.cli.arguments import path_to_write
from s4gen.cli.output import print_json
from s4gen.files.folders import user_path

if TYPE_CHECKING:
    from s4gen.importing import Imported

SUMMARY = "Turn weights of state-spaces/s4 into a checkpoint."
EXAMPLES = (
    "s4gen import s4-wt103.pt runs/wt103",
    "s4gen import sashimi.pt runs/sashimi --config sashimi.yaml",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", type=user_path, help="a state dict (.pt), or a Lightning checkpoint (.ckpt)"
    )
    parser.add_argument("out", metavar="OUT", type=path_to_write, help="folder of the checkpoint")
    parser.add_argument(
        "--config",
        metavar="JSON|YAML",
        type=user_path,
        help="the model's configuration, for what the weights do not tell (default: the one inside a .ckpt, if any)",
    )
    parser.add_argument(
        "--dt",
        choices=("exp", "softplus"),
        help="the function that makes the step size of its parameter, which the weights do not tell (default: the "
        "configuration's, or a guess from the version, with a note)",
    )
    parser.add_argument("--force", action="store_true", help="replace a checkpoint that is at OUT already")
    parser.add_argument("--json", action="store_true", help="print one JSON object that lists every key of FILE")


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
    """Return lines that show what became of the keys and what was assumed; keys that differ in numbers share a line."""
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
