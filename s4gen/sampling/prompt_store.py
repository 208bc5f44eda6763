"""Where the entries of a prompt cache are: in memory, or as files of a folder; the oldest make room for new ones."""

from __future__ import annotations

import contextlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import safetensors.torch
from torch import Tensor

from s4gen.checkpoint.tensors import read_tensors
from s4gen.errors import UserError
from s4gen.files.atomic import write_file_atomic
from s4gen.files.folders import says_why
from s4gen.files.unfinished import remove_all_leftovers

_NAME = re.compile(r"([0-9a-f]{16})-(\d{1,18})-[0-9a-f]{32}\.state")
"""The name of an entry: of the model, the number of tokens, of the tokens. Other files of a folder are left alone."""

Entry = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors and texts by their names."""


def entry_name(model: str, length: int, tokens: str) -> str:
    """Return the name of the entry of a model and of so many tokens, both given by a hash of 64 hexadecimal digits."""
    return f"{model[:16]}-{length}-{tokens[:32]}.state"


class Store(Protocol):
    """Where entries are kept by name."""

    def names(self, model: str) -> Mapping[str, int]:
        """Return the number of tokens of each entry of a model, by the name of the entry."""

    def read(self, name: str) -> Entry:
        """Return an entry."""

    def write(self, name: str, entry: Entry, limit: int) -> None:
        """Keep an entry as the newest one, and remove the oldest until at most `limit` bytes are kept."""

    def touch(self, name: str) -> None:
        """Make an entry the newest one."""

    def remove(self, name: str) -> None:
        """Remove an entry."""


class MemoryStore:
    """Entries in memory, the oldest first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def names(self, model: str) -> Mapping[str, int]:
        return _lengths(self._entries, model)

    def read(self, name: str) -> Entry:
        return self._entries[name]

    def write(self, name: str, entry: Entry, limit: int) -> None:
        if _size(entry) > limit:
            return
        self._entries[name] = entry
        self.touch(name)
        sizes = {each: _size(kept) for each, kept in self._entries.items()}
        for oldest in _too_old(sizes, limit):
            del self._entries[oldest]

    def touch(self, name: str) -> None:
        self._entries.move_to_end(name)

    def remove(self, name: str) -> None:
        self._entries.pop(name, None)


class FolderStore:
    """Entries as files of a folder, of which those are the oldest that were used the longest time ago."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if it is missing, and remove what killed writers left in it.

        Raises:
            UserError: it is a file, or cannot be made or read.
        """
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file, and a prompt cache is a folder; choose another name")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.scandir(folder).close()
        except OSError as error:
            raise UserError(f"the prompt cache cannot be used: {says_why(error)}") from error
        remove_all_leftovers(folder)
        self._folder = folder

    def names(self, model: str) -> Mapping[str, int]:
        try:
            return _lengths(os.listdir(self._folder), model)
        except FileNotFoundError:  # somebody has removed the folder; writing makes it again
            return {}

    def read(self, name: str) -> Entry:
        return read_tensors(self._folder / name, lambda header: None)

    def write(self, name: str, entry: Entry, limit: int) -> None:
        path = self._folder / name
        if path.is_file():
            self.touch(name)
            return
        content = safetensors.torch.save(*entry)
        if len(content) > limit:
            return
        write_file_atomic(path, content)
        found = []
        with os.scandir(self._folder) as entries:
            for each in entries:
                if _NAME.fullmatch(each.name):
                    with contextlib.suppress(FileNotFoundError):
                        status = each.stat()
                        # Times may be equal, and the new entry must not be the one that goes.
                        found.append((each.name == name, status.st_mtime_ns, each.name, status.st_size))
        for oldest in _too_old({kept: size for _, _, kept, size in sorted(found)}, limit):
            self.remove(oldest)

    def touch(self, name: str) -> None:
        with contextlib.suppress(OSError):  # a folder that is only read keeps the order in which it was written
            os.utime(self._folder / name)

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).unlink()


def _too_old(sizes: Mapping[str, int], limit: int) -> list[str]:
    """Return the first of the names, which are in order of age, that have to go so that the sizes sum up to `limit`."""
    too_much, names = sum(sizes.values()) - limit, []
    for name, size in sizes.items():
        if too_much <= 0:
            break
        names.append(name)
        too_much -= size
    return names


def _size(entry: Entry) -> int:
    return sum(tensor.nbytes for tensor in entry[0].values())


def _lengths(names: Iterable[str], model: str) -> dict[str, int]:
    """Return the numbers of tokens of those entries, among other names, that are of a model."""
    found = ((name, _NAME.fullmatch(name)) for name in names)
    return {name: int(match[2]) for name, match in found if match is not None and match[1] == model[:16]}
