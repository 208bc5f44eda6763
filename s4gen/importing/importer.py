"""Read a file of state-spaces/s4 as a model and account for every tensor in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from s4gen.checkpoint.fitting import fitting
from s4gen.config import AudioLayout, DensityConfig, Layout, ModelConfig, SSMConfig, TextLayout
from s4gen.errors import UserError
from s4gen.importing.ends import Ends, is_adaptive, read_ends
from s4gen.importing.kernels import HEAD, TRANSFORMS
from s4gen.importing.ledger import Ledger
from s4gen.importing.options import Options
from s4gen.importing.reading import read_config, read_weights
from s4gen.importing.single import is_minimal, read_minimal
from s4gen.importing.stacks import Shape, Stack, begin, read_stack
from s4gen.layers import S4D
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel

DT_CHOICES = ("exp", "softplus")
SOUNDS = {"sc09": ("mu-law", 16_000), "youtubemix": ("mu-law", 16_000), "beethoven": ("linear", 16_000)}
"""For each data set of sound in the reference, the law by which it quantises and the samples per second."""
SILENCE = 128
"""The code of silence among 256, which the reference feeds before the first sample of every clip."""
KNOWN_KEYS = re.compile(
    r"encoder\.|decoder\.|loss\.|loss_val\.|model\.(layers|d_layers|c_layers|u_layers|norm)\.|kernel\.|output_linear\.|D$"
)
"""Beginnings of the keys that some layout of the reference has."""


@dataclass
class Imported:
    """An imported model, with an account of how its file was read."""

    model: DensityModel | S4D
    """A density model, or an `S4D` layer for a file of the minimal layer."""
    version: str
    """The layout of the file: HEAD, v3, v2 or minimal."""
    fate: dict[str, str]
    """For every key of the file "used", "derived" or "ignored: " and the reason."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was assumed and what the user should know."""
    condition: float | None = None
    """Largest condition number of the matrices I - Abar^L that C was recovered with; None where C itself was stored."""
    error: float | None = None
    """Estimated relative error of the recovered C; None where C itself was stored."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the model as plain values, for `--json`."""
        counts = {kind: sum(fate.startswith(kind) for fate in self.fate.values()) for kind in KINDS}
        return {
            "version": self.version,
            "keys": counts,
            "condition_number": self.condition,
            "estimated_error_of_C": self.error,
            "notes": self.notes,
            "fate": self.fate,
        }


KINDS = ("used", "derived", "ignored")
"""The fates of a tensor; every value of `Imported.fate` begins with one of these."""


def import_weights(file: str | Path, config: str | Path | None = None, dt: str | None = None) -> Imported:
    """Read the model in a `.pt` or `.ckpt` file of state-spaces/s4. No code in the file is run.

    Args:
        file: a state dict, or a Lightning checkpoint with one.
        config: a JSON or YAML file with the model's configuration. None takes the configuration that a `.ckpt` holds
            beside its weights, if there is one.
        dt: "exp" or "softplus", the function that makes the step size of its parameter; no file of weights tells it.
            None takes what the configuration says, else the default of the file's version, with a note.

    Raises:
        UserError: the file cannot be read, or s4gen has no such model; the message names the key of the file, or the
            value of the configuration, that is at fault.
    """
    path = Path(file)
    given = read_config(Path(config)) if config else None  # first, since it may be missing and takes no time
    contents = read_weights(path)
    source, tables = str(config) if config else "", contents.config if given is None else given
    options = Options(tables, source or (f"{path} (hyper_parameters)" if tables else ""))
    ledger = Ledger(contents.tensors, str(path))
    # A new model draws initial weights, which the file's replace: importing must not disturb the caller's random state.
    with torch.random.fork_rng(devices=[]):
        if is_minimal(ledger):
            imported = Imported(read_minimal(ledger, options, dt), "minimal", ledger.fate)
        else:
            _check_known(ledger)
            imported = _read_model(ledger, options, dt)
    ledger.close()
    if ledger.rounded:
        imported.notes.append(
            f"{len(ledger.rounded)} tensors hold more digits than float32 does and were rounded to it, the first of "
            f"them {ledger.rounded[0]}"
        )
    return imported


