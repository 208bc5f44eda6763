"""The state space layers S4D and S4 as modules: parallel, chunked and stepped.

Both keep plain continuous-time parameters (Lambda, P, B, C, dt, D); everything discrete is derived where it is needed,
so a forward pass changes nothing. Arithmetic is float32 (or float64 after ``.double()``) also under autocast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from s4gen.config import SSMConfig
from s4gen.ssm import blocks, diagonal, dplr, hippo

State = Tensor  # r(B, H, N) real form, see s4gen.ssm.realform


class _SSMLayer(nn.Module):
    """What S4D and S4 share: parameters and the two outer methods. Lambda = -exp(log_decay) + i frequency."""

    # Trained with the SSM's own learning rate and no weight decay.
    ssm_parameters: tuple[str, ...] = ("log_dt", "log_decay", "frequency", "B")

    def __init__(self, d_model: int, config: SSMConfig, Lambda: Tensor, B: Tensor) -> None:
        super().__init__()
        H, n = d_model, config.d_state // 2
        self.d_model, self.d_state = d_model, config.d_state
        self.log_dt = nn.Parameter(torch.log(hippo.log_uniform_dt(H, config.dt_min, config.dt_max)).float())
        self.log_decay = nn.Parameter(torch.log(-Lambda.real).float().expand(H, n).clone())
        self.frequency = nn.Parameter(Lambda.imag.float().expand(H, n).clone())
        self.B = nn.Parameter(torch.view_as_real(B).float().expand(H, n, 2).clone())
        self.C = nn.Parameter(torch.randn(H, n, 2) * math.sqrt(0.5))
        self.D = nn.Parameter(torch.randn(H))

    def continuous(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lambda, B, C c(H, n) and dt r(H), in the parameters' own precision."""
        Lambda = torch.complex(-torch.exp(self.log_decay), self.frequency)
        return Lambda, torch.view_as_complex(self.B), torch.view_as_complex(self.C), torch.exp(self.log_dt)

    def block_maps(self, T: int, last: int) -> blocks.BlockMaps:
        raise NotImplementedError

    def stepper(self) -> _Stepper:
        """Abar, Bbar, Cbar of the present parameters, differentiably."""
        raise NotImplementedError

    @torch.no_grad()
    def discretized(self) -> _Stepper:
        """The recurrent twin: Abar, Bbar, Cbar precomputed and frozen; same `initial_state` and `step`."""
        return self.stepper()

    def initial_state(self, batch: int) -> State:
        """Zeros r(batch, H, N)."""
        return self.D.new_zeros(batch, self.d_model, self.d_state)

    def forward(self, u: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """u r(B, L, H), L >= 1, from `state` r(B, H, N) (None: zeros); returns y r(B, L, H) and the state after it."""
        with torch.autocast(u.device.type, enabled=False):
            u = u.to(self.D.dtype)
            maps = self.block_maps(*blocks.block_lengths(u.shape[1]))
            maps = maps._replace(kernel=_add_skip(maps.kernel, self.D))
            return blocks.block_convolve(u, maps, state)

    def step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: u r(B, H), state r(B, H, N). Discretises anew; `discretized` once and step that to be fast."""
        return self.stepper().step(u, state)


def _add_skip(kernel: Tensor, D: Tensor) -> Tensor:
    """The skip D u as part of the first tap."""
    return torch.cat((kernel[:, :1] + D[:, None], kernel[:, 1:]), dim=1)


class S4D(_SSMLayer):
    """Diagonal state space layer (arXiv 2206.11893)."""

    def __init__(self, d_model: int, config: SSMConfig) -> None:
        super().__init__(d_model, config, *hippo.S4D_INITS[config.init](config.d_state))
        self.method = "zoh" if config.discretization == "auto" else config.discretization

    def kernel(self, L: int) -> Tensor:
        """Convolution kernel r(H, L), without D."""
        return diagonal.kernel(*self.continuous(), L, self.method)

    def block_maps(self, T: int, last: int) -> blocks.BlockMaps:
        return diagonal.block_maps(*self.continuous(), T, last, self.method)

    def stepper(self) -> DiagonalStep:
        return DiagonalStep(*diagonal.step_constants(*self.continuous(), self.method), self.D.clone())


class S4(_SSMLayer):
    """Diagonal plus rank one (HiPPO-LegS) state space layer, bilinear (arXiv 2111.00396)."""

    ssm_parameters = ("log_dt", "log_decay", "frequency", "B", "P")

    def __init__(self, d_model: int, config: SSMConfig) -> None:
        Lambda, P, B = hippo.nplr_legs(config.d_state)
        super().__init__(d_model, config, Lambda, B)
        rank, n = P.shape
        self.P = nn.Parameter(torch.view_as_real(P).float()[:, None].expand(rank, d_model, n, 2).clone())

    def kernel(self, L: int) -> Tensor:
        """Convolution kernel r(H, L), without D, by two Krylov matrices."""
        Lambda, B, C, dt = self.continuous()
        return dplr.krylov_kernel(Lambda, torch.view_as_complex(self.P), B, C, dt, L)

    def block_maps(self, T: int, last: int) -> blocks.BlockMaps:
        Lambda, B, C, dt = self.continuous()
        return dplr.block_maps(Lambda, torch.view_as_complex(self.P), B, C, dt, T, last)

    def stepper(self) -> WoodburyStep:
        Lambda, B, C, dt = self.continuous()
        return WoodburyStep(dplr.step_constants(Lambda, torch.view_as_complex(self.P), B, C, dt), self.D.clone())


class _Stepper(nn.Module):
    """Constants of one layer's recurrence; O(N) per head and step."""

    D: Tensor
    B_bar: Tensor

    def __init__(self, constants: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in constants.items():
            self.register_buffer(name, value.contiguous())

    def step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        raise NotImplementedError

    def initial_state(self, batch: int) -> State:
        return self.B_bar.new_zeros(batch, *self.B_bar.shape)


class DiagonalStep(_Stepper):
    """x' = Abar x + Bbar u, y = Cbar x' + D u with diagonal Abar; buffers in real form, Abar r(2, H, N)."""

    A_bar: Tensor
    C_bar: Tensor

    def __init__(self, A_bar: Tensor, B_bar: Tensor, C_bar: Tensor, D: Tensor) -> None:
        super().__init__({"A_bar": A_bar, "B_bar": B_bar, "C_bar": C_bar, "D": D})

    def step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """u r(B, H), state r(B, H, N) -> y r(B, H), new state."""
        y, state = diagonal.step(self.A_bar, self.B_bar, self.C_bar, u, state)
        return y + self.D * u, state


class WoodburyStep(_Stepper):
    """x' = (diag(a) - p q^T) x + Bbar u, y = Cbar x' + D u; buffers in real form."""

    def __init__(self, constants: dplr.StepConstants, D: Tensor) -> None:
        super().__init__({**constants._asdict(), "D": D})

    def step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """u r(B, H), state r(B, H, N) -> y r(B, H), new state."""
        constants = dplr.StepConstants(*(getattr(self, name) for name in dplr.StepConstants._fields))
        y, state = dplr.step(constants, u, state)
        return y + self.D * u, state
