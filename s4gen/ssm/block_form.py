"""Causal convolution with the kernel of a state space model: in blocks, and by FFT.

The block form cuts a sequence into blocks of length T. Inside a block the output is a Toeplitz product with the first T
taps of the kernel. Between blocks only the N numbers of the state travel:

    y_j     = u_j  Toeplitz(K[:T])  +  x_j  (C Abar^1 .. C Abar^T)
    x_{j+1} = Abar^T x_j  +  u_j  (Abar^(T-1) Bbar .. Abar^0 Bbar)

where u_j is block j of the input and x_j the state that enters it. These are three batched matrix products. They need
no padding to 2L, take any length, and accept an initial state and return the final one at no extra cost. On two CPU
cores this is several times faster than the FFT, forward and backward; both are exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from s4gen.ssm.realform import multiplier, multiply

# The longest block. An input costs 2T + 4N multiplications, so short blocks are cheap; but they make small matrix
# products, and each block is one turn of a Python loop. Measured forward + backward on one core (AVX-512), at
# N = 16, 32 and 64, H = 48 to 256 and L = 784 to 8,000: 64 is best or within 10 % of the best, and 128 takes 1.25 to
# 1.75 times as long.
BLOCK = 64


class BlockMaps(NamedTuple):
    """The matrices of the block form for blocks of length T. All are real, and each head has its own."""

    kernel: Tensor  # r(H, T): K[0] .. K[T-1]
    into_state: Tensor  # r(H, T, N): row i is Abar^(T-1-i) Bbar
    from_state: Tensor  # r(H, N, T): column j is C Abar^(j+1)
    single: Tensor  # Abar: real-form diagonal r(H, N), or dense r(H, N, N) acting on columns
    transition: Tensor  # Abar^T
    last_transition: Tensor  # Abar^r, r = length of the last block


def block_lengths(L: int) -> tuple[int, int]:
    """Cut a sequence of length L evenly: return the length T of its blocks and r of the last one; r <= T <= BLOCK."""
    n_blocks = -(-L // BLOCK)
    T = -(-L // n_blocks)
    return T, L - (-(-L // T) - 1) * T


class _Transpose(torch.autograd.Function):
    """Transpose a matrix in memory, and its gradient too.

    Autograd's own gradient of `t().contiguous()` is a strided view. Every batched product that reads such a view makes
    a slow copy of its own: 42 % of the time of a layer's forward + backward, when it was measured.
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
    """Make the matrix M of a convolution: r(H, T) -> r(H, T, T) with M[i, j] = K[j - i] for j >= i, else 0.

    Then (u M)[j] = sum_(i <= j) u_i K[j - i].
    """
    T = kernel.shape[-1]
    return F.pad(kernel, (T - 1, 0)).unfold(-1, T, 1).flip(-2)


def _advance(transition: Tensor, x: Tensor) -> Tensor:
    """Apply one power of Abar, given as `BlockMaps.transition` is, to states x r(H, B, N)."""
    if transition.dim() == 3:
        return x @ transition.transpose(1, 2)
    return multiply(multiplier(transition)[:, :, None], x)


def _advance_by(single: Tensor, x: Tensor, counts: Tensor, most: int) -> Tensor:
    """Apply Abar^counts[b] to x[:, b] r(H, N), for counts int64 (B,) of at most `most`, by repeated squaring."""
    power = single
    for bit in range(most.bit_length()):
        x = torch.where((counts >> bit & 1).bool()[:, None], _advance(power, x), x)
        power = power @ power if power.dim() == 3 else multiply(multiplier(power), power)
    return x


def block_convolve(
    u: Tensor, maps: BlockMaps, state: Tensor | None, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Convolve u r(B, L, H) from a state r(B, H, N); return y r(B, L, H) and the final state r(B, H, N).

    Args:
        u: the input.
        maps: the matrices of the system, made for ``block_lengths(L)``.
        state: the state before the first input; None: zeros.
        lengths: int64 (B,) with 0 <= lengths <= L. The final state of row b is then the one after its first lengths[b]
            inputs. Outputs are computed for all L inputs all the same.
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
        # unbind rather than one index after another: the gradient of each index would be as large as all blocks.
        for pushed in torch.bmm(flat, maps.into_state).view(H, n_batch, n_blocks, N).unbind(2)[:-1]:
            entering.append(_advance(maps.transition, entering[-1]) + pushed)
    states = torch.stack(entering, dim=2)
    if lengths is None:
        final = _advance(maps.last_transition, entering[-1])
        final = final + by_head[:, :, -1, :last] @ maps.into_state[:, T - last :]
    else:
        final = _state_after(lengths, by_head, states, maps)
    if state is None and n_blocks == 1:  # the only entering state is zero, so it adds nothing to the output
        y = torch.bmm(flat, toeplitz(maps.kernel))
    else:
        y = torch.bmm(states.view(H, n_batch * n_blocks, N), maps.from_state)
        y = torch.baddbmm(y, flat, toeplitz(maps.kernel))
    y = _transpose(y.view(H, n_batch * n_blocks * T)).view(n_batch, n_blocks * T, H)
    return y[:, :L], final.transpose(0, 1)


def _state_after(lengths: Tensor, by_head: Tensor, states: Tensor, maps: BlockMaps) -> Tensor:
    """Return the state r(H, B, N) of each row b after lengths[b] inputs.

    It comes from the state that enters the block in which the row ends, and from that block's inputs. by_head are all
    inputs, r(H, B, blocks, T), and states all entering states, r(H, B, blocks, N).
    """
    T = by_head.shape[-1]
    block = (lengths - 1).clamp_min(0) // T
    count = lengths - block * T  # inputs of that block, 0 .. T
    rows = torch.arange(len(lengths), device=lengths.device)
    # Shift the block to the right, so that the last input of the row meets the last row of into_state, Abar^0 Bbar.
    source = torch.arange(T, device=lengths.device) - (T - count)[:, None]
    inputs = by_head[:, rows, block].gather(-1, source.clamp_min(0).expand(by_head.shape[0], -1, -1))
    inputs = inputs * (source >= 0)
    return _advance_by(maps.single, states[:, rows, block], count, T) + inputs @ maps.into_state


def fft_convolve(u: Tensor, kernel: Tensor) -> Tensor:
    """Convolve u r(B, L, H) with a kernel r(H, L), causally, by FFT: r(B, L, H).

    The length 2L keeps the circular convolution of the FFT from wrapping the end onto the beginning.
    """
    L = u.shape[1]
    spectrum = torch.fft.rfft(u, n=2 * L, dim=1) * torch.fft.rfft(kernel, n=2 * L).t()
    return torch.fft.irfft(spectrum, n=2 * L, dim=1)[:, :L]
