"""The contracts of every sequence module, and of the density model on top of them."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig
from s4gen.errors import UserError
from s4gen.models.bidirectional import Bidirectional
from s4gen.models.blocks import Block
from s4gen.models.build import build_model
from s4gen.models.density import DensityModel
from s4gen.models.mixers import make_mixer
from s4gen.models.sequence import resampled
from s4gen.models.ssm_layers import S4, S4D, SSMLayer

LAYOUT = ImageLayout(height=4, width=3, channels=3, levels=6)
SSM_KINDS = {
    "s4": ("s4", SSMConfig(d_state=8)),
    "s4d-legs": ("s4d", SSMConfig(d_state=8)),
    "s4d-lin-bilinear": ("s4d", SSMConfig(d_state=8, init="lin", discretization="bilinear")),
    "s4d-inv": ("s4d", SSMConfig(d_state=8, init="inv")),
    "dss-exp": ("dss", SSMConfig(d_state=8)),
    "dss-softmax": ("dss", SSMConfig(d_state=8, init="lin", norm_length=400)),
    "lssl": ("lssl", SSMConfig(d_state=8)),
    "h3": ("h3", SSMConfig(d_state=8, init="lin")),
    "attention": ("attention", SSMConfig()),
}


def noisy(module: nn.Module) -> Any:
    """Every parameter moved off its initial value, so that nothing holds only because of a zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def layer(kind: str, dtype: torch.dtype) -> Any:
    mixer, ssm = SSM_KINDS[kind]
    return noisy(make_mixer(ModelConfig(mixer, d_model=6, n_heads=2), ssm)).to(dtype)


def model(kind: str, dtype: torch.dtype = torch.float64, layout: ImageLayout = LAYOUT, d_ff: int = 12) -> DensityModel:
    mixer, ssm = SSM_KINDS[kind]
    config = ModelConfig(mixer=mixer, d_model=8, n_layers=2, d_ff=d_ff, n_heads=2)
    built: DensityModel = noisy(build_model(DensityConfig(layout, config, ssm))).to(dtype)
    return built


def leaves(state: Any) -> list[Tensor]:
    """Tensors of a state, of an attention state only the filled part."""
    if isinstance(state, Tensor):
        return [state]
    if hasattr(state, "length"):
        return [state.keys[:, :, : state.length], state.values[:, :, : state.length]]
    return [leaf for part in state for leaf in leaves(part)]


