"""Certify, on real sequences, that the recurrent view of a model agrees with its convolution view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from s4gen.errors import UserError
from s4gen.models.blocks import Block
from s4gen.models.wavenet import WaveNet
from s4gen.sampling.convert import RecurrentModel


@dataclass(frozen=True)
class Certificate:
    """A measurement, on real sequences, of how far the recurrent view of a model is from its convolution view."""

    max_abs_logprob_difference: float
    """Largest difference of a token's log-probability, in nats."""
    worst_sequence: int
    """Number of the sequence with the largest difference, from 0."""
    worst_position: int
    """Position of the largest difference in that sequence, from 0."""
    bits_per_dim_convolution: float
    bits_per_dim_recurrent: float
    n_sequences: int
    length: int
    """Tokens per sequence."""
    tolerance: float
    """The largest difference that was allowed, in nats."""
    layer_differences: dict[str, float]
    """For each mixer, or the WaveNet, by name: largest |difference| of its outputs / largest |output|. In both views it
    is given the input that it has in the convolution view."""


@torch.no_grad()
def certify(
    recurrent: RecurrentModel, sequences: Tensor, tolerance: float = 1e-3, label: Tensor | None = None
) -> Certificate:
    """Score sequences int64 (n, L) by convolution and by recurrence, and certify that both agree.

    Give only a few sequences: all are scored at once, and the input and output of every layer are kept meanwhile.
    `label` int64 (n,) holds their classes, 0 if not given. `tolerance` is in nats per token.

    Raises:
        UserError: the log-probabilities of some token differ by more than `tolerance`, or are not numbers; or the
            tolerance is not a finite number greater than 0.
    """
    if not 0 < tolerance < math.inf:
        raise UserError(f"the tolerance is {tolerance}, it must be a finite number of nats greater than 0")
    sequences = sequences.to(recurrent.device)
    convolution, layer_differences = _score_layer_by_layer(recurrent, sequences, label)
    stepped = recurrent.nats_recurrent(sequences, label)
    # NaN compares as neither larger nor smaller, so it would pass the check below: count it as infinitely far off.
    difference = (convolution - stepped).abs().nan_to_num(nan=math.inf)
    worst_sequence, worst_position = divmod(int(difference.argmax()), sequences.shape[1])
    certificate = Certificate(
        max_abs_logprob_difference=float(difference.max()),
        worst_sequence=worst_sequence,
        worst_position=worst_position,
        bits_per_dim_convolution=float(convolution.mean()) / math.log(2),
        bits_per_dim_recurrent=float(stepped.mean()) / math.log(2),
        n_sequences=sequences.shape[0],
        length=sequences.shape[1],
        tolerance=tolerance,
        layer_differences=layer_differences,
    )
    if certificate.max_abs_logprob_difference > tolerance:
        raise UserError(_refusal(certificate))
    return certificate


def _score_layer_by_layer(
    recurrent: RecurrentModel, x: Tensor, label: Tensor | None
) -> tuple[Tensor, dict[str, float]]:
    """Score x int64 (B, L) by convolution, and compare the steps of each mixer with its parallel pass.

    Returns -log p(x_t | x_<t) in nats, float64 (B, L), and the relative difference of each mixer by name. Each mixer is
    stepped on the input that it had in the parallel pass, so that the fault of one layer shows in no other. A mixer of
    a coarse level has one input for each window of x; if x fills no window, it has none and is not listed.
    """
    passes: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str) -> RemovableHandle:
        def hook(mixer: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Any]) -> None:
            passes[name] = (args[0], output[0])

        return recurrent.source.get_submodule(name).register_forward_hook(hook)

    parts = dict(recurrent.source.named_modules())
    names = [f"{name}.mixer" for name, part in parts.items() if isinstance(part, Block)]
    names += [name for name, part in parts.items() if isinstance(part, WaveNet)]
    hooks = [record(name) for name in names]
    try:
        nats = recurrent.source.nats(x, label).double()
    finally:
        for hook in hooks:
            hook.remove()
    stepper = recurrent.stepper
    return nats, {name: _step_difference(stepper.get_submodule(name), u, y) for name, (u, y) in passes.items()}


def _step_difference(mixer: Any, u: Tensor, y: Tensor) -> float:
    """Return the largest |step - y| relative to the largest |y|; NaN counts as infinite.

    u and y r(B, L, H) are what the mixer read and returned when all positions were computed in parallel. A layer may
    start with outputs of zero; then both views are zero, and the difference is 0.
    """
    state = mixer.initial_state(len(u))
    largest = torch.zeros((), device=u.device)
    for u_t, y_t in zip(u.unbind(dim=1), y.unbind(dim=1), strict=True):
        stepped, state = mixer.step(u_t, state)
        largest = torch.maximum(largest, (stepped - y_t).abs().amax())
    scale = y.abs().amax().clamp_min(torch.finfo(y.dtype).tiny)
    return float((largest / scale).nan_to_num(nan=math.inf))


def _refusal(certificate: Certificate) -> str:
    worst = max(certificate.layer_differences, key=lambda name: certificate.layer_differences[name])
    difference = certificate.max_abs_logprob_difference
    found = f"differ by {difference:.2g} nats" if math.isfinite(difference) else "are not all numbers"
    return (
        f"the recurrent view does not agree with the convolution view: log-probabilities {found} at position "
        f"{certificate.worst_position} of sequence {certificate.worst_sequence}, where {certificate.tolerance:g} is "
        f"allowed; the worst layer is {worst}, whose steps are off by {certificate.layer_differences[worst]:.2g} "
        "of its largest output"
    )
