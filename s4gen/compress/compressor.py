"""Files to a container and back: everything but arguments and messages of success."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from s4gen.checkpoint import Checkpoint
from s4gen.compress.coding import DifferentError, RowDecoder, RowEncoder, batches, walk
from s4gen.compress.container import MOST_VALUES, Container, Entry, checked_name
from s4gen.compress.contents import Contents, Item
from s4gen.compress.frequencies import MOST_TOKENS
from s4gen.compress.identity import chosen_engine, model_id, same_engine, signature
from s4gen.compress.images import Images
from s4gen.compress.sound import Sound
from s4gen.compress.texts import Texts
from s4gen.config import AudioLayout, ImageLayout
from s4gen.errors import UserError
from s4gen.evaluate.audio import clip_nats, piece_of
from s4gen.evaluate.scorers import by_convolution, summed
from s4gen.machine.memory import check_room
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.converted import recurrent_of
from s4gen.sampling.engines import Engine
from s4gen.showing.progress import progress_bar

DECIDING = 1 << 14
"""Tokens at the start of a sequence by which its class is chosen."""
BYTES_OF_A_VALUE = 48
"""Bytes that a decoded value takes at most while it is brought into the form of a file."""


@dataclass(frozen=True, eq=False)
class Coder:
    """A model with the engine that its predictions come from."""

    recurrent: RecurrentModel
    engine: Engine
    target: str
    model: bytes
    signature: bytes

    @classmethod
    def choose(cls, checkpoint: Checkpoint, engine: str) -> Coder:
        """Return the coder that files are compressed with.

        Raises:
            UserError: the model does not fit, or S4GEN_TARGET names a target that this processor cannot run.
        """
        recurrent = recurrent_of(checkpoint)
        if recurrent.config.layout.vocab > MOST_TOKENS:
            raise UserError(f"{checkpoint.path} knows more than {MOST_TOKENS:,} tokens, which is too many to code with")
        chosen, target = chosen_engine(engine, recurrent)
        return cls(recurrent, chosen, target, model_id(checkpoint), signature(recurrent, chosen))

    @classmethod
    def of(cls, checkpoint: Checkpoint, container: Container) -> Coder:
        """Return the coder that a container was written with.

        Raises:
            UserError: the container is of another model, or its engine is not to be had here, or rounds differently.
        """
        model, kind = model_id(checkpoint), checkpoint.config.layout.kind
        if (model, kind) != (container.model, container.kind):
            raise UserError(
                f"it was compressed with another model than {checkpoint.path} (SHA-256 {container.model.hex()[:12]}.., "
                f"here {model.hex()[:12]}..); give the checkpoint that it was compressed with"
            )
        recurrent = recurrent_of(checkpoint)
        engine = same_engine(container.engine, container.target, recurrent)
        if signature(recurrent, engine) != container.signature:
            raise UserError(
                f"the {container.engine} engine rounds differently here than where it was compressed "
                f"({container.target}), so nothing can be decoded; use a machine and a version of s4gen as there"
            )
        return cls(recurrent, engine, container.target, model, container.signature)


def contents_of(checkpoint: Checkpoint) -> Contents:
    """Return the reader and writer of files for this model.

    Raises:
        UserError: its tokeniser is missing or damaged.
    """
    layout = checkpoint.config.layout
    if isinstance(layout, ImageLayout):
        return Images(layout)
    return Sound(layout) if isinstance(layout, AudioLayout) else Texts(checkpoint.tokenizer())


def read_items(contents: Contents, paths: Sequence[Path], lossy: bool = False) -> list[Item]:
    """Read files that are to be compressed.

    Raises:
        UserError: one of them cannot be compressed, two would come back under one name, or they are too many values.
    """
    names: dict[str, Path] = {}
    items = []
    for path in paths:
        item = contents.read(path, lossy)
        try:
            checked_name(_stored_name(contents, item))
            checked_name(os.fsencode(item.name))
        except ValueError:
            raise UserError(f"{path} would come back under a name that not every folder can hold; rename it") from None
        if (other := names.setdefault(item.name, path)) is not path:
            raise UserError(f"{other} and {path} would both come back as {item.name}; rename one of them")
        items.append(item)
    if (values := sum(len(item.tokens) for item in items)) > MOST_VALUES:
        raise UserError(
            f"these are {values:,} values, and a compressed file holds at most {MOST_VALUES:,}: compress fewer at once"
        )
    return items


def compress(coder: Coder, contents: Contents, items: Sequence[Item], batch: int, progress: bool = False) -> Container:
    """Code items, at most `batch` of them side by side.

    Raises:
        UserError: the model's output is not a finite number.
    """
    labels = _cheapest_classes(coder, items)
    rows = [
        RowEncoder(item.tokens, item.fine, None if item.fine is None else contents.widths(item.extra)) for item in items
    ]
    _walk(coder, rows, labels, batch, "compressing", progress)
    entries = [
        Entry(
            _stored_name(contents, item),
            row.length,
            item.extra,
            tuple(row.blocks),
            0 if labels is None else labels[number],
        )
        for number, (item, row) in enumerate(zip(items, rows, strict=True))
    ]
    kind, length = coder.recurrent.config.layout.kind, contents.length
    return Container(
        coder.model, coder.signature, kind, coder.engine.name, coder.target, tuple(entries), length, labels is not None
    )


def names_in(container: Container) -> list[str]:
    """Return the names under which the files of a container come back."""
    suffix = Images.suffix if container.kind == "image" else ""
    return [os.fsdecode(entry.name) + suffix for entry in container.entries]


def decompress(
    coder: Coder, contents: Contents, container: Container, batch: int, progress: bool = False
) -> list[bytes]:
    """Return the contents of the files in a container, in their order; `batch` may be another than in `compress`.

    Raises:
        UserError: something in it cannot be decoded: it was damaged on purpose, or the engine rounds differently here.
    """
    classes = len(getattr(coder.recurrent.config.layout, "classes", ()))
    wrong = UserError("it does not fit the model that it names; it was damaged, so copy it again")
    if container.length != contents.length or container.labelled != bool(classes):
        raise wrong
    if any(not entry.length or entry.label >= max(classes, 1) for entry in container.entries):
        raise wrong
    values = sum(entry.length for entry in container.entries)
    check_room(BYTES_OF_A_VALUE * values, torch.device("cpu"), f"decoding {values:,} values", "use a larger machine")
    try:
        rows = [RowDecoder(entry.length, entry.blocks, contents.widths(entry.extra)) for entry in container.entries]
        labels = [entry.label for entry in container.entries] if classes else None
        _walk(coder, rows, labels, batch, "decompressing", progress)
        return [
            contents.restore(row.tokens, row.fine, entry.extra)
            for row, entry in zip(rows, container.entries, strict=True)
        ]
    except ValueError as error:
        raise wrong from error
    except DifferentError as error:
        raise UserError(
            f"what is decoded is not what was compressed: the {container.engine} engine rounds differently here than "
            f"where it was compressed ({container.target}); use a machine and a version of s4gen as there"
        ) from error


def _stored_name(contents: Contents, item: Item) -> bytes:
    """Return what a container keeps of a name."""
    return os.fsencode(item.name.removesuffix(contents.suffix))


def _walk(
    coder: Coder,
    rows: Sequence[RowEncoder] | Sequence[RowDecoder],
    labels: Sequence[int] | None,
    batch: int,
    what: str,
    progress: bool,
) -> None:
    """Step all rows, `batch` at a time."""
    lengths = [row.length for row in rows]
    with progress_bar(sum(lengths), "tok", progress, desc=what) as bar:
        for numbers in batches(lengths, batch):
            classes = None if labels is None else torch.tensor([labels[number] for number in numbers])
            walk(coder.recurrent, coder.engine, [rows[number] for number in numbers], classes, bar.update)


@torch.inference_mode()
def _cheapest_classes(coder: Coder, items: Sequence[Item]) -> list[int] | None:
    """Return the class under which the beginning of each item costs least; None if the model knows no classes.

    The classes are compared by convolution. Should it round in another way than the engine, the choice may be a worse
    one, but never a wrong one: it is kept in the container.
    """
    classes = len(getattr(coder.recurrent.config.layout, "classes", ()))
    if not classes:
        return None
    score, labels, found = by_convolution(coder.recurrent.source), torch.arange(classes), []
    for item in items:
        tokens = torch.from_numpy(item.tokens[:DECIDING]).expand(classes, -1)
        nats = clip_nats(score, tokens, coder.recurrent.bos, labels, piece_of(*tokens.shape))
        found.append(int(summed(nats).argmin()))
    return found
