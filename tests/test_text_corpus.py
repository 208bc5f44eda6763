"""Text is read lazily, from anywhere on, and counted as the literature counts it. What is no text is named."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s4gen.config.names import SPLITS, TEXT_SETS, TEXT_SUFFIXES
from s4gen.data.text import Corpus, build_tokenizer, hub, open_corpus, reading
from s4gen.data.text.corpus import MINI
from s4gen.errors import UserError


def content(corpus: Corpus) -> bytes:
    return b"".join(block.data for block in corpus.blocks())


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def whole(path: Path) -> Corpus:
    return Corpus(str(path), "train", "file", path)


def records(*texts: str) -> bytes:
    return b"".join(json.dumps({"id": 7, "text": text}).encode() + b"\n" for text in texts)


def small_blocks(monkeypatch: pytest.MonkeyPatch, block: int = 8, longest: int = 32) -> None:
    monkeypatch.setattr(reading, "BLOCK", block)
    monkeypatch.setattr(reading, "LONGEST_LINE", longest)


def test_the_mini_corpus_is_real_text_and_small() -> None:
    sizes = [len(content(open_corpus("wikitext-mini", split))) for split in SPLITS]
    assert sizes == [275_597, 61_135, 41_633]
    assert sum(file.stat().st_size for file in MINI.glob("*.gz")) < 150_000
    for split in SPLITS:
        corpus = open_corpus("wikitext-mini", split)
        assert content(corpus).startswith(b" \n = ")
        assert (corpus.name, corpus.split, corpus.source) == ("wikitext-mini", split, "s4gen")
    assert "CC BY-SA 3.0" in (MINI / "README.md").read_text()


@pytest.mark.data
def test_the_mini_corpus_is_the_beginning_of_wikitext_2() -> None:
    valid, test = (content(open_corpus("wikitext-2", split)) for split in ("validation", "test"))
    mini = {split: content(open_corpus("wikitext-mini", split)) for split in SPLITS}
    assert valid.startswith(mini["train"] + mini["validation"])
    assert test.startswith(mini["test"])


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "split", "size"),
    [
        ("wikitext-2", "train", 10_797_148),
        ("wikitext-2", "validation", 1_121_681),
        ("wikitext-2", "test", 1_256_449),
        ("wikitext-103", "validation", 1_142_309),
        ("wikitext-103", "test", 1_281_077),
    ],
)
def test_wikitext_is_read_whole(name: str, split: str, size: int) -> None:
    corpus = open_corpus(name, split)
    assert len(content(corpus)) == corpus.size_estimate() == size
    assert corpus.source == "S4GEN_DATA"


def test_wikitext_is_read_from_the_data_folder_gzipped_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4GEN_DATA", str(tmp_path))
    write(tmp_path / "wikitext" / "wikitext-103" / "wiki.train.tokens", b" a \n")
    write(tmp_path / "wikitext" / "wikitext-103" / "wiki.valid.tokens.gz", b" b \n")
    assert content(open_corpus("wikitext-103", "train")) == b" a \n"
    assert content(open_corpus("wikitext-103", "validation")) == b" b \n"


class Rows:
    """As `datasets` gives them: a slice is a dictionary of lists; the hub has "" for an empty line."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, part: slice) -> dict[str, list[str]]:
        return {"text": self.lines[part]}


