"""The converter: pure, exact enough to be certified, refused where it is not, and the same after a round trip."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from engines import PIXELS, model_of
from tiny import noisy_model, random_sequences
from torch import Tensor

from s4gen.checkpoint import save_checkpoint
from s4gen.config import ImageLayout
from s4gen.errors import UserError
from s4gen.models.density import DensityModel
from s4gen.models.states import tensors
from s4gen.sampling.certify import certify
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.converted import load_recurrent, save_converted

SSM_MIXERS = ["s4d", "s4", "h3"]
MIXERS = [*SSM_MIXERS, "attention"]
KINDS = [*MIXERS, *PIXELS]


def constants(recurrent: RecurrentModel, block: int) -> dict[str, Tensor]:
    """The buffers of one converted layer, by name; of H3, those of the layer inside."""
    mixer = recurrent.stepper.get_submodule(f"blocks.{block}.mixer")
    return dict(getattr(mixer, "ssm", mixer).named_buffers())


def every_logit(recurrent: RecurrentModel, x: Tensor) -> Tensor:
    state, token, logits = recurrent.initial_state(len(x)), torch.full_like(x[:, 0], recurrent.bos), []
    for target in x.unbind(dim=1):
        row, state = recurrent.step(token, state)
        logits.append(row)
        token = target
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("mixer", SSM_MIXERS)
def test_converting_leaves_the_model_as_it_was(mixer: str) -> None:
    model = noisy_model(mixer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convert(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("mixer", SSM_MIXERS)
def test_training_afterwards_does_not_change_the_converted_model(mixer: str) -> None:
    model = noisy_model(mixer)
    x = random_sequences(model, 4)
    recurrent = convert(model)
    stepped, (prefilled, _) = every_logit(recurrent, x), recurrent.prefill(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.nats(x).mean().backward()
    optimizer.step()
    assert torch.equal(every_logit(recurrent, x), stepped)
    assert torch.equal(recurrent.prefill(x)[0], prefilled)
    assert not torch.allclose(every_logit(convert(model), x), stepped, atol=1e-3)  # so the step did do something


@pytest.mark.parametrize("mixer", SSM_MIXERS)
def test_a_converted_model_is_frozen_and_shares_all_but_the_constants(mixer: str) -> None:
    recurrent = convert(noisy_model(mixer))
    assert not recurrent.stepper.training and not recurrent.source.training
    assert not any(parameter.requires_grad for parameter in recurrent.parameters())
    source = {tensor.data_ptr() for tensor in recurrent.source.state_dict().values()}
    own = {name for name, tensor in recurrent.stepper.state_dict().items() if tensor.data_ptr() not in source}
    assert own
    assert all(".mixer." in name for name in own)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("layout", [ImageLayout(6, 5, 1, 11), ImageLayout(3, 3, 3, 4)], ids=["grey", "colour"])
def test_log_probabilities_agree_in_both_views(mixer: str, layout: ImageLayout) -> None:
    model = noisy_model(mixer, layout).eval()
    x = random_sequences(model, 5)
    with torch.no_grad():
        parallel = model.nats(x)
    recurrent = convert(model)
    torch.testing.assert_close(recurrent.nats_recurrent(x).float(), parallel, rtol=0, atol=1e-4)
    score = -recurrent.nats_recurrent(x).sum(-1)
    assert score.dtype == torch.float64
    torch.testing.assert_close(score, -parallel.double().sum(-1), rtol=0, atol=1e-4 * x.shape[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [0, 1, 13, 29])
def test_prefill_hands_over_to_step(kind: str, given: int) -> None:
    """The state after a prefix read by convolution continues as the state after the same prefix read step by step."""
    recurrent = convert(model_of(kind))
    x = random_sequences(recurrent.source, 4)
    expected = every_logit(recurrent, x)
    logits, state = recurrent.prefill(x[:, :given])
    # Laid out as a step leaves it, or a compiled engine would compile twice.
    assert all(tensor.is_contiguous() for tensor in tensors(state))
    for t in range(given, x.shape[1]):
        torch.testing.assert_close(logits, expected[:, t], rtol=1e-4, atol=1e-4)
        logits, state = recurrent.step(x[:, t], state)


@pytest.mark.parametrize("kind", KINDS)
def test_the_certificate_says_what_was_measured(kind: str) -> None:
    model = model_of(kind).eval()
    x = random_sequences(model, 5)
    recurrent = convert(model)
    certificate = certify(recurrent, x)
    with torch.no_grad():
        difference = (model.nats(x).double() - recurrent.nats_recurrent(x)).abs()
        bits = float(model.nats(x).double().mean()) / math.log(2)
    assert certificate.max_abs_logprob_difference == float(difference.max()) <= 1e-4
    assert float(difference[certificate.worst_sequence, certificate.worst_position]) == float(difference.max())
    assert certificate.bits_per_dim_convolution == pytest.approx(bits, rel=1e-12)
    assert certificate.bits_per_dim_recurrent == pytest.approx(bits, abs=1e-4)
    assert (certificate.n_sequences, certificate.length, certificate.tolerance) == (5, 30, 1e-3)
    assert list(certificate.layer_differences) == [f"blocks.{i}.mixer" for i in range(len(model.blocks))]
    assert all(0 <= value < 1e-5 for value in certificate.layer_differences.values())
    assert kind in PIXELS or all(certificate.layer_differences.values())  # a layer of taps alone has no other view


def test_a_layer_that_adds_nothing_agrees_with_itself() -> None:
    """An untrained one may begin so."""
    recurrent = convert(model_of("grey pixels, h3"))
    with torch.no_grad():
        for view in (recurrent.source, recurrent.stepper):
            for parameter in view.get_submodule("blocks.0.mixer.out").parameters():
                parameter.zero_()
    assert certify(recurrent, random_sequences(recurrent.source, 2)).layer_differences == {"blocks.0.mixer": 0.0}


@pytest.mark.parametrize("mixer", SSM_MIXERS)
@pytest.mark.parametrize("block", [0, 1])
def test_a_corrupted_layer_is_refused_by_name(mixer: str, block: int) -> None:
    """A fault in layer 0 changes the input of layer 1 as well, which must not be blamed."""
    recurrent = convert(noisy_model(mixer))
    constants(recurrent, block)["B_bar"].mul_(1.05)
    with pytest.raises(UserError, match=rf"the worst layer is blocks\.{block}\.mixer"):
        certify(recurrent, random_sequences(recurrent.source, 2))


@pytest.mark.parametrize("mixer", SSM_MIXERS)
def test_not_a_number_is_refused_by_name(mixer: str) -> None:
    recurrent = convert(noisy_model(mixer))
    constants(recurrent, 1)["B_bar"][0, 0] = math.nan
    with pytest.raises(UserError, match=r"are not all numbers.*the worst layer is blocks\.1\.mixer"):
        certify(recurrent, random_sequences(recurrent.source, 2))


def test_a_model_that_is_not_a_number_in_both_views_is_refused() -> None:
    model = noisy_model("s4d")
    with torch.no_grad():
        model.head.bias[0] = math.nan
    with pytest.raises(UserError, match="are not all numbers"):
        certify(convert(model), random_sequences(model, 2))


def test_the_tolerance_decides() -> None:
    recurrent = convert(noisy_model("s4d"))
    x = random_sequences(recurrent.source, 2)
    found = certify(recurrent, x).max_abs_logprob_difference
    assert certify(recurrent, x, tolerance=found).tolerance == found
    with pytest.raises(UserError, match="does not agree"):
        certify(recurrent, x, tolerance=found / 2)
    with pytest.raises(UserError, match="the tolerance is 0"):
        certify(recurrent, x, tolerance=0)
    with pytest.raises(UserError, match="the tolerance is inf"):
        certify(recurrent, x, tolerance=math.inf)


def saved(model: DensityModel, path: Path) -> Path:
    save_checkpoint(path, model, recipe=None, metrics={"bits_per_dim": 1.0}, card="# A card\n")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_a_converted_model_is_exact(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    x = random_sequences(model, 3)
    recurrent = convert(model)
    certificate = certify(recurrent, x)
    save_converted(saved(model, tmp_path / "model"), tmp_path / "converted", recurrent, certificate)
    loaded = load_recurrent(tmp_path / "converted")
    assert torch.equal(every_logit(loaded, x), every_logit(recurrent, x))
    assert torch.equal(loaded.prefill(x)[0], recurrent.prefill(x)[0])
    written = json.loads((tmp_path / "converted" / "certificate.json").read_text())
    assert written["max_abs_logprob_difference"] == certificate.max_abs_logprob_difference
    assert len(written["model_sha256"]) == 64
    for name in ("config.json", "model.safetensors", "metrics.json", "README.md"):
        assert (tmp_path / "converted" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


@pytest.mark.parametrize("mixer", SSM_MIXERS)
def test_an_unconverted_checkpoint_is_converted_on_loading(mixer: str, tmp_path: Path) -> None:
    model = noisy_model(mixer)
    x = random_sequences(model, 3)
    assert torch.equal(every_logit(load_recurrent(saved(model, tmp_path / "model")), x), every_logit(convert(model), x))


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """A converted checkpoint whose stored constants are, on purpose, not quite those that converting again gives."""
    model = noisy_model("s4")
    recurrent = convert(model)
    certificate = certify(recurrent, random_sequences(model, 1))
    constants(recurrent, 0)["B_bar"].mul_(1.5)
    save_converted(saved(model, tmp_path / "model"), tmp_path / "converted", recurrent, certificate)
    return tmp_path / "converted"


def test_the_stored_constants_are_the_ones_used(converted: Path) -> None:
    loaded, again = load_recurrent(converted), load_recurrent(converted.parent / "model")
    assert torch.equal(constants(loaded, 0)["B_bar"], 1.5 * constants(again, 0)["B_bar"])


def test_constants_of_another_model_are_refused(converted: Path, tmp_path: Path) -> None:
    other = saved(noisy_model("s4", seed=5), tmp_path / "other")
    shutil.copyfile(other / "model.safetensors", converted / "model.safetensors")
    with pytest.raises(UserError, match=r"was not made from the model\.safetensors beside it"):
        load_recurrent(converted)


def test_damaged_constants_are_refused(converted: Path) -> None:
    path = converted / "recurrent.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"recurrent\.safetensors is damaged"):
        load_recurrent(converted)


def test_constants_of_other_shapes_are_refused(converted: Path, tmp_path: Path) -> None:
    smaller = noisy_model("s4", d_model=8)
    recurrent = convert(smaller)
    certificate = certify(recurrent, random_sequences(smaller, 1))
    save_converted(saved(smaller, tmp_path / "smaller"), tmp_path / "small", recurrent, certificate)
    shutil.copyfile(tmp_path / "small" / "recurrent.safetensors", converted / "recurrent.safetensors")
    with pytest.raises(UserError, match="does not hold the constants of this model"):
        load_recurrent(converted)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_missing_or_damaged_certificate_is_refused(converted: Path, content: str | None) -> None:
    path = converted / "certificate.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"certificate\.json is missing or damaged"):
        load_recurrent(converted)


def test_a_converted_checkpoint_overwrites_only_when_told(converted: Path) -> None:
    recurrent = load_recurrent(converted.parent / "model")
    certificate = certify(recurrent, random_sequences(recurrent.source, 1))
    before = (converted / "recurrent.safetensors").read_bytes()
    with pytest.raises(UserError, match="exists"):
        save_converted(converted.parent / "model", converted, recurrent, certificate)
    assert (converted / "recurrent.safetensors").read_bytes() == before
    save_converted(converted.parent / "model", converted, recurrent, certificate, overwrite=True)
    assert (converted / "recurrent.safetensors").read_bytes() != before


def test_a_checkpoint_can_be_converted_in_place(converted: Path) -> None:
    model = converted.parent / "model"
    recurrent = load_recurrent(model)
    certificate = certify(recurrent, random_sequences(recurrent.source, 1))
    save_converted(model, model, recurrent, certificate, overwrite=True)
    x = random_sequences(recurrent.source, 2)
    assert torch.equal(every_logit(load_recurrent(model), x), every_logit(recurrent, x))
