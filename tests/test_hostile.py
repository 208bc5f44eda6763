"""Files from strangers: seeded mutations of everything that belongs to checkpoints, runs and generations.

Each mutation is refused in one short line, or read as if it were a file like any other; nothing hangs, nothing takes
memory that the file does not have, and no other exception comes out.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from mutate import mutate_bytes, mutate_json, mutate_tensors
from refusals import assert_refused_in_one_line
from safetensors import safe_open
from tiny import noisy_model, random_sequences

from s4gen import layers, train
from s4gen.checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors
from s4gen.cli import main
from s4gen.cli.sample_text import read_prompts
from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig, TextLayout, load_recipe
from s4gen.data.text import from_json
from s4gen.data.text.plain import ByteTokenizer, NumberTokenizer, WordTokenizer
from s4gen.errors import UserError
from s4gen.evaluate.recognition import load_classifier
from s4gen.files.shipped import shipped_folder
from s4gen.models.build import TooLargeError, build_model, build_shapes
from s4gen.sampling.certify import certify
from s4gen.sampling.convert import convert
from s4gen.sampling.converted import load_recurrent, save_converted
from s4gen.sampling.filters import Filters
from s4gen.sampling.fingerprint import digest
from s4gen.sampling.generation import Generation
from s4gen.train.metrics import read_metrics
from s4gen.train.saved import read_progress, read_state
from s4gen.train.training_run import resume

Capture = pytest.CaptureFixture[str]


def seeds(name: str, count: int) -> Iterator[random.Random]:
    for seed in range(count):
        yield random.Random(f"{name} {seed}")


def accepted(call: Callable[[], Any]) -> bool:
    """Whether a file was read; if not, it was refused in one short line that commands no terminal."""
    try:
        call()
    except UserError as error:
        assert str(error) and len(str(error)) < 1000 and str(error).isprintable(), str(error)[:2000]
        return False
    return True


def refused_of(call: Callable[[], Any], mutate: Callable[[random.Random], None], name: str, count: int) -> int:
    """Mutate `count` times, call each time, and return how many mutations were refused."""
    refused = 0
    for rng in seeds(name, count):
        mutate(rng)
        began = time.process_time()
        refused += not accepted(call)
        assert time.process_time() - began < 5, f"{name}: a single file took too long"
    return refused


# Checkpoints


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its checkpoint, a converted one, and a layer: made once, copied by whoever spoils it."""
    room = tmp_path_factory.mktemp("shelf")
    recipe = load_recipe("mnist-small", [f"data.dataset={'mnist-mini'}", *TINY])
    train.run(recipe, room / "run", progress=False)
    model = load_checkpoint(room / "run" / "checkpoint").model
    recurrent = convert(model)
    certificate = certify(recurrent, random_sequences(model, 1)[:, :20])
    save_converted(room / "run" / "checkpoint", room / "converted", recurrent, certificate)
    torch.manual_seed(0)
    layers.S4D(6, d_state=4).save(room / "layer")
    return room


TINY = (
    *("model.d_model=8", "model.n_layers=1", "model.d_ff=0", "ssm.d_state=4", "train.steps=2", "train.batch_size=2"),
    *("train.eval_limit=2", "train.n_samples=0", "train.precision=fp32", "data.validation=10"),
)


