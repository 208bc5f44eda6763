"""The native engine: engine.cpp runs the whole loop of steps, filters, draws and feedback over a plan, on a CPU."""

from __future__ import annotations

import copy
import ctypes
import functools
import struct
import time
import weakref
from collections.abc import Callable
from ctypes import byref, c_void_p
from dataclasses import fields

import torch
from torch import Tensor

from s4gen.compiling.compiler import NativeUnavailable
from s4gen.config.filters import FilterSettings
from s4gen.errors import UserError
from s4gen.models.density import ModelState
from s4gen.models.states import chosen_rows
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines.native.build import library
from s4gen.sampling.engines.native.lanes import LANES, SOLO, StepTimes, arranged, lanes_for
from s4gen.sampling.engines.native.layers import rebuilt, taken_apart
from s4gen.sampling.engines.native.pack import WEIGHTS, pack
from s4gen.sampling.filters import Filters
from s4gen.sampling.flatten import NotFlatError, flatten

__all__ = ["WEIGHTS", "NativeEngine", "NativeSession", "NativeUnavailable", "NotForThisModel", "measured_limits"]

_ERROR_BYTES = 256
_TIMED_STEPS, _TIMED_SECONDS = 12, 0.02
"""The most steps, and the most seconds, that are spent on timing. Among twelve steps there are some that begin a pixel,
and some that run a coarser level."""


class NotForThisModel(NativeUnavailable):
    """Raised where the engine is not made for a model or its filters, so that no compiler or conversion would help."""


class NativeEngine:
    """The engine in C++, from a library that came with s4gen or is compiled on first use.

    The weights of linear layers are fp32, bf16 or int8. `target` is the processor that the library is made for (see
    `build.library`).

    Raises:
        UserError: there is no such target, or this processor cannot run it.
        NativeUnavailable: there is neither a library nor a compiler; or the model is not in float32, is not on the CPU,
            or has a layer that no plan knows; or a filter is on that only the eager engine has.
    """

    row_multiple = 1
    """The engine adds up every row in the same order however many there are, so it needs no padding."""

    def __init__(
        self, recurrent: RecurrentModel, filters: Filters, weights: str = "fp32", target: str | None = None
    ) -> None:
        if filters.eager_only:
            raise NotForThisModel("it does not have all of the filters")
        if recurrent.device.type != "cpu":
            raise NotForThisModel(f"the model is on {recurrent.device}, it runs on a CPU")
        try:
            plan = flatten(recurrent)
        except NotFlatError as error:
            raise NotForThisModel(str(error)) from None
        if (dtype := recurrent.source.dtype) != torch.float32:
            raise NativeUnavailable(f"the model is in {dtype}, it runs float32")
        self.name = "native" if weights == "fp32" else f"native-{weights}"
        self._native, self.filters = library(target), filters
        self._packed_filters = packed(filters)
        self._model, self._vocab, self._bos, self._period = recurrent.stepper, plan.vocab, plan.bos, plan.period
        data = pack(plan, weights)
        self._handle = c_void_p()
        _checked(self._native.s4_open, data, len(data), byref(self._handle))
        weakref.finalize(self, self._native.s4_close, self._handle)
        self._origin = self

    def with_filters(self, filters: Filters) -> NativeEngine:
        """Return an engine with the same weights in memory, and other filters.

        Raises:
            NativeUnavailable: one of the filters is on that only the eager engine has.
        """
        if filters.eager_only:
            raise NotForThisModel("it does not have all of the filters")
        other = copy.copy(self)  # `_origin` stays what it is, and keeps the weights alive
        other.filters, other._packed_filters = filters, packed(filters)
        return other

    def begin(self, state: ModelState) -> NativeSession:
        """See `Engine`."""
        # Up to SOLO rows of a phase are taken together one after another anyway, so for them nothing is measured.
        phases = (state.position % self._period).unique(return_counts=True)[1].tolist()
        lanes = lanes_for(phases, torch.get_num_threads(), self._origin._times) if max(phases) > SOLO else 0
        return NativeSession(self, state, lanes)

    @functools.cached_property
    def _times(self) -> StepTimes:
        """How long a step takes on this machine: the better of two rounds, measured when it is first needed."""
        layouts = [(1, 0), (SOLO, 0), *((lanes, lanes) for lanes in LANES)]
        rounds = [[self._time(*layout) for layout in layouts] for _ in range(2)]
        one, solo, *groups = map(min, zip(*rounds, strict=True))
        return StepTimes(one, solo, dict(zip(LANES, groups, strict=True)))

    def _time(self, rows: int, lanes: int) -> float:
        """Return the mean seconds of the processor that a step takes, over a few steps from the start of a sequence.

        Unlike seconds on the clock, these are nearly the same on a busy machine.
        """
        handle = c_void_p()
        _checked(self._native.s4_begin, self._handle, rows, lanes, 1, byref(handle))
        try:
            token, logits = torch.full((rows,), self._bos), torch.empty(rows, self._vocab)
            taken: list[float] = []
            while len(taken) < 1 + _TIMED_STEPS and (len(taken) < 2 or sum(taken[1:]) < _TIMED_SECONDS):
                before = time.thread_time()
                _checked(self._native.s4_feed, handle, token, logits)
                taken.append(time.thread_time() - before)
        finally:
            self._native.s4_end(handle)
        return sum(taken[1:]) / len(taken[1:])  # the first step reads the weights for the first time


