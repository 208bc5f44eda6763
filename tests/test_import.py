"""Imported weights of state-spaces/s4 compute what their definition says, and every other file is refused."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from engines import ENGINES_HERE
from theirs import Theirs

from s4gen.checkpoint import load_checkpoint
from s4gen.cli import main
from s4gen.config import AudioLayout
from s4gen.errors import UserError
from s4gen.importing import import_weights, kernels, save_imported
from s4gen.importing.options import Options, flattened
from s4gen.importing.reading import read_weights
from s4gen.models.density import DensityModel
from s4gen.sampling.converted import recurrent_of
from s4gen.sampling.engines import make_engine

SASHIMI = {"pool": (2, 3), "transposed": True, "d_model": 4, "n_ssm": 1}
MODELS = {
    "S4": Theirs(),
    "S4, v3": Theirs("v3", d_model=10, n_ssm=5, n_layers=3),
    "S4, v2, one SSM": Theirs("v2", n_ssm=1, d_state=6),
    "S4, v2, Q of its own": Theirs("v2", hurwitz=False, rank=2),
    "S4, rank 2, C itself": Theirs(rank=2, length=0),
    "S4D, zoh": Theirs(kind="s4d", n_ssm=0),
    "S4D, bilinear, softplus": Theirs(kind="s4d", disc="bilinear", dt_transform="softplus"),
    "S4D, v3": Theirs("v3", kind="s4d", n_ssm=3),
    "transposed": Theirs(transposed=True, blocks=("ssm", "ff")),
    "post-norm": Theirs(prenorm=False, blocks=("ssm", "ff")),
    "post-norm, transposed": Theirs(prenorm=False, transposed=True),
    "SaShiMi": Theirs(**SASHIMI, expand=3, dt_transform="softplus"),
    "SaShiMi, v3, post-norm": Theirs("v3", **SASHIMI | {"pool": (3, 2, 2)}, expand=1, ff=3, prenorm=False),
    "SaShiMi, v2, no feed-forward": Theirs("v2", **SASHIMI | {"pool": (4,)}, ff=0, n_layers=3),
    "SaShiMi of S4D": Theirs(kind="s4d", **SASHIMI),
    "adaptive": Theirs(cutoffs=(3, 6), d_model=8, blocks=("ssm", "ssm", "ff"), ff=4),
    "adaptive, untied": Theirs(cutoffs=(3, 6, 8), d_model=8, tie_weights=False, tie_projs=False),
    "adaptive, projections untied": Theirs(cutoffs=(3,), d_model=8, tie_projs=False, div=4),
    "adaptive, undivided": Theirs(cutoffs=(3, 6), div=1),
}


def written(theirs: Theirs, folder: Path, **config: Any) -> tuple[Path, Path]:
    """Write weights and configuration to files and return both paths."""
    weights, beside = folder / "weights.pt", folder / "config.json"
    torch.save(theirs.tensors, weights)
    cutoffs = {"cutoffs": theirs.cutoffs} if theirs.cutoffs else {}
    beside.write_text(json.dumps({"config": theirs.config() | cutoffs | config}))
    return weights, beside


def relative(got: torch.Tensor, want: Any) -> float:
    wanted = torch.from_numpy(want)
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_an_imported_model_computes_what_is_defined(name: str, tmp_path: Path) -> None:
    """It is saved and loaded first, then run as a convolution in both precisions and step by step in every engine."""
    theirs = MODELS[name]
    save_imported(import_weights(*written(theirs, tmp_path)), tmp_path / "out", "weights.pt")
    checkpoint = load_checkpoint(tmp_path / "out")
    tokens = torch.randint(theirs.vocab, (2, 24))
    want = theirs.logits(tokens.numpy())
    assert relative(checkpoint.model(tokens)[0], want) < 1e-5
    recurrent = recurrent_of(checkpoint)
    for engine in ENGINES_HERE:
        session = make_engine(engine, recurrent).begin(recurrent.initial_state(2))
        stepped = torch.stack([session.feed(token) for token in tokens.unbind(1)], 1)
        assert relative(stepped, want) < 1e-5, engine
    assert relative(checkpoint.model.double()(tokens)[0], want) < 1e-9


@pytest.mark.parametrize("name", MODELS)
def test_every_key_is_accounted_for(name: str, tmp_path: Path) -> None:
    theirs = MODELS[name]
    imported = import_weights(*written(theirs, tmp_path))
    assert imported.fate.keys() == theirs.tensors.keys()
    assert {fate.partition(":")[0] for fate in imported.fate.values()} <= {"used", "derived", "ignored"}
    if theirs.kind == "s4" and theirs.length:
        assert imported.condition is not None and imported.condition > 1
        assert imported.error is not None and imported.error < 1e-12


def test_of_a_lightning_checkpoint_the_config_is_its_own(tmp_path: Path) -> None:
    """OmegaConf's objects are read as empty shells in which the values are found; OmegaConf is not imported."""
    module = ModuleType("omegaconf_stand_in")

    class Node:
        def __init__(self, **state: Any) -> None:
            self.__dict__.update(state)

    Node.__module__, Node.__qualname__ = module.__name__, "Node"
    module.Node = Node  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    theirs = MODELS["S4D, bilinear, softplus"]
    values = {key: Node(_val=value) for key, value in theirs.config().items()}
    torch.save(
        {"epoch": 3, "state_dict": theirs.tensors, "hyper_parameters": Node(_content=values)}, tmp_path / "a.ckpt"
    )
    del sys.modules[module.__name__]
    imported = import_weights(tmp_path / "a.ckpt")
    assert isinstance(imported.model, DensityModel)
    assert imported.model.config.ssm.discretization == "bilinear"
    assert imported.model.config.ssm.dt_transform == "softplus"
    assert not any("guessed" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("name", "guess"), [("S4", "softplus"), ("S4, v3", "exp"), ("S4, v2, one SSM", "exp"), ("adaptive", "exp")]
)
def test_the_function_of_dt_is_guessed_aloud(name: str, guess: str, tmp_path: Path) -> None:
    weights, _ = written(MODELS[name], tmp_path)
    imported = import_weights(weights)
    assert isinstance(imported.model, DensityModel)
    assert imported.model.config.ssm.dt_transform == guess
    assert any(f"guessed to be {guess}" in note for note in imported.notes)
    asked = import_weights(weights, dt="softplus")
    assert isinstance(asked.model, DensityModel) and asked.model.config.ssm.dt_transform == "softplus"


