"""`s4gen serve` as a process of its own with a real socket: OpenAI's client, clients that go, signals, refusals."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import running
from serve_load import drawn_by_sample, gauges, run
from serving import CLASSES, TOKENIZER, image_model, text_model
from tiny_audio import sounding_model

from s4gen.checkpoint import save_checkpoint
from s4gen.cli import main
from s4gen.cli.serve import token_of
from s4gen.errors import UserError
from s4gen.files.shipped import find

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("saved")
    models = {"words": text_model(), "animals": image_model(CLASSES), "digits": sounding_model("s4d")}
    for name, model in models.items():
        tokenizer = TOKENIZER if name == "words" else None
        save_checkpoint(folder / name, model, recipe=None, metrics={}, card="A card", tokenizer=tokenizer)
    return folder


@contextlib.contextmanager
def server(*arguments: str | Path) -> Iterator[tuple[Any, str]]:
    """A server on a free port: its process and its address."""
    command = [sys.executable, "-m", "s4gen", "serve", *arguments, "--port", "0"]
    with running([str(part) for part in command], cwd=ROOT) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith("serving on "):
                yield process, line.split()[2]
                return
        pytest.fail(process.stderr.read())


@pytest.fixture(scope="module")
def site(saved: Path) -> Iterator[str]:
    """A server that is not patient, and keeps little for those who do not read; it ends as one should."""
    limits = ("--unread", "100000", "--stall", "2", "--grace", "1", "--max-tokens", "200000", "--seconds", "5000")
    with server(saved / "words", saved / "animals", saved / "digits", *limits) as (process, url):
        yield url
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == "s4gen: interrupted\n"


def idle(url: str) -> bool:
    """Wait until nothing is under way; return whether that came."""

    async def asked() -> bool:
        async with httpx.AsyncClient(base_url=url) as client:
            for _ in range(200):
                found = await gauges(client)
                if found["rows"] == found["orders"] == found["queue"] == 0:
                    return True
                await asyncio.sleep(0.05)
        return False

    return asyncio.run(asked())


def test_openai_s_client_gets_what_sample_writes(site: str, saved: Path, capsys: Capture) -> None:
    import openai  # two seconds, for the one process that runs this test

    command = ["sample", str(saved / "words"), "--prompt", "ab", "--seed", "3", "--max-tokens", "25"]
    assert main(command) == 0
    expected = capsys.readouterr().out.removesuffix("\n")
    with openai.OpenAI(base_url=f"{site}v1", api_key="none") as client:
        assert {model.id for model in client.models.list()} == {"words", "animals", "digits"}
        wish: dict[str, Any] = {"model": "words", "prompt": "ab", "seed": 3, "max_tokens": 25, "echo": True}
        whole = client.completions.create(**wish, logprobs=1)
        (choice,) = whole.choices
        assert choice.text == expected and whole.usage is not None and choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert len(choice.logprobs.token_logprobs) == whole.usage.total_tokens
        pieces = list(client.completions.create(**wish, stream=True, stream_options={"include_usage": True}))
        assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == expected
        assert pieces[-1].usage == whole.usage
        with pytest.raises(openai.BadRequestError, match="unknown field top_q"):
            client.completions.create(**wish, extra_body={"top_q": 1})
        with pytest.raises(openai.NotFoundError, match="there is no model 'none'"):
            client.completions.create(model="none", prompt="a")


def test_sound_and_images_are_what_sample_draws(site: str, saved: Path, tmp_path: Path) -> None:
    command = ["sample", str(saved / "digits"), "--classes", "one", "--seed", "4", "--seconds", "0.2", "-o"]
    assert main([*command, str(tmp_path / "clip.wav")]) == 0
    clip = httpx.post(f"{site}audio", json={"label": "one", "seed": 4, "seconds": 0.2}).content
    assert (tmp_path / "clip.wav").read_bytes() == clip
    assert main(["sample", str(saved / "animals"), "-n", "3", "--seed", "4", "-o", str(tmp_path / "images")]) == 0
    with httpx.stream("POST", f"{site}images", json={"n": 3, "seed": 4}) as answer:
        images = json.loads(answer.read())["images"]
    files = sorted((tmp_path / "images").iterdir())
    assert [base64.b64decode(image["png"]) for image in images] == [file.read_bytes() for file in files]


def opened(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def request_of(body: dict[str, Any], path: str = "/v1/completions") -> bytes:
    content = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_drawn_any_more_for_a_client_that_has_gone(site: str, stream: bool) -> None:
    with opened(site) as client:
        client.sendall(request_of({"model": "words", "prompt": "a", "max_tokens": 200_000, "n": 8, "stream": stream}))
        if stream:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert idle(site)
    counted = httpx.get(f"{site}metrics").text
    assert 'status="499"' in counted and 'status="500"' not in counted


def test_a_client_that_never_reads_is_dropped(site: str) -> None:
    """Neither its rows nor its connection stay."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        host, port = site.removeprefix("http://").rstrip("/").split(":")
        client.connect((host, int(port)))
        client.sendall(request_of({"seconds": 4000, "label": "two"}, "/audio"))  # 3.2 MB
        assert idle(site)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(1 << 16):
                received += piece
        # What the system had taken from the server still comes, and then the end, which is none of a whole answer.
        assert received.startswith(b"HTTP/1.1 200") and not received.endswith(b"0\r\n\r\n")
        assert len(received) < 1 << 22


