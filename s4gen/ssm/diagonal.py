"""S4D, diagonal state space models: discretisation, kernel, block maps and step, so both views side by side.

Source: S4D (arXiv 2206.11893), sections 2 and 3. Discretisation is done in complex128 whatever the working precision
is, because the phase l * Im(dt Lambda) of a long kernel loses one digit per decade of l in float32. It costs no more
than O(H n sqrt(L)) exponentials.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from s4gen.ssm.block_form import BlockMaps
from s4gen.ssm.realform import column, multiplier, multiply, row
from s4gen.ssm.recompute import recomputed_by_heads


def discretize(Lambda: Tensor, B: Tensor, dt: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """Return log(Abar) and Bbar, both c(H, n) in complex128, from Lambda c(H, n), B c(H, n), dt r(H) or r(H, n).

    zoh (S4D eq. 7):      Abar = exp(dt Lambda),                      Bbar = (exp(dt Lambda) - 1) / Lambda * B
    bilinear (S4D eq. 6): Abar = (1 + dt Lambda/2)/(1 - dt Lambda/2), Bbar = dt B / (1 - dt Lambda/2)

    The logarithm is what makes powers cheap and exact: Abar^l = exp(l log(Abar)).

    Raises:
        ValueError: the method is neither of the two.
    """
    Lambda, B = Lambda.to(torch.complex128), B.to(torch.complex128)
    step = dt.to(torch.float64).view(len(dt), -1)
    z = step * Lambda
    if method == "zoh":
        return z, torch.expm1(z) / Lambda * B  # exp(z) - 1 would lose all digits of a slow mode, |z| << 1
    if method == "bilinear":
        ratio = (1 + z / 2) / (1 - z / 2)
        # At z = -2 the mode is gone after one step, Abar = 0. It becomes next to nothing, since 0 has no logarithm.
        return torch.log(torch.where(ratio == 0, 1e-300, ratio)), step * B / (1 - z / 2)
    raise ValueError(f"unknown discretization {method!r}: expected 'zoh' or 'bilinear'")


class _Exponentials(torch.autograd.Function):
    """Compute exp(l log_a) in complex128, but keep it in the working precision, also for the gradient.

    Autograd would keep the complex128 values: twice the memory.
    """

    @staticmethod
    def forward(ctx: Any, log_a: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:
        values = torch.exp(log_a[..., None] * exponents).to(dtype)
        ctx.save_for_backward(values, exponents)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        values, exponents = ctx.saved_tensors
        weighted = (gradient * values.conj()) @ exponents.to(values.dtype)
        return weighted.to(torch.complex128), None, None


def _exponentials(log_a: Tensor, stride: int, count: int, dtype: torch.dtype) -> Tensor:
    """Compute exp(l log_a) for l = 0, stride, 2 stride, ...: c(H, n) -> c(H, n, count) in `dtype`."""
    exponents = torch.arange(count, dtype=torch.float64, device=log_a.device) * stride
    values: Tensor = _Exponentials.apply(log_a, exponents, dtype)
    return values


def _stride(L: int) -> int:
    """Return a power of two near sqrt(L). It divides most lengths in use, and then nothing has to be cut off."""
    return 1 << (L.bit_length() // 2)


def powers(log_a: Tensor, L: int, dtype: torch.dtype) -> Tensor:
    """Compute exp(l log_a) for l = 0 .. L-1: c(H, n) -> c(H, n, L) in `dtype`.

    Writing l = l1 S + l2 with S ~ sqrt(L) replaces L exponentials by 2 sqrt(L) of them and L multiplications.
    """
    S = _stride(L)
    outer, inner = _exponentials(log_a, S, -(-L // S), dtype), _exponentials(log_a, 1, S, dtype)
    return (outer[..., None] * inner[..., None, :]).flatten(-2)[..., :L]


def _stacked(x: Tensor) -> Tensor:
    """Put a tensor into real form along its second axis: c(H, n, T) -> r(H, N, T), real parts first."""
    return torch.cat(torch.view_as_real(x.resolve_conj()).unbind(-1), dim=1)


def kernel(Lambda: Tensor, B: Tensor, C: Tensor, dt: Tensor, L: int, method: str) -> Tensor:
    """Return the convolution kernel K[l] = 2 Re(sum_n C_n Abar_n^l Bbar_n), r(H, L) (S4D eq. 4).

    It is made as a product of two real matrices, K[l1 S + l2] = sum_n (C Bbar Abar^(l1 S))_n (Abar^l2)_n, so that
    nothing of size H n L is ever formed. Shapes are those of `discretize`, C c(H, n).
    """
    log_a, B_bar = discretize(Lambda, B, dt, method)
    S = _stride(L)

    def tile(log_a: Tensor, CB: Tensor) -> tuple[Tensor]:
        coarse, fine = _exponentials(log_a, S, -(-L // S), CB.dtype), _exponentials(log_a, 1, S, CB.dtype)
        left = row((coarse * CB[..., None]).transpose(1, 2))  # r(H, L/S, N)
        return ((left @ _stacked(fine)).flatten(1)[:, :L],)

    return recomputed_by_heads(tile, 2 * S * C.shape[-1], log_a, C * B_bar.to(C.dtype))[0]


def block_maps(Lambda: Tensor, B: Tensor, C: Tensor, dt: Tensor, T: int, last: int, method: str) -> BlockMaps:
    """Return the matrices for `block_form.block_convolve`, for blocks of length T and a last one of length `last`."""
    log_a, B_bar = discretize(Lambda, B, dt, method)
    B_bar, (single, transition, last_transition) = B_bar.to(C.dtype), (torch.exp(k * log_a) for k in (1, T, last))
    V = powers(log_a, T, C.dtype)  # c(H, n, T): Abar^0 .. Abar^(T-1)
    into = V.flip(-1) * B_bar[..., None]  # Abar^(T-1-i) Bbar
    out = V * (2 * C * single.to(C.dtype))[..., None]  # 2 C Abar^(j+1)
    return BlockMaps(
        kernel=(row(C * B_bar)[:, None, :] @ _stacked(V))[:, 0],
        into_state=_stacked(into).transpose(1, 2),
        from_state=_stacked(out.conj()),
        single=column(single).to(C.real.dtype),
        transition=column(transition).to(C.real.dtype),
        last_transition=column(last_transition).to(C.real.dtype),
    )


def step_constants(Lambda: Tensor, B: Tensor, C: Tensor, dt: Tensor, method: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return Abar as `realform.multiplier` r(2, H, N), Bbar and Cbar in real form r(H, N), all rounded once."""
    real = C.real.dtype
    log_a, B_bar = discretize(Lambda, B, dt, method)
    return multiplier(column(torch.exp(log_a))).to(real), column(B_bar).to(real), row(C)


def step(A_bar: Tensor, B_bar: Tensor, C_bar: Tensor, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Take one recurrent step: x' = Abar x + Bbar u, y = Cbar x'; return y r(B, H) and x' r(B, H, N).

    The constants are those of `step_constants`, u r(B, H), x r(B, H, N). A step costs O(N) per feature.
    """
    x = torch.addcmul(multiply(A_bar, x), B_bar, u[..., None])
    return (x * C_bar).sum(-1), x
