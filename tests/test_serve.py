"""The server in this process: completions in OpenAI's form, images, sound, and what becomes of bad requests."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import struct
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from serving import CLASSES, TOKENIZER, Site, all_kinds, served, text_model

from s4gen.errors import UserError
from s4gen.sampling.filters import Filters
from s4gen.sampling.generate import generate, stream
from s4gen.sampling.text import Text, log_probabilities, write
from s4gen.serving import orders
from s4gen.serving.limits import Limits
from s4gen.serving.orders import Channel
from s4gen.serving.refusal import RefusedError
from s4gen.serving.state import State


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as found:
        yield found


def texts_of(site: Site, prompts: list[str], seed: int, max_tokens: int, **options: Any) -> list[Text]:
    """Return what `s4gen sample` writes."""
    recurrent = site.state.models["words"].recurrent
    written = write(recurrent, TOKENIZER, prompts, seed=seed, max_tokens=max_tokens, **options)
    found = {text.number: text for text, _ in written}
    return [found[i] for i in range(len(prompts))]


# Texts


def test_a_completion_is_what_sample_writes(site: Site) -> None:
    prompts = ["once", "two words", "once"]
    body = {"model": "words", "prompt": prompts, "n": 2, "seed": 5, "max_tokens": 12, "temperature": 0.8, "top_p": 0.9}
    answer = site.whole("/v1/completions", body)
    expected = texts_of(
        site, [p for p in prompts for _ in range(2)], 5, 12, filters=Filters(temperature=0.8, top_p=0.9)
    )
    assert [choice["text"] for choice in answer["choices"]] == [text.text for text in expected]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    ends = {"eos": "stop"}
    assert [choice["finish_reason"] for choice in answer["choices"]] == [ends.get(t.ended, t.ended) for t in expected]
    drawn = sum(len(text.tokens) for text in expected)
    assert answer["usage"] == {"prompt_tokens": 17, "completion_tokens": drawn, "total_tokens": 17 + drawn}
    assert answer["object"] == "text_completion" and answer["model"] == "words" and answer["seed"] == 5


def test_a_stream_is_the_completion_in_pieces(site: Site) -> None:
    body = {"model": "words", "prompt": "a", "n": 3, "seed": 1, "max_tokens": 30, "logprobs": 2}
    whole = site.whole("/v1/completions", body)
    events = site.events("/v1/completions", body | {"stream_options": {"include_usage": True}})
    assert events.pop()["usage"] == whole["usage"]
    assert len({event["id"] for event in events}) == 1
    for choice in whole["choices"]:
        pieces = [c for event in events for c in event["choices"] if c["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1]["finish_reason"] == choice["finish_reason"]
        for key, expected in choice["logprobs"].items():
            assert [item for piece in pieces for item in piece["logprobs"][key]] == expected


def test_a_text_ends_in_front_of_a_stop_string(site: Site) -> None:
    body = {"prompt": "x", "seed": 3, "max_tokens": 40}
    free = site.whole("/v1/completions", body)["choices"][0]["text"]
    stop = free[9:11]
    stopped = site.whole("/v1/completions", body | {"stop": [stop, "never to be found"]})["choices"][0]
    assert stopped["text"] == free[: free.index(stop)] and stopped["finish_reason"] == "stop"
    assert site.whole("/v1/completions", body | {"stop": stop})["choices"][0] == stopped


def test_log_probabilities_are_those_of_the_model(site: Site) -> None:
    body = {"prompt": "abc", "seed": 2, "max_tokens": 9, "temperature": 0.5, "logprobs": 3, "echo": True}
    (choice,) = site.whole("/v1/completions", body)["choices"]
    told, recurrent = choice["logprobs"], site.state.models["words"].recurrent
    (text,) = texts_of(site, ["abc"], 2, 9, filters=Filters(temperature=0.5))
    assert choice["text"] == "abc" + text.text
    whole = Text(0, torch.empty(0, dtype=torch.int64), [*text.prompt.tolist(), *text.tokens])
    np.testing.assert_allclose(told["token_logprobs"], log_probabilities(recurrent, whole), atol=1e-4)
    for logp, likeliest in zip(told["token_logprobs"], told["top_logprobs"], strict=True):
        values = list(likeliest.values())
        assert len(values) == 3 and values == sorted(values)  # the likeliest is last, so that it wins a tie of names
        assert max(values) >= logp - 1e-9 and sum(map(math.exp, values)) <= 1 + 1e-9
    assert told["tokens"][:3] == ["a", "b", "c"] and told["text_offset"][:4] == [0, 1, 2, 3]


def test_a_prompt_can_be_scored_without_a_word_being_written(site: Site) -> None:
    (choice,) = site.whole("/v1/completions", {"prompt": "hello", "max_tokens": 0, "echo": True, "logprobs": 0})[
        "choices"
    ]
    assert choice["text"] == "hello" and choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["token_logprobs"]) == 5
    assert choice["logprobs"]["top_logprobs"] == [None] * 5


def test_without_a_seed_one_is_told_that_gives_the_same_again(site: Site) -> None:
    first = site.whole("/v1/completions", {"prompt": "a", "max_tokens": 20})
    assert first["seed"] < 2**53  # a number that JavaScript holds
    assert site.whole("/v1/completions", {"prompt": "a", "max_tokens": 20})["seed"] != first["seed"]
    again = site.whole("/v1/completions", {"prompt": "a", "max_tokens": 20, "seed": first["seed"]})
    assert again["choices"] == first["choices"]


def test_a_repetition_penalty_is_had_in_the_eager_engine(site: Site) -> None:
    body = {"prompt": "ab", "seed": 4, "max_tokens": 8, "repetition_penalty": 1.5, "logprobs": 0}
    (choice,) = site.whole("/v1/completions", body)["choices"]
    (text,) = texts_of(site, ["ab"], 4, 8, filters=Filters(repetition_penalty=1.5))
    assert choice["text"] == text.text


@pytest.mark.parametrize("mixer", ["h3", "attention", "lssl"])
def test_prompts_of_all_lengths_are_read_whatever_the_mixer_needs(mixer: str) -> None:
    model = served("words", text_model(mixer))
    with Site({"words": model}) as site:
        prompts = ["a", "long prompt", "b", ""]
        answer = site.whole("/v1/completions", {"prompt": prompts, "seed": 1, "max_tokens": 6})
        assert [c["text"] for c in answer["choices"]] == [t.text for t in texts_of(site, prompts, 1, 6)]


# Images


def test_images_are_those_that_are_drawn_alone(site: Site) -> None:
    recurrent = site.state.models["grey"].recurrent
    answer = site.whole("/images", {"model": "grey", "n": 3, "seed": 7})
    expected = generate(recurrent, 3, seed=7, engine="auto")
    shades = np.linspace(0, 255, 11).round().astype(np.uint8)
    for image, values in zip(answer["images"], expected, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["png"]))))
        assert np.array_equal(pixels, shades[values.numpy()].reshape(6, 5)) and image["label"] is None


def test_an_upper_half_is_completed_given_as_values_or_as_a_png(site: Site) -> None:
    pixels = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(0))
    body = {"model": "grey", "n": 4, "seed": 9, "temperature": 0.7}
    by_values = site.whole("/images", body | {"pixels": pixels.tolist()})
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 255, 11).round().astype(np.uint8)[pixels.numpy()]).save(buffer, "PNG")
    by_png = site.whole("/images", body | {"upper": base64.b64encode(buffer.getvalue()).decode()})
    assert by_values["images"] == by_png["images"]
    first, *events = site.events("/images", body | {"pixels": pixels.tolist()})
    assert first == first | {"given": 15, "height": 6, "width": 5, "levels": 11, "seed": 9}
    prompt = pixels.flatten()
    expected = generate(
        site.state.models["grey"].recurrent, 4, seed=9, prompt=prompt, filters=Filters(temperature=0.7), engine="auto"
    )
    for i, values in enumerate(expected.tolist()):
        assert [v for event in events if event["index"] == i for v in event["values"]] == values[15:]


def test_classes_are_taken_by_name_or_in_turn(site: Site) -> None:
    recurrent = site.state.models["animals"].recurrent
    in_turn = site.whole("/images", {"model": "animals", "n": 4, "seed": 1})
    assert [image["label"] for image in in_turn["images"]] == ["cat", "dog", "owl", "cat"]
    owls = site.events("/images", {"model": "animals", "n": 2, "seed": 1, "label": "owl"})
    assert owls[0]["labels"] == ["owl", "owl"]
    expected = generate(recurrent, 2, seed=1, labels=torch.tensor([2, 2]), engine="auto").tolist()
    assert [[v for e in owls[1:] if e["index"] == i for v in e["values"]] for i in range(2)] == expected


def test_one_image_can_be_had_as_a_file(site: Site) -> None:
    answer = site.post("/images", {"model": "grey", "seed": 7}, headers={"accept": "image/png"})
    assert answer.headers["content-type"] == "image/png" and answer.headers["s4gen-seed"] == "7"
    (image,) = site.whole("/images", {"model": "grey", "seed": 7})["images"]
    assert base64.b64decode(image["png"]) == answer.content
    answer = site.post("/images", {"model": "grey", "n": 2}, headers={"accept": "image/png"})
    assert answer.status_code == 400 and "asks for one image" in answer.json()["error"]["message"]


# Sound


def clip_of(site: Site, label: int, seed: int, n: int) -> bytes:
    model = site.state.models["digits"]
    tokens = stream(model.recurrent, 1, seed=seed, labels=torch.tensor([label]), max_tokens=n, engine=model.engine)
    from s4gen.config import AudioLayout
    from s4gen.data.audio import format_of
    from s4gen.data.audio.write import to_pcm16

    layout = model.config.layout
    assert isinstance(layout, AudioLayout)
    codes = np.array([int(token[0]) for token in tokens])
    return to_pcm16(format_of(layout).quantiser.decode(codes)).astype("<i2").tobytes()


@pytest.mark.parametrize("stream", [True, False])
def test_a_clip_is_a_wav_file_of_what_is_drawn_alone(site: Site, stream: bool) -> None:
    answer = site.post("/audio", {"label": "two", "seed": 3, "seconds": 0.1, "stream": stream})
    assert answer.headers["content-type"] == "audio/wav" and answer.headers["s4gen-seed"] == "3"
    assert answer.content[44:] == clip_of(site, 2, 3, 40)
    import soundfile  # type: ignore[import-untyped]

    samples, rate = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    assert rate == 400 and samples.tobytes() == answer.content[44:]


def test_a_clip_that_may_end_by_itself_has_a_header_without_a_length() -> None:
    models = all_kinds()
    models["digits"].ending = 2
    silence = 16
    with Site(models) as site:
        # With top_k = 1 this model falls silent, or it does not: in both cases the clip ends where sample ends it.
        long = site.post("/audio", {"label": "two", "seed": 3, "seconds": 0.5})
        body = np.frombuffer(long.content[44:], "<i2")
        quiet = [i for i in range(len(body) - 1) if body[i] == body[i + 1] == 0]
        assert len(body) == (quiet[0] + 2 if quiet else 200) and silence == 2 ** (5 - 1)
        assert struct.unpack_from("<I", long.content, 40) == (0xFFFFFFFF,)
        short = site.post("/audio", {"label": "two", "seed": 3, "seconds": 0.5, "stream": False})
        assert (
            struct.unpack_from("<I", short.content, 40) == (2 * len(body),) and short.content[44:] == long.content[44:]
        )


# What is served


def test_the_models_are_listed_with_what_the_page_has_to_know(site: Site) -> None:
    listed = site.ask("GET", "/v1/models").json()
    assert listed["object"] == "list"
    by_name = {model["id"]: model for model in listed["data"]}
    assert by_name["animals"] == by_name["animals"] | {"kind": "image", "classes": list(CLASSES), "channels": 3}
    assert site.ask("GET", "/v1/models/animals").json() == by_name["animals"]
    assert site.ask("GET", "/v1/models/nothing").status_code == 404
    assert site.ask("GET", "/healthz").json() == {"status": "ok"}


def test_the_page_asks_nobody_else_and_runs_no_code_but_its_own(site: Site) -> None:
    page = site.ask("GET", "/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert 'name="viewport"' in page.text and "<script>" not in page.text and "style=" not in page.text
    sources = page.text
    for name in ("page.js", "panels.js", "page.css", "icon.svg"):
        found = site.ask("GET", f"/{name}")
        assert found.status_code == 200 and found.headers["x-content-type-options"] == "nosniff"
        sources += found.text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http://" not in sources and "https://" not in sources
    assert "innerHTML" not in sources and "insertAdjacentHTML" not in sources and "document.write" not in sources


def test_what_is_counted_is_in_the_metrics() -> None:
    with Site() as site:
        site.whole("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 5, "seed": 1, "temperature": 0.9})
        site.post("/images", b"{")
        site.ask("GET", "/no/such/path")
        lines = site.ask("GET", "/metrics").text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['s4gen_requests_total{path="/v1/completions",status="200"}'] == "1"
    assert values['s4gen_requests_total{path="/images",status="400"}'] == "1"
    assert values['s4gen_requests_total{path="other",status="404"}'] == "1"
    assert values['s4gen_tokens_total{model="words"}'] == "10"
    assert values["s4gen_request_seconds_count"] == values['s4gen_request_seconds_bucket{le="+Inf"}'] == "3"
    assert values["s4gen_queue"] == values["s4gen_rows"] == values["s4gen_orders"] == "0"
    assert int(values["s4gen_resident_bytes"]) > 1 << 20


# Bad requests

MANY = "x" * (1 << 20)
BAD = [
    ("/v1/completions", b"{", 400, "no JSON"),
    ("/v1/completions", b"[1]", 400, "expected a JSON object"),
    ("/v1/completions", b'{"prompt": "\xff"}', 400, "not UTF-8"),
    ("/v1/completions", b"[" * 10_000, 400, "nested"),
    ("/v1/completions", b'{"prompt": "a", "temperature": NaN}', 400, "NaN"),
    ("/v1/completions", {"prompt": MANY}, 413, "more than 262,144 bytes"),
    ("/v1/completions", {"prompt": "a" * 20_000}, 400, "prompt has 20,000 tokens"),
    ("/v1/completions", {"prompt": 7}, 400, "prompt = 7"),
    ("/v1/completions", {"prompt": []}, 400, "prompt"),
    ("/v1/completions", {"prompt": ["a", 1]}, 400, "prompt[1] = 1"),
    ("/v1/completions", {"prompt": [1, 2]}, 400, "prompt holds tokens"),
    ("/v1/completions", {"prompt": "a", "max_token": 5}, 400, "did you mean max_tokens?"),
    ("/v1/completions", {"prompt": "a", "max_tokens": True}, 400, "max_tokens = true"),
    ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "expected 1 to"),
    ("/v1/completions", {"prompt": "a", "max_tokens": 10**6}, 400, "expected 1 to 4096"),
    ("/v1/completions", {"prompt": "a", "temperature": -1}, 400, "temperature is -1"),
    ("/v1/completions", {"prompt": "a", "top_p": 0}, 400, "top-p is 0"),
    ("/v1/completions", {"prompt": "a", "n": 65}, 400, "n = 65"),
    ("/v1/completions", {"prompt": ["a", "b"], "n": 40}, 400, "a request may have 64 texts"),
    ("/v1/completions", {"prompt": "a", "seed": -1}, 400, "seed = -1"),
    ("/v1/completions", {"prompt": "a", "seed": 2**64}, 400, "64 bits"),
    ("/v1/completions", {"prompt": "a", "stop": ""}, 400, "empty"),
    ("/v1/completions", {"prompt": "a", "stop": list("abcde")}, 400, "stop"),
    ("/v1/completions", {"prompt": "a", "logprobs": 6}, 400, "logprobs = 6"),
    ("/v1/completions", {"prompt": "a", "logprobs": True}, 400, "logprobs = true"),
    ("/v1/completions", {"prompt": "a", "stream": "yes"}, 400, "stream"),
    (
        "/images",
        {"model": "animals", "label": 3},
        400,
        'label = 3: expected a string, such as "3", or a list of strings',
    ),
    ("/v1/completions", {"prompt": "a", "best_of": 3}, 400, "best_of = 3: expected n, which is 1"),
    ("/v1/completions", {"prompt": "a", "presence_penalty": 0.5}, 400, "does not have this"),
    ("/v1/completions", {"prompt": "a", "logit_bias": {"5": 1}}, 400, "does not have this"),
    ("/v1/completions", {"prompt": "a", "suffix": "z"}, 400, "does not have this"),
    ("/v1/completions", {"prompt": "a", "model": "gpt"}, 404, "there is no model 'gpt'"),
    ("/v1/completions", {"prompt": "a", "model": "grey"}, 404, "is a model of images"),
    ("/v1/completions", {"prompt": "a", "model": "../../etc"}, 404, "there is no model"),
    ("/images", {}, 400, "model is missing; the models of images are: grey, animals"),
    ("/images", {"model": "grey", "label": "cat"}, 400, "not conditional"),
    ("/images", {"model": "animals", "label": "cow"}, 400, "the classes are cat, dog, owl"),
    ("/images", {"model": "grey", "upper": "%%%"}, 400, "no base64"),
    ("/images", {"model": "grey", "upper": "aGFsbG8="}, 400, "no PNG"),
    ("/images", {"model": "grey", "upper": "/etc/passwd"}, 400, "no"),
    ("/images", {"model": "grey", "pixels": [[1, 2]]}, 400, "rows of 5 pixels"),
    ("/images", {"model": "grey", "pixels": [[1] * 5] * 6}, 400, "1 to 5 rows"),
    ("/images", {"model": "grey", "pixels": [[11] * 5]}, 400, "each 0 to 10"),
    ("/images", {"model": "grey", "pixels": [[1] * 5, [1]]}, 400, "rows of 5 pixels"),
    ("/images", {"model": "grey", "pixels": [["a"] * 5]}, 400, "rows of 5 pixels"),
    ("/images", {"model": "grey", "pixels": [[0.5] * 5]}, 400, "rows of 5 pixels"),
    ("/images", {"model": "grey", "repetition_penalty": 2}, 400, "for models of text"),
    ("/images", {"model": "grey", "prompt": "a"}, 400, "unknown field prompt"),
    ("/audio", {"seconds": 0}, 400, "seconds = 0"),
    ("/audio", {"seconds": 31}, 400, "at most 30"),
    ("/audio", {"seconds": "1"}, 400, "seconds"),
    ("/audio", {"label": "nine"}, 400, "the classes are zero, one, two"),
    ("/audio", {"label": ["one"]}, 400, "label"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), BAD, ids=[f"{b[0][1:]}-{b[3][:30]}" for b in BAD])
def test_bad_requests_are_refused_in_one_sentence(site: Site, path: str, body: Any, status: int, words: str) -> None:
    answer = site.post(path, body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"] and len(error["message"]) < 1000
    assert error["type"] == "invalid_request_error"


def test_all_unknown_fields_are_named(site: Site) -> None:
    message = site.post("/v1/completions", {"prompt": "a", "wurst": 1, "käse": 2}).json()["error"]["message"]
    assert message.startswith("unknown fields wurst, käse;") and "max_tokens" in message


def test_fields_of_openai_that_change_nothing_are_taken(site: Site) -> None:
    neutral = {"user": "me", "best_of": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}
    neutral |= {"suffix": None, "logprobs": None, "stop": None}
    plain = {"prompt": "a", "seed": 1, "max_tokens": 4}
    assert site.whole("/v1/completions", plain | neutral)["choices"] == site.whole("/v1/completions", plain)["choices"]


def test_a_prompt_is_text_and_never_a_path(site: Site, tmp_path: Any) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("nobody may read this")
    for prompt in (str(path), f"@{path}", f"file://{path}"):
        (choice,) = site.whole("/v1/completions", {"prompt": prompt, "echo": True, "max_tokens": 1})["choices"]
        assert choice["text"].startswith(prompt)


def test_other_methods_and_paths_are_refused_in_the_same_form(site: Site) -> None:
    assert site.ask("GET", "/v1/completions").json()["error"]["message"] == "this path takes another method"
    assert site.ask("GET", "/v1/chat/completions").status_code == 404
    assert site.ask("GET", "/../server.py").status_code == 404
    assert site.ask("GET", "/page/index.html").status_code == 404


# Who may ask


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1"])
def test_another_name_for_this_machine_is_refused(site: Site, host: str) -> None:
    """A page whose name has been resolved to 127.0.0.1 sends its own name."""
    for path in ("/", "/v1/models", "/metrics"):
        assert site.ask("GET", path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST", "127.0.0.2"])
def test_the_names_of_this_machine_are_taken(site: Site, host: str) -> None:
    assert site.ask("GET", "/v1/models", headers={"host": host}).status_code == 200


def test_a_page_of_another_site_may_not_ask(site: Site) -> None:
    body = json.dumps({"prompt": "a"}).encode()
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9000"},
        {"sec-fetch-site": "cross-site"},
    ):
        answer = site.ask("POST", "/v1/completions", content=body, headers=headers)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "wrong_origin"
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert site.ask("POST", "/v1/completions", content=body, headers=own).status_code == 200


def test_with_a_token_nothing_is_told_without_it() -> None:
    token = "a-token-of-some-length"
    with Site(loopback=False, token=token) as site:
        for path in ("/v1/models", "/metrics", "/v1/models/words", "/nothing"):
            for given in (None, "Bearer", "Bearer wrong", f"Basic {token}", f"Bearer {token}x", f"Bearer {token[:-1]}"):
                headers = {} if given is None else {"authorization": given}
                answer = site.ask("GET", path, headers=headers)
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert site.post("/v1/completions", {"prompt": "a"}).status_code == 401
        known = {"authorization": f"Bearer {token}", "host": "any.name.example"}
        assert site.ask("GET", "/v1/models", headers=known).status_code == 200
        assert site.ask("GET", "/").status_code == site.ask("GET", "/healthz").status_code == 200


# Room and time


class Slow:
    """Keeps the worker waiting until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_go = threading.Event()
        from s4gen.serving.batch import Batch

        advance = Batch.advance

        def waiting(batch: Batch) -> Any:
            self.may_go.wait(30)
            return advance(batch)

        monkeypatch.setattr(Batch, "advance", waiting)


