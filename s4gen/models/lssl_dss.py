"""DSS and LSSL as modules. They are the ancestors of S4D and S4, kept for comparison, with the same methods."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from s4gen.config import SSMConfig
from s4gen.models.ssm_layers import DiagonalStep, SSMLayer, State, StepForm
from s4gen.ssm import block_form, dss, hippo, inits, lssl, transforms


class DSS(SSMLayer):
    """Complex diagonal state space layer (arXiv 2203.14343): DSS_exp, or DSS_softmax if `norm_length` is set.

    The state holds N/2 complex numbers, which here do not stand for conjugate pairs. B is 1, and C is the paper's w. In
    DSS_softmax, Re Lambda = -raw_decay may have any sign; `s4gen.ssm.dss` says what that means for stepping.
    """

    norm_length: Tensor | None

    def __init__(self, d_model: int, config: SSMConfig) -> None:
        Lambda, _ = inits.s4d(config.init, config.d_state)
        super().__init__(d_model, replace(config, train_B=False), Lambda, torch.ones_like(Lambda))
        length = torch.tensor(float(config.norm_length)) if config.norm_length else None
        self.register_buffer("norm_length", length)  # saved in checkpoints, because `rescale_dt_` may change it
        self.register_buffer("B", self.B, persistent=False)  # always 1, so it is not saved
        if length is not None:
            self.raw_decay = nn.Parameter(-Lambda.real.float().expand_as(self.frequency).clone())

    def fill_constants_(self) -> None:
        """Make B anew beside the other weights, for a layer built as shapes alone that has got weights since."""
        B = torch.zeros(*self.frequency.shape, 2, dtype=torch.float32, device=self.frequency.device)
        B[..., 0] = 1
        self.B = B

    def continuous(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return Lambda, B = 1 and C, all c(H, n), and dt r(H)."""
        Lambda, B, C, dt = super().continuous()
        if self.norm_length is not None:
            Lambda = self.per_feature(torch.complex(-self.raw_decay, self.frequency))
        return Lambda, B, C, dt

    @torch.no_grad()
    def rescale_dt_(self, factor: float) -> None:
        """Multiply dt by `rate`. The length of normalisation is a time, so its number of steps is divided by `rate`."""
        super().rescale_dt_(factor)
        if self.norm_length is not None:
            self.norm_length /= factor

    def kernel(self, L: int) -> Tensor:
        """Return the convolution kernel r(H, L), without D; softmax has the same formula beyond `norm_length`, too."""
        return dss.kernel(*self.continuous(), L, self.norm_length)

    def block_maps(self, T: int, last: int) -> block_form.BlockMaps:
        return dss.block_maps(*self.continuous(), T, last, self.norm_length)

    def step_form(self) -> DiagonalStep:
        return DiagonalStep(*dss.step_constants(*self.continuous(), self.norm_length), self.D.clone())


class LSSL(SSMLayer):
    """State space layer with a dense A (arXiv 2110.13985) that starts as HiPPO-LegS.

    A r(S, N, N) takes the place of Lambda. The paper's layer has n_ssm = 1: one A, and a step size for each feature. B
    and C are real; their N numbers are kept as N/2 pairs, to have the shapes of the other layers. The state is real, in
    the basis of A.
    """

    def __init__(self, d_model: int, config: SSMConfig) -> None:
        A, B = hippo.dense("legs", config.d_state)
        pairs = torch.view_as_complex(B.view(-1, 2))
        # The base class wants a Lambda; any one will do, because its parameters are removed at once.
        super().__init__(d_model, config, -torch.ones_like(pairs), pairs)
        del self.raw_decay, self.frequency
        self.A = nn.Parameter(A.float().repeat(len(self.B), 1, 1))

    @property
    def ssm_parameters(self) -> tuple[str, ...]:
        return ("A", *super().ssm_parameters)

    def continuous(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return A r(H, N, N), or r(1, N, N) if all features share it, B and C r(H, N), and dt r(H)."""
        A = self.A if len(self.A) == 1 else self.A.repeat(self._copies, 1, 1)
        dt = transforms.positive(self.raw_dt, self._dt_transform)
        return A, self.per_feature(self.B.flatten(-2)), self.C.flatten(-2), dt

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return Abar r(H, N, N) and Bbar r(H, N), both in float64, and C r(H, N)."""
        A, B, C, dt = self.continuous()
        return *lssl.discretize(A, B, dt), C

    def kernel(self, L: int) -> Tensor:
        """Return the convolution kernel r(H, L), without D."""
        A_bar, B_bar, C = self.discrete()
        return lssl.kernel(A_bar.to(C.dtype), B_bar.to(C.dtype), C, L)

    def block_maps(self, T: int, last: int) -> block_form.BlockMaps:
        return lssl.block_maps(*self.discrete(), T, last)

    def step_form(self) -> DenseStep:
        A_bar, B_bar, C = self.discrete()
        return DenseStep(A_bar.to(C.dtype), B_bar.to(C.dtype), C.clone(), self.D.clone())


class DenseStep(StepForm):
    """x' = Abar x + Bbar u, y = Cbar x' + D u with a dense Abar r(H, N, N): O(N^2) per feature and step."""

    A_bar: Tensor
    C_bar: Tensor

    def __init__(self, A_bar: Tensor, B_bar: Tensor, C_bar: Tensor, D: Tensor) -> None:
        super().__init__({"A_bar": A_bar, "B_bar": B_bar, "C_bar": C_bar, "D": D})

    def _recur(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        return lssl.step(self.A_bar, self.B_bar, self.C_bar, u, state)
