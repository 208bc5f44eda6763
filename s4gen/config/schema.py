"""The dataclasses of a model. Each checks its own ranges when it is made; `combinations` looks at several at once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from s4gen.config.checks import ConfigError, at_least, at_most, one_of, positive
from s4gen.config.mixers import MIXERS, Mixer

HEADS = ("categorical", "mixture")
SCANS = ("raster", "row", "column", "none")
INITS = tuple(dict.fromkeys(init for mixer in MIXERS.values() for init in mixer.inits))
DISCRETIZATIONS = ("auto", "zoh", "bilinear")
DECAYS = ("exp", "softplus", "relu", "none")
DT_TRANSFORMS = ("exp", "softplus")
NORMS = ("pre", "post")


MOST_RECENT = 4096
"""The most samples that the embedding of a model of sound may read. There is a limit because each step reads all."""


MOST_STATE, MOST_LAYERS, MOST_ROWS = 4096, 1000, 1024
"""The largest d_state, n_layers and neighbourhood. Initial values of S4 take a time that grows with the cube of
d_state, and a stack some milliseconds for each layer, so beyond these a model would be built for ever."""
MOST_CLUSTERS, MOST_LEVELS = 64, 16
"""The most cutoffs and strides; each makes vectors narrower, or the level below wider, by a factor."""


@dataclass(frozen=True)
class SSMConfig:
    """The state space layer inside each block. Mixers without a state space, such as attention, ignore it."""

    d_state: int = 64
    """N, the real numbers of state per feature. It is even, because they stand for N/2 conjugate pairs."""
    init: str = "legs"
    """Name of the initial Lambda. Which a mixer takes is in the table of mixers; those of s4 are HiPPO measures."""
    discretization: str = "auto"
    """zoh or bilinear. auto is zoh for s4d and h3, and otherwise the only one that the mixer has: bilinear for s4 and
    lssl, zoh for dss."""
    dt_min: float = 1e-3
    """Smallest initial step size. Step sizes are drawn log-uniformly between dt_min and dt_max."""
    dt_max: float = 1e-1
    """Largest initial step size."""
    n_ssm: int = 0
    """How many distinct (Lambda, P, B) there are; feature h uses number h mod n_ssm. 0 gives each feature its own."""
    decay: str = "exp"
    """The function that makes -Re Lambda from its parameter: exp, softplus, relu, or none, which allows any sign."""
    dt_transform: str = "exp"
    """The function that makes the step size from its parameter: exp or softplus."""
    tie_dt: bool = True
    """Whether the modes of a feature share one step size. false, for s4d and h3 only, gives each conjugate pair its
    own."""
    train_B: bool = True
    """Whether B is trained. false keeps its initial value. In dss, B is always 1."""
    tie_Q: bool = True
    """Whether A = diag(Lambda) - P P^*. false, for s4 only, is A = diag(Lambda) - P Q^*, where Q is trained, too."""
    norm_length: int = 0
    """For dss only: the number of inputs over which its modes are normalised (softmax), such as the length of a
    sequence. 0 does not normalise (exp)."""

    def __post_init__(self) -> None:
        if self.d_state < 2 or self.d_state % 2:
            raise ConfigError("ssm.d_state", f"= {self.d_state}: expected an even number, at least 2")
        at_most(MOST_STATE, "ssm", d_state=self.d_state)
        one_of(INITS, "ssm.init", self.init)
        one_of(DISCRETIZATIONS, "ssm.discretization", self.discretization)
        one_of(DECAYS, "ssm.decay", self.decay)
        one_of(DT_TRANSFORMS, "ssm.dt_transform", self.dt_transform)
        at_least(0, "ssm", n_ssm=self.n_ssm, norm_length=self.norm_length)
        positive("ssm", dt_min=self.dt_min, dt_max=self.dt_max)
        if self.dt_min > self.dt_max:
            raise ConfigError("ssm.dt_min", f"= {self.dt_min}: expected at most ssm.dt_max = {self.dt_max}")


@dataclass(frozen=True)
class ModelConfig:
    """The residual stack of a model, and its head."""

    mixer: str = "s4d"
    """The layer of every block that mixes along the sequence: s4d, s4, h3 (an S4D between two products, for text),
    their ancestors dss and lssl, or attention (the Transformer).

    wavenet, the baseline for sound, is no layer but a stack of its own: n_layers dilated convolutions with d_ff skips.
    """
    d_model: int = 128
    """H, the number of features between blocks."""
    n_layers: int = 6
    """How many blocks there are."""
    mixers_per_block: int = 1
    """How many mixers a block has before its feed-forward, each with a norm, an output and a residual sum."""
    d_ff: int = 256
    """Hidden width of the feed-forward sub-block; 0 leaves it out."""
    dropout: float = 0.0
    """Probability of dropping a feature in training."""
    n_heads: int = 8
    """Attention only: the number of heads."""
    window: int = 0
    """Attention only: how many tokens it sees, the present one included, weighed by their distance (ALiBi). 0 sees all
    tokens alike, which is for images, whose embedding knows the positions."""
    cutoffs: tuple[int, ...] = ()
    """Text only: the tokens at which a vocabulary, ordered by frequency, is cut into clusters. Each cluster has vectors
    `div` times as narrow as the one before (adaptive embedding and softmax)."""
    div: int = 4
    """Text only: see cutoffs."""
    tied: bool = True
    """Text only: whether embedding and softmax share their tables. If not, and without cutoffs, the embedding is a
    plain table and the head a plain linear layer."""
    norm: str = "pre"
    """pre computes x + f(norm(x)) in each sublayer, and has a norm before the head. post computes norm(x + f(x)), and
    has a norm before the head only in a multi-scale stack."""
    scalar_norm: bool = False
    """Norms are s (x - mean + m) / std over the features, with one m and one s for all of them. Before the head of a
    multi-scale stack there is a layer norm all the same."""
    batch_norm: bool = False
    """Predictors only: norms are batch norms, over all valid positions of all rows of a batch. When training is over
    they are a fixed scale and shift of each feature, so such a model can be stepped like any other."""
    pool: tuple[int, ...] = ()
    """Strides of a multi-scale stack (SaShiMi): each level has n_layers blocks, and the next level runs once for this
    many inputs of the level above. Empty is a stack of one level."""
    expand: int = 2
    """With pool only: each level is this many times as wide as the one before, in d_model and d_ff."""
    unet: bool = False
    """With pool only: there are blocks on the way to the coarser levels as well, not only on the way back."""
    whole_pixels: bool = False
    """Images only: the stack runs once for each pixel, not for each value, and the head gives the channels of a pixel
    one after another."""
    neighbourhood: int = 0
    """With whole_pixels only: how many rows above a pixel the stack reads directly. It reads seven pixels of each, and
    the three to the left. 0 reads only the pixel to the left."""
    taps: bool = False
    """With whole_pixels, or a predictor of images, only: every block also reads the features at left, above left, above
    and above right; with task.bidirectional also those at the four opposite neighbours."""
    scan: tuple[str, ...] = ("raster",)
    """With whole_pixels, or a predictor of images, only: the lines along which the state space layers run, block by
    block; at its end the list begins again. raster runs along the whole image, row along each row, column down each
    column. none runs nowhere; such a block has only taps."""
    head: str = "categorical"
    """categorical has a logit for each value. mixture is a mixture of discretised logistics around a prediction from
    the neighbours (PixelCNN++, arXiv 1701.05517), and needs whole_pixels."""
    components: int = 10
    """With head = "mixture" only: how many logistics are mixed."""
    recent: int = 0
    """Audio only: how many of the last samples the stack reads directly, by a linear map. 0 reads only the last one."""
    zero_start: bool = False
    """Every sublayer adds nothing at the start of training, because its last matrix is zero then."""

    @property
    def traits(self) -> Mixer:
        """The line of the table of mixers for `mixer`."""
        return MIXERS[self.mixer]

    def __post_init__(self) -> None:
        one_of(tuple(MIXERS), "model.mixer", self.mixer)
        at_least(
            1,
            "model",
            d_model=self.d_model,
            n_layers=self.n_layers,
            mixers_per_block=self.mixers_per_block,
            n_heads=self.n_heads,
        )
        at_least(0, "model", d_ff=self.d_ff, window=self.window)
        at_least(1, "model", expand=self.expand, components=self.components)
        at_least(0, "model", neighbourhood=self.neighbourhood, recent=self.recent)
        at_most(MOST_RECENT, "model", recent=self.recent)
        at_most(MOST_ROWS, "model", neighbourhood=self.neighbourhood)
        at_most(MOST_LAYERS, "model", n_layers=self.n_layers, mixers_per_block=self.mixers_per_block)
        for key, most in (("cutoffs", MOST_CLUSTERS), ("pool", MOST_LEVELS), ("scan", MOST_LAYERS)):
            if (count := len(getattr(self, key))) > most:
                raise ConfigError(f"model.{key}", f"has {count} entries: expected at most {most}")
        one_of(HEADS, "model.head", self.head)
        one_of(NORMS, "model.norm", self.norm)
        at_least(1, "model", div=self.div)
        if self.batch_norm and self.scalar_norm:
            raise ConfigError(
                "model.batch_norm", "= true does not go with model.scalar_norm = true: leave one of them out"
            )
        _check_stack(self)
        _check_pixels(self)
        _check_lines(self)
        if not 0 <= self.dropout < 1:
            raise ConfigError("model.dropout", f"= {self.dropout}: expected at least 0 and less than 1")
        if self.traits.heads and self.d_model % self.n_heads:
            raise ConfigError(
                "model.d_model", f"= {self.d_model}: expected a multiple of model.n_heads = {self.n_heads}"
            )
        if any(low >= high for low, high in pairwise((0, *self.cutoffs))):
            raise ConfigError("model.cutoffs", f"= {list(self.cutoffs)}: expected increasing numbers from 1")
        if self.d_model < self.div ** len(self.cutoffs):
            raise ConfigError(
                "model.cutoffs",
                f"= {list(self.cutoffs)}: {len(self.cutoffs)} clusters, each {self.div} times as narrow as the one "
                f"before, leave no width of model.d_model = {self.d_model}; expected fewer",
            )


def _check_stack(model: ModelConfig) -> None:
    """Raise ConfigError for a multi-scale stack, or a mixer that is the whole stack, with settings that do not fit."""
    if any(stride < 2 for stride in model.pool):
        raise ConfigError("model.pool", f"= {list(model.pool)}: expected strides of at least 2")
    if model.pool and not model.traits.scannable:
        pooled = ", ".join(mixer.name for mixer in MIXERS.values() if mixer.scannable)
        raise ConfigError(
            "model.pool",
            f'= {list(model.pool)} does not go with model.mixer = "{model.mixer}": expected one of {pooled}',
        )
    for key, wanted in (("expand", 2), ("unet", False)):
        if not model.pool and getattr(model, key) != wanted:
            raise ConfigError(f"model.{key}", "goes with model.pool, which is not set: leave it out")
    if model.mixers_per_block > 1 and (model.pool or model.traits.whole_stack):
        what = "model.pool" if model.pool else f'model.mixer = "{model.mixer}"'
        raise ConfigError("model.mixers_per_block", f"= {model.mixers_per_block} does not go with {what}: leave it out")
    if model.traits.whole_stack and not model.d_ff:
        raise ConfigError("model.d_ff", f'= 0: model.mixer = "{model.mixer}" needs at least one skip')


def _check_pixels(model: ModelConfig) -> None:
    """Raise ConfigError for a setting that needs whole pixels, which are off, or a stack that cannot run per pixel.

    Taps and scan are for predictors, too, so whether they need whole pixels is known where the task is.
    """
    if not model.whole_pixels:
        defaults = {"neighbourhood": 0, "head": "categorical", "components": 10}
        for key, default in defaults.items():
            if getattr(model, key) != default:
                raise ConfigError(f"model.{key}", "goes with model.whole_pixels = true, which is not set: leave it out")
        return
    if model.pool or model.traits.whole_stack:
        what = "model.pool" if model.pool else f'model.mixer = "{model.mixer}"'
        raise ConfigError("model.whole_pixels", f"= true does not go with {what}: leave one of them out")
    if model.norm == "post":
        raise ConfigError("model.norm", '= "post" does not go with model.whole_pixels = true: expected "pre"')


def _check_lines(model: ModelConfig) -> None:
    """Raise ConfigError for lines of an image along which a mixer cannot run, or taps that it cannot have."""
    if not model.scan:
        raise ConfigError("model.scan", f"= []: expected at least one of {', '.join(SCANS)}")
    for scan in model.scan:
        one_of(SCANS, "model.scan", scan)
        if scan == "none" and not model.taps:
            raise ConfigError(
                "model.scan", 'has "none", which leaves such a block nothing but taps: set model.taps = true'
            )
        if scan in ("row", "column") and not model.traits.scannable:
            raise ConfigError(
                "model.scan", f'has "{scan}", which does not go with model.mixer = "{model.mixer}": expected "raster"'
            )
    if model.taps and model.traits.mixes_features:
        raise ConfigError("model.taps", f'= true does not go with model.mixer = "{model.mixer}": expected false')
