"""Compile the blocks of a model with torch.compile.

It is done in place, so that parameters keep their names and checkpoints and resumed runs know nothing of it. Embedding,
head and loss are not compiled: they are a few large operations, in which there is nothing to fuse.
"""

from __future__ import annotations

from s4gen.models.blocks import Block
from s4gen.models.sequence import SequenceModel
from s4gen.models.wavenet import GatedConvolution


def compile_blocks(model: SequenceModel) -> None:
    """Have every block, also in a multi-scale stack, and every layer of a WaveNet compiled at its first call."""
    for module in model.modules():
        if isinstance(module, Block | GatedConvolution):
            module.compile()