@pytest.fixture
def checkpoint(shelf: Path, tmp_path: Path) -> Path:
    shutil.copytree(shelf / "run" / "checkpoint", tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_mutated_configurations(checkpoint: Path) -> None:
    file = checkpoint / "config.json"
    config = json.loads(file.read_text())

    def mutate(rng: random.Random) -> None:
        file.write_bytes(mutate_json(config, rng))

    assert refused_of(lambda: load_checkpoint(checkpoint).model.initial_state(1), mutate, "config", 200) > 120


@pytest.mark.parametrize("name", ["metrics.json", "recipe.toml", "config.json", "model.safetensors"])
def test_mutated_bytes_of_a_checkpoint(name: str, checkpoint: Path) -> None:
    file = checkpoint / name
    content = file.read_bytes()

    def mutate(rng: random.Random) -> None:
        file.write_bytes(mutate_bytes(content, rng))

    refused_of(lambda: load_checkpoint(checkpoint), mutate, name, 60)


def test_mutated_tensors_are_refused_unless_only_their_precision_differs(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    tensors = load_tensors(file)

    def mutate(rng: random.Random) -> None:
        save_tensors(file, mutate_tensors(tensors, rng))

    assert refused_of(lambda: load_checkpoint(checkpoint), mutate, "tensors", 100) > 80


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name_by_every_verb(
    value: float, checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    tensors = load_tensors(checkpoint / "model.safetensors")
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = value
    save_tensors(checkpoint / "model.safetensors", tensors)
    path = str(checkpoint)
    for command in (
        ["info", path],
        ["eval", path, "--limit", "1"],
        *(["sample", path, "-n", "1", "-o", str(tmp_path / "a.png"), "--engine", e] for e in ("eager", "native")),
        ["convert", path, str(tmp_path / "made")],
        ["export", path, str(tmp_path / "exported"), "--format", "torch"],
    ):
        assert_refused_in_one_line(main, command, f"tensor {name} holds 1 numbers that are not finite", capsys)
    assert not (tmp_path / "made").exists()


def test_finite_weights_that_give_no_finite_cost_are_refused_by_eval(checkpoint: Path, capsys: Capture) -> None:
    tensors = load_tensors(checkpoint / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("weight"):
            tensor.fill_(1e30)
    save_tensors(checkpoint / "model.safetensors", tensors)
    arguments = ["eval", str(checkpoint), "--limit", "1", "--dataset", "mnist-mini"]
    assert_refused_in_one_line(main, arguments, "not a finite number; its training must have diverged", capsys)


def test_a_number_that_float32_cannot_hold_is_refused(checkpoint: Path) -> None:
    tensors = {name: tensor.double() for name, tensor in load_tensors(checkpoint / "model.safetensors").items()}
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = 1e300
    save_tensors(checkpoint / "model.safetensors", tensors)
    with pytest.raises(UserError, match=f"tensor {name} holds 1 numbers that are not finite"):
        load_checkpoint(checkpoint)


HUGE = {
    "model.d_model": 30_000,
    "model.d_ff": 10**12,
    "model.n_layers": 1000,
    "model.mixers_per_block": 1000,
    "ssm.d_state": 4096,
    "layout.height": 2**40,
    "layout.width": 2**40,
    "layout.channels": 2**40,
}
BEYOND = {
    "model.d_model": 2**62,
    "model.n_layers": 10**6,
    "model.neighbourhood": 10**8,
    "ssm.d_state": 10**8,
    "layout.width": 2**62,
}


def with_setting(checkpoint: Path, name: str, value: int) -> None:
    section, key = name.split(".")
    config = json.loads((checkpoint / "config.json").read_text())
    config["density"][section][key] = value
    (checkpoint / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", HUGE)
def test_a_small_file_whose_config_is_of_a_huge_model_is_refused_at_once(name: str, checkpoint: Path) -> None:
    with_setting(checkpoint, name, HUGE[name])
    began = time.process_time()
    with pytest.raises(UserError, match=r"model.safetensors does not fit config.json"):
        load_checkpoint(checkpoint)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("name", BEYOND)
def test_a_setting_that_no_model_has_is_refused_by_name(name: str, checkpoint: Path) -> None:
    with_setting(checkpoint, name, BEYOND[name])
    with pytest.raises(UserError, match=rf"config.json: {name} = {BEYOND[name]}: expected at most"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "tokenizer.json"])
@pytest.mark.parametrize("what", ["device", "pipe", "folder"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(what: str, name: str, checkpoint: Path) -> None:
    file = checkpoint / name
    file.unlink(missing_ok=True)
    if what == "device":
        file.symlink_to("/dev/zero")
    elif what == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    with pytest.raises(UserError, match=rf"{name} is a {what}: expected a regular file"):
        if name == "tokenizer.json":
            from s4gen.checkpoint import load_tokenizer

            load_tokenizer(checkpoint, DensityConfig(TextLayout(257, 256), ModelConfig(), SSMConfig()))
        else:
            load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        *(
            struct.pack("<Q", len(header)) + header
            for header in (
                b'{"x": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}',
                b'{"x": {"dtype": "F32", "shape": [0, 9223372036854775807, 9], "data_offsets": [0, 0]}}',
                b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
                b'{"x": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
                b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
                b'{"x": 1}',
                b'{"__metadata__": {"a": 1}}',
            )
        ),
    ],
    ids=range(10),
)
def test_a_header_that_lies_is_refused(content: bytes, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or truncated"):
        load_checkpoint(checkpoint)


def test_a_file_of_a_terabyte_that_takes_no_space_is_refused_unread(checkpoint: Path) -> None:
    os.truncate(checkpoint / "model.safetensors", 10**12)
    with pytest.raises(UserError, match="it is not as long as its header says"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("mixer", ["s4", "s4d", "h3", "dss", "lssl", "attention", "wavenet"])
def test_a_model_built_as_shapes_and_loaded_is_the_one_that_was_saved(mixer: str, tmp_path: Path) -> None:
    """Nothing of it is left on the meta device, not even what is not saved."""
    model = noisy_model(mixer).eval()
    save_checkpoint(tmp_path / "c", model, recipe=None, metrics={}, card="")
    loaded = load_checkpoint(tmp_path / "c").model
    x = random_sequences(model, 2)
    assert torch.equal(loaded.log_prob(x), model.log_prob(x))
    assert all(p.requires_grad for p in loaded.parameters()) and not any(b.is_meta for b in loaded.buffers())


@pytest.mark.parametrize("init", ["legs", "legt", "lagt", "fourier"])
def test_shapes_are_those_of_the_model_whatever_the_measure(init: str) -> None:
    config = DensityConfig(ImageLayout(2, 2, 1), ModelConfig("s4", d_model=4, n_layers=1), SSMConfig(8, init=init))
    shapes = {name: (x.shape, x.dtype) for name, x in build_shapes(config).state_dict().items()}
    assert shapes == {name: (x.shape, x.dtype) for name, x in build_model(config).state_dict().items()}


def test_building_stops_as_soon_as_there_is_too_much() -> None:
    config = DensityConfig(ImageLayout(2, 2, 1), ModelConfig(d_model=8, n_layers=1000), SSMConfig())
    for limits in ({"most": 10_000}, {"tensors": 100}):
        began = time.process_time()
        with pytest.raises(TooLargeError):
            build_shapes(config, **limits)
        assert time.process_time() - began < 1


def test_mutated_layers(shelf: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shelf / "layer", tmp_path / "layer")
    config = json.loads((folder / "config.json").read_text())

    def mutate(rng: random.Random) -> None:
        (folder / "config.json").write_bytes(mutate_json(config, rng))

    assert refused_of(lambda: layers.load_layer(folder), mutate, "layer", 80) > 50


def test_mutated_classifiers(tmp_path: Path) -> None:
    folder = shutil.copytree(shipped_folder("checkpoints") / "fsdd-digits", tmp_path / "classifier")
    config = json.loads((folder / "config.json").read_text())

    def mutate(rng: random.Random) -> None:
        (folder / "config.json").write_bytes(mutate_json(config, rng))

    assert refused_of(lambda: load_classifier(folder), mutate, "classifier", 40) > 20


# Converted checkpoints


def test_constants_belong_to_their_certificate(shelf: Path, tmp_path: Path) -> None:
    """Scaled constants, which fit in shape, once gave samples of nothing with exit 0."""
    folder = shutil.copytree(shelf / "converted", tmp_path / "converted")
    constants = load_tensors(folder / "recurrent.safetensors")
    save_tensors(folder / "recurrent.safetensors", {name: x * 2 for name, x in constants.items()})
    with pytest.raises(UserError, match=r"recurrent.safetensors is not what the certificate beside it was given for"):
        load_recurrent(folder)


def test_constants_of_an_old_certificate_are_made_again_which_is_said(
    shelf: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = shutil.copytree(shelf / "converted", tmp_path / "converted")
    certificate = json.loads((folder / "certificate.json").read_text())
    del certificate["constants_sha256"]
    (folder / "certificate.json").write_text(json.dumps(certificate))
    constants = load_tensors(folder / "recurrent.safetensors")
    save_tensors(folder / "recurrent.safetensors", {name: x * 2 for name, x in constants.items()})
    made = load_recurrent(folder).stepper.state_dict()
    expected = convert(load_checkpoint(shelf / "run" / "checkpoint").model).stepper.state_dict()
    assert all(torch.equal(made[name], value) for name, value in expected.items())
    (line,) = capsys.readouterr().err.splitlines()
    assert "certificate.json is of an earlier version" in line and "made again from the model" in line


def test_constants_that_are_no_numbers_are_refused_by_name_although_the_certificate_is_theirs(
    shelf: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(shelf / "converted", tmp_path / "converted")
    constants = load_tensors(folder / "recurrent.safetensors")
    name = sorted(constants)[0]
    constants[name].view(-1)[0] = float("nan")
    save_tensors(folder / "recurrent.safetensors", constants)
    with pytest.raises(UserError, match=f"recurrent.safetensors: tensor {name} holds 1 numbers that are not finite"):
        load_recurrent(folder)


def test_mutated_certificates(shelf: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shelf / "converted", tmp_path / "converted")
    certificate = json.loads((folder / "certificate.json").read_text())

    def mutate(rng: random.Random) -> None:
        (folder / "certificate.json").write_bytes(mutate_json(certificate, rng))

    assert refused_of(lambda: load_recurrent(folder), mutate, "certificate", 100) > 60


# Runs


def test_mutated_progress_of_a_run(shelf: Path, checkpoint: Path) -> None:
    recipe = load_recipe(checkpoint / "recipe.toml")
    progress = json.loads((checkpoint / "training.json").read_text())

    def mutate(rng: random.Random) -> None:
        (checkpoint / "training.json").write_bytes(mutate_json(progress, rng))

    assert refused_of(lambda: read_progress(checkpoint, recipe), mutate, "progress", 200) > 150


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 1_000_000}, "step = 1000000: expected a whole number from 0 to 2"),
        ({"step": "2"}, 'step = "2"'),
        ({"step": None}, "step = null"),
        ({"step": 2.0}, "step = 2.0"),
        ({"seconds": -1}, "seconds = -1"),
        ({"seconds": {}}, "seconds = a table"),
        ({"best": []}, "best = a list of 0 items"),
        ({"best": {"value": 1.0}}, "best.step is missing"),
        ({"more": 1}, "more is unknown"),
    ],
)
def test_a_state_of_a_run_that_cannot_be_is_refused_by_its_key(
    change: dict[str, Any], message: str, checkpoint: Path
) -> None:
    run = checkpoint.parent
    progress = json.loads((checkpoint / "training.json").read_text())
    (checkpoint / "training.json").write_text(json.dumps(progress | change))
    with pytest.raises(UserError, match=f"training.json is damaged or truncated .{message}"):
        resume(run, torch.device("cpu"))


def test_mutated_tensors_of_a_run_are_refused_even_if_nobody_counts_their_hash(checkpoint: Path) -> None:
    model, recipe = load_checkpoint(checkpoint).model, load_recipe(checkpoint / "recipe.toml")
    progress = read_progress(checkpoint, recipe)
    del progress["tensors_sha256"]
    tensors = load_tensors(checkpoint / "training.safetensors")
    kinds = {}

    def mutate(rng: random.Random) -> None:
        changed = mutate_tensors(tensors, rng)
        save_tensors(checkpoint / "training.safetensors", changed)
        kinds[len(kinds)] = changed

    accepted_kinds = []
    for rng in seeds("run tensors", 150):
        mutate(rng)
        if accepted(lambda: read_state(checkpoint, model, recipe, progress)):
            accepted_kinds.append(kinds[len(kinds) - 1])
    for changed in accepted_kinds:  # nothing but another precision of numbers, or bytes of a random state
        assert changed.keys() == tensors.keys()
        assert all(changed[name].shape == tensors[name].shape for name in tensors)
    assert len(accepted_kinds) < 30


def test_any_changed_byte_of_the_tensors_of_a_run_is_noticed(checkpoint: Path) -> None:
    model, recipe = load_checkpoint(checkpoint).model, load_recipe(checkpoint / "recipe.toml")
    progress, file = read_progress(checkpoint, recipe), checkpoint / "training.safetensors"
    content = file.read_bytes()

    def mutate(rng: random.Random) -> None:
        while (changed := mutate_bytes(content, rng)) == content:
            pass
        file.write_bytes(changed)

    assert refused_of(lambda: read_state(checkpoint, model, recipe, progress), mutate, "run bytes", 60) == 60


@pytest.mark.parametrize("state", [torch.zeros(5056, dtype=torch.uint8), torch.full((5056,), 255, dtype=torch.uint8)])
def test_a_random_state_that_is_none_is_refused(state: torch.Tensor, checkpoint: Path) -> None:
    tensors = load_tensors(checkpoint / "training.safetensors")
    save_tensors(checkpoint / "training.safetensors", tensors | {"rng.cpu": state})
    progress = json.loads((checkpoint / "training.json").read_text())
    del progress["tensors_sha256"]
    (checkpoint / "training.json").write_text(json.dumps(progress))
    before = torch.get_rng_state()
    with pytest.raises(UserError, match=r"training\.safetensors is damaged .random state"):
        resume(checkpoint.parent, torch.device("cpu"))
    torch.set_rng_state(before)


def test_mutated_rows_of_metrics(tmp_path: Path) -> None:
    row = {"step": 10, "epoch": 0.5, "split": "train", "bits_per_dim": 1.5, "lr": 1e-3, "seconds": 3.0}
    for rng in seeds("metrics", 100):
        (tmp_path / "metrics.jsonl").write_bytes(json.dumps(row).encode() + b"\n" + mutate_json(row, rng))
        rows = read_metrics(tmp_path)
        assert rows[0] == row
        for found in rows:
            assert type(found["step"]) is int and isinstance(found["seconds"], float)


def test_mutated_recipes(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    content = (shipped_folder("train") / "cifar10-small.toml").read_bytes()
    refused = 0
    for rng in seeds("recipe", 150):
        file.write_bytes(mutate_bytes(content, rng))
        refused += not accepted(lambda: load_recipe(file))
    assert refused > 75
    for text in ("[model]\nd_model = 99999999999999999999", "[" + "a." * 5000 + "a]", "model = " + "[" * 9999, "\x00"):
        file.write_text(text)
        assert not accepted(lambda: load_recipe(file))


# Tokenisers, prompts, generations


def test_mutated_tokenisers() -> None:
    words, numbers = WordTokenizer(["<eos>", "<unk>", "a"]), NumberTokenizer(11, 0)
    for tokenizer, count in ((words, 60), (ByteTokenizer(), 40), (numbers, 40)):
        fields = json.loads(tokenizer.to_json())
        for rng in seeds(tokenizer.kind, count):
            text = mutate_json(fields, rng)
            if accepted(lambda text=text: from_json(text)):  # type: ignore[misc]
                assert from_json(text).vocab >= 1


def test_mutated_byte_pair_encodings() -> None:
    pytest.importorskip("tokenizers")
    from s4gen.data.text.bpe import BPETokenizer

    fields = json.loads(BPETokenizer.train(["a tale of two cities " * 9], 262).to_json())
    for rng in seeds("bpe", 60):
        text = mutate_json(fields, rng)
        if accepted(lambda text=text: from_json(text)):  # type: ignore[misc]
            tokenizer = from_json(text)
            assert all(0 <= token < tokenizer.vocab for token in tokenizer.encode("a tale"))


def test_mutated_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    for rng in seeds("prompts", 80):
        file.write_bytes(mutate_json({"prompt": "It was", "more": [1, {"a": 2}]}, rng))
        if accepted(lambda: read_prompts(file)):
            "".join(read_prompts(file)).encode("utf-8")
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    assert not accepted(lambda: read_prompts(pipe))
    for link in ("/dev/zero", str(tmp_path)):
        (tmp_path / "link.txt").symlink_to(link)
        assert not accepted(lambda: read_prompts(tmp_path / "link.txt"))
        (tmp_path / "link.txt").unlink()


def rewritten(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a generation that was tampered with by somebody who makes the digest right."""
    metadata = {key: value for key, value in metadata.items() if key != "sha256"}
    metadata["sha256"] = digest(tensors, metadata)
    path.write_bytes(safetensors.torch.save(tensors, metadata))


@pytest.mark.parametrize("mixer", ["s4d", "attention"])
def test_mutated_generations(mixer: str, tmp_path: Path) -> None:
    recurrent = convert(noisy_model(mixer))
    path = tmp_path / "generation.safetensors"
    generation = Generation.start(recurrent, 2, seed=3, prompt=torch.tensor([1, 2]), filters=Filters(top_k=5))
    list(itertools.islice(generation.stream(), 4))
    generation.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load(path.read_bytes())  # not of `file`, which maps a path that is written to below
    for rng in seeds(f"generation {mixer}", 120):
        if rng.random() < 0.7:
            rewritten(path, mutate_tensors(tensors, rng), metadata)
        else:
            key = rng.choice(sorted(metadata))
            value = mutate_json(json.loads(metadata["filters"]), rng).decode("utf-8", "replace")
            rewritten(path, tensors, metadata | {key: value})
        if accepted(lambda: Generation.load(path, recurrent)):
            for chunk in Generation.load(path, recurrent).chunks(3):
                assert int(chunk.min()) >= 0 and int(chunk.max()) < recurrent.config.layout.vocab
    vocab = recurrent.config.layout.vocab
    for name, value in (("ready", vocab), ("ready", -1), ("token", vocab + 1), ("token", -(2**62)), ("sequences", -1)):
        wrong = tensors[name].clone() if tensors[name].numel() else torch.zeros(2, 1, dtype=torch.int64)
        wrong.view(-1)[0] = value
        rewritten(path, tensors | {name: wrong}, metadata)
        with pytest.raises(UserError, match=r"is damaged .*out of range"):
            Generation.load(path, recurrent)
    without = {key: value for key, value in metadata.items() if key != "model"}
    rewritten(path, tensors, without)
    assert not accepted(lambda: Generation.load(path, recurrent))
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    assert not accepted(lambda: Generation.load(link, recurrent))