class NativeSession:
    """Rows under way in the native engine. The library holds their state, in a layout of its own.

    Raises:
        UserError: the state is damaged: its levels contradict each other, or a label is none of the classes.
    """

    def __init__(self, engine: NativeEngine, state: ModelState, lanes: int) -> None:
        self._engine, self._native = engine, engine._native
        self._rows, self._label = len(state.position), state.label
        self._slots, self._own = arranged(state.position % engine._period, lanes)
        if isinstance(self._slots, Tensor):
            state = chosen_rows(state, self._slots)
        self._n_slots = len(state.position)
        # The number of slots may exceed that of rows: a row may stand in several slots to fill a group.
        self._handle = c_void_p()
        threads = torch.get_num_threads()
        _checked(self._native.s4_begin, engine._handle, self._n_slots, lanes, threads, byref(self._handle))
        weakref.finalize(self, self._native.s4_end, self._handle)
        _checked(self._native.s4_places, self._handle, state.position.to(torch.int64).contiguous(), True)
        if isinstance(state.label, Tensor):
            _checked(self._native.s4_labels, self._handle, state.label.to(torch.int64).contiguous())
        layers = taken_apart(engine._model, state)
        self._shapes = [layer.shape for layer in layers]
        for i, layer in enumerate(layers):
            _checked(self._native.s4_state, self._handle, i, layer, True)

    def feed(self, token: Tensor) -> Tensor:
        """Feed token int64 (B,); return logits float32 (B, V) for the next one; see `Session`."""
        logits = torch.empty(self._n_slots, self._engine._vocab)
        _checked(self._native.s4_feed, self._handle, self._tokens(token), logits)
        return logits[self._own]

    def advance(self, token: Tensor, u: Tensor) -> Tensor:
        """Feed token int64 (B,) and draw S tokens with u float64 (B, S) in [0, 1); return them; see `Session`."""
        u = u.to("cpu", torch.float64).contiguous()
        if u.ndim != 2 or len(u) != self._rows:
            raise ValueError(f"u has shape {tuple(u.shape)}; expected ({self._rows}, steps)")
        u = u[self._slots]
        filters, out = self._engine._packed_filters, torch.empty(u.shape, dtype=torch.int64)
        _checked(
            self._native.s4_advance,
            self._handle,
            self._tokens(token),
            u,
            u.shape[1],
            filters,
            len(filters),
            out,
        )
        return out[self._own]

    def state(self) -> ModelState:
        """Return a copy of the state, in the layout of `RecurrentModel`."""
        position = torch.empty(self._n_slots, dtype=torch.int64)
        _checked(self._native.s4_places, self._handle, position, False)
        layers = [torch.empty(shape) for shape in self._shapes]
        for i, layer in enumerate(layers):
            _checked(self._native.s4_state, self._handle, i, layer, False)
        label = self._label.clone() if isinstance(self._label, Tensor) else ()
        own = [layer[self._own] for layer in layers]
        return rebuilt(self._engine._model, position[self._own], label, own)

    def _tokens(self, token: Tensor) -> Tensor:
        if token.shape != (self._rows,):
            raise ValueError(f"token has shape {tuple(token.shape)}; expected ({self._rows},)")
        return token.to("cpu", torch.int64)[self._slots].contiguous()


def packed(filters: FilterSettings) -> bytes:
    """Return the bytes of the struct `Filters` of draw.h: fields in the order of `FilterSettings`, int64 or double."""
    known = [each for each in fields(FilterSettings) if each.metadata["native"]]
    kinds = "".join("q" if isinstance(each.default, int) else "d" for each in known)
    return struct.pack(f"={kinds}", *(getattr(filters, each.name) for each in known))


def measured_limits(n_bytes: int, threads: int, seconds: float = 0.3) -> tuple[float, float]:
    """Measure what the library reaches at most on this machine, each for about `seconds`.

    Returns the bytes per second at which `threads` threads read a buffer of `n_bytes`, and their float32 operations per
    second.

    Raises:
        NativeUnavailable: there is no library.
    """
    native = library()
    return native.s4_read_bandwidth(n_bytes, threads, seconds), native.s4_product_rate(threads, seconds)


def _checked(function: Callable[..., int], *arguments: object) -> None:
    """Call an entry point of engine.cpp with the addresses of tensors; raise UserError with its message if it fails."""
    error = ctypes.create_string_buffer(_ERROR_BYTES)
    addresses = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    if function(*addresses, error, _ERROR_BYTES):
        raise UserError(error.value.decode(errors="replace"))
