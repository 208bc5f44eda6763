"""Keep a corpus as a memory-mapped file of tokens, which is prepared once, in the user's cache.

A folder per corpus and tokeniser holds `tokens`, integers of 16 or 32 bits, low byte first, and `meta.json`, which has
the checksum of both. While it is being made they are `partial` and `progress.json`; the last act is the renaming to
`tokens`. So there is a whole file or none, and what was interrupted goes on where it stopped.

The checksum is compared whenever the file is opened. SHA-256 takes about a second for 10^9 bytes; the tokens of
WikiText-103 have 4 x 10^8. A file that is damaged is made again, and one line says so.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from s4gen.config.names import SPLITS
from s4gen.data.sealed import DamagedError, check_digest, digest, sealed, unsealed
from s4gen.data.text.corpus import Corpus, checked_text
from s4gen.data.text.reading import Block, is_jsonl, is_packed
from s4gen.data.text.tokenizer import Tokenizer
from s4gen.errors import UserError
from s4gen.files.atomic import write_file_atomic
from s4gen.files.expected import one_of, table, text, whole
from s4gen.files.folders import cache_folder, locked
from s4gen.files.unfinished import remove
from s4gen.machine.memory import in_words
from s4gen.showing.progress import progress_bar

FORMAT = 2
SAVE_EVERY = 1 << 24
"""Bytes of text between two notes of how far it is: a few seconds of work."""


@dataclass(frozen=True, eq=False)
class TokenFile:
    """A split of a corpus in tokens, read from disk as they are needed."""

    tokens: NDArray[Any]
    """(n,) uint16 or uint32, read-only."""
    words: int
    """Words between white space, and one `<eos>` for each line: what word perplexity is normalised by."""
    text_bytes: int
    """Bytes of the text itself, unpacked: what bits per byte are normalised by."""
    vocab: int
    """Number of tokens that the tokeniser has."""
    tokenizer: str
    """Fingerprint of the tokeniser."""
    path: Path

    def __len__(self) -> int:
        return len(self.tokens)


class _Told(Protocol):
    """The methods of a checksum from `hashlib` that are used here."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass
class _Progress:
    """How far the preparation is: text before `position` has become the first `tokens` tokens of the file."""

    position: int = 0
    tokens: int = 0
    words: int = 0
    text_bytes: int = 0


_COUNTS = {each.name: whole() for each in fields(_Progress)}
_PROGRESS = table({**_COUNTS, "tokens_sha256": text(64)})
_META = table(
    {
        **{"format": one_of((FORMAT,)), "corpus": text(), "split": one_of(SPLITS), "dtype": text(9)},
        **{"tokens": whole(1), "words": whole(), "text_bytes": whole(), "tokens_sha256": text(64)},
        **{"vocab": whole(1), "tokenizer": text(64)},
    }
)


def token_cache() -> Path:
    """Return the folder of the cache that keeps token files."""
    return cache_folder() / "tokens"


def prepare_tokens(corpus: Corpus, tokenizer: Tokenizer, cache: Path | None = None, progress: bool = True) -> TokenFile:
    """Return the tokens of a corpus, from the cache where they were made of the same file by the same tokeniser.

    Several processes may ask at once: one makes the file, the others wait for it. After an interruption, the next call
    goes on. `progress`: with a progress bar.

    Raises:
        UserError: the text is missing, empty, damaged, or not what the tokeniser takes; it changed meanwhile; the disk
            is full.
    """
    identity = corpus.identity()
    key = hashlib.sha256(json.dumps([FORMAT, identity, tokenizer.fingerprint]).encode()).hexdigest()[:16]
    folder = (cache or token_cache()) / f"{label(corpus)}-{corpus.split}-{key}"
    try:
        if (found := _read(folder, tokenizer)) is not None:
            return found
    except DamagedError:  # perhaps another process is making it again
        pass
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", lambda: _say_waiting(folder)):
            found = _read_or_discard(folder, tokenizer)
            if found is None:
                _make(folder, corpus, identity, tokenizer, progress)
                found = _read(folder, tokenizer)
    except OSError as error:
        what = "disk full while writing" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "cannot write"
        raise UserError(
            f"{what} {folder} ({error.strerror}): make room or set S4GEN_CACHE to another folder; "
            "the next run goes on from here"
        ) from error
    assert found is not None, "what was made just now can be read"
    return found


def _say_waiting(folder: Path) -> None:
    print(f"s4gen: waiting for another process that prepares {folder.name}", file=sys.stderr)


