"""Compression: what is coded comes back, in as many bits as the model says, whatever stands beside it."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from engines import ENGINES_HERE, KINDS, model_of
from hypothesis import given
from hypothesis import strategies as st
from tiny import noisy_model
from tiny_audio import DIGITS, sounding_model
from tiny_files import tokenizer_of, writing_model

from s4gen.compress import coding, container
from s4gen.compress.coding import DifferentError, RowDecoder, RowEncoder, batches, walk
from s4gen.compress.container import Block, Container, Entry, pack, unpack
from s4gen.compress.frequencies import TOTAL, _table, frequencies
from s4gen.compress.identity import signature
from s4gen.compress.varints import Reader, number, signed, unsigned
from s4gen.errors import UserError
from s4gen.models.density import DensityModel
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.engines import Engine, make_engine

Blocks = list[list[Block]]


def coded(
    recurrent: RecurrentModel,
    engine: Engine,
    rows: Sequence[np.ndarray],
    batch: int,
    labels: list[int] | None = None,
    widths: np.ndarray | None = None,
) -> Blocks:
    """Code rows of tokens, `batch` at a time; with widths, behind each token stands half of its width."""
    encoders = [RowEncoder(row, None if widths is None else widths[row] // 2, widths) for row in rows]
    stepped(recurrent, engine, encoders, batch, labels)
    return [encoder.blocks for encoder in encoders]


def decoded(
    recurrent: RecurrentModel,
    engine: Engine,
    lengths: Sequence[int],
    blocks: Blocks,
    batch: int,
    labels: list[int] | None = None,
    widths: np.ndarray | None = None,
) -> list[RowDecoder]:
    decoders = [RowDecoder(length, own, widths) for length, own in zip(lengths, blocks, strict=True)]
    stepped(recurrent, engine, decoders, batch, labels)
    return decoders


def stepped(recurrent: RecurrentModel, engine: Engine, rows: Sequence, batch: int, labels: list[int] | None) -> None:
    for numbers in batches([row.length for row in rows], batch):
        own = None if labels is None else torch.tensor(labels)[numbers]
        walk(recurrent, engine, [rows[i] for i in numbers], own, lambda _: None)


def random_rows(model: DensityModel, lengths: Sequence[int], seed: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, model.config.layout.vocab, length) for length in lengths]


def bits_of(model: DensityModel, row: np.ndarray, label: int | None = None) -> float:
    with torch.no_grad():
        own = None if label is None else torch.tensor([label])
        return -float(model.log_prob(torch.from_numpy(row)[None], own)) / math.log(2)


# Frequencies


def test_frequencies_are_those_of_the_softmax_and_cost_next_to_nothing() -> None:
    logits = torch.randn(7, 300, generator=torch.Generator().manual_seed(0)) * 4
    found = frequencies(logits.numpy())
    wanted = logits.double().softmax(-1).numpy()
    assert (found == np.floor(found)).all()
    assert (found.sum(-1) <= TOTAL).all()
    large = wanted > 1e-3
    worst = float(np.abs(found[large] / TOTAL / wanted[large] - 1).max())
    assert worst < 0.0028  # half a step of 1/256 bit, for the weight and for the sum
    shares = (found + 0.5) / (found + 0.5).sum(-1, keepdims=True)
    cost = float((wanted * np.log2(wanted / shares)).sum(-1).max())
    assert cost < 1e-5


def test_frequencies_depend_on_differences_of_logits_alone_and_know_impossible_tokens() -> None:
    logits = np.array([[0.0, 1.5, -np.inf, -80.0]], dtype=np.float32)
    found = frequencies(logits)
    assert (frequencies(logits + np.float32(64)) == found).all()
    assert found[0, 2] == found[0, 3] == 0


def test_the_table_of_weights_is_the_same_everywhere() -> None:
    """No value lies so near to half a number that another library could have rounded it otherwise."""
    table = _table()
    assert table[0] == 2**31 and table[256] == 2**30 and table[-1] == 0
    assert zlib.crc32(table.astype("<f8").tobytes()) == 3359642645
    exact = 2.0 ** (31 - np.arange(256 * 31) / 256)
    assert np.abs(table[: len(exact)] - exact).max() < 0.5 + 1e-5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_that_diverged_is_refused(bad: float) -> None:
    with pytest.raises(UserError, match="not a finite number"):
        frequencies(np.array([[0.0, bad]], dtype=np.float32))


# Rows


@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("kind", [*KINDS, "attention", "wavenet"])
def test_rows_come_back_from_any_batch_in_as_many_bits_as_the_model_says(kind: str, engine: str) -> None:
    model = sounding_model(kind, ()) if kind == "wavenet" else model_of(kind)
    recurrent = convert(model)
    runner = make_engine(engine, recurrent)
    lengths = [30, 3, 30, 17, 1, 30, 29, 30, 2, 30, 30]
    rows = random_rows(model, lengths)
    blocks = coded(recurrent, runner, rows, batch=64)
    assert coded(recurrent, runner, rows, batch=4) == blocks
    for found, row in zip(decoded(recurrent, runner, lengths, blocks, batch=1), rows, strict=True):
        assert (found.tokens == row).all()
    for row, (block,) in zip(rows, blocks, strict=True):
        # A word of the coder has 32 bits; its end costs one at most, and 2 more bits.
        assert 8 * len(block.coded) <= 1.01 * bits_of(model, row) + 34


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_classes_and_numbers_behind_tokens_come_back(engine: str) -> None:
    model = sounding_model("sashimi")
    recurrent = convert(model)
    runner = make_engine(engine, recurrent)
    lengths, labels = [40, 25, 40], [2, 0, 1]
    rows, widths = random_rows(model, lengths), np.arange(model.config.layout.vocab) ** 3
    blocks = coded(recurrent, runner, rows, 8, labels, widths)
    found = decoded(recurrent, runner, lengths, blocks, 2, labels, widths)
    for row, label, decoder, (block,) in zip(rows, labels, found, blocks, strict=True):
        assert (decoder.tokens == row).all()
        assert decoder.fine is not None and (decoder.fine == widths[row] // 2).all()
        behind = float(np.log2(np.maximum(widths[row], 1)).sum())
        assert 8 * len(block.coded) <= 1.01 * bits_of(model, row, label) + behind + 34
    assert len(DIGITS) == 3
    with pytest.raises(DifferentError):
        decoded(recurrent, runner, lengths, blocks, 2, [0, 0, 0], widths)


def test_long_rows_are_coded_in_blocks_and_what_goes_wrong_is_found_at_the_end_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coding, "BLOCK", 8)
    model, other = noisy_model("s4d"), noisy_model("s4d", seed=1)
    recurrent = convert(model)
    runner = make_engine("eager", recurrent)
    rows = random_rows(model, [29, 16])
    blocks = coded(recurrent, runner, rows, 2)
    assert list(map(len, blocks)) == [4, 2]
    found = decoded(recurrent, runner, [29, 16], blocks, 2)
    assert all((decoder.tokens == row).all() for decoder, row in zip(found, rows, strict=True))
    wrong = [RowDecoder(29, blocks[0])]
    with pytest.raises(DifferentError):
        stepped(convert(other), make_engine("eager", convert(other)), wrong, 1, None)
    assert not wrong[0].tokens[8:].any()


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_bits_that_nobody_coded_are_told_from_others(engine: str) -> None:
    model = writing_model(tokenizer_of("bytes"))
    recurrent = convert(model)
    runner = make_engine(engine, recurrent)
    for seed in range(20):
        noise = np.random.default_rng(seed).integers(0, 2**32, seed % 7, dtype=np.uint32).tobytes()
        with pytest.raises(DifferentError):
            decoded(recurrent, runner, [20], [[Block(noise, 12345)]], 1)


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_rows_that_were_coded_by_two_threads_are_decoded_by_one(engine: str, two_threads: None) -> None:
    model = noisy_model("s4d", d_model=40)
    recurrent, lengths = convert(model), [20, 20, 12]
    rows = random_rows(model, lengths)
    blocks = coded(recurrent, make_engine(engine, recurrent), rows, 8)
    torch.set_num_threads(1)
    found = decoded(recurrent, make_engine(engine, recurrent), lengths, blocks, 8)
    assert all((decoder.tokens == row).all() for decoder, row in zip(found, rows, strict=True))


def test_batches_hold_similar_lengths_and_every_row_once() -> None:
    assert batches([5, 9, 1, 9, 7], 2) == [[1, 3], [4, 0], [2]]


def test_a_signature_tells_models_and_engines_apart_and_is_the_same_again() -> None:
    model = noisy_model("s4d")
    recurrent = convert(model)
    found = {
        (seed, name): signature(own, make_engine(name, own))
        for seed, own in ((0, recurrent), (1, convert(noisy_model("s4d", seed=1))))
        for name in [*ENGINES_HERE, *(["native-int8"] if "native" in ENGINES_HERE else [])]
    }
    assert len(set(found.values())) == len(found)
    for name in ENGINES_HERE:
        assert signature(convert(model), make_engine(name, convert(model))) == found[0, name]


# The container


BYTES = st.binary(max_size=40)
BLOCKS = st.builds(Block, st.binary(max_size=12).map(lambda x: x[: len(x) // 4 * 4]), st.integers(0, 2**32 - 1))
ENTRIES = st.builds(
    lambda name, length, extra, block, label: Entry(name, length, extra, (block,), label),
    st.binary(min_size=1, max_size=9).filter(lambda x: b"/" not in x and b"\0" not in x and x not in (b".", b"..")),
    st.integers(1, container.BLOCK),
    BYTES,
    BLOCKS,
    st.integers(0, 300),
)


@given(st.lists(ENTRIES, max_size=4, unique_by=lambda entry: entry.name))
def test_containers_come_back(entries: list[Entry]) -> None:
    given = Container(b"mod", b"sig", "audio", "native", "x86-64-v3", tuple(entries), 0, True)
    assert unpack(pack(given)) == given


@pytest.mark.parametrize("engine", ["native", "native-int8", "of tomorrow"])
@pytest.mark.parametrize("target", ["native", "baseline", "torch 2.13.0+cpu AVX512"])
def test_names_of_engines_and_targets_come_back_with_numbers_and_without(engine: str, target: str) -> None:
    entries = tuple(Entry(name, 40_000, b"", (Block(b"abcd", 1), Block(b"", 2))) for name in (b"a", b"b"))
    for some in (entries, entries[:1], ()):
        given = Container(b"mod", b"sig", "image", engine, target, some, 40_000 if some else 0)
        assert unpack(pack(given)) == given


def test_a_header_of_one_text_takes_23_bytes_beside_its_name() -> None:
    entry = Entry(b"page.txt", 1_234, b"", (Block(bytes(860), 1),))
    assert len(pack(Container(b"mod", b"sig", "text", "native", "native", (entry,)))) == 860 + 8 + 23


def small_container() -> bytes:
    entries = tuple(
        Entry(name, 5, b"extra", (Block(bytes(range(at, at + 8)), at),)) for at, name in enumerate((b"a.txt", b"b"))
    )
    return pack(Container(b"mod", b"sig", "text", "native", "native", entries))


def test_a_container_that_is_cut_or_longer_is_refused() -> None:
    content = small_container()
    for size in range(len(content)):
        with pytest.raises(ValueError):
            unpack(content[:size])
    with pytest.raises(ValueError, match="cut or changed"):
        unpack(content + b"\0")


def with_checksum(behind: bytes) -> bytes:
    """Return a container that says the right checksum of whatever stands behind it."""
    return small_container()[:4] + struct.pack("<I", zlib.crc32(behind)) + behind


def test_blocks_that_do_not_fit_a_header_with_the_right_checksum_are_refused() -> None:
    content, empty = small_container()[8:], pack(Container(b"mod", b"sig", "text", "native", "native", ()))[8:]
    for behind in (content + bytes(3), content[:-16], empty + bytes(4)):
        with pytest.raises(ValueError, match="not as long as its header says"):
            unpack(with_checksum(behind))


def test_a_container_of_which_any_bit_was_changed_is_refused() -> None:
    content = small_container()
    for at in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            with pytest.raises(ValueError):
                unpack(bytes(changed))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../up", b"a/b", b"/abs", b"nul\0", b"x" * 256])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: bytes) -> None:
    entry = Entry(name, 1, b"", (Block(b"", 0),))
    with pytest.raises(ValueError, match="a name in it"):
        unpack(pack(Container(b"mod", b"sig", "text", "eager", "", (entry,))))


def test_a_name_that_is_there_twice_is_refused() -> None:
    entry = Entry(b"a", 1, b"", (Block(b"", 0),))
    with pytest.raises(ValueError, match="one name twice"):
        unpack(pack(Container(b"mod", b"sig", "text", "eager", "", (entry, entry))))


def test_more_values_than_a_container_may_hold_are_refused() -> None:
    some = Entry(b"a", 1 << 27, b"", tuple(Block(b"", at) for at in range(1 << 12)))
    entries = (some, replace(some, name=b"b"))
    assert unpack(pack(Container(b"mod", b"sig", "text", "eager", "", entries))).entries == entries
    with pytest.raises(ValueError, match="more than 268,435,456 values"):
        unpack(pack(Container(b"mod", b"sig", "text", "eager", "", (*entries, Entry(b"c", 1, b"", (Block(b"", 0),))))))


@given(st.integers(0, 2**62), st.integers(-(2**30), 2**30))
def test_numbers_come_back(value: int, any_sign: int) -> None:
    assert Reader(number(value)).number() == value
    assert unsigned(signed(any_sign)) == any_sign


def test_a_number_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        Reader(b"\xff" * 40).number()
