"""`POST /images`: images that are drawn, or whose upper rows are given and completed."""

from __future__ import annotations

import base64
import binascii
import io
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from s4gen.config import ImageLayout
from s4gen.data.images import png, read_image, to_sequence
from s4gen.errors import UserError
from s4gen.files import expected
from s4gen.files.expected import Check
from s4gen.sampling.prompts import Start, Starts, checked_prompt
from s4gen.serving.fields import COMMON, count_of, filters_of, labels_in, model_of, one_or_more, parsed, seed_of
from s4gen.serving.orders import Channel, Order, Part
from s4gen.serving.refusal import RefusedError
from s4gen.serving.served import Served
from s4gen.serving.state import state_of
from s4gen.serving.streams import DONE, Stream, as_json, collected, server_sent

FIELDS: dict[str, Check] = {
    **COMMON,
    "n": expected.whole(1),
    "label": one_or_more(1024),
    "upper": expected.text(1 << 30),
    "pixels": expected.items(expected.anything, 1),
}
"""The fields of a request: `upper` is a PNG in base64, and `pixels` are rows of values, the one or the other."""
SIGNATURE, IHDR = b"\x89PNG\r\n\x1a\n", struct.Struct(">II")
BYTES_OF_A_VALUE = 16
"""Bytes, roughly, that a value takes while it waits for the client."""


@dataclass(eq=False)
class ImageRow:
    """One image that is drawn. See `orders.Row`."""

    number: int
    left: int
    values: list[int] = field(default_factory=list)

    def take(self, tokens: list[int], channel: Channel) -> int:
        self.values += tokens
        self.left -= len(tokens)
        channel.post((self.number, tokens), len(tokens) * BYTES_OF_A_VALUE)
        return len(tokens)


@dataclass
class Wish:
    """The checked fields of a request."""

    model: Served
    layout: ImageLayout
    prompt: Tensor
    """The values of the rows that are given, int64 (P,)."""
    labels: list[int] | None
    seed: int
    rows: list[ImageRow]

    def label(self, row: ImageRow) -> str | None:
        """Return the name of the class of an image."""
        return None if self.labels is None else self.layout.classes[self.labels[row.number]]


async def draw(request: Request, body: bytes) -> Response:
    """Answer a request.

    Raises:
        RefusedError: it is not carried out.
    """
    state = state_of(request)
    found = parsed(body, FIELDS)
    model = model_of(found, state.models, "image")
    layout = model.config.layout
    assert isinstance(layout, ImageLayout)
    filters, n, prompt = filters_of(found, "image"), count_of(found, state.limits), _given(found, layout)
    rows = [ImageRow(i, layout.length - len(prompt)) for i in range(n)]
    wish = Wish(model, layout, prompt, labels_in(found, model, n), seed_of(found), rows)
    alone = request.headers.get("accept") == "image/png"
    if alone and n > 1:
        raise RefusedError(
            400, f"n = {n}: Accept: image/png asks for one image; leave out the one or the other", param="n"
        )
    if alone and found.get("stream"):
        raise RefusedError(400, "a stream is no image; leave out stream, or Accept: image/png", param="stream")
    channel = Channel(state.limits.unread)

    def read() -> Start:
        labels = None if wish.labels is None else torch.tensor(wish.labels)
        return Starts(model.recurrent, checked_prompt(model.recurrent, n, prompt, labels), filters).of(range(n))

    order = Order(model, filters, wish.seed, [Part(rows, read)], channel)
    if found.get("stream"):
        return Stream(request, order, lambda: _events(wish, channel), "text/event-stream", _failed)
    images = await collected(request, order, lambda: _whole(wish, channel))
    if alone:
        return Response(images[0], headers={"s4gen-seed": str(wish.seed)}, media_type="image/png")
    pictures = [
        {"index": row.number, "label": wish.label(row), "png": base64.b64encode(image).decode("ascii")}
        for row, image in zip(rows, images, strict=True)
    ]
    return as_json({"model": model.name, "seed": wish.seed, "images": pictures})


async def _whole(wish: Wish, channel: Channel) -> list[bytes]:
    async for _ in channel.events():
        pass
    return [png(torch.cat([wish.prompt, torch.tensor(row.values)]), wish.layout) for row in wish.rows]


async def _events(wish: Wish, channel: Channel) -> AsyncIterator[bytes]:
    """Yield first what is known of the images, then the values of each as they are drawn."""
    layout = wish.layout
    about = {"model": wish.model.name, "seed": wish.seed, "given": len(wish.prompt)}
    about |= {"height": layout.height, "width": layout.width, "channels": layout.channels, "levels": layout.levels}
    yield server_sent(about | {"labels": [wish.label(row) for row in wish.rows]})
    async for number, values in channel.events():
        yield server_sent({"index": number, "values": values})
    yield DONE


def _failed(refusal: RefusedError) -> bytes:
    return server_sent(refusal.body()) + DONE


def _given(found: Mapping[str, Any], layout: ImageLayout) -> Tensor:
    """Return the values of the rows that are given, int64 (P,); none if none are given.

    Raises:
        RefusedError: they are no rows of an image of the model.
    """
    if "upper" in found and "pixels" in found:
        raise RefusedError(400, "upper and pixels are two ways to give the upper rows; leave one out", param="pixels")
    if "upper" in found:
        return to_sequence(_decoded(found["upper"], layout)[None])[0]
    if "pixels" in found:
        return torch.tensor(_values(found["pixels"], layout), dtype=torch.int64)
    return torch.empty(0, dtype=torch.int64)


def _decoded(upper: str, layout: ImageLayout) -> Any:
    try:
        content = base64.b64decode(upper.removeprefix("data:image/png;base64,"), validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(400, "upper is no base64: expected a PNG in base64", param="upper") from None
    if not content.startswith(SIGNATURE) or len(content) < 24:
        raise RefusedError(400, "upper is no PNG: expected the upper rows as a PNG in base64", param="upper")
    rows = IHDR.unpack_from(content, 16)[1]
    if not 1 <= rows < layout.height:
        raise RefusedError(400, f"upper has {rows:,} rows: expected 1 to {layout.height - 1}", param="upper")
    try:
        return read_image("upper", replace(layout, height=rows), io.BytesIO(content))
    except UserError as error:
        raise RefusedError(400, str(error), param="upper", code="invalid_value") from None


def _values(pixels: Sequence[Any], layout: ImageLayout) -> list[int]:
    """Flatten rows of pixels; a pixel is a number, or, of several channels, a list of numbers."""
    shape = f"1 to {layout.height - 1} rows of {layout.width} pixels"
    shape += f" of {layout.channels} values each" if layout.channels > 1 else ""
    wrong = RefusedError(400, f"pixels: expected {shape}, each 0 to {layout.levels - 1}", param="pixels")
    try:
        given = np.array(pixels)
    except ValueError:  # rows of different lengths
        raise wrong from None
    if layout.channels == 1 and given.ndim == 3:
        given = given[..., 0] if given.shape[-1] == 1 else given
    known = (layout.width,) if layout.channels == 1 else (layout.width, layout.channels)
    if given.dtype.kind not in "iu" or given.shape[1:] != known or not 1 <= len(given) < layout.height:
        raise wrong
    if given.min() < 0 or given.max() >= layout.levels:
        raise wrong
    values: list[int] = given.reshape(-1).tolist()
    return values
