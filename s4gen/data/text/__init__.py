"""Turn text into tokens and back: corpora, tokenisers, token files, and the order in which they are read."""

from __future__ import annotations

from s4gen.data.text.corpus import Corpus, open_corpus
from s4gen.data.text.kinds import build_tokenizer, from_json
from s4gen.data.text.plain import ByteTokenizer, NumberTokenizer, WordTokenizer
from s4gen.data.text.prepared import layout_of, open_split, prepare_tokenizer
from s4gen.data.text.streams import TrainStream, one_stream, window_batches, window_pair, windows
from s4gen.data.text.token_file import TokenFile, prepare_tokens
from s4gen.data.text.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "ByteTokenizer",
    "Corpus",
    "NumberTokenizer",
    "StreamDecoder",
    "TokenFile",
    "Tokenizer",
    "TrainStream",
    "WordTokenizer",
    "build_tokenizer",
    "from_json",
    "layout_of",
    "one_stream",
    "open_corpus",
    "open_split",
    "prepare_tokenizer",
    "prepare_tokens",
    "window_batches",
    "window_pair",
    "windows",
]
