"""Many clients at once for a server on this machine: mixed requests, of which some are given up half-way.

    python tests/serve_load.py URL [requests] [clients] [seconds]

The number of requests and the time are bounded, and it speaks to nothing but the loopback address.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4gen.cli import main as s4gen

PROMPTS = ("The history of", "In the year", "", "The river", "A song by the band is")


@dataclass
class Asked:
    """A request, and what came of it."""

    path: str
    body: dict[str, Any]
    given_up: bool
    """Whether the client goes after the first bytes."""
    levels: int = 0
    """A pixel of the images can have so many values; 0 for text and sound."""
    drawn: Any = None
    """The texts; the pixels of the images, from 0 to 255; the bytes of the sound."""
    busy: int = 0
    """How often the queue was full, so that it was asked again."""


@dataclass
class Load:
    """All requests, and how long they took."""

    sent: int = 0
    given_up: int = 0
    """How many of the requests that were sent the client gave up."""
    asked: list[Asked] = field(default_factory=list)
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)
    """Why requests were not answered that should have been."""
    resident: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the beginning, and the bytes that the server held then."""


def mixed(models: dict[str, dict[str, Any]], number: int) -> Asked:
    """Return request `number`: the kinds that are served take turns, and every eighth request is given up."""
    chance, names = random.Random(number), sorted(models)
    name = names[number % len(names)]
    model = models[name]
    body: dict[str, Any] = {"model": name, "seed": number, "stream": chance.random() < 0.5}
    if chance.random() < 0.4:
        body["temperature"] = chance.choice([0.7, 0.9])
    if model["kind"] == "text":
        path = "/v1/completions"
        body |= {"prompt": chance.choice(PROMPTS), "max_tokens": chance.randint(5, 60), "n": chance.randint(1, 3)}
    elif model["kind"] == "image":
        path, body["n"] = "/images", chance.randint(1, 4)
        rows = model["height"] * 3 // 4
        shape = (rows, model["width"]) if model["channels"] == 1 else (rows, model["width"], model["channels"])
        body["pixels"] = np.random.default_rng(number).integers(0, model["levels"], shape).tolist()
    else:
        path, body["seconds"] = "/audio", round(chance.uniform(0.02, 0.2), 2)
        if model["classes"]:
            body["label"] = chance.choice(model["classes"])
    return Asked(path, body, number % 8 == 7, model.get("levels", 0))


async def send(client: httpx.AsyncClient, asked: Asked) -> None:
    """Send a request, again as long as the queue is full, and note what was drawn."""
    while True:
        async with client.stream("POST", asked.path, json=asked.body) as answer:
            if answer.status_code == 429:
                asked.busy += 1
                await answer.aread()
                assert int(answer.headers["retry-after"]) >= 1
            elif answer.status_code != 200:
                raise RuntimeError(f"{answer.status_code} {(await answer.aread())[:300]!r}")
            elif asked.given_up:
                async for _ in answer.aiter_raw():
                    break
                return
            else:
                asked.drawn = drawn_in(asked, await answer.aread())
                return
        await asyncio.sleep(0.3)


def drawn_in(asked: Asked, content: bytes) -> Any:
    """Return what was drawn, in one form for streams and whole answers."""
    if asked.path == "/audio":
        return content[44:]
    n = asked.body["n"]
    if not asked.body["stream"]:
        answer = json.loads(content)
        if asked.path == "/images":
            return [pixels_of(base64.b64decode(image["png"])) for image in answer["images"]]
        return [choice["text"] for choice in answer["choices"]]
    *pieces, done, _ = content.decode().split("\n\n")
    assert done == "data: [DONE]"
    events = [json.loads(piece.removeprefix("data: ")) for piece in pieces]
    assert not any("error" in event for event in events), events[-1]
    if asked.path == "/images":
        given = np.array(asked.body["pixels"]).reshape(-1).tolist()
        drawn = [[v for e in events if e.get("index") == i for v in e["values"]] for i in range(n)]
        return [shades(asked.levels)[given + values].tolist() for values in drawn]
    choices = [choice for event in events for choice in event["choices"]]
    return ["".join(choice["text"] for choice in choices if choice["index"] == i) for i in range(n)]


