"""Options of the command line for the filters, and the one value that is made of them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

from s4gen.cli.arguments import number, whole
from s4gen.config.filters import FilterSettings

if TYPE_CHECKING:
    from s4gen.sampling.filters import Filters


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add an option for each filter."""
    for each in fields(FilterSettings):
        known, default = each.metadata, each.default
        parser.add_argument(
            f"--{each.name.replace('_', '-')}",
            metavar=known["metavar"],
            type=whole(0) if isinstance(default, int) else number(known["expected"], known["accept"]),
            default=default,
            help=known["help"],
        )


def filters_of(args: argparse.Namespace) -> Filters:
    """Make the filters of the options that `add_filters` has added."""
    from s4gen.sampling.filters import Filters

    return Filters(**{each.name: getattr(args, each.name) for each in fields(FilterSettings)})
