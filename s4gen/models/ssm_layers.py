"""The state space layers S4D and S4 as modules, which run in parallel, in chunks, or step by step.

Both keep plain parameters of continuous time (Lambda, P, B, C, dt, D). Everything discrete is derived where it is
needed, so a forward pass changes nothing. Arithmetic is in float32 (float64 after ``.double()``), under autocast, too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from s4gen.config import SSMConfig
from s4gen.ssm import block_form, diagonal, dplr, hippo, inits, transforms

State = Tensor  # r(B, H, N) real form, see s4gen.ssm.realform


class SSMLayer(nn.Module):
    """The base of all state space layers: it has their parameters and outer methods. Lambda = -decay + i frequency.

    Lambda, P and B have S rows, one for each distinct SSM; feature h uses row h mod S. The precision of the layer is
    that of D. A parameter may be kept in a higher one, as an imported C is, and is rounded where it is used.
    """

    B: Tensor

    def __init__(self, d_model: int, config: SSMConfig, Lambda: Tensor, B: Tensor) -> None:
        super().__init__()
        H, S, n = d_model, config.n_ssm or d_model, config.d_state // 2
        if H % S:
            raise ValueError(f"n_ssm = {S} does not divide d_model = {H}: features are dealt out to the SSMs evenly")
        self.d_model, self.d_state, self._copies = d_model, config.d_state, H // S
        self._decay_transform, self._dt_transform = config.decay, config.dt_transform
        # Raw parameters may have any value; transforms make them positive where they are used.
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
        """Names of the parameters that are trained with `optim.ssm_lr` and without weight decay."""
        names = ("raw_dt", "raw_decay", "frequency", "B", "P", "Q")
        return tuple(name for name, _ in self.named_parameters() if name in names)

    def continuous(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return Lambda, B, C, all c(H, n), and dt r(H) or r(H, n), in the layer's precision."""
        own = self.D.dtype
        decay = transforms.positive(self.raw_decay.to(own), self._decay_transform)
        dt = transforms.positive(self.raw_dt.to(own), self._dt_transform)
        Lambda = self.per_feature(torch.complex(-decay, self.frequency.to(own)))
        B, C = torch.view_as_complex(self.B.to(own)), torch.view_as_complex(self.C.to(own))
        return Lambda, self.per_feature(B), C, dt

    def per_feature(self, x: Tensor) -> Tensor:
        """Deal out the S systems to the features: (..., S, n) -> (..., H, n), where row h is row h mod S."""
        return torch.cat([x] * self._copies, dim=-2) if self._copies > 1 else x

    @torch.no_grad()
    def rescale_dt_(self, factor: float) -> None:
        """Multiply dt by `factor`, so that the same continuous system reads signals at another sampling rate.

        Raises:
            ValueError: `factor` is not a positive number.
        """
        if not 0 < factor < math.inf:
            raise ValueError(
                f"factor must be a positive number, got {factor}: 0.5 reads a signal sampled twice as densely"
            )
        # In float64, so that the way through the transform and back loses nothing.
        dt = transforms.positive(self.raw_dt.double(), self._dt_transform) * factor
        inverse = transforms.POSITIVE[self._dt_transform][1]
        self.raw_dt.copy_(inverse(dt))

    def block_maps(self, T: int, last: int) -> block_form.BlockMaps:
        """Return the maps of the block form for blocks of length T, of which the last one has length `last`."""
        raise NotImplementedError

    def step_form(self) -> StepForm:
        """Return the step form (Abar, Bbar, Cbar) of the present parameters; gradients flow through it."""
        raise NotImplementedError

    @torch.no_grad()
    def discretized(self) -> StepForm:
        """Return the step form without gradients. It can take the place of the layer wherever that only steps."""
        return self.step_form()

    def initial_state(self, batch: int) -> State:
        """Return the state before any input: zeros r(batch, H, N)."""
        return self.D.new_zeros(batch, self.d_model, self.d_state)

    def forward(self, u: Tensor, state: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run over u r(B, L, H), L >= 1; return y r(B, L, H) and the state r(B, H, N) after it.

        Args:
            u: the inputs.
            state: r(B, H, N), the state before them; None is zeros.
            lengths: int64 (B,), if rows end after different numbers of inputs. The state of a row is then the one at
                its end; outputs behind the end come from whatever stands there in u.

        Raises:
            ValueError: shapes do not fit, or lengths are not from 0 to L.
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
        """Read one input u r(B, H) after `state` r(B, H, N); return y r(B, H) and the new state.

        This discretises in every call. To take many steps fast, step what `discretized` returns.
        """
        return self.step_form().step(u, state)


def _check_state(state: Tensor, wanted: tuple[int, int, int]) -> None:
    if tuple(state.shape) != wanted:
        raise ValueError(
            f"state has shape {tuple(state.shape)}, expected {wanted}: make one with initial_state({wanted[0]})"
        )


def check_lengths(lengths: Tensor, u: Tensor) -> None:
    """Raise ValueError unless lengths int64 (B,) fit u r(B, L, ...), with one for each row, from 0 to L."""
    if tuple(lengths.shape) != (len(u),):
        raise ValueError(f"lengths has shape {tuple(lengths.shape)}, expected ({len(u)},): give one for each row of u")
    # To look at values would break a compiled graph in two, so there the caller has to take care of them.
    if not torch.compiler.is_compiling() and not 0 <= lengths.min() <= lengths.max() <= u.shape[1]:
        raise ValueError(
            f"lengths has values {lengths.tolist()}, expected 0 to {u.shape[1]}, the length of u: shorten them or pad u"
        )


def _add_skip(kernel: Tensor, D: Tensor) -> Tensor:
    """Add the skip D u to the kernel r(H, L), as a part of its first tap, where it costs nothing."""
    return torch.cat((kernel[:, :1] + D[:, None], kernel[:, 1:]), dim=1)


class S4D(SSMLayer):
    """Diagonal state space layer (arXiv 2206.11893)."""

    def __init__(self, d_model: int, config: SSMConfig) -> None:
        super().__init__(d_model, config, *inits.s4d(config.init, config.d_state))
        self.method = "zoh" if config.discretization == "auto" else config.discretization

    def kernel(self, L: int) -> Tensor:
        """Return the convolution kernel r(H, L), without D."""
        return diagonal.kernel(*self.continuous(), L, self.method)

    def block_maps(self, T: int, last: int) -> block_form.BlockMaps:
        return diagonal.block_maps(*self.continuous(), T, last, self.method)

    def step_form(self) -> DiagonalStep:
        return DiagonalStep(*diagonal.step_constants(*self.continuous(), self.method), self.D.clone())


class S4(SSMLayer):
    """State space layer with a diagonal plus low-rank A from a HiPPO measure, bilinear (arXiv 2111.00396)."""

    def __init__(self, d_model: int, config: SSMConfig) -> None:
        Lambda, P, B = hippo.nplr(config.init, config.d_state)
        super().__init__(d_model, config, Lambda, B)
        rank, n = P.shape
        self.P = nn.Parameter(torch.view_as_real(P).float()[:, None].expand(rank, len(self.B), n, 2).clone())
        self.Q = None if config.tie_Q else nn.Parameter(self.P.detach().clone())

    def low_rank(self) -> Tensor:
        """Return P c(R, H, n)."""
        return self.per_feature(torch.view_as_complex(self.P.to(self.D.dtype)))

    def low_rank_rows(self) -> Tensor | None:
        """Return Q c(R, H, n) of A = diag(Lambda) - sum_r P_r Q_r^*; None if it is P."""
        return None if self.Q is None else self.per_feature(torch.view_as_complex(self.Q.to(self.D.dtype)))

    def kernel(self, L: int) -> Tensor:
        """Return the convolution kernel r(H, L), without D, which is a product of two Krylov matrices."""
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
    """The step form of a layer: a module that holds the constants of its recurrence, and only steps."""

    D: Tensor
    B_bar: Tensor

    def __init__(self, constants: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in constants.items():
            self.register_buffer(name, value.contiguous())

    def step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one input u r(B, H) after `state` r(B, H, N); return y r(B, H) and the new state.

        Raises:
            ValueError: shapes do not fit.
        """
        H, N = self.B_bar.shape
        if u.dim() != 2 or u.shape[1] != H:
            raise ValueError(f"u has shape {tuple(u.shape)}, expected (batch, d_model = {H}): one input for each row")
        _check_state(state, (u.shape[0], H, N))
        y, state = self._recur(u, state)
        return y + self.D * u, state

    def _recur(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """Do what `step` does, without the skip D u and without checks."""
        raise NotImplementedError

    def initial_state(self, batch: int) -> State:
        """Return the state before any input: zeros r(batch, H, N)."""
        return self.B_bar.new_zeros(batch, *self.B_bar.shape)


class DiagonalStep(StepForm):
    """x' = Abar x + Bbar u, y = Cbar x' + D u with a diagonal Abar: O(N) per feature and step.

    The buffers are in real form, Abar as a multiplier r(2, H, N).
    """

    A_bar: Tensor
    C_bar: Tensor

    def __init__(self, A_bar: Tensor, B_bar: Tensor, C_bar: Tensor, D: Tensor) -> None:
        super().__init__({"A_bar": A_bar, "B_bar": B_bar, "C_bar": C_bar, "D": D})

    def _recur(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        return diagonal.step(self.A_bar, self.B_bar, self.C_bar, u, state)


class WoodburyStep(StepForm):
    """x' = (diag(a) - sum_r p_r q_r^T) x + Bbar u, y = Cbar x' + D u: O(N) per feature and step.

    The buffers are in real form.
    """

    def __init__(self, constants: dplr.StepConstants, D: Tensor) -> None:
        super().__init__({**constants._asdict(), "D": D})

    def _recur(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        return dplr.step(self.constants(), u, state)

    def constants(self) -> dplr.StepConstants:
        """Return all constants but D."""
        return dplr.StepConstants(*(getattr(self, name) for name in dplr.StepConstants._fields))