def test_a_connection_that_asks_nothing_is_closed(site: str) -> None:
    with opened(site) as silent, opened(site) as half:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")
        began = time.monotonic()
        for client in (silent, half):
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
        assert time.monotonic() - began > 1


def test_a_body_that_does_not_come_is_not_waited_for(site: str) -> None:
    with opened(site) as client:
        client.sendall(request_of({"prompt": "abc"})[:-3])
        assert client.recv(100).startswith(b"HTTP/1.1 408")


def test_many_clients_lose_nothing(site: str) -> None:
    load = asyncio.run(run(site, requests=30, clients=8, seconds=60))
    assert load.lost == [] and load.sent == 30
    assert idle(site)


def test_what_is_under_way_is_finished_after_a_signal(saved: Path) -> None:
    with server(saved / "words", "--grace", "30", "--max-tokens", "100000") as (process, url):
        with httpx.stream("POST", f"{url}v1/completions", json={"max_tokens": 3000, "stream": True}) as answer:
            content = answer.iter_raw()
            first = next(content)
            process.send_signal(signal.SIGTERM)
            rest = b"".join(content)
        assert answer.status_code == 200 and first.startswith(b"data: ")
        assert rest.endswith(b"data: [DONE]\n\n") and b"error" not in rest
        assert process.wait(30) == 0
        assert process.stderr.read().splitlines()[-1] == "s4gen: stopped"
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


# Refusals of the command line


def refusal(capsys: Capture, *argv: str | Path) -> str:
    assert main([str(argument) for argument in argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("s4gen: error: ")


def test_a_port_in_use_is_said(capsys: Capture, saved: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = refusal(capsys, "serve", saved / "words", "--port", port)
    assert (
        line == f"cannot listen on 127.0.0.1, port {port}: another program does; choose another with --port, 0 for any"
    )


def test_what_cannot_be_served_is_refused_before_anything_is_answered(capsys: Capture, saved: Path) -> None:
    assert "nowhere" in refusal(capsys, "serve", saved / "nowhere", "--port", "0")
    predictor = find("checkpoints", "fsdd-digits")
    assert "is no density model" in refusal(capsys, "serve", predictor, "--port", "0")
    words = saved / "words"
    assert refusal(capsys, "serve", words, words, "--port", "0").startswith("two models are called words")
    assert "has no name before the =" in refusal(capsys, "serve", f"={words}", "--port", "0")
    assert refusal(capsys, "serve", words, "--host", "").startswith("--host is empty")
    assert "--port 70000" in refusal(capsys, "serve", words, "--port", "70000")
    assert "there is no such address" in refusal(capsys, "serve", words, "--host", "no.such.host", "--token", "x" * 16)
    line = refusal(capsys, "serve", words, "--rows", "4", "--per-request", "5")
    assert line == "--per-request 5 is more than the 4 of --rows"


def test_others_are_let_in_with_a_token_alone(capsys: Capture, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S4GEN_TOKEN", raising=False)
    line = refusal(capsys, "serve", saved / "words", "--host", "0.0.0.0")
    assert line.startswith("--host 0.0.0.0 lets others ask, so it needs a token")
    for bad in ("short", "", "with a space in it", "ümlaut-ümlaut-ümlaut", "line\nline-line-line-line"):
        with pytest.raises(UserError, match="at least 16 characters"):
            token_of(bad, None)
    assert token_of(None, None) is None
    assert token_of("a" * 16, "b" * 16) == "a" * 16 and token_of(None, "b" * 16) == "b" * 16


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_its_packages_one_line_says_how_to_get_them(
    capsys: Capture, saved: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    line = refusal(capsys, "serve", saved / "words")
    assert line == f"s4gen serve needs {missing}, which is missing: pip install 's4gen[serve]'"


@pytest.mark.slow
def test_two_hundred_requests_get_what_sample_draws(saved: Path, tmp_path: Path) -> None:
    """Some of 32 clients go before the end, and each of the others gets what `s4gen sample` draws with its seed."""
    with server(saved / "words", saved / "animals", saved / "digits") as (_, url):
        load = asyncio.run(run(url, requests=200, clients=32, seconds=300, keep=True))
        assert idle(url)
        models = {model["id"]: model for model in httpx.get(f"{url}v1/models").json()["data"]}
    assert load.lost == [] and load.sent == 200 and load.given_up == 25
    kept = [asked for asked in load.asked if not asked.given_up]
    assert len(kept) == 175
    for asked in kept:
        name = asked.body["model"]
        alone = drawn_by_sample(asked, models[name], saved / name, tmp_path / str(asked.body["seed"]))
        assert asked.drawn == alone, asked.body


@pytest.mark.slow
def test_memory_stays_as_it_is(saved: Path) -> None:
    """Two minutes of mixed requests, with clients that go: what the server holds after the first half is all."""
    with server(saved / "words", saved / "animals", saved / "digits") as (_, url):
        load = asyncio.run(run(url, requests=10**6, clients=8, seconds=120))
        assert load.lost == [] and load.sent > 100
        assert idle(url)
        half = [held for when, held in load.resident if when > 60]
        assert max(half) < 1.02 * half[0] + (4 << 20)
