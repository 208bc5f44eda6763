"""Save an imported model as an ordinary checkpoint."""

from __future__ import annotations

from pathlib import Path

from s4gen.checkpoint import save_checkpoint
from s4gen.config import TextLayout
from s4gen.data.text import NumberTokenizer
from s4gen.importing.importer import Imported
from s4gen.layers import S4D


def save_imported(imported: Imported, out: str | Path, source: str, overwrite: bool = False) -> None:
    """Write an imported model to the folder `out` as an ordinary checkpoint, and the minimal layer as a layer.

    The card and the metrics name `source`, the file that it came from.

    Raises:
        UserError: `out` exists (and `overwrite` is not set, or it is not a checkpoint), or cannot be written.
    """
    model = imported.model
    if isinstance(model, S4D):
        model.save(out, overwrite=overwrite)
        return
    layout = model.config.layout
    tokenizer = NumberTokenizer(layout.vocab, layout.start) if isinstance(layout, TextLayout) else None
    metrics = {"imported": {"from": source, "version": imported.version, "condition_number": imported.condition}}
    card = _card(imported, source)
    save_checkpoint(out, model, recipe=None, metrics=metrics, card=card, tokenizer=tokenizer, overwrite=overwrite)


def _card(imported: Imported, source: str) -> str:
    """Return the text of the checkpoint's README.md."""
    notes = "\n".join(f"- {note}" for note in imported.notes)
    return (
        f"---\nlibrary_name: s4gen\ntags: [state-space-model, s4]\n---\n\n# {Path(source).name}\n\n"
        f"Weights of [state-spaces/s4](https://github.com/state-spaces/s4) (layout of {imported.version}), read by "
        f"`s4gen import`.\n\n{notes}\n"
    )
