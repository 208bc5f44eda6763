"""Read the stand-alone minimal S4D layer of state-spaces/s4 (its file models/s4/s4d.py)."""

from __future__ import annotations

import torch

from s4gen.errors import UserError
from s4gen.importing.ledger import Ledger
from s4gen.importing.options import Options
from s4gen.layers import S4D

KEYS = {"D", "kernel.C", "kernel.log_dt", "kernel.log_A_real", "kernel.A_imag"}


def is_minimal(ledger: Ledger) -> bool:
    """Return whether the file holds the minimal S4D layer."""
    return "kernel.log_A_real" in ledger


def read_minimal(ledger: Ledger, options: Options, dt: str | None) -> S4D:
    """Read the layer. It has Lambda = -exp(log_A_real) + i A_imag, and B = 1, as its C stands for B C.

    `dt` is the value of --dt, of which this layer can only be "exp".

    Raises:
        UserError: a tensor is missing or has another size, or the configuration contradicts the layer.
    """
    if dt == "softplus":
        raise UserError("--dt softplus does not go with the minimal S4D layer, whose dt is exp(log_dt): leave it out")
    if missing := sorted(KEYS - set(ledger.names)):
        raise UserError(f"{ledger.where}: the key {missing[0]} is missing, which the minimal S4D layer has")
    options.choice("disc", {"zoh": "zoh"}, "zoh")
    options.choice("dt_transform", {"exp": "exp"}, "exp")
    H, n, _ = ledger.shape("kernel.C")
    options.agree("d_model", H, "the width")
    options.agree("d_state", 2 * n, "the state size")
    transposed = options.flag("transposed", True)
    mixes = "output_linear.0.weight" in ledger
    layer = S4D(H, d_state=2 * n, init="lin", discretization="zoh", mix=mixes, transposed=transposed)
    imag = ledger.take("kernel.A_imag", H, n)
    # Training may push single modes over zero, so the majority decides.
    if (imag < 0).double().mean() > 0.5:
        raise UserError(
            f"{ledger.where}: kernel.A_imag is mostly negative, and this layer keeps the positive half of each "
            "conjugate pair: these weights have the wrong conjugation"
        )
    tensors = {
        "ssm.D": ledger.take("D", H),
        "ssm.C": ledger.take("kernel.C", H, n, 2),
        "ssm.raw_dt": ledger.take("kernel.log_dt", H),
        "ssm.raw_decay": ledger.take("kernel.log_A_real", H, n),
        "ssm.frequency": imag,
        "ssm.B": torch.tensor([1.0, 0.0]).expand(H, n, 2).clone(),
    }
    if mixes:
        tensors["output.linear.weight"] = ledger.take("output_linear.0.weight", 2 * H, H)
        tensors["output.linear.bias"] = ledger.take("output_linear.0.bias", 2 * H)
    layer.load_state_dict(tensors, assign=True)
    return layer.eval()
