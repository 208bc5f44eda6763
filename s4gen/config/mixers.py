"""The table of mixers: all that configuration, models, prompts, engines and commands need to know of each.

To add a mixer, add a file with its class, a line of this table, a line of `BUILDERS` in `models.mixers`, where the
contract of a mixer stands, and a line of `SSM_KINDS` in `tests/test_models.py`. Nothing else in the package asks a
mixer for its name. Some modules ask for its class, because they need to know more of it than how to run it:
`models.flops`, `models.kept_kernels`, `sampling.convert`, `sampling.flatten` and `bench.baselines`; a class that is new
to them is treated as the contract says. Nothing here imports torch, because the command line reads recipes before it
pays for heavy imports.
"""

from __future__ import annotations

from dataclasses import dataclass

from s4gen.config.names import KINDS

_DIAGONAL = ("legs", "lin", "inv", "inv2", "quad", "real", "random")
_HIPPO = ("legs", "legt", "lagt", "fourier")


@dataclass(frozen=True)
class Mixer:
    """The traits of one mixer. The defaults fit a layer that has no state space inside."""

    name: str
    """The value of `model.mixer` that chooses it."""
    inits: tuple[str, ...] = ()
    """Values of `ssm.init` that it takes. If empty, it has no state space, and ignores the section [ssm] except for the
    keys in `reads`."""
    discretizations: tuple[str, ...] = ()
    """Values of `ssm.discretization` that it takes beside "auto"."""
    settings: tuple[str, ...] = ()
    """The keys of [ssm] that it takes among those in RESERVED."""
    mixes_features: bool = True
    """Whether it mixes features itself, by a last linear layer called `out`. If not, each feature has a system of its
    own, a gated linear layer follows, and a block of an image model may add taps."""
    scannable: bool = False
    """Whether it may stand in a multi-scale stack, and run along the rows or down the columns of images."""
    ragged: bool = True
    """Whether each row of a batch may end at a length of its own."""
    state: str = "fixed"
    """How the state behaves. fixed: tensors of constant shape, new ones after each step. in place: the same, but a step
    writes into them. growing: a cache that grows with the steps, and is written in place."""
    whole_stack: bool = False
    """Whether it is the whole stack, of n_layers layers with d_ff skips, and not the layer in each block."""
    heads: bool = False
    """Whether features are dealt out to n_heads heads."""
    needs_window: bool = False
    """Whether it needs `model.window` to know distances. On images it does not, because their embedding knows them."""
    kinds: tuple[str, ...] = KINDS
    """The kinds of data that it is for."""
    reads: tuple[str, ...] = ()
    """Keys of [ssm] that it reads although it has no `inits`, such as "d_state"."""

    def reads_key(self, key: str) -> bool:
        """Return whether a key of [ssm] means anything to this mixer."""
        return key in self.reads or (bool(self.inits) and (key not in RESERVED or key in self.settings))

    @property
    def has_dt(self) -> bool:
        """Whether it is a discretised system, whose step size dt can be changed for another sampling rate."""
        return bool(self.inits)


RESERVED = ("tie_dt", "tie_Q", "norm_length")
"""Keys of [ssm] that only some mixers take; the others refuse any value but the default."""

_TABLE = (
    Mixer("s4d", _DIAGONAL, ("zoh", "bilinear"), ("tie_dt",), scannable=True, mixes_features=False),
    Mixer("s4", _HIPPO, ("bilinear",), ("tie_Q",), scannable=True, mixes_features=False),
    Mixer("h3", _DIAGONAL, ("zoh", "bilinear"), ("tie_dt",)),
    Mixer("dss", _DIAGONAL, ("zoh",), ("norm_length",), scannable=True, mixes_features=False),
    Mixer("lssl", ("legs",), ("bilinear",), ragged=False, mixes_features=False),
    Mixer("attention", ragged=False, state="growing", heads=True, needs_window=True),
    Mixer("wavenet", state="in place", whole_stack=True, kinds=("audio",)),
)

MIXERS = {mixer.name: mixer for mixer in _TABLE}
"""The table of mixers by name, in the order in which messages list them."""