def drawn_by_sample(asked: Asked, model: dict[str, Any], checkpoint: Path, folder: Path) -> Any:
    """Return what `s4gen sample` draws with the same wishes, in the form of `drawn_in`; `folder` is new."""
    body, out = asked.body, folder / {"text": "all.jsonl", "image": "all", "audio": "clip.wav"}[model["kind"]]
    command = ["sample", str(checkpoint), "-o", str(out), "--seed", str(body["seed"])]
    command += ["-n", str(body.get("n", 1)), "--temperature", str(body.get("temperature", 1))]
    folder.mkdir(parents=True)
    if model["kind"] == "text":
        command += ["--prompt", body["prompt"], "--max-tokens", str(body["max_tokens"])]
    elif model["kind"] == "image":
        given = shades(asked.levels)[np.array(body["pixels"])]
        whole = np.zeros((model["height"], *given.shape[1:]), dtype=np.uint8)
        whole[: len(given)] = given
        Image.fromarray(whole).save(folder / "given.png")
        command += ["--prompt", str(folder / "given.png"), "--prompt-rows", str(len(given))]
    else:
        command += ["--seconds", str(body["seconds"]), *(["--classes", body["label"]] if "label" in body else [])]
    assert s4gen(command) == 0
    if model["kind"] == "text":
        return [json.loads(line)["text"].removeprefix(body["prompt"]) for line in out.read_text().splitlines()]
    if model["kind"] == "image":
        return [pixels_of(path.read_bytes()) for path in sorted(out.glob("*.png"))]
    return out.read_bytes()[44:]


def shades(levels: int) -> NDArray[np.uint8]:
    """Return the byte that shows each value of a pixel."""
    return np.linspace(0, 255, levels).round().astype(np.uint8)


def pixels_of(png: bytes) -> list[int]:
    values: list[int] = np.asarray(Image.open(io.BytesIO(png))).reshape(-1).tolist()
    return values


async def run(url: str, requests: int, clients: int, seconds: float, keep: bool = False) -> Load:
    """Ask until all requests are answered or the time is over; each client sends one after another.

    What was drawn is kept only if that is asked for.
    """
    load, began, numbers = Load(), time.monotonic(), iter(range(requests))
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=clients + 1)) as client:
        models = {model["id"]: model for model in (await client.get("/v1/models")).json()["data"]}

        async def one() -> None:
            for number in numbers:
                asked = mixed(models, number)
                try:
                    await send(client, asked)
                except (httpx.HTTPError, RuntimeError, AssertionError) as error:
                    load.lost.append(f"{asked.path} {number}: {type(error).__name__} {error}")
                load.sent += 1
                load.given_up += asked.given_up
                if keep:
                    load.asked.append(asked)
                if time.monotonic() - began > seconds:
                    return

        async def look() -> None:
            while True:
                load.resident.append((time.monotonic() - began, (await gauges(client))["resident_bytes"]))
                await asyncio.sleep(5)

        looking = asyncio.create_task(look())
        await asyncio.gather(*(one() for _ in range(clients)))
        looking.cancel()
        load.seconds = time.monotonic() - began
    return load


async def gauges(client: httpx.AsyncClient) -> dict[str, float]:
    """Return the metrics without labels."""
    lines = (await client.get("/metrics")).text.splitlines()
    pairs = [line.removeprefix("s4gen_").split(" ") for line in lines if not line.startswith("#") and "{" not in line]
    return {name: float(value) for name, value in pairs}


def main() -> None:
    url, *numbers = sys.argv[1:]
    requests, clients, seconds = (int(numbers[i]) if len(numbers) > i else d for i, d in enumerate((200, 32, 300)))
    load = asyncio.run(run(url, requests, clients, seconds))
    print(f"{load.sent} requests, {load.given_up} given up, {len(load.lost)} lost, in {load.seconds:.1f} s")
    print("\n".join(load.lost[:5]))
    for when, held in load.resident[:: max(1, len(load.resident) // 24)]:
        print(f"{when:6.0f} s {held / 1e6:8.1f} MB")


if __name__ == "__main__":
    main()
