"""The state space layers S4D and S4 as modules: parallel, chunked and stepped.

Both keep plain continuous-time parameters (Lambda, P, B, C, dt, D); everything discrete is derived where it is needed,
so a forward pass changes nothing. Arithmetic is float32 (or float64 after ``.double()``) also under autocast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from s4gen.config import SSMConfig
from s4gen.ssm import block_form, diagonal, dplr, hippo, inits, transforms

State = Tensor  # r(B, H, N) real form, see s4gen.ssm.realform


class SSMLayer(nn.Module):
    """What S4D and S4 share: parameters and the outer methods. Lambda = -decay + i frequency.

    Lambda, P and B have S rows, one for each distinct SSM; feature h uses row h mod S. The precision of D is that of
    the layer; a parameter may be kept in a higher one (an imported C is), and is rounded where it is used.
    """

    B: Tensor

    def __init__(self, d_model: int, config: SSMConfig, Lambda: Tensor, B: Tensor) -> None:
        super().__init__()
        H, S, n = d_model, config.n_ssm or d_model, config.d_state // 2
        if H % S:
            raise ValueError(f"n_ssm = {S} does not divide d_model = {H}: features are dealt out to the SSMs evenly")
        self.d_model, self.d_state, self._copies = d_model, config.d_state, H // S
        self._decay_transform, self._dt_transform = config.decay, config.dt_transform
        dt = inits.log_uniform_dt(H if config.tie_dt else H * n, config.dt_min, config.dt_max)
        dt = dt if config.tie_dt else dt.view(H, n)
        self.raw_dt = nn.Parameter(transforms.unconstrained(dt, config.dt_transform).float())
        decay = transforms.unconstrained(-Lambda.real, config.decay)
        self.raw_decay = nn.Parameter(decay.float().expand(S, n).clone())
        self.frequency = nn.Parameter(Lambda.imag.float().expand(S, n).clone())
        B = torch.view_as_real(B).float().expand(S, n, 2).clone()
        if config.train_B:
            self.B = nn.Parameter(B)
        else:
            self.register_buffer("B", B)
        self.C = nn.Parameter(torch.randn(H, n, 2) * math.sqrt(0.5))
        self.D = nn.Parameter(torch.randn(H))

    @property
    def ssm_parameters(self) -> tuple[str, ...]:
        """Names of the parameters trained with the SSM's own learning rate and no weight decay."""
        names = ("raw_dt", "raw_decay", "frequency", "B", "P", "Q")
        return tuple(name for name, _ in self.named_parameters() if name in names)

    def continuous(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lambda, B, C c(H, n) and dt r(H) or r(H, n), in the layer's precision."""
        own = self.D.dtype
        decay = transforms.positive(self.raw_decay.to(own), self._decay_transform)
        dt = transforms.positive(self.raw_dt.to(own), self._dt_transform)
        Lambda = self.per_feature(torch.complex(-decay, self.frequency.to(own)))
        B, C = torch.view_as_complex(self.B.to(own)), torch.view_as_complex(self.C.to(own))
        return Lambda, self.per_feature(B), C, dt

    def per_feature(self, x: Tensor) -> Tensor:
        """(..., S, n) -> (..., H, n): row h is row h mod S."""
        return torch.cat([x] * self._copies, dim=-2) if self._copies > 1 else x

    @torch.no_grad()
    def rescale_dt_(self, rate: float) -> None:
        """Multiply dt by `rate`: the same continuous system, read at another sampling rate, in both views."""
        if not 0 < rate < math.inf:
            raise ValueError(f"rate must be a positive number, got {rate}: 0.5 reads a signal sampled twice as densely")
        dt = transforms.positive(self.raw_dt.double(), self._dt_transform) * rate
        inverse = transforms.POSITIVE[self._dt_transform][1]
        self.raw_dt.copy_(inverse(dt))

    def block_maps(self, T: int, last: int) -> block_form.BlockMaps:
        raise NotImplementedError

    def step_form(self) -> StepForm:
        """Abar, Bbar, Cbar of the present parameters, differentiably."""
        raise NotImplementedError

    @torch.no_grad()
    def discretized(self) -> StepForm:
        """The recurrent twin: Abar, Bbar, Cbar precomputed and frozen; same `initial_state` and `step`."""
        return self.step_form()

    def initial_state(self, batch: int) -> State:
        """Zeros r(batch, H, N)."""
        return self.D.new_zeros(batch, self.d_model, self.d_state)

    def forward(self, u: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """u r(B, L, H), L >= 1, from `state` r(B, H, N) (None: zeros); returns y r(B, L, H) and the state after it.

        With lengths int64 (B,), rows end after that many inputs: the state of a row is the one there. Outputs beyond
        are those of whatever stands in u. Raises ValueError for shapes that do not fit.
        """
        if u.dim() != 3 or u.shape[1] < 1 or u.shape[2] != self.d_model:
            raise ValueError(f"u has shape {tuple(u.shape)}, expected (batch, length >= 1, d_model = {self.d_model})")
        if state is not None:
            _check_state(state, (len(u), self.d_model, self.d_state))
        if lengths is not None:
            check_lengths(lengths, u)
        with torch.autocast(u.device.type, enabled=False):
            u = u.to(self.D.dtype)
            maps = self.block_maps(*block_form.block_lengths(u.shape[1]))
            maps = maps._replace(kernel=_add_skip(maps.kernel, self.D))
            return block_form.block_convolve(u, maps, state, lengths)

    def step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: u r(B, H), state r(B, H, N). Discretises anew; `discretized` once and step that to be fast."""
        return self.step_form().step(u, state)


def _check_state(state: Tensor, wanted: tuple[int, int, int]) -> None:
    if tuple(state.shape) != wanted:
        raise ValueError(
            f"state has shape {tuple(state.shape)}, expected {wanted}: make one with initial_state({wanted[0]})"
        )


def check_lengths(lengths: Tensor, u: Tensor) -> None:
    """Raises ValueError unless lengths (B,) fit u r(B, L, ...): one for each row, 0 to L."""
    if tuple(lengths.shape) != (len(u),):
        raise ValueError(f"lengths has shape {tuple(lengths.shape)}, expected ({len(u)},): give one for each row of u")
    # Looking at values would stop a compiled graph; there, wrong lengths are the caller's.
    if not torch.compiler.is_compiling() and not 0 <= lengths.min() <= lengths.max() <= u.shape[1]:
        raise ValueError(
            f"lengths has values {lengths.tolist()}, expected 0 to {u.shape[1]}, the length of u: shorten them or pad u"
        )


def _add_skip(kernel: Tensor, D: Tensor) -> Tensor:
    """The skip D u as part of the first tap."""
    return torch.cat((kernel[:, :1] + D[:, None], kernel[:, 1:]), dim=1)


class S4D(SSMLayer):
    """Diagonal state space layer (arXiv 2206.11893)."""

    def __init__(self, d_model: int, config: SSMConfig) -> None:
        super().__init__(d_model, config, *inits.s4d(config.init, config.d_state))
        self.method = "zoh" if config.discretization == "auto" else config.discretization

    def kernel(self, L: int) -> Tensor:
        """Convolution kernel r(H, L), without D."""
        return diagonal.kernel(*self.continuous(), L, self.method)

    def block_maps(self, T: int, last: int) -> block_form.BlockMaps:
        return diagonal.block_maps(*self.continuous(), T, last, self.method)

    def step_form(self) -> DiagonalStep:
        return DiagonalStep(*diagonal.step_constants(*self.continuous(), self.method), self.D.clone())


class S4(SSMLayer):
    """Diagonal plus low-rank state space layer, from a HiPPO measure, bilinear (arXiv 2111.00396)."""

    def __init__(self, d_model: int, config: SSMConfig) -> None:
        Lambda, P, B = hippo.nplr(config.init, config.d_state)
        super().__init__(d_model, config, Lambda, B)
        rank, n = P.shape
        self.P = nn.Parameter(torch.view_as_real(P).float()[:, None].expand(rank, len(self.B), n, 2).clone())
        self.Q = None if config.tie_Q else nn.Parameter(self.P.detach().clone())

    def low_rank(self) -> Tensor:
        """P c(R, H, n)."""
        return self.per_feature(torch.view_as_complex(self.P.to(self.D.dtype)))

    def low_rank_rows(self) -> Tensor | None:
        """Q c(R, H, n) of A = diag(Lambda) - sum_r P_r Q_r^*; None where it is P."""
        return None if self.Q is None else self.per_feature(torch.view_as_complex(self.Q.to(self.D.dtype)))

    def kernel(self, L: int) -> Tensor:
        """Convolution kernel r(H, L), without D, by two Krylov matrices."""
        Lambda, B, C, dt = self.continuous()
        return dplr.krylov_kernel(Lambda, self.low_rank(), B, C, dt, L, self.low_rank_rows())

    def block_maps(self, T: int, last: int) -> block_form.BlockMaps:
        Lambda, B, C, dt = self.continuous()
        return dplr.block_maps(Lambda, self.low_rank(), B, C, dt, T, last, self.low_rank_rows())

    def step_form(self) -> WoodburyStep:
        Lambda, B, C, dt = self.continuous()
        constants = dplr.step_constants(Lambda, self.low_rank(), B, C, dt, self.low_rank_rows())
        return WoodburyStep(constants, self.D.clone())


class StepForm(nn.Module):
    """Constants of one layer's recurrence; O(N) per head and step."""

    D: Tensor
    B_bar: Tensor

    def __init__(self, constants: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in constants.items():
            self.register_buffer(name, value.contiguous())

    def step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """u r(B, H), state r(B, H, N) -> y r(B, H), new state. Raises ValueError for shapes that do not fit."""
        H, N = self.B_bar.shape
        if u.dim() != 2 or u.shape[1] != H:
            raise ValueError(f"u has shape {tuple(u.shape)}, expected (batch, d_model = {H}): one input for each row")
        _check_state(state, (u.shape[0], H, N))
        y, state = self._recur(u, state)
        return y + self.D * u, state

    def _recur(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """`step` without D."""
        raise NotImplementedError

    def initial_state(self, batch: int) -> State:
        return self.B_bar.new_zeros(batch, *self.B_bar.shape)


class DiagonalStep(StepForm):
    """x' = Abar x + Bbar u, y = Cbar x' + D u with diagonal Abar; buffers in real form, Abar r(2, H, N)."""

    A_bar: Tensor
    C_bar: Tensor

    def __init__(self, A_bar: Tensor, B_bar: Tensor, C_bar: Tensor, D: Tensor) -> None:
        super().__init__({"A_bar": A_bar, "B_bar": B_bar, "C_bar": C_bar, "D": D})

    def _recur(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        return diagonal.step(self.A_bar, self.B_bar, self.C_bar, u, state)


class WoodburyStep(StepForm):
    """x' = (diag(a) - p q^T) x + Bbar u, y = Cbar x' + D u; buffers in real form."""

    def __init__(self, constants: dplr.StepConstants, D: Tensor) -> None:
        super().__init__({**constants._asdict(), "D": D})

    def _recur(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        return dplr.step(self.constants(), u, state)

    def constants(self) -> dplr.StepConstants:
        """All but D."""
        return dplr.StepConstants(*(getattr(self, name) for name in dplr.StepConstants._fields))
