"""Classifiers: only a recording's own samples count, files are whole or refused, the shipped one knows its digits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import assert_refused_in_one_line
from sounds import noise, tone

from s4gen.checkpoint import load_checkpoint, save_checkpoint, save_tensors
from s4gen.config import (
    Answers,
    AudioLayout,
    ImageLayout,
    ModelConfig,
    OptimConfig,
    PredictorConfig,
    SSMConfig,
    TaskConfig,
)
from s4gen.config.checks import ConfigError
from s4gen.data.audio import AudioSet, open_split
from s4gen.errors import UserError
from s4gen.evaluate import recognition
from s4gen.evaluate.recognition import Classifier, find_classifier, load_classifier, padded
from s4gen.examples import digits
from s4gen.files.shipped import shipped_folder
from s4gen.models.predictor import Predictor
from s4gen.models.spectrum import log_spectrum
from s4gen.train.optim import parameter_groups

SHIPPED = "fsdd-digits"
LAYOUT = AudioLayout(800)
TASK = TaskConfig("classify", reader="spectrum", bidirectional=True)
LENGTHS = (1, 7, 8, 9, 70, 411, 800)
"""Around a frame of 8 samples, and more."""


def tiny(
    seed: int = 0,
    layout: Any = LAYOUT,
    classes: tuple[str, ...] = ("low", "high"),
    task: TaskConfig = TASK,
    **model: Any,
) -> Predictor:
    """Two blocks, no weight zero or the same in two places, in evaluation mode."""
    torch.manual_seed(seed)
    sizes = {"d_model": 12, "n_layers": 2, "d_ff": 10} | model
    ssm = SSMConfig(d_state=8, dt_max=0.5)
    made = Predictor(PredictorConfig(layout, ModelConfig(**sizes), ssm, task, Answers(classes)))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return made.eval()


def save(path: Path, seed: int = 0, overwrite: bool = False) -> Predictor:
    model = tiny(seed)
    save_checkpoint(path, model, recipe=None, metrics={}, card=f"card {seed}", overwrite=overwrite)
    return model


def logits(model: Predictor, samples: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    return model.answer(samples[..., None], lengths)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def clips() -> list[np.ndarray]:
    return [noise(n, seed=n).astype(np.float32) for n in LENGTHS]


def samples_of(audio: AudioSet) -> list[np.ndarray]:
    return [audio.format.quantiser.decode(audio.clip(index)) for index in range(len(audio))]


@torch.no_grad()
def test_neither_the_padding_of_a_batch_nor_what_stands_in_it_changes_a_logit() -> None:
    model = tiny()
    samples, lengths = padded(clips())
    together = logits(model, samples, lengths)
    apart = torch.cat([logits(model, torch.from_numpy(clip)[None]) for clip in clips()])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    filled = samples.clone()
    for row, n in zip(filled, LENGTHS, strict=True):
        row[n:] = float("nan")
    assert torch.equal(logits(model, filled, lengths), together)
    assert (together[:-1] - together[-1]).abs().amax(1).min() > 1e-3, "the clips must differ for this to mean anything"


@torch.no_grad()
def test_silence_within_the_length_is_heard() -> None:
    samples, lengths = padded(clips())
    model = tiny()
    assert (logits(model, samples) - logits(model, samples, lengths)).abs()[:-1].amax(1).min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("gain", [2**-10, 0.5, 4.0])
def test_loudness_changes_nothing(gain: float) -> None:
    model, (samples, lengths) = tiny(), padded(clips())
    assert torch.equal(logits(model, gain * samples, lengths), logits(model, samples, lengths))


@torch.no_grad()
def test_every_frame_counts_and_the_order_of_frames_too() -> None:
    model, clip = tiny(), torch.from_numpy(clips()[-1])[None]
    known = logits(model, clip)
    for place in (0, 399, 799):
        changed = clip.clone()
        changed[0, place] -= 0.3
        assert (logits(model, changed) - known).abs().max() > 1e-5, place
    assert (logits(model, clip.flip(1)) - known).abs().max() > 1e-3


def test_the_spectrum_of_a_full_tone_is_one_at_its_frequency_and_silence_is_zero() -> None:
    """Window of 160 samples at 8 kHz: 50 Hz from one frequency to the next."""
    both = torch.stack([torch.from_numpy(tone(800, 1000.0, amplitude=1.0)), torch.zeros(800, dtype=torch.float64)])
    frames, counts = log_spectrum(both, torch.tensor([800, 400]), 8000)
    assert frames.shape == (2, 10, 81)
    assert counts.tolist() == [10, 5]
    middle = frames[0, 1:-1]  # windows that are full of tone
    assert torch.equal(middle.argmax(-1), torch.full((8,), 20))
    torch.testing.assert_close(middle[:, 20], torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-6)
    assert (middle[:, 25:] < 0.2).all()
    assert not frames[1].any()


@pytest.mark.parametrize(
    ("samples", "lengths", "message"),
    [
        (torch.zeros(3), None, r"inputs have shape \(3, 1\), expected \(batch, length >= 1, 1\)"),
        (torch.zeros(3, 0), None, r"inputs have shape \(3, 0, 1\)"),
        (torch.zeros(3, 5), torch.tensor([5, 6, 1]), "expected 0 to 5"),
        (torch.zeros(3, 5), torch.tensor([5]), r"expected \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(samples: torch.Tensor, lengths: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logits(tiny(), samples, lengths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("low",)}, "there is nothing to tell apart"),
        ({"classes": ()}, "expected at least one name"),
        ({"layout": ImageLayout(3, 3, 1)}, 'task.reader = "spectrum" goes with audio, not with data of kind image'),
        (
            {"task": TaskConfig("classify", reader="spectrum")},
            'task.reader = "spectrum" needs task.bidirectional = true, because the peak of a clip is known only at',
        ),
        (
            {"mixer": "attention", "window": 8, "n_heads": 2},
            'model.mixer = "attention" does not go with task.bidirectional = true: expected one of s4d',
        ),
        ({"pool": (2,)}, 'model.pool = \\[2\\] goes with task.kind = "density", not with "classify"'),
    ],
)
def test_what_cannot_classify_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)


def test_state_space_parameters_of_both_directions_have_their_own_learning_rate() -> None:
    groups = parameter_groups(tiny())
    for direction in ("forward_layer", "backward_layer"):
        assert f"blocks.1.mixer.{direction}.raw_dt" in groups["ssm"]
    assert "embedding.weight" in groups["decay"]
    assert "head.bias" in groups["plain"]


def test_clips_are_recognised_one_by_one_as_in_any_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier(tiny())
    mixed = [*clips(), *(np.asarray(tone(n, 30.0 * n, 800), np.float32) for n in (50, 900, 60, 3))]
    with torch.no_grad():  # some one way, some the other
        classifier.model.head.bias.sub_(logits(classifier.model, *padded(mixed)).median(0).values)
    found = classifier.recognise(mixed)
    assert set(found) == {0, 1}
    assert [classifier.recognise([clip])[0] for clip in mixed] == found
    rows: list[tuple[int, ...]] = []
    monkeypatch.setattr(recognition, "SAMPLES", 850)
    answer = Predictor.answer

    def watched(self: Predictor, samples: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        rows.append(tuple(samples.shape[:2]))
        return answer(self, samples, lengths)

    monkeypatch.setattr(Predictor, "answer", watched)
    assert classifier.recognise(mixed) == found
    assert sum(n for n, _ in rows) == len(mixed)
    assert all(n == 1 or n * length <= 850 for n, length in rows)
    assert max(n for n, _ in rows) > 1
    assert classifier.recognise([]) == []


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros(0, np.float32), r"clip 1 has shape \(0,\): expected \(samples,\), at least one"),
        (np.zeros((5, 2), np.float32), r"clip 1 has shape \(5, 2\)"),
        (np.array([0, np.nan], np.float32), "clip 1 has samples that are not finite numbers"),
    ],
)
def test_a_clip_that_cannot_be_heard_is_named(clip: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classifier(tiny()).recognise([np.ones(3, np.float32), clip])


def test_a_classifier_is_saved_exactly_and_random_numbers_are_left_alone(tmp_path: Path) -> None:
    model = save(tmp_path / "c")
    before = torch.random.get_rng_state()
    loaded = load_classifier(tmp_path / "c")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (loaded.classes, loaded.rate, loaded.model.training) == (("low", "high"), 800, False)
    assert loaded.model.config == model.config
    saved, found = model.state_dict(), loaded.model.state_dict()
    assert saved.keys() == found.keys()
    assert all(torch.equal(saved[name], found[name]) for name in saved)
    assert sorted(file.name for file in (tmp_path / "c").iterdir()) == [
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]


def test_an_old_classifier_is_replaced_only_when_asked(tmp_path: Path) -> None:
    save(tmp_path / "c")
    with pytest.raises(UserError, match="exists; choose another name"):
        save(tmp_path / "c", seed=1)
    assert (tmp_path / "c" / "README.md").read_text() == "card 0"
    save(tmp_path / "c", seed=1, overwrite=True)
    assert (tmp_path / "c" / "README.md").read_text() == "card 1"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: (c / "model.safetensors").unlink(), "model.safetensors is missing, so"),
        (lambda c: (c / "config.json").unlink(), "is not a checkpoint: there is no config.json in it"),
        (lambda c: (c / "config.json").write_text("{"), "config.json is damaged or truncated"),
        (lambda c: (c / "model.safetensors").write_bytes(b"\x08"), "model.safetensors is damaged or truncated"),
        (lambda c: save_tensors(c / "model.safetensors", {}), "does not fit config.json: tensor .* is missing"),
        (lambda c: edit(c / "config.json", format_version=2), "checkpoint format version 2, but s4gen .* reads"),
        (lambda c: edit(c / "config.json", format="gpt"), "format = 'gpt': expected \"s4gen-checkpoint\""),
        (
            lambda c: edit(c / "config.json", format="s4gen-classifier"),
            "is a classifier of an earlier version of s4gen",
        ),
        (lambda c: edit(c / "config.json", predictor=None), "predictor is missing; the file is damaged"),
        (lambda c: edit(c / "config.json", predictor={}), "config.json: layout.height is missing"),
        (
            lambda c: edit(
                c / "config.json",
                predictor={
                    "layout": {"kind": "audio", "rate": 8000},
                    "task": {"kind": "classify"},
                    "answers": {"names": ["a"]},
                },
            ),
            "config.json: answers.names = .* there is nothing to tell apart",
        ),
    ],
)
def test_a_damaged_classifier_is_one_sentence(spoil: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    save(tmp_path / "c")
    spoil(tmp_path / "c")
    with pytest.raises(UserError, match=message) as error:
        load_classifier(tmp_path / "c")
    assert str(tmp_path / "c") in str(error.value)


def test_a_classifier_is_no_density_model_and_no_density_model_a_classifier(tmp_path: Path) -> None:
    save(tmp_path / "c")
    with pytest.raises(UserError, match=r"c is trained to classify, and is no density model"):
        load_checkpoint(tmp_path / "c")
    with pytest.raises(UserError, match="is a density model of images, and predicts nothing"):
        load_classifier("mnist-small")
    with pytest.raises(UserError, match=r"^no checkpoint at nowhere; the shipped ones are: "):
        load_classifier("nowhere")


def test_the_shipped_classifier_is_found_by_its_classes_and_rate_alone() -> None:
    found = find_classifier(tuple("0123456789"), 8000)
    assert found is not None
    assert (found.classes, found.rate) == (tuple("0123456789"), 8000)
    assert find_classifier(tuple("0123456789"), 16000) is None
    assert find_classifier(tuple("9876543210"), 8000) is None
    assert find_classifier(("yes", "no"), 8000) is None


def test_the_shipped_classifier_is_small_and_has_a_card() -> None:
    folder = shipped_folder("checkpoints") / SHIPPED
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2**20
    card = (folder / "README.md").read_text(encoding="utf-8")
    for change in digits.CHANGES:
        assert f"| {change} | " in card


def test_the_shipped_classifier_recognises_the_real_test_clips_of_the_package_whatever_happened_to_them() -> None:
    audio = open_split("fsdd-mini", "test", digits.FORMAT)
    for change, score in digits.measure(load_classifier(SHIPPED), audio).items():
        assert score.right >= 0.9 * score.n == 18, change


@pytest.mark.data
def test_the_shipped_classifier_recognises_the_test_split_as_its_card_says() -> None:
    """Another processor or torch may round one clip to another side."""
    card = (shipped_folder("checkpoints") / SHIPPED / "README.md").read_text(encoding="utf-8")
    scores = digits.measure(load_classifier(SHIPPED), open_split("fsdd", "test", digits.FORMAT))
    for change, score in scores.items():
        assert score.right > 0.95 * score.n == 285, change
        (said,) = re.findall(rf"^\| {re.escape(change)} \| .* % \((\d+) of 300\) \|$", card, flags=re.MULTILINE)
        assert abs(int(said) - score.right) <= 1, change


def test_what_training_hears_is_the_clip_moved_and_followed_by_silence() -> None:
    """Without noise and codes, rows are the clips again up to loudness, with zeros round them."""
    lengths = torch.tensor((300, 500, 900) * 40)
    samples, _ = padded([np.asarray(tone(n, 50.0, 800, amplitude=0.3), np.float32) for n in lengths.tolist()])
    heard, ends = digits.augment(samples, lengths, 800, torch.Generator().manual_seed(0))
    assert heard.shape == (120, int(ends.max()))
    assert torch.equal(digits.augment(samples, lengths, 800, torch.Generator().manual_seed(0))[0], heard)
    assert (ends >= lengths).all()
    assert (ends <= (lengths + 80).clamp_min(800)).all()
    assert 0.3 < (ends == 800)[lengths < 800].float().mean() < 0.7
    peaks = heard.abs().amax(1)
    assert 0.5 < peaks.max() <= 1.3
    assert peaks.min() < 0.06
    clean = 0
    for row, clip, n in zip(heard, samples, lengths.tolist(), strict=True):
        spoken = row.nonzero()[:, 0]
        start = int(spoken[0]) - 1  # a tone begins with a zero
        if 0 <= start <= 80 and int(spoken[-1]) < start + n:
            gain = row.abs().max() / clip[:n].abs().max()
            clean += bool(torch.allclose(row[start : start + n], gain * clip[:n], atol=1e-5))
    assert 0.1 < clean / 120 < 0.45, "neither noise nor codes: a quarter"
    coded = (torch.from_numpy(digits.through_codes(heard.numpy())) == heard).all(1)
    assert 0.35 < coded.float().mean() < 0.65


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "MODEL", ModelConfig(d_model=24, n_layers=1, d_ff=0))
    monkeypatch.setattr(digits, "OPTIM", OptimConfig(lr=1e-2, warmup_steps=2, ema_decay=0.5))
    monkeypatch.setattr(digits, "BATCH", 6)


@pytest.mark.usefixtures("_quick")
def test_the_program_trains_measures_and_writes_what_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "digits"
    assert digits.main(["--dataset", "fsdd-mini", "--steps", "3", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "recognised of the 20 test clips of fsdd-mini" in printed
    assert printed.endswith(f"written: {out}\n")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "--dataset fsdd-mini --steps 3 -o DIR" in card
    assert "all 60 clips of the train split: 3 steps of 6 clips, 0.3 epochs" in card
    scores = digits.measure(load_classifier(out), open_split("fsdd-mini", "test", digits.FORMAT))
    for change, score in scores.items():
        assert f"| {change} | {score} |" in card
        assert f"{change}  {score}\n" in printed


@pytest.mark.usefixtures("_quick")
def test_training_learns() -> None:
    """Six and nine by six speakers: one answer for all would be right half of the time."""
    audio = open_split("fsdd-mini", "train", digits.FORMAT)
    assert audio.labels is not None
    two = audio.subset(np.flatnonzero(np.isin(audio.labels, (6, 9))))
    score = digits.measure(Classifier(digits.train(two, 30)), two)["as they are"]
    assert score.n == 12
    assert score.right >= 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0", "-o", "new"], "argument --steps: got 0, expected at least 1"),
        (["--dataset", "mnist", "-o", "new"], "invalid choice: 'mnist'"),
        (["--dataset", "fsdd-mini"], "the following arguments are required: -o/--out"),
        (["--dataset", "fsdd-mini", "-o", "old"], "old exists; choose another name, or replace it with --force"),
        (["-o", "new"], "no fsdd: S4GEN_DATA is not set"),
    ],
)
def test_a_wrong_argument_is_one_line_and_nothing_is_written(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine.txt").write_text("mine")
    assert_refused_in_one_line(digits.main, arguments, message, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
