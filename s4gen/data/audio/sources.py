"""Find the recordings of a split, in trees of sound files or in Parquet files, and their classes."""

from __future__ import annotations

import contextlib
import glob
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from s4gen.config.names import SOUND_SUFFIXES, UNREADABLE_SOUND
from s4gen.data.audio.reading import Recording
from s4gen.data.splits import are_splits, split_of, split_of_file, warning
from s4gen.data.tree import Parts, Tree, natural, readable, without_common_folder
from s4gen.errors import UserError, printable, shortened
from s4gen.showing.words import plural

_PERCENT = {"train": (0, 88), "validation": (88, 94), "test": (94, 100)}
"""Per cent of the recordings in natural order: the published split of Beethoven and YouTubeMix."""
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
"""In these files Speech Commands names the recordings of two splits; all others are for training."""

MOST_CLASSES = 1 << 16
"""Classes of a set whose labels are numbers without names: one large number would need as many names."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Source:
    """The source of the recordings of one split."""

    name: str
    """The data set, or the folder."""
    split: str
    """train, validation or test."""
    origin: str
    """S4GEN_DATA, the hub, s4gen itself, or the folder again."""
    recordings: Callable[[], Iterable[Recording]]
    """All of them, in their order; iterated once."""
    root: Path
    """The folder or archive that they are in."""
    files: tuple[Path, ...]
    """The files that hold them: when one changes, what was kept of them is out of date."""
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, ...; empty if recordings have none."""
    notes: tuple[str, ...] = ()
    """Each line tells the user something about how the set was understood."""


def from_tree(tree: Tree, split: str, name: str, origin: str, classes: tuple[str, ...] = ()) -> Source:
    """Find one split of the sound files in a tree.

    What is in it, the first of these that applies: what `validation_list.txt` and `testing_list.txt` say; what is in
    the folders of splits (`splits.NAMES`), where there is one to train on and another; of each class, in natural order,
    the first 88 %, the next 6 %, the rest. A single recording is parted so in time.

    Classes are the uppermost folders (below those of splits) where every recording is in one, and there are several.
    With `classes`, only the folders of these names count, and labels are in their order.

    Raises:
        UserError: no sound files, or none in this split.
    """
    lists = tuple(_LISTS.values())
    parts = without_common_folder(name for name in tree.names() if name.endswith(lists) or is_sound(name))
    sound = {name: parts[name] for name in sorted(filter(is_sound, parts), key=natural)}
    if not sound:
        raise UserError(
            f"{tree.path} holds no wav, flac or ogg files, nor do its folders, nor any other sound; "
            "give a folder that does"
        )
    in_folders = are_splits(p[0] for p in sound.values() if len(p) > 1)
    notes: list[str] = []
    if in_folders:
        notes = _outside(sound)
        sound = {name: p for name, p in sound.items() if len(p) > 1 and split_of(p[0])}
    class_of = {name: _class(p[1:] if in_folders else p) for name, p in sound.items()}
    if classes:
        sound = {name: p for name, p in sound.items() if class_of[name] in classes}
    elif "" not in class_of.values() and len(set(class_of.values())) > 1:
        classes = tuple(sorted(set(class_of.values()), key=natural))
        notes += warning(classes)
    spans: dict[str, Span] = {}
    if {(file,) for file in lists} <= set(parts.values()):
        split_of_name = _by_lists(tree, parts, sound)
    elif in_folders:
        split_of_name = {name: split_of(p[0]) or "" for name, p in sound.items()}
    else:
        split_of_name = _by_percent(sound, class_of if classes else {})
        alone = [group[0] for group in _groups(sound, class_of if classes else {}) if len(group) == 1]
        split_of_name |= dict.fromkeys(alone, split)
        spans = dict.fromkeys(alone, _part(split))
        notes += [
            f"{printable(name)} is the only recording of its kind, so each split has a part of it" for name in alone
        ]
    chosen = [name for name in sound if split_of_name[name] == split]
    if not chosen:
        raise UserError(
            f"none of the {len(sound)} recordings in {tree.path} is in the {split} split: {_way_out(split)}"
        )
    labels = {name: classes.index(class_of[name]) for name in chosen} if classes else {}
    source = listed(tree, chosen, labels, split=split, name=name, origin=origin, classes=classes, spans=spans)
    return replace(source, notes=tuple(notes))


def _way_out(split: str) -> str:
    """Say what to do where nothing is in a split."""
    add = "add some, or put them in folders train/, valid/ and test/"
    return f"{add}; or set data.validation = 0 to train without it" if split == "validation" else add


def _outside(sound: Mapping[str, Parts]) -> list[str]:
    """Return a line about recordings beside the folders of splits, which are in none; no line if there are none."""
    outside = [name for name, p in sound.items() if len(p) == 1 or not split_of(p[0])]
    if not outside:
        return []
    example, found = printable(outside[0]), plural(len(outside), "recording")
    return [f"left aside {found} in none of the folders of splits, such as {example}"]


def listed(
    tree: Tree,
    chosen: Sequence[str],
    labels: Mapping[str, int],
    split: str,
    name: str,
    origin: str,
    classes: Parts,
    spans: Mapping[str, Span] | None = None,
) -> Source:
    """Return the named recordings of a tree, with their labels; of those in `spans`, only a part counts."""
    whole: Span = (0.0, 1.0)

    def recordings() -> Iterator[Recording]:
        return (Recording(n, partial(tree.open, n), labels.get(n), (spans or {}).get(n, whole)) for n in chosen)

    return Source(name, split, origin, recordings, tree.path, tree.files(chosen), classes)


