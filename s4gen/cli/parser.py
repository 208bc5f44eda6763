"""The parser of the command line: errors in one line, and sub-commands of a verb."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from s4gen.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports a wrong argument like everything else that the user can fix."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.commands: dict[str, Parser] = {}

    def add_command(self, name: str, summary: str) -> Parser:
        """Return the parser of a new sub-command, which takes over where `name` is the first argument.

        All other arguments stay this parser's own. argparse's sub-parsers cannot do that: beside them a positional
        argument of the verb itself, such as a checkpoint, would never be reached.
        """
        command = type(self)(prog=f"{self.prog} {name}", description=summary, allow_abbrev=False)
        command.set_defaults(parser=command)
        self.commands[name] = command
        return command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        if given and given[0] in self.commands:
            return self.commands[given[0]].parse_known_args(given[1:], namespace)
        return super().parse_known_args(given, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:  # argparse would name the parser of all verbs, whose help says nothing of a verb's options
            parser: Parser = getattr(found, "parser", self)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} -h)")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own passes over a stream that cannot be written to.
        (file or sys.stderr).write(message)
