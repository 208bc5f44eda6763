"""What becomes of the text of a recipe, once, in the user's cache: a tokeniser, and the tokens of each split."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from s4gen.atomic import write_file_atomic
from s4gen.config import TextLayout
from s4gen.data.text.corpus import Corpus, open_corpus
from s4gen.data.text.token_file import TokenFile, label, prepare_tokens, token_cache
from s4gen.data.text.tokenizer import FORMAT, KINDS, ByteTokenizer, Tokenizer, WordTokenizer, from_json
from s4gen.errors import UserError


def build_tokenizer(kind: str, corpus: Corpus, vocab_size: int | None = None, shown: bool = False) -> Tokenizer:
    """A tokeniser of one of `KINDS` made from a corpus, which is its training split; `shown`: with a progress bar.

    `vocab_size` counts `<eos>` and `<unk>`. "bpe" needs it; "word" has all words without it; "bytes" has 257 tokens.

    Raises:
        UserError: no such kind; a size that it cannot have; a text that is empty, damaged, binary or not UTF-8.
    """
    if kind == "word":
        return WordTokenizer.build(corpus.texts(shown), vocab_size)
    if kind == "bytes" and vocab_size in (None, 257):
        return ByteTokenizer()
    if kind == "bpe" and vocab_size is not None:
        from s4gen.data.text.bpe import BPETokenizer

        return BPETokenizer.train(corpus.texts(shown), vocab_size)
    if kind not in KINDS:
        raise UserError(f"no tokeniser called {kind!r}: expected one of {', '.join(KINDS)}")
    wanted = "257, or none given" if kind == "bytes" else "a number, 8192 for example"
    raise UserError(f"the vocabulary of the tokeniser {kind!r} is {vocab_size}: expected {wanted}")


def prepare_tokenizer(dataset: str, kind: str, vocab_size: int = 0, shown: bool = True) -> Tokenizer:
    """The tokeniser of a data set's training split, from the cache where it was made of the same file.

    Raises:
        UserError: as of `open_corpus` and `build_tokenizer`; or the cache cannot be written to.
    """
    if kind == "bytes":
        return ByteTokenizer()
    path = tokenizer_path(corpus := open_corpus(dataset, "train"), kind, vocab_size)
    if path.is_file():
        return from_json(path.read_text(encoding="utf-8"), str(path))
    tokenizer = build_tokenizer(kind, corpus, vocab_size or None, shown)
    write_file_atomic(path, tokenizer.to_json().encode("utf-8"))
    return tokenizer


def tokenizer_path(corpus: Corpus, kind: str, vocab_size: int) -> Path:
    """Where the tokeniser of this text is kept."""
    key = hashlib.sha256(json.dumps([FORMAT, corpus.identity(), kind, vocab_size]).encode()).hexdigest()[:16]
    return token_cache() / "tokenizers" / f"{label(corpus)}-{kind}-{key}.json"


def load_tokens(dataset: str, split: str, tokenizer: Tokenizer, shown: bool = True) -> TokenFile:
    """The tokens of a split, prepared now if they are not yet.

    Raises:
        UserError: as of `open_corpus` and `prepare_tokens`.
    """
    return prepare_tokens(open_corpus(dataset, split), tokenizer, shown=shown)


def layout_of(tokenizer: Tokenizer) -> TextLayout:
    """What a model of such text has to know.

    Raises:
        UserError: the tokeniser has no `<eos>`, behind which a text could start.
    """
    if tokenizer.eos is None:
        raise UserError("this tokeniser has no <eos>, behind which a text starts: make one that has")
    return TextLayout(tokenizer.vocab, tokenizer.eos)
