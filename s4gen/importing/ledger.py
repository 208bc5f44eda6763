"""Keep account of a file's tensors: each is used as it is, turned into something else, or left out for a reason."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from s4gen.errors import UserError


class Ledger:
    """A state dict that hands out each tensor by its key and remembers what became of it.

    `close` refuses a file with a tensor that nobody asked for: it would be a part of a model that s4gen does not have.
    """

    def __init__(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Open an account of `tensors`; messages call the file `where`."""
        self._tensors, self.where = tensors, where
        self.names = list(tensors)
        """All keys, in the file's order."""
        self.fate: dict[str, str] = {}
        """For each key that was asked for "used", "derived" or "ignored: " and the reason."""
        self.rounded: list[str] = []
        """Keys of the tensors that lost digits when they were rounded to float32."""

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a tensor without taking it; a complex tensor has a last axis of 2 (real, imaginary).

        Raises:
            UserError: the file has no such key.
        """
        if key not in self._tensors:
            raise UserError(f"{self.where}: the key {key} is missing, which this layout needs")
        return tuple(self._tensors[key].shape) + (2,) * self._tensors[key].is_complex()

    def take(self, key: str, *shape: int, derived: bool = False) -> Tensor:
        """Return a tensor as float32 in this shape; complex numbers become pairs on a last axis of 2.

        `derived` says that the caller makes something else of it.

        Raises:
            UserError: the file has no such key, or the tensor has another shape or numbers that are not finite.
        """
        # Axes of size 1 do not count: the layouts differ in them (weights of convolutions of one tap, single channels).
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
        """Return the whole number that a tensor of one element holds.

        Raises:
            UserError: the tensor has more elements, or none.
        """
        value = self._tensors[key]
        if value.numel() != 1:
            raise UserError(f"{self.where}: {key} has shape {tuple(value.shape)}, expected one number")
        self.fate[key] = "derived"
        return int(value.item())

    def ignore(self, key: str, why: str) -> None:
        """Leave a tensor out for the reason `why`."""
        self.fate[key] = f"ignored: {why}"

    def repeats(self, key: str, original: str) -> None:
        """Leave out a tensor that the file stores a second time under another key.

        Raises:
            UserError: the two differ, or there is no `original`.
        """
        if original not in self or not torch.equal(self._tensors[key], self._tensors[original]):
            raise UserError(f"{self.where}: {key} differs from {original}, which it should repeat")
        self.ignore(key, f"repeats {original}")

    def close(self) -> None:
        """Check that every tensor was asked for.

        Raises:
            UserError: one was not; the message names the first.
        """
        left = [key for key in self._tensors if key not in self.fate]
        if left:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise UserError(f"{self.where}: the key {left[0]}{more} is left over; it is no part of this model")
