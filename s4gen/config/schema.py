"""The dataclasses. Each checks its ranges when it is made; `check_pair` checks across two sections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from s4gen.errors import UserError

MIXERS = ("s4d", "s4", "dss", "lssl", "attention")
_DIAGONAL_INITS = ("legs", "lin", "inv", "inv2", "quad", "real", "random")
INITS_OF = {
    "s4d": _DIAGONAL_INITS,
    "s4": ("legs", "legt", "lagt", "fourier"),
    "dss": _DIAGONAL_INITS,
    "lssl": ("legs",),
}
INITS = tuple(dict.fromkeys(init for inits in INITS_OF.values() for init in inits))
DISCRETIZATIONS = ("auto", "zoh", "bilinear")
DECAYS = ("exp", "softplus", "relu")
DT_TRANSFORMS = ("exp", "softplus")
DATASETS = ("mnist", "cifar10", "mnist-mini", "cifar10-mini")
PRECISIONS = ("fp32", "bf16")


class ConfigError(UserError):
    """A value that cannot be. By `key`, its dotted name, a loader finds where the value came from."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {problem}")
        self.key = key


@dataclass(frozen=True)
class ImageLayout:
    """Images of one size as sequences: rows from the top, pixels from the left, channels interleaved."""

    kind: ClassVar[str] = "image"

    height: int
    """Rows."""
    width: int
    """Pixels per row."""
    channels: int
    """Values per pixel: 1 grey, 3 red, green, blue."""
    levels: int = 256
    """Number of values a channel can take: 0 to levels - 1."""

    def __post_init__(self) -> None:
        _at_least(1, "layout", height=self.height, width=self.width, channels=self.channels)
        if not 2 <= self.levels <= 256:
            raise ConfigError("layout.levels", f"= {self.levels}: expected 2 to 256, what a byte holds")

    @property
    def length(self) -> int:
        """Tokens in one image."""
        return self.height * self.width * self.channels

    @property
    def vocab(self) -> int:
        """Number of different tokens."""
        return self.levels


@dataclass(frozen=True)
class SSMConfig:
    """The state space layer inside each block; not used by the attention mixer."""

    d_state: int = 64
    """N: real numbers of state per feature, even (N/2 conjugate pairs)."""
    init: str = "legs"
    """Initial Lambda, one of those that INITS_OF lists for the mixer; those of s4 are HiPPO measures."""
    discretization: str = "auto"
    """zoh or bilinear; auto is zoh for s4d; s4 and lssl have bilinear alone, dss zoh alone."""
    dt_min: float = 1e-3
    """Smallest initial step size; steps are drawn log-uniformly between dt_min and dt_max."""
    dt_max: float = 1e-1
    """Largest initial step size."""
    n_ssm: int = 0
    """Distinct (Lambda, P, B): feature h uses number h mod n_ssm; 0 = one for each feature."""
    decay: str = "exp"
    """exp, softplus or relu: -Re Lambda as a function of its parameter."""
    dt_transform: str = "exp"
    """exp or softplus: the step size as a function of its parameter."""
    tie_dt: bool = True
    """One step size for each feature; false, for s4d only: one for each feature and conjugate pair."""
    train_B: bool = True
    """Whether B is trained; false keeps its initial value, and dss, whose B is 1, has none."""
    norm_length: int = 0
    """For dss only: inputs over which its modes are normalised, such as a sequence's (softmax); 0 = none (exp)."""

    def __post_init__(self) -> None:
        if self.d_state < 2 or self.d_state % 2:
            raise ConfigError("ssm.d_state", f"= {self.d_state}: expected an even number, at least 2")
        _one_of(INITS, "ssm.init", self.init)
        _one_of(DISCRETIZATIONS, "ssm.discretization", self.discretization)
        _one_of(DECAYS, "ssm.decay", self.decay)
        _one_of(DT_TRANSFORMS, "ssm.dt_transform", self.dt_transform)
        _at_least(0, "ssm", n_ssm=self.n_ssm, norm_length=self.norm_length)
        _positive("ssm", dt_min=self.dt_min, dt_max=self.dt_max)
        if self.dt_min > self.dt_max:
            raise ConfigError("ssm.dt_min", f"= {self.dt_min}: expected at most ssm.dt_max = {self.dt_max}")


