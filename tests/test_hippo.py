"""HiPPO matrices and initial values: against their theorems, and against numbers computed elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_numbers import reference_file

from s4gen.config import ModelConfig, SSMConfig
from s4gen.config.checks import ConfigError
from s4gen.config.combinations import check_pair
from s4gen.config.mixers import MIXERS
from s4gen.config.schema import INITS
from s4gen.models.ssm_layers import S4, S4D
from s4gen.ssm import hippo, inits, reference

FIXTURES = reference_file("hippo.npz")
every_measure = pytest.mark.parametrize("measure", sorted(hippo.MEASURES))


@every_measure
@pytest.mark.parametrize("N", [2, 8, 64])
def test_low_rank_correction_makes_the_matrix_normal(measure: str, N: int) -> None:
    """A + P^T P - shift I is skew-symmetric."""
    A, _ = hippo.dense(measure, N)
    P = hippo.low_rank(measure, N)
    assert P.shape == (2 if measure == "legt" else 1, N)
    skew = A + P.T @ P - hippo.MEASURES[measure].shift * torch.eye(N)
    assert (skew + skew.T).abs().max() < 1e-12 * max(1, A.abs().max().item())


@every_measure
@pytest.mark.parametrize("N", [2, 8, 64, 128])
def test_nplr_is_the_matrix_in_another_orthonormal_basis(measure: str, N: int) -> None:
    """Moments v^* A^k w of all pairs from B and P are equal: no unitary change of basis alters them, others do."""
    A, B = hippo.dense(measure, N)
    vectors = torch.cat((B[None], hippo.low_rank(measure, N)))
    Lambda, P, B_n = hippo.nplr(measure, N)
    A_full, _, _ = reference.dense_system(Lambda, P, B_n, B_n)
    half = torch.cat((B_n[None], P))
    full = torch.cat((half, half.conj()), dim=-1)
    assert full.shape == vectors.shape
    scale = torch.linalg.matrix_norm(A, 2)
    for k in range(6):
        wanted = vectors @ torch.linalg.matrix_power(A / scale, k) @ vectors.T
        got = full.conj() @ torch.linalg.matrix_power(A_full / scale, k) @ full.T
        assert (got - wanted).abs().max() < 1e-12 * (vectors @ vectors.T).max()


@every_measure
def test_nplr_keeps_one_of_each_conjugate_pair(measure: str) -> None:
    Lambda, _, _ = hippo.nplr(measure, 64)
    assert Lambda.shape == (32,)
    assert torch.all(Lambda.imag <= 0)
    assert torch.all(Lambda.real == hippo.MEASURES[measure].shift)
    assert len(torch.unique(Lambda.imag)) == 32


def test_eigenvalues_of_legs_are_the_negative_integers() -> None:
    """Also in the diagonalised form, as far as its eigenvalues can be computed: they are as ill-conditioned as A's."""
    Lambda, P, B = hippo.nplr("legs", 8)
    A, _, _ = reference.dense_system(Lambda, P, B, B)
    values = np.sort(torch.linalg.eigvals(A).real.numpy())
    np.testing.assert_allclose(values, np.arange(-8, 0), rtol=1e-9)


def test_the_double_zero_of_fourier_is_kept_once() -> None:
    """Its vector is (e0 + i e1)/sqrt(2) up to a phase: B and P, which live on e0, are 1/sqrt(2) there."""
    Lambda, P, B = hippo.nplr("fourier", 16)
    assert torch.count_nonzero(Lambda.imag) == 7
    assert Lambda[-1] == 0
    assert abs(B[-1]).item() == pytest.approx(0.5**0.5, rel=1e-12)
    assert abs(P[0, -1]).item() == pytest.approx(0.5**0.5, rel=1e-12)


@pytest.mark.parametrize("age", [0.0, 0.3, 2.0, 7.0])
def test_impulse_responses_of_legs_and_lagt_are_their_bases(age: float) -> None:
    """exp(a A) B = exp(-a) g(1 - exp(-a)) for legs, g(a) for lagt: A and the basis belong together, exactly."""
    for measure, warped, weight in (("legs", 1 - np.exp(-age), np.exp(-age)), ("lagt", age, 1.0)):
        A, B = hippo.dense(measure, 12)
        response = torch.linalg.matrix_exp(A * age) @ B
        wanted = weight * hippo.basis(measure, 12, torch.tensor([warped], dtype=torch.float64))[0]
        torch.testing.assert_close(response, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("measure", "bound"), [("legt", 0.08), ("fourier", 0.03)])