@pytest.fixture
def hub_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any], list[Any]]:
    """Put a function in the place of `datasets.load_dataset`; returns the list of its calls."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(answer: Any) -> list[Any]:
        calls: list[Any] = []

        def load_dataset(*args: Any, **kwargs: Any) -> Any:
            calls.append((args, kwargs))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        return calls

    return install


def test_the_rows_of_the_hub_become_the_original_file_once(
    hub_of: Callable[[Any], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["", " = A = \n", "", " b <unk> @-@ c \n"] * 700
    monkeypatch.setitem(hub.WORDS, ("wikitext-103", "validation"), (1 + 4 + 1 + 5) * 700)
    calls = hub_of(Rows(lines))
    corpus = open_corpus("wikitext-103", "validation")
    assert corpus.source == "hub"
    assert content(corpus) == b" \n = A = \n \n b <unk> @-@ c \n" * 700
    assert open_corpus("wikitext-103", "validation") == corpus
    assert calls == [(("Salesforce/wikitext", "wikitext-103-v1"), {"split": "validation"})]
    assert [path.name for path in corpus.path.parent.iterdir()] == ["validation.txt.gz"]


def test_rows_of_another_number_of_words_are_not_kept(hub_of: Callable[[Any], list[Any]], tmp_path: Path) -> None:
    hub_of(Rows([" a \n"]))
    with pytest.raises(UserError, match=r"^Salesforce/wikitext gave 2 words .* of wikitext-2, expected 245569: delete"):
        open_corpus("wikitext-2", "test")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_without_data_and_network_both_ways_are_named(
    hub_of: Callable[[Any], list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_of(ConnectionError("Couldn't reach\nthe hub"))
    monkeypatch.setenv("S4GEN_DATA", str(tmp_path))
    with pytest.raises(UserError) as raised:
        open_corpus("wikitext-103", "validation")
    message = str(raised.value)
    assert "S4GEN_DATA names no folder that holds wikitext/wikitext-103/wiki.valid.tokens.gz" in message
    assert "loading Salesforce/wikitext through `datasets` failed (Couldn't reach the hub)" in message
    assert message.endswith("connect to the network, or set S4GEN_DATA")


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_a_file_is_parted_into_splits_at_line_ends(suffix: str, tmp_path: Path) -> None:
    lines = [f"line {i}\n".encode() for i in range(1000)]
    path = write(tmp_path / f"mine{suffix}", b"".join(lines))
    train, validation, test = (content(open_corpus(str(path), split)) for split in SPLITS)
    assert train + validation + test == b"".join(lines)
    assert all(part.endswith(b"\n") for part in (train, validation, test))
    assert abs(len(train) / 0.9 / 8890 - 1) < 0.01
    assert abs(len(validation) / 0.05 / 8890 - 1) < 0.05


def test_records_are_parted_into_splits_too(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", records(*map(str, range(100, 200))))
    parts = [content(open_corpus(str(path), split)) for split in SPLITS]
    assert parts == [b"".join(b"%d" % i for i in part) for part in (range(100, 190), range(190, 195), range(195, 200))]


@pytest.mark.parametrize("suffix", TEXT_SUFFIXES)
def test_a_folder_holds_a_file_per_split(suffix: str, tmp_path: Path) -> None:
    for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
        write(tmp_path / f"{name}{suffix}", records(split) if ".jsonl" in suffix else split.encode())
    for split in SPLITS:
        assert content(open_corpus(str(tmp_path), split)) == split.encode()


def test_a_folder_without_a_split_or_with_two_files_for_it_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", b"a")
    write(tmp_path / "train.jsonl", b"a")
    with pytest.raises(UserError, match=r"holds both train.txt and train.jsonl: expected one file train that ends in"):
        open_corpus(str(tmp_path), "train")
    with pytest.raises(UserError, match=r"holds no text for the split validation: expected one file validation or val"):
        open_corpus(str(tmp_path), "validation")


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("wikitext2", "train", r"no corpus or file called 'wikitext2': .*; did you mean wikitext-2\?$"),
        ("wikitext-2", "valid", r"no split called 'valid': expected one of train, validation, test$"),
        ("poem.pdf", "train", r"poem.pdf is no text file by its name: expected it to end in .txt, .jsonl"),
    ],
)
def test_a_wrong_name_is_one_sentence(
    name: str, split: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "poem.pdf", b"a")
    with pytest.raises(UserError, match=message):
        open_corpus(name, split)


def test_every_named_corpus_has_its_words_published() -> None:
    assert {name for name, _ in hub.WORDS} == set(TEXT_SETS) - {"wikitext-mini"}


@given(data=st.lists(st.sampled_from([b"a", b" ", b"\n", "é€😀".encode()]), max_size=150).map(b"".join), cut=st.data())
def test_blocks_join_to_the_file_from_any_block_on(data: bytes, cut: st.DataObject, tmp_path_factory: Any) -> None:
    """Resumed reading gives the very same blocks, whether lines are shorter or longer than a block."""
    path = write(tmp_path_factory.mktemp("text") / "a.txt", data)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        blocks = list(reading.read_blocks(path))
        assert b"".join(block.data for block in blocks) == data
        assert [block.ends for block in blocks] == [False] * (len(blocks) - 1) + [True] * bool(blocks)
        at = 0
        for block in blocks:
            assert (block.start, block.after) == (at, at + len(block.data))
            at = block.after
            line = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at) % (len(data) + 1)
            assert block.data.endswith(b"\n") or block.ends or line[1] - line[0] >= 31, "a short line is never cut"
            block.data.decode("utf-8")
        for index in range(len(blocks)):
            assert list(reading.read_blocks(path, blocks[index].start)) == blocks[index:]
        lines = list(itertools.accumulate(map(len, data.splitlines(keepends=True))))
        end = cut.draw(st.sampled_from([0, *lines]))
        assert b"".join(block.data for block in reading.read_blocks(path, 0, end)) == data[:end]


def test_a_line_longer_than_memory_should_hold_is_cut_before_a_space_or_between_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(monkeypatch)
    path = write(tmp_path / "a.txt", b"aaaa bbbbb" * 10)
    assert max(len(block.data) for block in reading.read_blocks(path)) <= 32
    assert all(block.data.startswith(b" ") for block in list(reading.read_blocks(path))[1:])
    path = write(tmp_path / "b.txt", "a€€".encode() * 20)
    assert "".join(block.data.decode("utf-8") for block in reading.read_blocks(path)) == "a€€" * 20
    path = write(tmp_path / "c.txt", b"\x80" * 100)
    assert b"".join(block.data for block in reading.read_blocks(path)) == b"\x80" * 100


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_every_record_is_a_document(suffix: str, tmp_path: Path) -> None:
    texts = ["one\ntwo", "", "three\n", "é\u2028😀"]
    path = write(tmp_path / f"a{suffix}", b"\n  \n" + records(*texts[:2]) + b"\n" + records(*texts[2:]))
    blocks = list(reading.read_blocks(path))
    assert [block.data.decode() for block in blocks] == texts
    assert all(block.ends for block in blocks)
    for index, block in enumerate(blocks[:-1]):
        assert next(reading.read_blocks(path, block.after)).data == blocks[index + 1].data


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"7",
        b'["text"]',
        b'{"txt": "a"}',
        b'{"text": null}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        pytest.param(b"[" * 99_999, id="deep"),
    ],
)
def test_a_record_that_is_none_is_named(line: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", records("fine") + line + b"\n")
    with pytest.raises(UserError, match=r'a.jsonl: the record at byte 26 is not a JSON object with a string "text" \('):
        list(reading.read_blocks(path))


@pytest.mark.parametrize("data", [b"", b"\n"])
def test_an_empty_file_is_one_sentence(data: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"")
    with pytest.raises(UserError, match=r"^there is no text in the train split of .*a.txt"):
        content(open_corpus(str(path), "train"))
    path = write(tmp_path / "a.jsonl", data)
    with pytest.raises(UserError, match=r"^there is no text in the train split of .*a.jsonl"):
        content(open_corpus(str(path), "train"))


def test_a_single_line_is_parted_at_spaces(tmp_path: Path) -> None:
    text = b" ".join(b"%d" % i for i in range(1000))
    path = write(tmp_path / "a.txt", text)
    parts = [content(open_corpus(str(path), split)) for split in SPLITS]
    assert b"".join(parts) == text
    assert [round(len(part) / len(text), 2) for part in parts] == [0.9, 0.05, 0.05]
    assert all(part.startswith(b" ") for part in parts[1:])


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_binary_files_and_other_encodings_are_named_with_the_byte(kind: str, tmp_path: Path) -> None:
    """Also through the training of byte pairs, which runs in another language."""
    binary = write(tmp_path / "a.txt", b"first line\nPNG\x00\x01\n")
    with pytest.raises(
        UserError, match=r"a.txt looks like a binary file \(a zero near byte 14\): expected text in UTF-8"
    ):
        build_tokenizer(kind, whole(binary), 300)
    latin = write(tmp_path / "b.txt", b"first line\ncaf\xe9\n")
    with pytest.raises(UserError, match=r"b.txt is not UTF-8 at byte 14: convert it, or use the tokeniser `bytes`"):
        build_tokenizer(kind, whole(latin), 300)


def test_a_cut_off_or_missing_file_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.gz", os.urandom(1000))
    path.write_bytes(path.read_bytes()[:-100])
    for use in (lambda: open_corpus(str(path), "train"), lambda: content(whole(path))):
        with pytest.raises(UserError, match=r"a.txt.gz is missing, damaged or unreadable \(.*\): copy or download it"):
            use()
    path.write_bytes(b"this is not gzip")
    with pytest.raises(UserError, match=r"is missing, damaged or unreadable"):
        content(whole(path))
    path.unlink()
    for missing in (lambda: content(whole(path)), lambda: whole(path).identity()):
        with pytest.raises(UserError, match=r"a.txt.gz (is missing|cannot be read)"):
            missing()


def test_the_identity_changes_with_the_file_and_the_part_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"a\n" * 100)
    seen = {open_corpus(str(path), split).identity() for split in SPLITS}
    assert open_corpus(str(path), "train").identity() in seen
    write(path, b"b\n" * 100)
    os.utime(path, ns=(0, 1))
    seen |= {open_corpus(str(path), split).identity() for split in SPLITS}
    write(path, b"b\n" * 101)
    os.utime(path, ns=(0, 1))
    seen |= {open_corpus(str(path), split).identity() for split in SPLITS}
    assert len(seen) == 9
