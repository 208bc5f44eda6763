"""Use S4D and S4 in models of your own, like any other `torch.nn` layer.

    layer = S4D(256)                          # options by keywords
    y, state = layer(u)                       # u (batch, length, 256) -> y of the same shape, in parallel
    y, state = layer(more, state)             # the next chunk of the same sequences
    y, state = layer.step(u_t, state)         # or one input at a time, u_t (batch, 256)

All three compute the same function, at any length. A state is a value: the layer itself keeps nothing. See
docs/layers.md for more.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s4gen.config import SSMConfig
from s4gen.errors import UserError, shortened
from s4gen.files.expected import shown
from s4gen.models.blocks import GatedOutput
from s4gen.models.ssm_layers import S4 as S4Core
from s4gen.models.ssm_layers import S4D as S4DCore
from s4gen.models.ssm_layers import SSMLayer

__all__ = ["S4", "S4D", "load_layer"]

FORMAT, FORMAT_VERSION = "s4gen-layer", 1


class _Layer(nn.Module):
    """The common part of `S4D` and `S4`: a state space layer `ssm`, and `output`, which mixes its features."""

    def __init__(
        self, core: type[S4DCore | S4Core], given: dict[str, Any], mix: bool, dropout: float, transposed: bool
    ) -> None:
        """Build the layer from `given`, all arguments of the public constructor.

        `ssm` takes d_model and those that are fields of SSMConfig; `output` takes the others.

        Raises:
            ValueError: d_model is below 1.
            UserError: an option has an invalid value.
        """
        super().__init__()
        if given["d_model"] < 1:
            raise ValueError(f"d_model = {given['d_model']}: expected at least 1")
        options = {field.name: given[field.name] for field in fields(SSMConfig) if field.name in given}
        ssm: SSMLayer = core(given["d_model"], SSMConfig(**options))
        self.d_model, self.d_state, self.transposed = ssm.d_model, ssm.d_state, transposed
        self.ssm = ssm
        self.output: nn.Module = GatedOutput(ssm.d_model, dropout) if mix else nn.Identity()
        self._options = {"d_model": ssm.d_model, **options, "mix": mix, "dropout": dropout, "transposed": transposed}

    def initial_state(self, batch: int) -> Tensor:
        """Return the state before any input, zeros r(batch, d_model, d_state)."""
        return self.ssm.initial_state(batch)

    def forward(self, u: Tensor, state: Tensor | None = None, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over whole sequences, or over the next chunk of them, in parallel.

        Args:
            u: r(B, L, d_model), L >= 1; r(B, d_model, L) if the layer is `transposed`.
            state: r(B, d_model, d_state) after the inputs before u; None if there were none.
            lengths: int64 (B,), the number of inputs of each row, if some rows are padded; a row's state is then the
                one after its own last input.

        Returns:
            y, of the shape of u, and the state after the last input.

        Raises:
            ValueError: the shapes do not fit each other or the layer.
        """
        y, state = self.ssm(u.transpose(1, 2) if self.transposed else u, state, lengths)
        y = self.output(y)
        return (y.transpose(1, 2) if self.transposed else y), state

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Take one input of each sequence, u r(B, d_model); return y r(B, d_model) and the new state.

        Every call discretises the system anew, so that gradients flow through it. For many steps with fixed weights
        use `recurrent()`.
        """
        y, state = self.ssm.step(u, state)
        return self.output(y), state

    def recurrent(self) -> Recurrent:
        """Return a frozen twin, which has discretised once and for all: the same `initial_state` and `step`, faster."""
        return Recurrent(self)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}"

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write options and weights to a folder, from which `load_layer` reads them.

        Raises:
            UserError: `path` exists (and `overwrite` is not set, or it is not a layer), or cannot be written.
        """
        from s4gen.checkpoint import check_target, save_tensors
        from s4gen.files.atomic import write_atomic

        check_target(path, overwrite)
        config = {"format": FORMAT, "format_version": FORMAT_VERSION, "layer": type(self).__name__}

        def fill(folder: Path) -> None:
            text = json.dumps(config | {"options": self._options}, indent=2)
            (folder / "config.json").write_text(text + "\n", encoding="utf-8")
            save_tensors(folder / "model.safetensors", self.state_dict())

        write_atomic(path, fill)


