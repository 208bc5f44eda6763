"""The one place where the command line asks what a model's sequences are.

For each kind there is a module with the same functions, `Medium`; what a verb does for images, text or sound alone is
behind one of these.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from s4gen.cli import audio, images, text

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.bulk.block_files import Arrays
    from s4gen.bulk.part import Part
    from s4gen.checkpoint import Checkpoint
    from s4gen.cli.evaluate_common import Outcome, Scoring, Shown
    from s4gen.cli.score_common import Reference, Result
    from s4gen.models.density import DensityModel


class Medium(Protocol):
    """The part of the verbs that differs between kinds of sequences."""

    SUFFIXES: tuple[str, ...]
    """Endings of the files that samples are written to."""
    EXPECTED_NAME: str
    """The names that such a file may have, in the words of a message."""
    SHOWN: dict[str, type]
    """Fields that a part of scores of this kind has beside the fields of all kinds, with their types; numbers are at
    least 1."""
    NOUN: str
    """The word for one sequence where its operations are counted."""

    def sample(self, args: argparse.Namespace, checkpoint: Checkpoint) -> int:
        """Run `s4gen sample` and return the exit code."""

    def scoring(self, args: argparse.Namespace, checkpoint: Checkpoint) -> Scoring:
        """Return what `s4gen eval` is to compute."""

    def outcome(self, shown: Shown, arrays: Arrays, seconds: float) -> Outcome:
        """Make the result of `s4gen eval` of what all rows cost."""

    def score_files(
        self, args: argparse.Namespace, checkpoint: Checkpoint, files: Sequence[str]
    ) -> tuple[Iterator[Result], str | None]:
        """Return what `s4gen score` finds of each file, and the name of the engine if there is one."""

    def reference(self, args: argparse.Namespace, checkpoint: Checkpoint) -> Reference:
        """Return what `s4gen score --against` compares files with."""

    def merge_samples(self, args: argparse.Namespace, parts: Sequence[Part]) -> int:
        """Write the samples of all parts of a run to `args.out`, and return the exit code."""

    def sequences_to_compare(self, checkpoint: Checkpoint, dataset: str, n: int) -> tuple[Tensor, Tensor | None]:
        """Return at most n sequences (n, L) int64 of a test split, and labels (n,) int64 where the model has classes.

        Raises:
            UserError: there is no such data, or it does not fit the model.
        """

    def extra_facts(self, checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
        """Return the tables that `s4gen info` shows of this kind alone."""

    def draw(self, model: DensityModel, n: int, seed: int) -> Tensor:
        """Draw n sequences (n, L) int64, which training shows at each evaluation."""


MEDIA: Mapping[str, Medium] = {"image": images, "text": text, "audio": audio}
"""All of `names.KINDS`."""


def kind_of_file(suffix: str) -> str | None:
    """Return the kind of samples that are written to files with this ending; None: it is no such ending."""
    return next((kind for kind, medium in MEDIA.items() if suffix in medium.SUFFIXES), None)
