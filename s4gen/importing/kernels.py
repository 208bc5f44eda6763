"""Read one state space layer of state-spaces/s4, in any of its three layouts, as parameters of our layers.

                HEAD                          v3.0.0                              v2
    dt          inv_dt, a function of it      log_dt, its logarithm               as v3
    Lambda      -f(A_real) - i A_imag         S4: -f(inv_w_real) + i w_imag       -exp(log_w_real) + i w_imag, or w
                                              S4D: -f(inv_A_real) + i A_imag
    low rank    P                             P                                   P, and Q where w is complex
    C           of length l_kernel            of length L                         of length 2 (len(omega) - 1)

In a layer of S4 the tensor called C is really C~ = C (I - Abar^length), unless the length is 0. Each function f is exp
unless the configuration names another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from s4gen.errors import UserError
from s4gen.importing.ledger import Ledger
from s4gen.importing.options import Options
from s4gen.importing.recover import Recovery, recovered

HEAD, V3, V2 = "HEAD", "v3", "v2"
TRANSFORMS = {name: name for name in ("exp", "softplus", "relu", "sigmoid", "none")}
"""The reference's functions from an unconstrained parameter to a positive one, as choices of an option."""
_APPLIED: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "softplus": F.softplus,
    "relu": lambda x: F.relu(x) + 1e-4,  # the reference's own offset
    "sigmoid": torch.sigmoid,
    "none": lambda x: x,
}
_NODES = "nodes of a Fourier transform, which are made anew"


@dataclass(frozen=True)
class Kernel:
    """One state space layer: its parameters under our names, and the options they imply."""

    mixer: str
    """Either "s4" or "s4d"."""
    parameters: dict[str, Tensor]
    """Tensors by our names: float64 where they were derived, float32 where they are the file's own."""
    n_ssm: int
    """Number of distinct SSMs, which the features share in turn."""
    d_state: int
    """State size N."""
    rank: int
    """Rank of the low-rank part P Q^*; 0 for S4D."""
    decay: str
    """Function that makes -Re Lambda of its parameter."""
    dt_transform: str
    """Function that makes dt of its parameter."""
    tie_dt: bool
    """Whether all modes of a feature share one dt."""
    length: int
    """Length L of the truncated C~ in the file; 0 where the file holds C itself."""
    recovery: Recovery | None
    """How well C was recovered from C~; None where the file holds C itself."""


def version_of(ledger: Ledger) -> str:
    """Return which layout the state space layers of a file have: HEAD, V3 or V2.

    Raises:
        UserError: the file has no state space layer, or those of version 1.
    """
    names = {key.rpartition("kernel.")[2] for key in ledger.names if "kernel." in key}
    if any(".kernel.krylov." in key for key in ledger.names):
        raise UserError(f"{ledger.where} is of version 1 of state-spaces/s4: s4gen reads version 2 and newer")
    if "inv_dt" in names:
        return HEAD
    if names & {"inv_w_real", "inv_A_real"}:
        return V3
    if names & {"log_w_real", "w"}:
        return V2
    raise UserError(f"{ledger.where} holds no state space layer of state-spaces/s4: its first key is {ledger.names[0]}")


def _check_kind(options: Options, version: str, kind: str) -> None:
    """Refuse a configuration whose layers are of another kind or version than the weights.

    It belongs to another model then, and its step sizes, which no weights can contradict, would be believed.

    Raises:
        UserError: kind or version differ from the weights.
    """
    said = {"kind": options.get("kind", kind), "version": options.get("version", version)}
    known = {"head": HEAD, "v3": V3, "v2": V2}
    # The field reads like "v3.0.0" or "HEAD e757cef". Any other text proves nothing, so it counts as agreement.
    release = known.get(str(said["version"]).lower().split(" ")[0].split(".")[0], version)
    for name, given, found in (("kind", said["kind"], kind), ("version", release, version)):
        if given != found and (name == "version" or given in ("s4", "s4d")):
            raise UserError(
                f"{options.source}: {name} = {said[name]!r}, but the weights are of {found}; is it another model's?"
            )


def read_kernel(ledger: Ledger, block: str, version: str, options: Options, dt_transform: str) -> Kernel:
    """Read the layer of the block with this prefix, such as "model.layers.3".

    Raises:
        UserError: a tensor is missing or has another size, or the layer cannot be stepped.
    """
    layer = f"{block}.layer.layer." if version == HEAD else f"{block}.layer."
    prefix = f"{layer}kernel." if version == HEAD else f"{layer}kernel.kernel."
    channels, H, n, _ = ledger.shape(f"{prefix}C")
    if channels != 1:
        raise UserError(
            f"{ledger.where}: {prefix}C has {channels} channels: a bidirectional layer, or one with several channels, "
            "cannot be stepped; expected 1"
        )
    is_s4 = f"{prefix}P" in ledger
    _check_kind(options, version, "s4" if is_s4 else "s4d")
    parameters = {"D": ledger.take(f"{layer}D", H)}
    dt, dt_transform = _dt(ledger, prefix, H, n, dt_transform)
    parameters["raw_dt"] = dt
    Lambda, decay = _eigenvalues(ledger, prefix, version, is_s4, n, options)
    parameters |= Lambda
    S = len(parameters["frequency"])
    parameters["B"] = ledger.take(f"{prefix}B", S, n, 2)
    rank = 0
    if is_s4:
        rank = ledger.shape(f"{prefix}P")[0]
        parameters["P"] = ledger.take(f"{prefix}P", rank, S, n, 2)
    if f"{prefix}Q" in ledger:
        # The reference has A = diag(w) - P Q^T, we have diag(w) - P Q^*: conjugate Q.
        parameters["Q"] = ledger.take(f"{prefix}Q", rank, S, n, 2) * torch.tensor([1.0, -1.0])
    length = _length(ledger, prefix, version) if is_s4 else 0
    parameters["C"] = ledger.take(f"{prefix}C", H, n, 2, derived=length > 0)
    recovery = None
    if length:
        name = f"{ledger.where}: {prefix}C"
        parameters["C"], recovery = recovered(parameters, decay, dt_transform, length, name)
    for key, why in (("omega", _NODES), ("z", _NODES), ("A", "the reference does not use it")):
        if f"{prefix}{key}" in ledger:
            ledger.ignore(f"{prefix}{key}", why)
    mixer = "s4" if is_s4 else "s4d"
    return Kernel(mixer, parameters, S, 2 * n, rank, decay, dt_transform, dt.dim() == 1, length, recovery)