def test_impulse_responses_of_windows_are_their_bases_then_nothing(measure: str, bound: float) -> None:
    """g_n(a)/2 for a < 2 and 0 after it; a jump, so the error of the first functions falls as 1/sqrt(N)."""
    ages = (torch.arange(800, dtype=torch.float64) + 0.5) / 200
    errors = []
    for N in (16, 64, 256):
        A, B = hippo.dense(measure, N)
        step = torch.linalg.matrix_exp(A * (ages[1] - ages[0]))
        x, responses = torch.linalg.matrix_exp(A * ages[0]) @ B, []
        for _ in ages:
            responses.append(x[:8])
            x = step @ x
        wanted = torch.where(ages[:, None] < 2, hippo.basis(measure, 8, ages) / 2, 0)
        errors.append(((torch.stack(responses) - wanted).norm() / wanted.norm()).item())
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < bound, errors


@pytest.mark.parametrize("N", [-2, 0, 7])
def test_a_state_size_without_pairs_is_refused(N: int) -> None:
    message = rf"state size N = {N}: expected an even number, at least 2, .*; use N = {8 if N == 7 else 2}$"
    for measure in hippo.MEASURES:
        for make in (hippo.dense, hippo.low_rank, hippo.nplr):
            with pytest.raises(ValueError, match=message):
                make(measure, N)
    for init in inits.S4D_INITS:
        with pytest.raises(ValueError, match=message):
            inits.s4d(init, N)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown measure 'chebt': expected one of legs, legt, lagt, fourier"):
        hippo.nplr("chebt", 8)
    with pytest.raises(ValueError, match="unknown initialisation 'hippo': expected one of legs, lin, "):
        inits.s4d("hippo", 8)


