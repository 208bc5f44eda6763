"""The dataclasses of a training run: its optimiser, its loop, and the recipe that holds all sections."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace

from s4gen.config.checks import ConfigError, at_least, one_of, positive
from s4gen.config.combinations import (
    check_data_of_task,
    check_pair,
    check_pixels,
    check_window,
    key_of_rows,
    refuse_foreign,
)
from s4gen.config.data import DataConfig, kind_of
from s4gen.config.names import PRECISIONS
from s4gen.config.predictor import check_predictor
from s4gen.config.schema import ModelConfig, SSMConfig
from s4gen.config.task import TaskConfig


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
    """Density models only: images in the grid, or texts, or clips, that are sampled at each evaluation; 0 samples
    none."""
    start: str = ""
    """A checkpoint whose weights the run begins from, as with --start, which wins over it. Empty begins from random
    weights. What fits neither in name nor in shape is listed and initialised anew."""

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
    task: TaskConfig = field(default_factory=TaskConfig)

    def __post_init__(self) -> None:
        check_pair(self.model, self.ssm)
        where, kind, task = f'data.dataset = "{self.data.dataset}"', kind_of(self.data.dataset), self.task.kind
        check_data_of_task(task, self.data.dataset)
        data = self.data
        # The number of held-out sequences means nothing for text, but 0, no evaluation, is allowed with any data.
        if kind == "text" and not data.validation:
            data = replace(data, validation=DataConfig.validation)
        train = self.train
        if not train.n_samples:  # likewise, nothing drawn is allowed with any task
            train = replace(train, n_samples=TrainConfig.n_samples)
        sections = {"model": self.model, "data": data, "train": train, "task": self.task}
        refuse_foreign(kind, where, task, self.data.dataset, **sections)
        if task == "density":
            check_window(kind, self.model, where)
            check_pixels(self.model)
        else:
            check_predictor(self.task, self.model, kind, where)
            self._check_batch_norm()
            self._check_order()
        if self.train.patience and kind != "text" and not self.data.validation:
            raise ConfigError(
                "train.patience",
                f"= {self.train.patience} needs held-out data, and data.validation = 0: hold some out, or leave it out",
            )

    def _check_order(self) -> None:
        """Raise ConfigError for layers that know rows and columns of images whose pixels are read in a random order."""
        key = key_of_rows(self.model)
        if key and self.data.permuted:
            raise ConfigError(
                key,
                "does not go with data.permuted = true, by which no pixel has its neighbours: leave one out",
            )

    def _check_batch_norm(self) -> None:
        """Raise ConfigError for settings under which the statistics of a batch norm would not be those of the batch."""
        if not self.model.batch_norm:
            return
        for key, wanted, why in (
            ("optim.ema_decay", 0.0, "running statistics belong to the last weights, not to a mean of weights"),
            ("train.accumulate", 1, "each part of a batch would be normalised by itself"),
            ("train.checkpoint_activations", False, "blocks that run twice would count a batch twice"),
        ):
            section, _, name = key.partition(".")
            value = getattr(getattr(self, section), name)
            if value != wanted:
                raise ConfigError(
                    key,
                    f"= {json.dumps(value)} does not go with model.batch_norm = true, because {why}: set it to "
                    f"{json.dumps(wanted)}",
                )