def _dt(ledger: Ledger, prefix: str, H: int, n: int, transform: str) -> tuple[Tensor, str]:
    """Return the parameter of dt, r(H) or r(H, n) if each mode has its own, and the name of our function for it.

    We have exp and softplus; what another function gives is stored as its logarithm, under exp.
    """
    key = f"{prefix}inv_dt" if f"{prefix}inv_dt" in ledger else f"{prefix}log_dt"
    tied = len(ledger.shape(key)) < 2 or ledger.shape(key)[1] == 1
    known = transform in ("exp", "softplus")
    raw = ledger.take(key, *((H,) if tied else (H, n)), derived=not known)
    if known:
        return raw, transform
    dt = _APPLIED[transform](raw.double())
    if not (dt > 0).all():
        raise UserError(
            f'{ledger.where}: {key} gives step sizes that are not positive with dt_transform = "{transform}"'
        )
    return dt.log(), "exp"


def _eigenvalues(
    ledger: Ledger, prefix: str, version: str, is_s4: bool, n: int, options: Options
) -> tuple[dict[str, Tensor], str]:
    """Return `raw_decay` and `frequency`, r(S, n) each, and the name of the function that makes the decay positive.

    Lambda = -f(raw_decay) + i frequency.
    """
    if f"{prefix}w" in ledger:
        S = ledger.shape(f"{prefix}w")[0]
        real, imag = ledger.take(f"{prefix}w", S, n, 2).unbind(-1)
        _check_half(imag, f"{ledger.where}: {prefix}w")
        return {"raw_decay": -real, "frequency": imag.contiguous()}, "none"
    names = {HEAD: ("A_real", "A_imag"), V2: ("log_w_real", "w_imag")}
    names[V3] = ("inv_w_real", "w_imag") if is_s4 else ("inv_A_real", "A_imag")
    real_key, imag_key = (prefix + name for name in names[version])
    S = ledger.shape(real_key)[0]
    real_transform = "exp" if version == V2 else options.choice("real_transform", TRANSFORMS, "exp")
    imag_transform = "none" if version == V2 else options.choice("imag_transform", TRANSFORMS, "none")
    raw = ledger.take(real_key, S, n, derived=real_transform == "sigmoid")
    if real_transform == "sigmoid":
        raw, real_transform = torch.sigmoid(raw.double()).log(), "exp"
    imag = ledger.take(imag_key, S, n, derived=imag_transform != "none")
    # Of each conjugate pair S4 of version 3 keeps the member with Im < 0, and everything else that with Im > 0. HEAD
    # stores the positive number, too, but means its negative.
    lower = version == V3 and is_s4
    if imag_transform != "none":
        imag = _APPLIED[imag_transform](imag.double())
    else:
        _check_half(-imag if lower else imag, f"{ledger.where}: {imag_key}", "negative" if lower else "positive")
    return {"raw_decay": raw, "frequency": -imag if version == HEAD else imag}, real_transform


def _check_half(imag: Tensor, name: str, sign: str = "positive") -> None:
    """Refuse a layer that keeps the other member of its conjugate pairs: B, C and P would belong to the wrong one."""
    # Training may push single modes over zero, so the majority decides.
    if (imag < 0).double().mean() > 0.5:
        wrong = "negative" if sign == "positive" else "positive"
        raise UserError(
            f"{name} is mostly {wrong}, and this layout keeps the {sign} half of each conjugate pair: these weights "
            "have the wrong conjugation, or are of another version than their names"
        )


def _length(ledger: Ledger, prefix: str, version: str) -> int:
    """Return the length L that C~ was truncated to, in inputs; 0 where C itself is stored."""
    for key in ("l_kernel", "L"):
        if prefix + key in ledger:
            return ledger.number(prefix + key)
    if version == V2 and f"{prefix}omega" in ledger:
        return 2 * (ledger.shape(f"{prefix}omega")[0] - 1)  # nodes of a real FFT of even length L: L / 2 + 1
    names = f"{prefix}omega" if version == V2 else f"{prefix}l_kernel" if version == HEAD else f"{prefix}L"
    raise UserError(f"{ledger.where}: the key {names} is missing, so the length that its C belongs to is unknown")
