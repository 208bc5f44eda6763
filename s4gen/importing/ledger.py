"""The tensors of a file, and what became of each: taken as it is, made into something, or left out for a reason."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from s4gen.errors import UserError


class Ledger:
    """Every tensor is asked for by its key, once; `close` refuses a file of which something was not asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """`where` is what messages call the file."""
        self._tensors, self.where = tensors, where
        self.names = list(tensors)
        """All keys, in the file's order."""
        self.fate: dict[str, str] = {}
        """used, derived or "ignored: why", by key, in the order of asking."""
        self.rounded: list[str] = []
        """Keys whose values float32 cannot hold."""

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, which need not be taken for that; complex numbers count as pairs."""
        if key not in self._tensors:
            raise UserError(f"{self.where}: the key {key} is missing, which this layout needs")
        return tuple(self._tensors[key].shape) + (2,) * self._tensors[key].is_complex()

    def take(self, key: str, *shape: int, derived: bool = False) -> Tensor:
        """The tensor as float32, in this shape (sizes of 1 may be added or missing); complex numbers as pairs.

        Raises:
            UserError: there is none, it is of another size, or it holds numbers that are not finite.
        """
        found = self.shape(key)
        if [n for n in found if n != 1] != [n for n in shape if n != 1]:
            raise UserError(f"{self.where}: {key} has shape {found}, expected {shape}")
        tensor = self._tensors[key]
        tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        if not tensor.is_floating_point():
            raise UserError(f"{self.where}: {key} is of type {tensor.dtype}, expected floating-point numbers")
        if not tensor.isfinite().all():
            raise UserError(f"{self.where}: {key} has numbers that are not finite; the model must have diverged")
        single = tensor.float()
        if not torch.equal(single.to(tensor.dtype), tensor):
            self.rounded.append(key)
        self.fate[key] = "derived" if derived else "used"
        return single.reshape(shape).contiguous()

    def number(self, key: str) -> int:
        """The whole number that a tensor of one element holds."""
        value = self._tensors[key]
        if value.numel() != 1:
            raise UserError(f"{self.where}: {key} has shape {tuple(value.shape)}, expected one number")
        self.fate[key] = "derived"
        return int(value.item())

    def ignore(self, key: str, why: str) -> None:
        """Leave a tensor out."""
        self.fate[key] = f"ignored: {why}"

    def repeats(self, key: str, original: str) -> None:
        """Leave out a tensor that is another one once more.

        Raises:
            UserError: it is not.
        """
        if original not in self or not torch.equal(self._tensors[key], self._tensors[original]):
            raise UserError(f"{self.where}: {key} differs from {original}, which it should repeat")
        self.ignore(key, f"repeats {original}")

    def close(self) -> None:
        """Raises UserError for a tensor that was not asked for; the first one is named."""
        left = [key for key in self._tensors if key not in self.fate]
        if left:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise UserError(f"{self.where}: the key {left[0]}{more} is left over; it is no part of this model")
