"""The mathematics against its definitions, in float64, and against numbers computed elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_numbers import reference_file, reference_files
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from s4gen.ssm import block_form, diagonal, dplr, hippo, realform, reference
from s4gen.ssm.recompute import TOGETHER, recomputed, recomputed_by_heads


def relative(got: Tensor, want: Tensor) -> float:
    """Largest error over time, relative to the largest value, of the worst head."""
    return ((got - want).abs().amax(-1) / want.abs().amax(-1)).max().item()


def random_system(seed: int, H: int, n: int, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A stable Lambda, P, B, C, dt in double precision that is no special case of anything."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.complex128, generator=g)

    decay = torch.rand(H, n, dtype=torch.float64, generator=g) + 0.1
    Lambda = torch.complex(-decay, torch.randn(H, n, dtype=torch.float64, generator=g) * 10)
    dt = torch.exp(torch.rand(H, dtype=torch.float64, generator=g) * 4 - 5)
    return Lambda, normal(rank, H, n), normal(H, n), normal(H, n), dt


def defined_kernel(Lambda: Tensor, P: Tensor | None, B: Tensor, C: Tensor, dt: Tensor, L: int, method: str) -> Tensor:
    """Kernel r(H, L) by dense matrices and a loop."""
    rows = []
    for h in range(len(dt)):
        A, B_h, C_h = reference.dense_system(Lambda[h], None if P is None else P[:, h], B[h], C[h])
        rows.append(reference.kernel(*reference.discretize(A, B_h, dt[h].item(), method), C_h, L))
    return torch.stack(rows)


def impulse_response(maps: block_form.BlockMaps, H: int, L: int, dtype: torch.dtype) -> Tensor:
    impulse = torch.zeros(1, L, H, dtype=dtype)
    impulse[:, 0] = 1
    return block_form.block_convolve(impulse, maps, None)[0][0].t()


@pytest.mark.parametrize("N", [2, 8, 64])
def test_nplr_form_is_hippo_legs(N: int) -> None:
    """diag(Lambda) - P P^* is HiPPO-LegS in another basis: same eigenvalues -(n+1), same B^T B-type invariants."""
    Lambda, P, B = hippo.nplr("legs", N)
    A, B_full, _ = reference.dense_system(Lambda, P, B, B)
    A_hippo, B_hippo = hippo.legs(N)
    for k in range(4):  # the Krylov moments B^* A^k B do not depend on a unitary basis
        moment = (B_full.conj() @ torch.linalg.matrix_power(A, k) @ B_full).real
        wanted = B_hippo @ torch.linalg.matrix_power(A_hippo, k) @ B_hippo
        assert moment.item() == pytest.approx(wanted.item(), rel=1e-9)
    assert torch.trace(A).real.item() == pytest.approx(-N * (N + 1) / 2, rel=1e-12)


def test_odd_state_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        hippo.nplr("legs", 7)


@pytest.mark.parametrize(("method", "order"), [("bilinear", 2), ("zoh", None)])
def test_discretisation_error_falls_with_the_claimed_order(method: str, order: int | None) -> None:
    """Abar^(1/dt) against exp(A): bilinear is of order 2, zero-order hold exact for the homogeneous system."""
    Lambda = torch.tensor([[-0.5 - 3.0j, -0.2 - 1.0j]], dtype=torch.complex128)
    errors = []
    steps = [8, 16, 32, 64]
    for k in steps:
        log_a, _ = diagonal.discretize(Lambda, torch.ones_like(Lambda), torch.tensor([1.0 / k]), method)
        errors.append((torch.exp(log_a * k) - torch.exp(Lambda)).abs().max().item())
    if order is None:
        assert max(errors) < 1e-13
    else:
        slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
        assert np.all(np.abs(slopes + order) < 0.1), slopes


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    H=st.integers(1, 3),
    n=st.integers(1, 6),
    L=st.integers(1, 300),
    method=st.sampled_from(["zoh", "bilinear"]),
)
def test_s4d_kernel_is_the_powers_of_the_transition(seed: int, H: int, n: int, L: int, method: str) -> None:
    Lambda, _, B, C, dt = random_system(seed, H, n, 1)
    wanted = defined_kernel(Lambda, None, B, C, dt, L, method)
    assert relative(diagonal.kernel(Lambda, B, C, dt, L, method), wanted) < 1e-9
    maps = diagonal.block_maps(Lambda, B, C, dt, *block_form.block_lengths(L), method)
    assert relative(impulse_response(maps, H, L, torch.float64), wanted) < 1e-9


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    H=st.integers(1, 3),
    n=st.integers(1, 6),
    L=st.integers(1, 300),
    rank=st.integers(1, 2),
)
def test_s4_kernel_is_the_powers_of_the_transition(seed: int, H: int, n: int, L: int, rank: int) -> None:
    """By Cauchy sums, by Krylov matrices and by blocks; even lengths meet the node w = -1."""
    Lambda, P, B, C, dt = random_system(seed, H, n, rank)
    wanted = defined_kernel(Lambda, P, B, C, dt, L, "bilinear")
    assert relative(dplr.cauchy_kernel(Lambda, P, B, C, dt, L), wanted) < 1e-9
    assert relative(dplr.krylov_kernel(Lambda, P, B, C, dt, L), wanted) < 1e-9
    maps = dplr.block_maps(Lambda, P, B, C, dt, *block_form.block_lengths(L))
    assert relative(impulse_response(maps, H, L, torch.float64), wanted) < 1e-9


def test_a_mode_that_vanishes_in_one_step_has_a_kernel_and_gradients() -> None:
    """The bilinear rule makes Abar = 0 of dt Lambda = -2, which has no logarithm."""
    Lambda, P, B, C, _ = random_system(4, 1, 3, 1)
    dt = torch.tensor([0.1], dtype=torch.float64)
    Lambda[0, 0] = -20
    system = [t.requires_grad_() for t in (Lambda, P, B, C, dt)]
    for kernel, wanted in (
        (dplr.krylov_kernel(*system, 40), defined_kernel(Lambda, P, B, C, dt, 40, "bilinear")),
        (diagonal.kernel(Lambda, B, C, dt, 40, "bilinear"), defined_kernel(Lambda, None, B, C, dt, 40, "bilinear")),
    ):
        assert relative(kernel.detach(), wanted.detach()) < 1e-9
        kernel.sum().backward()
        assert all(t.grad is None or t.grad.isfinite().all() for t in system)


@pytest.mark.parametrize("rank", [1, 2])
def test_woodbury_step_is_the_dense_step(rank: int) -> None:
    Lambda, P, B, C, dt = random_system(3, 2, 4, rank)
    constants = dplr.step_constants(Lambda, P, B, C, dt)
    u = torch.randn(50, 2, dtype=torch.float64)
    x = torch.randn(1, 2, 8, dtype=torch.float64)
    x0, ys = x.clone(), []
    for u_k in u:
        y, x = dplr.step(constants, u_k[None], x)
        ys.append(y[0])
    for h in range(2):
        A, B_h, C_h = reference.dense_system(Lambda[h], P[:, h], B[h], C[h])
        start = realform.column_to_complex(x0[0, h])
        wanted, last = reference.scan(
            *reference.discretize(A, B_h, dt[h].item(), "bilinear"),
            C_h,
            u[:, h],
            torch.cat((start, start.conj())),
        )
        torch.testing.assert_close(torch.stack(ys)[:, h], wanted, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(realform.column_to_complex(x[0, h]), last[:4], rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), L=st.integers(1, 400), batch=st.integers(1, 3))
def test_block_form_equals_fft_form(seed: int, L: int, batch: int) -> None:
    Lambda, _, B, C, dt = random_system(seed, 3, 4, 1)
    u = torch.randn(batch, L, 3, dtype=torch.float64)
    maps = diagonal.block_maps(Lambda, B, C, dt, *block_form.block_lengths(L), "zoh")
    wanted = block_form.fft_convolve(u, diagonal.kernel(Lambda, B, C, dt, L, "zoh"))
    torch.testing.assert_close(block_form.block_convolve(u, maps, None)[0], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tile", [1, 30, 200, 2000])
def test_tiles_of_cauchy_sums_make_no_difference(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of one number, of some frequencies of one head, and of several heads; the last ones are smaller."""
    system = [x.requires_grad_() for x in random_system(7, 5, 4, 2)]
    weights = torch.randn(5, 61, dtype=torch.float64)

    def kernel_and_gradients() -> list[Tensor]:
        kernel = dplr.cauchy_kernel(*system, 61)
        return [kernel, *torch.autograd.grad((kernel * weights).sum(), system)]

    whole = kernel_and_gradients()
    monkeypatch.setattr(dplr, "_TILE", tile)
    for part, wanted in zip(kernel_and_gradients(), whole, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("L", [1, 127, 128, 129, 784, 1021, 3072, 16384])
def test_blocks_cover_every_length_without_waste(L: int) -> None:
    T, last = block_form.block_lengths(L)
    n = -(-L // T)
    assert 1 <= last <= T <= block_form.BLOCK
    assert (n - 1) * T + last == L


def test_gradients_of_all_kernels_equal_finite_differences() -> None:
    Lambda, P, B, C, dt = (t.requires_grad_() for t in random_system(5, 2, 2, 1))

    def s4(*system: Tensor) -> Tensor:
        maps = dplr.block_maps(*system, 5, 3)
        kernels = [kernel(*system, 9) for kernel in (dplr.cauchy_kernel, dplr.krylov_kernel)]
        return torch.cat((*kernels, maps.kernel, maps.last_transition.flatten(1)), 1)

    def s4d(Lambda: Tensor, B: Tensor, C: Tensor, dt: Tensor) -> Tensor:
        return torch.cat([diagonal.kernel(Lambda, B, C, dt, 9, method) for method in ("zoh", "bilinear")], 1)

    assert torch.autograd.gradcheck(s4, (Lambda, P, B, C, dt))
    assert torch.autograd.gradcheck(s4d, (Lambda, B, C, dt))


def fixture_files(pattern: str) -> list[Path]:
    return [f for f in reference_files(pattern) if "dss" not in f.name and "realdiag" not in f.name]


def fixture_system(path: Path, real: torch.dtype) -> tuple[dict[str, Tensor], Tensor, str]:
    """The system of a fixture with its shared SSMs tiled over the heads (head h uses row h mod S), and its kernel."""
    data = np.load(path, allow_pickle=False)
    copies = data["C"].shape[-2] // data["Lambda"].shape[-2]
    wide = torch.complex128 if real == torch.float64 else torch.complex64
    system = {
        name: torch.from_numpy(np.concatenate([data[name]] * (1 if name == "C" else copies), axis=-2)).to(wide)
        for name in ("Lambda", "P", "B", "C")
        if name in data
    }
    system["dt"] = torch.from_numpy(data["dt"]).to(real)
    return system, torch.from_numpy(data["K"]), str(data["discretization"])


@pytest.mark.parametrize(("real", "bound"), [(torch.float64, 1e-9), (torch.float32, 5e-5)])
@pytest.mark.parametrize("path", fixture_files("kernels_*.npz"), ids=lambda path: path.stem)
def test_kernels_equal_the_fixtures(path: Path, real: torch.dtype, bound: float) -> None:
    """Expected values by definition, written by others; lengths up to 4096, both forms, all lengths stored."""
    system, K, method = fixture_system(path, real)
    H = len(system["dt"])
    for L in {64, 1000, K.shape[1]}:
        lengths = block_form.block_lengths(L)
        if "P" in system:
            kernels = [kernel(**system, L=L) for kernel in (dplr.cauchy_kernel, dplr.krylov_kernel)]
            maps = dplr.block_maps(**system, T=lengths[0], last=lengths[1])
        else:
            kernels = [diagonal.kernel(**system, L=L, method=method)]
            maps = diagonal.block_maps(**system, T=lengths[0], last=lengths[1], method=method)
        for kernel in kernels:
            assert relative(kernel.double(), K[:, :L]) < bound
        assert relative(impulse_response(maps, H, L, real).double(), K[:, :L]) < bound


@pytest.mark.parametrize("path", fixture_files("kernels_*.npz"), ids=lambda path: path.stem)
def test_state_in_and_out_equals_the_fixtures(path: Path) -> None:
    """Output and final state from a random initial state, where the fixture has one."""
    data = np.load(path, allow_pickle=False)
    if "state_x0" not in data:
        pytest.skip("no state in this fixture")
    system, _, method = fixture_system(path, torch.float64)
    L = data["state_y"].shape[1]
    T, last = block_form.block_lengths(L)
    if "P" in system:
        maps = dplr.block_maps(**system, T=T, last=last)
    else:
        maps = diagonal.block_maps(**system, T=T, last=last, method=method)
    u = torch.from_numpy(data["u"][:, :L]).double()
    x0 = realform.column(torch.from_numpy(data["state_x0"]).to(torch.complex128))
    y, x = block_form.block_convolve(u.t()[None], maps, x0[None])
    y = y[0].t() + torch.from_numpy(data["D"])[:, None] * u
    assert relative(y, torch.from_numpy(data["state_y"])) < 1e-9
    wanted = torch.from_numpy(data["state_x_end"]).to(torch.complex128)
    torch.testing.assert_close(realform.column_to_complex(x[0]), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("N", [8, 64])
def test_hippo_legs_equals_the_fixture(N: int) -> None:
    data = np.load(reference_file("hippo.npz"), allow_pickle=False)
    A, B = hippo.legs(N)
    Lambda, P, B_basis = hippo.nplr("legs", N)
    prefix = f"legs_N{N}_"
    np.testing.assert_allclose(A, data[prefix + "A"], rtol=1e-12)
    np.testing.assert_allclose(B, data[prefix + "B"], rtol=1e-12)
    np.testing.assert_allclose(Lambda, data[prefix + "Lambda"], rtol=1e-9)
    np.testing.assert_allclose(P.conj() * B_basis, data[prefix + "VhP_conj_VhB"], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("L", [4096, 65536])
def test_long_kernels_keep_their_digits_in_float32(L: int) -> None:
    """Against our own float64, for initial values as they are used (dt down to 1e-3, so slow modes): <= 2e-4."""
    Lambda, P, B = hippo.nplr("legs", 64)
    g = torch.Generator().manual_seed(0)
    dt = torch.tensor([1e-3, 3e-3, 1e-2, 1e-1], dtype=torch.float64)
    system = {
        "Lambda": Lambda.expand(4, 32).contiguous(),
        "B": B.expand(4, 32).contiguous(),
        "C": torch.randn(4, 32, dtype=torch.complex128, generator=g),
    }
    low = {name: value.to(torch.complex64) for name, value in system.items()} | {"dt": dt.float()}
    high = {name: value.to(torch.complex128) for name, value in low.items()} | {"dt": dt.float().double()}
    P = P[:, None].expand(1, 4, 32).contiguous().to(torch.complex64)
    T, last = block_form.block_lengths(L)

    def blocked(maps: block_form.BlockMaps, dtype: torch.dtype) -> Tensor:
        return impulse_response(maps, 4, L, dtype).double()

    s4 = dplr.krylov_kernel(**high, P=P.to(torch.complex128), L=L)
    assert relative(dplr.krylov_kernel(**low, P=P, L=L).double(), s4) < 2e-4
    assert relative(dplr.cauchy_kernel(**low, P=P, L=L).double(), s4) < 2e-4
    assert relative(blocked(dplr.block_maps(**low, P=P, T=T, last=last), torch.float32), s4) < 2e-4
    for method in ("zoh", "bilinear"):
        s4d = diagonal.kernel(**high, L=L, method=method)
        assert relative(diagonal.kernel(**low, L=L, method=method).double(), s4d) < 2e-4
        maps = diagonal.block_maps(**low, T=T, last=last, method=method)
        assert relative(blocked(maps, torch.float32), s4d) < 2e-4


@pytest.mark.parametrize("kind", ["s4", "s4d"])
def test_nothing_of_size_heads_times_state_times_length_is_kept(kind: str) -> None:
    """Numbers that autograd saves for kernels and block maps, counted by its saved-tensor hook."""
    H, N, L = 4, 64, 8192
    Lambda, P, B, C, dt = (
        (t.to(torch.complex64) if t.is_complex() else t.float()).requires_grad_()
        for t in random_system(0, H, N // 2, 1)
    )
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        T, last = block_form.block_lengths(L)
        if kind == "s4":
            dplr.krylov_kernel(Lambda, P, B, C, dt, L)
            dplr.block_maps(Lambda, P, B, C, dt, T, last)
        else:
            diagonal.kernel(Lambda, B, C, dt, L, "zoh")
            diagonal.block_maps(Lambda, B, C, dt, T, last, "zoh")
    assert 0 < saved < 0.1 * H * N * L


class Written(TorchDispatchMode):
    """Counts the numbers that operations write, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **kwargs or {})
        if isinstance(result, Tensor) and not operation.is_view:
            self.numbers += result.numel()
        return result


def test_the_work_of_the_block_form_is_linear_in_the_length() -> None:
    """Forward and backward. Indexing the blocks one by one once made a gradient of full size for each."""
    work = []
    for L in (2048, 8192):
        Lambda, _, B, C, dt = random_system(1, 2, 2, 1)
        maps = diagonal.block_maps(Lambda, B, C, dt, *block_form.block_lengths(L), "zoh")
        u = torch.randn(1, L, 2, dtype=torch.float64, requires_grad=True)
        maps = maps._replace(into_state=maps.into_state.clone().requires_grad_())
        with Written() as written:
            block_form.block_convolve(u, maps, None)[0].sum().backward()
        work.append(written.numbers)
    assert work[1] < 4.4 * work[0]


def test_what_is_made_again_has_the_same_gradients() -> None:
    """Of all heads at once or of few, also where an input needs none and an output is not used."""
    x, y, constant = (torch.randn(5, 3, dtype=torch.float64) for _ in range(3))
    x, y = x.requires_grad_(), y.requires_grad_()
    calls = 0

    def function(x: Tensor, y: Tensor, constant: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return x * y.exp() * constant, x.sin(), y + 1

    def gradients(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.autograd.grad((outputs[0] ** 2).sum() + outputs[2].sum(), (x, y))

    wanted = gradients(function(x, y, constant))
    for together, tiles in ((9, 1), (2, 3)):
        calls = 0
        outputs = recomputed_by_heads(function, TOGETHER // together, x, y, constant)
        assert calls == tiles
        for got, want in zip(gradients(outputs), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)
        assert calls == 2 * tiles


def test_autocast_does_not_reach_what_is_made_again() -> None:
    """Neither a forward pass under it nor a backward pass: products stay in float32."""
    x = torch.randn(8, 8, requires_grad=True)
    (wanted,) = torch.autograd.grad((x @ x).square().sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        (product,) = recomputed(lambda x: (x @ x,), x)
        (got,) = torch.autograd.grad(product.square().sum(), x)
    assert product.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dt", [1e-3, 1e-7, 1e-11])
def test_zero_order_hold_is_exact_for_slow_modes(dt: float) -> None:
    """B_bar is the integral of exp(Lambda s) B over a step, so nearly dt B if nothing changes in that time."""
    Lambda, B = torch.tensor([[-0.5 - 1j]], dtype=torch.complex128), torch.ones(1, 1, dtype=torch.complex128)
    _, B_bar = diagonal.discretize(Lambda, B, torch.tensor([dt], dtype=torch.float64), "zoh")
    series = sum((Lambda * dt) ** k / math.factorial(k + 1) for k in range(8)) * dt
    assert ((B_bar - series) / dt).abs().max() < 1e-15


@pytest.mark.parametrize("size", [1e-9, 1e-3, 0.01, 0.03, 0.3, 3.0, 30.0])
def test_the_exponential_of_the_definition(size: float) -> None:
    """Against eigenvectors, of a skew-Hermitian matrix, whose exponential is unitary."""
    M = torch.randn(6, 6, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    M = size * (M - M.mH)
    w, V = torch.linalg.eigh(1j * M)
    assert (reference.exponential(M) - V @ torch.diag(torch.exp(-1j * w)) @ V.mH).abs().max() < 2e-13
