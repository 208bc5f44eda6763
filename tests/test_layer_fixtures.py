"""Whole layers against numbers made by the reference implementation: sequence, chunks, steps, from a state."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from reference_numbers import reference_file
from torch import Tensor, nn

from s4gen.config import SSMConfig
from s4gen.models.blocks import GatedOutput
from s4gen.models.ssm_layers import S4, S4D
from s4gen.ssm import dplr
from s4gen.ssm.realform import column, column_to_complex, row, row_to_complex


class Layer(nn.Module):
    """SSM -> GELU -> GLU, as the reference's block without norm and residual."""

    def __init__(self, ssm: Any, output: GatedOutput) -> None:
        super().__init__()
        self.ssm, self.output = ssm, output

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, state = self.ssm(x, state)
        return self.output(y), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.ssm.step(x, state)
        return self.output(y), state


def from_reference(name: str, stored: str, dtype: torch.dtype) -> tuple[Layer, dict[str, Any]]:
    options = json.loads(reference_file(f"{name}.json").read_text())
    weights = torch.load(reference_file(f"{name}_{stored}.pt"), weights_only=True)
    kernel = {key.removeprefix("layer.kernel."): value for key, value in weights.items() if "kernel" in key}
    config = SSMConfig(
        d_state=options["d_state"],
        discretization=options["disc"],
        n_ssm=options["n_ssm"],
        dt_transform=options["dt_transform"],
        decay=options["real_transform"],
    )
    ssm = (S4 if options["mode"] == "dplr" else S4D)(options["d_model"], config)
    output = GatedOutput(options["d_model"], 0.0)
    found = {"raw_dt": kernel["inv_dt"][:, 0], "raw_decay": kernel["A_real"], "frequency": -kernel["A_imag"]}
    found |= {"B": kernel["B"][0], "C": kernel["C"][0], "D": weights["layer.D"][0]}
    if "P" in kernel:
        found["P"] = kernel["P"]
    ssm.load_state_dict(found)
    output.linear.weight.data = weights["output_linear.0.weight"]
    output.linear.bias.data = weights["output_linear.0.bias"]
    layer = Layer(ssm, output).to(dtype)
    if length := int(kernel.get("l_kernel", 0)):  # the reference stores C (I - Abar^l)
        Lambda, B, C, dt = layer.ssm.continuous()
        A = dplr.dense_transition(dplr.step_constants(Lambda, layer.ssm.low_rank(), B, C, dt))
        truncation = torch.eye(A.shape[-1], dtype=dtype) - torch.linalg.matrix_power(A, length)
        C = row_to_complex(torch.linalg.solve(truncation.transpose(1, 2), row(C)))
        layer.ssm.C.data = torch.view_as_real(C)
    return layer, options


def error(got: Tensor, want: np.ndarray) -> float:
    wanted = torch.from_numpy(want)
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 5e-5)])
@pytest.mark.parametrize(
    ("name", "stored"),
    [("layer_s4_dplr", "C"), ("layer_s4_dplr", "Ctilde"), ("layer_s4d", "C"), ("layer_s4d_bilinear", "C")],
)
def test_layers_equal_the_fixtures(name: str, stored: str, dtype: torch.dtype, bound: float) -> None:
    layer, options = from_reference(name, stored, dtype)
    if stored == "Ctilde":
        bound = max(bound, 1e-5)  # it was rounded to float32 after it had been made from C
    want = np.load(reference_file(f"{name}.npz"), allow_pickle=False)
    x, cut = torch.from_numpy(want["x"]).to(dtype), options["split"]

    def state(tensor: Tensor) -> Tensor:
        return column_to_complex(tensor)

    with torch.no_grad():
        y, end = layer(x)
        assert error(y, want["y_f64"]) < bound
        assert error(state(end), want["state_end_f64"]) < bound
        first, middle = layer(x[:, :cut])
        second, end = layer(x[:, cut:], middle)
        assert error(state(middle), want["state_mid_f64"]) < bound
        assert error(torch.cat((first, second), 1), want["y_chunked_f64"]) < bound
        assert error(state(end), want["state_end_f64"]) < bound
        start = column(torch.from_numpy(want["state0"])).to(dtype)
        y, end = layer(x, start)
        assert error(y, want["y_from_state0_f64"]) < bound
        assert error(state(end), want["state_end_from_state0_f64"]) < bound
        steps, now = [], layer.ssm.initial_state(len(x))
        for x_t in x.unbind(1):
            y_t, now = layer.step(x_t, now)
            steps.append(y_t)
        assert error(torch.stack(steps, 1), want["y_step_f64"]) < bound
        assert error(state(now), want["state_end_step_f64"]) < bound


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 5e-5)])
def test_the_minimal_s4d_equals_its_fixture(dtype: torch.dtype, bound: float) -> None:
    """Its Lambda is the other member of each pair and B is folded into C: conjugate both C and Lambda."""
    weights = torch.load(reference_file("minimal_s4d.pt"), weights_only=True)
    want = np.load(reference_file("minimal_s4d.npz"), allow_pickle=False)
    ssm, output = S4D(8, SSMConfig(d_state=16)), GatedOutput(8, 0.0)
    B = torch.zeros(8, 8, 2)
    B[..., 0] = 1
    found = {"raw_dt": weights["kernel.log_dt"], "raw_decay": weights["kernel.log_A_real"], "D": weights["D"], "B": B}
    found |= {"frequency": -weights["kernel.A_imag"], "C": weights["kernel.C"] * torch.tensor([1.0, -1.0])}
    ssm.load_state_dict(found)
    output.linear.weight.data = weights["output_linear.0.weight"][..., 0]
    output.linear.bias.data = weights["output_linear.0.bias"]
    layer = Layer(ssm, output).to(dtype)
    with torch.no_grad():
        y, _ = layer(torch.from_numpy(want["x"]).to(dtype).transpose(1, 2))
        assert error(y.transpose(1, 2), want["y_f64"]) < bound
        assert error(layer.ssm.kernel(100), want["K"]) < bound
