"""A token file is whole or not there, whatever interrupts its making and whoever else makes it; its counts are true."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from processes import running

from s4gen.config.names import SPLITS
from s4gen.data.text import (
    ByteTokenizer,
    Corpus,
    TokenFile,
    Tokenizer,
    WordTokenizer,
    build_tokenizer,
    open_corpus,
    prepare_tokens,
    reading,
    token_file,
)
from s4gen.data.text.reading import Block
from s4gen.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
KINDS = ["word", "bpe", "bytes"]


def made(kind: str) -> Tokenizer:
    return build_tokenizer(kind, open_corpus("wikitext-mini", "test"), 400 if kind == "bpe" else None)


def corpus_of(path: Path, data: bytes) -> Corpus:
    path.write_bytes(data)
    return Corpus(str(path), "train", "file", path)


def prepare(corpus: Corpus, tokenizer: Tokenizer, cache: Path) -> TokenFile:
    return prepare_tokens(corpus, tokenizer, cache, progress=False)


@pytest.fixture
def fine_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a kilobyte, and a note of the progress every three."""
    monkeypatch.setattr(reading, "BLOCK", 1 << 10)
    monkeypatch.setattr(token_file, "SAVE_EVERY", 3 << 10)


class Interruption(BaseException):
    """As a key press would be, which would end the tests themselves."""


class Interrupting(Tokenizer):
    """A tokeniser that takes so many blocks, and no more."""

    left = 0

    def encode_bytes(self, data: bytes) -> list[int]:
        if self.left == 0:
            raise Interruption
        self.left -= 1
        return super().encode_bytes(data)


class Interrupted(Interrupting, WordTokenizer):
    pass


class InterruptedBytes(Interrupting, ByteTokenizer):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_file_holds_the_tokens_of_the_text_and_its_counts(kind: str, tmp_path: Path) -> None:
    tokenizer = made(kind)
    for split, lines in zip(SPLITS, (1097, 201, 176), strict=True):
        corpus = open_corpus("wikitext-mini", split)
        text = "".join(corpus.texts())
        found = prepare(corpus, tokenizer, tmp_path)
        assert found.tokens.tolist() == tokenizer.encode(text) + ([] if kind == "word" else [tokenizer.eos])
        assert (found.words, found.text_bytes) == (len(text.split()) + lines, len(text.encode()))
        assert (len(found), found.vocab, found.tokenizer) == (
            len(found.tokens),
            tokenizer.vocab,
            tokenizer.fingerprint,
        )
        assert kind != "word" or len(found) == found.words


@pytest.mark.data
@pytest.mark.parametrize("name", ["wikitext-2", "wikitext-103"])
def test_the_words_of_wikitext_are_the_published_ones_whatever_the_tokeniser(name: str, tmp_path: Path) -> None:
    for split, words in (("validation", 217_646), ("test", 245_569)):
        for tokenizer in (ByteTokenizer(), WordTokenizer(["<eos>", "<unk>"])):
            assert prepare(open_corpus(name, split), tokenizer, tmp_path).words == words


def test_a_prepared_file_is_found_again_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, tokenizer = open_corpus("wikitext-mini", "test"), made("word")
    first = prepare(corpus, tokenizer, tmp_path)

    def fail(*args: Any) -> Iterator[Block]:
        raise AssertionError("it was read again")

    monkeypatch.setattr(Corpus, "blocks", fail)
    again = prepare(corpus, tokenizer, tmp_path)
    assert again.path == first.path
    assert np.array_equal(again.tokens, first.tokens)
    assert isinstance(again.tokens, np.memmap)
    assert not again.tokens.flags.writeable


