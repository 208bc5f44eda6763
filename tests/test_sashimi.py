"""SaShiMi: the contract of a sequence module at several time scales, and the reference's numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_numbers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from s4gen.config import ModelConfig, SSMConfig
from s4gen.models.blocks import Block
from s4gen.models.sashimi import Sashimi, SashimiState
from s4gen.ssm import dplr
from s4gen.ssm.realform import row, row_to_complex

FIXTURES = reference_numbers.BESIDE
POOLS = {  # pool, expand, unet
    "4-4": ([4, 4], 2, False),
    "3": ([3], 1, False),
    "2-3-2": ([2, 3, 2], 2, False),
    "unet": ([3, 2], 2, True),
    "unet-2": ([2], 2, True),
}


def stack(name: str = "2-3-2", mixer: str = "s4d", dtype: torch.dtype = torch.float64, n_layers: int = 1) -> Sashimi:
    """A tiny one, all parameters moved off their initial values so that nothing holds only because of a zero."""
    pool, expand, unet = POOLS[name]
    model = ModelConfig(mixer, 4, n_layers, d_ff=6, pool=tuple(pool), expand=expand, unet=unet)
    built = Sashimi(model, SSMConfig(d_state=4, dt_min=0.05, dt_max=0.5))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built.eval().to(dtype)


def leaves(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [leaf for part in state for leaf in leaves(part)]


def assert_same(got: Any, want: Any) -> None:
    """Two outputs, or all tensors of two states."""
    for a, b in zip(leaves(got), leaves(want), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        bound = 3e-5 if b.dtype == torch.float32 else 1e-10
        assert a.numel() == 0 or ((a - b).abs().max() / b.abs().max().clamp_min(1e-3)).item() < bound


def by_steps(module: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    outputs = []
    for x_t in x.unbind(1):
        y, state = module.step(x_t, state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def by_chunks(module: Any, x: Tensor, chunks: list[int]) -> tuple[Tensor, Any]:
    outputs, state = [], None
    for chunk in x.split(chunks, 1):
        y, state = module(chunk, state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


@pytest.mark.parametrize(("L", "cut"), [(1, 1), (3, 1), (16, 8), (45, 21)])
@pytest.mark.parametrize(
    ("name", "mixer", "dtype"),
    [
        ("4-4", "s4", torch.float64),
        ("4-4", "s4", torch.float32),
        ("4-4", "s4d", torch.float32),
        ("3", "s4", torch.float64),
        ("2-3-2", "dss", torch.float64),
        ("unet", "s4d", torch.float64),
    ],
)
@torch.no_grad()
def test_at_once_in_chunks_and_in_steps_are_the_same(
    name: str, mixer: str, dtype: torch.dtype, L: int, cut: int
) -> None:
    module, x = stack(name, mixer, dtype), torch.randn(2, L, 4, dtype=dtype)
    whole = module(x)
    assert_same(by_chunks(module, x, [cut, L - cut] if cut < L else [L]), whole)
    assert_same(by_steps(module, x, module.initial_state(2)), whole)


@settings(max_examples=20)
@given(chunks=st.lists(st.integers(1, 30), min_size=1, max_size=6), name=st.sampled_from(list(POOLS)))
@torch.no_grad()
def test_any_length_in_any_chunks_is_the_same(chunks: list[int], name: str) -> None:
    module, x = stack(name), torch.randn(1, sum(chunks), 4, dtype=torch.float64)
    assert_same(by_chunks(module, x, chunks), module(x))


@pytest.mark.parametrize("name", POOLS)
def test_no_gradient_flows_from_an_output_to_a_later_input(name: str) -> None:
    """A leak would make every likelihood meaningless. To all earlier inputs there is one."""
    module, x = stack(name), torch.randn(1, 30, 4, dtype=torch.float64, requires_grad=True)
    y, _ = module(x)
    for t in range(30):
        (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
        reached = gradient[0].abs().sum(-1)
        assert (reached[: t + 1] > 0).all()
        assert (reached[t + 1 :] == 0).all()


@torch.no_grad()
def test_what_comes_after_a_prefix_changes_nothing_in_it() -> None:
    """The windows that a sequence does not fill are padded inside; nothing of that is seen."""
    module, x = stack(), torch.randn(1, 29, 4, dtype=torch.float64)
    y, _ = module(x)
    for L in range(1, 29):
        assert_same(module(x[:, :L])[0], y[:, :L])


@torch.no_grad()
def test_a_coarse_level_is_heard_one_window_late() -> None:
    """With nothing but its own skip at the fine level, the first window is doubled, and the next is not."""
    module, x = stack("3"), torch.randn(1, 6, 4, dtype=torch.float64)
    for block in module.up:
        for linear in (block.output.linear, block.feed_forward.down):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
    y, _ = module(x)
    assert_same(y[:, :3], 2 * x[:, :3])
    coarse, _ = module.inner(module.pool.down(x[:, :3].flatten(1))[:, None])
    assert_same(y[:, 3:], 2 * (x[:, 3:] + module.pool.up(coarse).view(1, 3, 4)))


@pytest.mark.parametrize("name", POOLS)
@torch.no_grad()
def test_rows_of_unequal_length_are_read_together(name: str) -> None:
    """From the start and then from different places; a row of length 0 stays where it is."""
    module, lengths = stack(name, "s4"), [torch.tensor([26, 0, 1, 13, 24]), torch.tensor([5, 9, 0, 1, 8])]
    x = [torch.randn(5, 26, 4, dtype=torch.float64), torch.randn(5, 9, 4, dtype=torch.float64)]
    first, middle = module(x[0], None, lengths[0])
    second, last = module(x[1], middle, lengths[1])
    for b in range(5):
        n, m = lengths[0][b], lengths[1][b]
        y, state = by_steps(module, torch.cat((x[0][b, :n], x[1][b, :m]))[None], module.initial_state(1))
        assert_same(torch.cat((first[b, :n], second[b, :m]))[None], y)
        assert_same([leaf[b : b + 1] for leaf in leaves(last)], leaves(state))


@torch.no_grad()
def test_rows_at_different_places_are_stepped_together() -> None:
    module, lengths = stack("unet"), torch.tensor([0, 1, 2, 3, 4, 5, 6])
    x, more = torch.randn(7, 6, 4, dtype=torch.float64), torch.randn(7, 13, 4, dtype=torch.float64)
    _, state = module(x, None, lengths)
    y, last = by_steps(module, more, state)
    for b, n in enumerate(lengths.tolist()):
        alone, own = by_steps(module, torch.cat((x[b, :n], more[b]))[None], module.initial_state(1))
        assert_same(y[b : b + 1], alone[:, n:])
        assert_same([leaf[b : b + 1] for leaf in leaves(last)], leaves(own))


@torch.no_grad()
def test_a_level_runs_once_for_each_of_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    module, ran = stack("2-3-2", n_layers=2), dict.fromkeys((4, 8, 16, 32), 0)
    step = Block.step

    def counted(self: Block, x: Tensor, state: Any) -> Any:
        ran[x.shape[1]] += 1
        return step(self, x, state)

    monkeypatch.setattr(Block, "step", counted)
    by_steps(module, torch.randn(1, 25, 4, dtype=torch.float64), module.initial_state(1))
    assert ran == {4: 2 * 25, 8: 2 * 12, 16: 2 * 4, 32: 2 * 2}
    assert [module.due(place) for place in range(12)] == [0, 1, 0, 1, 0, 2, 0, 1, 0, 1, 0, 3]


@torch.no_grad()
def test_a_state_is_a_value() -> None:
    """Neither a step nor a forward pass changes it, and it keeps no memory of what it was made from."""
    module, x = stack("4-4"), torch.randn(2, 37, 4, dtype=torch.float64)
    _, state = module(x[:, :31])
    before = [leaf.clone() for leaf in leaves(state)]
    once = by_steps(module, x[:, 31:], state)
    module(x[:, 31:], state)
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), before, strict=True))
    assert_same(by_steps(module, x[:, 31:], state), once)
    (last, pending), _ = state.coarser
    assert all(t.untyped_storage().nbytes() == 8 * t.numel() for t in (last, pending))


@torch.no_grad()
def test_without_strides_it_is_a_plain_stack() -> None:
    module = Sashimi(ModelConfig(d_model=4, n_layers=2, d_ff=6), SSMConfig(d_state=4)).eval()
    x = torch.randn(2, 9, 4)
    y = x
    for block in module.up:
        y, _ = block(y)
    assert_same(module(x)[0], x + y)
    assert_same(by_steps(module, x, module.initial_state(2)), module(x))


def test_gradients_are_right_also_through_a_state() -> None:
    """Of a loss over two chunks, the second of which starts inside a window; forward changes no parameter."""
    module, x = stack("unet-2"), torch.randn(1, 9, 4, dtype=torch.float64, requires_grad=True)
    names, values = zip(*module.named_parameters(), strict=True)
    before = [value.detach().clone() for value in values]

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        call = torch.func.functional_call
        first, state = call(module, dict(zip(names, values, strict=True)), (x[:, :5],))
        second, _ = call(module, dict(zip(names, values, strict=True)), (x[:, 5:], state))
        return torch.cat((first, second), 1)

    assert torch.autograd.gradcheck(outputs, (x, *values), fast_mode=True)
    outputs(x, *values).square().sum().backward()
    for name, value, old in zip(names, values, before, strict=True):
        assert value.grad is not None and value.grad.abs().sum() > 0, name
        assert torch.equal(value, old), name


@torch.no_grad()
def test_a_saved_stack_is_the_same_when_loaded(tmp_path: Path) -> None:
    module, x = stack("unet"), torch.randn(1, 20, 4, dtype=torch.float64)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    other = stack("unet")
    assert (other(x)[0] - module(x)[0]).abs().max() > 1e-3
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(x)[0], module(x)[0])


@torch.no_grad()
def test_the_residual_stream_stays_in_float32_under_autocast() -> None:
    module, x = stack("4-4", dtype=torch.float32), torch.randn(2, 40, 4)
    wanted, _ = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = module(x)
        stepped, last = by_steps(module, x, module.initial_state(2))
    assert {leaf.dtype for leaf in (y, stepped, *leaves((state, last)))} == {torch.float32, torch.int64}
    assert (y - wanted).norm() / wanted.norm() < 0.03
    assert (stepped - wanted).norm() / wanted.norm() < 0.03


@pytest.mark.parametrize(
    ("n_ssm", "unet", "millions"), [(1, False, 4.72), (0, False, 5.40), (1, True, 5.81), (0, True, 6.79)]
)
def test_the_published_size_has_the_published_number_of_parameters(n_ssm: int, unet: bool, millions: float) -> None:
    """Eight layers, 64 features, strides 4 and 4: 5.8 M is the U-Net form. We have a norm weight for each feature."""
    model = ModelConfig("s4", 64, 8, d_ff=128, pool=(4, 4), unet=unet)
    built = Sashimi(model, SSMConfig(n_ssm=n_ssm))
    assert sum(parameter.numel() for parameter in built.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_it_compiles_as_one_graph_for_each_number_of_levels_due() -> None:
    """No `.item()`, no branch on data: forward with its gradient, forward from a state, and a step for each `due`."""
    module, x = stack("3", dtype=torch.float32), torch.randn(2, 29, 4)
    y, _ = module(x)
    torch._dynamo.reset()
    forward = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=False)
    assert_same(forward(x)[0].detach(), y.detach())
    with torch.no_grad():
        first, state = module(x[:, :10])
        second, state = forward(x[:, 10:], state)
        assert_same(torch.cat((first, second), 1), y.detach())
        torch._dynamo.reset()
        step = torch.compile(module.step_levels, fullgraph=True, backend="aot_eager", dynamic=False)
        state, outputs = module.initial_state(2), []
        with torch._dynamo.config.patch(recompile_limit=2):
            for place, x_t in enumerate(x.unbind(1)):
                y_t, state = step(x_t, state, module.due(place))
                outputs.append(y_t)
        assert_same(torch.stack(outputs, 1), y.detach())


class ScalarNorm(nn.Module):
    """The norm inside the reference's stack, s / std (x - mean + m); no LayerNorm is equal to it unless m is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.m, self.s = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        deviation, mean = torch.std_mean(x, dim=-1, unbiased=False, keepdim=True)
        return self.s / deviation * (x - mean + self.m)


