"""The parts of `s4gen score` that all media share: what is known of a file, who scores, what others cost."""

from __future__ import annotations

import argparse
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4gen.cli.bounds import check_scored
from s4gen.cli.classes import chosen_classes
from s4gen.cli.evaluate_common import Scoring, view_of
from s4gen.errors import UserError, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from s4gen.checkpoint import Checkpoint
    from s4gen.evaluate.scorers import Nats
    from s4gen.evaluate.scores import FileCosts

PIECE = 1 << 16
"""Tokens of all rows together that are scored at a time, so that memory does not grow with the length of a file."""


@dataclass(frozen=True)
class Scored:
    """The cost of one file under the model."""

    path: str
    nats: float
    length: int
    """Tokens: values of an image, tokens of a text, samples."""
    head: NDArray[np.float64]
    """The costs of the first tokens of a text, in nats (n,); empty for other files."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Facts that only files of this kind have, by name."""

    @property
    def bits(self) -> float:
        """-log2 p of the whole file."""
        return self.nats / math.log(2)

    @property
    def bits_per_dim(self) -> float:
        """Bits of a token, on the average."""
        return self.bits / self.length


@dataclass(frozen=True)
class Failed:
    """Why a file was not scored, in a line that names it."""

    path: str
    error: str


Result = Scored | Failed


class Reference:
    """The costs of the sequences of a split, with which files are compared."""

    def __init__(self, n: int, percentile: Callable[[Scored], float]) -> None:
        self.n = n
        """Sequences at most that a file is compared with."""
        self.percentile = percentile
        """Returns the percentage of them that cost less than a file, per token."""


def costs_of(args: argparse.Namespace, checkpoint: Checkpoint, length: int, rows: int) -> tuple[FileCosts, str | None]:
    """Return what scores `rows` files of `length` tokens at a time, or longer ones in pieces, and the engine's name.

    Where that is more than one, a file costs the same on a CPU, bit for bit, whichever others are beside it.

    Raises:
        UserError: there is no room for it, or the classes are none of the model's.
    """
    import torch

    from s4gen.evaluate.scores import FileCosts
    from s4gen.models.states import least_length
    from s4gen.sampling.converted import recurrent_of

    model, classes = checkpoint.model, _classes(args, checkpoint)
    labels = torch.tensor(classes) if classes else None
    side_by_side, least = rows * max(1, len(classes)), least_length(checkpoint.config)
    piece = max(least, min(length, PIECE // side_by_side))
    check_scored(checkpoint.config, side_by_side, piece, "choose a smaller --batch, or fewer --classes")
    view = view_of(args, model, lambda: recurrent_of(checkpoint), rows * length, side_by_side, in_pieces=True)
    # Steps are computed one by one, so only the convolution fills up what is short.
    filled = least if view.engine is None else 1
    costs = FileCosts(view.score, model.bos, piece, labels, filled)
    return costs, None if view.engine is None else view.engine.name


def class_facts(checkpoint: Checkpoint, args: argparse.Namespace, probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """Return how likely each class is given a file, from probabilities (K,), where there was a choice."""
    chosen = _classes(args, checkpoint)
    if len(chosen) < 2:
        return {}
    names = checkpoint.config.layout.classes  # type: ignore[union-attr]
    return {"classes": {names[label]: float(p) for label, p in zip(chosen, probabilities, strict=True)}}


def _classes(args: argparse.Namespace, checkpoint: Checkpoint) -> list[int]:
    """Return the classes that a file may be of, each once; none where the model is not conditional on them."""
    known = getattr(checkpoint.config.layout, "classes", ())
    return [*dict.fromkeys(chosen_classes(args.classes, known, args.checkpoint))]


def check_finite(scored: Scored) -> Result:
    """Return what is known of a file, or why that is worth nothing: a cost that is not a finite number."""
    if math.isfinite(scored.nats):
        return scored
    return Failed(scored.path, f"{printable(scored.path)}: its cost under the model is not a finite number")


def reference_costs(scoring: Scoring) -> dict[str, NDArray[np.float64]]:
    """Score all rows of a scoring of `s4gen eval`; return its arrays by name."""
    import numpy as np

    from s4gen.bulk.dealing import pieces
    from s4gen.cli.output import shows_progress
    from s4gen.showing.progress import progress_bar

    found = []
    with progress_bar(scoring.batches[-1].stop, scoring.unit, shows_progress(), desc="comparing with") as bar:
        for piece in pieces(scoring.batches):
            found.append(scoring.score(piece))
            bar.update(len(piece.own))
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def as_for_eval(args: argparse.Namespace, **changed: Any) -> argparse.Namespace:
    """Return the arguments of `s4gen eval` that score the split that `--against` names."""
    given = {"dataset": args.against, "split": args.split, "limit": args.limit, "batch": args.batch}
    given |= {"mode": args.mode, "engine": args.engine, "checkpoint": args.checkpoint}
    return argparse.Namespace(**(given | {"chunk": None, "windows": None, "rate": None, "shard": None} | changed))


def per_token(nats: Nats, lengths: NDArray[Any] | int) -> Reference:
    """Return the comparison with sequences of these costs (n,) and lengths, each divided by its length."""
    from s4gen.evaluate.scores import percentile

    others = nats / lengths
    return Reference(len(others), lambda scored: percentile(scored.nats / scored.length, others))


def map_paths(folder: Path, files: Sequence[str], suffix: str) -> list[Path]:
    """Return where the maps of these files go: NAME.cost.SUFFIX, with a number where two files have one name."""
    found: dict[Path, None] = {}
    for file in files:
        stem = re.sub(r"[^\w.-]+", "_", Path(file).stem.encode("utf-8", "replace").decode())[:100] or "_"
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        paths = (folder / f"{name}.cost{suffix}" for name in names)
        found[next(path for path in paths if path not in found)] = None
    return [*found]


def each_file(files: Sequence[str], score: Callable[[int, str], Scored]) -> Iterator[Result]:
    """Score files one after another; one that cannot be scored stands in nobody's way."""
    from s4gen.errors import WriteError

    for number, file in enumerate(files):
        try:
            result: Result = check_finite(score(number, file))
        except WriteError:  # a map that finds no room: neither would the next one
            raise
        except UserError as error:
            result = Failed(file, str(error))
        yield result
