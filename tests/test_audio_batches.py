"""Batches: every sample once for evaluation, padding that never counts, crops that are a function of seed and step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s4gen.data.audio import AudioFormat, AudioSet, Findings
from s4gen.data.audio.batches import (
    TrainingBatches,
    evaluation_batches,
    gather,
    windows_at_random,
    windows_in_order,
)
from s4gen.errors import UserError

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=12)
CROPS = st.none() | st.integers(1, 35)


def audio_of(lengths: list[int], labelled: bool = True) -> AudioSet:
    """Clips whose codes, 16 bit, are all different: sample number i of the set is code i."""
    sizes = np.array(lengths, np.int64)
    return AudioSet(
        codes=np.arange(sizes.sum(), dtype=np.uint16),
        starts=np.cumsum(sizes) - sizes,
        lengths=sizes,
        labels=np.arange(len(sizes)) % 3 if labelled else None,
        names=tuple(map(str, range(len(sizes)))),
        classes=("a", "b", "c") if labelled else (),
        format=AudioFormat(8000, bits=16),
        name="made up",
        split="train",
        origin="here",
        findings=Findings(found=len(sizes)),
    )


@given(LENGTHS, CROPS, st.integers(1, 5))
def test_evaluation_counts_every_sample_exactly_once(lengths: list[int], crop: int | None, batch_size: int) -> None:
    audio = audio_of(lengths)
    counted = []
    for batch in evaluation_batches(audio, crop, batch_size):
        assert batch.codes.dtype == batch.lengths.dtype == torch.int64
        assert 1 <= len(batch.codes) <= batch_size
        assert batch.codes.shape[1] == batch.lengths.max() <= (crop or 30)
        assert (batch.codes[~batch.mask()] == 32768).all()
        assert batch.mask().sum() == batch.lengths.sum()
        assert torch.equal(batch.labels, batch.clips % 3)
        for row, length, clip in zip(batch.codes, batch.lengths, batch.clips, strict=True):
            counted += row[:length].tolist()
            assert set(row[:length].tolist()) <= set(audio.clip(clip).tolist())
    assert sorted(counted) == audio.codes.tolist()


def test_whole_clips_are_padded_with_silence_behind_their_lengths() -> None:
    audio = audio_of([3, 5], labelled=False)
    (batch,) = evaluation_batches(audio, None, 2)
    assert batch.codes.tolist() == [[0, 1, 2, 32768, 32768], [3, 4, 5, 6, 7]]
    assert batch.lengths.tolist() == [3, 5]
    assert batch.mask().tolist() == [[True, True, True, False, False], [True] * 5]
    assert batch.labels is None


def test_a_long_clip_is_cut_in_order_and_the_last_piece_is_what_is_left() -> None:
    windows = windows_in_order(audio_of([7, 2]), 3)
    assert windows.clips.tolist() == [0, 0, 0, 1]
    assert windows.starts.tolist() == [0, 3, 6, 0]
    assert windows.lengths.tolist() == [3, 3, 1, 2]


@given(LENGTHS, CROPS, st.integers(0, 9), st.integers(0, 9))
def test_random_windows_are_inside_their_clips_and_as_long_as_they_can_be(
    lengths: list[int], crop: int | None, seed: int, epoch: int
) -> None:
    audio = audio_of(lengths)
    windows = windows_at_random(audio, crop, seed, epoch)
    assert windows.clips.tolist() == windows_in_order(audio, crop).clips.tolist()
    clips = audio.lengths[windows.clips]
    assert (windows.lengths == np.minimum(clips, crop or 30)).all()
    assert ((windows.starts >= 0) & (windows.starts + windows.lengths <= clips)).all()
    again = windows_at_random(audio, crop, seed, epoch)
    assert windows.starts.tolist() == again.starts.tolist()


def test_random_windows_begin_everywhere_and_elsewhere_in_every_epoch_and_for_every_seed() -> None:
    audio = audio_of([12])
    starts = {windows_at_random(audio, 10, 0, epoch).starts[0] for epoch in range(50)}
    assert starts == {0, 1, 2}, "each of three places is missed with a chance of 2e-9"
    long = audio_of([1000] * 20)
    orders = [windows_at_random(long, 10, seed, epoch).starts.tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 3


@given(LENGTHS, CROPS, st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_has_every_window_at_most_once_and_leaves_out_less_than_a_batch(
    lengths: list[int], crop: int | None, batch_size: int, seed: int
) -> None:
    audio = audio_of(lengths)
    batches = TrainingBatches(audio, crop, batch_size, seed)
    total = len(windows_in_order(audio, crop))
    assert batches.batch_size == min(batch_size, total)
    for epoch in range(2):
        rows = [batches.at(epoch * batches.per_epoch + i) for i in range(batches.per_epoch)]
        assert all(len(row.codes) == batches.batch_size for row in rows)
        seen = np.bincount(torch.cat([row.clips for row in rows]), minlength=len(lengths))
        allowed = np.bincount(windows_in_order(audio, crop).clips, minlength=len(lengths))
        assert (seen <= allowed).all()
        assert total - seen.sum() < batches.batch_size


def test_a_step_is_the_same_from_wherever_one_begins() -> None:
    audio = audio_of([9, 4, 17, 8, 3, 30, 11])
    steps = TrainingBatches(audio, 6, 2, seed=3)
    run = [steps.at(step) for step in range(20)]
    for step in (13, 4, 19):
        again = TrainingBatches(audio, 6, 2, seed=3).at(step)
        assert torch.equal(again.codes, run[step].codes)
        assert torch.equal(again.clips, run[step].clips)
    other = TrainingBatches(audio, 6, 2, seed=4)
    assert any(not torch.equal(other.at(step).clips, run[step].clips) for step in range(20))
    epochs = [torch.cat([run[e * steps.per_epoch + i].clips for i in range(steps.per_epoch)]) for e in (0, 1)]
    assert not torch.equal(*epochs)


def test_batches_of_like_lengths_save_most_of_the_padding() -> None:
    lengths = np.random.default_rng(0).integers(100, 900, 600)
    audio = audio_of(lengths.tolist())
    batches = TrainingBatches(audio, None, 8, 0)
    bucketed = [batches.at(step) for step in range(batches.per_epoch)]
    windows = windows_in_order(audio, None)
    order = np.random.default_rng(1).permutation(600)
    plain = [gather(audio, windows, order[i : i + 8]) for i in range(0, 600, 8)]

    def padding(all_batches: list) -> float:
        return sum((~b.mask()).sum().item() for b in all_batches) / sum(b.codes.numel() for b in all_batches)

    assert padding(plain) > 0.3
    assert padding(bucketed) < 0.05
    means = [batch.lengths.float().mean().item() for batch in bucketed]
    assert means != sorted(means), "short clips do not come first"


def test_codes_of_eight_bits_are_gathered_as_they_are() -> None:
    audio = audio_of([3, 2])
    narrow = AudioSet(**{**vars(audio), "codes": audio.codes.astype(np.uint8), "format": AudioFormat(8000)})
    (batch,) = evaluation_batches(narrow, None, 2)
    assert batch.codes.tolist() == [[3, 4, 128], [0, 1, 2]]


@pytest.mark.parametrize(("crop", "batch_size", "message"), [(None, 0, "batch size 0"), (0, 1, "crops of 0 samples")])
def test_sizes_below_one_are_refused(crop: int | None, batch_size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainingBatches(audio_of([3]), crop, batch_size, 0)
    with pytest.raises(UserError, match=message):
        evaluation_batches(audio_of([3]), crop, batch_size)
