"""Read the tensors and plain values in other programs' files without running any code that is in them.

PyTorch's files are pickles, and a pickle may name any function and have it called. `torch.load(weights_only=True)`
reads pickles of tensors and plain values. A Lightning checkpoint may hold more, such as OmegaConf's objects. It is read
by an unpickler that replaces every class by an empty shell and refuses any call that is not known to make plain data.
"""

from __future__ import annotations

import collections
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import torch
import yaml
from torch import Tensor

from s4gen.checkpoint.tensors import check_finite
from s4gen.errors import UserError, shortened
from s4gen.files.parsing import NESTING, json_value, reason
from s4gen.files.reading import read_bounded

MOST_CONFIG, MOST_NODES = 1 << 20, 100_000
"""Bytes of a configuration, and values in it; those of state-spaces/s4 have less than 200."""
REBUILDS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
}
"""The functions that are really called: they make tensors and dictionaries of their arguments and do nothing else."""
CALLED = (
    *("omegaconf", "hydra", "pytorch_lightning", "lightning", "lightning_fabric", "torch", "numpy"),
    *("collections", "pathlib", "enum", "datetime", "typing"),
)
"""Packages whose classes a file may call. The calls make shells: nothing of these packages is imported."""
PLAIN = (
    "dict",
    "list",
    "set",
    "frozenset",
    "tuple",
    "int",
    "float",
    "str",
    "bool",
    "complex",
    "bytes",
    "slice",
    "range",
)
"""Builtin classes that a file may call; these calls make shells, too."""


class CodeInFileError(UserError):
    """The file would call a function that could do anything."""


class _Shell(type):
    """Metaclass of the shells: a call of a class that is neither in `CALLED` nor in `PLAIN` is refused."""

    qualified = "?"

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # what a pickle does by REDUCE
        module, _, name = cls.qualified.rpartition(".")
        if module.partition(".")[0] not in CALLED and not (module in ("builtins", "__builtin__") and name in PLAIN):
            raise CodeInFileError(
                f"it calls {cls.qualified}, which could run anything: refused, and nothing in it was run"
            )
        made: Any = cls
        return made.__new__(made, *args, **kwargs)


