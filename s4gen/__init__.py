"""Density models of images, text and sound from state space layers: train by convolution, sample by recurrence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s4gen.hub import from_pretrained, push_to_hub, save_pretrained

__all__ = ["__version__", "from_pretrained", "push_to_hub", "save_pretrained"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the functions that need PyTorch when they are first used, so that `import s4gen` takes no time."""
    if name in ("from_pretrained", "push_to_hub", "save_pretrained"):
        from s4gen import hub

        return getattr(hub, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
