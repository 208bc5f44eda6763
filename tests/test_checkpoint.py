"""A checkpoint comes back exactly, and a damaged one is refused in one sentence."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from s4gen import checkpoint as checkpoints
from s4gen.checkpoint import check_target, load_any, load_checkpoint, resolve_checkpoint, save_checkpoint, save_tensors
from s4gen.config import (
    DataConfig,
    DensityConfig,
    ImageLayout,
    ModelConfig,
    OptimConfig,
    Recipe,
    SSMConfig,
    TextLayout,
    TrainConfig,
)
from s4gen.errors import UserError
from s4gen.files.shipped import shipped_names
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel

MODEL = ModelConfig(d_model=8, n_layers=2, d_ff=8, n_heads=2)
SSM = SSMConfig(d_state=4)
RECIPE = Recipe(MODEL, SSM, DataConfig("mnist-mini"), OptimConfig(lr=0.1), TrainConfig(steps=3))


def tiny_model(seed: int = 0, mixer: str = "s4d") -> DensityModel:
    torch.manual_seed(seed)
    return build_model(DensityConfig(ImageLayout(4, 4, 1, 5), dataclasses.replace(MODEL, mixer=mixer), SSM))


def save(path: Path, seed: int = 0, overwrite: bool = False) -> DensityModel:
    model = tiny_model(seed)
    metrics = {"bits_per_dim": 1.5, "seed": seed}
    save_checkpoint(path, model, recipe=RECIPE, metrics=metrics, card="# A card\n", overwrite=overwrite)
    return model


def assert_same_tensors(got: DensityModel, want: DensityModel) -> None:
    assert got.state_dict().keys() == want.state_dict().keys()
    for name, tensor in want.state_dict().items():
        found = got.state_dict()[name]
        assert found.dtype == tensor.dtype, name
        assert torch.equal(found, tensor), name


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("mixer", ["s4d", "s4", "attention"])
def test_a_checkpoint_comes_back_exactly(mixer: str, tmp_path: Path) -> None:
    model = tiny_model(mixer=mixer)
    recipe = dataclasses.replace(RECIPE, model=model.config.model)
    save_checkpoint(tmp_path / "c", model, recipe=recipe, metrics={"a": [1, None]}, card="Ä card")
    loaded = load_checkpoint(tmp_path / "c")
    assert_same_tensors(loaded.model, model)
    assert loaded.config == model.config == loaded.model.config
    assert loaded.recipe == recipe
    assert loaded.metrics == {"a": [1, None]}
    assert loaded.path == tmp_path / "c"
    assert not loaded.model.training
    assert (tmp_path / "c" / "README.md").read_text(encoding="utf-8") == "Ä card"


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_numbers_of_another_precision_are_taken_in_that_of_the_model_which_is_said_once(
    kind: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    save(tmp_path / "c")
    stored = {name: tensor.to(kind) for name, tensor in model.state_dict().items()}
    save_tensors(tmp_path / "c" / "model.safetensors", stored)
    loaded = load_checkpoint(tmp_path / "c").model.state_dict()
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].float())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{len(stored)} of {len(stored)} tensors hold {str(kind)[6:]}, and are taken as float32")


@pytest.mark.parametrize("kind", [torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_refused_by_the_name_of_the_tensor(kind: torch.dtype, tmp_path: Path) -> None:
    save(tmp_path / "c")
    stored = {name: tensor.to(kind) for name, tensor in tiny_model().state_dict().items()}
    save_tensors(tmp_path / "c" / "model.safetensors", stored)
    message = rf"does not fit config.json: tensor {next(iter(stored))} holds {str(kind)[6:]}, expected float32$"
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "c")


def test_a_checkpoint_needs_no_recipe(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", tiny_model(), recipe=None, metrics={}, card="")
    assert not (tmp_path / "c" / "recipe.toml").exists()
    assert load_checkpoint(tmp_path / "c").recipe is None


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    save(tmp_path / "c")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_checkpoint(tmp_path / "c")
    assert torch.equal(torch.rand(3), expected)


def test_a_loaded_model_can_be_trained_without_changing_the_file(tmp_path: Path) -> None:
    save(tmp_path / "c")
    loaded = load_checkpoint(tmp_path / "c").model
    with torch.no_grad():
        for parameter in loaded.parameters():
            assert parameter.requires_grad
            parameter.add_(1.0)
    assert_same_tensors(load_checkpoint(tmp_path / "c").model, tiny_model())


def test_an_existing_checkpoint_is_replaced_only_when_asked(tmp_path: Path) -> None:
    save(tmp_path / "c")
    with pytest.raises(UserError, match=r"c exists; choose another name, or replace it with --force$"):
        save(tmp_path / "c", seed=1)
    assert load_checkpoint(tmp_path / "c").metrics["seed"] == 0
    model = save(tmp_path / "c", seed=1, overwrite=True)
    assert_same_tensors(load_checkpoint(tmp_path / "c").model, model)


def test_what_is_not_a_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    """`--force` with a slip of the finger must not delete somebody's home directory."""
    (tmp_path / "diary.txt").write_text("dear diary")
    for target in (tmp_path, tmp_path / "diary.txt"):
        with pytest.raises(UserError, match="exists and is not a checkpoint, so it is not replaced"):
            save(target, overwrite=True)
    assert (tmp_path / "diary.txt").read_text() == "dear diary"
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty", overwrite=False)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_a_disk_full_at_any_file_leaves_the_previous_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "c")
    opened = Path.open

    def open_until_full(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == name and args[:1] != ("rb",):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_until_full)
        with pytest.raises(UserError, match=r"^disk full .*; the previous checkpoint is untouched$"):
            save(tmp_path / "c", seed=1, overwrite=True)
    assert os.listdir(tmp_path) == ["c"]
    assert load_checkpoint(tmp_path / "c").metrics["seed"] == 0