def test_a_full_queue_is_said_and_nothing_in_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    body = {"prompt": "a", "max_tokens": 5, "n": 2}

    async def work(client: httpx.AsyncClient, state: State) -> tuple[list[httpx.Response], httpx.Response]:
        asked = [asyncio.create_task(client.post("/v1/completions", json=body | {"seed": i})) for i in range(4)]
        while state.worker.gauges()["queue"] < 3:
            await asyncio.sleep(0.01)
        refused = await client.post("/v1/completions", json=body)
        slow.may_go.set()
        return list(await asyncio.gather(*asked)), refused

    with Site(limits=Limits(rows=2, per_request=2, queue=3)) as site:
        answers, refused = site.run(work)
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["type"] == "rate_limit_error"
        for seed, answer in enumerate(answers):
            expected = texts_of(site, ["a", "a"], seed, 5)
            assert [c["text"] for c in answer.json()["choices"]] == [t.text for t in expected]
        assert site.state.worker.gauges() == {"queue": 0, "orders": 0, "rows": 0}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    slow = Slow(monkeypatch)
    with Site(limits=Limits(timeout=0.2)) as site:
        answer = site.post("/v1/completions", {"prompt": "a", "stream": stream})
        assert answer.status_code == 504 and "longer than 0.2 s" in answer.json()["error"]["message"]
        slow.may_go.set()
        assert settled(site) == {"queue": 0, "orders": 0, "rows": 0}


