"""`POST /audio`: one clip of sound, as a wav file that is sent while it is drawn."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import Response

from s4gen.config import AudioLayout
from s4gen.data.audio import AudioFormat, format_of
from s4gen.data.audio.write import to_pcm16
from s4gen.files import expected
from s4gen.files.expected import Check
from s4gen.sampling.audio import Endings
from s4gen.sampling.prompts import Start, Starts, checked_prompts
from s4gen.serving.fields import COMMON, filters_of, labels_in, model_of, parsed, seed_of
from s4gen.serving.orders import Channel, Order, Part
from s4gen.serving.refusal import RefusedError
from s4gen.serving.state import state_of
from s4gen.serving.streams import Stream, collected

FIELDS: dict[str, Check] = {**COMMON, "label": expected.text(200), "seconds": expected.number(0)}
"""The fields of a request. With `stream`, which is on unless it is said otherwise, the file comes as it is drawn."""
UNKNOWN = 0xFFFFFFFF
"""The length in the header of a wav file whose end is not known yet; players read on to the end of the stream."""
BYTES_OF_A_SAMPLE = 2


@dataclass(eq=False)
class ClipRow:
    """One clip that is drawn. See `orders.Row`."""

    number: int
    left: int
    format: AudioFormat
    endings: Endings

    def take(self, tokens: list[int], channel: Channel) -> int:
        codes = torch.tensor([tokens])
        (count,) = self.endings.counts(codes)
        self.left = 0 if self.endings.all_over else self.left - len(tokens)
        samples = self.format.quantiser.decode(np.array(tokens[:count], dtype=np.int64))
        content = to_pcm16(samples).astype("<i2").tobytes()
        channel.post(content, len(content))
        return len(tokens)


async def draw(request: Request, body: bytes) -> Response:
    """Answer a request.

    Raises:
        RefusedError: it is not carried out.
    """
    state = state_of(request)
    found = parsed(body, FIELDS)
    model = model_of(found, state.models, "audio")
    layout = model.config.layout
    assert isinstance(layout, AudioLayout)
    filters, labels, format = filters_of(found, "audio"), labels_in(found, model, 1), format_of(layout)
    samples = round(found.get("seconds", 1.0) * format.rate)
    if not 1 <= samples <= state.limits.seconds * format.rate:
        message = f"seconds = {found.get('seconds'):g}: expected more than 0, at most {state.limits.seconds:g}"
        raise RefusedError(400, message, param="seconds", code="invalid_value")
    row = ClipRow(0, samples, format, Endings(1, format.quantiser.silence, model.ending))
    channel = Channel(state.limits.unread)

    def read() -> Start:
        label = None if labels is None else torch.tensor(labels)
        prompts = checked_prompts(model.recurrent, [torch.empty(0, dtype=torch.int64)], label)
        return Starts(model.recurrent, prompts, filters).of(range(1))

    seed = seed_of(found)
    order = Order(model, filters, seed, [Part([row], read)], channel)
    headers = {"s4gen-seed": str(seed), "s4gen-rate": str(format.rate)}
    if labels is not None:
        headers["s4gen-label"] = str(labels[0])
    if found.get("stream", True):
        length = UNKNOWN if model.ending else BYTES_OF_A_SAMPLE * samples
        stream = Stream(request, order, lambda: _pieces(channel, length, format.rate), "audio/wav")
        stream.headers.update(headers)
        return stream
    content = await collected(request, order, lambda: _whole(channel))
    return Response(header(len(content), format.rate) + content, headers=headers, media_type="audio/wav")


async def _whole(channel: Channel) -> bytes:
    return b"".join([content async for content in channel.events()])


async def _pieces(channel: Channel, length: int, rate: int) -> AsyncIterator[bytes]:
    first = True
    async for content in channel.events():
        yield header(length, rate) + content if first else content
        first = False


def header(length: int, rate: int) -> bytes:
    """Return the header of a wav file with `length` bytes of 16-bit mono PCM behind it, or an `UNKNOWN` number."""
    whole = length if length == UNKNOWN else 36 + length
    chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, BYTES_OF_A_SAMPLE * rate, BYTES_OF_A_SAMPLE, 16)
    return struct.pack("<4sI4s", b"RIFF", whole, b"WAVE") + chunk + struct.pack("<4sI", b"data", length)
