"""Which command reads which file. Every kind of file that s4gen reads has a row here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fuzz.seeds import PICTURES, SOUNDS

Command = tuple[str, ...]
"""Arguments of s4gen; {seeds} stands for the folder of good files. The first word `resume-generation` is no
command: it stands for `resume.py`, which reads a file that no command reads."""

PICTURED = "images:{seeds}/pictures"
FEW = ("--split", "train", "--limit", "2", "--json")
EVAL_IMAGE: Command = ("eval", "image", "--dataset", PICTURED, *FEW)
DRAW_IMAGE: Command = ("sample", "image", "-o", "out.png", "-n", "1", "--engine", "eager")
DRAW_TEXT = ("--max-tokens", "3", "--engine", "eager", "-o", "out.jsonl")
DRAW_SOUND = ("--seconds", "0.01", "--engine", "eager", "-o", "-")


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


def _checkpoint(name: str, file: str, way: str, *commands: Command, share: float = 1.0, folder: str = "image") -> Kind:
    return Kind(name, (folder,), {f"{folder}/{file}": way}, commands, share=share)


CHECKPOINTS = (
    _checkpoint("config.json", "config.json", "json", ("info", "image", "--json"), EVAL_IMAGE, DRAW_IMAGE, share=2),
    _checkpoint(
        "model.safetensors",
        "model.safetensors",
        "tensors",
        EVAL_IMAGE,
        DRAW_IMAGE,
        ("info", "image", "--json"),
        share=2,
    ),
    _checkpoint("metrics.json", "metrics.json", "json", ("info", "image", "--json")),
    Kind(
        "certificate",
        ("converted",),
        {"converted/certificate.json": "json"},
        (
            ("sample", "converted", "-o", "out.png", "-n", "1", "--engine", "eager"),
            ("eval", "converted", "--mode", "recurrent", "--dataset", PICTURED, *FEW),
        ),
        exact=True,
    ),
    Kind(
        "recurrent.safetensors",
        ("converted",),
        {"converted/recurrent.safetensors": "tensors"},
        (
            ("sample", "converted", "-o", "out.png", "-n", "1", "--engine", "eager"),
            ("eval", "converted", "--mode", "recurrent", "--dataset", PICTURED, *FEW),
        ),
        exact=True,
    ),
    Kind(
        "tokenizer of a model",
        ("text", "words"),
        {"text/tokenizer.json": "json", "words/tokenizer.json": "json"},
        (("sample", "text", "--prompt", "the", *DRAW_TEXT), ("sample", "words", "--prompt", "the", *DRAW_TEXT)),
    ),
    Kind(
        "training.json", ("run",), {"run/checkpoint/training.json": "json"}, (("train", "--resume", "run"),), share=0.7
    ),
    Kind(
        "training.safetensors",
        ("run",),
        {"run/checkpoint/training.safetensors": "tensors"},
        (("train", "--resume", "run"),),
        share=0.7,
    ),
    Kind("metrics.jsonl", ("run",), {"run/metrics.jsonl": "json lines"}, (("train", "--resume", "run"),), share=0.5),
    Kind(
        "recipe of a run",
        ("run",),
        {"run/recipe.toml": "toml", "run/checkpoint/recipe.toml": "toml"},
        (("info", "run/checkpoint", "--json"),),
    ),
    Kind("recipe", ("words.toml",), {"words.toml": "toml"}, (("tokenize", "words.toml", "--json"),)),
    Kind("preset", ("preset.toml",), {"preset.toml": "toml"}, (("info", "preset.toml", "--json"),)),
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
            ("import", "weights.pt", "imported", "--config", "theirs.json", "--json"),
            ("import", "weights.ckpt", "imported", "--config", "theirs.yaml", "--json"),
            ("import", "weights.ckpt", "imported", "--json"),
        ),
    ),
)
MEDIA = (
    *(
        Kind(
            f"picture as prompt: {kind}",
            ("image", f"one.{kind}"),
            {f"one.{kind}": "bytes"},
            ((*DRAW_IMAGE, "--prompt", f"one.{kind}"),),
            share=0.4,
        )
        for kind in PICTURES
    ),
    Kind(
        "folder of pictures",
        ("image", "pictures"),
        {"pictures/*": "bytes"},
        (("eval", "image", "--dataset", "images:pictures", *FEW),),
    ),
    Kind(
        "table of pictures",
        ("image", "pictures-table"),
        {"pictures-table/*": "bytes"},
        (("eval", "image", "--dataset", "images:pictures-table", *FEW),),
    ),
    Kind(
        "MNIST",
        ("image28", "data/mnist"),
        {"data/mnist/MNIST/raw/*": "bytes"},
        (("eval", "image28", "--dataset", "mnist", "--limit", "2", "--json"),),
        share=0.5,
        data=True,
    ),
    *(
        Kind(
            f"sound as prompt: {kind}",
            ("audio", f"one.{kind}"),
            {f"one.{kind}": "bytes"},
            (("sample", "audio", "--prompt", f"one.{kind}", *DRAW_SOUND),),
            share=0.5,
        )
        for kind in SOUNDS
    ),
    Kind(
        "folder of sound",
        ("audio", "sounds"),
        {"sounds/*": "bytes"},
        (("eval", "audio", "--dataset", "audio:sounds", *FEW),),
    ),
    Kind(
        "table of sound",
        ("audio", "sounds-table"),
        {"sounds-table/*": "bytes"},
        (("eval", "audio", "--dataset", "audio:sounds-table", *FEW),),
    ),
    Kind(
        "archive of sound",
        ("audio", "data/youtubemix.zip"),
        {"data/youtubemix.zip": "bytes"},
        (("eval", "audio", "--dataset", "youtubemix", *FEW),),
        data=True,
    ),
    Kind(
        "lists of splits",
        ("audio", "data/sc09"),
        {"data/sc09/*.txt": "lines"},
        (("eval", "audio", "--dataset", "audio:data/sc09", "--limit", "2", "--json"),),
        share=0.5,
    ),
)
TEXTS = (
    Kind(
        "text",
        ("plain.txt",),
        {"plain.txt": "lines"},
        tuple(
            ("tokenize", "--dataset", "plain.txt", "--tokenizer", kind, *size, "--json")
            for kind, size in (("bytes", ()), ("word", ()), ("bpe", ("--vocab-size", "280")))
        ),
    ),
    Kind(
        "text, gzipped",
        ("packed.txt.gz", "packed.jsonl.gz"),
        {"packed.*": "packed"},
        tuple(("tokenize", "--dataset", f"packed.{kind}.gz", "--json") for kind in ("txt", "jsonl")),
    ),
    Kind(
        "records",
        ("records.jsonl",),
        {"records.jsonl": "json lines"},
        (
            ("tokenize", "--dataset", "records.jsonl", "--json"),
            ("tokenize", "--dataset", "records.jsonl", "--tokenizer", "bytes", "--json"),
        ),
    ),
    Kind(
        "text of S4GEN_DATA",
        ("text", "data/wikitext"),
        {"data/wikitext/wikitext-2/*": "packed"},
        (("eval", "text", "--dataset", "wikitext-2", "--limit", "50", "--json"),),
        share=0.5,
        data=True,
    ),
    Kind(
        "prompts",
        ("text", "prompts.txt"),
        {"prompts.txt": "lines"},
        (("sample", "text", "--prompts", "prompts.txt", *DRAW_TEXT),),
    ),
    Kind(
        "prompts, records",
        ("text", "prompts.jsonl"),
        {"prompts.jsonl": "json lines"},
        (("sample", "text", "--prompts", "prompts.jsonl", *DRAW_TEXT),),
    ),
)
TOKENIZE: Command = ("tokenize", "--dataset", "{seeds}/plain.txt", "--tokenizer", "word", "--json")
CACHES = (
    Kind(
        "cache of tokens",
        ("cache", "words"),
        {"cache/tokens/plain-txt-*/tokens": "bytes", "cache/tokens/plain-txt-*/meta.json": "json"},
        (TOKENIZE, ("eval", "words", "--dataset", "{seeds}/plain.txt", "--json")),
        exact=True,
        share=2,
    ),
    Kind("cache of a tokenizer", ("cache",), {"cache/tokens/tokenizers/*": "json"}, (TOKENIZE,), exact=True),
    Kind(
        "half a cache of tokens",
        ("half",),
        {"half/tokens/plain-txt-*/partial": "bytes", "half/tokens/plain-txt-*/progress.json": "json"},
        (TOKENIZE,),
        exact=True,
    ),
    Kind(
        "cache of pictures",
        ("cache", "image"),
        {"cache/images/*/pixels": "bytes", "cache/images/*/index.json": "json"},
        (EVAL_IMAGE,),
        exact=True,
    ),
    Kind(
        "cache of sound",
        ("cache", "audio"),
        {"cache/audio/*/codes": "bytes", "cache/audio/*/index.json": "json"},
        (("eval", "audio", "--dataset", "audio:{seeds}/sounds", *FEW),),
        exact=True,
        settings={"LARGE": 0},
    ),
)
KINDS = (*CHECKPOINTS, *MEDIA, *TEXTS, *CACHES)
