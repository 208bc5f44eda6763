"""DSS and LSSL against their definitions, and the benchmark that compares them with what came after."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_numbers import reference_file
from torch import Tensor

from s4gen.bench import ancestors
from s4gen.bench.ancestors import TrainingStepMeasurement
from s4gen.bench.apart import DiedError
from s4gen.bench.measure import measure
from s4gen.bench.workload import GenerationWorkload
from s4gen.checkpoint import load_checkpoint, save_checkpoint
from s4gen.cli import main
from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig
from s4gen.config.combinations import check_pair
from s4gen.errors import UserError
from s4gen.models.build import build_model
from s4gen.models.lssl_dss import DSS, LSSL
from s4gen.models.sequence import resampled
from s4gen.models.ssm_layers import S4
from s4gen.ssm import block_form, diagonal, dplr, dss, hippo, lssl, reference


def relative(got: Tensor, want: Tensor) -> float:
    """Largest error over time, relative to the largest value, of the worst head."""
    return ((got.double() - want).abs().amax(-1) / want.abs().amax(-1)).max().item()


def dss_system(seed: int, H: int, n: int, growth: float = -0.1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lambda, B, C, dt in double precision; Re Lambda is uniform over 1 below `growth`."""
    g = torch.Generator().manual_seed(seed)
    real = growth - torch.rand(H, n, dtype=torch.float64, generator=g)
    Lambda = torch.complex(real, torch.randn(H, n, dtype=torch.float64, generator=g) * 10)
    B, C = torch.randn(2, H, n, dtype=torch.complex128, generator=g)
    return Lambda, B, C, torch.exp(torch.rand(H, dtype=torch.float64, generator=g) * 3 - 5)


