"""Which model a file was written with, and which way of rounding: both have to be the same when it is read.

The model is known by the SHA-256 of the files of its checkpoint. How an engine rounds is known by a signature, the
SHA-256 of the logits of a few steps, to the last bit, and of what the coder makes of them. It covers what no name
could: the compiler and its version, the processor, the library, and discretised constants that were computed
elsewhere.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from constriction import stream

from s4gen.checkpoint import Checkpoint
from s4gen.compress.coding import SHARES
from s4gen.compress.container import MODEL_BYTES, SIGNATURE_BYTES
from s4gen.compress.frequencies import frequencies
from s4gen.config.names import CODING_ENGINES
from s4gen.errors import UserError
from s4gen.models.states import padded_rows
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine, make_engine
from s4gen.sampling.engines.native import NativeEngine, NativeUnavailable
from s4gen.sampling.engines.native.build import library, made_for
from s4gen.sampling.filters import KEEP_ALL

_STEPS = 64


def model_id(checkpoint: Checkpoint) -> bytes:
    """Return what tells a model from every other one; a copy of its checkpoint has the same."""
    return bytes.fromhex(checkpoint.digest())[:MODEL_BYTES]


@torch.inference_mode()
def signature(recurrent: RecurrentModel, engine: Engine) -> bytes:
    """Return what tells apart engines that compute other bits of this model: see the module."""
    digest, coder = hashlib.sha256(), stream.queue.RangeEncoder()
    rows, vocab = len(padded_rows(1, engine.row_multiple)), recurrent.config.layout.vocab
    session = engine.begin(recurrent.initial_state(rows))
    token = recurrent.bos
    for step in range(_STEPS):
        logits = session.feed(torch.full((rows,), token))[:1].numpy()
        token = 7 * step * step % vocab
        digest.update(np.ascontiguousarray(logits).tobytes())
        coder.encode(np.array([token], dtype=np.int32), SHARES, frequencies(logits))
    digest.update(coder.get_compressed().astype("<u4").tobytes())
    return digest.digest()[:SIGNATURE_BYTES]


def chosen_engine(name: str, recurrent: RecurrentModel) -> tuple[Engine, str]:
    """Return the engine to code with, and the target of its library or what else it depends on.

    Raises:
        UserError: S4GEN_TARGET names a target that this processor cannot run.
    """
    engine = make_engine(name, recurrent)
    return engine, made_for(library()) if isinstance(engine, NativeEngine) else torch_here()


def same_engine(name: str, target: str, recurrent: RecurrentModel) -> Engine:
    """Return the engine that a file was coded with; whether it computes the same bits, its signature says.

    Raises:
        UserError: it is not to be had here.
    """
    if name not in CODING_ENGINES[1:]:
        raise UserError(f"it was coded with the engine {name!r}, which this version does not have")
    if not name.startswith("native"):
        return make_engine(name, recurrent)
    try:
        return NativeEngine(recurrent, KEEP_ALL, name.partition("-")[2] or "fp32", target)
    except NativeUnavailable as error:
        raise UserError(
            f"it was coded with the native engine for {target}, which is not to be had here: {error}"
        ) from error


def torch_here() -> str:
    """Say which PyTorch the eager engine runs with, and by which instructions: rounding depends on both."""
    return f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}"
