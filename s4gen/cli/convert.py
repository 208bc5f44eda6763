"""Convert a checkpoint to its recurrent form and certify that both forms agree."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s4gen.cli.arguments import number, whole
from s4gen.cli.output import shows_progress
from s4gen.cli.subject import (
    add_dataset_argument,
    dataset_of,
    first_sequences,
    load_clips,
    load_sequences,
    load_text,
    longest_clips,
)
from s4gen.config import AudioLayout, TextLayout, is_text
from s4gen.folders import user_path

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.checkpoint import Checkpoint
    from s4gen.sampling.convert import Certificate, RecurrentModel

SUMMARY = "Convert a checkpoint to its recurrent form and certify that both forms agree."
"""The sentence that `-h` shows; not `__doc__`, which `python -OO` removes."""

SAMPLES = 2048
"""Largest number of samples of a clip, or of tokens of a sequence drawn by the model, that are compared."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument("out", metavar="OUT", type=user_path, help="folder of the converted checkpoint")
    parser.add_argument(
        "--tolerance",
        metavar="T",
        type=number("a number of nats greater than 0", lambda value: value > 0),
        default=1e-3,
        help="refuse if the log-probability of any token differs by more than T nats (default: 0.001)",
    )
    parser.add_argument(
        "--sequences",
        metavar="N",
        type=whole(1),
        default=8,
        help="how many test images, texts of the model's length, or clips to compare on (default: 8)",
    )
    add_dataset_argument(parser)
    parser.add_argument("--force", action="store_true", help="replace a checkpoint that is at OUT already")


def run(args: argparse.Namespace) -> int:
    from s4gen.checkpoint import check_target, load_checkpoint
    from s4gen.sampling.convert import certify, convert, save_converted

    check_target(args.out, args.force)
    checkpoint = load_checkpoint(args.checkpoint)
    recurrent = convert(checkpoint.model)
    if args.dataset is None and checkpoint.recipe is None:  # an imported model, say, whose data set nobody knows
        data, label = "drawn by the model", None
        sequences = own_sequences(recurrent, args.sequences)
    else:
        dataset = args.dataset or _at_hand(dataset_of(checkpoint))
        data = f"{dataset} test"
        sequences, label = _sequences(checkpoint, dataset, args.sequences)
    certificate = certify(recurrent, sequences, args.tolerance, label)
    save_converted(checkpoint.path, args.out, recurrent, certificate, args.force)
    unit = checkpoint.config.layout.unit
    print("\n".join(certificate_table(certificate, data, unit)))
    print(f"written to {args.out}")
    return 0


def own_sequences(recurrent: RecurrentModel, n: int) -> Tensor:
    """Draw n sequences int64 (n, L) from a model without a data set; a model with classes draws from the first one."""
    import torch

    from s4gen.sampling.generation import Generation

    length = min(recurrent.config.layout.length, SAMPLES)
    drawn = Generation.start(recurrent, n, seed=0, engine="auto").chunks(length)
    return torch.cat(list(drawn), dim=1)


def _sequences(checkpoint: Checkpoint, dataset: str, n: int) -> tuple[Tensor, Tensor | None]:
    """Return at most n sequences int64 (n, L) of the test split, and labels int64 (n,) if the model has classes."""
    layout = checkpoint.config.layout
    if isinstance(layout, TextLayout):
        text = load_text(dataset, "test", checkpoint, shows_progress())
        return first_sequences(text, n, layout.length), None
    if isinstance(layout, AudioLayout):
        from s4gen.data.audio.opening import form_of

        return longest_clips(load_clips(dataset, "test", checkpoint, form_of(layout), shows_progress()), n, SAMPLES)
    return load_sequences(dataset, "test", n, checkpoint)


def _at_hand(dataset: str) -> str:
    """Return the name of the part that ships with s4gen, if there is one: a few real sequences need no download."""
    if is_text(dataset):
        return "wikitext-mini" if dataset.startswith("wikitext-") else dataset
    return f"{dataset}-mini" if dataset in ("mnist", "cifar10", "fsdd") else dataset


def certificate_table(certificate: Certificate, data: str, unit: str = "bits/dim") -> list[str]:
    """Return the lines of text that show a certificate; `data` names what was compared on, `unit` the unit of bits."""
    rows = [
        ("compared on", f"{certificate.n_sequences} sequences of {certificate.length} tokens ({data})"),
        ("largest difference", f"{certificate.max_abs_logprob_difference:.2e} nats in one token"),
        ("allowed", f"{certificate.tolerance:g} nats"),
        ("by convolution", f"{certificate.bits_per_dim_convolution:.6f} {unit}"),
        ("by recurrence", f"{certificate.bits_per_dim_recurrent:.6f} {unit}"),
        *((name, f"{value:.2e} of its output") for name, value in certificate.layer_differences.items()),
    ]
    width = max(len(name) for name, _ in rows)
    return ["certificate", *(f"  {name:<{width}}  {value}" for name, value in rows)]
