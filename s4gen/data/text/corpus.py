"""Find the sources of text: WikiText, and anybody's own files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from s4gen.config.names import SPLITS, TEXT_SETS, TEXT_SUFFIXES
from s4gen.data.splits import NAMES, split_of
from s4gen.data.store import data_folder
from s4gen.data.text.reading import (
    Block,
    Part,
    is_jsonl,
    is_packed,
    line_start,
    read_blocks,
    refuse_wide,
    text_start,
    unpacked_size,
)
from s4gen.errors import UserError
from s4gen.files.folders import user_path
from s4gen.showing.progress import progress_bar

PORTIONS = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}
"""The parts of a single file of the user's, in order, cut at line ends where that leaves none of them empty."""

MINI = Path(__file__).parent / "mini"


@dataclass(frozen=True)
class Corpus:
    """One split of a corpus: a file, or a contiguous part of one. It is read lazily and may exceed the memory."""

    name: str
    """wikitext-2, or the path that the user gave."""
    split: str
    """One of `SPLITS`."""
    source: str
    """Where it was read from: S4GEN_DATA, hub, file, or s4gen itself."""
    path: Path
    begin: int = 0
    """Offset of its first byte in the unpacked file."""
    end: int | None = None
    """Offset after its last byte; None: the end of the file."""
    part: Part | None = None
    """The part of each record's text that counts, for JSON Lines with few records."""

    def identity(self) -> str:
        """Return a text that changes when the corpus may have: path, size and time of the file, and the part of it.

        Raises:
            UserError: the file is not there.
        """
        try:
            status = self.path.stat()
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}): copy or download it again") from error
        return json.dumps(
            [str(self.path.resolve()), status.st_size, status.st_mtime_ns, self.begin, self.end, *(self.part or ())]
        )

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Yield the text as bytes, block by block; `start` is a block's `after`, to go on behind it.

        Raises:
            UserError: the file is missing or damaged, or there is no text at all.
        """
        found = start > self.begin
        for block in read_blocks(self.path, max(start, self.begin), self.end, self.part):
            found = True
            yield block
        if not found:
            raise UserError(
                f"there is no text in the {self.split} split of {self.name} ({self.path}): expected some lines of text"
            )

    def texts(self, progress: bool = False) -> Iterator[str]:
        """Yield the text, block by block, to make a vocabulary from; `progress`: with a progress bar.

        Raises:
            UserError: as for `blocks`; or the text is binary, or not UTF-8.
        """
        with progress_bar(self.size_estimate() if progress else 0, "B", progress, f"vocabulary of {self.name}") as bar:
            for block in self.blocks():
                yield checked_text(block, self.path)
                bar.update(len(block.data))

    def size_estimate(self) -> int:
        """Return the bytes to read, for progress bars; of a gzipped file the size that it states, modulo 2^32."""
        if self.end is not None:
            return self.end - self.begin
        size = self.path.stat().st_size
        if is_packed(self.path) and size >= 4:
            with self.path.open("rb") as file:
                file.seek(-4, 2)
                size = int.from_bytes(file.read(), "little")
        return size - self.begin


def checked_text(block: Block, path: Path) -> str:
    """Return the text of a block, which must be UTF-8 without zero bytes.

    Raises:
        UserError: it is not; the message names the byte.
    """
    if not block.start:
        refuse_wide(block.data, path)
    if (at := block.data.find(b"\0")) >= 0:
        raise UserError(
            f"{path} looks like a binary file (a zero near byte {block.start + at}): expected text in UTF-8; "
            "the tokeniser `bytes` takes any file"
        )
    try:
        return block.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 at byte {block.start + error.start}: convert it, or use the tokeniser `bytes`, "
            "which takes any file"
        ) from error


def open_corpus(name: str, split: str) -> Corpus:
    """Open a split of a corpus: one of `TEXT_SETS`, a folder, or a file.

    A folder holds a file for each split, by the names of `splits.NAMES` in capitals or not, of plain text or of JSON
    Lines (records with "text"), gzipped or not. Of a single file, the first 90 % are for training, the next 5 % for
    validation and the last 5 % for the test, cut at line ends; where lines are too long for that, at a space or, last
    of all, between two characters; where records are, so is each of them. WikiText is read from `S4GEN_DATA`, else from
    what was downloaded, else from the hub.

    Raises:
        UserError: no such corpus, split or file; another suffix; neither data nor network.
    """
    if split not in SPLITS:
        raise UserError(f"no split called {split!r}: expected one of {', '.join(SPLITS)}")
    if name == "wikitext-mini":
        return Corpus(name, split, "s4gen", MINI / f"{split}.txt.gz")
    if name in TEXT_SETS:
        return _wikitext(name, split)
    path = user_path(name)
    if path.is_dir():
        return Corpus(name, split, "file", _in_folder(path, split))
    if not path.is_file():
        near = get_close_matches(name, TEXT_SETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no corpus or file called {name!r}: expected {', '.join(TEXT_SETS)}, a folder or a file{hint}")
    if not path.name.lower().endswith(TEXT_SUFFIXES):
        raise UserError(f"{path} is no text file by its name: expected it to end in {', '.join(TEXT_SUFFIXES)}")
    return _part_of_file(name, split, path)


def _part_of_file(name: str, split: str, path: Path) -> Corpus:
    """Return one split of a file that holds train, validation and test."""
    size = unpacked_size(path)
    places = [int(size * portion) for portion in (0.9, 0.95)]
    cuts = [line_start(path, place) for place in places]
    if not 0 < cuts[0] < cuts[1] < size:
        if is_jsonl(path):
            return Corpus(name, split, "file", path, part=PORTIONS[split])
        for width in (size // 50, 0):
            cuts = [text_start(path, place, width) for place in places]
            if 0 < cuts[0] < cuts[1] < size:
                break
    ends = [0, *cuts, size]
    number = SPLITS.index(split)
    return Corpus(name, split, "file", path, ends[number], ends[number + 1])


def _in_folder(folder: Path, split: str) -> Path:
    found = [path for path in folder.iterdir() if split_of(_parts(path.name)[0]) == split and path.is_file()]
    found.sort(key=lambda path: (TEXT_SUFFIXES.index(_parts(path.name)[1]), path.name))
    if len(found) != 1:
        what = f"both {found[0].name} and {found[1].name}" if found else f"no text for the split {split}"
        stems = " or ".join(NAMES[split])
        way_out = "; or set data.validation = 0 to train without it" if split == "validation" else ""
        raise UserError(
            f"{folder} holds {what}: expected one file {stems} that ends in {', '.join(TEXT_SUFFIXES)}{way_out}"
        )
    return found[0]


def _parts(name: str) -> tuple[str, str]:
    """Return the name of a text file without its ending, and the ending; or two empty strings for another file."""
    endings = [suffix for suffix in TEXT_SUFFIXES if name.lower().endswith(suffix)]
    return (name[: -len(endings[0])], endings[0]) if endings else ("", "")


def _wikitext(name: str, split: str) -> Corpus:
    file = f"wiki.{'valid' if split == 'validation' else split}.tokens"
    folder = data_folder()
    for candidate in (f"{file}.gz", file):
        if folder is not None and (path := folder / "wikitext" / name / candidate).is_file():
            return Corpus(name, split, "S4GEN_DATA", path)
    from s4gen.data.text.hub import download

    return Corpus(name, split, "hub", download(name, split))
