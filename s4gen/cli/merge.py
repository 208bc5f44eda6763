"""Put the parts of a run together that `s4gen sample --shard` or `s4gen eval --shard` made."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s4gen.cli.arguments import path_to_write
from s4gen.cli.evaluate import check_result, report
from s4gen.cli.media import MEDIA
from s4gen.errors import UserError
from s4gen.files.folders import user_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s4gen.bulk.part import Part
    from s4gen.cli.evaluate_common import Outcome

SUMMARY = (
    "Put the parts of a run together that sample --shard or eval --shard made; the result is that of one run, bit for "
    "bit."
)
"""The command line shows this sentence for `-h`."""
EXAMPLES = (
    "s4gen merge images parts/0 parts/1 parts/2",
    "s4gen merge scores.json scores/0 scores/1",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "out",
        metavar="OUT",
        type=path_to_write,
        help="where the result goes: of samples, any name that sample -o takes; of scores, NAME.json",
    )
    parser.add_argument(
        "parts", metavar="PART", nargs="+", type=user_path, help="the folders of all parts, in any order"
    )
    parser.add_argument("--json", action="store_true", help="of scores: print one JSON object")
    parser.add_argument("--force", action="store_true", help="write over what is at OUT")


def run(args: argparse.Namespace) -> int:
    from s4gen.bulk.merging import read_parts
    from s4gen.config.names import ROWS

    parts = read_parts(args.parts)
    run = parts[0].run
    if (run.verb, run.kind) not in ROWS:
        raise UserError(
            f"{parts[0].path} is a part of s4gen {run.verb} of {run.kind}, which this version does not know"
        )
    medium = MEDIA[run.kind]
    if run.verb == "sample":
        if args.json:
            raise UserError("--json is for scores, and these are parts of samples; leave it out")
        return medium.merge_samples(args, parts)
    check_result(args.out, args.force)
    report(args, _outcome(parts))
    return 0


def _outcome(parts: Sequence[Part]) -> Outcome:
    """Return the result of the single run that these parts are of; the seconds are those of all parts together.

    Raises:
        UserError: a part is damaged.
    """
    import numpy as np

    from s4gen.bulk.merging import all_arrays, column, shown

    kind = parts[0].run.kind
    names = {"nats": "float64"} | ({"lengths": "int64"} if kind == "audio" else {})
    blocks = list(all_arrays(parts))
    arrays = {
        name: np.concatenate([column(rows, block, name, dtype) for rows, block in blocks])
        for name, dtype in names.items()
    }
    if not np.isfinite(arrays["nats"]).all() or (arrays.get("lengths", np.ones(1)) < 1).any():
        raise UserError(f"the parts of {parts[0].path}'s run hold scores that are no numbers: the model has diverged")
    known = dict.fromkeys(("checkpoint", "dataset", "split", "mode"), str) | dict(MEDIA[kind].SHOWN)
    found = {name: shown(parts[0], name, expected) for name, expected in known.items()}
    if any(type(value) is int and value < 1 for value in found.values()):
        raise UserError(f"{parts[0].path}: its part.json is damaged: nothing was scored")
    found["engine"] = parts[0].run.options.get("engine")
    return MEDIA[kind].outcome(found, arrays, sum(part.seconds for part in parts))
