"""The dataclasses of a training run: data, optimiser, loop, and the whole recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from s4gen.config.checks import ConfigError, at_least, one_of, positive
from s4gen.config.layouts import check_sound
from s4gen.config.schema import ModelConfig, SSMConfig, check_pair, check_window, refuse_foreign

IMAGE_SETS = ("mnist", "cifar10", "mnist-mini", "cifar10-mini")
TEXT_SETS = ("wikitext-2", "wikitext-103", "wikitext-mini")
TEXT_SUFFIXES = tuple(f"{suffix}{packed}" for packed in ("", ".gz") for suffix in (".txt", ".jsonl", ".md", ".text"))
"""A path with one of these endings, in capitals or not, is a file of text."""
AUDIO_SETS = ("fsdd", "fsdd-mini", "sc09", "youtubemix", "beethoven")
AUDIO_PREFIX = "audio:"
IMAGE_PREFIX = "images:"
FITS = ("crop", "stretch")
UNSPLIT = ("fsdd", "fsdd-mini")
"""Sets of audio without a validation split."""
TOKENIZERS = ("word", "bpe", "bytes")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    dataset: str = "mnist"
    """Images: mnist, cifar10, or mnist-mini, cifar10-mini, a few hundred of each, inside the package; or images:PLACE,
    a folder of pictures or of Parquet files, a Parquet file, or OWNER/NAME of the Hugging Face hub. Text: wikitext-2,
    wikitext-103, wikitext-mini (inside the package), a .txt, .md or .jsonl file, or a folder of them, written with a
    slash. Audio: fsdd, fsdd-mini (inside the package), sc09, youtubemix, beethoven, or audio:FOLDER, of recordings.
    """
    validation: int = 1000
    """Images or clips held out of the training split for the periodic evaluation; 0 = no evaluation. Folders of images
    and audio other than fsdd have a validation split of their own: of that, so many at most. Text has one, too, which
    0 leaves out; no other number goes with text."""
    tokenizer: str = "word"
    """Text only: word (between white space, <eos> for each line's end), bpe (byte pairs) or bytes."""
    vocab_size: int = 0
    """Text only: tokens, <eos> and <unk> included; bpe needs it, and for words 0 is all of them."""
    rate: int = 0
    """Audio only: samples per second; 0: that of the set, and 16000 for a folder."""
    law: str = ""
    """Audio only: mu-law or linear; empty: that of the set, and mu-law for a folder."""
    bits: int = 8
    """Audio only: of a sample."""
    normalise: str = ""
    """Audio only: none, peak or minmax, what happens to each recording; empty: that of the set, and none for a folder.
    Bits per sample are comparable between equal ones only."""
    labels: bool = False
    """Images and audio: the model is conditional on the class of an image or a clip."""
    crop: float = 0.0
    """Audio only: seconds of a training sequence, at random from each clip; 0: that of the set, or whole clips."""
    tail: float = 0.0
    """Audio only: seconds of silence behind every training clip, which the model learns: it makes an end by itself."""
    min_seconds: float = 0.0
    """Audio only: shorter recordings are left out."""
    max_seconds: float = 0.0
    """Audio only: longer recordings are left out; 0: none."""
    flips: bool = False
    """Images only: half of the training images, by chance, are read mirrored, left and right exchanged."""
    size: int = 0
    """With images:PLACE only: rows and columns that every image is brought to; 0: as they are, all of one size."""
    channels: int = 0
    """With images:PLACE only: 1 grey, 3 red, green and blue; 0: 3 where one image has a colour."""
    fit: str = "crop"
    """With images:PLACE only, and a size. crop: an image is scaled until its shorter side fits, and of the longer one
    the middle is taken; stretch: it is scaled along both sides."""

    def __post_init__(self) -> None:
        if self.dataset not in IMAGE_SETS and kind_of(self.dataset) == "image" and not _is_own(self.dataset):
            names = ", ".join((*IMAGE_SETS, *TEXT_SETS, *AUDIO_SETS))
            raise ConfigError(
                "data.dataset",
                f'= "{self.dataset}": expected one of {names}, a path to text, such as ./my.txt, images:FOLDER or '
                "audio:FOLDER",
            )
        self._check_images()
        at_least(0, "data", validation=self.validation)
        one_of(TOKENIZERS, "data.tokenizer", self.tokenizer)
        least, most = {"word": (2, math.inf), "bpe": (257, math.inf), "bytes": (257, 257)}[self.tokenizer]
        if not least <= self.vocab_size <= most and (self.vocab_size or self.tokenizer == "bpe"):
            wanted = f"at least {least}" if most > least else f"{least}"
            raise ConfigError(
                "data.vocab_size", f'= {self.vocab_size}: expected {wanted} for data.tokenizer = "{self.tokenizer}"'
            )
        self._check_audio()

    def _check_images(self) -> None:
        if not self.dataset.isprintable() and any("\ud800" <= character <= "\udfff" for character in self.dataset):
            raise ConfigError(
                "data.dataset", f"= {self.dataset!a} is not valid Unicode: rename it, or set LC_ALL=C.UTF-8"
            )
        at_least(0, "data", size=self.size)
        if self.channels not in (0, 1, 3):
            raise ConfigError("data.channels", f"= {self.channels}: expected 1 (grey), 3 (red, green, blue) or 0")
        one_of(FITS, "data.fit", self.fit)
        if _is_own(self.dataset):
            return
        for key, default in (("size", 0), ("channels", 0), ("fit", "crop")):
            if self.dataset in IMAGE_SETS and getattr(self, key) != default:
                raise ConfigError(f"data.{key}", f"goes with images:PLACE, not with {self.dataset}: leave it out")

    def _check_audio(self) -> None:
        check_sound("data", self.rate or 16_000, self.law or "mu-law", self.bits, self.normalise or "none")
        for key in ("crop", "tail", "min_seconds", "max_seconds"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"data.{key}", f"= {getattr(self, key)}: expected a number of seconds, at least 0")
        if 0 < self.max_seconds < self.min_seconds:
            raise ConfigError("data.max_seconds", f"= {self.max_seconds}: expected at least {self.min_seconds}, or 0")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, and Muon where it is asked for: linear warm-up, then a cosine to zero."""

    lr: float = 4e-3
    """Peak learning rate of everything but the SSM parameters."""
    ssm_lr: float = 1e-3
    """Peak learning rate of the SSM parameters, which have no weight decay."""
    muon_lr: float = 0.0
    """Peak learning rate of Muon for the matrices inside the blocks; 0: AdamW has them, too."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the matrices."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    ema_decay: float = 0.999
    """Per step, of the running mean of the weights, which is what is evaluated and saved; 0 = none."""

    def __post_init__(self) -> None:
        positive("optim", lr=self.lr, ssm_lr=self.ssm_lr, grad_clip=self.grad_clip)
        for key in ("weight_decay", "muon_lr"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"optim.{key}", f"= {getattr(self, key)}: expected a number, at least 0")
        at_least(0, "optim", warmup_steps=self.warmup_steps)
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("optim.ema_decay", f"= {self.ema_decay}: expected at least 0 and less than 1")


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: int = 1000
    """Optimiser steps."""
    minutes: float | None = None
    """Time for training, evaluations apart. Where it is given, `steps` is found from the measured speed of the machine
    when the run begins, and is then fixed and recorded with the run."""
    batch_size: int = 64
    """Sequences per step; of text, rows that go on from step to step."""
    chunk: int = 256
    """Text only: tokens of each row per step. The state is carried to the next step, gradients are not."""
    accumulate: int = 1
    """Parts of a batch, computed one after another for less memory; the gradient is that of the whole."""
    checkpoint_activations: bool = False
    """Keep of each block its input alone, and compute the rest again for the gradient: less memory, more time."""
    shard: bool = False
    """Started by torchrun: every rank keeps a part of each parameter, of its gradient and of what the optimiser
    remembers, for models that do not fit into one; more messages, less memory. One process keeps all in any case."""
    seed: int = 0
    """Of initialisation, order of the data and dropout."""
    precision: str = "auto"
    """fp32, or bf16: autocast of the projections, with the state space layers in float32 all the same. auto is bf16
    where the machine multiplies it faster, else fp32; that is decided, and recorded, when the run begins."""
    compile: bool = False
    """Compile the blocks with torch.compile, which is meant for a GPU. On one CPU core it gained nothing: compiling
    took 28 to 55 s, and a step of cifar10-small then 0.20 to 0.24 s against 0.19 s without."""
    log_every: int = 10
    """Steps between two lines of the metrics."""
    eval_every: int = 500
    """Steps between two evaluations on held-out data."""
    eval_limit: int = 200
    """Held-out images or clips per evaluation, at most; of text, chunks of the validation split."""
    save_every: int = 500
    """Steps between two checkpoints."""
    patience: int = 0
    """Stop early after so many evaluations in a row without a new best on held-out data. The best model, which is the
    running mean of that step, is kept as a checkpoint in RUN/best. 0: never stop early, and keep no best model."""
    n_samples: int = 16
    """Images in the grid, or texts, or clips, that are sampled at each evaluation; 0 = none."""

    def __post_init__(self) -> None:
        at_least(1, "train", steps=self.steps, batch_size=self.batch_size, chunk=self.chunk)
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise ConfigError(
                "train.accumulate", f"= {self.accumulate}: expected a divisor of train.batch_size = {self.batch_size}"
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError("train.seed", f"= {self.seed}: expected 0 to {2**32 - 1}")
        one_of(PRECISIONS, "train.precision", self.precision)
        at_least(1, "train", log_every=self.log_every, eval_every=self.eval_every)
        at_least(1, "train", eval_limit=self.eval_limit, save_every=self.save_every)
        at_least(0, "train", n_samples=self.n_samples, patience=self.patience)
        if self.minutes is not None:
            positive("train", minutes=self.minutes)


@dataclass(frozen=True)
class Recipe:
    """A whole training run; one TOML file, one section per field."""

    model: ModelConfig
    ssm: SSMConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        check_pair(self.model, self.ssm)
        where, kind = f'data.dataset = "{self.data.dataset}"', kind_of(self.data.dataset)
        data = self.data
        if kind == "text" and not data.validation:  # no evaluation, which goes with any data
            data = replace(data, validation=DataConfig.validation)
        refuse_foreign(kind, where, model=self.model, data=data, train=self.train)
        check_window(kind, self.model, where)
        if self.train.patience and kind != "text" and not self.data.validation:
            raise ConfigError(
                "train.patience",
                f"= {self.train.patience} needs held-out data, and data.validation = 0: hold some out, or leave it out",
            )


def _is_own(dataset: str) -> bool:
    """Whether it is somebody's own images."""
    return dataset.startswith(IMAGE_PREFIX)


def kind_of(dataset: str) -> str:
    """image, text or audio. Text is a corpus with a name, or a path, which ends as text files do or has a slash."""
    if dataset in AUDIO_SETS or dataset.startswith(AUDIO_PREFIX):
        return "audio"
    if _is_own(dataset):
        return "image"
    return "text" if dataset in TEXT_SETS or dataset.lower().endswith(TEXT_SUFFIXES) or "/" in dataset else "image"


def is_text(dataset: str) -> bool:
    """Whether it is text."""
    return kind_of(dataset) == "text"
