"""Texts and their classes: a folder of files by class (the layout of IMDB), or records in Parquet or JSON Lines.

IMDB is from Maas et al., "Learning Word Vectors for Sentiment Analysis" (ACL 2011); the Long Range Arena reads it byte
by byte (arXiv 2011.04006).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4gen.config import DataConfig
from s4gen.config.names import LABELLED_PREFIX, SPLITS
from s4gen.data.examples import ExampleSplits
from s4gen.data.galleries import NO_SPLIT
from s4gen.data.labelled.parts import check_classes, parted, parts
from s4gen.data.labelled.rows import Rows, end_to_end
from s4gen.data.labelled.text_sources import LabelledText, read_texts
from s4gen.data.text import ByteTokenizer, Tokenizer, WordTokenizer, layout_of
from s4gen.data.text.bpe import BPETokenizer
from s4gen.errors import UserError
from s4gen.files.folders import user_path
from s4gen.showing.progress import progress_bar

_NAMED = 3
"""Texts that are left out and named; the others are counted."""


def open_texts(data: DataConfig, progress: bool) -> ExampleSplits:
    """Open the texts that a recipe names as rows of tokens (L,) with their classes.

    Raises:
        UserError: there are no texts; one cannot be read; classes are missing, or there is only one; one is never seen
            in training.
    """
    name = data.dataset
    source = read_texts(user_path(name.removeprefix(LABELLED_PREFIX), "data.dataset"), data, progress)
    texts, notes = _without_empty(source.texts, name)
    labels = [text.label for text in texts]
    classes = source.classes or tuple(sorted(set(labels)))
    number = {label: index for index, label in enumerate(classes)}
    targets = np.array([number[label] for label in labels], np.int64)
    chosen = parts(np.array([SPLITS.index(t.split) if t.split else NO_SPLIT for t in texts]), data.validation)
    tokenizer = _tokenizer(data, [texts[index] for index in chosen[0]])
    rows = _encode(texts, tokenizer, data.longest, progress)
    splits = parted(rows, targets, chosen)
    check_classes(name, classes, splits)
    return ExampleSplits(
        *splits,
        layout=layout_of(tokenizer),
        answers=classes,
        tokenizer=tokenizer,
        notes=(*source.notes, *notes),
    )


def _without_empty(texts: Sequence[LabelledText], name: str) -> tuple[list[LabelledText], list[str]]:
    """Leave out texts of white space alone; return the others, and at most one line about it."""
    kept = [text for text in texts if text.data.strip()]
    if not kept:
        raise UserError(f"there is no text in {name}: all {len(texts)} texts are empty")
    empty = [text.name for text in texts if not text.data.strip()]
    if not empty:
        return kept, []
    more = f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
    return kept, [f"left out {len(empty)} of {len(texts)} texts, which are empty: {', '.join(empty[:_NAMED])}{more}"]


def _tokenizer(data: DataConfig, training: Sequence[LabelledText]) -> Tokenizer:
    """Return the tokeniser of a recipe, made of the texts to train on where it is made of texts."""
    if data.tokenizer == "bytes":
        return ByteTokenizer()
    texts: Iterable[str] = map(_as_text, training)
    if data.tokenizer == "word":
        return WordTokenizer.build(texts, data.vocab_size or None)
    return BPETokenizer.train(texts, data.vocab_size)


def _as_text(text: LabelledText) -> str:
    try:
        return text.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{text.name} is not UTF-8 at byte {error.start}: convert it, or use the tokeniser `bytes`, which takes "
            "any text"
        ) from error


def _encode(texts: Sequence[LabelledText], tokenizer: Tokenizer, longest: int, progress: bool) -> Rows:
    """Return the tokens of all texts, each cut after `longest` of them; 0 cuts none."""
    dtype = np.uint16 if tokenizer.vocab <= 1 << 16 else np.uint32
    encoded: list[NDArray[Any]] = []
    with progress_bar(len(texts), "texts", progress, "tokens") as bar:
        for text in texts:
            if tokenizer.kind == "bytes":  # a token is a byte, so there is nothing to look up
                tokens = np.frombuffer(text.data, np.uint8).astype(dtype)
            else:
                _as_text(text)
                tokens = np.array(tokenizer.encode_bytes(text.data), dtype)
            encoded.append(tokens[: longest or None])
            bar.update(1)
    return end_to_end(np.concatenate(encoded), np.array([len(tokens) for tokens in encoded]))
