"""Each name that users may write stands in one tuple, and exactly these names are served."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from engines import model_of
from PIL import Image

from s4gen.cli.media import MEDIA, kind_of_file
from s4gen.config import DataConfig, TrainConfig, kind_of, names
from s4gen.config.layouts import LAWS, NORMALISATIONS
from s4gen.config.strict import LAYOUTS
from s4gen.data import ImageFormat
from s4gen.data import open_split as open_images
from s4gen.data.audio import AudioFormat, published
from s4gen.data.audio import open_split as open_audio
from s4gen.data.audio.sources import is_sound
from s4gen.data.opening import PUBLISHED
from s4gen.data.pictures import is_picture, read_picture
from s4gen.data.text import build_tokenizer, from_json, hub, kinds, open_corpus
from s4gen.errors import UserError
from s4gen.sampling.convert import convert
from s4gen.sampling.engines import make_engine

PACKAGE = Path(__file__).resolve().parent.parent / "s4gen"


def test_each_kind_has_a_layout_a_plural_and_a_medium() -> None:
    assert tuple(LAYOUTS) == tuple(MEDIA) == names.KINDS
    assert tuple(names.PLURAL) == (*names.KINDS, names.SERIES)


def test_each_data_set_has_its_kind_and_a_loader() -> None:
    assert tuple(PUBLISHED) == names.IMAGE_SETS
    assert tuple(published.PUBLISHED) == names.AUDIO_SETS
    for kind, sets in zip(names.KINDS, (names.IMAGE_SETS, names.TEXT_SETS, names.AUDIO_SETS), strict=True):
        assert {kind_of(DataConfig(name).dataset) for name in sets} == {kind}


def test_each_corpus_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4GEN_DATA", str(tmp_path))
    for name in names.TEXT_SETS:
        folder = tmp_path / "wikitext" / name
        folder.mkdir(parents=True)
        for split, file in zip(names.SPLITS, ("train", "valid", "test"), strict=True):
            (folder / f"wiki.{file}.tokens").write_text(" a word \n")
            assert open_corpus(name, split).path.is_file()
    assert {name for name, _ in hub.WORDS} == {name for name in names.TEXT_SETS if name not in names.MINI_OF.values()}


def test_these_sets_of_sound_alone_have_no_validation_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4GEN_DATA", str(tmp_path))
    refused = []
    for name in names.AUDIO_SETS:
        with pytest.raises(UserError) as found:
            open_audio(name, "validation", AudioFormat(8000))
        if "has no validation split" in str(found.value):
            refused.append(name)
    assert tuple(refused) == names.WITHOUT_VALIDATION


def test_every_set_of_images_has_these_splits_and_no_other() -> None:
    for name in ("mnist-mini", "cifar10-mini"):
        assert all(len(open_images(name, split)) for split in names.IMAGE_SET_SPLITS)
        for split in set(names.SPLITS) - set(names.IMAGE_SET_SPLITS):
            with pytest.raises(UserError, match=f"no split called '{split}'"):
                open_images(name, split)


def test_a_mini_set_is_there_without_data_or_network() -> None:
    everything = (*names.IMAGE_SETS, *names.TEXT_SETS, *names.AUDIO_SETS)
    minis = {name for name in everything if name.endswith("-mini")}
    assert set(names.MINI_OF) <= set(everything) and set(names.MINI_OF.values()) == minis
    for name, mini in names.MINI_OF.items():
        assert kind_of(name) == kind_of(mini)
        if kind_of(mini) == "image":
            assert len(open_images(mini, "test"))
        elif kind_of(mini) == "audio":
            assert len(open_audio(mini, "test", AudioFormat(8000)))
        else:
            assert open_corpus(mini, "test").path.is_file()


def test_each_tokeniser_is_made_and_read_back() -> None:
    assert (*names.TOKENIZERS, "numbers") == tuple(kinds.READERS)
    corpus = open_corpus("wikitext-mini", "train")
    for kind in names.TOKENIZERS:
        made = build_tokenizer(kind, corpus, {"word": 300, "bpe": 300, "bytes": None}[kind])
        assert made.kind == from_json(made.to_json()).kind == kind
        assert DataConfig("wikitext-mini", tokenizer=kind, vocab_size=300 if kind == "bpe" else 0).tokenizer == kind


def test_each_engine_is_made_and_no_other() -> None:
    recurrent = convert(model_of("s4d"))
    for name in names.ENGINES:
        assert make_engine(name, recurrent).name in names.ENGINES
    with pytest.raises(UserError, match=f"the engines are {', '.join(names.ENGINES)}"):
        make_engine("steam", recurrent)


def test_precisions_fits_and_formats_are_those_of_recipes(tmp_path: Path) -> None:
    assert [TrainConfig(precision=precision).precision for precision in names.PRECISIONS] == list(names.PRECISIONS)
    Image.fromarray(np.arange(32, dtype=np.uint8).reshape(4, 8)).save(tmp_path / "a.png")
    read = [read_picture(tmp_path / "a.png", ImageFormat(4, 4, 1, fit))[0] for fit in names.FITS]
    assert not np.array_equal(*read)
    for law in LAWS:
        assert AudioFormat(8000, law).quantiser.decode(np.array([128])).tolist() == [0.0]
        assert {DataConfig("fsdd", law=law, normalise=way).law for way in NORMALISATIONS} == {law}


def test_endings_of_files_are_served_by_one_kind_or_refused() -> None:
    written = [suffix for medium in MEDIA.values() for suffix in medium.SUFFIXES]
    assert sorted(written) == sorted({*names.WRITTEN_IMAGES, *names.WRITTEN_TEXTS, *names.WRITTEN_SOUND})
    assert [kind_of_file(medium.SUFFIXES[0]) for medium in MEDIA.values()] == list(names.KINDS)
    assert kind_of_file("") is None
    assert not set(written) & {*names.REFUSED_IMAGES, *names.REFUSED_SOUND}
    assert set(names.WRITTEN_TEXTS) <= set(names.TEXT_SUFFIXES)
    assert set(names.WRITTEN_SOUND) <= set(names.SOUND_SUFFIXES)
    assert all(map(is_sound, (f"A{suffix.upper()}" for suffix in (*names.SOUND_SUFFIXES, *names.UNREADABLE_SOUND))))
    endings = (*names.WRITTEN_IMAGES, *names.REFUSED_IMAGES, *names.UNREADABLE_IMAGES)
    assert all(is_picture(f"a{suffix}") for suffix in endings)
    assert {kind_of(f"a{suffix}") for suffix in names.TEXT_SUFFIXES} == {"text"}


def _strings(path: Path) -> set[tuple[str, ...]]:
    """Return every tuple or list of at least two strings that is written out in a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    groups = [node.elts for node in ast.walk(tree) if isinstance(node, ast.Tuple | ast.List)]
    values = [tuple(e.value for e in group if isinstance(e, ast.Constant)) for group in groups if len(group) > 1]
    return {found for found in values if found and all(isinstance(value, str) for value in found)}


def test_no_module_writes_a_tuple_of_names_out_again() -> None:
    # Two names may stand side by side for another reason, such as the two sets of spoken digits.
    ours = {value for name, value in vars(names).items() if name.isupper() and type(value) is tuple and len(value) > 2}
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "config" / "names.py":
            copies = {found for found in _strings(path) if found in ours}
            assert not copies, f"{path.relative_to(PACKAGE)} has its own {copies}"


def test_the_device_is_chosen_in_one_place() -> None:
    for path in set(PACKAGE.rglob("*.py")) - {PACKAGE / "machine" / "device.py"}:
        assert '"cuda" if' not in path.read_text(encoding="utf-8"), f"{path.relative_to(PACKAGE)} chooses a device"


def test_the_names_need_no_torch() -> None:
    tree = ast.parse((PACKAGE / "config" / "names.py").read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.module for node in imported if isinstance(node, ast.ImportFrom)] == ["__future__"] and len(
        imported
    ) == 1
