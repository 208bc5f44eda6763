"""Text <-> tokens: corpora, tokenisers, token files, and the order in which they are read."""

from __future__ import annotations

from s4gen.data.splits import SPLITS
from s4gen.data.text.corpus import CORPORA, Corpus, open_corpus
from s4gen.data.text.prepared import build_tokenizer, layout_of, load_tokens, prepare_tokenizer
from s4gen.data.text.streams import TrainStream, one_stream, windows
from s4gen.data.text.token_file import TokenFile, prepare_tokens
from s4gen.data.text.tokenizer import KINDS, ByteTokenizer, StreamDecoder, Tokenizer, WordTokenizer, from_json

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
    "layout_of",
    "load_tokens",
    "one_stream",
    "open_corpus",
    "prepare_tokenizer",
    "prepare_tokens",
    "windows",
]
