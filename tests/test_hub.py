"""Checkpoints to and from the hub, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import s4gen
from s4gen.config import DensityConfig, ModelConfig, SSMConfig, TextLayout
from s4gen.data.text import ByteTokenizer
from s4gen.errors import UserError
from s4gen.hub import card_with_metadata
from s4gen.layers import S4D
from s4gen.models.build import build_model
from s4gen.sampling.convert import convert

TEXT = DensityConfig(TextLayout(257, 256), ModelConfig(d_model=4, n_layers=1, d_ff=0), SSMConfig(d_state=2))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).with_name("hub_session.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("hub"))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize(
    "what",
    [
        "the same",
        "the newest",
        "by revision",
        "by its method",
        "with the token",
        "from the cache",
        "unplugged, from the cache",
    ],
)
def test_what_was_pushed_comes_back(what: str, found: dict[str, Any]) -> None:
    assert found[what] is True


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("private", "there is no private/tiny2 on the hub, or it is private and needs a token"),
        ("no such name", "there is no me/nothing on the hub"),
        ("no such revision", "me/tiny on the hub has no revision 'other'"),
        ("no name", "nothing is no folder, no shipped checkpoint (cifar10-small, "),
        ("not cached", "me/again is no folder here and not in the cache, and the hub cannot be reached"),
        ("unplugged", "me/again is no folder here and not in the cache, and the hub cannot be reached"),
    ],
)
def test_what_is_not_there_is_one_sentence(what: str, message: str, found: dict[str, Any]) -> None:
    assert found[what].startswith(message)


def test_a_repository_holds_the_files_of_a_checkpoint_and_no_pickle(found: dict[str, Any]) -> None:
    assert found["files"] == ["README.md", "config.json", "metrics.json", "model.safetensors"]
    assert found["card"].startswith("---\nlibrary_name: s4gen\npipeline_tag: unconditional-image-generation\ntags:\n")


def test_a_card_keeps_what_its_head_says_and_gets_what_was_measured() -> None:
    card = card_with_metadata(
        "---\nlicense: mit\ntags: [mine]\n---\n\n# Title\n",
        TEXT,
        {"test": {"word_perplexity": 9.5}, "dataset": "x"},
        "name",
    )
    head, text = card.removeprefix("---\n").split("\n---\n")
    assert "license: mit" in head and "- mine" in head and "pipeline_tag: text-generation" in head
    assert "word_perplexity" in head and "value: 9.5" in head and "name: x" in head
    assert text.strip() == "# Title"


def test_a_folder_comes_back_with_its_tokeniser_recipe_and_card(tmp_path: Path) -> None:
    model = s4gen.from_pretrained("mnist-small")
    model.save_pretrained(tmp_path / "a")
    again = s4gen.from_pretrained(tmp_path / "a")
    again.save_pretrained(tmp_path / "b")
    for name in ("model.safetensors", "config.json", "recipe.toml", "metrics.json", "README.md"):
        one, other = (folder / name for folder in (tmp_path / "a", tmp_path / "b"))
        assert one.read_bytes() == other.read_bytes(), name
    x = torch.randint(256, (1, 784))
    with torch.no_grad():
        assert torch.equal(convert(model).source.nats(x), convert(again).source.nats(x))


def test_a_language_model_is_saved_with_its_tokeniser_only(tmp_path: Path) -> None:
    model = build_model(TEXT)
    with pytest.raises(UserError, match="no use without its tokeniser"):
        s4gen.save_pretrained(model, tmp_path / "a")
    s4gen.save_pretrained(model, tmp_path / "a", tokenizer=ByteTokenizer())
    assert (tmp_path / "a" / "tokenizer.json").is_file()


def test_a_single_layer_is_one(tmp_path: Path) -> None:
    layer = S4D(4, d_state=2)
    layer.save(tmp_path / "layer")
    again = s4gen.from_pretrained(tmp_path / "layer")
    assert isinstance(again, S4D)
    u = torch.randn(1, 5, 4)
    assert torch.equal(again(u)[0], layer(u)[0])


@pytest.mark.parametrize("what", ["file", "empty"])
def test_a_place_without_a_checkpoint_is_one_sentence(what: str, tmp_path: Path) -> None:
    place = tmp_path / what
    place.touch() if what == "file" else place.mkdir()
    with pytest.raises(UserError, match=r"expected a folder with a checkpoint|is not a complete checkpoint"):
        s4gen.from_pretrained(place)
