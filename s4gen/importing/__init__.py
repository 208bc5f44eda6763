"""Turn weights of state-spaces/s4 into checkpoints of s4gen: `import_weights` is what `s4gen import` calls.

It reads state dicts in the layouts of HEAD, v3.0.0 and v2: plain stacks of S4 and S4D blocks, SaShiMi, the language
model with adaptive softmax, and the stand-alone minimal S4D layer. What the weights do not show comes from a
configuration.

In this package `theirs` is a key or prefix of the reference's state dict, and `ours` is the name of the same thing in a
model of s4gen. H is the width, n the stored half of a state of size N = 2n, and S the number of distinct SSMs.
"""

from s4gen.importing.importer import Imported, import_weights
from s4gen.importing.saving import save_imported

__all__ = ["Imported", "import_weights", "save_imported"]
