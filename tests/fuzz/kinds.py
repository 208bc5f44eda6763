"""Which command reads which file. Every kind of file that s4gen reads has a row here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fuzz.good import PICTURES, SOUNDS

Command = tuple[str, ...]
"""Arguments of s4gen; {seeds} stands for the folder of good files. The first word `resume-generation` is no
command: it stands for `resume.py`, which reads a file that no command reads."""

JSON: Command = ("--json",)
FEW = ("--split", "train", "--limit", "2", *JSON)
EAGER = ("--engine", "eager")
PICTURED = ("--dataset", "images:{seeds}/pictures", *FEW)
PLAIN = ("--dataset", "{seeds}/plain.txt")
INFO: Command = ("info", "image", *JSON)
EVAL_IMAGE: Command = ("eval", "image", *PICTURED)
EVAL_AUDIO: Command = ("eval", "audio", *FEW, "--dataset")
DRAW_IMAGE: Command = ("sample", "image", "-o", "out.png", "-n", "1", *EAGER)
DRAW_TEXT = ("--max-tokens", "3", "-o", "out.jsonl", *EAGER)
DRAW_SOUND = ("--seconds", "0.01", "-o", "-", *EAGER)
CONVERTED: Sequence[Command] = (
    ("sample", "converted", "-o", "out.png", "-n", "1", *EAGER),
    ("eval", "converted", "--mode", "recurrent", *PICTURED),
)
RESUME: Sequence[Command] = (("train", "--resume", "run"),)
TOKENIZE: Command = ("tokenize", *PLAIN, "--tokenizer", "word", *JSON)


@dataclass(frozen=True)
class Kind:
    """A kind of file, and commands that read it."""

    name: str
    needs: tuple[str, ...]
    """What is copied from the good files into the folder in which the command runs."""
    damaged: Mapping[str, str]
    """Patterns of the files to damage, below that folder, and the way for each: a key of `mutators.MUTATORS`."""
    commands: Sequence[Command]
    exact: bool = False
    """Damage never changes a result, because a checksum finds it: a file that is accepted gives the result of the good
    one."""
    share: float = 1.0
    """How many of these files there are, compared with other kinds."""
    data: bool = False
    """The environment variable S4GEN_DATA names the folder `data`."""
    settings: Mapping[str, int] = field(default_factory=dict)
    """Constants of `s4gen.data.audio.clips` that are other ones meanwhile."""


CHECKPOINTS = (
    Kind("config.json", ("image",), {"image/config.json": "json"}, (INFO, EVAL_IMAGE, DRAW_IMAGE), share=2),
    Kind("model.safetensors", ("image",), {"image/*.safetensors": "tensors"}, (EVAL_IMAGE, DRAW_IMAGE, INFO), share=2),
    Kind("metrics.json", ("image",), {"image/metrics.json": "json"}, (INFO,)),
    Kind("certificate", ("converted",), {"converted/certificate.json": "json"}, CONVERTED, exact=True),
    Kind("constants", ("converted",), {"converted/recurrent.safetensors": "tensors"}, CONVERTED, exact=True),
    Kind(
        "tokenizer of a model",
        ("text", "words"),
        {"text/tokenizer.json": "json", "words/tokenizer.json": "json"},
        tuple(("sample", model, "--prompt", "the", *DRAW_TEXT) for model in ("text", "words")),
    ),
    Kind("training.json", ("run",), {"run/checkpoint/training.json": "json"}, RESUME, share=0.7),
    Kind("training.safetensors", ("run",), {"run/checkpoint/training.*s": "tensors"}, RESUME, share=0.7),
    Kind("metrics.jsonl", ("run",), {"run/metrics.jsonl": "json lines"}, RESUME, share=0.5),
    Kind("recipe of a run", ("run",), {"run/**/recipe.toml": "toml"}, (("info", "run/checkpoint", *JSON), *RESUME)),
    Kind("recipe", ("words.toml",), {"words.toml": "toml"}, (("tokenize", "words.toml", *JSON),)),
    Kind("preset", ("preset.toml",), {"preset.toml": "toml"}, (("info", "preset.toml", *JSON),)),
    Kind(
        "suspended generation",
        ("suspended.safetensors",),
        {"suspended.safetensors": "tensors"},
        (("resume-generation", "{seeds}/image", "suspended.safetensors"),),
        exact=True,
    ),
    Kind(
        "weights to import",
        ("weights.pt", "weights.ckpt", "theirs.json", "theirs.yaml"),
        {"weights.*": "bytes", "theirs.json": "json", "theirs.yaml": "bytes"},
        (
            ("import", "weights.pt", "imported", "--config", "theirs.json", *JSON),
            ("import", "weights.ckpt", "imported", "--config", "theirs.yaml", *JSON),
            ("import", "weights.ckpt", "imported", *JSON),
        ),
    ),
)


def _picture(ending: str) -> Kind:
    name, way = f"one.{ending}", "png" if ending == "png" else "bytes"
    return Kind(f"image: {ending}", ("image", name), {name: way}, ((*DRAW_IMAGE, "--prompt", name),), share=0.4)


def _sound(ending: str) -> Kind:
    name = f"one.{ending}"
    command = ("sample", "audio", "--prompt", name, *DRAW_SOUND)
    return Kind(f"sound: {ending}", ("audio", name), {name: "bytes"}, (command,), share=0.5)


MEDIA = (
    *map(_picture, PICTURES),
    Kind(
        "folder of images",
        ("image", "pictures"),
        {"pictures/*": "bytes", "pictures/*.png": "png"},
        (("eval", "image", "--dataset", "images:pictures", *FEW),),
    ),
    Kind(
        "table of images",
        ("image", "pictures-table"),
        {"pictures-table/*": "table"},
        (("eval", "image", "--dataset", "images:pictures-table", *FEW),),
    ),
    Kind(
        "MNIST",
        ("image28", "data/mnist"),
        {"data/mnist/MNIST/raw/*": "bytes"},
        (("eval", "image28", "--dataset", "mnist", "--limit", "2", *JSON),),
        share=0.5,
        data=True,
    ),
    *map(_sound, SOUNDS),
    Kind("folder of sound", ("audio", "sounds"), {"sounds/*": "bytes"}, ((*EVAL_AUDIO, "audio:sounds"),)),
    Kind(
        "table of sound", ("audio", "sounds-table"), {"sounds-table/*": "table"}, ((*EVAL_AUDIO, "audio:sounds-table"),)
    ),
    Kind(
        "archive of sound",
        ("audio", "data/youtubemix.zip"),
        {"data/youtubemix.zip": "zip"},
        ((*EVAL_AUDIO, "youtubemix"),),
        data=True,
    ),
    Kind(
        "lists of splits",
        ("audio", "data/sc09"),
        {"data/sc09/*.txt": "lines"},
        (("eval", "audio", "--dataset", "audio:data/sc09", "--limit", "2", *JSON),),
        share=0.5,
    ),
)


def _tokenized(name: str, *options: str) -> Command:
    return ("tokenize", "--dataset", name, *options, *JSON)


TEXTS = (
    Kind(
        "text",
        ("plain.txt",),
        {"plain.txt": "lines"},
        (
            _tokenized("plain.txt", "--tokenizer", "bytes"),
            _tokenized("plain.txt"),
            _tokenized("plain.txt", "--tokenizer", "bpe", "--vocab-size", "280"),
        ),
    ),
    Kind(
        "text, gzipped",
        ("packed.txt.gz", "packed.jsonl.gz"),
        {"packed.*": "packed"},
        (_tokenized("packed.txt.gz"), _tokenized("packed.jsonl.gz")),
    ),
    Kind(
        "records",
        ("records.jsonl",),
        {"records.jsonl": "json lines"},
        (_tokenized("records.jsonl"), _tokenized("records.jsonl", "--tokenizer", "bytes")),
    ),
    Kind(
        "WikiText",
        ("text", "data/wikitext"),
        {"data/wikitext/wikitext-2/*": "packed"},
        (("eval", "text", "--dataset", "wikitext-2", "--limit", "50", *JSON),),
        share=0.5,
        data=True,
    ),
    Kind(
        "prompts",
        ("text", "words", "prompts.txt"),
        {"prompts.txt": "lines"},
        tuple(("sample", model, "--prompts", "prompts.txt", *DRAW_TEXT) for model in ("text", "words")),
    ),
    Kind(
        "prompts, records",
        ("text", "words", "prompts.jsonl"),
        {"prompts.jsonl": "json lines"},
        tuple(("sample", model, "--prompts", "prompts.jsonl", *DRAW_TEXT) for model in ("text", "words")),
    ),
)
CACHES = (
    Kind(
        "cache of tokens",
        ("cache", "words"),
        {"cache/tokens/plain-txt-*/tokens": "bytes", "cache/tokens/plain-txt-*/meta.json": "json"},
        (TOKENIZE, ("eval", "words", *PLAIN, *JSON)),
        exact=True,
        share=2,
    ),
    Kind("cache of tokenizers", ("cache",), {"cache/tokens/tokenizers/*": "json"}, (TOKENIZE,), exact=True),
    Kind(
        "cache of tokens, half",
        ("half",),
        {"half/tokens/plain-txt-*/partial": "bytes", "half/tokens/plain-txt-*/progress.json": "json"},
        (TOKENIZE,),
        exact=True,
    ),
    Kind(
        "cache of images",
        ("cache", "image"),
        {"cache/images/*/pixels": "bytes", "cache/images/*/index.json": "json"},
        (EVAL_IMAGE,),
        exact=True,
    ),
    Kind(
        "cache of sound",
        ("cache", "audio"),
        {"cache/audio/*/codes": "bytes", "cache/audio/*/index.json": "json"},
        ((*EVAL_AUDIO, "audio:{seeds}/sounds"),),
        exact=True,
        settings={"LARGE": 0},
    ),
    Kind(
        "cache of prompts",
        ("prompts", "text"),
        {"prompts/*.state": "tensors"},
        (("sample", "text", "--prompt", "the cat sat", "--prompt-cache", "prompts", *DRAW_TEXT),),
        exact=True,
    ),
)
COMPRESSED = Kind(
    "compressed file",
    ("image", "text", "audio", "image.s4z", "text.s4z", "audio.s4z"),
    {"*.s4z": "compressed"},
    tuple(("decompress", model, f"{model}.s4z", "-o", "back", *JSON) for model in ("image", "text", "audio")),
    share=2,
)
KINDS = (*CHECKPOINTS, *MEDIA, *TEXTS, *CACHES, COMPRESSED)