def _check_known(ledger: Ledger) -> None:
    """Refuse the state dict of another kind of model; the message names the first key that no layout has."""
    for key in ledger.names:
        if not KNOWN_KEYS.match(key):
            raise UserError(
                f"{ledger.where}: unknown key {key}: no layout of state-spaces/s4 that s4gen reads has it (HEAD, v3 or "
                "v2: encoder, decoder, loss, model.layers, model.d_layers, model.c_layers, model.u_layers, model.norm)"
            )


def _read_model(ledger: Ledger, options: Options, dt: str | None) -> Imported:
    """Read a density model of any layout but the minimal one."""
    _check_options(options)
    notes: list[str] = []
    stack = begin(ledger, options, "exp")
    stack.dt_transform = _dt_transform(ledger, options, dt, stack.version, notes)
    shape, ends = read_stack(stack), read_ends(ledger, options)
    if ends.d_model != shape.d_model:
        raise UserError(
            f"{ledger.where}: the embedding is {ends.d_model} wide, and the blocks are {shape.d_model} wide"
        )
    ssm = _ssm_config(stack, notes)
    layout = _layout(ends, stack, options, notes)
    model = build_model(DensityConfig(layout, _model_config(stack, shape, ends, notes), ssm))
    tensors = stack.tensors | ends.tensors
    # Recovered C and pooling maps are float64, and stay so: `exact` and `assign` keep the precision of each tensor.
    tensors = fitting(tensors, model.state_dict(), Path(ledger.where), exact=tensors)
    model.load_state_dict(tensors, assign=True)
    _compare(options, ends, shape, stack)
    imported = Imported(model.eval(), stack.version, ledger.fate, notes)
    found = [kernel.recovery for kernel in stack.kernels.values() if kernel.recovery is not None]
    if found:
        imported.condition = max(recovery.condition for recovery in found)
        imported.error = max(recovery.error for recovery in found)
    return imported


def _check_options(options: Options) -> None:
    """Refuse options that leave no trace in the weights and that s4gen's layers do not have."""
    options.choice("activation", {"gelu": "gelu"}, "gelu")
    options.choice("final_act", {"glu": "glu"}, "glu")
    options.choice("residual", {"r": "R"}, "R")
    options.choice("norm", {"layer": "layer"}, "layer")
    for name in ("bidirectional", "dt_fast", "is_real", "gate", "bottleneck", "track_norms"):
        if options.get(name) not in (None, False):
            raise UserError(f"{options.source}: {name} = {options.get(name)}: s4gen has no such layer; expected false")
    if options.get("bandlimit") is not None:
        raise UserError(f"{options.source}: bandlimit = {options.get('bandlimit')}: expected null")


def _dt_transform(ledger: Ledger, options: Options, dt: str | None, version: str, notes: list[str]) -> str:
    """Return the name of the function that makes dt of its parameter.

    A wrong one still gives positive step sizes and a model that runs, so a note is added unless the configuration
    names it.
    """
    if dt is not None:
        notes.append(f"dt_transform: {dt}, as --dt asks for")
        return dt
    if "dt_transform" in options:
        return options.choice("dt_transform", TRANSFORMS, "exp")
    guess, why = "exp", f"as in every model of version {version}"
    if version == HEAD:
        guess = "exp" if is_adaptive(ledger) else "softplus"
        why = "as in its language model" if guess == "exp" else "as in its layers unless they are configured otherwise"
    other = next(name for name in DT_CHOICES if name != guess)
    notes.append(
        f"dt_transform: guessed to be {guess}, {why}; nothing in the file tells it, so try --dt {other} if the samples "
        "make no sense"
    )
    return guess


def _ssm_config(stack: Stack, notes: list[str]) -> SSMConfig:
    """Return the configuration that all state space layers share.

    Raises:
        UserError: the layers differ, or have a form that s4gen does not have.
    """
    kernels = list(stack.kernels.values())
    first = kernels[0]
    for theirs, kernel in stack.kernels.items():
        for name in ("mixer", "d_state", "rank", "decay", "dt_transform", "tie_dt"):
            if getattr(kernel, name) != getattr(first, name):
                raise UserError(
                    f"{stack.ledger.where}: {theirs} has {name} {getattr(kernel, name)}, and the first layer has "
                    f"{getattr(first, name)}: expected the same in all layers"
                )
    if first.rank > 2:
        raise UserError(f"{stack.ledger.where}: its low-rank parts have rank {first.rank}: expected 1 or 2")
    # SaShiMi's levels differ in width: an SSM for each feature is the one way in which their numbers may differ, too.
    own = all(kernel.n_ssm == stack.widths[theirs] for theirs, kernel in stack.kernels.items())
    if not own and any(kernel.n_ssm != first.n_ssm for kernel in kernels):
        raise UserError(
            f"{stack.ledger.where}: its layers have {first.n_ssm} and other numbers of distinct SSMs: expected one "
            "number for all layers"
        )
    if first.mixer == "s4" and not first.tie_dt:
        raise UserError(
            f"{stack.ledger.where}: its S4 layers have a step size for each mode: expected one for each feature"
        )
    return SSMConfig(
        d_state=first.d_state,
        # The weights do not show what they were initialised to. It matters for nothing but the rank of P.
        init={0: "lin", 1: "legs", 2: "legt"}[first.rank],
        discretization="bilinear" if first.mixer == "s4" else _discretization(stack.options),
        n_ssm=0 if own else first.n_ssm,
        decay=first.decay,
        dt_transform=first.dt_transform,
        tie_dt=first.tie_dt,
        tie_Q="Q" not in first.parameters,
    )