def is_sound(name: str) -> bool:
    """Tell by its ending whether a file counts as a recording; those that cannot be read are skipped by name later."""
    return name.lower().endswith((*SOUND_SUFFIXES, *UNREADABLE_SOUND))


def _class(parts: Parts) -> str:
    return readable(parts[0]) if len(parts) > 1 else ""


def _by_lists(tree: Tree, parts: Mapping[str, Parts], sound: Mapping[str, Parts]) -> dict[str, str]:
    file_of = {p: name for name, p in parts.items()}
    split_of = {line: split for split, file in _LISTS.items() for line in tree.text(file_of[file,]).splitlines()}
    return {name: split_of.get("/".join(p), "train") for name, p in sound.items()}


def _groups(sound: Iterable[str], class_of: Mapping[str, str]) -> list[list[str]]:
    """Group the recordings by class, in their order."""
    groups: dict[str, list[str]] = {}
    for name in sound:
        groups.setdefault(class_of.get(name, ""), []).append(name)
    return list(groups.values())


def _by_percent(sound: Iterable[str], class_of: Mapping[str, str]) -> dict[str, str]:
    return {
        name: split
        for group in _groups(sound, class_of)
        for split, ends in _PERCENT.items()
        for name in group[slice(*(len(group) * end // 100 for end in ends))]
    }


def _part(split: str) -> Span:
    """Return the part that belongs to a split, of a recording that is the only one of its class."""
    begin, end = _PERCENT[split]
    return begin / 100, end / 100


def from_parquet(folder: Path, split: str, name: str, origin: str) -> Source:
    """Find the rows of the Parquet files in `folder` named for the split, such as train-00000-of-00001.parquet.

    A column `audio` = struct{`bytes`, `path`} holds sound files of any kind that soundfile reads; a column `label` of
    whole numbers, where there is one, holds their classes. A negative label stands for none.

    Raises:
        UserError: no files of this split, or they are damaged or hold something else.
    """
    files = tuple(sorted(path for path in folder.glob("*.parquet") if split_of_file(path.stem) == split))
    if not files:
        way_out = "; or set data.validation = 0 to train without it" if split == "validation" else ""
        raise UserError(f"no {split}-*.parquet in {folder}: expected files of that name for each split{way_out}")
    label = _features(files).get("label")
    classes = tuple(getattr(label, "names", ()))
    if not classes and str(getattr(label, "dtype", "")).startswith(("int", "uint")):
        highest = max((row["label"] for row in _rows(files, "label") if row["label"] is not None), default=-1)
        if highest >= MOST_CLASSES:
            raise UserError(f"{files[0]}: a label {highest}: expected at most {MOST_CLASSES - 1}")
        classes = tuple(map(str, range(highest + 1)))
    return Source(name, split, origin, partial(_recordings, files, len(classes)), folder, files, classes)


def _recordings(files: Sequence[Path], classes: int) -> Iterator[Recording]:
    columns = ("audio", "label") if classes else ("audio",)
    for number, row in enumerate(_rows(files, *columns)):
        audio, label = row["audio"] or {}, row.get("label")
        name = audio.get("path") or f"row {number}"
        if label is not None and label >= classes:
            raise UserError(f"{shortened(name, 60)} has the label {label}, and there are {classes} classes")
        yield Recording(name, partial(_open_bytes, audio.get("bytes")), None if label is None or label < 0 else label)


def _open_bytes(content: bytes | None) -> BinaryIO:
    if content is None:
        raise FileNotFoundError("the row holds no bytes")
    return io.BytesIO(content)


def _features(files: Sequence[Path]) -> Any:
    """Return the kinds of the columns by name."""
    with _loaded(files) as rows:
        return rows.features


def _rows(files: Sequence[Path], *columns: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of all files in order; sound stays bytes, because decoding by `datasets` wants torchcodec."""
    from datasets import Audio

    with _loaded(files) as rows:
        yield from rows.cast_column("audio", Audio(decode=False)).select_columns(list(columns))


@contextlib.contextmanager
def _loaded(files: Sequence[Path]) -> Iterator[Any]:
    """Open the files by `datasets`, streaming.

    Raises:
        UserError: they are damaged, or have no column of sound files.
    """
    from datasets import load_dataset

    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # a failure is reported here, once
    where = f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}"
    try:
        # Streaming writes nothing but a lock, which goes with the folder.
        with tempfile.TemporaryDirectory() as scratch:
            paths = [glob.escape(str(file)) for file in files]
            rows = load_dataset(
                "parquet",
                data_files=paths,
                split="train",
                streaming=True,
                cache_dir=scratch,
                batch_size=16,  # rows decoded at a time: a small file can hold a million copies of one large recording
            )
            if "audio" not in rows.features:
                raise UserError(f"{where}: no column audio, but {', '.join(rows.features)}")
            yield rows
    except UserError:
        raise
    except Exception as error:  # Arrow and datasets each have their own kinds for a damaged file
        raise UserError(
            f"{where}: damaged, or not Parquet with sound ({shortened(str(error))}); copy or download it again"
        ) from error
    finally:
        logger.setLevel(before)