def held(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Zero-order hold over one unit of time, from exp of [[A, B], [0, 0]]; by SciPy, which is exact to rounding."""
    block = torch.zeros(len(B) + 1, len(B) + 1, dtype=A.dtype)
    block[:-1, :-1], block[:-1, -1] = A, B
    e = torch.from_numpy(scipy.linalg.expm(block.numpy()))
    return e[:-1, :-1], e[:-1, -1]


def defined_dss(
    Lambda: Tensor, B: Tensor, C: Tensor, dt: Tensor, u: Tensor, norm_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """y r(H, L) for u r(H, L) by a loop: x_k = Abar x_(k-1) + Bbar u_k over complex numbers, y = Re(C' x); and x."""
    y, last = [], []
    for h in range(len(dt)):
        A_bar, B_bar = held(torch.diag(Lambda[h]) * dt[h], B[h] * dt[h])
        total = 1 if norm_length is None else torch.exp(Lambda[h] * dt[h] * norm_length) - 1
        row, x = reference.scan(A_bar, B_bar, C[h] / total, u[h])
        y.append(row)
        last.append(x)
    return torch.stack(y), torch.stack(last)


def impulses(H: int, L: int) -> Tensor:
    impulse = torch.zeros(H, L, dtype=torch.float64)
    impulse[:, 0] = 1
    return impulse


def by_blocks(maps: block_form.BlockMaps, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """y r(H, L) and the state r(H, N) for u r(H, L), from the state r(H, N)."""
    y, x = block_form.block_convolve(u.t()[None].to(maps.kernel.dtype), maps, None if state is None else state[None])
    return y[0].t(), x[0]


def by_steps(constants: tuple[Tensor, Tensor, Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """The same in steps of `diagonal.step`."""
    _, B_bar, _ = constants
    x, ys = torch.zeros_like(B_bar)[None], []
    for u_k in u.t().to(B_bar.dtype):
        y, x = diagonal.step(*constants, u_k[None], x)
        ys.append(y[0])
    return torch.stack(ys, 1), x[0]


# DSS


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    H=st.integers(1, 3),
    n=st.integers(1, 6),
    L=st.integers(1, 300),
    norm_length=st.one_of(st.none(), st.integers(1, 300)),
    growth=st.sampled_from([-0.1, 0.5, 1.1]),
)
def test_a_dss_kernel_is_the_powers_of_the_transition(
    seed: int, H: int, n: int, L: int, norm_length: int | None, growth: float
) -> None:
    """Of exp and of softmax, decaying and growing modes mixed; also for kernels longer than the normalisation."""
    system = dss_system(seed, H, n, growth)
    wanted, _ = defined_dss(*system, impulses(H, L), norm_length)
    assert relative(dss.kernel(*system, L, norm_length), wanted) < 1e-9
    maps = dss.block_maps(*system, *block_form.block_lengths(L), norm_length)
    assert relative(by_blocks(maps, impulses(H, L))[0], wanted) < 1e-9
    assert relative(by_steps(dss.step_constants(*system, norm_length), impulses(H, L))[0], wanted) < 1e-9


@given(seed=st.integers(0, 10**6), norm_length=st.integers(1, 200), growth=st.sampled_from([-0.1, 0.5, 1.1]))
def test_softmax_modes_sum_to_one_over_the_length_of_normalisation(seed: int, norm_length: int, growth: float) -> None:
    """What it is named for: with C = Lambda and B = 1 each mode's taps sum to 1."""
    Lambda, _, _, dt = dss_system(seed, 2, 1, growth)
    taps = dss.kernel(Lambda, torch.ones_like(Lambda), Lambda, dt, norm_length, norm_length)
    torch.testing.assert_close(taps.sum(-1), torch.ones(2, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("total", [20.0, 85.0, 165.0, 600.0])
def test_the_softmax_kernel_holds_any_growth_in_float32(total: float) -> None:
    """Modes that grow by e^total over the length; the kernel never meets a number that large."""
    L = 1000
    Lambda, B, C, dt = dss_system(3, 4, 3)
    Lambda = torch.complex(total / L / dt[:, None] * torch.linspace(0.5, 1, 3).double(), Lambda.imag)
    exact = dss.kernel(Lambda, B, C, dt, L, L)
    assert exact.isfinite().all()
    z = dt[:, None] * Lambda  # by the formula with its exponentials turned round
    weights = C * B * (torch.exp(z) - 1) / Lambda / (1 - torch.exp(-z * L))
    formula = (weights[..., None] * torch.exp(z[..., None] * (torch.arange(L) - L))).sum(1).real
    assert relative(exact, formula) < 1e-9
    rounded = [t.to(torch.complex64) for t in (Lambda, B, C)]
    assert relative(dss.kernel(*rounded, dt.float(), L, L), dss.kernel(*rounded, dt.float().double(), L, L)) < 5e-5


@pytest.mark.parametrize(("L", "total"), [(60, 80.0), (300, 160.0), (1000, 160.0)])
def test_growing_modes_are_stepped_in_float32_over_the_length_of_normalisation(L: int, total: float) -> None:
    """e^160 is no float32, but half of it is divided out on the way in and half on the way out."""
    Lambda, B, C, dt = dss_system(4, 3, 4)
    Lambda[:, :2].real.copy_((total / L / dt)[:, None] * torch.tensor([0.6, 1.0]).double())
    u = torch.randn(3, L, dtype=torch.float64)
    wanted, _ = defined_dss(Lambda, B, C, dt, u, L)
    rounded = [t.to(torch.complex64) for t in (Lambda, B, C)]
    stepped, state = by_steps(dss.step_constants(*rounded, dt.float(), L), u)
    y, final = by_blocks(dss.block_maps(*rounded, dt.float(), *block_form.block_lengths(L), L), u)
    assert stepped.dtype == torch.float32
    # A growing mode multiplies the rounding of Lambda, 6e-8, by as much as it grows in the exponent.
    bound = 1e-7 * total * 10
    assert relative(stepped, wanted) < bound
    assert relative(y, wanted) < bound
    assert relative(final, state.double()) < bound


def test_gradients_of_dss_equal_finite_differences() -> None:
    """Of exp, and of softmax with decaying and growing modes, through kernel, block maps and step."""
    Lambda, B, C, dt = dss_system(5, 2, 3)
    growing = Lambda.clone()
    growing.real[:, 0] = 1.5

    def everything(norm_length: int | None, *system: Tensor) -> Tensor:
        maps = dss.block_maps(*system, 5, 3, norm_length)
        constants = dss.step_constants(*system, norm_length)
        kernel = dss.kernel(*system, 9, norm_length)
        return torch.cat([kernel.flatten(), *(t.flatten() for t in (*maps, *constants))])

    for norm_length, Lambda_in in ((None, Lambda), (7, Lambda), (7, growing)):
        system = [t.clone().requires_grad_() for t in (Lambda_in, B, C, dt)]
        assert torch.autograd.gradcheck(lambda *s, m=norm_length: everything(m, *s), system)


def dss_fixture(name: str) -> tuple[list[Tensor], Any]:
    """Lambda, B, C, dt (head h uses row h mod S) and the file."""
    data = np.load(reference_file(f"kernels_s4d_{name}.npz"), allow_pickle=False)
    copies = len(data["dt"]) // len(data["Lambda"])
    Lambda, B = (torch.from_numpy(np.tile(data[key], (copies, 1))).to(torch.complex128) for key in ("Lambda", "B"))
    return [Lambda, B, torch.from_numpy(data["C"]).to(torch.complex128), torch.from_numpy(data["dt"])], data


@pytest.mark.parametrize(("wide", "bound"), [(torch.complex128, 1e-9), (torch.complex64, 5e-5)])
@pytest.mark.parametrize("name", ["dss", "dss_posreal", "realdiag_zoh"])
def test_dss_equals_the_fixtures(name: str, wide: torch.dtype, bound: float) -> None:
    """Kernel, block form and steps. A real diagonal system is DSS_exp whose imaginary parts are all zero."""
    (Lambda, B, C, dt), data = dss_fixture(name)
    L = int(data["L"])
    norm_length = L if str(data["discretization"]) == "dss" else None
    system = (Lambda.to(wide), B.to(wide), C.to(wide), dt.to(wide.to_real()))
    u, K, y = (torch.from_numpy(data[key]).double() for key in ("u", "K", "y"))
    assert relative(dss.kernel(*system, L, norm_length), K) < bound
    skip = torch.from_numpy(data["D"])[:, None] * u
    maps = dss.block_maps(*system, *block_form.block_lengths(L), norm_length)
    assert relative(by_blocks(maps, u)[0] + skip, y) < bound
    assert relative(by_steps(dss.step_constants(*system, norm_length), u)[0] + skip, y) < bound


def test_the_real_diagonal_fixture_is_the_definition() -> None:
    (Lambda, B, C, dt), data = dss_fixture("realdiag_zoh")
    u, D, y = (torch.from_numpy(data[key]).double() for key in ("u", "D", "y"))
    wanted, _ = defined_dss(Lambda, B, C, dt, u)
    assert relative(wanted + D[:, None] * u, y) < 1e-12


# LSSL


def lssl_system(seed: int, H: int, N: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A dense A that is HiPPO-LegS and something else, B, C, dt; stable, since A + A^T < 0."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(H, N, N, dtype=torch.float64, generator=g)
    A = hippo.legs(N)[0] + noise - noise.transpose(1, 2) - 0.1 * noise @ noise.transpose(1, 2)
    B, C = torch.randn(2, H, N, dtype=torch.float64, generator=g)
    return A, B, C, torch.exp(torch.rand(H, dtype=torch.float64, generator=g) * 3 - 5)


def defined_lssl(A: Tensor, B: Tensor, C: Tensor, dt: Tensor, u: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """y r(H, L) and the last state r(H, N) for u r(H, L) from x0 r(H, N), by dense solves and a loop."""
    rows = []
    for h in range(len(dt)):
        rows.append(reference.scan(*reference.discretize(A[h], B[h], dt[h].item(), "bilinear"), C[h], u[h], x0[h]))
    y, x = zip(*rows, strict=True)
    return torch.stack(y), torch.stack(x)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), H=st.integers(1, 3), half=st.integers(1, 5), L=st.integers(1, 200))
def test_lssl_is_its_definition_in_both_views_from_any_state(seed: int, H: int, half: int, L: int) -> None:
    A, B, C, dt = lssl_system(seed, H, 2 * half)
    discrete = (*lssl.discretize(A, B, dt), C)
    nothing = torch.zeros_like(B)
    wanted, _ = defined_lssl(A, B, C, dt, impulses(H, L), nothing)
    assert relative(lssl.kernel(*discrete, L), wanted) < 1e-9
    u, start = torch.randn(H, L, dtype=torch.float64), torch.randn(H, 2 * half, dtype=torch.float64)
    maps = lssl.block_maps(*discrete, *block_form.block_lengths(L))
    for x0, state in ((nothing, None), (start, start)):
        wanted, last = defined_lssl(A, B, C, dt, u, x0)
        y, x = by_blocks(maps, u, state)
        torch.testing.assert_close(y, wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(x, last, rtol=1e-9, atol=1e-9)
    x = start[None]
    for k in range(L):
        y_k, x = lssl.step(*discrete, u[:, k][None], x)
        torch.testing.assert_close(y_k[0], wanted[:, k], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x[0], last, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("N", [4, 64])
def test_the_discrete_legs_matrix_shrinks_every_state(N: int) -> None:
    """A + A^T = -I - 2 P P^T < 0 makes Abar a contraction, so that its powers lose nothing in float32."""
    A, B = hippo.legs(N)
    A_bar, _ = lssl.discretize(A[None].expand(3, N, N), B[None].expand(3, N), torch.tensor([1e-3, 1e-1, 10.0]))
    assert torch.linalg.matrix_norm(A_bar, 2).max() < 1


def test_gradients_of_lssl_equal_finite_differences() -> None:
    system = [t.requires_grad_() for t in lssl_system(7, 2, 4)]

    def both(A: Tensor, B: Tensor, C: Tensor, dt: Tensor) -> tuple[Tensor, ...]:
        discrete = (*lssl.discretize(A, B, dt), C)
        return lssl.kernel(*discrete, 6), *lssl.block_maps(*discrete, 5, 3)

    assert torch.autograd.gradcheck(both, system)


@settings(max_examples=20)
@given(half=st.integers(1, 8), L=st.integers(1, 150), seed=st.integers(0, 10**6))
def test_s4_is_lssl_in_another_basis(half: int, L: int, seed: int) -> None:
    """HiPPO-LegS dense and as diagonal plus low rank: B^T Abar^l Bbar does not depend on a unitary basis."""
    dt = torch.rand(2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.2 + 1e-3
    A, B = (t.expand(2, *t.shape) for t in hippo.dense("legs", 2 * half))
    Lambda, P, B_basis = hippo.nplr("legs", 2 * half)
    Lambda, B_basis = Lambda.expand(2, -1), B_basis.expand(2, -1)
    wanted = lssl.kernel(*lssl.discretize(A, B, dt), B, L)
    got = dplr.krylov_kernel(Lambda, P[:, None].expand(-1, 2, -1), B_basis, B_basis.conj(), dt, L)
    assert relative(got, wanted) < 1e-9


# The modules; what holds for every mixer is in test_models


def steps(module: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    twin = module.discretized()
    state, ys = twin.initial_state(len(u)), []
    for u_k in u.unbind(1):
        y, state = twin.step(u_k, state)
        ys.append(y)
    return torch.stack(ys, 1), state


def test_growing_modes_keep_the_contract_in_float32() -> None:
    """Forward == chunked == stepped over the length of normalisation, with modes that grow by up to e^80."""
    L = 300
    module = DSS(5, SSMConfig(d_state=6, norm_length=L, dt_min=0.05))
    with torch.no_grad():
        module.raw_decay[:, 1:] = -80 / L / torch.exp(module.raw_dt)[:, None] * torch.tensor([0.3, 1.0])
        u = torch.randn(2, L, 5)
        y, state = module(u)
        first, middle = module(u[:, :130])
        second, last = module(u[:, 130:], middle)
        stepped, stepped_state = steps(module, u)
    for got in (torch.cat((first, second), 1), stepped):
        assert ((got - y).abs().max() / y.abs().max()).item() < 5e-5
    for got in (last, stepped_state):
        assert relative(got, state.double()) < 1e-4


@pytest.mark.parametrize("norm_length", [0, 40])
def test_resampled_dss_reads_every_second_sample(norm_length: int) -> None:
    """Zero-order hold: on an input held for two samples, rate 1 at the odd places is rate 2 on the short input.

    For softmax only because its length of normalisation is a time, and is halved in samples.
    """
    module = DSS(4, SSMConfig(d_state=8, norm_length=norm_length)).double()
    u = torch.randn(1, 20, 4, dtype=torch.float64)
    with torch.no_grad():
        long, _ = module(u.repeat_interleave(2, dim=1))
        module.rescale_dt_(2.0)
        short, _ = module(u)
        stepped, _ = steps(module, u)
    torch.testing.assert_close(short, long[:, 1::2], rtol=1e-6, atol=1e-7)  # parameters were made in float32
    torch.testing.assert_close(stepped, short, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm_length", [0, 40])
def test_a_resampled_dss_is_saved_with_its_length_of_normalisation(norm_length: int, tmp_path: Path) -> None:
    """Which is then no longer that of its configuration."""
    config = DensityConfig(
        ImageLayout(height=4, width=3, channels=1, levels=6),
        ModelConfig(mixer="dss", d_model=8, n_layers=2, d_ff=0),
        SSMConfig(d_state=8, norm_length=norm_length),
    )
    saved = resampled(build_model(config), 0.3).eval()
    save_checkpoint(tmp_path / "saved", saved, recipe=None, metrics={}, card="")
    loaded = load_checkpoint(tmp_path / "saved").model
    x = torch.randint(0, 6, (2, 12))
    with torch.no_grad():
        assert torch.equal(loaded.nats(x), saved.nats(x))


def test_dss_has_no_b_and_its_softmax_has_real_parts_of_both_signs() -> None:
    exp, softmax = (DSS(4, SSMConfig(d_state=8, norm_length=length)) for length in (0, 100))
    for module in (exp, softmax):
        assert module.ssm_parameters == ("raw_dt", "raw_decay", "frequency")
        assert module.initial_state(2).shape == (2, 4, 8)
        constants = {"norm_length"} if module is softmax else set()
        assert set(module.state_dict()) == {name for name, _ in module.named_parameters()} | constants
        assert torch.equal(module.continuous()[0].real, torch.full((4, 4), -0.5))
        with torch.no_grad():
            module.raw_decay.fill_(-2.0)
    assert (exp.continuous()[0].real < 0).all()
    assert (softmax.continuous()[0].real == 2.0).all()


@pytest.mark.parametrize("n_ssm", [0, 1, 2])
def test_lssl_deals_its_matrices_out_by_remainder(n_ssm: int) -> None:
    module = LSSL(4, SSMConfig(d_state=6, n_ssm=n_ssm)).double()
    S = n_ssm or 4
    assert module.A.shape == (S, 6, 6)
    torch.testing.assert_close(module.A[-1], hippo.dense("legs", 6)[0].float().double(), rtol=0, atol=0)
    assert module.ssm_parameters == ("A", "raw_dt", "B")
    with torch.no_grad():
        module.A.add_(0.1 * torch.randn_like(module.A))
        module.B.add_(0.1 * torch.randn_like(module.B))
        rows = torch.arange(4) % S
        A, B, C = module.A[rows], module.B.flatten(1)[rows], module.C.flatten(1)
        wanted, _ = defined_lssl(A, B, C, torch.exp(module.raw_dt), impulses(4, 50), torch.zeros_like(B))
        assert relative(module.kernel(50), wanted) < 1e-9


@pytest.mark.parametrize(
    ("mixer", "settings_", "message"),
    [
        ("s4d", {"norm_length": 9}, 'ssm.norm_length = 9 does not go with model.mixer = "s4d": expected "dss", or 0'),
        ("dss", {"norm_length": -1}, "ssm.norm_length = -1: expected at least 0"),
        ("dss", {"discretization": "bilinear"}, 'does not go with model.mixer = "dss": expected "zoh" or "auto"'),
        ("dss", {"tie_dt": False}, 'ssm.tie_dt = false does not go with model.mixer = "dss"'),
        ("lssl", {"discretization": "zoh"}, 'does not go with model.mixer = "lssl": expected "bilinear" or "auto"'),
        ("lssl", {"init": "lin"}, 'ssm.init = "lin" does not go with model.mixer = "lssl"'),
    ],
)
def test_a_setting_that_an_ancestor_cannot_have_is_refused(mixer: str, settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        check_pair(ModelConfig(mixer=mixer), SSMConfig(**settings_))
    assert message in str(refused.value)


# The benchmark


@pytest.mark.parametrize("mixer", ["dss", "lssl"])
def test_generating_by_convolution_is_measured_for_the_ancestors_too(mixer: str) -> None:
    config = DensityConfig(
        ImageLayout(height=3, width=3, channels=1, levels=6),
        ModelConfig(mixer=mixer, d_model=8, n_layers=2, d_ff=0),
        SSMConfig(d_state=8),
    )
    (row,) = measure(GenerationWorkload("conv", config, None, 2, (9,), "cpu", torch.get_num_threads(), 0.01))
    assert row.ms_per_step > 0 and "kernels built once" in row.note


def test_the_published_kernel_of_s4_is_ours_with_c_truncated() -> None:
    """C~ = C (I - Abar^L), dense: the algorithm of the paper gives K[l] = C Abar^l Bbar."""
    L, module = 21, S4(3, SSMConfig(d_state=6)).double()
    with torch.no_grad():
        Lambda, B, C, dt = module.continuous()
        constants = dplr.step_constants(Lambda, module.low_rank(), B, C, dt)
        wanted = module.kernel(L)
        A_L = torch.linalg.matrix_power(dplr.dense_transition(constants), L)
        truncated = constants.C_bar - (constants.C_bar[:, None] @ A_L)[:, 0]
        re, im = truncated.chunk(2, -1)
        module.C.copy_(torch.stack((re / 2, -im / 2), -1))
        assert relative(ancestors.truncated_kernel(module, L), wanted) < 1e-9


@pytest.mark.parametrize("way", ancestors.TITLES)
def test_a_measured_step_gives_a_gradient_to_every_parameter(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    convolve, in_blocks = ancestors.fft_convolve, ancestors.block_convolve
    monkeypatch.setattr(ancestors, "fft_convolve", lambda u, kernel: taken.append((u, kernel)) or convolve(u, kernel))
    monkeypatch.setattr(
        ancestors, "block_convolve", lambda u, maps, state: taken.append((u, maps)) or in_blocks(u, maps, state)
    )
    ancestors.training_step(way, 8, 30, 2, torch.device("cpu"))()
    ((u, made),) = taken
    kernel = made.kernel if way == "s4-blocks" else made
    assert kernel.shape == (8, 30)
    reached = [node for node in leaves_of(kernel.grad_fn) if node is not u]
    assert len(reached) == {"lssl": 4, "s4": 6, "s4-blocks": 6, "s4d": 5, "dss": 4}[way]  # D is none of the kernel's
    for parameter in (u, *reached):
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


def leaves_of(node: Any) -> list[Tensor]:
    """The parameters that a result depends on."""
    seen, found, stack = set(), {}, [node]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        stack += [parent for parent, _ in node.next_functions]
    return list(found.values())


def workload(way: str) -> ancestors.TrainingStepWorkload:
    return ancestors.TrainingStepWorkload(way, 16, 64, 1, "cpu", torch.get_num_threads(), 0.01)


def test_a_row_is_measured_in_a_process_of_its_own() -> None:
    row = ancestors.measure_apart(workload("lssl"))
    assert (row.way, row.dimension) == ("lssl", 16)
    assert 0 < row.ms < 1e5
    # 64 Krylov vectors of 16 numbers for 16 heads, and their gradient; a process is not that well known.
    assert 0.1 < row.peak_mb < 100


@pytest.mark.parametrize("error", [DiedError("its process died"), RuntimeError("can't allocate memory: 9 bytes")])
def test_what_does_not_fit_is_a_row_with_a_note(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ancestors, "run_apart", fail_with(error))
    row = ancestors.measure_apart(workload("lssl"))
    assert math.isnan(row.ms) and math.isnan(row.peak_mb)
    assert row.note == f"does not fit here: {error}"


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ancestors, "run_apart", fail_with(RuntimeError("sizes do not match")))
    with pytest.raises(RuntimeError, match="sizes do not match"):
        ancestors.measure_apart(workload("lssl"))


def fail_with(error: Exception) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that no machine needs to measure; LSSL does not fit at 512."""

    def measured(workload: ancestors.TrainingStepWorkload) -> TrainingStepMeasurement:
        if (workload.way, workload.dimension) == ("lssl", 512):
            return TrainingStepMeasurement("lssl", 512, math.nan, math.nan, "does not fit here: its process died")
        cost = {"lssl": 60.0, "s4": 4.0, "s4-blocks": 3.0, "s4d": 1.0, "dss": 2.0}[workload.way]
        return TrainingStepMeasurement(workload.way, workload.dimension, cost, 10 * cost)

    monkeypatch.setattr(ancestors, "measure_apart", measured)


@pytest.mark.usefixtures("fake")
def test_the_table_has_our_ratios_and_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """At 512 the paper has 140.7 / 4.75 = 29.6 times the time and 13140 / 33.5 = 392 times the memory."""
    assert main(["bench", "ancestors", "--json"]) == 0
    table = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    rows = {(row["way"], row["dimension"]): row for row in table["rows"]}
    assert list(rows) == [(way, dimension) for dimension in (128, 256, 512) for way in ancestors.TITLES]
    assert list(ancestors.TITLES) == ["lssl", "s4", "s4-blocks", "s4d", "dss"]
    assert rows["s4-blocks", 256]["lssl_time_ratio"] == 20 and rows["s4-blocks", 256]["published"] is None
    assert rows["s4", 256]["lssl_time_ratio"] == rows["s4", 256]["lssl_memory_ratio"] == 15
    assert rows["s4", 512]["lssl_time_ratio"] is None
    assert rows["s4", 512]["published"]["lssl_time_ratio"] == pytest.approx(29.6, abs=0.05)
    assert rows["s4", 512]["published"]["lssl_memory_ratio"] == pytest.approx(392, abs=0.5)
    assert rows["dss", 512]["published"] is None
    assert main(["bench", "ancestors", "--dimension", "8", "16", "--length", "32", "--batch", "2", "--json"]) == 0
    small = json.loads(capsys.readouterr().out)
    assert (small["length"], small["batch"]) == (32, 2)
    assert [row["dimension"] for row in small["rows"]] == [8] * 5 + [16] * 5
    assert main(["bench", "ancestors"]) == 0
    printed = capsys.readouterr().out
    for words in ("length 1024, batch 1", "dimension 512, LSSL: does not fit here", "29.6", "392"):
        assert words in printed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bench"], "bench needs a CHECKPOINT or PRESET, or the word core, ancestors or compress"),
        (["bench", "tiny", "ancestors"], "unrecognized arguments: ancestors"),
        (["bench", "ancestors", "tiny"], "unrecognized arguments: tiny"),
        (["bench", "ancestors", "--plot", "x.png"], "unrecognized arguments: --plot x.png"),
        (["bench", "ancestors", "--dimension", "9"], "argument --dimension: got 9, expected an even number"),
        (["bench", "ancestors", "--dimension", "0"], "argument --dimension: got 0, expected at least 2"),
        (["bench", "--batch", "2", "--json", "core"], "core comes first: s4gen bench core [option ...]; for a"),
        (["bench", "core", "--batch", "2"], "unrecognized arguments: --batch 2"),
        (["bench", "core", "-o", "."], ". is a folder; choose another name"),
    ],
)
def test_a_wrong_command_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"s4gen: error: {message}") and printed.out == ""


def test_lssl_is_discretised_at_a_size_where_a_batch_of_inverses_fails_on_two_threads() -> None:
    threads = torch.get_num_threads()
    A = torch.randn(1, 256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 16
    dt = torch.linspace(0.01, 0.1, 8, dtype=torch.float64)
    B = torch.ones(8, 256, dtype=torch.float64)
    try:
        torch.set_num_threads(2)
        A_bar, B_bar = lssl.discretize(A, B, dt)
    finally:
        torch.set_num_threads(threads)
    left = torch.eye(256, dtype=torch.float64) - dt[:, None, None] / 2 * A
    right = torch.eye(256, dtype=torch.float64) + dt[:, None, None] / 2 * A
    assert torch.allclose(left @ A_bar, right, atol=1e-12)
    assert torch.allclose((left @ B_bar[..., None])[..., 0], dt[:, None] * B, atol=1e-12)
