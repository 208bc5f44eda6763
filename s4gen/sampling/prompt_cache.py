"""A cache of prompts that were read: the state behind each, in a folder or in memory, so that none is read twice.

An entry is the state of one row behind some tokens. Its key is the model (a hash of its configuration and of all its
tensors), who computed it in which precision, the class of the row, and the tokens themselves. An entry in a folder is
a safetensors file with a checksum, which is data alone: nothing in it can be run. It holds the tokens of the prompt in
plain, so the folder is as private as the prompts are; a new one is made for its owner alone.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4gen.errors import UserError, WriteError, printable, shortened
from s4gen.files.folders import user_path
from s4gen.models.density import ModelState
from s4gen.models.plausible import check_state
from s4gen.models.states import copied, from_named, map_tensors, named
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.fingerprint import digest, fingerprint
from s4gen.sampling.prompt_store import FolderStore, MemoryStore, Store, entry_name

FORMAT = "s4gen-prompt-state"
FORMAT_VERSION = "1"
LIMIT = 1 << 30
"""Bytes that a cache takes at most, unless it is told otherwise."""
PARALLEL = "parallel"
"""Who computed a state that was read by convolution. A state that an engine left has the engine's name."""


class PromptCache:
    """States behind prompts, of which the oldest make room for new ones. Threads and processes may share a folder."""

    def __init__(self, folder: str | Path | None = None, limit_bytes: int = LIMIT) -> None:
        """Open the cache in a folder, which is made if it is missing; None keeps the states in memory instead.

        Raises:
            UserError: the folder is a file, or cannot be made or read.
            ValueError: the limit is less than 1.
        """
        if limit_bytes < 1:
            raise ValueError(f"a prompt cache of {limit_bytes} bytes: expected at least 1")
        self._store: Store = MemoryStore() if folder is None else FolderStore(user_path(folder))
        self._limit, self._lock = limit_bytes, threading.Lock()
        self._models: weakref.WeakKeyDictionary[RecurrentModel, str] = weakref.WeakKeyDictionary()
        self._complained = False

    def get(
        self,
        recurrent: RecurrentModel,
        tokens: Tensor,
        label: int | None = None,
        *,
        multiple: int = 1,
        computed_by: str = PARALLEL,
    ) -> tuple[int, ModelState] | None:
        """Return the longest beginning of `tokens` whose state is there: its length, and the state of one row.

        Args:
            recurrent: the model.
            tokens: int64 (L,), as they are fed, with bos where one is fed.
            label: the class of the row, for a model that is conditional on classes.
            multiple: a beginning that is not all of `tokens` counts only if its length is a multiple of this.
            computed_by: `PARALLEL`, or the name of the engine that left the state.

        Returns:
            The length and a state on the model's device that is the caller's own; None if there is nothing. A damaged
            entry counts as missing and is removed; one line on standard error says so, once.
        """
        model, values = self._model(recurrent, label, computed_by), _plain(tokens)
        with self._lock:
            there = self._store.names(model)
            lengths = {length for length in there.values() if length == len(values) or not length % multiple}
            names = _names(model, values, (length for length in lengths if length <= len(values)))
            for length, name in sorted(names.items(), reverse=True):
                if name in there and (state := self._read(recurrent, name, model, values[:length])) is not None:
                    self._store.touch(name)
                    return length, state
        return None

    def put(
        self,
        recurrent: RecurrentModel,
        tokens: Tensor,
        state: ModelState,
        label: int | None = None,
        *,
        computed_by: str = PARALLEL,
    ) -> None:
        """Keep a state of one row, which is the one behind `tokens`; the arguments are those of `get`.

        What does not fit into the limit by itself is not kept. A folder that cannot be written to is reported on
        standard error, once, and work goes on without the cache.

        Raises:
            ValueError: the state has another number of rows, or stands behind another number of tokens.
        """
        model, values = self._model(recurrent, label, computed_by), _plain(tokens)
        if state.position.tolist() != [len(values)]:
            raise ValueError(f"the state stands at {state.position.tolist()}, and there are {len(values)} tokens")
        # Which tokens count as repeated is a matter of filters: it is found again from the tokens where it is needed.
        tensors = {"tokens": torch.from_numpy(values)} | named(state._replace(seen=()))
        tensors = {name: copied(tensor.cpu()) for name, tensor in tensors.items()}
        metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "model": model}
        metadata["sha256"] = digest(tensors, metadata)
        (name,) = _names(model, values, [len(values)]).values()
        with self._lock:
            try:
                self._store.write(name, (tensors, metadata), self._limit)
            except WriteError as error:
                self._complain(f"{error}; going on without keeping prompts")

    def _model(self, recurrent: RecurrentModel, label: int | None, computed_by: str) -> str:
        """Return the hash of everything that a state depends on, but for the tokens."""
        if recurrent not in self._models:
            self._models[recurrent] = fingerprint(recurrent)
        precision = str(next(recurrent.source.parameters()).dtype)
        # Another version of PyTorch may round in another way, and then an entry would not be what reading gives.
        of = [self._models[recurrent], computed_by, precision, recurrent.device.type, label, torch.__version__]
        return hashlib.sha256(json.dumps([FORMAT, FORMAT_VERSION, *of]).encode()).hexdigest()

    def _read(self, recurrent: RecurrentModel, name: str, model: str, tokens: NDArray[np.int64]) -> ModelState | None:
        """Return the state in an entry; None if it was removed meanwhile, or is damaged, and then remove it."""
        try:
            tensors, metadata = self._store.read(name)
            return _restored(recurrent, tensors, dict(metadata), model, tokens)
        except FileNotFoundError:  # another process has made room
            return None
        except (OSError, ValueError, UserError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._complain(f"a prompt in the cache is damaged, so it is read again ({printable(shortened(str(why)))})")
            self._store.remove(name)
            return None

    def _complain(self, line: str) -> None:
        if not self._complained:
            print(f"s4gen: {line}", file=sys.stderr)
            self._complained = True


def _plain(tokens: Tensor) -> NDArray[np.int64]:
    """Return tokens int64 (L,) as an array, which has the same bytes on every machine."""
    if tokens.ndim != 1 or tokens.is_floating_point():
        raise ValueError(f"the tokens have shape {tuple(tokens.shape)} and type {tokens.dtype}; expected int64 (L,)")
    return np.ascontiguousarray(tokens.to("cpu", torch.int64).numpy())


def _names(model: str, tokens: NDArray[np.int64], lengths: Iterable[int]) -> dict[int, str]:
    """Return, for each of these lengths, the name of the entry of so many first tokens; every token is hashed once."""
    found, running, at = {}, hashlib.sha256(model.encode()), 0
    for length in sorted(lengths):
        running.update(tokens[at:length].tobytes())
        found[length], at = entry_name(model, length, running.hexdigest()), length
    return found


def _restored(
    recurrent: RecurrentModel,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, str],
    model: str,
    tokens: NDArray[np.int64],
) -> ModelState:
    """Return the state of an entry, after everything about it was checked.

    Raises:
        ValueError: it is not what was written, is of another model or other tokens, or no state of this model.
    """
    if metadata.pop("sha256", None) != digest(tensors, metadata):
        raise ValueError("its checksum is that of another content")
    expected = {"format": FORMAT, "format_version": FORMAT_VERSION, "model": model}
    if metadata != expected or not torch.equal(tensors.get("tokens", torch.empty(0)), torch.from_numpy(tokens)):
        raise ValueError("it is not of this model and these tokens")
    state: ModelState = from_named(recurrent.initial_state(1), tensors, 1)
    check_state(recurrent.source, state)
    if state.position.tolist() != [len(tokens)]:
        raise ValueError("it stands at another position")
    return map_tensors(lambda x: x.clone().to(recurrent.device), state)
