"""Good files of every kind, made once by the program itself, in a folder of which every damaged file gets a copy."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from fuzz.good import PICTURES, RATE, SOUNDS, odd_pictures, picture_bytes, sound_bytes, table_bytes, text
from s4gen.checkpoint import save_checkpoint
from s4gen.cli import main
from s4gen.config import AudioLayout, DensityConfig, ImageLayout, Layout, ModelConfig, SSMConfig
from s4gen.data.text import ByteTokenizer, Tokenizer, WordTokenizer, layout_of, open_split, prepare_tokenizer
from s4gen.models.build import build_model


def run(*arguments: str | Path) -> None:
    """Run a command that must succeed."""
    code = main([str(argument) for argument in arguments])
    assert code == 0, (arguments, code)


def checkpoint(path: Path, layout: Layout, tokenizer: Tokenizer | None = None) -> None:
    torch.manual_seed(0)
    config = DensityConfig(layout, ModelConfig("s4d", d_model=4, n_layers=1, d_ff=4), SSMConfig(d_state=4))
    metrics = {"test": {"bits_per_dim": 7.5, "n_images": 100}, "steps": 10}
    save_checkpoint(path, build_model(config), recipe=None, metrics=metrics, card="A card", tokenizer=tokenizer)


def make_images(root: Path) -> None:
    checkpoint(root / "image", ImageLayout(4, 4, 1))
    checkpoint(root / "image28", ImageLayout(28, 28, 1))
    run("convert", root / "image", root / "converted", "--dataset", f"images:{root / 'pictures'}")
    for kind in PICTURES:
        (root / f"one.{kind}").write_bytes(picture_bytes(kind))
    raw = root / "data" / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.array([0x803, 10_000, 28, 28], ">i4").tobytes() + bytes(10_000 * 784)
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, mtime=0))
    labels = np.array([0x801, 10_000], ">i4").tobytes() + bytes(10_000)
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, mtime=0))


def make_tables(root: Path) -> None:
    for name, table in (
        ("pictures", table_bytes("image", picture_bytes, "png")),
        ("sounds", table_bytes("audio", sound_bytes, "wav")),
    ):
        (root / f"{name}-table").mkdir()
        (root / f"{name}-table" / "train-all.parquet").write_bytes(table)


def make_sounds(root: Path) -> None:
    checkpoint(root / "audio", AudioLayout(RATE, bits=4))
    for kind in SOUNDS:
        (root / f"one.{kind}").write_bytes(sound_bytes(kind))
    with zipfile.ZipFile(root / "data" / "youtubemix.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(20):
            archive.writestr(f"youtubemix/{i}.wav", sound_bytes("wav", i))
    listed = root / "data" / "sc09"
    for i in range(4):
        folder = listed / ("zero" if i % 2 else "one")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.wav").write_bytes(sound_bytes("wav", i))
    (listed / "validation_list.txt").write_text("one/0.wav\n")
    (listed / "testing_list.txt").write_text("zero/1.wav\none/2.wav\n")


def make_texts(root: Path) -> None:
    checkpoint(root / "text", layout_of(ByteTokenizer()), ByteTokenizer())
    words = WordTokenizer.build([text()])
    checkpoint(root / "words", layout_of(words), words)
    (root / "plain.txt").write_text(text())
    with gzip.open(root / "packed.txt.gz", "wb") as file:
        file.write(text().encode())
    records = "".join(
        json.dumps({"text": line, "prompt": line[:9], "id": i}) + "\n" for i, line in enumerate(text().splitlines())
    )
    (root / "records.jsonl").write_text(records)
    with gzip.open(root / "packed.jsonl.gz", "wb") as file:
        file.write(records.encode())
    (root / "prompts.txt").write_text("the cat\nsat on\n")
    (root / "prompts.jsonl").write_text('{"prompt": "the cat"}\n{"text": "sat", "n": 3}\n')
    wiki = root / "data" / "wikitext" / "wikitext-2"
    wiki.mkdir(parents=True)
    with gzip.open(wiki / "wiki.test.tokens.gz", "wb") as file:
        file.write(text().encode())


RECIPE = """[model]
mixer = "s4d"
d_model = 4
n_layers = 1
d_ff = 0
dropout = 0.1

[ssm]
d_state = 4
dt_min = 0.001

[data]
{data}

[optim]
lr = 1e-3
warmup_steps = 1
muon_lr = 0.0