class Reference(nn.Module):
    """Embedding, stack, norm and head with the weights of a reference checkpoint; as a module with a state."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        (path,) = (path for path in FIXTURES.glob(f"{name}.*") if path.suffix in (".pt", ".ckpt"))
        weights = torch.load(path, weights_only=True)
        weights = {key: value.to(dtype) for key, value in weights.get("state_dict", weights).items()}
        options = json.loads((FIXTURES / f"{name}.json").read_text())["config"]
        width, pool = options["d_model"], tuple(options["pool"])
        d_ff, expand = options["ff"] * width, options["expand"]
        model = ModelConfig("s4", width, options["n_layers"], d_ff=d_ff, pool=pool, expand=expand)
        self.stack = Sashimi(model, SSMConfig(d_state=16, n_ssm=1, dt_transform=options["dt_transform"]))
        self.embedding = nn.Embedding(options["vocab"], options["d_model"])
        self.norm = nn.LayerNorm(options["d_model"])
        self.head = nn.Linear(options["d_model"], options["vocab"])
        for block in self.stack.modules():
            if isinstance(block, Block):
                block.norm, block.feed_forward.norm = ScalarNorm(), ScalarNorm()
        state = dict(stack_weights(weights, len(options["pool"]), options["n_layers"]))
        state |= {key: weights[f"model.{key}"] for key in ("norm.weight", "norm.bias")}
        index = "0." if "encoder.0.weight" in weights else ""
        state["embedding.weight"] = weights[f"encoder.{index}weight"]
        state |= {f"head.{key}": weights[f"decoder.{index}output_transform.{key}"] for key in ("weight", "bias")}
        self.to(dtype).load_state_dict({key: state[key].view(value.shape) for key, value in self.state_dict().items()})
        for key, length in truncations(weights, len(options["pool"]), options["n_layers"]):
            restore_C(self.stack.get_submodule(key), length)

    def forward(self, tokens: Tensor, state: SashimiState | None = None) -> tuple[Tensor, SashimiState]:
        y, state = self.stack(self.embedding(tokens), state)
        return self.head(self.norm(y)), state

    def step(self, token: Tensor, state: SashimiState) -> tuple[Tensor, SashimiState]:
        y, state = self.stack.step(self.embedding(token), state)
        return self.head(self.norm(y)), state


def reference_blocks(n_levels: int, n_layers: int) -> Iterator[tuple[str, str, str]]:
    """Our name of every block, and the reference's two: of the S4 layer and of the feed-forward."""
    for level in range(n_levels + 1):
        for layer in range(n_layers):
            ours = f"{'inner.' * level}up.{layer}"
            if level == n_levels:
                yield ours, f"model.c_layers.{2 * layer}", f"model.c_layers.{2 * layer + 1}"
            else:
                theirs = f"model.u_layers.{n_levels - 1 - level}"
                yield ours, f"{theirs}.{2 * layer + 1}", f"{theirs}.{2 * layer + 2}"


