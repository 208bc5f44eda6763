"""DSS, the ancestor of S4D: complex diagonal state spaces without conjugate pairs, y = Re(sum_n C_n x_n).

Source: DSS (arXiv 2203.14343), section 3. With z = dt Lambda (the paper has B = 1) the two kernels are

    exp      K[l] = Re(sum_n C_n B_n (e^z - 1) / Lambda  e^(zl)),                   Re Lambda < 0
    softmax  K[l] = Re(sum_n C_n B_n (e^z - 1) / (Lambda (e^(zL) - 1))  e^(zl)),    any Re Lambda

where L, the length of normalisation, is a property of the layer and not of the sequence: softmax divides each mode by
its sum over L taps. Both kernels are S4D by zero-order hold, with half of C (so that its 2 Re becomes Re) and, for
softmax, C / (e^(zL) - 1). The softmax kernel has poles at zL = 2 pi i m; no regularisation hides them.

A mode with Re Lambda > 0 grows by e^(Re z) per step. So that its state stays within the range of floats, half of the
normaliser e^(-Re(z) L) is applied to the input and half to the output: over L steps the state then runs from
e^(-Re(z) L / 2) to the inverse of that. Float32 holds this, in either view, for Re(z) L up to 85, and up to 170 if a
block is at most half of L. For stronger growth only `kernel` is exact, because inputs are rounded to zero in the state.
Beyond L steps the recurrence continues the formula and the mode goes on growing without bound; use sequences longer
than L only with modes that decay.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from s4gen.ssm import diagonal
from s4gen.ssm.block_form import BlockMaps
from s4gen.ssm.realform import column


def normaliser(Lambda: Tensor, dt: Tensor, norm_length: Tensor | float | None) -> tuple[Tensor, Tensor]:
    """Return a factor for the input and one for the output, c(H, n) in complex128, whose product is 1 / (e^(zL) - 1).

    Lambda is c(H, n), dt r(H) or r(H, n). Without a norm_length both factors are 1. To avoid overflow, exponentials of
    positive numbers are taken of half the number only, once in each factor.
    """
    Lambda = Lambda.to(torch.complex128)
    if norm_length is None:
        return torch.ones_like(Lambda), torch.ones_like(Lambda)
    zL = dt.to(torch.float64).view(len(dt), -1) * Lambda * norm_length
    grows = zL.real > 0
    half = zL.real.clamp_min(0) / 2
    decaying = torch.where(grows, -zL, zL)
    # For growing modes: 1 / (e^w - 1) = -e^(-w) / (e^(-w) - 1), whose exponentials all decay.
    output = torch.where(grows, -torch.exp(decaying + half), 1) / torch.expm1(decaying)
    return torch.exp(-half).to(torch.complex128), output


def kernel(
    Lambda: Tensor, B: Tensor, C: Tensor, dt: Tensor, L: int, norm_length: Tensor | float | None = None
) -> Tensor:
    """Return the convolution kernel r(H, L): the exp kernel if norm_length is None, else softmax.

    Shapes and method are those of `diagonal.kernel`, a product of two matrices; but the left one is made in complex128,
    which has room for growth by e^700, and it holds no large number when it is rounded.
    """
    into, out = normaliser(Lambda, dt, norm_length)
    log_a, B_bar = diagonal.discretize(Lambda, B * into * out, dt, "zoh")
    S = max(1, math.isqrt(L))
    steps = torch.arange(max(S, -(-L // S)), dtype=torch.float64, device=dt.device)[:, None]
    left = C[:, None] * B_bar[:, None] * torch.exp(log_a[:, None] * steps[: -(-L // S)] * S)  # c(H, L/S, n)
    fine = torch.exp(log_a[:, None] * steps[:S])  # c(H, S, n)
    product = torch.cat((left.real, -left.imag), -1).to(C.real.dtype) @ column(fine).to(C.real.dtype).transpose(1, 2)
    return product.flatten(1)[:, :L]


def block_maps(
    Lambda: Tensor, B: Tensor, C: Tensor, dt: Tensor, T: int, last: int, norm_length: Tensor | float | None = None
) -> BlockMaps:
    """Return the matrices for `block_form.block_convolve`; the state is all n numbers x in real form."""
    into, out = normaliser(Lambda, dt, norm_length)
    return diagonal.block_maps(Lambda, B * into, (C / 2 * out).to(C.dtype), dt, T, last, "zoh")


def step_constants(
    Lambda: Tensor, B: Tensor, C: Tensor, dt: Tensor, norm_length: Tensor | float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Abar, Bbar and Cbar for `diagonal.step`."""
    into, out = normaliser(Lambda, dt, norm_length)
    return diagonal.step_constants(Lambda, B * into, (C / 2 * out).to(C.dtype), dt, "zoh")