def assert_same(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    bound = 1e-9 if dtype == torch.float64 else 3e-5
    scale = want.abs().max().clamp_min(1e-3)
    assert ((got - want).abs().max() / scale).item() < bound


def run_steps(module: Any, u: Tensor, state: Any) -> tuple[Tensor, Any]:
    outputs = []
    for t in range(u.shape[1]):
        y, state = module.step(u[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", SSM_KINDS)
@pytest.mark.parametrize(("L", "cut"), [(1, 1), (2, 1), (131, 60), (300, 129)])
def test_a_layer_gives_the_same_at_once_in_chunks_and_in_steps(kind: str, L: int, cut: int, dtype: torch.dtype) -> None:
    module, u = layer(kind, dtype), torch.randn(2, L, 6, dtype=dtype)
    with torch.no_grad():
        y, state = module(u)
        first, middle = module(u[:, :cut])
        parts = [first]
        if cut < L:
            second, middle = module(u[:, cut:], middle)
            parts.append(second)
        stepped, last = run_steps(module, u, module.initial_state(2))
    assert_same(torch.cat(parts, 1), y, dtype)
    assert_same(stepped, y, dtype)
    for a, b, c in zip(leaves(state), leaves(middle), leaves(last), strict=True):
        assert_same(b, a, dtype)
        assert_same(c, a, dtype)


@pytest.mark.parametrize("kind", ["s4", "s4d-legs", "s4d-lin-bilinear", "dss-exp", "dss-softmax", "lssl"])
def test_the_recurrent_twin_is_the_layer(kind: str) -> None:
    """`discretized` steps as the layer does, and later training of the layer does not reach it."""
    module, u = layer(kind, torch.float64), torch.randn(2, 40, 6, dtype=torch.float64)
    with torch.no_grad():
        wanted, _ = module(u)
        twin = module.discretized()
        for parameter in module.parameters():
            parameter.zero_()
        got, _ = run_steps(twin, u, twin.initial_state(2))
    assert_same(got, wanted, torch.float64)
    assert not list(twin.parameters())


@pytest.mark.parametrize("kind", ["s4", "s4d-inv", "dss-exp", "dss-softmax", "lssl"])
def test_the_kernel_of_a_layer_is_its_response_to_an_impulse(kind: str) -> None:
    module = layer(kind, torch.float64)
    u = torch.zeros(1, 200, 6, dtype=torch.float64)
    u[:, 0] = 1
    with torch.no_grad():
        response = module(u)[0][0].t()
        response[:, 0] -= module.D
        assert_same(response, module.kernel(200), torch.float64)


@pytest.mark.parametrize("kind", SSM_KINDS)
def test_no_gradient_flows_from_an_output_to_a_later_input(kind: str) -> None:
    """A leak would make every likelihood meaningless. Gradients to earlier inputs must be there."""
    mixer, ssm = SSM_KINDS[kind]
    block = noisy(Block(ModelConfig(mixer=mixer, d_model=6, d_ff=8, n_heads=2), ssm)).double()
    u = torch.randn(1, 9, 6, dtype=torch.float64, requires_grad=True)
    y, _ = block(u)
    for t in range(9):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), u, retain_graph=True)
        size = gradient[0].abs().sum(-1)
        assert size[t + 1 :].eq(0).all()
        assert size[: t + 1].gt(0).all()


@pytest.mark.parametrize("kind", SSM_KINDS)
def test_the_model_gives_the_same_at_once_in_chunks_and_in_steps(kind: str) -> None:
    """Over more than one image, so that places wrap around."""
    network = model(kind)
    x = torch.randint(0, 6, (2, 50))
    tokens = torch.cat((torch.full((2, 1), network.bos), x), 1)
    with torch.no_grad():
        logits, _ = network(tokens)
        first, state = network(tokens[:, :17])
        second, _ = network(tokens[:, 17:], state)
        stepped, _ = run_steps(network, tokens, network.initial_state(2))
        prefilled, state = network.prefill(x[:, :20])
        more, _ = network.prefill(x[:, 20:31], state)
    assert_same(torch.cat((first, second), 1), logits, torch.float64)
    assert_same(stepped, logits, torch.float64)
    assert_same(prefilled, logits[:, 20], torch.float64)
    assert_same(more, logits[:, 31], torch.float64)


@pytest.mark.parametrize("kind", SSM_KINDS)
def test_the_probabilities_of_all_sequences_sum_to_one(kind: str) -> None:
    """All 2^8 images of 2 x 4 black and white pixels."""
    layout = ImageLayout(height=2, width=4, channels=1, levels=2)
    network = model(kind, layout=layout)
    every = torch.tensor(list(itertools.product((0, 1), repeat=8)))
    with torch.no_grad():
        log_prob = network.log_prob(every)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.std() > 0.05  # and the model is not uniform


@pytest.mark.parametrize("kind", SSM_KINDS)
def test_forward_changes_nothing(kind: str) -> None:
    network = model(kind).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = torch.randint(0, 6, (2, 36))
    network.nats(x).sum().backward()
    with torch.no_grad():
        run_steps(network, x, network.initial_state(2))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_every_parameter_gets_a_gradient() -> None:
    for kind in ("s4", "s4d-legs", "dss-exp", "dss-softmax", "lssl"):
        network = model(kind)
        network.nats(torch.randint(0, 6, (2, 36))).sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_the_ssm_stays_in_float32_under_autocast() -> None:
    module, u = layer("s4d-legs", torch.float32), torch.randn(1, 100, 6)
    wanted, _ = module(u)
    with torch.autocast("cpu", torch.bfloat16):
        got, state = module(u)
    assert got.dtype == state.dtype == torch.float32
    assert torch.equal(got, wanted)


def test_the_embedding_knows_the_channel_of_the_value_and_the_place_to_come() -> None:
    """The same value in another channel, or in another place, reads differently; one image later it reads the same."""
    network = model("s4d-legs")
    token = torch.full((1,), 3)

    def at(place: int) -> Tensor:
        return network.embedding(token, torch.tensor([place]))

    assert not torch.equal(at(1), at(2))
    assert not torch.equal(at(1), at(4))
    assert torch.equal(at(5), at(5 + LAYOUT.length))


def test_without_feed_forward_there_is_none() -> None:
    small, large = (model("s4d-legs", d_ff=d) for d in (0, 12))
    assert not [name for name, _ in small.named_parameters() if "feed_forward" in name]
    assert [name for name, _ in large.named_parameters() if "feed_forward" in name]


VARIANTS = {
    "s4-shared": ("s4", SSMConfig(d_state=8, n_ssm=2)),
    "s4-softplus": ("s4", SSMConfig(d_state=8, decay="softplus", dt_transform="softplus", train_B=False)),
    "s4d-shared": ("s4d", SSMConfig(d_state=8, n_ssm=3, init="inv")),
    "s4d-relu": ("s4d", SSMConfig(d_state=8, decay="relu", discretization="bilinear")),
    "s4d-dt-per-state": ("s4d", SSMConfig(d_state=8, tie_dt=False)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    mixer, ssm = VARIANTS[name]
    module = noisy({"s4": S4, "s4d": S4D}[mixer](6, ssm)).double()
    u = torch.randn(2, 140, 6, dtype=torch.float64)
    with torch.no_grad():
        y, state = module(u)
        first, middle = module(u[:, :37])
        second, last = module(u[:, 37:], middle)
        stepped, stepped_state = run_steps(module.discretized(), u, module.initial_state(2))
    assert_same(torch.cat((first, second), 1), y, torch.float64)
    assert_same(stepped, y, torch.float64)
    assert_same(last, state, torch.float64)
    assert_same(stepped_state, state, torch.float64)


@pytest.mark.parametrize("name", VARIANTS)
def test_options_do_not_change_the_initial_system(name: str) -> None:
    """A transform is a way to write dt and Lambda, so both start from the same values whatever it is."""
    mixer, ssm = VARIANTS[name]
    plain = SSMConfig(d_state=8, init=ssm.init, tie_dt=ssm.tie_dt)
    built = []
    for config in (ssm, plain):
        torch.manual_seed(1)
        built.append({"s4": S4, "s4d": S4D}[mixer](6, config).continuous())
    for got, want in zip(*built, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_shared_ssms_are_dealt_out_by_remainder() -> None:
    module = S4D(6, SSMConfig(d_state=4, n_ssm=3))
    with torch.no_grad():
        module.frequency[1] = 7.0
    Lambda, *_ = module.continuous()
    assert [h for h in range(6) if Lambda[h, 0].imag == 7.0] == [1, 4]
    with pytest.raises(ValueError, match="n_ssm = 4 does not divide d_model = 6"):
        S4D(6, SSMConfig(d_state=4, n_ssm=4))


def test_a_fixed_b_is_not_a_parameter() -> None:
    module = S4D(6, SSMConfig(d_state=4, train_B=False))
    assert "B" not in dict(module.named_parameters())
    assert module.ssm_parameters == ("raw_dt", "raw_decay", "frequency")


@pytest.mark.parametrize("name", ["s4-shared", "s4-softplus", "s4d-shared", "s4d-dt-per-state"])
@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_a_rate_scales_dt_in_both_views(name: str, rate: float) -> None:
    """The kernel at rate r is that of a system with dt r, exactly; and the step follows."""
    mixer, ssm = VARIANTS[name]
    module = noisy({"s4": S4, "s4d": S4D}[mixer](6, ssm)).double()
    *_, before = module.continuous()
    module.rescale_dt_(rate)
    *_, after = module.continuous()
    torch.testing.assert_close(after, before * rate, rtol=1e-12, atol=0)
    u = torch.randn(1, 30, 6, dtype=torch.float64)
    with torch.no_grad():
        y, _ = module(u)
        stepped, _ = run_steps(module.discretized(), u, module.initial_state(1))
    assert_same(stepped, y, torch.float64)


def test_twice_the_rate_reads_every_second_sample() -> None:
    """Zero-order hold: on an input held for two samples, rate 1 at the odd places is rate 2 on the short input."""
    network = model("s4d-legs")
    fast, slow = resampled(network, 2.0), network
    u = torch.randn(1, 20, 8, dtype=torch.float64)
    held = u.repeat_interleave(2, dim=1)
    with torch.no_grad():
        short, _ = fast.blocks[0].mixer(u)
        long, _ = slow.blocks[0].mixer(held)
    assert_same(long[:, 1::2], short, torch.float64)
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(
            ValueError, match=f"factor must be a positive number, got {value}: 0.5 reads a signal sampled"
        ):
            resampled(network, value)


@pytest.mark.parametrize("kind", ["s4", "s4d-legs", "s4d-lin-bilinear", "dss-exp", "dss-softmax", "lssl"])
@pytest.mark.parametrize("L", [40, 300])
def test_rows_of_unequal_length_end_in_the_state_of_their_own(kind: str, L: int) -> None:
    """Whatever stands behind a row's end; from a state and from nothing; a row of length 0 keeps its state."""
    module = layer(kind, torch.float64)
    lengths = torch.tensor([L, 0, 1, 17, L - 1, min(L, 128), L // 2])
    u = torch.randn(len(lengths), L, 6, dtype=torch.float64)
    start = torch.randn(len(lengths), 6, 8, dtype=torch.float64)
    with torch.no_grad():
        for state in (None, start):
            y, together = module(u, state, lengths)
            for b, length in enumerate(lengths.tolist()):
                own = module.initial_state(1) if state is None else start[b : b + 1]
                if length:
                    alone, own = module(u[b : b + 1, :length], own)
                    assert_same(y[b : b + 1, :length], alone, torch.float64)
                assert (together[b] - own[0]).abs().max() < 1e-9


def test_prompts_of_unequal_length_are_read_together() -> None:
    network = model("s4")
    x, lengths = torch.randint(0, 6, (4, 30)), torch.tensor([30, 0, 7, 1])
    with torch.no_grad():
        logits, state = network.prefill(x, lengths=lengths)
        for b, length in enumerate(lengths.tolist()):
            alone, own = network.prefill(x[b : b + 1, :length])
            assert_same(logits[b : b + 1], alone, torch.float64)
            for got, want in zip(leaves(state), leaves(own), strict=True):
                assert (got[b] - want[0]).abs().max() < 1e-9


def test_a_bidirectional_layer_sees_both_ways_and_only_its_own_row() -> None:
    module = noisy(Bidirectional(S4D(6, SSMConfig(d_state=4)), S4D(6, SSMConfig(d_state=4)))).double()
    u = torch.randn(2, 12, 6, dtype=torch.float64, requires_grad=True)
    y, state = module(u)
    (gradient,) = torch.autograd.grad(y[0, 5].sum(), u, retain_graph=True)
    assert gradient[0].abs().sum(-1).gt(0).all()
    assert state is None
    padded, _ = module(u, None, torch.tensor([12, 7]))
    alone, _ = module(u[1:, :7])
    assert_same(padded[1:, :7].detach(), alone.detach(), torch.float64)
    assert padded[1, 7:].eq(0).all()
    for attempt in (lambda: module.step(u[:, 0], None), lambda: module.initial_state(2), lambda: module(u, u)):
        with pytest.raises(ValueError, match="use a causal layer"):
            attempt()


@pytest.mark.parametrize("kind", [kind for kind in SSM_KINDS if isinstance(layer(kind, torch.float32), SSMLayer)])
def test_shapes_that_do_not_fit_are_named(kind: str) -> None:
    """A state space layer says what arrived, what was expected, and what to do."""
    module, u = layer(kind, torch.float32), torch.randn(2, 5, 6)
    with pytest.raises(ValueError, match=r"u has shape \(2, 5, 7\), expected .*d_model = 6"):
        module(torch.randn(2, 5, 7))
    with pytest.raises(ValueError, match=r"u has shape \(2, 0, 6\), expected .*length >= 1"):
        module(u[:, :0])
    for attempt in (lambda state: module(u, state), lambda state: module.step(u[:, 0], state)):
        for wrong in ((3, 6, 8), (1, 6, 8), (2, 6, 4), (2, 8)):
            got, wanted = re.escape(str(wrong)), r"\(2, 6, 8\)"
            message = rf"state has shape {got}, expected {wanted}: make one with initial_state\(2\)"
            with pytest.raises(ValueError, match=message):
                attempt(torch.zeros(wrong))
    with pytest.raises(
        ValueError, match=r"u has shape \(2, 5, 6\), expected \(batch, d_model = 6\): one input for each"
    ):
        module.discretized().step(u, module.initial_state(2))


def test_lengths_that_do_not_fit_are_named() -> None:
    """As by a bidirectional layer."""
    u = torch.randn(2, 5, 6)
    for module in (layer("s4d-legs", torch.float32), Bidirectional(*(layer("s4", torch.float32) for _ in range(2)))):
        for wrong in ([5, 6], [-1, 5]):
            message = rf"values {re.escape(str(wrong))}, expected 0 to 5, the length of u: shorten them or pad u"
            with pytest.raises(ValueError, match=message):
                module(u, None, torch.tensor(wrong))
        with pytest.raises(ValueError, match=r"lengths has shape \(3,\), expected \(2,\): give one for each row of u"):
            module(u, None, torch.tensor([5, 5, 5]))


@pytest.mark.parametrize("d_state", [-2, 0, 7])
def test_a_layer_without_pairs_of_states_is_refused(d_state: int) -> None:
    with pytest.raises(UserError, match=f"d_state = {d_state}: expected an even number, at least 2"):
        SSMConfig(d_state=d_state)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("kind", ["s4", "s4d-legs"])
def test_a_layer_compiles_as_one_graph(kind: str) -> None:
    """No `.item()`, no branch on data: what CUDA graphs need too. Outputs and gradients are the same."""
    module, u = layer(kind, torch.float32), torch.randn(2, 140, 6)
    y, _ = module(u)
    y.sum().backward()
    wanted = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    compiled, _ = torch.compile(module, fullgraph=True, backend="aot_eager")(u)
    compiled.sum().backward()
    assert_same(compiled.detach(), y.detach(), torch.float32)
    for parameter, want in zip(module.parameters(), wanted, strict=True):
        assert_same(parameter.grad, want, torch.float32)