class S4D(_Layer):
    """The diagonal state space layer S4D (arXiv 2206.11893), followed by GELU and a gated linear layer.

    Those two mix the features. Without them (`mix=False`) each feature runs through a system of its own, y = C x + D u.

    Args:
        d_model: number of features, each with a system of its own.
        d_state: size of a feature's state in real numbers; even.
        init: initial Lambda: legs, lin, inv, inv2, quad, real or random.
        discretization: zoh or bilinear.
        dt_min, dt_max: bounds of the initial step sizes; about 1 / dt_max to 1 / dt_min inputs are remembered.
        n_ssm: number of distinct (Lambda, B), which features share in turn; 0 gives each feature its own.
        decay, dt_transform: functions that make -Re Lambda and the step size from their parameters: exp or softplus.
        tie_dt: whether all modes of a feature share one step size; otherwise each conjugate pair has its own.
        train_B: whether B is trained.
        mix: whether GELU, dropout and a gated linear layer (GLU) follow.
        dropout: probability of dropping a feature in training, between the GELU and the linear layer.
        transposed: whether sequences are (batch, d_model, length), as for a convolution.

    Raises:
        UserError: an option has an invalid value; the message names the option.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        init: str = "legs",
        discretization: str = "zoh",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        n_ssm: int = 0,
        decay: str = "exp",
        dt_transform: str = "exp",
        tie_dt: bool = True,
        train_B: bool = True,
        mix: bool = True,
        dropout: float = 0.0,
        transposed: bool = False,
    ) -> None:
        super().__init__(S4DCore, locals(), mix, dropout, transposed)


class S4(_Layer):
    """The diagonal plus low-rank state space layer S4 (arXiv 2111.00396), with the bilinear rule.

    As in `S4D`, GELU and a gated linear layer follow it unless `mix` is false.

    Args:
        init: the HiPPO measure that gives the initial Lambda, P and B: legs, legt, lagt or fourier.

    All other options are those of `S4D`.

    Raises:
        UserError: an option has an invalid value; the message names the option.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        init: str = "legs",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        n_ssm: int = 0,
        decay: str = "exp",
        dt_transform: str = "exp",
        train_B: bool = True,
        mix: bool = True,
        dropout: float = 0.0,
        transposed: bool = False,
    ) -> None:
        super().__init__(S4Core, locals(), mix, dropout, transposed)


class Recurrent(nn.Module):
    """A layer with fixed weights that is only stepped: x' = Abar x + Bbar u, y = output(Cbar x' + D u)."""

    def __init__(self, layer: _Layer) -> None:
        super().__init__()
        self.step_form = layer.ssm.discretized()
        self.output = layer.output

    def initial_state(self, batch: int) -> Tensor:
        """Return the state before any input, zeros r(batch, d_model, d_state)."""
        return self.step_form.initial_state(batch)

    @torch.no_grad()
    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Take one input of each sequence, u r(B, d_model); return y r(B, d_model) and the new state."""
        y, state = self.step_form.step(u, state)
        return self.output(y), state


def load_layer(path: str | Path) -> S4D | S4:
    """Load the layer that `save` wrote to a folder, in evaluation mode.

    Raises:
        UserError: there is no layer at `path`, or it is damaged.
    """
    from s4gen.checkpoint import load_model, read_json

    folder = Path(path)
    config = read_json(folder / "config.json")
    kinds: dict[str, type[S4D | S4]] = {"S4D": S4D, "S4": S4}
    name = config.get("layer")
    if config.get("format") != FORMAT or not isinstance(name, str) or name not in kinds:
        raise UserError(f"{folder / 'config.json'} describes no layer; a whole model is read by s4gen.from_pretrained")
    options = _checked_options(config.get("options"), kinds[name], folder / "config.json")
    try:
        return load_model(folder / "model.safetensors", lambda: kinds[name](**options))
    except ValueError as error:  # of options that do not fit each other
        raise UserError(f"{folder / 'config.json'}: {error}; save the layer again") from None


def _checked_options(options: Any, kind: type[S4D | S4], path: Path) -> dict[str, Any]:
    """Return the options of a layer in a file, each of the type of its default in the constructor of `kind`.

    Raises:
        UserError: an option is unknown, or of another type.
    """
    if not isinstance(options, dict):
        raise UserError(f"{path}: options = {shown(options)}: expected a table; save the layer again")
    wanted = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    wanted["d_model"] = 1
    for name, value in options.items():
        numbers = (int, float) if type(wanted.get(name)) is float else (type(wanted.get(name)),)
        if name not in wanted or type(value) not in numbers:
            raise UserError(f"{path}: options.{shortened(name, 60)} = {shown(value)}: no such option; save it again")
    if "d_model" not in options:
        raise UserError(f"{path}: options.d_model is missing; save the layer again")
    return options