class Placeholder(metaclass=_Shell):
    """A shell, the object of a foreign class: it keeps what the pickle hands to it and has no behaviour."""

    contents: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        made = object.__new__(cls)
        object.__setattr__(made, "contents", {"args": args})
        return made

    def __setstate__(self, state: Any) -> None:
        self.contents["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.contents.setdefault("items", []).append((key, value))

    def append(self, value: Any) -> None:
        self.contents.setdefault("appended", []).append(value)

    def extend(self, values: Any) -> None:
        self.contents.setdefault("appended", []).extend(values)

    def __hash__(self) -> int:  # a shell may be a key of a dictionary in the file
        return id(self)


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports nothing: it knows `REBUILDS` and dtypes, and makes a shell for every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if found := REBUILDS.get((module, name)):
            return found
        if module == "torch" and isinstance(kind := getattr(torch, name, None), torch.dtype):
            return kind
        return _Shell(name, (Placeholder,), {"qualified": f"{module}.{name}"})


def _load(file: IO[bytes], **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_INERT = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="s4gen's unpickler", dumps=None)
"""The stand-in for the module pickle that `torch.load` is given as `pickle_module`."""


class Contents(NamedTuple):
    """The contents of a file of weights."""

    tensors: dict[str, Tensor]
    """The state dict."""
    config: Mapping[str, Any]
    """The hyper-parameters beside the state dict; empty where there are none."""


def read_weights(path: Path) -> Contents:
    """Read the state dict of a `.pt` or a Lightning `.ckpt` to the CPU, and the hyper-parameters that it may hold.

    Raises:
        UserError: the file does not exist, is damaged, would run code, or holds no state dict.
    """
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "there is no such file"
        raise UserError(f"{path}: {problem}; give a .pt or a .ckpt")
    try:
        whole = _loaded(path)
    except CodeInFileError as error:
        raise UserError(f"{path} is not read: {error}") from None
    except Exception as error:  # damaged files make torch, pickle and zipfile raise errors of no common type
        if "invalid load key" in str(error) and not _begins_as_archive(path):
            raise UserError(f"{path} is no file of PyTorch; give a .pt or a .ckpt") from None
        raise UserError(
            f"{path} is truncated, damaged, or not a file of PyTorch ({_first_line(error)}); copy it again"
        ) from None
    if not isinstance(whole, Mapping):
        raise UserError(f"{path} holds a {type(whole).__name__}, expected a state dict, or a checkpoint with one")
    tensors = whole.get("state_dict", whole)
    if not isinstance(tensors, Mapping) or not tensors or not all(isinstance(x, Tensor) for x in tensors.values()):
        odd = next((key for key, x in tensors.items() if not isinstance(x, Tensor)), "") if tensors else "nothing"
        raise UserError(f"{path} holds no state dict ({odd} is not a tensor); expected one, or a checkpoint with one")
    _check_tensors(tensors, path)
    config = plain(whole.get("hyper_parameters", {})) if tensors is not whole else {}
    return Contents({str(key): x.detach() for key, x in tensors.items()}, config if isinstance(config, Mapping) else {})


def _begins_as_archive(path: Path) -> bool:
    """Tell whether a file begins as a zip archive does, even if the rest of it is missing, as of a broken download."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _check_tensors(tensors: Mapping[Any, Tensor], path: Path) -> None:
    """Refuse tensors that claim more numbers than the file has bytes, that are of another layout, or not finite.

    A pickle may give a tensor any shape with strides of 0, so that the first copy of it fills the memory.

    Raises:
        UserError: there is one; the message names it.
    """
    size = path.stat().st_size
    for key, x in tensors.items():
        name = f"{path}: {shortened(str(key), 100)}"
        if x.layout != torch.strided or x.is_meta or x.is_quantized:
            raise UserError(
                f"{path}: {name} is no plain tensor (sparse, quantised, or without numbers); save it as one"
            )
        if x.numel() > size:
            raise UserError(
                f"{path}: {name} claims {x.numel():,} numbers, and the file has {size:,} bytes; copy it again"
            )
    check_finite({str(key): x for key, x in tensors.items()}, path)


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse an archive whose members unpack to far more than the file is. PyTorch itself packs nothing.

    Raises:
        ValueError: the archive is such a one.
    """
    if sum(member.file_size for member in archive.infolist()) > 16 * path.stat().st_size + (1 << 20):
        raise ValueError("its members unpack to far more than the file holds")


def _loaded(path: Path) -> Any:
    """Unpickle a file of PyTorch, first with torch's own safe reader, then with shells for foreign classes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # That file marks an archive of TorchScript, which torch.load would hand to torch.jit's interpreter.
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CodeInFileError("it is a program of TorchScript; save its state dict and import that")
            _check_archive(archive, path)
    elif tarfile.is_tarfile(path):  # torch.load would unpack it to disk
        raise CodeInFileError("it is in the tar format of PyTorch before 0.4; save it again with a newer one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of pickles that it did not write itself
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # it has foreign classes, or worse; the shells are safe from both
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_INERT)


def _first_line(error: Exception) -> str:
    """Return the first sentence of an error; a bare word, such as the key of a KeyError, gets the error's type."""
    text = re.split(r"\n|\. ", str(error).strip())[0][:120]
    return text if " " in text else f"{type(error).__name__} {text}".strip()


def plain(value: Any) -> Any:
    """Return dictionaries, lists and scalars for a value that may contain shells of OmegaConf's nodes.

    Whatever has no such form becomes None.
    """
    if isinstance(value, Placeholder):
        state = value.contents.get("state")
        if isinstance(state, tuple) and state and isinstance(state[0], Mapping):  # (attributes, slots)
            state = state[0]
        if isinstance(state, Mapping):
            # OmegaConf keeps a dictionary's or a list's items in `_content`, and the value of a leaf in `_val`.
            for name in ("_content", "_val"):
                if name in state:
                    return plain(state[name])
            return {str(key): plain(item) for key, item in state.items()}
        if "items" in value.contents:
            return {str(key): plain(item) for key, item in value.contents["items"]}
        return [plain(item) for item in value.contents.get("appended", [])] or None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else None


def yaml_value(text: str) -> Any:
    """Return the value of a YAML text of plain values.

    Raises:
        ValueError: it is not YAML, is nested too deep, or has so many aliases of aliases that its value, written out,
            would have more than `MOST_NODES` parts.
    """
    try:
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader))
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(_first_line(error)) from None
    return value


def _check_events(events: Iterator[Any]) -> None:
    """Refuse a text by its events, which the parser yields one by one, before anything recurses into what they mean."""
    sizes: dict[str, int] = {}
    under_way: list[tuple[str | None, int]] = []  # lists and tables that are not closed: their anchor and size so far
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            under_way.append((event.anchor, 1))
            if len(under_way) > NESTING:
                raise ValueError(f"nested more than {NESTING} deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = under_way.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = None, sizes.get(event.anchor, 1)
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if under_way:
            under_way[-1] = (under_way[-1][0], under_way[-1][1] + size)
        if size > MOST_NODES or (under_way and under_way[-1][1] > MOST_NODES):
            raise ValueError(f"more than {MOST_NODES:,} values, with its aliases written out")


def read_config(path: Path) -> Mapping[str, Any]:
    """Read a configuration from a JSON or YAML file; if it has an object `config`, that object is the configuration.

    Raises:
        UserError: the file does not exist, or holds something else.
    """
    try:
        content = read_bounded(path, MOST_CONFIG)
        tables = json_value(content) if path.suffix.lower() == ".json" else yaml_value(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON or YAML ({shortened(reason(error))})") from None
    if not isinstance(tables, Mapping):
        raise UserError(f"{path}: expected an object of names and values, got a {type(tables).__name__}")
    inner = tables.get("config", tables)
    return inner if isinstance(inner, Mapping) else tables