@every_measure
@pytest.mark.parametrize("N", [8, 64])
def test_every_measure_equals_the_fixture(measure: str, N: int) -> None:
    """All quantities that do not depend on the phase of eigenvectors, normalisations included."""
    data = np.load(FIXTURES, allow_pickle=False)
    fixture = {key.removeprefix(f"{measure}_N{N}_"): data[key] for key in data if key.startswith(f"{measure}_N{N}_")}
    A, B = hippo.dense(measure, N)
    Lambda, P, B_n = (x.numpy() for x in hippo.nplr(measure, N))
    scale = np.abs(fixture["normal_eig"]).max()
    np.testing.assert_allclose(A, fixture["A"], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(B, fixture["B"], rtol=1e-13)
    np.testing.assert_allclose(hippo.low_rank(measure, N), fixture["P"], rtol=1e-13)
    assert hippo.MEASURES[measure].shift == pytest.approx(fixture["shift"].item(), abs=1e-12)
    np.testing.assert_allclose(Lambda, fixture["Lambda"], atol=1e-13 * scale)
    np.testing.assert_allclose(np.concatenate((Lambda, Lambda[::-1].conj())), fixture["normal_eig"], atol=1e-13 * scale)
    np.testing.assert_allclose(np.abs(B_n), fixture["abs_VhB"], rtol=1e-9)
    np.testing.assert_allclose(np.abs(P), fixture["abs_VhP"], rtol=1e-9)
    np.testing.assert_allclose(P.conj() * B_n, fixture["VhP_conj_VhB"], rtol=1e-9, atol=1e-11)
    gram = P.conj()[:, None] * P
    np.testing.assert_allclose(gram, fixture["VhP_gram"], rtol=1e-9, atol=1e-11)
    # What the reference implementation returned; it makes the P of fourier in float32.
    rtol = 1e-6 if measure == "fourier" else 1e-9
    theirs, B_theirs = fixture["reference_P"], fixture["reference_B_unclipped"]
    np.testing.assert_allclose(np.abs(B_n), np.abs(B_theirs), rtol=rtol)
    np.testing.assert_allclose(P.conj() * B_n, theirs.conj() * B_theirs, rtol=rtol, atol=1e-11)


@pytest.mark.parametrize("init", sorted(set(inits.S4D_INITS) - {"random"}))
def test_s4d_initial_values_equal_the_fixture(init: str) -> None:
    data = np.load(FIXTURES, allow_pickle=False)
    Lambda, B = inits.s4d(init, 64)
    np.testing.assert_allclose(Lambda, data[f"s4d_{init}_N64_Lambda"], rtol=1e-12, atol=1e-12)
    if init != "legs":
        assert torch.all(B == 1)
        return
    # The reference clips Im(B) to [-2, 2], in a basis whose phases only rounding decides: a bound is all that is left.
    assert np.all(B.abs().numpy() >= np.abs(data["s4d_legs_N64_reference_B"]) * (1 - 1e-6))


def test_real_has_no_frequencies() -> None:
    Lambda, _ = inits.s4d("real", 64)
    assert torch.all(Lambda.imag == 0)
    assert torch.all(Lambda.real == -torch.arange(1, 33))


def test_random_is_log_normal_and_follows_the_seed() -> None:
    """Mean and deviation of 20000 draws: a right one fails with a chance below 1e-9 (six standard errors)."""
    Lambda, _ = inits.s4d("random", 40_000)
    z = torch.log(-Lambda.imag)
    assert abs(z.mean()) < 6 / 20_000**0.5
    assert abs(z.std() - 1) < 6 / 40_000**0.5
    assert torch.all(Lambda.real == -0.5)
    torch.manual_seed(7)
    first = inits.s4d("random", 8)[0]
    assert not torch.equal(inits.s4d("random", 8)[0], first)
    torch.manual_seed(7)
    assert torch.equal(inits.s4d("random", 8)[0], first)


def test_configuration_and_mathematics_have_the_same_names() -> None:
    assert MIXERS["s4d"].inits == tuple(inits.S4D_INITS)
    assert MIXERS["s4"].inits == tuple(hippo.MEASURES)


@pytest.mark.parametrize("mixer", sorted(name for name, mixer in MIXERS.items() if mixer.inits))
@pytest.mark.parametrize("init", INITS)
def test_an_initialisation_goes_with_its_mixers_alone(mixer: str, init: str) -> None:
    model, ssm = ModelConfig(mixer=mixer), SSMConfig(init=init)
    if init in MIXERS[mixer].inits:
        check_pair(model, ssm)
        return
    with pytest.raises(ConfigError) as error:
        check_pair(model, ssm)
    expected = ", ".join(MIXERS[mixer].inits)
    assert str(error.value) == (
        f'ssm.init = "{init}" does not go with model.mixer = "{mixer}": expected one of {expected}'
    )


@pytest.mark.parametrize(
    ("layer_type", "init"),
    [(S4, init) for init in MIXERS["s4"].inits] + [(S4D, init) for init in MIXERS["s4d"].inits],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)
@pytest.mark.parametrize("decay", ["exp", "softplus", "relu"])
def test_a_layer_of_every_initialisation_is_stable_and_steps_as_it_convolves(
    layer_type: type[S4] | type[S4D], init: str, decay: str
) -> None:
    """-Re Lambda is 0 in three measures, and at least 1e-4 as a parameter; with relu it starts above that."""
    layer = layer_type(3, SSMConfig(d_state=16, init=init, decay=decay)).double()
    Lambda = layer.continuous()[0]
    wanted = hippo.nplr(init, 16)[0] if layer_type is S4 else None
    assert Lambda.real.max() <= -1e-4 * (1 - 1e-3)
    if wanted is not None:
        least = 2e-4 if decay == "relu" else 1e-4
        torch.testing.assert_close(-Lambda.real[0], (-wanted.real).clamp_min(least), rtol=1e-3, atol=0)
    Lambda.real.sum().backward()
    assert layer.raw_decay.grad.abs().min() > 0
    u = torch.randn(2, 150, 3, dtype=torch.float64)
    y, last = layer(u)
    x, steps = layer.initial_state(2), []
    stepper = layer.discretized()
    for k in range(u.shape[1]):
        y_k, x = stepper.step(u[:, k], x)
        steps.append(y_k)
    torch.testing.assert_close(torch.stack(steps, 1), y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x, last, rtol=1e-9, atol=1e-9)
    assert torch.isfinite(layer.kernel(150)).all()