def settled(site: Site) -> dict[str, int]:
    """Return what is under way once the worker has had the time to notice."""

    async def work(_: httpx.AsyncClient, state: State) -> dict[str, int]:
        for _attempt in range(200):
            if state.worker.idle:
                break
            await asyncio.sleep(0.02)
        return state.worker.gauges()

    return site.run(work)


def test_a_failure_of_the_model_is_told_and_others_go_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from s4gen.serving import completions

    def broken(*_: Any) -> Any:
        raise UserError("the model's output is not a finite number; its training must have diverged")

    with monkeypatch.context() as patch:
        patch.setattr(completions, "checked_prompts", broken)
        answer = site.post("/v1/completions", {"prompt": "a"})
    assert answer.status_code == 500 and "diverged" in answer.json()["error"]["message"]
    assert settled(site) == {"queue": 0, "orders": 0, "rows": 0}
    assert site.whole("/v1/completions", {"prompt": "a", "max_tokens": 2})


def test_a_bug_in_the_loop_of_steps_ends_its_requests_and_not_the_server(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from s4gen.serving.texts import TextRow

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret details")

    with monkeypatch.context() as patch:
        patch.setattr(TextRow, "take", broken)
        answer = site.post("/v1/completions", {"prompt": "a"})
    assert answer.status_code == 500 and "secret" not in answer.text and "ZeroDivisionError" in answer.text
    assert "secret details" in capsys.readouterr().err
    assert settled(site) == {"queue": 0, "orders": 0, "rows": 0}
    assert site.whole("/v1/completions", {"prompt": "a", "max_tokens": 2})


def test_a_server_that_stops_refuses_what_waits_and_ends_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)

    async def work(client: httpx.AsyncClient, state: State) -> list[httpx.Response]:
        asked = [asyncio.create_task(client.post("/v1/completions", json={"prompt": "a"})) for _ in range(2)]
        while state.worker.gauges()["queue"] < 1:
            await asyncio.sleep(0.01)
        state.worker.drain()
        late = await client.post("/v1/completions", json={"prompt": "a"})
        state.worker.end_all()
        slow.may_go.set()
        return [late, *await asyncio.gather(*asked)]

    with Site(limits=Limits(rows=1, per_request=1)) as site:
        answers = site.run(work)
    assert [answer.status_code for answer in answers] == [503] * 3
    assert {answer.json()["error"]["code"] for answer in answers} == {"stopping"}


@pytest.mark.parametrize(("patience", "kept"), [(-1.0, 3), (60.0, 26)])
def test_a_channel_holds_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch, patience: float, kept: int) -> None:
    monkeypatch.setattr(orders, "PATIENCE", patience)

    async def work() -> tuple[list[int], RefusedError | None]:
        channel = Channel(100)
        for i in range(40):
            channel.post(i, 30)
        found = []
        with pytest.raises(RefusedError) as refused:
            async for event in channel.events():
                found.append(event)
        assert channel.broken.is_set() and channel.closed
        return found, refused.value

    found, failure = asyncio.run(work())
    assert found == list(range(kept)) and failure is not None and failure.code == "slow_client"


def test_a_channel_that_is_read_never_fills_up() -> None:
    async def work() -> list[int]:
        channel = Channel(100)

        def posting() -> None:
            for i in range(50):
                while channel._waiting > 40:
                    pass
                channel.post(i, 30)
            channel.close()

        thread = threading.Thread(target=posting)
        thread.start()
        found = [event async for event in channel.events()]
        thread.join()
        return found

    assert asyncio.run(work()) == list(range(50))
