"""Parts of a run, put together, are the run: bit for bit, for every kind of model, by drawing and by scoring."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import ENGINES_HERE, KINDS, model_of
from hypothesis import given
from hypothesis import strategies as st
from shared_out import EAGER, contents, in_parts, save_tiny
from tiny import random_sequences

from s4gen.bulk.dealing import Batches, Piece, Shard, even_batches, own_rows, parse_shard, pieces
from s4gen.cli import main
from s4gen.data.audio import write
from s4gen.data.text.streams import window_batches
from s4gen.evaluate.images import image_nats
from s4gen.evaluate.scorers import by_convolution, by_recurrence, in_whole_rows
from s4gen.models.states import least_length, row_multiple
from s4gen.sampling.convert import convert
from s4gen.sampling.engines import make_engine


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_tiny(folder)
    return folder


@pytest.fixture
def room(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with nothing but the tiny checkpoints; pictures of sound are not drawn."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def quick(clips: Sequence[np.ndarray], rate: int, titles: Sequence[str]) -> bytes:
        return "\n".join(titles).encode()

    monkeypatch.setattr(write, "draw_clips", quick)
    return tmp_path


# Dealing out


@given(st.integers(1, 400), st.integers(1, 70), st.integers(1, 40), st.booleans())
def test_shards_share_every_row_once_in_order_and_evenly(n: int, size: int, of: int, last_alone: bool) -> None:
    batches = Batches(n, size, last_alone and n > 1)
    rows: list[int] = []
    for number in range(of):
        shard = Shard(number, of)
        own = own_rows(batches, shard)
        parts = list(pieces(batches, shard))
        assert [row for piece in parts for row in piece.own] == list(own)
        for piece in parts:
            assert piece.batch in [batches[i] for i in range(len(batches))]
            assert [piece.batch[i] for i in piece.within] == list(piece.computed)
            assert list(piece.computed)[piece.extra :] == list(piece.own)
            assert len(batches) < of or piece.own == piece.batch, "whole batches wherever there are enough"
        # By batches where there are enough of them, else by rows: never more than one above the share.
        units, share = (len(parts), len(batches)) if len(batches) >= of else (len(own), n)
        assert units <= -(-share // of)
        rows += own
    assert rows == list(range(n))


def test_batches_take_no_memory() -> None:
    batches = even_batches(10**15, 64)
    assert len(batches) == 10**15 // 64
    assert batches[-1] == range(10**15 - 64, 10**15)
    assert next(pieces(batches, Shard(999, 1000))).own == range(999 * 10**12, 999 * 10**12 + 64)
    with pytest.raises(IndexError):
        batches[len(batches)]


def test_a_shorter_last_window_is_a_batch_of_its_own() -> None:
    batches = window_batches(25, 4, 3)
    assert [batches[i] for i in range(len(batches))] == [range(0, 3), range(3, 6), range(6, 7)]
    assert list(window_batches(24, 4, 4)) == [range(0, 4), range(4, 6)]


@pytest.mark.parametrize(
    "text", ["3/3", "-1/3", "a/b", "1/0", "0/0", "1", "1/2/3", "", "0.5/2", "0/1000001", "٣/٤", " 0/3"]
)
def test_only_a_shard_is_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"got .*expected"):
        parse_shard(text)
    assert parse_shard("2/3") == Shard(2, 3)


# Rows do not depend on their neighbours


@pytest.mark.parametrize("kind", [*KINDS, "attention"])
def test_what_a_row_costs_depends_on_no_other_row(kind: str) -> None:
    model = model_of(kind).eval()
    sequences, multiple = random_sequences(model, 11), row_multiple(model.config.ssm.d_state)
    recurrent = convert(model)
    scorers = [(in_whole_rows(by_convolution(model), multiple, least_length(model.config)), 1)]
    if kind != "attention":
        for name in ENGINES_HERE:
            engine = make_engine(name, recurrent)
            scorers.append((by_recurrence(recurrent, engine), engine.row_multiple))
    for plain, rows in scorers:
        score = in_whole_rows(plain, rows)
        whole = image_nats(score, sequences, model.bos)
        for own in (range(0, 1), range(3, 8), range(9, 11)):
            piece = Piece(range(11), own)
            rows = sequences[piece.computed.start : piece.computed.stop]
            found = image_nats(score, rows, model.bos)[piece.extra :]
            assert (found == whole[own.start : own.stop]).all()


# Whole runs

DRAWN: dict[str, tuple[list[str], str]] = {
    "images in a grid": (["classes", "-n", "7"], "out.png"),
    "images with classes": (["classes", "-n", "11", "--batch", "2", "--temperature", "0.9"], "out"),
    "completed images": (
        ["grey", "-n", "3", "--prompt", "test", "--prompt-rows", "26", "--dataset", "mnist-mini"],
        "out",
    ),
    "texts": (["bytes", "-n", "5", "--prompt", "The", "He was", "--max-tokens", "9"], "out.jsonl"),
    "texts to read": (["bytes", "-n", "7", "--batch", "2", "--max-tokens", "9", "--stop", "e"], "out.txt"),
    "texts by attention": (["attending", "--prompt", "The", "He was", "It", "She", "--max-tokens", "5"], "out.jsonl"),
    "clips": (["spoken", "-n", "7", "--seconds", "0.1", "--classes", "two", "zero"], "out"),
    "a clip": (["spoken", "-n", "1", "--seconds", "0.1"], "out.wav"),
    "chosen clips": (["spoken", "-n", "3", "--seconds", "0.1", "--select", "--batch", "3"], "out"),
    "clips at a rate": (["spoken", "-n", "2", "--seconds", "0.1", "--rate", "0.5"], "out"),
}
SCORED = {
    "images": ["grey", "--dataset", "mnist-mini", "--limit", "11", "--batch", "4"],
    "images, one batch": ["grey", "--dataset", "mnist-mini", "--limit", "5"],
    "by recurrence": ["bytes", "--limit", "95", "--windows", "20", "--mode", "recurrent", "--engine", "eager"],
    "a stream": ["bytes", "--limit", "1500", "--chunk", "200"],
    "windows": ["bytes", "--limit", "1500", "--windows", "64", "--batch", "5"],
    "windows, one batch": ["bytes", "--limit", "700", "--windows", "200"],
    "windows by attention": ["attending", "--limit", "700", "--windows", "100"],
    "clips": ["digits", "--dataset", "fsdd-mini", "--limit", "7", "--batch", "2"],
    "clips, one batch": ["digits", "--dataset", "fsdd-mini", "--limit", "5"],
}


@pytest.mark.parametrize("case", DRAWN)
def test_samples_of_all_parts_are_those_of_one_run(case: str, room: Path) -> None:
    command, out = DRAWN[case]
    command = ["sample", *command, "--seed", "3", *EAGER]
    assert main([*command, "-o", out]) == 0
    parts = in_parts(command, 3)
    merged = f"merged{Path(out).suffix}"
    assert main(["merge", merged, *parts, parts[1]]) == 0
    wanted, found = contents(Path(out)), contents(Path(merged))
    if out == "out.wav":
        wanted.pop(".png"), found.pop(".png")  # the title of the picture is the name of the file
    assert found == wanted
    assert list(room.glob(".*")) == []


@pytest.mark.parametrize("case", SCORED)
def test_scores_of_all_parts_are_those_of_one_run(case: str, room: Path) -> None:
    command = ["eval", *SCORED[case]]
    assert main([*command, "-o", "one.json"]) == 0
    assert main(["merge", "merged.json", *in_parts(command, 3)]) == 0
    assert contents(Path("merged.json")) == contents(Path("one.json"))


def test_a_single_part_and_more_parts_than_rows_will_do(room: Path) -> None:
    command = ["sample", "classes", "-n", "2", *EAGER]
    assert main([*command, "-o", "one"]) == 0
    for shards in (1, 5):
        assert main(["merge", "merged", *in_parts(command, shards, f"of{shards}"), "--force"]) == 0
        assert contents(Path("merged")) == contents(Path("one"))


def test_two_threads_change_nothing(room: Path, two_threads: None) -> None:
    command = ["eval", *SCORED["images"]]
    assert main([*command, "-o", "one.json"]) == 0
    assert main(["merge", "merged.json", *in_parts(command, 5)]) == 0
    assert contents(Path("merged.json")) == contents(Path("one.json"))
    assert torch.get_num_threads() == 2
