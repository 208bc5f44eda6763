"""Tiny models with random weights, in checkpoints, and files that they can compress."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from engines import model_of, shaken
from tiny_audio import sounding_model

from s4gen.checkpoint import save_checkpoint
from s4gen.config import AudioLayout, DensityConfig, ImageLayout, ModelConfig, SSMConfig, TextLayout
from s4gen.data.images import save_each
from s4gen.data.text import Tokenizer
from s4gen.data.text.bpe import BPETokenizer
from s4gen.data.text.plain import ByteTokenizer, NumberTokenizer, WordTokenizer
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel

WIKI = " \n = Robert = \n \n Robert is an actor , and an actor is <unk> . \n"
"""A text in the form of WikiText, all of whose words are in the vocabulary of `tokenizer_of("word")`."""


def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "bpe":
        return BPETokenizer.train([WIKI * 3], 300)
    return WordTokenizer.build([WIKI]) if kind == "word" else NumberTokenizer(20, 0)


def writing_model(tokenizer: Tokenizer) -> DensityModel:
    torch.manual_seed(0)
    layout = TextLayout(tokenizer.vocab, tokenizer.eos or 0, 64)
    return shaken(build_model(DensityConfig(layout, ModelConfig("s4d", d_model=8, n_layers=1, d_ff=10), SSMConfig(4))))


def image_checkpoint(folder: Path, kind: str = "s4d") -> ImageLayout:
    model = model_of(kind)
    save_checkpoint(folder, model, recipe=None, metrics={}, card="A card")
    assert isinstance(model.config.layout, ImageLayout)
    return model.config.layout


def text_checkpoint(folder: Path, kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    save_checkpoint(folder, writing_model(tokenizer), recipe=None, metrics={}, card="A card", tokenizer=tokenizer)


def sound_checkpoint(folder: Path, classes: tuple[str, ...] = (), bits: int = 5, normalise: str = "none") -> None:
    model = sounding_model("sashimi", classes, bits=bits)
    if normalise != "none":
        layout = AudioLayout(400, bits=bits, classes=classes, normalise=normalise)
        torch.manual_seed(0)
        model = shaken(build_model(DensityConfig(layout, model.config.model, model.config.ssm)))
    save_checkpoint(folder, model, recipe=None, metrics={}, card="A card")


def write_images(layout: ImageLayout, folder: Path, n: int, seed: int = 1) -> list[Path]:
    tokens = torch.randint(0, layout.vocab, (n, layout.length), generator=torch.Generator().manual_seed(seed))
    return save_each(tokens, layout, folder)


def wav_bytes(samples: Sequence[int], depth: int = 16, rate: int = 400, channels: int = 1) -> bytes:
    """What Python's `wave` writes of whole samples with a sign."""
    values, content = np.array(samples, dtype=np.int64), io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(depth // 8)
        file.setframerate(rate)
        size = depth // 8
        shifted = values + 128 if depth == 8 else values
        file.writeframes(b"".join(int(value).to_bytes(size, "little", signed=depth > 8) for value in shifted))
    return content.getvalue()


def noise(n: int, depth: int = 16, seed: int = 0) -> list[int]:
    """Loud and quiet samples, among them the lowest and the highest."""
    rng, full = np.random.default_rng(seed), 1 << (depth - 1)
    loud = rng.integers(-full, full, n)
    quiet = rng.integers(-3, 4, n)
    found = np.where(np.arange(n) % 3 == 0, loud, quiet)
    found[:2] = (-full, full - 1)
    return [int(value) for value in found]
