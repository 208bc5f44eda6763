"""Options of the command line for the filters, and the one value that is made of them."""

from __future__ import annotations

import argparse
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

from s4gen.cli.arguments import number, whole
from s4gen.config.filters import FilterSettings

if TYPE_CHECKING:
    from s4gen.sampling.filters import Filters


def _filters_for(kind: str) -> list[Field[Any]]:
    return [each for each in fields(FilterSettings) if each.metadata["kind"] == kind]


def filter_names(kind: str) -> tuple[str, ...]:
    """List the filters that are for models of one kind only, such as "text"."""
    return tuple(each.name for each in _filters_for(kind))


def add_filters(parser: argparse._ActionsContainer, kind: str = "") -> None:
    """Add an option for each filter that all models have, or that those of `kind` alone have.

    The latter are None unless they are given, so that they can be refused where they say nothing.
    """
    for each in _filters_for(kind):
        known, default = each.metadata, each.default
        parser.add_argument(
            f"--{each.name.replace('_', '-')}",
            metavar=known["metavar"],
            type=whole(0) if isinstance(default, int) else number(known["expected"], known["accept"]),
            default=None if kind else default,
            help=known["help"],
        )


def filters_of(args: argparse.Namespace) -> Filters:
    """Make the filters of the options that `add_filters` has added."""
    from s4gen.sampling.filters import Filters

    given = {each.name: getattr(args, each.name) for each in fields(FilterSettings)}
    return Filters(**{name: value for name, value in given.items() if value is not None})
