"""The whole configuration of a density model: what the sequences are, the stack, and its state space layers."""

from __future__ import annotations

from dataclasses import dataclass

from s4gen.config.checks import ConfigError
from s4gen.config.combinations import check_pair, check_pixels, refuse_foreign
from s4gen.config.layouts import ImageLayout, Layout, TextLayout
from s4gen.config.names import PLURAL
from s4gen.config.schema import ModelConfig, SSMConfig


@dataclass(frozen=True)
class DensityConfig:
    """Everything that defines a density model except its weights."""

    layout: Layout
    """The kind and the size of the sequences."""
    model: ModelConfig
    """The stack and the head."""
    ssm: SSMConfig
    """The state space layers in the stack."""

    def __post_init__(self) -> None:
        check_pair(self.model, self.ssm)
        check_pixels(self.model)
        refuse_foreign(self.layout.kind, PLURAL[self.layout.kind], model=self.model)
        if isinstance(self.layout, TextLayout) and self.model.cutoffs and self.model.cutoffs[-1] >= self.layout.vocab:
            raise ConfigError(
                "model.cutoffs",
                f"= {list(self.model.cutoffs)}: expected numbers below the vocabulary of {self.layout.vocab}",
            )

    @property
    def tokens_per_input(self) -> int:
        """How many tokens make one input of the stack: the channels of a pixel with whole_pixels, else 1."""
        return self.layout.channels if isinstance(self.layout, ImageLayout) and self.model.whole_pixels else 1
