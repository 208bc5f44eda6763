"""The native engine: engine.cpp runs a plan, the whole loop of steps, filters, draws and feedback, on a CPU."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from ctypes import byref, c_void_p

import torch
from torch import Tensor

from s4gen.compiling.compiler import NativeUnavailable
from s4gen.errors import UserError
from s4gen.models.density import ModelState
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines.native.build import library
from s4gen.sampling.engines.native.layers import rebuilt, taken_apart
from s4gen.sampling.engines.native.pack import WEIGHTS, pack
from s4gen.sampling.filters import Filters
from s4gen.sampling.flatten import NotFlatError, flatten
from s4gen.sampling.states import chosen_rows

__all__ = ["WEIGHTS", "NativeEngine", "NativeSession", "NativeUnavailable", "measured_limits"]

_ERROR_BYTES = 256
_GROUP_COST = {8: 8.0, 16: 12.0, 32: 14.0}
"""One thread's time for a group of so many rows side by side in vectors, however many of them are live; that of one row
after another is 1 for each. Measured with AVX-512 on models of d_model 128 and 256, between the two."""


class NativeEngine:
    """A library that came with s4gen or is compiled on first use; linear weights in fp32, bf16 or int8.

    `target` is what it is made for (see `build.library`).

    Raises:
        UserError: there is no such target, or this processor cannot run it.
        NativeUnavailable: no library and no compiler, a model on a GPU or not in float32, a layer that no plan knows.
    """

    row_multiple = 1

    def __init__(
        self, recurrent: RecurrentModel, filters: Filters, weights: str = "fp32", target: str | None = None
    ) -> None:
        if recurrent.device.type != "cpu":
            raise NativeUnavailable(f"the model is on {recurrent.device}, it runs on a CPU")
        if (dtype := recurrent.source.dtype) != torch.float32:
            raise NativeUnavailable(f"the model is in {dtype}, it runs float32")
        try:
            plan = flatten(recurrent)
        except NotFlatError as error:
            raise NativeUnavailable(str(error)) from None
        self.name = "native" if weights == "fp32" else f"native-{weights}"
        self._native, self._filters = library(target), filters
        self._model, self._vocab, self._period = recurrent.stepper, plan.vocab, plan.period
        data = pack(plan, weights)
        self._handle = c_void_p()
        _checked(self._native.s4_open, data, len(data), byref(self._handle))
        weakref.finalize(self, self._native.s4_close, self._handle)

    def begin(self, state: ModelState) -> NativeSession:
        phases = (state.place % self._period).unique(return_counts=True)[1]
        return NativeSession(self, state, lanes_for(phases.tolist(), torch.get_num_threads()))


def lanes_for(rows: Sequence[int], threads: int) -> int:
    """Rows side by side in one vector, or 0: one row after another by all threads together. What takes least time.

    Args:
        rows: how many there are of each phase, as only rows of one phase can lie side by side.
    """
    costs = {lanes: cost * -(-sum(-(-n // lanes) for n in rows) // threads) for lanes, cost in _GROUP_COST.items()}
    best = min(costs, key=lambda lanes: costs[lanes])
    return best if costs[best] < sum(rows) / threads else 0


_Index = Tensor | slice
_ALL = slice(None)


def _arranged(phase: Tensor, lanes: int) -> tuple[_Index, _Index]:
    """Which row stands in every slot, and in which slot every row: rows of one phase together, in groups of their own.

    A row may stand in more than one slot, to fill its group.
    """
    if (phase == phase[:1]).all():
        return _ALL, _ALL
    groups = []
    for rows in (torch.nonzero(phase == own)[:, 0] for own in phase.unique()):
        groups += [rows, rows[-1:].expand(-len(rows) % max(lanes, 1))]
    slots, own = torch.cat(groups), torch.empty_like(phase)
    own[slots] = torch.arange(len(slots))
    return slots, own


class NativeSession:
    """Rows under way; the state is in the library, in its own layout.

    Raises:
        UserError: the state is damaged: its levels contradict each other, or a label is none of the classes.
    """

    def __init__(self, engine: NativeEngine, state: ModelState, lanes: int) -> None:
        self._engine, self._native = engine, engine._native
        self._rows, self._label = len(state.place), state.label
        self._slots, self._own = _arranged(state.place % engine._period, lanes)
        if isinstance(self._slots, Tensor):
            state = chosen_rows(state, self._slots)
        self._n_slots = len(state.place)
        self._handle = c_void_p()
        threads = torch.get_num_threads()
        _checked(self._native.s4_begin, engine._handle, self._n_slots, lanes, threads, byref(self._handle))
        weakref.finalize(self, self._native.s4_end, self._handle)
        _checked(self._native.s4_places, self._handle, state.place.to(torch.int64).contiguous(), True)
        if isinstance(state.label, Tensor):
            _checked(self._native.s4_labels, self._handle, state.label.to(torch.int64).contiguous())
        layers = taken_apart(engine._model, state)
        self._shapes = [layer.shape for layer in layers]
        for i, layer in enumerate(layers):
            _checked(self._native.s4_state, self._handle, i, layer, True)

    def feed(self, token: Tensor) -> Tensor:
        """token (B,) int64 -> logits of the next one (B, V) float32."""
        logits = torch.empty(self._n_slots, self._engine._vocab)
        _checked(self._native.s4_feed, self._handle, self._tokens(token), logits)
        return logits[self._own]

    def advance(self, token: Tensor, u: Tensor) -> Tensor:
        """token (B,) int64 is fed first; u (B, S) float64 in [0, 1) -> the S tokens drawn, (B, S) int64."""
        u = u.to("cpu", torch.float64).contiguous()
        if u.ndim != 2 or len(u) != self._rows:
            raise ValueError(f"u has shape {tuple(u.shape)}; expected ({self._rows}, steps)")
        u = u[self._slots]
        filters, out = self._engine._filters, torch.empty(u.shape, dtype=torch.int64)
        _checked(
            self._native.s4_advance,
            self._handle,
            self._tokens(token),
            u,
            u.shape[1],
            filters.temperature,
            filters.top_k,
            filters.top_p,
            filters.min_p,
            out,
        )
        return out[self._own]

    def state(self) -> ModelState:
        """A copy of the state, in the layout of `RecurrentModel`."""
        place = torch.empty(self._n_slots, dtype=torch.int64)
        _checked(self._native.s4_places, self._handle, place, False)
        layers = [torch.empty(shape) for shape in self._shapes]
        for i, layer in enumerate(layers):
            _checked(self._native.s4_state, self._handle, i, layer, False)
        label = self._label.clone() if isinstance(self._label, Tensor) else ()
        own = [layer[self._own] for layer in layers]
        return ModelState(place[self._own], rebuilt(self._engine._model, place[self._own], own), label)

    def _tokens(self, token: Tensor) -> Tensor:
        if token.shape != (self._rows,):
            raise ValueError(f"token has shape {tuple(token.shape)}; expected ({self._rows},)")
        return token.to("cpu", torch.int64)[self._slots].contiguous()


def measured_limits(n_bytes: int, threads: int, seconds: float = 0.3) -> tuple[float, float]:
    """Bytes per second of reading a buffer of `n_bytes`, and float32 operations per second, that the library reaches.

    Raises:
        NativeUnavailable: there is no library.
    """
    native = library()
    return native.s4_read_bandwidth(n_bytes, threads, seconds), native.s4_product_rate(threads, seconds)


def _checked(function: Callable[..., int], *arguments: object) -> None:
    """Call an entry point of engine.cpp, tensors as addresses; its message, if it failed, as an exception."""
    error = ctypes.create_string_buffer(_ERROR_BYTES)
    addresses = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    if function(*addresses, error, _ERROR_BYTES):
        raise UserError(error.value.decode(errors="replace"))
