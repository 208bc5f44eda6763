"""Completion at the tab key, and the examples at the end of each help text."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from s4gen import cli
from s4gen.cli.completion import SHELLS, script
from s4gen.cli.parser import verbs_of
from s4gen.config.names import KINDS
from s4gen.files.shipped import KINDS as SHIPPED
from s4gen.files.shipped import shipped_names

EXAMPLES = [(verb, command) for verb, module in cli.VERBS.items() for command in module.EXAMPLES]


@pytest.mark.parametrize(("verb", "command"), EXAMPLES)
def test_every_example_parses_and_names_what_there_is(verb: str, command: str) -> None:
    words = shlex.split(re.split(r"^[^|]*\| (?=s4gen)|>", command)[-1 if "| s4gen" in command else 0])
    assert words[:2] == ["s4gen", verb]
    args = cli.make_parser().parse_args(words[1:])
    shipped = {name for kind in SHIPPED for name in shipped_names(kind)}
    for named in (getattr(args, key, None) for key in ("recipe", "checkpoint", "subject")):
        assert named is None or "/" in named or named in shipped, named


def test_each_verb_has_one_to_three_examples_at_the_end_of_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-h"]) == 0
    everything = capsys.readouterr().out
    for verb, module in cli.VERBS.items():
        assert 1 <= len(module.EXAMPLES) <= 3
        assert f"  {module.EXAMPLES[0]}\n" in everything
        assert cli.main([verb, "-h"]) == 0
        end = "examples:\n" + "".join(f"  {command}\n" for command in module.EXAMPLES)
        assert capsys.readouterr().out.endswith(end)


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "s4gen"
    path.write_text(script(cli.make_parser(), "bash"))
    return path


@pytest.mark.parametrize(
    ("line", "offered", "refused"),
    [
        ("s4gen sa", {"sample"}, {"train"}),
        ("s4gen train mnist", {"mnist-small"}, {"cifar10-small", "notes.txt"}),
        ("s4gen train ", {"own-images", "notes.txt"}, set()),
        ("s4gen sample fsdd", {"fsdd-small"}, {"mnist-small"}),
        ("s4gen info cifar10-b", {"cifar10-base"}, {"cifar10-small"}),
        ("s4gen report n", {"notes.txt"}, {"mnist-small"}),
        ("s4gen sample mnist-small --engine nat", {"native", "native-int8"}, {"eager"}),
        ("s4gen sample mnist-small -o no", {"notes.txt"}, {"mnist-small"}),
        ("s4gen eval --mo", {"--mode"}, {"--limit"}),
        ("s4gen completion ", set(SHELLS), set(KINDS)),
    ],
)
def test_bash_offers_verbs_options_files_and_shipped_names(
    bash_script: Path, tmp_path: Path, line: str, offered: set[str], refused: set[str]
) -> None:
    (tmp_path / "notes.txt").write_text("")
    words = line.split(" ")
    program = (
        f"source {shlex.quote(str(bash_script))}; COMP_WORDS=({' '.join(map(shlex.quote, words))}); "
        f"COMP_CWORD={len(words) - 1}; _shtab_s4gen; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    found = {word.rstrip() for word in done.stdout.splitlines()}
    assert offered <= found and not refused & found, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script_with_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    written = capsys.readouterr().out
    assert all(verb in written for verb in verbs_of(cli.make_parser()))


def test_a_shell_that_is_not_known_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "cmd.exe"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "bash" in said and "zsh" in said
