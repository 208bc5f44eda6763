"""From a file of state-spaces/s4 to a checkpoint: what it is, its parameters, and an account of every tensor."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from s4gen.checkpoint import save_checkpoint
from s4gen.config import AudioLayout, DensityConfig, Layout, ModelConfig, SSMConfig, TextLayout
from s4gen.data.text import NumberTokenizer
from s4gen.errors import UserError
from s4gen.fitting import fitting
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
"""Data sets of sound that the reference has: how it quantises them, and samples per second."""
SILENCE = 128
"""The code that the reference puts in front of every clip."""
KNOWN_KEYS = re.compile(
    r"encoder\.|decoder\.|loss\.|loss_val\.|model\.(layers|d_layers|c_layers|u_layers|norm)\.|kernel\.|output_linear\.|D$"
)


@dataclass
class Imported:
    """What a file was read as."""

    model: DensityModel | S4D
    """A density model, or the minimal layer."""
    version: str
    """HEAD, v3, v2 or minimal."""
    fate: dict[str, str]
    """used, derived or "ignored: why" for every key of the file."""
    notes: list[str] = field(default_factory=list)
    """What was assumed, and what the reader should know."""
    condition: float | None = None
    """Largest condition number of what C was recovered by; None where it was stored itself."""
    error: float | None = None
    """Estimated relative error of the recovered C."""

    def to_dict(self) -> dict[str, Any]:
        """All of it but the model, as plain values."""
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


def import_weights(file: str | Path, config: str | Path | None = None, dt: str | None = None) -> Imported:
    """The model in a `.pt` or `.ckpt` of state-spaces/s4.

    Args:
        config: a JSON or YAML file with the model's configuration; None: what a `.ckpt` holds beside its weights, or
            nothing.
        dt: exp or softplus, the step size as a function of its parameter, which no file tells; None: what the
            configuration says, or the default of the version.

    Raises:
        UserError: the file cannot be read, or is not of a model that s4gen has; the message names the key, or the value
            of the configuration, at fault.
    """
    path = Path(file)
    contents = read_weights(path)
    source, tables = str(config) if config else "", read_config(Path(config)) if config else contents.config
    options = Options(tables, source or (f"{path} (hyper_parameters)" if tables else ""))
    ledger = Ledger(contents.tensors, str(path))
    with torch.random.fork_rng(devices=[]):
        if is_minimal(ledger):
            imported = Imported(read_minimal(ledger, options, dt), "minimal", ledger.fate)
        else:
            _check_known(ledger)
            imported = _read_model(ledger, options, dt)
    ledger.close()
    if ledger.rounded:
        imported.notes.append(
            f"rounded to float32, because they hold more digits: {len(ledger.rounded)} tensors, the first of them "
            f"{ledger.rounded[0]}"
        )
    return imported


def _check_known(ledger: Ledger) -> None:
    """Refuse the state dict of something else: the first key that is of no layout is named."""
    for key in ledger.names:
        if not KNOWN_KEYS.match(key):
            raise UserError(
                f"{ledger.where}: unknown key {key}: no layout of state-spaces/s4 that s4gen reads has it (HEAD, v3 or "
                "v2: encoder, decoder, loss, model.layers, model.d_layers, model.c_layers, model.u_layers, model.norm)"
            )


def _read_model(ledger: Ledger, options: Options, dt: str | None) -> Imported:
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
    tensors = fitting(tensors, model.state_dict(), Path(ledger.where), exact=tensors)  # C and pools are in float64
    model.load_state_dict(tensors, assign=True)
    _compare(options, ends, shape, stack)
    imported = Imported(model.eval(), stack.version, ledger.fate, notes)
    found = [kernel.recovery for kernel in stack.kernels.values() if kernel.recovery is not None]
    if found:
        imported.condition = max(recovery.condition for recovery in found)
        imported.error = max(recovery.error for recovery in found)
    return imported


def _check_options(options: Options) -> None:
    """Refuse what the weights do not show and s4gen does not have."""
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
    """The function that dt is of its parameter, which the weights do not tell."""
    if dt is not None:
        notes.append(f"dt_transform: {dt}, as asked for by --dt")
        return dt
    if "dt_transform" in options:
        return options.choice("dt_transform", TRANSFORMS, "exp")
    guess, why = "exp", f"all of version {version} is"
    if version == HEAD:
        guess = "exp" if is_adaptive(ledger) else "softplus"
        why = "its language model is" if guess == "exp" else "its layers are, unless configured otherwise"
    other = next(name for name in DT_CHOICES if name != guess)
    notes.append(
        f"dt_transform: guessed to be {guess}, as {why}; nothing in the file tells, so try --dt {other} if it babbles"
    )
    return guess


def _ssm_config(stack: Stack, notes: list[str]) -> SSMConfig:
    """What all state space layers have in common.

    Raises:
        UserError: they are not alike.
    """
    kernels = list(stack.kernels.values())
    first = kernels[0]
    for theirs, kernel in stack.kernels.items():
        for name in ("mixer", "d_state", "rank", "decay", "dt_transform", "tie_dt"):
            if getattr(kernel, name) != getattr(first, name):
                raise UserError(
                    f"{stack.ledger.where}: {theirs} has {name} {getattr(kernel, name)}, the first layer has "
                    f"{getattr(first, name)}: expected layers that are alike"
                )
    if first.rank > 2:
        raise UserError(f"{stack.ledger.where}: its low-rank parts have rank {first.rank}: expected 1 or 2")
    own = all(kernel.n_ssm == stack.widths[theirs] for theirs, kernel in stack.kernels.items())
    if not own and any(kernel.n_ssm != first.n_ssm for kernel in kernels):
        raise UserError(f"{stack.ledger.where}: its layers have {first.n_ssm} and other numbers of distinct SSMs")
    if first.mixer == "s4" and not first.tie_dt:
        raise UserError(f"{stack.ledger.where}: step sizes for each mode of S4: expected one for each feature")
    return SSMConfig(
        d_state=first.d_state,
        # Where training would start from, which weights that are there do not tell; of the right rank.
        init={0: "lin", 1: "legs", 2: "legt"}[first.rank],
        discretization="bilinear" if first.mixer == "s4" else _discretization(stack.options),
        n_ssm=0 if own else first.n_ssm,
        decay=first.decay,
        dt_transform=first.dt_transform,
        tie_dt=first.tie_dt,
        tie_Q="Q" not in first.parameters,
    )


def _discretization(options: Options) -> str:
    """Of S4D, which the weights do not tell."""
    options.need("disc", "zoh or bilinear")
    return options.choice("disc", {"zoh": "zoh", "bilinear": "bilinear"}, "zoh")


def _model_config(stack: Stack, shape: Shape, ends: Ends, notes: list[str]) -> ModelConfig:
    default = bool(shape.pool) or any(name.startswith("norm.") for name in stack.tensors)
    if shape.pool and "prenorm" not in stack.options:
        notes.append("prenorm: taken as true, as all of SaShiMi is that was published")
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
    """Sound, where the configuration names a data set of sound that the reference has; else plain tokens."""
    dataset = str(options.get("dataset", "")).lower()
    if dataset in SOUNDS:
        law, rate = SOUNDS[dataset]
        if ends.vocab != 256:
            raise UserError(f"{options.source}: dataset = {dataset} has 256 codes, and the weights know {ends.vocab}")
        table = ends.tensors["embedding.weight"]
        ends.tensors["embedding.value.weight"] = torch.cat((table, table[SILENCE : SILENCE + 1]))
        del ends.tensors["embedding.weight"]
        ends.tied = True  # the key is of text alone
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
    """Refuse a configuration that is of another model."""
    options.agree("vocab", ends.vocab, "the number of tokens")
    options.agree("d_model", shape.d_model, "the width")
    options.agree("n_layers", shape.n_layers, "the number of layers")
    options.agree("pool", list(shape.pool), "the list of strides") if shape.pool else None
    options.agree("expand", shape.expand, "the ratio of widths") if shape.pool else None
    first = next(iter(stack.kernels.values()))
    options.agree("d_state", first.d_state, "the state size")
    options.agree("rank", first.rank, "the rank") if first.rank else None


def save_imported(imported: Imported, out: str | Path, source: str, overwrite: bool = False) -> None:
    """Write it as an ordinary checkpoint, or the minimal layer as a layer.

    Raises:
        UserError: `out` exists (and `overwrite` is not set, or it is not a checkpoint), or cannot be written.
    """
    model = imported.model
    if isinstance(model, S4D):
        model.save(out, overwrite=overwrite)
        return
    layout = model.config.layout
    tokenizer = NumberTokenizer(layout.vocab, layout.start) if isinstance(layout, TextLayout) else None
    metrics = {"imported": {"from": source, "version": imported.version, "condition_number": imported.condition}}
    card = _card(imported, source)
    save_checkpoint(out, model, recipe=None, metrics=metrics, card=card, tokenizer=tokenizer, overwrite=overwrite)


def _card(imported: Imported, source: str) -> str:
    notes = "\n".join(f"- {note}" for note in imported.notes)
    return (
        f"---\nlibrary_name: s4gen\ntags: [state-space-model, s4]\n---\n\n# {Path(source).name}\n\n"
        f"Weights of [state-spaces/s4](https://github.com/state-spaces/s4) (layout of {imported.version}), read by "
        f"`s4gen import`.\n\n{notes}\n"
    )
