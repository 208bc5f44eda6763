"""Weights of state-spaces/s4 as checkpoints of ours: `import_weights`, which `s4gen import` calls.

Read are state dicts in the layouts of HEAD, v3.0.0 and v2: S4 and S4D one after another, SaShiMi, the language model
with adaptive softmax; and the stand-alone minimal S4D layer. What the weights do not tell comes from a configuration.
"""

from s4gen.importing.importer import Imported, import_weights, save_imported

__all__ = ["Imported", "import_weights", "save_imported"]