def kernel_prefix(weights: dict[str, Tensor], block: str) -> str:
    return f"{block}.layer.layer." if f"{block}.layer.layer.D" in weights else f"{block}.layer."


def stack_weights(weights: dict[str, Tensor], n_levels: int, n_layers: int) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every weight of `Reference.stack`, from any of the three versions."""
    for ours, ssm, ff in reference_blocks(n_levels, n_layers):
        layer = kernel_prefix(weights, ssm)
        kernel = f"{layer}kernel." if f"{layer}kernel.C" in weights else f"{layer}kernel.kernel."
        found = {key.removeprefix(kernel): value for key, value in weights.items() if key.startswith(kernel)}
        mixer = f"stack.{ours}.mixer"
        yield f"{mixer}.D", weights[f"{layer}D"]
        yield f"{mixer}.raw_dt", found["inv_dt" if "inv_dt" in found else "log_dt"]
        real = next(key for key in ("A_real", "inv_w_real", "log_w_real") if key in found)
        yield f"{mixer}.raw_decay", found[real]
        yield f"{mixer}.frequency", -found["A_imag"] if real == "A_real" else found["w_imag"]
        for key in ("B", "C", "P"):
            yield f"{mixer}.{key}", found[key]
        for key in ("weight", "bias"):
            yield f"stack.{ours}.output.linear.{key}", weights[f"{ssm}.layer.output_linear.0.{key}"]
            yield f"stack.{ours}.feed_forward.up.{key}", weights[f"{ff}.layer.ff.0.0.{key}"]
            yield f"stack.{ours}.feed_forward.down.{key}", weights[f"{ff}.layer.ff.2.{key}"]
        for norm, theirs in ((f"stack.{ours}.norm", ssm), (f"stack.{ours}.feed_forward.norm", ff)):
            yield f"{norm}.m", weights[f"{theirs}.norm.norm.m"]
            yield f"{norm}.s", weights[f"{theirs}.norm.norm.s"]
    for level in range(n_levels):
        ours = f"stack.{'inner.' * level}pool"
        down, up = f"model.d_layers.{level}.linear", f"model.u_layers.{n_levels - 1 - level}.0.linear"
        p = 4  # every stride of these checkpoints
        # They count channel * stride + place, we place * width + channel.
        weight = normalized(weights, down)
        yield f"{ours}.down.weight", weight.view(len(weight), -1, p).transpose(1, 2).flatten(1)
        yield f"{ours}.down.bias", weights[f"{down}.bias"]
        weight = normalized(weights, up)
        yield f"{ours}.up.weight", weight.view(-1, p, weight.shape[1]).transpose(0, 1).flatten(0, 1)
        yield f"{ours}.up.bias", weights[f"{up}.bias"].view(-1, p).t().flatten()


def normalized(weights: dict[str, Tensor], key: str) -> Tensor:
    v = weights[f"{key}.weight_v"]
    return weights[f"{key}.weight_g"] * v / v.norm(dim=1, keepdim=True)


def truncations(weights: dict[str, Tensor], n_levels: int, n_layers: int) -> Iterator[tuple[str, int]]:
    """The length l of C (I - Abar^l), which is what the reference stores as C, of every mixer."""
    for ours, ssm, _ in reference_blocks(n_levels, n_layers):
        kernel = f"{kernel_prefix(weights, ssm)}kernel."
        if f"{kernel}l_kernel" in weights:
            length = int(weights[f"{kernel}l_kernel"])
        elif f"{kernel}kernel.L" in weights:
            length = int(weights[f"{kernel}kernel.L"])
        else:
            length = 2 * (len(weights[f"{kernel}kernel.omega"]) - 1)
        yield f"{ours}.mixer", length


def restore_C(mixer: Any, length: int) -> None:
    with torch.no_grad():
        Lambda, B, C, dt = mixer.continuous()
        A = dplr.dense_transition(dplr.step_constants(Lambda, mixer.low_rank(), B, C, dt)).double()
        truncation = torch.eye(A.shape[-1], dtype=A.dtype) - torch.linalg.matrix_power(A, length)
        C = row_to_complex(torch.linalg.solve(truncation.transpose(1, 2), row(C).double()))
        mixer.C.copy_(torch.view_as_real(C))


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="no reference fixtures here; set S4GEN_FIXTURES")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["ckpt_head_sashimi", "ckpt_v3_sashimi", "ckpt_v2_sashimi"])
@torch.no_grad()
def test_the_reference_checkpoints_give_their_logits(name: str, dtype: torch.dtype, bound: float) -> None:
    """At once, in chunks and in steps."""
    model, want = Reference(name, dtype), np.load(FIXTURES / f"{name}.npz", allow_pickle=False)
    tokens, logits = torch.from_numpy(want["tokens"]), torch.from_numpy(want["logits_f64"])
    views = [
        model(tokens),
        by_chunks(model, tokens, [50, len(tokens[0]) - 50]),
        by_steps(model, tokens, model.stack.initial_state(len(tokens))),
    ]
    for got, _ in views:
        assert ((got - logits).abs().max() / logits.abs().max()).item() < bound


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="no reference fixtures here; set S4GEN_FIXTURES")
@torch.no_grad()
def test_greedy_continuation_is_the_references() -> None:
    """A prompt at once, then steps; where the two best tokens are close, float64 still tells them apart."""
    model = Reference("ckpt_head_sashimi", torch.float64)
    want = np.load(FIXTURES / "ckpt_head_sashimi.npz", allow_pickle=False)
    logits, state = model(torch.from_numpy(want["gen_prompt"]))
    logits, tokens = logits[:, -1], []
    for _ in range(want["gen_tokens"].shape[1]):
        tokens.append(logits.argmax(-1))
        logits, state = model.step(tokens[-1], state)
    assert torch.equal(torch.stack(tokens, 1), torch.from_numpy(want["gen_tokens"]))
