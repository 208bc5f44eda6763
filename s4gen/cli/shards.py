"""`--shard i/n` at the command line: a verb computes part i of a run and keeps it in a folder for `s4gen merge`."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4gen.bulk.dealing import Piece, Shard, own_rows, parse_shard, pieces
from s4gen.cli.filters import filters_of
from s4gen.cli.output import check_file, check_folder
from s4gen.config.names import ROWS
from s4gen.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from s4gen.bulk.block_files import Arrays
    from s4gen.bulk.part import Part, Run
    from s4gen.checkpoint import Checkpoint


def add_shard_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--shard i/n`."""
    parser.add_argument(
        "--shard",
        metavar="I/N",
        type=_shard,
        help="do part I, counted from 0, of N of this very command, anywhere and at any time, into the folder that -o "
        "names; a part that was interrupted goes on; s4gen merge puts all of them together, bit for bit as in one run",
    )


def _shard(text: str) -> Shard:
    try:
        return parse_shard(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_part_output(args: argparse.Namespace) -> None:
    """Refuse, before any work, a place where the part that `--shard` asks for cannot be.

    Raises:
        UserError: none is named, or something else is there.
    """
    from s4gen.bulk.part import check_part

    if args.out is None:
        raise UserError(f"--shard {args.shard} needs -o FOLDER, where the part goes")
    check_part(args.out)


def digest_of(values: Any) -> str:
    """Return a short digest of plain values, such as a list of prompts."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def digest_of_array(array: NDArray[Any]) -> str:
    """Return a short digest of an array's numbers; of a large one, without a copy of it."""
    digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    for first in range(0, len(array), rows := max(1, (1 << 22) // max(1, array[:1].nbytes))):
        digest.update(array[first : first + rows].tobytes())
    return digest.hexdigest()[:16]


def write_part(
    args: argparse.Namespace,
    run: Run,
    batches: Sequence[range],
    compute: Callable[[Piece], Arrays],
    skipped: Callable[[Piece], object] | None = None,
) -> None:
    """Compute the pieces of the shard that `args` asks for, write each as a block, and say what there is now.

    Pieces that are there already are left as they are. `skipped` is called for those of them, and of earlier shards, on
    whose state a later piece depends.

    Raises:
        UserError: something else is where the part goes, or another process writes there.
        WriteError: the disk is full.
    """
    from s4gen.bulk.part import part_writer

    own, began = own_rows(batches, args.shard), time.perf_counter()
    with part_writer(args.out, run, args.shard, own, args.force) as part:
        todo = [piece for piece in pieces(batches, args.shard) if not part.has(piece.own)]
        wanted = set(todo)
        for piece in todo if skipped is None else _with_past(batches, todo):
            if skipped is not None and piece not in wanted:
                skipped(piece)
            else:
                part.write(piece.own, compute(piece))
        if todo:
            part.took(time.perf_counter() - began)
    before = len(own) - sum(len(piece.own) for piece in todo)
    kept = f", {before:,} of them from before" if before else ""
    print(f"part {args.shard} in {args.out}: {len(own):,} of {run.rows:,} {ROWS[run.verb, run.kind]}{kept}")


def _with_past(batches: Sequence[range], todo: Sequence[Piece]) -> list[Piece]:
    """Return all pieces from the first row on up to the last one that is to be done."""
    last = todo[-1].own.stop if todo else 0
    return [Piece(batch, batch) for batch in batches if batch.start < last]


def sampling_options(args: argparse.Namespace, engine: str) -> dict[str, Any]:
    """Return the options of `s4gen sample` that the tokens of every kind of model depend on."""
    import dataclasses

    filters = dataclasses.asdict(filters_of(args))
    # With a cache, long prompts are rounded in another way: parts belong together only if all have one, or none.
    kept = {"prompt_cache": True} if args.prompt_cache else {}
    return {"seed": args.seed, "batch": args.batch, "engine": engine, **filters, **kept}


def layout_table(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the layout of a model as plain values, as a part keeps it."""
    from s4gen.config.strict import density_config_to_dict

    return density_config_to_dict(checkpoint.config)["layout"]


def check_replaced(out: Path, force: bool, patterns: Sequence[str]) -> None:
    """Refuse, before any work, to write a merged result over something that is to be kept.

    A folder that is replaced may hold only files of these patterns: all that is in it goes.

    Raises:
        UserError: `out` exists and `force` is not set, or it is a folder with other files, or it cannot be written.
    """
    (check_file if out.suffix else check_folder)(out, force)
    if out.is_dir():
        for entry in sorted(out.iterdir()):
            if entry.is_dir() or not any(entry.match(pattern) for pattern in patterns):
                raise UserError(f"{out} holds {entry.name}, too, so it is not replaced; choose another name")


def check_range(part: Part, name: str, values: NDArray[Any], n: int) -> None:
    """Refuse values of a part that are not whole numbers from 0 to n - 1.

    Raises:
        UserError: there is one.
    """
    if values.size and not 0 <= values.min() <= values.max() < n:
        raise UserError(f"the run of {part.path} has {name} that its model does not know; a part is damaged")


def merged_name(path: Path, suffixes: Sequence[str], folder: bool) -> None:
    """Refuse a name for a merged result that its kind is not written to.

    Raises:
        UserError: it is one; the message says what is expected.
    """
    if path.suffix.lower() in suffixes or (folder and not path.suffix):
        return
    names = " or ".join((*suffixes, "a folder") if folder else suffixes)
    raise UserError(f"{path}: parts of this kind are merged to a name that ends in {names}")