[train]
steps = 2
batch_size = 2
precision = "fp32"
log_every = 1
eval_every = 2
eval_limit = 2
save_every = 1
n_samples = 0
"""


def make_runs(root: Path) -> None:
    recipe = RECIPE.replace("{data}", f'dataset = "images:{root / "pictures"}"\nvalidation = 1\nflips = true')
    (root / "recipe.toml").write_text(recipe)
    run("train", root / "recipe.toml", "--out", root / "run", "--set", "train.steps=2")
    words = RECIPE.replace("{data}", f'dataset = "{root / "plain.txt"}"\ntokenizer = "bytes"')
    (root / "words.toml").write_text(words)
    layout = '\n[layout]\nkind = "image"\nheight = 4\nwidth = 4\nchannels = 1\n'
    (root / "preset.toml").write_text(RECIPE.partition("[data]")[0].replace("dropout = 0.1\n", "") + layout)


def make_generation(root: Path) -> None:
    from s4gen.sampling.converted import load_recurrent
    from s4gen.sampling.generation import Generation

    recurrent = load_recurrent(root / "image")
    generation = Generation.start(recurrent, 2, seed=1)
    for _ in generation.chunks(5):
        pass
    generation.save(root / "suspended.safetensors")


def make_compressed(root: Path) -> None:
    (root / "short.txt").write_text(text(2))
    files = {"image": root / "pictures" / "0.png", "text": root / "short.txt", "audio": root / "sounds" / "0.wav"}
    for model, file in files.items():
        run("compress", root / model, file, "-o", root / f"{model}.s4z", "--engine", "eager")


def make_imports(root: Path) -> None:
    from theirs import Theirs

    theirs = Theirs(kind="s4d", n_ssm=0, d_model=4, n_layers=1)
    torch.save(theirs.tensors, root / "weights.pt")
    torch.save({"state_dict": theirs.tensors, "hyper_parameters": theirs.config()}, root / "weights.ckpt")
    (root / "theirs.json").write_text(json.dumps({"config": theirs.config()}))
    (root / "theirs.yaml").write_text(json.dumps({"config": theirs.config()}, indent=1))


def make(root: Path) -> None:
    """Make all good files below a folder, each by what makes it in earnest."""
    os.environ["S4GEN_CACHE"] = str(root / "cache")
    (root / "pictures").mkdir(parents=True)
    (root / "sounds").mkdir()
    for i in range(6):
        (root / "pictures" / f"{i}.png").write_bytes(picture_bytes("png", i))
        (root / "sounds" / f"{i}.wav").write_bytes(sound_bytes("wav", i))
    odd_pictures(root / "pictures")
    makers: tuple[Callable[[Path], None], ...] = (
        *(
            make_images,
            make_sounds,
            make_tables,
            make_texts,
            make_runs,
            make_generation,
            make_compressed,
            make_imports,
            make_caches,
        ),
    )
    for maker in makers:
        maker(root)


def make_caches(root: Path) -> None:
    """Fill the cache by commands; and in `half`, half a cache of tokens, as a killed command leaves it."""
    from s4gen.data.audio import clips

    few = ("--split", "train", "--limit", "2", "--json")
    run("tokenize", "--dataset", root / "plain.txt", "--tokenizer", "word", "--json")
    run("eval", root / "words", "--dataset", root / "plain.txt", "--json")
    run("eval", root / "image", "--dataset", f"images:{root / 'pictures'}", *few)
    prompt = ("--prompt", "the cat sat", "--prompt-cache", root / "prompts")
    run("sample", root / "text", *prompt, "--engine", "eager", "--max-tokens", "3", "-o", root / "of-the-cache.txt")
    with mock.patch.object(clips, "LARGE", 0):
        run("eval", root / "audio", "--dataset", f"audio:{root / 'sounds'}", *few)
    os.environ["S4GEN_CACHE"] = str(root / "half")
    with contextlib.suppress(_KilledError):
        _prepare_half(root)


class _KilledError(Exception):
    """Ends a preparation in the middle."""


def _prepare_half(root: Path) -> None:
    """Prepare tokens until the second note of how far it is."""
    from s4gen.data.text import reading, token_file

    save, saved = token_file._save, []

    def killed(*given: Any) -> None:
        save(*given)
        saved.append(1)
        if len(saved) == 2:
            raise _KilledError

    small = mock.patch.multiple(reading, BLOCK=200), mock.patch.multiple(token_file, SAVE_EVERY=1, _save=killed)
    with small[0], small[1]:
        dataset = str(root / "plain.txt")
        open_split(dataset, "train", prepare_tokenizer(dataset, "word", progress=False), progress=False)


def make_quietly(root: Path) -> None:
    """Make all good files without a word, unless something goes wrong."""
    root.mkdir(parents=True)
    log = os.open(root / "log", os.O_RDWR | os.O_CREAT)
    kept = os.dup(2)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        make(root)
    except BaseException:
        os.write(kept, (root / "log").read_bytes())
        os.write(kept, traceback.format_exc().encode())
        os._exit(1)