@dataclass(frozen=True)
class ModelConfig:
    """The residual stack."""

    mixer: str = "s4d"
    """The sequence layer of every block: s4d, s4, their ancestors dss and lssl, or attention (the Transformer)."""
    d_model: int = 128
    """H: features between blocks."""
    n_layers: int = 6
    """Blocks."""
    d_ff: int = 256
    """Hidden width of the feed-forward sub-block; 0 leaves it out."""
    dropout: float = 0.0
    """Probability of dropping a feature in training."""
    n_heads: int = 8
    """Heads; attention only."""

    def __post_init__(self) -> None:
        _one_of(MIXERS, "model.mixer", self.mixer)
        _at_least(1, "model", d_model=self.d_model, n_layers=self.n_layers, n_heads=self.n_heads)
        _at_least(0, "model", d_ff=self.d_ff)
        if not 0 <= self.dropout < 1:
            raise ConfigError("model.dropout", f"= {self.dropout}: expected at least 0 and less than 1")
        if self.mixer == "attention" and self.d_model % self.n_heads:
            raise ConfigError(
                "model.d_model", f"= {self.d_model}: expected a multiple of model.n_heads = {self.n_heads}"
            )


@dataclass(frozen=True)
class DensityConfig:
    """Everything that defines a density model."""

    layout: ImageLayout
    """What the sequences are."""
    model: ModelConfig
    """The stack."""
    ssm: SSMConfig
    """The state space layers in it."""

    def __post_init__(self) -> None:
        check_pair(self.model, self.ssm)


@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    dataset: str = "mnist"
    """mnist, cifar10, or mnist-mini, cifar10-mini: a few hundred images of each, inside the package."""
    validation: int = 1000
    """Images held out of the end of the training split for the periodic evaluation; 0 = no evaluation."""

    def __post_init__(self) -> None:
        _one_of(DATASETS, "data.dataset", self.dataset)
        _at_least(0, "data", validation=self.validation)


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
        _positive("optim", lr=self.lr, ssm_lr=self.ssm_lr, grad_clip=self.grad_clip)
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError("optim.weight_decay", f"= {self.weight_decay}: expected a number, at least 0")
        _at_least(0, "optim", warmup_steps=self.warmup_steps)
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("optim.ema_decay", f"= {self.ema_decay}: expected at least 0 and less than 1")


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 64
    """Sequences per step."""
    seed: int = 0
    """Of initialisation, order of the data and dropout."""
    precision: str = "fp32"
    """fp32, or bf16: autocast of the projections, with the state space layers in float32 all the same."""
    log_every: int = 10
    """Steps between two lines of the metrics."""
    eval_every: int = 500
    """Steps between two evaluations on held-out images."""
    eval_limit: int = 200
    """Held-out images per evaluation, at most."""
    save_every: int = 500
    """Steps between two checkpoints."""
    n_samples: int = 16
    """Images in the grid that is sampled at each evaluation; 0 = none."""

    def __post_init__(self) -> None:
        _at_least(1, "train", steps=self.steps, batch_size=self.batch_size)
        if not 0 <= self.seed < 2**32:
            raise ConfigError("train.seed", f"= {self.seed}: expected 0 to {2**32 - 1}")
        _one_of(PRECISIONS, "train.precision", self.precision)
        _at_least(1, "train", log_every=self.log_every, eval_every=self.eval_every)
        _at_least(1, "train", eval_limit=self.eval_limit, save_every=self.save_every)
        _at_least(0, "train", n_samples=self.n_samples)


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


def check_pair(model: ModelConfig, ssm: SSMConfig) -> None:
    """Refuse a state space setting that the mixer cannot have."""
    if ssm.n_ssm and model.d_model % ssm.n_ssm:
        raise ConfigError("ssm.n_ssm", f"= {ssm.n_ssm}: expected a divisor of model.d_model = {model.d_model}, or 0")
    if not ssm.tie_dt and model.mixer != "s4d":
        raise ConfigError("ssm.tie_dt", f'= false does not go with model.mixer = "{model.mixer}": expected "s4d"')
    if ssm.norm_length and model.mixer != "dss":
        raise ConfigError(
            "ssm.norm_length",
            f'= {ssm.norm_length} does not go with model.mixer = "{model.mixer}": expected "dss", or 0',
        )
    inits = INITS_OF.get(model.mixer, INITS)
    if ssm.init not in inits:
        raise ConfigError(
            "ssm.init",
            f'= "{ssm.init}" does not go with model.mixer = "{model.mixer}": expected one of {", ".join(inits)}',
        )
    only = {"s4": "bilinear", "lssl": "bilinear", "dss": "zoh"}.get(model.mixer, ssm.discretization)
    if ssm.discretization not in ("auto", only):
        raise ConfigError(
            "ssm.discretization",
            f'= "{ssm.discretization}" does not go with model.mixer = "{model.mixer}": expected "{only}" or "auto"',
        )


def _one_of(allowed: Sequence[str], key: str, value: str) -> None:
    if value not in allowed:
        raise ConfigError(key, f'= "{value}": expected one of {", ".join(allowed)}')


def _at_least(least: int, section: str, **values: int) -> None:
    for key, value in values.items():
        if value < least:
            raise ConfigError(f"{section}.{key}", f"= {value}: expected at least {least}")


def _positive(section: str, **values: float) -> None:
    for key, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{section}.{key}", f"= {value}: expected a number greater than 0")