def test_another_text_or_tokeniser_has_another_file(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.txt", b"one two\n")
    tokenizers = [ByteTokenizer(), WordTokenizer(["<eos>", "<unk>", "one"])]
    paths = {prepare(corpus, tokenizer, tmp_path / "cache").path for tokenizer in tokenizers}
    changed = corpus_of(tmp_path / "a.txt", b"one three\n")
    found = prepare(changed, tokenizers[0], tmp_path / "cache")
    assert len(paths | {found.path}) == 3
    assert bytes(found.tokens[:-1].tolist()) == b"one three\n"


@pytest.mark.parametrize(("vocab", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_tokens_take_two_bytes_where_they_fit(vocab: int, dtype: type, tmp_path: Path) -> None:
    words = ["<eos>", "<unk>", *map(str, range(vocab - 2))]
    corpus = corpus_of(tmp_path / "a.txt", f"0 {vocab - 3}\n".encode())
    found = prepare(corpus, WordTokenizer(words), tmp_path / "cache")
    assert found.tokens.dtype == dtype
    assert found.tokens.tolist() == [2, vocab - 1, 0]


@pytest.mark.usefixtures("fine_steps")
@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 4, 17, 44])
def test_an_interrupted_preparation_is_finished_by_the_next_run(blocks: int, tmp_path: Path) -> None:
    corpus, words = open_corpus("wikitext-mini", "test"), made("word")
    whole = prepare(corpus, words, tmp_path / "whole")
    tokenizer = Interrupted(words.words)  # type: ignore[attr-defined]
    assert tokenizer.fingerprint == words.fingerprint
    tokenizer.left = blocks
    with pytest.raises(Interruption):
        prepare(corpus, tokenizer, tmp_path / "cut")
    assert not list((tmp_path / "cut").rglob("tokens"))
    left = len(list(corpus.blocks())) - blocks
    tokenizer.left = left + 8  # blocks are up to 3 kB and one more behind the last note, so a few are read again
    resumed = prepare(corpus, tokenizer, tmp_path / "cut")
    assert np.array_equal(resumed.tokens, whole.tokens)
    assert (resumed.words, resumed.text_bytes) == (whole.words, whole.text_bytes)
    assert sorted(os.listdir(resumed.path.parent)) == ["lock", "meta.json", "tokens"]


@pytest.mark.usefixtures("fine_steps")
@pytest.mark.parametrize("damage", ["truncated", "no note", "bad note", "extra"])
def test_what_an_interruption_left_is_trusted_only_as_far_as_it_was_noted(damage: str, tmp_path: Path) -> None:
    corpus, words = open_corpus("wikitext-mini", "test"), made("word")
    tokenizer = Interrupted(words.words)  # type: ignore[attr-defined]
    tokenizer.left = 20
    with pytest.raises(Interruption):
        prepare(corpus, tokenizer, tmp_path)
    (partial,) = tmp_path.rglob("partial")
    note = partial.with_name("progress.json")
    assert json.loads(note.read_text())["tokens"] > 0
    if damage == "truncated":
        os.truncate(partial, 10)
    elif damage == "no note":
        note.unlink()
    elif damage == "bad note":
        note.write_text("{")
    else:
        partial.write_bytes(partial.read_bytes() + b"not whole")
    assert prepare(corpus, words, tmp_path).tokens.tolist() == words.encode("".join(corpus.texts()))


@pytest.mark.usefixtures("fine_steps")
def test_what_is_left_to_write_must_fit_the_disk_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, tokenizer, free = corpus_of(tmp_path / "a.txt", b"some text\n" * 2000), InterruptedBytes(), 40_000
    monkeypatch.setattr(token_file.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    tokenizer.left = 10
    with pytest.raises(Interruption):
        prepare(corpus, tokenizer, tmp_path)
    # That is less than all of the 20,000 tokens take, but more than those that are not there yet.
    tokenizer.left, free = 1000, 36_000
    assert len(prepare(corpus, tokenizer, tmp_path).tokens) == 20_001
    free = 39_999
    with pytest.raises(UserError, match=r"tokens would take 40,000 bytes in .*, and 39,999 bytes are left: make room"):
        prepare(corpus, ByteTokenizer(), tmp_path / "another")


PROGRAM = """
import os, sys
from pathlib import Path
from s4gen.data.text import ByteTokenizer, open_corpus, prepare_tokens, reading, token_file
reading.BLOCK, token_file.SAVE_EVERY = 1 << 10, 3 << 10
"""


def started(program: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return running([sys.executable, "-c", PROGRAM + program], cwd=ROOT)


def test_a_killed_process_leaves_nothing_that_looks_whole_and_its_lock_is_free(tmp_path: Path) -> None:
    killed = f"""
class Killed(ByteTokenizer):
    blocks = 0
    def encode_bytes(self, data):
        self.blocks += 1
        if self.blocks == 20:
            os.kill(os.getpid(), {int(signal.SIGKILL)})
        return super().encode_bytes(data)
prepare_tokens(open_corpus("wikitext-mini", "test"), Killed(), Path({str(tmp_path)!r}), False)
"""
    with started(killed) as process:
        assert process.wait() == -signal.SIGKILL
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"lock", "partial", "progress.json"}
    corpus = open_corpus("wikitext-mini", "test")
    found = prepare(corpus, ByteTokenizer(), tmp_path)
    assert bytes(found.tokens[:-1].tolist()) == "".join(corpus.texts()).encode()


def test_two_processes_at_once_make_one_file(tmp_path: Path) -> None:
    """The first stops at its second block until the second says that it waits."""
    program = f"""
import time
class Slow(ByteTokenizer):
    blocks = 0
    def encode_bytes(self, data):
        print("block", flush=True)
        self.blocks += 1
        while self.blocks == 2 and not os.path.exists({str(tmp_path / "go")!r}):
            time.sleep(0.01)
        return super().encode_bytes(data)
found = prepare_tokens(open_corpus("wikitext-mini", "test"), Slow(), Path({str(tmp_path / "cache")!r}), False)
print(len(found), found.path.stat().st_ino)
"""
    with started(program) as first, contextlib.ExitStack() as beside:
        assert first.stdout is not None
        assert first.stdout.readline() == "block\n"
        second = beside.enter_context(started(program))
        assert second.stderr is not None
        assert "waiting for another process that prepares wikitext-mini-test-" in second.stderr.readline()
        (tmp_path / "go").touch()
        (one, _), (two, _) = first.communicate(), second.communicate()
    assert two.splitlines() == one.splitlines()[-1:]


def test_a_reader_never_meets_a_half_file(tmp_path: Path) -> None:
    """While another process writes it, byte by byte as it were, the file is either not there or whole."""
    program = f"""
found = prepare_tokens(open_corpus("wikitext-mini", "test"), ByteTokenizer(), Path({str(tmp_path)!r}), False)
"""
    lengths = set()
    with started(program) as process:
        while process.poll() is None:
            for folder in tmp_path.glob("wikitext-mini-test-*"):
                found = token_file._read(folder, ByteTokenizer())
                lengths.add(None if found is None else len(found))
            time.sleep(1e-3)
    assert process.returncode == 0
    assert lengths <= {None, 41_634}
    assert None in lengths


@pytest.mark.parametrize("change", ["cut", "no meta", "bad meta"])
def test_a_damaged_file_is_made_again(change: str, tmp_path: Path) -> None:
    corpus, tokenizer = open_corpus("wikitext-mini", "test"), made("word")
    found = prepare(corpus, tokenizer, tmp_path)
    tokens, meta = found.tokens.tolist(), found.path.with_name("meta.json")
    if change == "cut":
        os.truncate(found.path, 100)
    elif change == "no meta":
        meta.unlink()
    else:
        meta.write_text("{}")
    assert prepare(corpus, tokenizer, tmp_path).tokens.tolist() == tokens


def test_bytes_take_any_file_as_it_is(tmp_path: Path) -> None:
    data = os.urandom(5000) + b"\r\n\x00\xff\xfe"
    found = prepare(corpus_of(tmp_path / "a.txt", data), ByteTokenizer(), tmp_path / "cache")
    assert found.tokens.tolist() == [*data, 256]
    assert found.text_bytes == len(data)
    without = prepare(corpus_of(tmp_path / "a.txt", data), ByteTokenizer(eos=False), tmp_path / "cache")
    assert without.tokens.tolist() == [*data]


@pytest.mark.usefixtures("fine_steps")
@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_text_that_is_none_is_refused_and_leaves_nothing_half(kind: str, tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.txt", b"fine words\n" * 1000 + b"caf\xe9\n")
    with pytest.raises(UserError, match=r"a.txt is not UTF-8 at byte 11003: convert it"):
        prepare(corpus, made(kind), tmp_path / "cache")
    assert {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()} == {"lock"}


def test_words_are_counted_by_line_and_document(tmp_path: Path) -> None:
    """One `<eos>` for each line, whether or not the last has a line feed; the tokens of a record are its own."""
    texts = ["a b\nc", "", "d\n", "\n", "e\u00a0f"]
    data = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    corpus = corpus_of(tmp_path / "a.jsonl", data)
    tokenizer = WordTokenizer(["<eos>", "<unk>", *"abcdef"])
    found = prepare(corpus, tokenizer, tmp_path / "cache")
    assert found.tokens.tolist() == [2, 3, 0, 4, 0, 5, 0, 0, 6, 7, 0]
    assert found.words == 11
    assert found.text_bytes == len("".join(texts).encode())
    raw = prepare(corpus, ByteTokenizer(), tmp_path / "cache")
    assert raw.words == 11
    assert raw.tokens.tolist() == [token for text in texts for token in [*text.encode(), 256]]


def test_a_document_longer_than_any_block_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK", 64)
    monkeypatch.setattr(reading, "LONGEST_LINE", 256)
    text = " a bb ccc" * 1000
    found = prepare(corpus_of(tmp_path / "a.txt", text.encode()), ByteTokenizer(), tmp_path / "cache")
    assert found.tokens.tolist() == [*text.encode(), 256]
    assert found.words == 3001
    words = prepare(corpus_of(tmp_path / "b.txt", text.encode()), WordTokenizer.build([text]), tmp_path / "cache")
    assert len(words) == words.words == 3001


@pytest.mark.parametrize("data", [b'{"text": ""}\n', b'{"text": ""}\n{"text": ""}\n'])
def test_a_text_without_a_token_is_one_sentence(data: bytes, tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.jsonl", data)
    with pytest.raises(UserError, match=r"^there is no text in the train split of .*a.jsonl: expected some words$"):
        prepare(corpus, made("word"), tmp_path / "cache")


def test_a_text_that_changes_while_it_is_read_is_one_sentence(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.txt", b"one\n")

    class Meddling(ByteTokenizer):
        def encode_bytes(self, data: bytes) -> list[int]:
            corpus.path.write_bytes(b"another text\n")
            return super().encode_bytes(data)

    with pytest.raises(UserError, match=r"a.txt changed while it was read: run it again"):
        prepare(corpus, Meddling(), tmp_path / "cache")
    assert {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()} == {"lock"}
    found = prepare(corpus, ByteTokenizer(), tmp_path / "cache")
    assert bytes(found.tokens[:-1].tolist()) == b"another text\n"


@pytest.mark.usefixtures("fine_steps")
@pytest.mark.parametrize("good", [0, 1, 4])
def test_a_full_disk_is_one_sentence_and_nothing_done_is_lost(
    good: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fills up when so many files have been written; each note is two, and the folder's own."""
    fsync, left = os.fsync, [3 * good]

    def failing(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    corpus, words = open_corpus("wikitext-mini", "test"), made("word")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(UserError, match=r"^disk full while writing .*: (make room or set S4GEN_CACHE|free some)"):
            prepare(corpus, words, tmp_path)
    assert len(list(tmp_path.rglob("progress.json"))) == bool(good)
    tokenizer = Interrupted(words.words)  # type: ignore[attr-defined]
    tokenizer.left = 45 - 2 * good
    assert prepare(corpus, tokenizer, tmp_path).tokens.tolist() == words.encode("".join(corpus.texts()))


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "a.txt", b"one\n")
    with pytest.raises(UserError, match=r"^cannot write .*a.txt.*: make room or set S4GEN_CACHE"):
        prepare(corpus, ByteTokenizer(), tmp_path / "a.txt")


def test_the_cache_is_where_the_variables_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("S4GEN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert token_file.token_cache() == tmp_path / "xdg" / "s4gen" / "tokens"
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path / "own"))
    corpus = corpus_of(tmp_path / "a.txt", b"one\n")
    assert prepare_tokens(corpus, ByteTokenizer(), progress=False).path.is_relative_to(tmp_path / "own" / "tokens")


def test_progress_is_shown_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_tokens(open_corpus("wikitext-mini", "test"), ByteTokenizer(), tmp_path)
    shown = capsys.readouterr()
    assert "tokens of wikitext-mini test" in shown.err
    assert "100%" in shown.err
    assert shown.out == ""
