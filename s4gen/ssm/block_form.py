"""Causal convolution with a state space kernel, in blocks and by FFT.

The block form cuts a sequence into blocks of length T. Inside a block the output is a Toeplitz product with the first T
taps of the kernel; between blocks only the N numbers of the state travel:

    y_j     = u_j  Toeplitz(K[:T])  +  x_j  (C Abar^1 .. C Abar^T)
    x_{j+1} = Abar^T x_j  +  u_j  (Abar^(T-1) Bbar .. Abar^0 Bbar)

Three batched matrix products, no padding to 2L, any length, and an initial and a final state for nothing. Measured on
two CPU cores it is several times faster than the FFT, forward and backward; both are exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from s4gen.ssm.realform import multiplier, multiply

# Longest block. Cost per input is 2T + 4N multiplications, but short blocks make small products, and each is a turn of
# a loop. Measured forward + backward on one core (AVX-512), at N = 16, 32 and 64, H = 48 to 256 and L = 784 to 8,000:
# 64 is best or within 10 % of it; 128 takes 1.25 to 1.75 times as long.
BLOCK = 64


class BlockMaps(NamedTuple):
    """The matrices of the block form, for one block length T; all real, per head."""

    kernel: Tensor  # r(H, T): K[0] .. K[T-1]
    into_state: Tensor  # r(H, T, N): row i is Abar^(T-1-i) Bbar
    from_state: Tensor  # r(H, N, T): column j is C Abar^(j+1)
    single: Tensor  # Abar: real-form diagonal r(H, N), or dense r(H, N, N) acting on columns
    transition: Tensor  # Abar^T
    last_transition: Tensor  # Abar^r, r = length of the last block


def block_lengths(L: int) -> tuple[int, int]:
    """(T, r): length of the blocks and of the last one, for a sequence of length L; r <= T <= BLOCK."""
    n_blocks = -(-L // BLOCK)
    T = -(-L // n_blocks)
    return T, L - (-(-L // T) - 1) * T


class _Transpose(torch.autograd.Function):
    """A matrix transposed in memory, and its gradient too.

    Autograd's own gradient of `t().contiguous()` is a strided view, of which every batched product that reads it makes
    a slow copy of its own (measured: 42 % of the time of a layer's forward + backward).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.t().contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.t().contiguous()


def _transpose(x: Tensor) -> Tensor:
    transposed: Tensor = _Transpose.apply(x)
    return transposed


def toeplitz(kernel: Tensor) -> Tensor:
    """r(H, T) -> r(H, T, T) with M[i, j] = kernel[j - i] for j >= i, else 0; then (u M)[j] = sum_i u_i K[j-i]."""
    T = kernel.shape[-1]
    return F.pad(kernel, (T - 1, 0)).unfold(-1, T, 1).flip(-2)


def _advance(transition: Tensor, x: Tensor) -> Tensor:
    """One power of Abar applied to x r(H, B, N)."""
    if transition.dim() == 3:
        return x @ transition.transpose(1, 2)
    return multiply(multiplier(transition)[:, :, None], x)


def _advance_by(single: Tensor, x: Tensor, counts: Tensor, most: int) -> Tensor:
    """Abar^counts[b] applied to x[:, b], for counts int64 (B,) of at most `most`: by the bits of the counts."""
    power = single
    for bit in range(most.bit_length()):
        x = torch.where((counts >> bit & 1).bool()[:, None], _advance(power, x), x)
        power = power @ power if power.dim() == 3 else multiply(multiplier(power), power)
    return x


def block_convolve(
    u: Tensor, maps: BlockMaps, state: Tensor | None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Causal convolution of u r(B, L, H) from state r(B, H, N) (None: zeros); returns y r(B, L, H) and the final state.

    `maps` must have been made for ``block_lengths(L)``. With lengths int64 (B,), 0 <= lengths <= L, the state of row b
    is that after its first lengths[b] inputs; what follows them changes no output before it.
    """
    n_batch, L, H = u.shape
    T, N = maps.into_state.shape[1:]
    n_blocks = -(-L // T)
    last = L - (n_blocks - 1) * T
    if last < T:
        u = F.pad(u, (0, 0, 0, T - last))
    by_head = _transpose(u.reshape(n_batch * n_blocks * T, H)).view(H, n_batch, n_blocks, T)
    flat = by_head.view(H, n_batch * n_blocks, T)
    x = u.new_zeros(H, n_batch, N) if state is None else state.transpose(0, 1)
    entering = [x]
    if n_blocks > 1:
        # Not one index after another: the gradient of each would be as large as all blocks together.
        for pushed in torch.bmm(flat, maps.into_state).view(H, n_batch, n_blocks, N).unbind(2)[:-1]:
            entering.append(_advance(maps.transition, entering[-1]) + pushed)
    states = torch.stack(entering, dim=2)
    if lengths is None:
        final = _advance(maps.last_transition, entering[-1])
        final = final + by_head[:, :, -1, :last] @ maps.into_state[:, T - last :]
    else:
        final = _state_after(lengths, by_head, states, maps)
    if state is None and n_blocks == 1:  # the one state that is entered is zero: nothing comes out of it
        y = torch.bmm(flat, toeplitz(maps.kernel))
    else:
        y = torch.bmm(states.view(H, n_batch * n_blocks, N), maps.from_state)
        y = torch.baddbmm(y, flat, toeplitz(maps.kernel))
    y = _transpose(y.view(H, n_batch * n_blocks * T)).view(n_batch, n_blocks * T, H)
    return y[:, :L], final.transpose(0, 1)


def _state_after(lengths: Tensor, by_head: Tensor, states: Tensor, maps: BlockMaps) -> Tensor:
    """State r(H, B, N) of row b after lengths[b] inputs: from the state entering the block in which it ends.

    by_head r(H, B, blocks, T), states r(H, B, blocks, N).
    """
    T = by_head.shape[-1]
    block = (lengths - 1).clamp_min(0) // T
    count = lengths - block * T  # inputs of that block, 0 .. T
    rows = torch.arange(len(lengths), device=lengths.device)
    # Shifted to the right, the last input of the row meets the last row of into_state, Abar^0 Bbar.
    source = torch.arange(T, device=lengths.device) - (T - count)[:, None]
    inputs = by_head[:, rows, block].gather(-1, source.clamp_min(0).expand(by_head.shape[0], -1, -1))
    inputs = inputs * (source >= 0)
    return _advance_by(maps.single, states[:, rows, block], count, T) + inputs @ maps.into_state


def fft_convolve(u: Tensor, kernel: Tensor) -> Tensor:
    """Causal convolution of u r(B, L, H) with kernel r(H, L) by FFT of length 2L."""
    L = u.shape[1]
    spectrum = torch.fft.rfft(u, n=2 * L, dim=1) * torch.fft.rfft(kernel, n=2 * L).t()
    return torch.fft.irfft(spectrum, n=2 * L, dim=1)[:, :L]