def test_a_model_of_sound_starts_behind_silence(tmp_path: Path) -> None:
    theirs = Theirs(vocab=256, **SASHIMI)
    imported = import_weights(*written(theirs, tmp_path, dataset="sc09"))
    assert isinstance(imported.model, DensityModel)
    assert imported.model.config.layout == AudioLayout(16_000, "mu-law", 8, "minmax")
    model = imported.model.double()
    tokens = torch.randint(256, (1, 11))
    behind = np.concatenate((np.full((1, 1), 128), tokens.numpy()), 1)
    with torch.no_grad():
        got = model(torch.cat((torch.full((1, 1), model.bos), tokens), 1))[0]
    assert relative(got, theirs.logits(behind)) < 1e-9


def test_the_reference_s_own_yaml_is_read(tmp_path: Path) -> None:
    text = """
    model:
      _name_: model
      d_model: 6
      n_layers: 2
      prenorm: true
      norm: layer
      residual: R
      layer:
        - {_name_: s4, d_state: 8, mode: diag, measure: diag-lin, disc: bilinear, dt_transform: "${model.how}"}
        - {_name_: ff, expand: 2, activation: relu}
      how: softplus
    dataset: {_name_: wt103}
    """
    theirs = Theirs(kind="s4d", disc="bilinear", dt_transform="softplus", blocks=("ssm", "ff"))
    weights, _ = written(theirs, tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    imported = import_weights(weights, tmp_path / "c.yaml")
    tokens = torch.randint(theirs.vocab, (1, 9))
    with torch.no_grad():
        got = imported.model.double()(tokens)[0]
    assert relative(got, theirs.logits(tokens.numpy())) < 1e-9


def test_prompts_of_plain_tokens_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is fed before a prompt, so greedy tokens and their probabilities equal the reference's."""
    theirs = MODELS["S4"]
    weights, config = written(theirs, tmp_path)
    assert main(["import", str(weights), str(tmp_path / "out"), "--config", str(config)]) == 0
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("3 7\n1 2 9 4\n")
    capsys.readouterr()
    out = tmp_path / "texts.jsonl"
    arguments = ["sample", str(tmp_path / "out"), "--prompts", str(prompts), "--max-tokens", "5", "--top-k", "1"]
    assert main([*arguments, "-o", str(out)]) == 0
    for line, prompt in zip(out.read_text().splitlines(), ([3, 7], [1, 2, 9, 4]), strict=True):
        known, record, nats = list(prompt), json.loads(line), []
        for _ in range(5):
            logits = theirs.logits(np.array([known]))[0, -1]
            known.append(int(logits.argmax()))
            nats.append(float(logits.max() - np.log(np.exp(logits).sum())))
        assert record["tokens"] == known[len(prompt) :]
        assert record["log_probabilities"] == pytest.approx(nats, abs=1e-5)


def test_an_imported_model_is_an_ordinary_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, config = written(MODELS["SaShiMi"], tmp_path)
    out = str(tmp_path / "out")
    assert main(["import", str(weights), out, "--config", str(config), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["version"] == "HEAD" and set(report["fate"]) == MODELS["SaShiMi"].tensors.keys()
    text = tmp_path / "text.txt"
    text.write_text("1 2 3 4 5\n" * 30)
    assert main(["info", out]) == 0
    assert main(["eval", out, "--dataset", str(text)]) == 0
    assert main(["convert", out, str(tmp_path / "converted"), "--sequences", "2"]) == 0
    assert main(["sample", str(tmp_path / "converted"), "--max-tokens", "3"]) == 0
    printed = capsys.readouterr().out
    assert "numbers" in printed and "drawn by the model" in printed


# ------------------------------------------------------------------------------------------------------- bad input


class Planted:
    """An object that calls os.system when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["pt", "ckpt", "legacy", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(form: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "planted.ckpt"
    planted = Planted(marker)
    tensors = MODELS["S4"].tensors
    if form == "pickle":
        path.write_bytes(pickle.dumps(planted))
    elif form == "ckpt":
        torch.save({"state_dict": tensors, "hyper_parameters": {"a": planted}}, path)
    else:
        torch.save(tensors | {"x": planted}, path, _use_new_zipfile_serialization=form == "pt")
    with pytest.raises(UserError, match=r"calls posix\.system, .* nothing in it was run"):
        import_weights(path)
    assert not marker.exists()


def test_a_program_of_torchscript_is_refused(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning):
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(UserError, match="a program of TorchScript"):
        import_weights(tmp_path / "script.pt")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.99])
def test_a_file_cut_in_the_middle_is_one_sentence(part: float, tmp_path: Path) -> None:
    weights, _ = written(MODELS["S4"], tmp_path)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(UserError, match="is truncated, damaged, or not a file of PyTorch"):
        import_weights(weights)


K = "model.layers.0.layer.layer.kernel."


@pytest.mark.parametrize(
    ("name", "changes", "config", "message"),
    [
        ("S4", {"conv1.weight": torch.zeros(3)}, {}, "unknown key conv1.weight"),
        ("S4", {f"{K}W": torch.zeros(3)}, {}, f"the key {K}W is left over"),
        ("S4", {f"{K}B": None}, {}, f"the key {K}B is missing"),
        ("S4", {f"{K}l_kernel": None}, {}, f"the key {K}l_kernel is missing"),
        ("S4", {f"{K}B": torch.zeros(1, 2, 5, 2)}, {}, rf"{K}B has shape \(1, 2, 5, 2\), expected \(2, 4, 2\)"),
        ("S4", {f"{K}C": torch.zeros(2, 6, 4, 2)}, {}, "2 channels: a bidirectional layer"),
        ("S4", {"encoder.0.weight": torch.full((11, 6), torch.nan)}, {}, "numbers that are not finite"),
        ("S4", {f"{K}A_imag": -torch.ones(2, 4)}, {}, "keeps the positive half .* the wrong conjugation"),
        ("S4", {"model.layers.1.norm.norm.running_mean": torch.zeros(6)}, {}, "a batch norm"),
        ("S4, v3", {"model.layers.0.layer.kernel.kernel.w_imag": torch.ones(5, 4)}, {}, "keeps the negative half"),
        ("adaptive", {"loss_val.cluster_bias": torch.ones(2)}, {}, "differs from loss.cluster_bias"),
        ("adaptive, undivided", {}, {"cutoffs": None}, "cutoffs is missing.* 2 increasing numbers below 11"),
        ("S4D, zoh", {}, {"disc": None}, "disc is missing, and the weights do not tell it; expected zoh or bilinear"),
        ("S4D, zoh", {}, {"disc": "euler"}, 'disc = "euler".* expected one of zoh, bilinear'),
        ("S4", {}, {"activation": "relu"}, 'activation = "relu".* expected one of gelu'),
        ("S4", {}, {"prenorm": False}, "prenorm = false, but there is a final norm"),
        ("S4", {}, {"prenorm": "no"}, "prenorm = 'no': expected true or false"),
        ("S4", {}, {"d_model": 7}, "d_model = 7, but the width in the weights is 6"),
        ("S4", {}, {"bidirectional": True}, "bidirectional = True: s4gen has no such layer"),
        ("SaShiMi", {}, {"pool": [4, 4]}, r"pool = \[4, 4\], but the list of strides in the weights is \[2, 3\]"),
        ("S4", {}, {"dataset": "sc09"}, "has 256 codes, and the weights know 11"),
    ],
)
def test_what_is_no_such_model_is_one_sentence_that_names_the_fault(
    name: str, changes: dict[str, Any], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    theirs = MODELS[name]
    weights, beside = written(theirs, tmp_path, **config)
    tensors = {key: x for key, x in (theirs.tensors | changes).items() if x is not None}
    torch.save(tensors, weights)
    with pytest.raises(UserError, match=message):
        import_weights(weights, beside)


def test_without_a_config_the_missing_value_is_named(tmp_path: Path) -> None:
    weights, _ = written(MODELS["S4D, zoh"], tmp_path)
    with pytest.raises(
        UserError, match="do not tell disc, which is zoh or bilinear: set it in a file given by --config"
    ):
        import_weights(weights)


def test_a_c_that_cannot_be_recovered_is_refused(tmp_path: Path) -> None:
    """A mode that neither decays nor turns makes I - Abar^L singular, whatever the truncated C is."""
    theirs = Theirs()
    still = {f"{K}A_real": torch.full((2, 4), -35.0), f"{K}A_imag": torch.zeros(2, 4), f"{K}P": torch.zeros(1, 2, 4, 2)}
    weights, beside = written(theirs, tmp_path)
    torch.save(theirs.tensors | still, weights)
    with pytest.raises(UserError, match=r"kernel\.C cannot be recovered: I - Abar\^12 has condition number"):
        import_weights(weights, beside)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("{", "is not valid JSON or YAML"),
        ("[1]", "expected an object of names and values"),
    ],
)
def test_a_config_that_is_none_is_one_sentence(content: str | None, message: str, tmp_path: Path) -> None:
    weights, _ = written(MODELS["S4"], tmp_path)
    config = tmp_path / "other.json"
    if content is not None:
        config.write_text(content)
    with pytest.raises(UserError, match=message):
        import_weights(weights, config)


def test_interpolations_are_looked_up() -> None:
    tables = {"a": {"b": 3}, "model": {"d_model": "${a.b}", "n_layers": "${a.none}", "pool": "${..x}"}}
    assert flattened(tables) == {"d_model": 3}
    assert Options(tables, "file").get("n_layers", 5) == 5


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, config = written(MODELS["S4"], tmp_path)
    command = ["import", str(weights), str(tmp_path / "out"), "--config", str(config)]
    assert main(command) == 0
    assert main(command) == 2
    assert "exists; choose another name, or replace it with --force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


@pytest.mark.parametrize(
    ("key", "value"), [("kind", "s4d"), ("kind", "diag"), ("version", "v3.0.0"), ("version", "v2")]
)
def test_a_configuration_of_another_model_is_refused(key: str, value: str) -> None:
    """Its step sizes would otherwise be believed, since the weights cannot contradict them."""
    options = Options({"kind": "s4", "version": "HEAD e757cef"} | {key: value}, "theirs.json")
    with pytest.raises(UserError, match=rf"theirs.json: {key} = .*is it another model's\?"):
        kernels._check_kind(options, "HEAD", "s4")
    kernels._check_kind(Options({}, "theirs.json"), "v2", "s4d")


def saved_state_dict(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1).expand(2**40), "claims 1,099,511,627,776 numbers, and the file has"),
        (torch.tensor([1.0, float("nan")]), "holds 1 numbers that are not finite"),
        (torch.eye(3).to_sparse(), "is no plain tensor"),
        (torch.empty(3, device="meta"), "is no plain tensor"),
    ],
    ids=["expanded", "nan", "sparse", "meta"],
)
def test_weights_that_are_not_what_they_seem_are_refused_by_name(
    tensor: torch.Tensor, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"w\.pt: (tensor )?layer\.x {message}"):
        read_weights(saved_state_dict({"layer.x": tensor}, tmp_path / "w.pt"))


def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    whole, packed = saved_state_dict({"x": torch.zeros(10**6)}, tmp_path / "w.pt"), tmp_path / "packed.pt"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    with pytest.raises(UserError, match="its members unpack to far more than the file holds"):
        read_weights(packed)
