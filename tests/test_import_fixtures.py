"""Imported files give the numbers that the reference computed from them: logits, greedy tokens, a layer's output.

Two of the files are in tests/reference. The others are beside the project or in the folder S4GEN_FIXTURES; where they
are missing, their tests do not exist.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import ENGINES_HERE
from reference_numbers import BESIDE, OWN

from s4gen.checkpoint import load_checkpoint
from s4gen.cli import main
from s4gen.layers import load_layer
from s4gen.sampling.converted import recurrent_of
from s4gen.sampling.engines import make_engine
from s4gen.sampling.filters import Filters

FOUND = {path.stem: path.parent for folder in (BESIDE, OWN) for path in sorted(folder.glob("*.json"))}
CHECKPOINTS = [name for name in FOUND if name.startswith("ckpt_")]


def imported(name: str, out: Path) -> tuple[Path, Any]:
    """Import a file with `s4gen import`; return the new checkpoint's folder and the reference's numbers."""
    folder = FOUND[name]
    about = json.loads((folder / f"{name}.json").read_text())
    command = ["import", str(folder / about["checkpoint"]), str(out), "--config", str(folder / f"{name}.json")]
    assert main(command) == 0
    return out, np.load(folder / about["expected"], allow_pickle=False)


def relative(got: torch.Tensor, want: Any) -> float:
    wanted = torch.from_numpy(want)
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("name", CHECKPOINTS)
@torch.no_grad()
def test_logits_and_greedy_tokens_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    out, want = imported(name, tmp_path / "out")
    checkpoint, tokens = load_checkpoint(out), torch.from_numpy(want["tokens"])
    exact = want["logits_f64" if "logits_f64" in want else "logprobs_f64"]
    assert relative(checkpoint.model(tokens)[0], exact) < 1e-5
    recurrent = recurrent_of(checkpoint)
    for name in ENGINES_HERE:
        session = make_engine(name, recurrent).begin(recurrent.initial_state(len(tokens)))
        assert relative(torch.stack([session.feed(token) for token in tokens.unbind(1)], 1), exact) < 1e-5, name
        if "gen_tokens" in want:
            prompt, drawn = (torch.from_numpy(want[key]) for key in ("gen_prompt", "gen_tokens"))
            session = make_engine(name, recurrent, Filters(temperature=0)).begin(recurrent.initial_state(len(prompt)))
            for token in prompt[:, :-1].unbind(1):
                session.feed(token)
            u = torch.zeros(drawn.shape, dtype=torch.float64)
            assert torch.equal(session.advance(prompt[:, -1], u), drawn), name
    if "nll_mean_f64" in want:
        nats, _ = checkpoint.model.double().score(tokens, torch.from_numpy(want["targets"]))
        assert nats.mean().item() == pytest.approx(float(want["nll_mean_f64"]), rel=1e-9)
    assert relative(checkpoint.model.double()(tokens)[0], exact) < 1e-9


@torch.no_grad()
def test_the_minimal_layer_computes_what_the_reference_does(tmp_path: Path) -> None:
    """It does so at once and step by step; its sequences are transposed (B, H, L), its steps are not."""
    out, want = imported("minimal_s4d", tmp_path / "out")
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        layer = load_layer(out).to(dtype)
        u = torch.from_numpy(want["x"]).to(dtype)
        assert relative(layer(u)[0], want["y_f64"]) < bound
        state, outputs = layer.initial_state(len(u)), []
        for u_t in u.unbind(2):
            y, state = layer.step(u_t, state)
            outputs.append(y)
        assert relative(torch.stack(outputs, 2), want["y_f64"]) < bound
