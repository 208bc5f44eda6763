"""Prepare the text of a recipe once in the user's cache: its tokeniser, and the tokens of each split."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from s4gen.config import TextLayout
from s4gen.data.sealed import DamagedError, sealed, unsealed
from s4gen.data.text.corpus import Corpus, open_corpus
from s4gen.data.text.kinds import build_tokenizer, from_json
from s4gen.data.text.plain import ByteTokenizer
from s4gen.data.text.token_file import TokenFile, label, prepare_tokens, token_cache
from s4gen.data.text.tokenizer import FORMAT, Tokenizer
from s4gen.errors import UserError
from s4gen.files.atomic import write_file_atomic
from s4gen.files.expected import table, text
from s4gen.files.reading import LARGE, read_bounded


def prepare_tokenizer(dataset: str, kind: str, vocab_size: int = 0, progress: bool = True) -> Tokenizer:
    """Return the tokeniser of a data set's training split, from the cache where it was made of the same file.

    Raises:
        UserError: as for `open_corpus` and `build_tokenizer`; or the cache cannot be written to.
    """
    if kind == "bytes":
        return ByteTokenizer()
    path = tokenizer_path(corpus := open_corpus(dataset, "train"), kind, vocab_size)
    try:
        return _kept(path)
    except FileNotFoundError:
        pass
    except DamagedError as error:
        print(f"s4gen: the tokeniser {path} is damaged ({error}), so it is made again", file=sys.stderr)
    tokenizer = build_tokenizer(kind, corpus, vocab_size or None, progress)
    content = tokenizer.to_json().encode("utf-8")
    write_file_atomic(path, content)
    write_file_atomic(
        _facts(path), sealed({"file": path.name, "tokenizer_sha256": hashlib.sha256(content).hexdigest()})
    )
    return tokenizer


def _kept(path: Path) -> Tokenizer:
    """Return the tokeniser that was kept.

    Raises:
        FileNotFoundError: there is none, or only one whose writer was killed before it had written the checksum.
        DamagedError: it is not as it was written.
    """
    facts = unsealed(_facts(path), table({"file": text(), "tokenizer_sha256": text(64)}))
    try:
        content = read_bounded(path, LARGE)
    except (UserError, OSError) as error:
        raise DamagedError(str(error)) from error
    if hashlib.sha256(content).hexdigest() != facts["tokenizer_sha256"]:
        raise DamagedError("its checksum is that of another content")
    return from_json(content.decode("utf-8"), str(path))


def _facts(path: Path) -> Path:
    """Return the file that holds the checksum of a tokeniser, which itself is the same file as in a checkpoint."""
    return path.with_name(f"{path.name}.facts")


def tokenizer_path(corpus: Corpus, kind: str, vocab_size: int) -> Path:
    """Return the file in the cache that keeps the tokeniser of this text."""
    key = hashlib.sha256(json.dumps([FORMAT, corpus.identity(), kind, vocab_size]).encode()).hexdigest()[:16]
    return token_cache() / "tokenizers" / f"{label(corpus)}-{kind}-{key}.json"


def open_split(dataset: str, split: str, tokenizer: Tokenizer, progress: bool = True) -> TokenFile:
    """Open a split of a text as tokens, which are prepared now if they are not yet; `dataset` is as in `open_corpus`.

    Raises:
        UserError: as for `open_corpus` and `prepare_tokens`.
    """
    return prepare_tokens(open_corpus(dataset, split), tokenizer, progress=progress)


def layout_of(tokenizer: Tokenizer) -> TextLayout:
    """Return the layout of a model of text in these tokens.

    Raises:
        UserError: the tokeniser has no `<eos>`, behind which a text could start.
    """
    if tokenizer.eos is None:
        raise UserError("this tokeniser has no <eos>, behind which a text starts: make one that has")
    return TextLayout(tokenizer.vocab, tokenizer.eos)
