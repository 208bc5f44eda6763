"""Building the model that a configuration describes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from s4gen.config import DensityConfig, PredictorConfig
from s4gen.models.density import DensityModel
from s4gen.models.lssl_dss import DSS
from s4gen.models.pixels import PixelModel
from s4gen.models.predictor import Predictor
from s4gen.models.tokens import TokenModel

MOST_NUMBERS = 2**48
"""More than the weights of any model that a machine could hold, and few enough that no count of them overflows."""
M = TypeVar("M", bound=nn.Module)

AnyConfig = DensityConfig | PredictorConfig
AnyModel = DensityModel | Predictor


@overload
def build_model(config: DensityConfig) -> DensityModel: ...
@overload
def build_model(config: PredictorConfig) -> Predictor: ...
@overload
def build_model(config: AnyConfig) -> AnyModel: ...
def build_model(config: AnyConfig) -> AnyModel:
    """Build a model with fresh weights, drawn from torch's global generator."""
    if isinstance(config, PredictorConfig):
        return Predictor(config)
    return PixelModel(config) if config.model.whole_pixels else TokenModel(config)


@overload
def build_shapes(config: DensityConfig, most: int | None = None, tensors: int | None = None) -> DensityModel: ...
@overload
def build_shapes(config: PredictorConfig, most: int | None = None, tensors: int | None = None) -> Predictor: ...
@overload
def build_shapes(config: AnyConfig, most: int | None = None, tensors: int | None = None) -> AnyModel: ...
def build_shapes(config: AnyConfig, most: int | None = None, tensors: int | None = None) -> AnyModel:
    """Build the same model on the meta device, where tensors have shapes but no memory, to count what it is made of.

    The global random state is left as it was. With `most` and `tensors`, building stops as soon as there are more
    numbers, or tensors, than that.

    Raises:
        TooLargeError: there are more, or more numbers than torch can count.
    """
    with shapes_alone(most, tensors):
        return build_model(config)


class TooLargeError(Exception):
    """A model has more numbers, or tensors, than it may have."""

    def __init__(self, least: int) -> None:
        super().__init__(f"more than {least:,} numbers")
        self.least = least
        """How many numbers it has at least."""


@contextlib.contextmanager
def shapes_alone(most: int | None = None, tensors: int | None = None) -> Iterator[None]:
    """Make what is built inside the block have shapes but no memory.

    It may have at most `most` numbers, in at most `tensors` parameters and buffers, where these are given.

    Raises:
        TooLargeError: there are more, or more numbers than torch can count.
    """
    numbers = count = 0

    def add(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal numbers, count
        numbers += 0 if tensor is None else tensor.numel()
        count += 1
        if (most is not None and numbers > most) or (tensors is not None and count > tensors):
            raise TooLargeError(numbers)

    hooks = [register_module_parameter_registration_hook(add), register_module_buffer_registration_hook(add)]
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            yield
    except (RuntimeError, OverflowError):
        if most is None:
            raise
        raise TooLargeError(most) from None  # an axis, or a product of axes, beyond 64 bits
    finally:
        for hook in hooks:
            hook.remove()


def with_weights(model: M, tensors: Mapping[str, Tensor]) -> M:
    """Return a model that was built as shapes alone, with these tensors as its weights, in evaluation mode."""
    model.load_state_dict(tensors, assign=True)
    for module in model.modules():
        if isinstance(module, DSS):
            module.fill_constants_()
    return model.eval()
