"""Text <-> tokens: corpora, tokenisers, token files, and the order in which they are read."""

from __future__ import annotations

from s4gen.data.text.corpus import CORPORA, SPLITS, Corpus, open_corpus
from s4gen.data.text.streams import TrainStream, one_stream, windows
from s4gen.data.text.token_file import TokenFile, prepare_tokens
from s4gen.data.text.tokenizer import KINDS, ByteTokenizer, StreamDecoder, Tokenizer, WordTokenizer, from_json
from s4gen.errors import UserError

__all__ = [
    "CORPORA",
    "KINDS",
    "SPLITS",
    "ByteTokenizer",
    "Corpus",
    "StreamDecoder",
    "TokenFile",
    "Tokenizer",
    "TrainStream",
    "WordTokenizer",
    "build_tokenizer",
    "from_json",
    "one_stream",
    "open_corpus",
    "prepare_tokens",
    "windows",
]


def build_tokenizer(kind: str, corpus: Corpus, vocab_size: int | None = None) -> Tokenizer:
    """A tokeniser of one of `KINDS` made from a corpus, which is its training split.

    `vocab_size` counts `<eos>` and `<unk>`. "bpe" needs it; "word" has all words without it; "bytes" has 257 tokens.

    Raises:
        UserError: no such kind; a size that it cannot have; a text that is empty, damaged, binary or not UTF-8.
    """
    if kind == "word":
        return WordTokenizer.build(corpus.texts(), vocab_size)
    if kind == "bytes" and vocab_size in (None, 257):
        return ByteTokenizer()
    if kind == "bpe" and vocab_size is not None:
        from s4gen.data.text.bpe import BPETokenizer

        return BPETokenizer.train(corpus.texts(), vocab_size)
    if kind not in KINDS:
        raise UserError(f"no tokeniser called {kind!r}: expected one of {', '.join(KINDS)}")
    wanted = "257, or none given" if kind == "bytes" else "a number, 8192 for example"
    raise UserError(f"the vocabulary of the tokeniser {kind!r} is {vocab_size}: expected {wanted}")
