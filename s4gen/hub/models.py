"""Models that load themselves from the hub, and save themselves to a folder or to the hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from s4gen.checkpoint import CURVE_FILE, LAYER_FORMAT, TOKENIZER_FILE, fill_checkpoint, load_checkpoint, read_json
from s4gen.config import TextLayout
from s4gen.data.text import Tokenizer, from_json
from s4gen.errors import UserError, shortened
from s4gen.files.parsing import json_value, reason, toml_value
from s4gen.files.shipped import shipped_names
from s4gen.hub.card import card_with_metadata
from s4gen.hub.network import explained, no_name, reachable
from s4gen.layers import S4, S4D, load_layer
from s4gen.models.density import DensityModel
from s4gen.models.pixels import PixelModel
from s4gen.models.tokens import TokenModel

CARRIED = (TOKENIZER_FILE, "recipe.toml", "metrics.json", "README.md", CURVE_FILE)
"""Files of a checkpoint that belong to a model and are not in it."""
FILES = ("config.json", "model.safetensors", *CARRIED)


class HubModel(ModelHubMixin, library_name="s4gen"):
    """A density model that knows how to save itself: what `from_pretrained` returns is one."""

    beside: Mapping[str, bytes]
    """The files `CARRIED` of the checkpoint that it came from, by name."""

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, DensityModel)
        write_files(save_directory, self, self.beside)

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **fields: Any,  # of config.json, which the mixin reads, too
    ) -> DensityModel:
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=list(FILES),
                )
            )
        return _with_hub(folder)


class HubTokenModel(HubModel, TokenModel):
    """A `TokenModel` with `save_pretrained` and `push_to_hub`."""


class HubPixelModel(HubModel, PixelModel):
    """A `PixelModel` with `save_pretrained` and `push_to_hub`."""


def from_pretrained(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> DensityModel | S4D | S4:
    """Load a model, in evaluation mode on the CPU, with the methods `save_pretrained` and `push_to_hub`.

    Args:
        name_or_folder: a folder with a checkpoint, the name of a shipped one, or user/name on the hub. Of a folder
            with a single layer, that layer.
        revision: a branch, tag or commit of the hub's repository.
        token: for what is private; None: the one that `hf auth login` has stored, if any.
        cache_dir: where downloads are kept; None: where huggingface_hub keeps them.
        local_files_only: look into the cache alone; the environment variable HF_HUB_OFFLINE=1 does the same.
        force_download: download also what is in the cache.

    Raises:
        UserError: there is no such model, no network and nothing in the cache, or the files are damaged.
    """
    name = str(name_or_folder)
    if not Path(name).is_dir() and name in shipped_names("checkpoints"):
        return _with_hub(Path(name))
    if not Path(name).is_dir() and Path(name).exists():
        raise UserError(
            f"{name} is a file; expected a folder with a checkpoint (s4gen import makes one of other files)"
        )
    if Path(name).is_dir():
        if read_json(Path(name) / "config.json").get("format") == LAYER_FORMAT:
            return load_layer(name)
        return _with_hub(Path(name))
    if "/" not in name:
        raise UserError(no_name(name))
    try:
        model: DensityModel = HubModel.from_pretrained(  # type: ignore[assignment]
            name,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only or not reachable(),
            force_download=force_download,
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(explained(error, name, revision)) from None
    return model


def save_pretrained(model: DensityModel, folder: str | Path, *, tokenizer: Tokenizer | None = None) -> None:
    """Write a model to a folder, which `from_pretrained` and every verb of the command line reads.

    `tokenizer` is that of a language model which does not come from a checkpoint; files of another one are replaced.

    Raises:
        UserError: a language model has no tokeniser, or the folder cannot be written.
    """
    files = _beside(model, tokenizer)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_files(Path(folder), model, files)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None


def push_to_hub(model: DensityModel, name: str, *, tokenizer: Tokenizer | None = None, **options: Any) -> str:
    """Upload a model to user/name on the hub, which is made if need be; returns the address of the commit.

    `options` are those of the mixin's `push_to_hub`: commit_message, private, token, branch, create_pr.

    Raises:
        UserError: there is no network, or the hub refuses; of a language model, there is no tokeniser.
    """
    kept, model.__dict__["beside"] = model.__dict__.get("beside"), _beside(model, tokenizer)
    before = type(model)
    try:
        model.__class__ = HUB_TYPES.get(before, before)
        assert isinstance(model, HubModel)
        return model.push_to_hub(name, **options)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(explained(error, name, None)) from None
    finally:
        model.__class__, model.__dict__["beside"] = before, kept


HUB_TYPES: dict[type, type] = {TokenModel: HubTokenModel, PixelModel: HubPixelModel}


def _with_hub(folder: Path) -> DensityModel:
    """The model in a folder, or of a shipped name, as one that can save itself."""
    checkpoint = load_checkpoint(folder)
    model, place = checkpoint.model, checkpoint.path
    beside = {name: (place / name).read_bytes() for name in CARRIED if (place / name).is_file()}
    # The same object with two methods more: these classes add no state but `beside`.
    model.__class__ = HUB_TYPES[type(model)]
    model.__dict__["beside"] = beside
    return model


def _beside(model: DensityModel, tokenizer: Tokenizer | None) -> dict[str, bytes]:
    files = dict(model.__dict__.get("beside") or {})
    if tokenizer is not None:
        files[TOKENIZER_FILE] = tokenizer.to_json().encode("utf-8")
    if isinstance(model.config.layout, TextLayout) and TOKENIZER_FILE not in files:
        raise UserError("a language model is of no use without its tokeniser: give it, tokenizer=...")
    return files


def _table_in(beside: Mapping[str, bytes], name: str, parse: Callable[[bytes], Any]) -> dict[str, Any]:
    """Return the table in the file of this name that came with a model; without the file it is empty.

    Raises:
        UserError: the file holds something else.
    """
    try:
        found = parse(beside.get(name, b"{}" if name.endswith(".json") else b""))
    except ValueError as error:
        raise UserError(f"{name} of the model is damaged ({shortened(reason(error))}); load it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{name} of the model is damaged (expected a table); load it again")
    return found


def write_files(folder: Path, model: DensityModel, beside: Mapping[str, bytes]) -> None:
    """Write the files of a checkpoint into a folder, its card with what the hub shows in its head."""
    metrics = _table_in(beside, "metrics.json", json_value)
    if "dataset" not in metrics and "recipe.toml" in beside:
        data = _table_in(beside, "recipe.toml", lambda content: toml_value(content.decode("utf-8-sig"))).get("data")
        dataset = str(data.get("dataset", "")) if isinstance(data, dict) else ""
        known: dict[str, Any] = {"dataset": dataset, **metrics}
    else:
        known = metrics
    card = beside.get("README.md", b"").decode("utf-8") or f"# A density model of {model.config.layout.kind}\n"
    tokenizer = from_json(beside[TOKENIZER_FILE].decode("utf-8")) if TOKENIZER_FILE in beside else None
    with tempfile.TemporaryDirectory(dir=folder) as made:
        fill_checkpoint(
            Path(made),
            model,
            recipe=None,
            metrics=metrics,
            card=card_with_metadata(card, model.config, known, folder.name),
            tokenizer=tokenizer,
            curve=beside.get(CURVE_FILE),
        )
        if recipe := beside.get("recipe.toml"):
            (Path(made) / "recipe.toml").write_bytes(recipe)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
            if (Path(made) / name).is_file():
                (Path(made) / name).rename(folder / name)
