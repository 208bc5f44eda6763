"""Prompts that were read once: what is recalled is, bit for bit, what reading gives; damage costs time alone."""

from __future__ import annotations

import json
import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from engines import KINDS, model_of
from tiny import noisy_model
from tiny_audio import sounding_model
from torch import Tensor

from s4gen.errors import UserError
from s4gen.models.density import ModelState
from s4gen.models.states import leaves, row_multiple, tensors
from s4gen.sampling import recalling
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.filters import Filters
from s4gen.sampling.generate import complete, generate
from s4gen.sampling.generation import Generation
from s4gen.sampling.prompt_cache import PromptCache
from s4gen.sampling.prompts import Start, checked_prompts, read_prompts


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalling, "EVERY", 16)


@pytest.fixture(scope="module")
def recurrent() -> RecurrentModel:
    return convert(noisy_model("s4d"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of all chunks that are computed."""
    shapes: list[tuple[int, ...]] = []
    behind = recalling.state_behind

    def noted(model: RecurrentModel, chunk: Tensor, state: ModelState, counts: Tensor | None = None) -> ModelState:
        shapes.append(tuple(chunk.shape))
        return behind(model, chunk, state, counts)

    monkeypatch.setattr(recalling, "state_behind", noted)
    yield shapes


def prompt_of(recurrent: RecurrentModel, length: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, recurrent.config.layout.vocab, (length,), generator=generator)


def read(recurrent: RecurrentModel, prompts: list[Tensor], cache: PromptCache | None, **options: object) -> Start:
    return read_prompts(recurrent, checked_prompts(recurrent, prompts, **options), cache=cache)  # type: ignore[arg-type]


def same(a: Start, b: Start) -> bool:
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in pairs)


@pytest.mark.parametrize("kind", [*KINDS, "lssl", "attention"])
@pytest.mark.parametrize("in_folder", [True, False])
def test_what_is_recalled_is_what_reading_gives(kind: str, in_folder: bool, tmp_path: Path) -> None:
    """Whether all of a prompt is there, or only its beginning, or nothing; rows side by side or one by one."""
    model = convert(model_of(kind))
    prompt = prompt_of(model, 29)
    cache = PromptCache(tmp_path if in_folder else None)
    cold = read(model, [prompt], cache)
    assert same(read(model, [prompt], cache), cold)
    assert same(read(model, [prompt] * 3, cache), cold.rows(torch.tensor([0, 0, 0])))
    other = torch.cat([prompt[:20], prompt_of(model, 9, seed=4)])
    beside = read(model, [other, prompt], cache)
    assert same(beside.rows(torch.tensor([1])), cold)
    assert same(beside.rows(torch.tensor([0])), read(model, [other], PromptCache()))


@pytest.mark.parametrize("kind", ["s4", "sashimi"])
def test_reading_with_a_cache_agrees_with_reading_without(kind: str) -> None:
    model = convert(model_of(kind))
    prompts = [prompt_of(model, length) for length in (29, 0, 7, 16, 17)]
    plain, kept = read(model, prompts, None), read(model, prompts, PromptCache())
    assert torch.equal(plain.token, kept.token) and torch.equal(plain.state.position, kept.state.position)
    for a, b in zip(tensors(plain.state), tensors(kept.state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_short_prompts_are_read_as_without_a_cache(recurrent: RecurrentModel) -> None:
    """Up to the first state that is kept there is one chunk in both."""
    prompt = prompt_of(recurrent, 16)
    assert same(read(recurrent, [prompt], PromptCache()), read(recurrent, [prompt], None))


def test_only_what_is_new_is_read(recurrent: RecurrentModel, reads: list[tuple[int, ...]], tmp_path: Path) -> None:
    prompt = prompt_of(recurrent, 40)  # with bos in front, and without the last token: 40 tokens are fed
    read(recurrent, [prompt], PromptCache(tmp_path))
    assert [shape[1] for shape in reads] == [16, 16, 8]
    reads.clear()
    read(recurrent, [prompt], PromptCache(tmp_path))  # another cache of the same folder, as another process has
    assert reads == []
    read(recurrent, [torch.cat([prompt[:35], prompt_of(recurrent, 9, seed=4)])], PromptCache(tmp_path))
    assert [shape[1] for shape in reads] == [12]


def test_rows_that_begin_alike_are_read_once(recurrent: RecurrentModel, reads: list[tuple[int, ...]]) -> None:
    prompt = prompt_of(recurrent, 12)
    read(recurrent, [prompt] * 9, PromptCache())
    assert reads == [(row_multiple(8), 12)]  # one row, and the padding


def test_an_engine_state_may_be_kept_and_is_no_state_of_another(recurrent: RecurrentModel) -> None:
    cache, generation = PromptCache(), Generation.start(recurrent, 1, seed=1)
    drawn = torch.cat([*generation.chunks(10)], dim=1)[0]
    fed = torch.cat([torch.tensor([recurrent.bos]), drawn[:-1]])
    state = generation._where().state
    cache.put(recurrent, fed, state, computed_by="eager")
    assert cache.get(recurrent, fed) is None
    longer = torch.cat([fed, drawn[-1:], drawn[:4]])
    found = cache.get(recurrent, longer, computed_by="eager")
    assert found is not None and found[0] == 10
    assert same(Start(drawn[-1:], found[1]), Start(drawn[-1:], state))
    assert cache.get(recurrent, longer, computed_by="eager", multiple=3) is None
    with pytest.raises(ValueError, match=r"stands at \[10\], and there are 9"):
        cache.put(recurrent, fed[1:], state)


def test_classes_and_models_are_kept_apart(tmp_path: Path) -> None:
    model, other = convert(sounding_model("s4d")), convert(sounding_model("s4d", classes=()))
    prompt, cache = prompt_of(model, 20), PromptCache(tmp_path)
    first = read(model, [prompt] * 2, cache, labels=torch.tensor([0, 2]))
    again = read(model, [prompt] * 3, PromptCache(tmp_path), labels=torch.tensor([2, 0, 2]))
    assert same(again, first.rows(torch.tensor([1, 0, 1])))
    assert not same(first.rows(torch.tensor([0])), first.rows(torch.tensor([1])))
    assert same(read(other, [prompt], cache), read(other, [prompt], PromptCache()))
    changed = convert(sounding_model("s4d"))
    with torch.no_grad():
        next(changed.source.parameters()).view(-1)[0] += 1
    labels = torch.tensor([0])
    assert same(read(changed, [prompt], cache, labels=labels), read(changed, [prompt], PromptCache(), labels=labels))


def test_what_a_caller_does_to_a_state_changes_no_entry(recurrent: RecurrentModel) -> None:
    cache, prompt = PromptCache(), prompt_of(recurrent, 10)
    before = read(recurrent, [prompt], cache)
    for tensor in tensors(read(recurrent, [prompt], cache).state):
        tensor.zero_()
    assert same(read(recurrent, [prompt], cache), before)


@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_the_same_is_drawn_with_a_cache(recurrent: RecurrentModel, engine: str, tmp_path: Path) -> None:
    """Through every door; the repetition penalty knows the tokens of a prompt that was not read."""
    prompts, filters = [prompt_of(recurrent, 12), prompt_of(recurrent, 3)], Filters(repetition_penalty=1.5)
    cache = PromptCache(tmp_path)
    for _ in range(2):
        for each in (None, filters):
            plain = complete(recurrent, prompts, seed=1, max_tokens=9, filters=each, engine=engine)
            kept = complete(recurrent, prompts, seed=1, max_tokens=9, filters=each, engine=engine, prompt_cache=cache)
            assert all(torch.equal(a, b) for a, b in zip(plain, kept, strict=True))
        whole = [
            generate(recurrent, 2, seed=1, prompt=prompts[0], engine=engine, prompt_cache=each)
            for each in (None, cache)
        ]
        assert torch.equal(*whole)


# Size


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_oldest_make_room(recurrent: RecurrentModel, tmp_path: Path, reads: list[tuple[int, ...]]) -> None:
    read(recurrent, [prompt_of(recurrent, 10, seed=0)], PromptCache(tmp_path))
    one = size(tmp_path)
    cache = PromptCache(tmp_path, limit_bytes=3 * one + one // 2)
    for seed in range(1, 3):
        read(recurrent, [prompt_of(recurrent, 10, seed)], cache)
    for number, path in enumerate(sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (number, number))
    read(recurrent, [prompt_of(recurrent, 10, seed=0)], cache)  # the oldest is used, and so no longer the oldest
    reads.clear()
    read(recurrent, [prompt_of(recurrent, 10, seed=3)], cache)
    assert len([*tmp_path.iterdir()]) == 3 and len(reads) == 1
    for seed in (0, 2, 3):
        read(recurrent, [prompt_of(recurrent, 10, seed)], cache)
    assert len(reads) == 1
    read(recurrent, [prompt_of(recurrent, 10, seed=1)], cache)
    assert len(reads) == 2 and size(tmp_path) <= 3 * one + one // 2


def test_memory_is_bounded_too(recurrent: RecurrentModel, reads: list[tuple[int, ...]]) -> None:
    cache = PromptCache(limit_bytes=12_000)
    for seed in range(30):
        read(recurrent, [prompt_of(recurrent, 10, seed)], cache)
    reads.clear()
    read(recurrent, [prompt_of(recurrent, 10, seed=29)], cache)
    assert reads == []
    read(recurrent, [prompt_of(recurrent, 10, seed=0)], cache)
    assert len(reads) == 1


@pytest.mark.parametrize("in_folder", [True, False])
def test_what_does_not_fit_is_not_kept(recurrent: RecurrentModel, tmp_path: Path, in_folder: bool) -> None:
    cache = PromptCache(tmp_path if in_folder else None, limit_bytes=10)
    read(recurrent, [prompt_of(recurrent, 10)], cache)
    assert [*tmp_path.iterdir()] == []
    assert cache.get(recurrent, prompt_of(recurrent, 10)) is None
    with pytest.raises(ValueError, match="0 bytes: expected at least 1"):
        PromptCache(tmp_path, limit_bytes=0)


def test_files_of_others_are_left_alone(recurrent: RecurrentModel, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear")
    (tmp_path / ".x.writing-00000000").write_text("what a killed writer left")
    cache = PromptCache(tmp_path, limit_bytes=1)
    read(recurrent, [prompt_of(recurrent, 10)], cache)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


# Damage


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state": [1, 2]}))


def _other_state(path: Path) -> None:
    path.write_bytes(safetensors.torch.save({"tokens": torch.zeros(3)}, {"sha256": "0"}))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _commands(path: Path) -> None:
    header = json.dumps({"a": {"dtype": "\x1b[31m", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


@pytest.mark.parametrize("harm", [_cut, _flip, _empty, _pickle, _other_state, _folder, _pipe, _commands])
def test_damage_is_said_once_and_read_anew(
    recurrent: RecurrentModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: object
) -> None:
    prompts = [prompt_of(recurrent, 40), prompt_of(recurrent, 11)]
    before = read(recurrent, prompts, PromptCache(tmp_path))
    for path in [*tmp_path.iterdir()]:
        harm(path)  # type: ignore[operator]
    cache = PromptCache(tmp_path)
    assert same(read(recurrent, prompts, cache), before)
    assert same(read(recurrent, prompts, cache), before)
    said = capsys.readouterr().err
    assert said[:-1].isprintable()
    assert said.count("\n") == 1 and said.startswith("s4gen: a prompt in the cache is damaged, so it is read again (")
    if harm not in (_folder,):  # a folder cannot be replaced by a file, so it stays in the way
        assert same(read(recurrent, prompts, PromptCache(tmp_path)), before)
        assert capsys.readouterr().err == ""


def test_an_entry_in_the_place_of_another_is_not_believed(
    recurrent: RecurrentModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [prompt_of(recurrent, 11, seed) for seed in (1, 2)]
    before = [read(recurrent, [prompt], PromptCache(tmp_path)) for prompt in prompts]
    first, second = tmp_path.iterdir()
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    cache = PromptCache(tmp_path)
    assert all(same(read(recurrent, [prompt], cache), start) for prompt, start in zip(prompts, before, strict=True))
    assert "it is not of this model and these tokens" in capsys.readouterr().err


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    with pytest.raises(UserError, match="file is a file, and a prompt cache is a folder"):
        PromptCache(tmp_path / "file")
    with pytest.raises(UserError, match=r"the prompt cache cannot be used: .*file"):
        PromptCache(tmp_path / "file" / "below")
    with pytest.raises(UserError, match=r"the prompt cache cannot be used: .*link"):
        PromptCache(tmp_path / "link")


def test_a_folder_that_vanishes_or_is_full_costs_nothing_but_time(
    recurrent: RecurrentModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, folder = prompt_of(recurrent, 20), tmp_path / "kept"
    cache = PromptCache(folder)
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0  # prompts are private
    folder.rmdir()
    before = read(recurrent, [prompt], cache)  # made again
    assert len([*folder.iterdir()]) == 2
    for path in folder.iterdir():
        path.unlink()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert same(read(recurrent, [prompt], cache), before)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "disk full" in said and "going on without keeping prompts" in said
