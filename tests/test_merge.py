"""Parts that were interrupted, repeated, damaged, mixed up or lost: gone on with, or refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import running
from shared_out import EAGER, contents, in_parts, refusal, save_tiny

from s4gen.bulk import part as part_module
from s4gen.bulk.dealing import Shard
from s4gen.bulk.part import Run, part_writer, read_part
from s4gen.cli import main
from s4gen.errors import UserError

Capture = pytest.CaptureFixture[str]
DRAW = ["sample", "classes", "-n", "8", "--batch", "2", *EAGER]
SCORE = ["eval", "grey", "--dataset", "mnist-mini", "--limit", "6", "--batch", "1"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*DRAW, "-o", "one"]) == 0
        in_parts(DRAW, 2, "p")
    return folder


@pytest.fixture
def room(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the tiny checkpoints, the parts p-0 and p-1 of two, and `one`, the run as a whole."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.safetensors"))


def test_a_part_goes_on_behind_its_last_block_and_is_done_again_in_no_time(room: Path, capsys: Capture) -> None:
    before = [block.name for block in blocks("p-1")]
    blocks("p-1")[1].unlink()
    assert "part 1/2, is not finished: 2 of its 4 rows are there; run its command" in refusal(
        capsys, "merge", "x", "p-0", "p-1"
    )
    assert main([*DRAW, "--shard", "1/2", "-o", "p-1"]) == 0
    assert capsys.readouterr().out == "part 1/2 in p-1: 4 of 8 images, 2 of them from before\n"
    assert [block.name for block in blocks("p-1")] == before
    assert main([*DRAW, "--shard", "1/2", "-o", "p-1"]) == 0
    assert capsys.readouterr().out == "part 1/2 in p-1: 4 of 8 images, 4 of them from before\n"


@pytest.mark.parametrize("spoil", ["cut", "flip", "empty"])
def test_a_damaged_block_is_found_and_made_anew(spoil: str, room: Path, capsys: Capture) -> None:
    block = blocks("p-0")[0]
    content = block.read_bytes()
    spoilt = {"cut": content[:-7], "empty": b"", "flip": content[:-1] + bytes([content[-1] ^ 1])}[spoil]
    block.write_bytes(spoilt)
    assert "is damaged or cut off: run the command of this part again" in refusal(capsys, "merge", "x", "p-0", "p-1")
    assert not Path("x").exists()
    assert main([*DRAW, "--shard", "0/2", "-o", "p-0"]) == 0
    assert block.read_bytes() == content
    assert main(["merge", "merged", "p-0", "p-1"]) == 0
    assert contents(Path("merged")) == contents(Path("one"))


def test_a_stream_goes_on_with_the_state_of_what_is_there(room: Path) -> None:
    command = ["eval", "bytes", "--limit", "900", "--chunk", "100"]
    assert main([*command, "-o", "one.json"]) == 0
    parts = in_parts(command, 2, "stream")
    blocks("stream-1")[2].unlink()
    assert main([*command, "--shard", "1/2", "-o", "stream-1"]) == 0
    assert main(["merge", "merged.json", *parts]) == 0
    assert contents(Path("merged.json")) == contents(Path("one.json"))


@pytest.mark.slow
@pytest.mark.faults("a part of samples, killed three times")
def test_a_part_that_is_killed_again_and_again_gets_done(room: Path) -> None:
    command = [sys.executable, "-m", "s4gen", *DRAW, "--shard", "0/1", "-o", "killed"]
    for wanted in (1, 2, 3):
        with running(command) as process:
            while len(blocks("killed")) < wanted and process.poll() is None:
                pass
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert main([*DRAW, "--shard", "0/1", "-o", "killed"]) == 0
    assert main(["merge", "merged", "killed"]) == 0
    assert contents(Path("merged")) == contents(Path("one"))
    assert not list(Path("killed").glob(".*"))


def test_parts_that_do_not_belong_together_are_refused(room: Path, capsys: Capture) -> None:
    def part(folder: str, *more: str, model: str = "classes", shard: str = "1/2") -> str:
        command = ["sample", model, "-n", "8", "--batch", "2", *EAGER, *more, "--shard", shard, "-o", folder]
        assert main(command) == 0
        return refusal(capsys, "merge", "x", "p-0", folder)

    assert "parts of different runs: seed is 5 in other, and 0 in p-0" in part("other", "--seed", "5")
    assert "temperature is 0.5 in hot, and 1.0 in p-0" in part("hot", "--temperature", "0.5")
    assert "rows is 9 in more, and 8 in p-0" in part("more", "-n", "9")
    assert "model is " in part("grey-1", model="grey")
    assert "parts is 3 in third, and 2 in p-0" in part("third", shard="1/3")
    assert "kind is text in words, and image in p-0" in part("words", "--max-tokens", "3", model="bytes")
    assert main([*SCORE, "--shard", "1/2", "-o", "score"]) == 0
    assert "verb is eval in score, and sample in p-0" in refusal(capsys, "merge", "x", "p-0", "score")
    assert not Path("x").exists()


def test_what_is_missing_is_named(room: Path, capsys: Capture) -> None:
    assert refusal(capsys, "merge", "x", "p-1") == "part 0/2 of the run is missing"
    assert refusal(capsys, "merge", "x", "p-1", "p-2").startswith("p-2 does not exist: expected a part")
    assert "is no part: there is no part.json in it" in refusal(capsys, "merge", "x", "p-1", "grey")
    assert "is no folder: expected a part" in refusal(capsys, "merge", "x", "grey/config.json")
    assert main([*DRAW, "--shard", "3/20", "-o", "few"]) == 0
    names = "parts 0/20, 1/20, 2/20, 4/20, 5/20 and 14 more of the run are missing"
    assert refusal(capsys, "merge", "x", "few") == names


def test_two_parts_of_one_shard_must_be_equal(room: Path, capsys: Capture) -> None:
    shutil.copytree("p-0", "again")
    assert main(["merge", "merged", "p-0", "again", "p-1"]) == 0
    with part_writer(Path("false"), read_part(Path("p-0")).run, Shard(0, 2), range(4), force=False) as writer:
        for block in blocks("p-0"):
            arrays = part_module.read_block(block)
            writer.write(part_module.rows_of(block), arrays | {"tokens": arrays["tokens"] ^ 1})
    assert "p-0 and false are both part 0/2, and they differ; leave one out" in refusal(
        capsys, "merge", "x", "p-0", "false", "p-1"
    )


def test_nothing_is_written_over_without_force_and_nothing_else_with_it(room: Path, capsys: Capture) -> None:
    before = contents(Path("one"))
    assert "one exists; choose another name, or write over it with --force" in refusal(
        capsys, "merge", "one", "p-0", "p-1"
    )
    Path("one/letter.txt").write_text("to be kept")
    assert "one holds letter.txt, too, so it is not replaced" in refusal(
        capsys, "merge", "one", "p-0", "p-1", "--force"
    )
    Path("one/letter.txt").unlink()
    Path("one/00009-a.png").write_bytes(b"of an older run")
    assert main(["merge", "one", "p-0", "p-1", "--force"]) == 0
    assert contents(Path("one")) == before
    assert "expected" not in refusal(capsys, *DRAW, "--shard", "0/2", "-o", "one")
    assert "p-0 is another part: it is part 0/2, and 1/2 is asked for" in refusal(
        capsys, *DRAW, "--shard", "1/2", "-o", "p-0"
    )
    assert "p-0 is another part: seed is 0 in p-0, and 4 in this command" in refusal(
        capsys, *DRAW, "--seed", "4", "--shard", "0/2", "-o", "p-0"
    )
    assert main([*DRAW, "--seed", "4", "--shard", "0/2", "-o", "p-0", "--force"]) == 0
    assert read_part(Path("p-0")).run.options["seed"] == 4
    assert "grey exists and is no part" in refusal(capsys, *DRAW, "--shard", "0/2", "-o", "grey", "--force")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            [*DRAW, "--shard", "2/2", "-o", "x"],
            "argument --shard: got 2/2, expected 0/2 to 1/2: parts are counted from 0",
        ),
        ([*DRAW, "--shard", "-1/2", "-o", "x"], "argument --shard: expected one argument"),
        ([*DRAW, "--shard=-1/2", "-o", "x"], "argument --shard: got '-1/2', expected i/n"),
        ([*DRAW, "--shard", "a/b", "-o", "x"], "argument --shard: got 'a/b', expected i/n"),
        ([*DRAW, "--shard", "1/0", "-o", "x"], "argument --shard: got 1/0, expected 1 to 1,000,000 parts"),
        ([*DRAW, "--shard", "0/2"], "--shard 0/2 needs -o FOLDER, where the part goes"),
        ([*DRAW, "--shard", "0/2", "-o", "x.png"], "s4gen merge writes .png files"),
        ([*DRAW, "--shard", "0/2", "-o", "grey/config.json"], "s4gen merge writes .json files"),
        ([*DRAW, "--shard", "0/2", "-o", "x", "--nearest", "2"], "--nearest draws all images beside their neighbours"),
        ([*SCORE, "--shard", "0/2", "-o", "x", "--json"], "--json prints a result, and a part has none"),
        ([*SCORE, "-o", "x"], "x: a result is written as JSON; use a name that ends in .json"),
        (
            ["merge", "x.jpg", "p-0", "p-1"],
            "x.jpg: parts of this kind are merged to a name that ends in .png or a folder",
        ),
        (["merge", "x", "p-0", "p-1", "--json"], "--json is for scores, and these are parts of samples"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(command: list[str], message: str, room: Path, capsys: Capture) -> None:
    assert message in refusal(capsys, *command)
    assert not Path("x").exists()


MUTATIONS: dict[str, Any] = {
    "rows": [None, -8, 2**70, "8", 9, []],
    "shard": [2, -1, True],
    "shards": [0, 3, 10**9],
    "first": [1, -1, 4.0],
    "stop": [3, 9],
    "format_version": [2],
    "format": ["other", {}],
    "options": [[], None],
    "shown": [{}, {"layout": {}}, {"layout": {"kind": "image", "height": "6"}}, "x"],
    "kind": ["audio", "text", "video", {}],
    "verb": ["eval", "train", 3],
    "model": [7],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in MUTATIONS.items() for value in values])
def test_a_damaged_description_is_one_line(key: str, value: Any, room: Path, capsys: Capture) -> None:
    for folder in ("p-0", "p-1"):
        about = json.loads(Path(folder, "part.json").read_text())
        Path(folder, "part.json").write_text(json.dumps(about | {key: value}))
    out = "x.json" if (key, value) == ("verb", "eval") else "x.txt" if value == "text" else "x"
    refusal(capsys, "merge", out, "p-0", "p-1")
    assert not Path(out).exists()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"[" * 100_000, b"\xff\xfe", b'{"format": NaN}'])
def test_a_description_that_is_none_is_one_line(content: bytes, room: Path, capsys: Capture) -> None:
    Path("p-0/part.json").write_bytes(content)
    refusal(capsys, "merge", "x", "p-0", "p-1")


def test_two_writers_of_one_part_are_one_too_many(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("sample", "image", "m", {}, {}, 2)
    with (
        part_writer(Path("twice"), run, Shard(0, 1), range(2), force=False),
        pytest.raises(UserError, match=r"another process is writing .*twice; wait for it"),
        part_writer(Path("twice"), run, Shard(0, 1), range(2), force=False),
    ):
        pass
    with part_writer(Path("twice"), run, Shard(0, 1), range(2), force=False) as writer:
        assert not writer.has(range(2))


def test_a_place_that_cannot_be_written_to_is_one_line(room: Path, capsys: Capture) -> None:
    Path("file").write_text("")
    assert "Not a directory" in refusal(capsys, *DRAW, "--shard", "0/2", "-o", "file/part")
    if os.getuid():
        Path("locked").mkdir(mode=0o500)
        assert "Permission denied" in refusal(capsys, *DRAW, "--shard", "0/2", "-o", "locked/part")