def test_a_writer_killed_half_way_leaves_the_moved_aside_checkpoint_to_load(tmp_path: Path) -> None:
    model = save(tmp_path / "c")
    (tmp_path / "c").rename(tmp_path / ".c.previous")
    assert_same_tensors(load_checkpoint(tmp_path / "c").model, model)
    assert resolve_checkpoint(tmp_path / "c") == tmp_path / "c"


def test_a_missing_checkpoint_is_answered_with_the_shipped_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no checkpoint at .*nowhere; ") as error:
        load_checkpoint(tmp_path / "nowhere")
    for name in shipped_names("checkpoints"):
        assert name in str(error.value)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "run" / "checkpoint")
    with pytest.raises(UserError, match=r"run is not a checkpoint: .*; did you mean .*run/checkpoint\?$"):
        load_checkpoint(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty is not a checkpoint: there is no config.json in it$"):
        load_checkpoint(tmp_path / "empty")
    with pytest.raises(UserError, match=r"model.safetensors is not a checkpoint: expected a folder"):
        load_checkpoint(tmp_path / "run" / "checkpoint" / "model.safetensors")


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_another_format_version_is_refused_naming_both(version: Any, tmp_path: Path) -> None:
    save(tmp_path / "c")
    edit_json(tmp_path / "c" / "config.json", format_version=version, s4gen_version="9.9")
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "c")
    assert f"checkpoint format version {version!r}" in str(error.value)
    assert f"reads version {checkpoints.FORMAT_VERSION}; use the s4gen that wrote it (9.9)" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "gpt"}, "format = 'gpt': expected \"s4gen-checkpoint\""),
        ({"density": None}, "density is missing"),
        ({"density": {}}, "layout.height is missing"),
        ({"density": {"model": {"d_modle": 3}}}, "unknown key model.d_modle; did you mean model.d_model?"),
    ],
)
def test_a_wrong_config_is_one_sentence(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(tmp_path / "c")
    edit_json(tmp_path / "c" / "config.json", **changes)
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "c")
    assert str(error.value).startswith(f"{tmp_path}/c/config.json: {message}")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "metrics.json"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_one_sentence(name: str, kept: float, tmp_path: Path) -> None:
    save(tmp_path / "c")
    path = tmp_path / "c" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * (len(content) - 2))])
    with pytest.raises(UserError, match=f"{name} is damaged or truncated") as error:
        load_checkpoint(tmp_path / "c")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff" * 64, b"\x08" + bytes(7) + b"nonsense", b"[1, 2]"])
def test_a_corrupt_file_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        save(tmp_path / "c", overwrite=True)
        (tmp_path / "c" / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            load_checkpoint(tmp_path / "c")


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    save(tmp_path / "c")
    (tmp_path / "c" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors is missing, so .*c is not a complete checkpoint"):
        load_checkpoint(tmp_path / "c")


def test_tensors_that_do_not_fit_the_config_are_refused_by_name(tmp_path: Path) -> None:
    tensors = dict(tiny_model().state_dict())
    save(tmp_path / "c")
    path = tmp_path / "c" / "model.safetensors"

    def refusal(changed: dict[str, torch.Tensor]) -> str:
        checkpoints.save_tensors(path, changed)
        with pytest.raises(UserError) as error:
            load_checkpoint(tmp_path / "c")
        return str(error.value)

    prefix = f"{path} does not fit config.json: tensor "
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    assert refusal(without) == f"{prefix}head.bias (and 1 more) is missing"
    assert refusal(tensors | {"extra": torch.zeros(1)}) == f"{prefix}extra is not part of the model"
    message = refusal(tensors | {"head.bias": torch.zeros(6)})
    assert message == f"{prefix}head.bias has shape (6,), expected (5,)"


def test_every_shipped_checkpoint_loads_and_has_a_card() -> None:
    for name in shipped_names("checkpoints"):
        loaded = load_any(name)
        # A program of its own trained the classifier of digits (s4gen.examples.digits).
        assert loaded.recipe is not None or name == "fsdd-digits", name
        assert (loaded.path / "README.md").stat().st_size > 0, name
        allowed = 12 if isinstance(loaded.config.layout, TextLayout) else 8
        assert sum(file.stat().st_size for file in loaded.path.iterdir()) < allowed * 2**20, name
