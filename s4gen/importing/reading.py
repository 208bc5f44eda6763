"""Files of other programs: their tensors and plain values, without running any code that is in them.

PyTorch's files are pickles, and a pickle may name any function and have it called. `torch.load(weights_only=True)`
reads those of tensors and plain values. A Lightning checkpoint may hold more, such as OmegaConf's objects: it is read
by an unpickler to which every class is an empty shell, and which refuses any call not known to make plain data.
"""

from __future__ import annotations

import collections
import json
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import torch
import yaml
from torch import Tensor

from s4gen.errors import UserError

REBUILDS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
}
"""What is really called: these make tensors and dictionaries of what they are given, and do nothing else."""
CALLED = (
    *("omegaconf", "hydra", "pytorch_lightning", "lightning", "lightning_fabric", "torch", "numpy"),
    *("collections", "pathlib", "enum", "datetime", "typing"),
)
"""Packages whose classes may be called in a file. They are shells all the same: nothing of them is imported."""
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
"""Builtin classes that may be called; as shells, too."""


class CodeInFileError(UserError):
    """A file would call a function that could do anything."""


class _Shell(type):
    """The class of the classes that stand for those which a file names."""

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
    """An object of a foreign class: what the file says about it, and no behaviour."""

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

    def __hash__(self) -> int:
        return id(self)


class _Unpickler(pickle.Unpickler):
    """Finds no class of any package."""

    def find_class(self, module: str, name: str) -> Any:
        if found := REBUILDS.get((module, name)):
            return found
        if module == "torch" and isinstance(kind := getattr(torch, name, None), torch.dtype):
            return kind
        return _Shell(name, (Placeholder,), {"qualified": f"{module}.{name}"})


def _load(file: IO[bytes], **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_INERT = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="s4gen's unpickler", dumps=None)
"""What `torch.load` takes in place of the module pickle."""


class Contents(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    """The state dict."""
    config: Mapping[str, Any]
    """The hyper-parameters beside it; empty where there are none."""


def read_weights(path: Path) -> Contents:
    """The state dict of a `.pt` or a Lightning `.ckpt`, on the CPU, and the hyper-parameters that it may hold.

    Raises:
        UserError: there is no such file, it is cut or damaged, would run code, or holds no state dict.
    """
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "there is no such file"
        raise UserError(f"{path}: {problem}; give a .pt or a .ckpt")
    try:
        whole = _loaded(path)
    except CodeInFileError as error:
        raise UserError(f"{path} is not read: {error}") from None
    except Exception as error:  # what a damaged file leads to has no common type
        raise UserError(
            f"{path} is cut, damaged, or no file of PyTorch ({_first_line(error)}); copy it again"
        ) from None
    if not isinstance(whole, Mapping):
        raise UserError(f"{path} holds a {type(whole).__name__}, expected a state dict, or a checkpoint with one")
    tensors = whole.get("state_dict", whole)
    if not isinstance(tensors, Mapping) or not tensors or not all(isinstance(x, Tensor) for x in tensors.values()):
        odd = next((key for key, x in tensors.items() if not isinstance(x, Tensor)), "") if tensors else "nothing"
        raise UserError(f"{path} holds no state dict ({odd} is no tensor); expected one, or a checkpoint with one")
    config = plain(whole.get("hyper_parameters", {})) if tensors is not whole else {}
    return Contents({str(key): x.detach() for key, x in tensors.items()}, config if isinstance(config, Mapping) else {})


def _loaded(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # An archive of TorchScript: torch.load would hand it to an interpreter.
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CodeInFileError("it is a program of TorchScript; save its state dict and import that")
    elif tarfile.is_tarfile(path):  # PyTorch would unpack it
        raise CodeInFileError("it is in the tar format of PyTorch before 0.4; save it again with a newer one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about pickles that it did not write
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # foreign classes, or worse
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_INERT)


def _first_line(error: Exception) -> str:
    text = re.split(r"\n|\. ", str(error).strip())[0][:120]
    return text if " " in text else f"{type(error).__name__} {text}".strip()


def plain(value: Any) -> Any:
    """Dictionaries, lists and scalars out of what may contain placeholders of OmegaConf's nodes; the rest is None."""
    if isinstance(value, Placeholder):
        state = value.contents.get("state")
        if isinstance(state, tuple) and state and isinstance(state[0], Mapping):  # (attributes, slots)
            state = state[0]
        if isinstance(state, Mapping):
            for name in ("_content", "_val"):  # of a DictConfig or ListConfig, and of a leaf
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


def read_config(path: Path) -> Mapping[str, Any]:
    """The configuration in a JSON or YAML file: of JSON its object `config`, where it has one.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tables = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no JSON or YAML ({_first_line(error)})") from None
    if not isinstance(tables, Mapping):
        raise UserError(f"{path}: expected an object of names and values, got a {type(tables).__name__}")
    inner = tables.get("config", tables)
    return inner if isinstance(inner, Mapping) else tables
