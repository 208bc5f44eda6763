"""Checkpoints to and from the Hugging Face hub, or any folder: `from_pretrained`, `save_pretrained`, `push_to_hub`.

A repository of the hub holds the files of a checkpoint (s4gen.checkpoint) and a model card; nothing in it is a pickle,
so nothing in it can run. Tokens, revisions, the cache and offline mode are those of `huggingface_hub`.
"""

from s4gen.hub.card import card_with_metadata
from s4gen.hub.models import from_pretrained, push_to_hub, save_pretrained

__all__ = ["card_with_metadata", "from_pretrained", "push_to_hub", "save_pretrained"]