def _discretization(options: Options) -> str:
    """Return S4D's rule of discretisation, which the configuration must name: a wrong one gives plausible nonsense."""
    options.need("disc", "zoh or bilinear")
    return options.choice("disc", {"zoh": "zoh", "bilinear": "bilinear"}, "zoh")


def _model_config(stack: Stack, shape: Shape, ends: Ends, notes: list[str]) -> ModelConfig:
    """Return the model's configuration as far as the stack and both ends show it."""
    # A plain stack has a final norm exactly if it is pre-norm; SaShiMi has one in either case.
    default = bool(shape.pool) or any(name.startswith("norm.") for name in stack.tensors)
    if shape.pool and "prenorm" not in stack.options:
        notes.append("prenorm: taken to be true, as in every published SaShiMi")
    return ModelConfig(
        mixer=next(iter(stack.kernels.values())).mixer,
        d_model=shape.d_model,
        n_layers=shape.n_layers,
        mixers_per_block=shape.mixers,
        d_ff=shape.d_ff,
        cutoffs=ends.cutoffs,
        div=ends.div,
        tied=ends.tied,
        norm="pre" if stack.options.flag("prenorm", default) else "post",
        scalar_norm=bool(stack.scalar_norm),
        pool=shape.pool,
        expand=shape.expand,
    )


def _layout(ends: Ends, stack: Stack, options: Options, notes: list[str]) -> Layout:
    """Return the layout of sound where the configuration names a data set of sound; else that of plain numbers."""
    dataset = str(options.get("dataset", "")).lower()
    if dataset in SOUNDS:
        law, rate = SOUNDS[dataset]
        if ends.vocab != 256:
            raise UserError(f"{options.source}: dataset = {dataset} has 256 codes, and the weights know {ends.vocab}")
        # Our table has one more row, for `bos`. The reference feeds silence there, so that row is a copy of silence's.
        table = ends.tensors["embedding.weight"]
        ends.tensors["embedding.value.weight"] = torch.cat((table, table[SILENCE : SILENCE + 1]))
        del ends.tensors["embedding.weight"]
        ends.tied = True  # the key `tied` goes with text alone; its default keeps the configuration of sound valid
        notes.append(f"sound of {dataset}: {rate} Hz, {law}, minmax; clips start behind code {SILENCE}")
        return AudioLayout(rate, law, 8, "minmax")
    notes.append(
        "tokens are plain numbers: prompts and texts are numbers between spaces, and nothing is fed before a prompt"
    )
    lengths = [kernel.length for kernel in stack.kernels.values() if kernel.length]
    given = options.get("l_max")
    length = given if isinstance(given, int) and given > 0 else max(lengths, default=1024)
    return TextLayout(ends.vocab, 0, length, bare_prompts=True)


def _compare(options: Options, ends: Ends, shape: Shape, stack: Stack) -> None:
    """Refuse a configuration that belongs to another model."""
    options.agree("vocab", ends.vocab, "the number of tokens")
    options.agree("d_model", shape.d_model, "the width")
    options.agree("n_layers", shape.n_layers, "the number of layers")
    options.agree("pool", list(shape.pool), "the list of strides") if shape.pool else None
    options.agree("expand", shape.expand, "the ratio of widths") if shape.pool else None
    first = next(iter(stack.kernels.values()))
    options.agree("d_state", first.d_state, "the state size")
    options.agree("rank", first.rank, "the rank") if first.rank else None
