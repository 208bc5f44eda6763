"""`s4gen sample` of models of sound, end to end: files, streams, prompts, classes, rates, choices; refusals."""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from sounds import put, tone
from tiny_audio import DIGITS, sounding_model
from torch import Tensor

from s4gen.checkpoint import load_checkpoint, save_checkpoint
from s4gen.cli import main, sample
from s4gen.cli.sample_audio import chosen_classes
from s4gen.cli.train import draw
from s4gen.config import load_recipe
from s4gen.data.audio import format_of, write
from s4gen.data.audio.reading import read_prompt
from s4gen.data.audio.write import to_pcm16
from s4gen.errors import UserError
from s4gen.evaluate import audio as audio_evaluation
from s4gen.models.sequence import resampled
from s4gen.sampling import audio as audio_module
from s4gen.sampling.audio import Begin, ClipRequest, Endings, in_turn, select, with_candidates
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.engines.eager import EagerEngine
from s4gen.sampling.filters import KEEP_ALL
from s4gen.sampling.generate import complete, generate
from s4gen.sampling.generation import Generation

EAGER = ("--engine", "eager")
SHORT = ("--seconds", "0.1", *EAGER)  # 40 samples
NOTHING = torch.empty(0, dtype=torch.int64)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for name, model in (("spoken", sounding_model("sashimi")), ("plain", sounding_model("wavenet", classes=()))):
        save_checkpoint(folder / name, model, recipe=None, metrics={}, card="A card")
    return folder


