"""The dataclasses of a training run: its data, its optimiser, its loop, and the recipe that holds them all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from s4gen.config.checks import ConfigError, at_least, one_of, positive
from s4gen.config.combinations import check_pair, check_window, refuse_foreign
from s4gen.config.layouts import check_sound
from s4gen.config.names import (
    AUDIO_PREFIX,
    AUDIO_SETS,
    FITS,
    IMAGE_PREFIX,
    IMAGE_SETS,
    PRECISIONS,
    TEXT_SETS,
    TEXT_SUFFIXES,
    TOKENIZERS,
)
from s4gen.config.schema import ModelConfig, SSMConfig


@dataclass(frozen=True)
class DataConfig:
    """The data to train on."""

    dataset: str = "mnist"
    """Name or place of the data set. A name that ends in -mini is a small set inside the package.

    - Images: mnist, cifar10, mnist-mini, cifar10-mini; or images:PLACE, where PLACE is a folder of pictures or of
      Parquet files, a Parquet file, or OWNER/NAME on the Hugging Face hub.
    - Text: wikitext-2, wikitext-103, wikitext-mini; or a .txt, .md or .jsonl file, or a folder of them, whose name must
      be written with a slash.
    - Audio: fsdd, fsdd-mini, sc09, youtubemix, beethoven; or audio:FOLDER, a folder of recordings.
    """
    validation: int = 1000
    """How many images or clips are held out of the training split for the periodic evaluation; 0 means no evaluation.
    Folders of images, and audio other than fsdd, have a validation split of their own, of which this is the most that
    is used. Text has one, too; 0 leaves its evaluation out, and no other number is allowed."""
    tokenizer: str = "word"
    """Text only: the tokeniser. word splits at white space and has <eos> for the end of each line; bpe merges pairs of
    bytes; bytes has a token for each byte."""
    vocab_size: int = 0
    """Text only: how many tokens there are, <eos> and <unk> included. bpe needs it; for word, 0 takes all words."""
    rate: int = 0
    """Audio only: samples per second. 0 takes the rate of the set, and 16000 for a folder."""
    law: str = ""
    """Audio only: mu-law or linear. Empty takes the law of the set, and mu-law for a folder."""
    bits: int = 8
    """Audio only: bits of the code of a sample."""
    normalise: str = ""
    """Audio only: how each recording is scaled: none, peak or minmax. Empty takes that of the set, and none for a
    folder. Bits per sample can be compared only between models with the same scaling."""
    labels: bool = False
    """Images and audio: whether the model is conditional on the class of an image or a clip."""
    crop: float = 0.0
    """Audio only: seconds of a training sequence, which is cut at random from a clip. 0 takes that of the set, or whole
    clips."""
    tail: float = 0.0
    """Audio only: seconds of silence behind every training clip. From them the model learns to end a clip by itself."""
    min_seconds: float = 0.0
    """Audio only: recordings shorter than this are left out."""
    max_seconds: float = 0.0
    """Audio only: recordings longer than this are left out; 0 leaves none out."""
    flips: bool = False
    """Images only: mirror half of the training images, chosen at random, left to right."""
    size: int = 0
    """With images:PLACE only: every image is brought to this many rows and columns. 0 leaves images as they are; then
    all must be of one size."""
    channels: int = 0
    """With images:PLACE only: 1 for grey, 3 for red, green and blue. 0 takes 3 if any image has a colour, else 1."""
    fit: str = "crop"
    """With images:PLACE and a size only. crop scales an image until its shorter side fits, and takes the middle of the
    longer one; stretch scales each side by itself."""

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
    """The optimiser: AdamW, and Muon if it is asked for. Rates rise linearly, then follow a cosine down to zero."""

    lr: float = 4e-3
    """Peak learning rate of everything but the SSM parameters."""
    ssm_lr: float = 1e-3
    """Peak learning rate of the SSM parameters, which have no weight decay."""
    muon_lr: float = 0.0
    """Peak learning rate of Muon, for the matrices inside the blocks; with 0, AdamW trains them, too."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the matrices."""
    warmup_steps: int = 200
    """Steps in which the learning rates rise linearly."""
    grad_clip: float = 1.0
    """A gradient whose norm, over all parameters, is larger than this is scaled down to it."""
    ema_decay: float = 0.999
    """Decay per step of the running mean of the weights, which is the model that is evaluated and saved. 0 keeps no
    mean, and takes the weights themselves."""

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
    """The training loop."""

    steps: int = 1000
    """Optimiser steps."""
    minutes: float | None = None
    """Minutes of training, without evaluations. If given, the number of steps is found from the measured speed of the
    machine when the run begins, and is then fixed and recorded with the run; `steps` does not count."""
    batch_size: int = 64
    """Sequences per step. For text, rows of a text that go on from step to step."""
    chunk: int = 256
    """Text only: tokens of each row per step. The state is carried on to the next step; gradients are not."""
    accumulate: int = 1
    """Into how many parts a batch is cut. They are computed one after another, which takes less memory; the gradient is
    that of the whole batch."""
    checkpoint_activations: bool = False
    """Keep only the input of each block, and compute the rest again for the gradient. This takes less memory and more
    time."""
    shard: bool = False
    """If torchrun starts several ranks, each keeps only a part of every parameter, its gradient and the optimiser's
    memory. This is for models that do not fit into one rank: it takes more messages and less memory. A single process
    keeps everything in any case."""
    seed: int = 0
    """Seed of the initial weights, of the order of the data and of dropout."""
    precision: str = "auto"
    """fp32, or bf16, which is autocast for the projections while state space layers stay in float32. auto takes bf16 if
    the machine multiplies it faster, else fp32; this is decided and recorded when the run begins."""
    compile: bool = False
    """Compile the blocks with torch.compile, which is meant for a GPU. On one CPU core nothing was gained: compiling
    took 28 to 55 s, and then a step of cifar10-small took 0.20 to 0.24 s, against 0.19 s without."""
    log_every: int = 10
    """Steps between two lines of the metrics."""
    eval_every: int = 500
    """Steps between two evaluations on held-out data."""
    eval_limit: int = 200
    """The most held-out images or clips, or for text chunks of the validation split, that an evaluation reads."""
    save_every: int = 500
    """Steps between two checkpoints."""
    patience: int = 0
    """Stop early after this many evaluations in a row without a new best on held-out data. The best model, which is the
    running mean at that step, is kept as a checkpoint in RUN/best. 0 never stops early, and keeps no best model."""
    n_samples: int = 16
    """Images in the grid, or texts, or clips, that are sampled at each evaluation; 0 samples none."""

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
    """A whole training run, which is one TOML file with a section for each field."""

    model: ModelConfig
    ssm: SSMConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        check_pair(self.model, self.ssm)
        where, kind = f'data.dataset = "{self.data.dataset}"', kind_of(self.data.dataset)
        data = self.data
        # The number of held-out sequences means nothing for text, but 0, no evaluation, is allowed with any data.
        if kind == "text" and not data.validation:
            data = replace(data, validation=DataConfig.validation)
        refuse_foreign(kind, where, model=self.model, data=data, train=self.train)
        check_window(kind, self.model, where)
        if self.train.patience and kind != "text" and not self.data.validation:
            raise ConfigError(
                "train.patience",
                f"= {self.train.patience} needs held-out data, and data.validation = 0: hold some out, or leave it out",
            )


def _is_own(dataset: str) -> bool:
    """Return whether the data set is the user's own images, images:PLACE."""
    return dataset.startswith(IMAGE_PREFIX)


def kind_of(dataset: str) -> str:
    """Return the kind of a data set: image, text or audio.

    Text is a named corpus, or a path, which is known by the ending of a text file or by a slash.
    """
    if dataset in AUDIO_SETS or dataset.startswith(AUDIO_PREFIX):
        return "audio"
    if _is_own(dataset):
        return "image"
    return "text" if dataset in TEXT_SETS or dataset.lower().endswith(TEXT_SUFFIXES) or "/" in dataset else "image"


def is_text(dataset: str) -> bool:
    """Return whether a data set is text."""
    return kind_of(dataset) == "text"
