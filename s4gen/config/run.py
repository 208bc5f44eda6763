"""The dataclasses of a training run: data, optimiser, loop, and the whole recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass

from s4gen.config.checks import ConfigError, at_least, one_of, positive
from s4gen.config.schema import ModelConfig, SSMConfig, check_pair, only_for_text

IMAGE_SETS = ("mnist", "cifar10", "mnist-mini", "cifar10-mini")
TEXT_SETS = ("wikitext-2", "wikitext-103", "wikitext-mini")
TEXT_SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
TOKENIZERS = ("word", "bpe", "bytes")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    dataset: str = "mnist"
    """Images: mnist, cifar10, or mnist-mini, cifar10-mini, a few hundred of each, inside the package. Text: wikitext-2,
    wikitext-103, wikitext-mini (inside the package), a .txt or .jsonl file, or a folder of them, written with a slash.
    """
    validation: int = 1000
    """Images held out of the end of the training split for the periodic evaluation; 0 = no evaluation. Text has a
    validation split of its own."""
    tokenizer: str = "word"
    """Text only: word (between white space, <eos> for each line's end), bpe (byte pairs) or bytes."""
    vocab_size: int = 0
    """Text only: tokens, <eos> and <unk> included; bpe needs it, and for words 0 is all of them."""

    def __post_init__(self) -> None:
        if not (self.dataset in IMAGE_SETS or is_text(self.dataset)):
            names = ", ".join((*IMAGE_SETS, *TEXT_SETS))
            raise ConfigError(
                "data.dataset", f'= "{self.dataset}": expected one of {names}, or a path to text, such as ./my.txt'
            )
        at_least(0, "data", validation=self.validation)
        one_of(TOKENIZERS, "data.tokenizer", self.tokenizer)
        least, most = {"word": (2, math.inf), "bpe": (257, math.inf), "bytes": (257, 257)}[self.tokenizer]
        if not least <= self.vocab_size <= most and (self.vocab_size or self.tokenizer == "bpe"):
            wanted = f"at least {least}" if most > least else f"{least}"
            raise ConfigError(
                "data.vocab_size", f'= {self.vocab_size}: expected {wanted} for data.tokenizer = "{self.tokenizer}"'
            )


@dataclass(frozen=True)
class OptimConfig:
    """AdamW: linear warm-up, then a cosine to zero."""

    lr: float = 4e-3
    """Peak learning rate of everything but the SSM parameters."""
    ssm_lr: float = 1e-3
    """Peak learning rate of the SSM parameters, which have no weight decay."""
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
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError("optim.weight_decay", f"= {self.weight_decay}: expected a number, at least 0")
        at_least(0, "optim", warmup_steps=self.warmup_steps)
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("optim.ema_decay", f"= {self.ema_decay}: expected at least 0 and less than 1")


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 64
    """Sequences per step; of text, rows that go on from step to step."""
    chunk: int = 256
    """Text only: tokens of each row per step. The state is carried to the next step, gradients are not."""
    accumulate: int = 1
    """Parts of a batch, computed one after another for less memory; the gradient is that of the whole."""
    checkpoint_activations: bool = False
    """Keep of each block its input alone, and compute the rest again for the gradient: less memory, more time."""
    seed: int = 0
    """Of initialisation, order of the data and dropout."""
    precision: str = "fp32"
    """fp32, or bf16: autocast of the projections, with the state space layers in float32 all the same."""
    log_every: int = 10
    """Steps between two lines of the metrics."""
    eval_every: int = 500
    """Steps between two evaluations on held-out images or text."""
    eval_limit: int = 200
    """Held-out images per evaluation, at most; of text, chunks of the validation split."""
    save_every: int = 500
    """Steps between two checkpoints."""
    n_samples: int = 16
    """Images in the grid, or texts, that are sampled at each evaluation; 0 = none."""

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
        at_least(0, "train", n_samples=self.n_samples)


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
        where = f'data.dataset = "{self.data.dataset}"'
        if not is_text(self.data.dataset):
            only_for_text(where, model=self.model, data=self.data, train=self.train)
            return
        if self.data.validation != DataConfig().validation:
            raise ConfigError(
                "data.validation", f"= {self.data.validation} does not go with {where}: text has a validation split"
            )
        if self.model.mixer == "attention" and not self.model.window:
            raise ConfigError("model.window", f"= 0: attention needs a window, such as 512, where {where} is text")


def is_text(dataset: str) -> bool:
    """Whether it is text: a corpus with a name, or a path, which ends as text files do or has a slash."""
    return dataset in TEXT_SETS or dataset.endswith(TEXT_SUFFIXES) or "/" in dataset