@pytest.fixture
def room(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with nothing but the checkpoints `spoken`, of three digits, and `plain`."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def pictured(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The titles of every picture, instead of pictures, which take their time."""
    titles: list[Sequence[str]] = []

    def quick(clips: Sequence[np.ndarray], rate: int, over: Sequence[str]) -> bytes:
        assert len(clips) == len(over)
        titles.append(over)
        return b"PNG"

    monkeypatch.setattr(write, "draw_clips", quick)
    return titles


@pytest.fixture(scope="module")
def spoken(saved: Path) -> RecurrentModel:
    return convert(load_checkpoint(saved / "spoken").model)


Capture = pytest.CaptureFixture[str]


def output(capsys: Capture, *argv: str) -> str:
    assert main(argv) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refusal(capsys: Capture, *argv: str) -> str:
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("s4gen: error: ")


def pcm(path: Path, rate: int = 400) -> np.ndarray:
    samples, found = soundfile.read(path, dtype="int16")
    assert found == rate
    return samples


def as_pcm(recurrent: RecurrentModel, codes: Tensor) -> np.ndarray:
    return to_pcm16(format_of(recurrent.config.layout).quantiser.decode(codes.numpy()))  # type: ignore[arg-type]


def drawn(recurrent: RecurrentModel, n: int, labels: Sequence[int], samples: int = 40, seed: int = 0) -> list[Tensor]:
    return complete(recurrent, [NOTHING] * n, seed=seed, max_tokens=samples, labels=torch.tensor(labels))


# Files


@pytest.mark.parametrize("batch", ["64", "2"])
def test_a_folder_holds_the_clips_and_what_is_known_of_them(
    capsys: Capture, room: Path, spoken: RecurrentModel, batch: str, pictured: list[Sequence[str]]
) -> None:
    printed = output(
        capsys, "sample", "spoken", "-n", "5", "--classes", "two", "zero", "-o", "out", "--batch", batch, *SHORT
    )
    clips = drawn(spoken, 5, [2, 0, 2, 0, 2])
    names = [f"00{i}-{name}.wav" for i, name in enumerate(["two", "zero", "two", "zero", "two"])]
    assert sorted(path.name for path in Path("out").iterdir()) == [*names, "picture.png", "samples.json"]
    for name, clip in zip(names, clips, strict=True):
        assert np.array_equal(pcm(Path("out", name)), as_pcm(spoken, clip))
    nats = spoken.source.nats(torch.stack(clips), torch.tensor([2, 0, 2, 0, 2])).double().mean(-1)
    records = json.loads(Path("out/samples.json").read_text())
    for i, record in enumerate(records):
        assert record.pop("bits_per_sample") == pytest.approx(nats[i].item() / math.log(2), rel=1e-5)
        assert record == {
            "file": names[i],
            "class": names[i][4:-4],
            "recognised": None,
            "seconds": 0.1,
            "seed": 0,
            "sequence": i,
        }
    assert printed.startswith("5 clips of 0.10 s in out\n") and "real-time factor" in printed
    assert f"for each of {'5' if batch == '64' else '2'} side by side)" in printed
    assert f"{nats.mean().item() / math.log(2):.3f} bits/sample" in printed and "recognised" not in printed
    assert pictured[0][0].startswith("000-two.wav\n")


def test_classes_come_in_turn_and_the_count_is_theirs(capsys: Capture, room: Path) -> None:
    output(capsys, "sample", "spoken", "-n", "4", "-o", "all", "--seconds", "0.01", *EAGER)
    assert [record["class"] for record in json.loads(Path("all/samples.json").read_text())] == [*DIGITS, "zero"]
    output(capsys, "sample", "spoken", "--classes", "one-two", "-o", "two", "--seconds", "0.01", *EAGER)
    assert [record["class"] for record in json.loads(Path("two/samples.json").read_text())] == ["one", "two"]


def test_one_clip_is_one_file_with_a_picture_beside_it(
    capsys: Capture, room: Path, spoken: RecurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(room)
    printed = output(capsys, "sample", "spoken", "--classes", "one", "-o", "x.flac", "--seed", "5", *SHORT)
    assert printed.startswith("1 clip of 0.10 s in x.flac\n")
    assert soundfile.info("x.flac").format == "FLAC"
    assert np.array_equal(pcm(Path("x.flac")), as_pcm(spoken, drawn(spoken, 1, [1], seed=5)[0]))
    with Image.open("x.png") as image:
        assert image.width > 100
    assert not Path("samples.json").exists()
    assert refusal(capsys, "sample", "spoken", "-o", "x.wav", *SHORT).startswith("x.png, where the picture of x.wav")
    output(capsys, "sample", "spoken", "-o", "x.flac", "--force", *SHORT)


def test_a_model_without_classes_makes_plain_names(capsys: Capture, room: Path) -> None:
    output(capsys, "sample", "plain", "-n", "2", "-o", "out", "--seconds", "0.02", *EAGER)
    assert sorted(path.name for path in Path("out").iterdir()) == ["000.wav", "001.wav", "picture.png", "samples.json"]


def test_the_verdict_of_a_classifier_is_told(
    capsys: Capture, room: Path, monkeypatch: pytest.MonkeyPatch, pictured: list[Sequence[str]]
) -> None:
    """With a stand-in that hears every clip as "one", and wants to know what it is given."""

    class Deaf:
        classes = DIGITS

        def recognise(self, clips: Sequence[np.ndarray]) -> list[int]:
            assert all(clip.dtype == np.float32 and len(clip) == 40 for clip in clips)
            return [1] * len(clips)

    asked = []

    def find(classes: Sequence[str], rate: int) -> Deaf | None:
        asked.append((tuple(classes), rate))
        return Deaf() if rate == 400 else None

    monkeypatch.setattr("s4gen.evaluate.recognition.find_classifier", find)
    printed = output(capsys, "sample", "spoken", "-n", "4", "--classes", "one,two", "one", "-o", "out", *SHORT)
    assert "recognised: 3 of 4 as the class asked for" in printed
    assert {record["recognised"] for record in json.loads(Path("out/samples.json").read_text())} == {"one"}
    assert pictured[0][1].startswith("001-two.wav, heard as one\n")
    assert "recognised" not in output(capsys, "sample", "spoken", "-o", "half", "--rate", "0.5", *SHORT)
    assert asked == [(DIGITS, 400), (DIGITS, 200)]


def interrupted(chunks: int) -> Any:
    """`Generation.chunks` in pieces of 10, at the end of the given one of which Ctrl-C is pressed."""
    whole = Generation.chunks

    def pressed(self: Generation, count: int) -> Iterator[Tensor]:
        for _ in range(chunks):
            yield torch.cat([*whole(self, 10)], dim=1)
        raise KeyboardInterrupt

    return pressed


@pytest.mark.parametrize("select", [[], ["--select"]])
def test_ctrl_c_keeps_what_there_is(
    capsys: Capture, room: Path, spoken: RecurrentModel, monkeypatch: pytest.MonkeyPatch, select: list[str]
) -> None:
    """Of a choice there is nothing yet."""
    with monkeypatch.context() as patch:
        patch.setattr(Generation, "chunks", interrupted(3))
        assert main(["sample", "spoken", "-n", "2", "-o", "out", *SHORT, *select]) == 130
    messages = capsys.readouterr().err
    if select:
        assert not Path("out").exists() and messages == "s4gen: interrupted\n"
        return
    assert messages == "s4gen: what was drawn so far is in out\ns4gen: interrupted\n"
    for path, clip in zip(["000-zero.wav", "001-one.wav"], drawn(spoken, 2, [0, 1], 30), strict=True):
        assert np.array_equal(pcm(Path("out", path)), as_pcm(spoken, clip))
    assert len([*Path("out").iterdir()]) == 2


# Streams


def test_a_stream_is_the_sound_and_nothing_else(
    capsysbinary: pytest.CaptureFixture[bytes], room: Path, spoken: RecurrentModel
) -> None:
    put(room / "clip.wav", tone(20, 50, 400), 400)
    assert main(["sample", "spoken", "-o", "-", "--classes", "two", "--prompt", "clip.wav", *SHORT]) == 0
    printed = capsysbinary.readouterr()
    codes, _ = read_prompt("clip.wav", format_of(spoken.config.layout))  # type: ignore[arg-type]
    prompt = torch.from_numpy(codes.astype(np.int64))
    (whole,) = complete(spoken, [prompt], seed=0, max_tokens=40, labels=torch.tensor([2]))
    assert printed.out == as_pcm(spoken, whole).astype("<i2").tobytes()
    lines = printed.err.decode().splitlines()
    assert lines[0] == "s4gen: signed 16-bit little-endian PCM, mono, 400 samples per second"
    assert "real-time factor" in lines[1] and len(lines) == 2


def test_a_stream_is_heard_while_it_is_drawn(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Player(io.TextIOWrapper):
        """Hears the bytes that are flushed to it, and leaves after the second piece."""

        def __init__(self) -> None:
            self.pieces: list[int] = []
            super().__init__(io.BytesIO())

        def flush(self) -> None:
            pass

    player = Player()
    heard: list[int] = []
    monkeypatch.setattr(sys, "stdout", player)
    player.buffer.flush = lambda: heard.append(len(player.buffer.getvalue()))  # type: ignore
    monkeypatch.setattr(Generation, "chunks", interrupted(2))
    assert main(["sample", "spoken", "-o", "-", *SHORT]) == 130
    assert heard == [0, 20, 40]


def test_raw_sound_is_not_sent_to_a_terminal(capsys: Capture, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert refusal(capsys, "sample", "spoken", "-o", "-").startswith("-o - streams raw sound, and standard output is a")


# Ends


@pytest.mark.parametrize("cut", [1, 3, 60])
def test_a_clip_ends_with_the_first_long_silence(cut: int) -> None:
    """In whatever pieces it comes."""
    codes = torch.randint(2, (200, 60), generator=torch.Generator().manual_seed(0))
    codes[0] = 0
    wanted = [next((t for t in range(5, 61) if not row[t - 5 : t].any()), 60) for row in codes]
    endings, found = Endings(200, silence=0, ending=5), torch.zeros(200, dtype=torch.int64)
    for piece in codes.split(cut, dim=1):
        assert not endings.all_over
        found += torch.tensor(endings.counts(piece))
    assert found.tolist() == wanted and 60 in wanted and 5 in wanted
    assert not endings.all_over
    endings.counts(torch.zeros(200, 5))
    assert endings.all_over and endings.counts(torch.ones(200, 3)) == [0] * 200


def test_a_model_that_learnt_silence_behind_its_clips_ends_them_so(
    capsysbinary: pytest.CaptureFixture[bytes], room: Path, spoken: RecurrentModel
) -> None:
    """Files and streams; the bits are those of what is in the file."""
    silence = format_of(spoken.config.layout).quantiser.silence  # type: ignore[arg-type]
    model = sounding_model("sashimi")
    with torch.no_grad():
        model.head.bias[silence] += 6.0
    recipe = load_recipe("fsdd-small", ["data.tail=0.05"])  # 20 samples: ten of silence are the end
    save_checkpoint(room / "ending", model, recipe=recipe, metrics={}, card="A card")
    assert main(["sample", "ending", "-n", "6", "-o", "out", "--seconds", "1", *EAGER]) == 0
    clips = drawn(convert(model), 6, [0, 1, 2, 0, 1, 2], 400)
    records = json.loads(Path("out/samples.json").read_text())
    lengths = []
    for clip, record, label in zip(clips, records, [0, 1, 2] * 2, strict=True):
        end = next((t for t in range(10, 401) if (clip[t - 10 : t] == silence).all()), 400)
        assert np.array_equal(pcm(Path("out", record["file"])), as_pcm(spoken, clip[:end]))
        nats = model.nats(clip[None, :end], torch.tensor([label])).mean().item()
        assert record["seconds"] == end / 400 and record["bits_per_sample"] == pytest.approx(
            nats / math.log(2), rel=1e-4
        )
        lengths.append(end)
    assert min(lengths) < 200
    capsysbinary.readouterr()
    assert main(["sample", "ending", "-o", "-", "--seconds", "1", *EAGER]) == 0
    assert len(capsysbinary.readouterr().out) == 2 * lengths[0]


# Prompts


def test_recordings_are_read_once(capsys: Capture, room: Path) -> None:
    put(room / "long.wav", tone(300, 60, 400), 400)
    put(room / "short.wav", tone(33, 50, 400), 400)
    command = ["sample", "spoken", "-n", "4", "--prompt", "long.wav", "short.wav", "--classes", "two", *SHORT]
    for name in ("first", "second"):
        assert main([*command, "-o", name, "--prompt-cache", "kept"]) == 0
        kept = sorted(path.name for path in Path("kept").iterdir())
        assert len(kept) == 2, "one for each recording"
    for path in Path("first").glob("*.wav"):
        assert path.read_bytes() == Path("second", path.name).read_bytes()


def test_clips_begin_with_their_prompts_and_go_on(capsys: Capture, room: Path, spoken: RecurrentModel) -> None:
    """Of unequal lengths, in turn; what is changed about them is said, and they cost nothing."""
    put(room / "long.wav", np.stack([tone(1000, 60, 800), tone(1000, 90, 800)], axis=1), 800)
    put(room / "short.wav", tone(33, 50, 400), 400)
    paths, labels = ["long.wav", "short.wav"], [0, 1, 2, 0, 1]
    assert main(["sample", "spoken", "-n", "5", "-o", "out", "--prompt", *paths, *SHORT]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "s4gen: long.wav has 800 samples per second: resampled to 400",
        "s4gen: long.wav has 2 channels: mixed to mono",
    ]
    format = format_of(spoken.config.layout)  # type: ignore[arg-type]
    read = [torch.from_numpy(read_prompt(path, format)[0].astype(np.int64)) for path in paths]
    prompts = [read[i % 2] for i in range(5)]
    records = json.loads(Path("out/samples.json").read_text())
    together = complete(spoken, prompts, seed=0, max_tokens=40, labels=torch.tensor(labels))
    for clip, prompt, label, record in zip(together, prompts, labels, records, strict=True):
        assert np.array_equal(pcm(Path("out", record["file"])), as_pcm(spoken, clip))
        nats = spoken.source.nats(clip[None], torch.tensor([label]))[0, len(prompt) :]
        assert record["bits_per_sample"] == pytest.approx(nats.mean().item() / math.log(2), rel=1e-4)
    assert printed.out.startswith("5 clips of 0.18 to 1.35 s in out\n")
    assert main(["sample", "spoken", "-o", "two", "--prompt", *paths, "--seconds", "0.01", *EAGER]) == 0
    assert len([*Path("two").glob("*.wav")]) == 2


def request(recurrent: RecurrentModel, prompts: list[Tensor], begins: list[Begin], **changes: Any) -> ClipRequest:
    settings: dict[str, Any] = {"samples": 12, "seed": 1, "batch": 64, **changes}
    format = format_of(recurrent.config.layout)  # type: ignore[arg-type]
    return ClipRequest(recurrent, EagerEngine(recurrent, KEEP_ALL), format, DIGITS, prompts, begins, **settings)


def test_what_several_clips_begin_with_is_read_once(spoken: RecurrentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And as if each had read it."""
    rows = []
    read = spoken.source.prefill

    def recorded(x: Tensor, *args: Any) -> Any:
        rows.append(len(x))
        return read(x, *args)

    monkeypatch.setattr(spoken.source, "prefill", recorded)
    prompts = [torch.arange(20) % 32, torch.arange(9)]
    begins = [Begin(0, 2), Begin(1, 2), Begin(0, 2), Begin(0, 1)] * 8
    found = [torch.cat([*chunks], dim=1) for _, chunks in request(spoken, prompts, begins, batch=16).draw()]
    assert sum(rows) <= 28  # three different ones, padded by the number of rows
    labels = torch.tensor([begin.label for begin in begins])
    alone = complete(spoken, [prompts[begin.prompt] for begin in begins], seed=1, max_tokens=12, labels=labels)
    assert all(torch.equal(a, b[-12:]) for a, b in zip(torch.cat(found), alone, strict=True))


def test_what_clips_cost_is_measured_in_pieces(spoken: RecurrentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [torch.randint(0, 32, (n,)) for n in (30, 57, 41)]
    of = request(spoken, [NOTHING, torch.arange(11)], [Begin(0, 2), Begin(1, 0), Begin(0, 1)])
    whole = of.bits_per_sample(clips)
    monkeypatch.setattr(audio_evaluation, "SAMPLES", 16)
    monkeypatch.setattr(audio_module, "SAMPLES_AT_A_TIME", 120)
    assert of.bits_per_sample(clips) == pytest.approx(whole, rel=1e-5)
    assert request(spoken, of.prompts, of.begins, batch=1).bits_per_sample(clips) == pytest.approx(whole, rel=1e-5)


# Rates


def test_another_rate_is_another_step_of_time(capsys: Capture, room: Path, spoken: RecurrentModel) -> None:
    put(room / "clip.wav", tone(30, 50, 400), 400)
    command = ["sample", "spoken", "-o", "half", "--rate", "0.5", "--prompt", "clip.wav", "--seconds", "0.1", *EAGER]
    assert main(command) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        "s4gen: --rate 0.5: 200 samples per second instead of 400, and every dt of the model times 2, so that it "
        "remembers for as many seconds; pooling windows hold as many samples as before, 2 times as long"
    )
    assert said[1] == "s4gen: clip.wav has 400 samples per second: resampled to 200"
    clip = pcm(Path("half/000-zero.wav"), 200)
    assert len(clip) == 15 + 20
    slower = convert(resampled(spoken.source, 2))
    format = format_of(spoken.config.layout)  # type: ignore[arg-type]
    prompt = torch.from_numpy(format.quantiser.encode(clip[:15] / 32768).astype(np.int64))
    (expected,) = complete(slower, [prompt], seed=0, max_tokens=20, labels=torch.tensor([0]))
    assert np.array_equal(clip, as_pcm(spoken, expected))


# The choice


@pytest.mark.parametrize("n", [1, 2, 3, 10, 11, 64, 5000])
def test_a_choice_leaves_out_the_published_shares(n: int) -> None:
    """The candidates are so many that n are left, at least two of them; those left are neighbours."""
    begins = with_candidates(in_turn(n, 1, []))
    m = len(begins)
    bits = np.random.default_rng(0).permutation(m).astype(float)
    chosen = select(begins, bits.tolist(), n)
    assert len(set(chosen)) == n and chosen == sorted(chosen)
    rank = m - 1 - bits[chosen]  # 0: the least likely
    assert rank.max() - rank.min() == n - 1
    assert rank.max() == m - 1 - round(0.05 * m)
    assert 0.4 * m - 0.5 <= rank.min() <= 0.4 * m + 1.5
    assert m > n and n / m == pytest.approx(0.55, abs=1 / m)


def test_a_choice_compares_what_begins_alike() -> None:
    begins = with_candidates(in_turn(6, 2, [7, 8, 9]))
    assert begins[:6] == [Begin(0, 7), Begin(1, 8), Begin(0, 9), Begin(1, 7), Begin(0, 8), Begin(1, 9)]
    assert begins[6:] == begins[:6]
    bits = [1.0, 5, 9, 2, 6, 8, 2, 4, 10, 1, 7, 7]
    assert select(begins, bits, 6) == [0, 7, 2, 9, 4, 11]  # the likelier of every two


def test_select_writes_the_chosen_of_more(capsys: Capture, room: Path, spoken: RecurrentModel) -> None:
    printed = output(capsys, "sample", "spoken", "-n", "3", "--classes", "one", "--select", "-o", "out", *SHORT)
    assert printed.startswith("3 clips of 0.10 s in out, chosen from 6\n")
    clips = drawn(spoken, 6, [1] * 6)
    bits = spoken.source.nats(torch.stack(clips), torch.ones(6, dtype=torch.int64)).mean(-1)
    chosen = sorted(bits.argsort(descending=True)[3:].tolist())
    records = json.loads(Path("out/samples.json").read_text())
    assert [record["sequence"] for record in records] == chosen
    for record in records:
        assert np.array_equal(pcm(Path("out", record["file"])), as_pcm(spoken, clips[record["sequence"]]))


# Classes


@pytest.mark.parametrize(
    ("items", "numbers"),
    [
        (None, [0, 1, 2, 3, 4]),
        (["0-2"], [0, 1, 2]),
        (["2", "0"], [2, 0]),
        (["2,0", "1-1"], [2, 0, 1]),
        (["a-b"], [3]),
        (["1-a-b,c, 0"], [1, 2, 3, 4, 0]),
        (["0", "0"], [0, 0]),
    ],
)
def test_classes_are_names_lists_and_ranges(items: list[str] | None, numbers: list[int]) -> None:
    assert chosen_classes(items, ["0", "1", "2", "a-b", "c"], "x") == numbers


@pytest.mark.parametrize("item", ["3", "0-3", "2-0", "", "0,,1", "-", "zero"])
def test_classes_that_there_are_not_are_refused(item: str) -> None:
    with pytest.raises(UserError, match=r"no class and no range .*; the classes are 0, 1, 2"):
        chosen_classes([item], ["0", "1", "2"], "x")


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: -o/--out"),
        (["-o", "full"], "full exists; choose another name, or write over it with --force"),
        (["-o", "x.mp3"], "x.mp3: sound is written as wav or flac; use a name that ends in .wav or .flac, or a folder"),
        (["-o", "x.png"], "x.png: sound is written as wav or flac"),
        (["-o", "x.txt"], "x.txt: sound is written as wav or flac"),
        (["-o", "x.wav", "-n", "2"], "x.wav is one file for 2 samples"),
        (["-o", "-", "-n", "2"], "-o - streams one clip, and 2 are asked for"),
        (["-o", "-", "--classes", "zero-two"], "-o - streams one clip, and 3 are asked for"),
        (["-o", "-", "--select"], "--select chooses among whole clips"),
        (["-o", "q", "--seconds", "0"], "argument --seconds: got '0', expected a number of seconds greater than 0"),
        (["-o", "q", "--seconds", "-1"], "argument --seconds: got '-1', expected a number of seconds greater than 0"),
        (["-o", "q", "--seconds", "0.001"], "--seconds 0.001 holds none of 400 samples per second"),
        (["-o", "q", "--classes", "nine"], "--classes: no class and no range 'nine'; the classes are zero, one, two"),
        (["-o", "q", "--rate", "0.01"], "--rate 0.01 times the model's 400 is 4 samples per second"),
        (["-o", "q", "--prompt", "gone.wav"], "--prompt gone.wav: there is no such file"),
        (["-o", "q", "--prompt", "full/text"], "full/text cannot be read (Format not recognised): expected a wav"),
        (["-o", "q", "--prompt", "full/empty.wav"], "full/empty.wav has no samples: expected a wav"),
        (["-o", "q", "--stop", "x"], "--stop is for text, and spoken is a model of sound; leave it out"),
        (["-o", "q", "--dataset", "x"], "--dataset is for images, and spoken is a model of sound; leave it out"),
    ],
)
def test_sample_refuses_in_one_line(arguments: list[str], message: str, capsys: Capture, room: Path) -> None:
    put(room / "full" / "empty.wav", np.zeros(0), 400)
    (room / "full" / "text").write_text("a text")
    assert refusal(capsys, "sample", "spoken", *arguments).startswith(message)
    assert not Path("q").exists()


def test_what_needs_classes_or_a_time_scale_is_refused_without(capsys: Capture, room: Path) -> None:
    line = refusal(capsys, "sample", "plain", "-o", "q", "--classes", "0")
    assert line == "--classes: plain is not conditional on classes; leave it out"
    line = refusal(capsys, "sample", "plain", "-o", "q", "--rate", "0.5")
    assert line.startswith('--rate changes the step of state space layers, and model.mixer = "wavenet" has none')


def test_what_is_for_sound_is_refused_for_images(capsys: Capture, room: Path) -> None:
    for option in (["--seconds", "3"], ["--rate", "2"], ["--select"]):
        line = refusal(capsys, "sample", "mnist-small", "-o", "x.png", *option)
        assert line == f"{option[0]} is for sound, and mnist-small is a model of images; leave it out"
    line = refusal(capsys, "sample", "mnist-small", "-o", "x.png", "--classes", "x")
    assert line == "--classes: mnist-small is not conditional on classes; leave it out"
    for name in ("x.wav", "-"):
        line = refusal(capsys, "sample", "mnist-small", "-o", name)
        assert line == f"{name}: images are written as PNG; use a name that ends in .png, or a folder"


def test_every_option_of_one_kind_is_an_argument() -> None:
    parser = argparse.ArgumentParser()
    sample.add_arguments(parser)
    given = vars(parser.parse_args(["x"]))
    assert all(given[name] is None for name in sample.OPTIONS)


# Training


@pytest.mark.parametrize("classes", [DIGITS, ()])
def test_training_shows_a_second_of_each_class_in_turn(
    classes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sounding_model("s4d", classes, rate=100)
    labels = torch.tensor([0, 1, 2, 0]) if classes else None
    expected = generate(convert(model), 4, seed=7, labels=labels)

    def quick(*args: Any, engine: str, **settings: Any) -> Tensor:
        assert engine == "auto"
        return generate(*args, **settings)

    monkeypatch.setattr("s4gen.sampling.generate.generate", quick)
    found = draw(model, 4, 7)
    assert found.shape == (4, 100) and torch.equal(found, expected)