def label(corpus: Corpus) -> str:
    """Return the name of the corpus as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(corpus.name).name).strip("-")


def _dtype(vocab: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocab <= 1 << 16 else "<u4")


def _read_or_discard(folder: Path, tokenizer: Tokenizer) -> TokenFile | None:
    """Return the finished file, or None where there is none any more: a damaged one is removed, and a line says so."""
    try:
        return _read(folder, tokenizer)
    except DamagedError as error:
        print(f"s4gen: the tokens in {folder} are damaged ({error}), so they are made again", file=sys.stderr)
        remove(folder / "tokens")
        return None


def _read(folder: Path, tokenizer: Tokenizer) -> TokenFile | None:
    """Return the finished file; None where there is none.

    Raises:
        DamagedError: there is one, but not as it was written.
    """
    path = folder / "tokens"
    if not os.path.lexists(path):
        return None
    try:
        meta = unsealed(folder / "meta.json", _META)
        if (meta["vocab"], meta["tokenizer"]) != (tokenizer.vocab, tokenizer.fingerprint):
            raise DamagedError("meta.json: it is of another tokeniser")
        dtype = _dtype(meta["vocab"])
        check_digest(path, meta["tokens"] * dtype.itemsize, meta["tokens_sha256"])
        tokens = np.memmap(path, dtype, "r")
    except (OSError, ValueError) as error:
        raise DamagedError(str(error)) from error
    return TokenFile(tokens, meta["words"], meta["text_bytes"], meta["vocab"], meta["tokenizer"], path)


def _make(folder: Path, corpus: Corpus, identity: str, tokenizer: Tokenizer, progress: bool) -> None:
    dtype = _dtype(tokenizer.vocab)
    done, checksum = _fill(folder, corpus, tokenizer, dtype, progress)
    if done.tokens == 0:
        _discard(folder)
        raise UserError(f"there is no text in the {corpus.split} split of {corpus.name}: expected some words")
    if corpus.identity() != identity:
        _discard(folder)
        raise UserError(f"{corpus.path} changed while it was read: run it again when nothing writes to it")
    meta = {"format": FORMAT, "corpus": corpus.name, "split": corpus.split, "dtype": dtype.name}
    meta |= {"tokens": done.tokens, "words": done.words, "text_bytes": done.text_bytes}
    meta |= {"tokens_sha256": checksum}
    meta |= {"vocab": tokenizer.vocab, "tokenizer": tokenizer.fingerprint}
    write_file_atomic(folder / "meta.json", sealed(meta))
    os.replace(folder / "partial", folder / "tokens")
    (folder / "progress.json").unlink()


def _fill(
    folder: Path, corpus: Corpus, tokenizer: Tokenizer, dtype: np.dtype[Any], progress: bool
) -> tuple[_Progress, str]:
    """Write `partial` to the end, from where the last run came to; return what it holds, and its checksum."""
    done, checksum = _resume(folder, dtype.itemsize)
    if tokenizer.kind == "bytes" and not (is_packed(corpus.path) or is_jsonl(corpus.path)):
        # Every byte becomes a token. In the other forms, how many tokens there will be is known when they are there.
        left = corpus.size_estimate() - max(0, done.position - corpus.begin)
        _check_room(folder, left * dtype.itemsize)
    with (
        (folder / "partial").open("ab") as file,
        progress_bar(corpus.size_estimate(), "B", progress, f"tokens of {corpus.name} {corpus.split}") as bar,
    ):
        read = saved = max(done.position, corpus.begin)
        bar.update(read - corpus.begin)
        for block, tokens, words in _encoded(folder, corpus, tokenizer, done.position):
            content = np.array(tokens, dtype).tobytes()
            file.write(content)
            checksum.update(content)
            text_bytes = done.text_bytes + len(block.data)
            done = _Progress(block.after, done.tokens + len(tokens), done.words + words, text_bytes)
            bar.update(block.after - read)
            read = block.after
            if read - saved >= SAVE_EVERY:
                _save(folder, file, done, checksum)
                saved = read
        _save(folder, file, done, checksum)
    return done, checksum.hexdigest()


def _check_room(folder: Path, needed: int) -> None:
    """Refuse, before hours of work, to write more tokens than the disk has room for.

    Raises:
        UserError: there is less room than `needed` bytes.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the tokens would take {in_words(needed)} in {folder}, and {in_words(free)} are left: make room or "
            "set S4GEN_CACHE to another folder"
        )


def _encoded(folder: Path, corpus: Corpus, tokenizer: Tokenizer, start: int) -> Iterator[tuple[Block, list[int], int]]:
    """Yield blocks with their tokens and their number of words."""
    try:
        for block in corpus.blocks(start):
            yield block, *_tokens_and_words(block, corpus.path, tokenizer)
    except UserError:
        _discard(folder)  # the text is at fault, and a corrected one will have another folder
        raise


def _discard(folder: Path) -> None:
    for name in ("progress.json", "partial"):
        (folder / name).unlink(missing_ok=True)


def _tokens_and_words(block: Block, path: Path, tokenizer: Tokenizer) -> tuple[list[int], int]:
    anything = tokenizer.kind == "bytes"  # also what is no text; it still has a number of words
    text = block.data.decode("utf-8", "replace") if anything else checked_text(block, path)
    tokens = tokenizer.encode_bytes(block.data)
    words = len(text.split()) + text.count("\n")
    if block.ends:
        tokens += tokenizer.ending(block.data)
        words += bool(text) and not text.endswith("\n")
    return tokens, words


def _save(folder: Path, file: BinaryIO, done: _Progress, checksum: _Told) -> None:
    """Bring the tokens to the disk first, and then the note that counts them."""
    file.flush()
    os.fsync(file.fileno())
    write_file_atomic(folder / "progress.json", sealed(asdict(done) | {"tokens_sha256": checksum.hexdigest()}))


def _resume(folder: Path, itemsize: int) -> tuple[_Progress, _Told]:
    """Return how far the last run came, and the checksum so far; cut off what it wrote beyond its last note.

    If what it left is damaged, nothing of it is used, and a line says so.
    """
    partial = folder / "partial"
    try:
        note = unsealed(folder / "progress.json", _PROGRESS)
        expected, done = note.pop("tokens_sha256"), _Progress(**note)
        checksum = digest(partial, done.tokens * itemsize)
        if checksum.hexdigest() != expected:
            raise DamagedError("partial: its checksum is that of another content")
    except (OSError, UserError, DamagedError) as error:
        if not isinstance(error, FileNotFoundError):
            print(
                f"s4gen: the tokens begun in {folder} are damaged ({error}), so they are made from the start",
                file=sys.stderr,
            )
        remove(partial)
        remove(folder / "progress.json")
        return _Progress(), hashlib.sha256()
    os.truncate(partial, done.tokens * itemsize)
    return done, checksum
