"""Print a script that completes the commands of s4gen when the tab key is pressed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from s4gen.cli.parser import Parser, verbs_of
from s4gen.files.folders import user_path
from s4gen.files.shipped import shipped_names

SUMMARY = "Print a script that completes verbs, options, files and shipped names at the tab key."
"""The sentence that `-h` shows; not `__doc__`, which `python -OO` removes."""
EXAMPLES = (
    "s4gen completion bash > ~/.local/share/bash-completion/completions/s4gen",
    "s4gen completion zsh > ~/.zfunc/_s4gen",
)

SHELLS = ("bash", "zsh", "tcsh")
_SHIPPED = {
    "CHECKPOINT": ("checkpoints",),
    "CHECKPOINT|PRESET": ("checkpoints", "models"),
    "RECIPE": ("train",),
    "RUN": ("checkpoints",),
}
"""Arguments that take a path or a shipped name, by their metavar, and of which kinds (s4gen.files.shipped)."""
_PATHS = ("FILE", "PROMPT")
"""Arguments that may be a file and something else, too, so that their type is no path."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to read the script")


def run(args: argparse.Namespace) -> int:
    print(script(args.program, args.shell))
    return 0


def script(parser: Parser, shell: str) -> str:
    """Return the script for one of `SHELLS`; the shipped names in it are those of this installation."""
    import shtab

    preambles: dict[str, dict[str, str]] = {}
    for action in _actions(parser):
        if isinstance(action.metavar, str) and action.metavar in _SHIPPED:
            kinds = _SHIPPED[action.metavar]
            name = f"_s4gen_{'_'.join(kinds)}"
            preambles[name] = _preamble(name, kinds)
            action.complete = {"bash": name, "zsh": name, "tcsh": "f"}  # type: ignore[attr-defined]
        elif action.type is user_path or action.metavar in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    preamble = "\n".join(each.get(shell, "") for each in preambles.values())
    return str(shtab.complete(parser, shell=shell, preamble=preamble))


def _preamble(name: str, kinds: tuple[str, ...]) -> dict[str, str]:
    """Return, for each shell, a function that completes shipped names of these kinds and files."""
    names = " ".join(name for kind in kinds for name in shipped_names(kind))
    return {
        "bash": f'{name}() {{\n  compgen -W "{names}" -- "$1"\n  compgen -f -- "$1"\n}}\n',
        "zsh": f"{name}() {{\n  compadd -- {names}\n  _files\n}}\n",
    }


def _actions(parser: Parser) -> Iterator[argparse.Action]:
    """Yield the arguments of all verbs."""
    for verb in verbs_of(parser).values():
        yield from verb._actions
