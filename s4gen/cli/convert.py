"""Convert a checkpoint to its recurrent form and certify that both forms agree."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from s4gen.cli.arguments import number, path_to_write, whole
from s4gen.cli.bounds import check_kept
from s4gen.cli.dataset import add_dataset_argument, dataset_of
from s4gen.cli.media import MEDIA
from s4gen.config.names import MINI_OF
from s4gen.showing.words import plural

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.sampling.certify import Certificate
    from s4gen.sampling.convert import RecurrentModel

SUMMARY = "Convert a checkpoint to its recurrent form and certify that both forms agree."
"""The sentence that `-h` shows; not `__doc__`, which `python -OO` removes."""
EXAMPLES = (
    "s4gen convert mnist-small runs/converted",
    "s4gen convert wikitext2-small runs/text --dataset ./my.txt",
)

DRAWN_TOKENS = 2048
"""Tokens of each sequence, at most, that a model without a data set draws to be compared on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument("out", metavar="OUT", type=path_to_write, help="folder of the converted checkpoint")
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
    from s4gen.sampling.certify import certify
    from s4gen.sampling.convert import convert
    from s4gen.sampling.converted import save_converted

    check_target(args.out, args.force)
    checkpoint = load_checkpoint(args.checkpoint)
    recurrent = convert(checkpoint.model)
    if args.dataset is None and checkpoint.recipe is None:  # an imported model, say, whose data set nobody knows
        data, label = "drawn by the model", None
        sequences = own_sequences(recurrent, args.sequences)
    else:
        dataset = args.dataset
        if dataset is None:  # a little real data is enough, and what ships with s4gen needs no download
            known = dataset_of(checkpoint)
            dataset = MINI_OF.get(known, known)
        data = f"{dataset} test"
        medium = MEDIA[checkpoint.config.layout.kind]
        sequences, label = medium.sequences_to_compare(checkpoint, dataset, args.sequences)
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

    length = min(recurrent.config.layout.length, DRAWN_TOKENS)
    check_kept(n, 16 * length * recurrent.config.model.d_model, "sequences", "choose a smaller --sequences")
    drawn = Generation.start(recurrent, n, seed=0, engine="auto").chunks(length)
    return torch.cat(list(drawn), dim=1)


def certificate_table(certificate: Certificate, data: str, unit: str = "bits/dim") -> list[str]:
    """Return the lines of text that show a certificate; `data` names what was compared on, `unit` the unit of bits."""
    rows = [
        (
            "compared on",
            f"{plural(certificate.n_sequences, 'sequence')} of {certificate.length} tokens ({data})",
        ),
        ("largest difference", f"{certificate.max_abs_logprob_difference:.2e} nats in one token"),
        ("allowed", f"{certificate.tolerance:g} nats"),
        ("by convolution", f"{certificate.bits_per_dim_convolution:.6f} {unit}"),
        ("by recurrence", f"{certificate.bits_per_dim_recurrent:.6f} {unit}"),
        *((name, f"{value:.2e} of its output") for name, value in certificate.layer_differences.items()),
    ]
    width = max(len(name) for name, _ in rows)
    return ["certificate", *(f"  {name:<{width}}  {value}" for name, value in rows)]
