"""torch.compile for the blocks of a model, in place: names of parameters, checkpoints and resumed runs do not change.

Embedding, head and loss stay as they are, too: they are a few large operations, in which there is nothing to fuse.
"""

from __future__ import annotations

from s4gen.models.blocks import Block
from s4gen.models.density import DensityModel
from s4gen.models.wavenet import GatedConvolution


def compile_blocks(model: DensityModel) -> None:
    """Compile every block, also inside of a multi-scale stack, and every layer of a WaveNet, at its first call."""
    for module in model.modules():
        if isinstance(module, Block | GatedConvolution):
            module.compile()
