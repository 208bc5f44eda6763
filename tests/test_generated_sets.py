"""The generated data sets, against their definitions: ListOps and Pathfinder."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from s4gen.config import DataConfig, TaskConfig
from s4gen.data.examples import ExampleSplits
from s4gen.data.labelled import generated, listops, open_examples, paddles, pathfinder, workers
from s4gen.data.labelled.contours import Contour
from s4gen.data.labelled.draws import Draws
from s4gen.errors import UserError

CLASSIFY = TaskConfig("classify")


def value_of(text: str) -> int:
    """Evaluate an expression with a stack, as slowly and plainly as can be."""
    stack: list[list[str]] = [[]]
    for word in text.split():
        if word.startswith("["):
            stack.append([word])
        elif word == "]":
            operator, *words = stack.pop()
            numbers = [int(w) for w in words]
            assert 2 <= len(numbers) <= 10
            result = {
                "[MIN": min(numbers),
                "[MAX": max(numbers),
                "[MED": int(np.median(numbers)),
                "[SM": sum(numbers) % 10,
            }[operator]
            stack[-1].append(str(result))
        else:
            assert word in set("0123456789")
            stack[-1].append(word)
    ((result,),) = stack
    return int(result)


def depth_of(text: str) -> int:
    """Return the depth of the deepest node, the root having depth 1."""
    depth = deepest = 0
    for word in text.split():
        deepest = max(deepest, depth + 1)
        depth += (word != "]") and word.startswith("[")
        depth -= word == "]"
    return deepest


def listops_rows(n: int, seed: int = 0, lengths: tuple[int, int] = (50, 300)) -> list[tuple[NDArray[np.uint8], int]]:
    return list(itertools.islice(listops.expressions(lengths, seed), n))


def test_every_expression_has_its_value() -> None:
    rows = listops_rows(1500)
    for tokens, value in rows:
        text = listops.TOKENIZER.decode(tokens.tolist())
        assert value_of(text) == value
        assert 50 < len(tokens) == len(text.split()) < 300
        assert listops.TOKENIZER.encode(text) == tokens.tolist()
    assert {value for _, value in rows} == set(range(10))
    assert len({tokens.tobytes() for tokens, _ in rows}) == len(rows)


def test_expressions_of_the_benchmarks_length() -> None:
    rows = listops_rows(100, lengths=listops.LENGTHS)
    assert all(500 < len(tokens) < 2000 for tokens, _ in rows)
    texts = [listops.TOKENIZER.decode(tokens.tolist()) for tokens, _ in rows]
    assert [value_of(text) for text in texts] == [value for _, value in rows]
    assert max(map(depth_of, texts)) == listops.MAX_DEPTH


def test_trees_are_drawn_as_the_definition_says() -> None:
    """Without limits of length: a node is an operation with probability 1/4, operators and digits are uniform."""
    words = Counter[str]()
    trees = 0
    for tokens, _ in listops_rows(3000, lengths=(3, 10**6)):
        words.update(listops.TOKENIZER.decode(tokens.tolist()).split())
        trees += 1
    operators = {name: words[name] for name in listops.OPERATORS}
    assert sum(operators.values()) == words["]"]
    for counts in (operators, {digit: words[digit] for digit in "0123456789"}):
        expected = sum(counts.values()) / len(counts)
        assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values())
    nodes = sum(words.values()) - words["]"]
    arguments = (nodes - trees) / words["]"]
    assert abs(arguments - 6) < 0.05  # 2 to 10, uniform
    # A level has 1.5 times the nodes of the one above. Of depths 2 to 9 a quarter are operations, of depth 10 none.
    expected = 0.25 * sum(1.5**k for k in range(8)) / sum(1.5**k for k in range(9))
    assert (words["]"] - trees) / (nodes - trees) == pytest.approx(expected, abs=0.004)


def test_listops_are_the_same_on_every_machine() -> None:
    """The hash was made once; another numpy, or another processor, must give the same bytes."""

    def digest(seed: int) -> str:
        rows = listops_rows(500, seed)
        return hashlib.sha256(b"".join(tokens.tobytes() + bytes([value]) for tokens, value in rows)).hexdigest()

    assert digest(0).startswith("4b3634acf36859af")
    assert digest(0) != digest(1)


def test_lengths_that_no_expression_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listops, "_PATIENCE", 3)
    with pytest.raises(UserError, match=r"data.lengths = \[0, 2\]: after 10 examples, none of 12,288 more"):
        listops_rows(11, lengths=(0, 2))


def pictures(name: str, n: int, contour: int = 0, seed: int = 0) -> list[pathfinder.Example]:
    return list(itertools.islice(pathfinder.examples(pathfinder.contours_of(name, contour), seed), n))


def alone(definition: pathfinder.Definition, contour: Contour) -> NDArray[np.uint8]:
    """Paint one contour, and nothing else."""
    scene = pathfinder.Scene((contour, contour), ())
    return pathfinder.paint(definition, scene, ())


@pytest.mark.parametrize(("name", "contour", "n"), [("pathfinder", 0, 30), ("pathfinder", 6, 30), ("pathx", 0, 3)])
def test_markers_are_joined_exactly_in_images_of_class_yes(name: str, contour: int, n: int) -> None:
    """Gaps are closed by a dilation of each contour alone; then markers on one contour are in one component."""
    definition = pathfinder.contours_of(name, contour)
    for example in pictures(name, n, contour):
        joined = []
        for path in example.scene.contours:
            # Half a gap is the margin, and a paddle's ink may fall short of its end by a pixel.
            grown = ndimage.binary_dilation(alone(definition, path) > 0, np.ones((3, 3)), max(definition.margins) + 1)
            parts, count = ndimage.label(grown, np.ones((3, 3)))
            assert count == 1, "a contour is one path"
            touched = [parts[marker] > 0 for marker in example.markers]
            joined.append([marker in path.ends for marker in example.markers])
            assert all(touch for touch, end in zip(touched, joined[-1], strict=True) if end)
        assert (([True, True] in joined) and ([False, False] in joined)) is bool(example.label)
        first, second = example.markers
        for marker, number in ((first, 0), (second, 1)):
            assert any(path.ends[number] == marker for path in example.scene.contours)


@pytest.mark.parametrize(("name", "contour", "n"), [("pathfinder", 0, 40), ("pathfinder", 9, 40), ("pathx", 0, 3)])
def test_images_have_the_numbers_of_the_definition(name: str, contour: int, n: int) -> None:
    definition = pathfinder.contours_of(name, contour)
    for number, example in enumerate(pictures(name, n, contour)):
        assert example.label == number % 2
        assert example.image.shape == (definition.size, definition.size)
        assert example.image.max() == 255
        first, second = example.scene.contours
        assert [len(path.strokes) for path in (first, second)] == [definition.contour] * 2
        assert math.dist(first.ends[0], second.ends[0]) == pytest.approx(definition.seed_distance, abs=0.75)
        assert len(example.scene.distractors) <= definition.distractors
        assert all(len(path.strokes) == definition.distractor for path in example.scene.distractors)
        gaps = [math.dist(a[0], b[0]) for a, b in itertools.pairwise(first.strokes[1:])]
        margins = [definition.length + 2 * margin for margin in definition.margins]
        assert max(gaps) < max(margins) + 2.5
        # Nothing of a path lies in the border but the rim of its ink.
        core = alone(definition, first) > 127
        assert not core[0].any() and not core[-1].any() and not core[:, 0].any() and not core[:, -1].any()


def test_the_benchmarks_numbers() -> None:
    """Of lra_benchmarks/data/pathfinder.py: Pathfinder32 and Pathfinder128."""
    small, large = pathfinder.PATHFINDER, pathfinder.PATHX
    assert (small.distractor, small.distractors) == (4, 5)
    assert (large.distractor, large.distractors) == (4, 8)
    easy = pathfinder.contours_of("pathfinder", 6)
    assert (easy.distractor, easy.distractors) == (2, 10)
    assert (small.size, small.padding, small.seed_distance, small.marker_radius) == (32, 1, 7, 1.5)
    assert (small.length, small.thickness, small.continuity) == (2, 0.5, 1.0)
    assert (small.contrast, small.paddle_contrast) == (2, 0.75)
    assert (large.size, large.seed_distance, large.marker_radius, large.thickness) == (128, 20, 3, 1.5)
    assert (large.continuity, large.margins, large.length) == (1.8, (2, 3), 5)


def test_contours_keep_apart_and_turn_smoothly() -> None:
    """Two contours never cross: the ink of one is outside of the other's; and no turn is beyond a right angle."""
    for example in pictures("pathfinder", 40):
        first, second = (alone(pathfinder.PATHFINDER, path) > 127 for path in example.scene.contours)
        assert not (first & second).any()
        for path in example.scene.contours:
            points = [point for point, _ in path.strokes[1:]]
            turns = []
            for a, b, c in zip(points, points[1:], points[2:], strict=False):
                before, after = math.atan2(b[0] - a[0], b[1] - a[1]), math.atan2(c[0] - b[0], c[1] - b[1])
                turns.append(abs((after - before + math.pi) % (2 * math.pi) - math.pi))
            assert max(turns) < math.radians(110)
            assert np.mean(turns) < math.radians(50)


def test_images_are_the_same_on_every_machine() -> None:
    def digest(name: str, n: int, seed: int) -> str:
        return hashlib.sha256(b"".join(example.image.tobytes() for example in pictures(name, n, 0, seed))).hexdigest()

    assert digest("pathfinder", 20, 0).startswith("dd7fd2f6e034c9ce")
    assert digest("pathx", 2, 0).startswith("2ffe8d81216dbc2a")
    assert digest("pathfinder", 20, 0) != digest("pathfinder", 20, 1)


def test_several_processes_make_the_same_images() -> None:
    definition = pathfinder.contours_of("pathfinder", 3)
    count = 2 * pathfinder.CHUNK + 1
    made = workers.rows(definition, 3, count, processes=2)
    expected = pictures("pathfinder", count, 3, 3)
    for (row, label), example in zip(made, expected, strict=False):
        assert label == example.label and (row == example.image.ravel()).all()
    made.close()
    for first in (1, pathfinder.CHUNK, count - 1):
        with contextlib.closing(workers.rows(definition, 3, count, first, processes=2)) as later:
            for (row, label), example in zip(later, expected[first : first + 3], strict=False):
                assert label == example.label and (row == example.image.ravel()).all()
    streams = [example.image.tobytes() for example in expected[:: pathfinder.CHUNK]]
    assert len(set(streams)) == 3, "every chunk has its own random numbers"


def test_processes_end_with_the_one_that_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = workers._start
    monkeypatch.setattr(workers, "_start", lambda *order: started.append(start(*order)) or started[-1])
    short = pathfinder.contours_of("pathfinder", 3)
    made = workers.rows(short, 0, 3 * pathfinder.CHUNK, processes=2)
    assert not started, "none is started before somebody reads"
    next(made)
    assert [worker.poll() for worker in started] == [None, None]
    made.close()
    assert all(worker.poll() is not None for worker in started)
    # One whose reader has gone without a word ends by itself.
    alone = start(short, 0, range(10**6))
    assert alone.stdout is not None
    alone.stdout.close()
    assert alone.wait(60) == 1
    # One that dies is noticed.
    made = workers.rows(short, 0, 5 * pathfinder.CHUNK, processes=2)
    next(made)
    started[-1].kill()
    with pytest.raises(UserError, match="ended too early"):
        list(made)


def test_a_paddle_is_its_area() -> None:
    canvas = paddles.Canvas(32, 12)
    for thickness, length in ((0.5, 2), (1.5, 5)):
        stamps = [paddles.paddle(canvas, paddles.turned(degree), length, thickness, 1) for degree in range(0, 360, 7)]
        areas = np.array([stamp.ink.sum() for stamp in stamps]) / (thickness * (length + 0.5))
        assert abs(areas - 1).max() < 0.13  # 64 points of a pixel
        assert areas.mean() == pytest.approx(1, abs=0.01)
    assert paddles.disc(3.0).sum() == pytest.approx(math.pi * 9, rel=0.02)


def test_sets_of_pixels() -> None:
    canvas = paddles.Canvas(5, 2)
    assert canvas.point(canvas.bit(-1, 6)) == (-1, 6)
    pixels = canvas.bit(1, 1), canvas.bit(3, 4)
    assert paddles.members(sum(1 << bit for bit in pixels)).tolist() == list(pixels)
    inner = ~canvas.outside(1)
    assert [canvas.point(int(bit)) for bit in paddles.members(inner)] == [(r, c) for r in (1, 2, 3) for c in (1, 2, 3)]


def test_draws_are_uniform_and_the_same_with_every_numpy() -> None:
    draws = Draws(7)
    assert draws.array(1000, 6).tolist() == [625, 897, 775, 225, 300, 873]
    assert sorted(draws.permutation(50).tolist()) == list(range(50))
    counts = np.bincount([draws.below(5) for _ in range(20_000)], minlength=5)
    assert len(counts) == 5 and (abs(counts - 4000) < 300).all()
    assert Draws(7, 1).array(1000, 6).tolist() != Draws(7).array(1000, 6).tolist()


def opened(dataset: str, **settings: object) -> ExampleSplits:
    return open_examples(DataConfig(dataset, **settings), CLASSIFY)  # type: ignore[arg-type]


def test_splits_of_listops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path))
    splits = opened("listops", lengths=(50, 300), counts=(40, 7, 5), seed=3)
    assert [len(splits.split(name)) for name in ("train", "validation", "test")] == [40, 7, 5]
    expected = listops_rows(52, seed=3)
    rows = [*splits.train.inputs, *splits.validation.inputs, *splits.test.inputs]
    targets = [*splits.train.targets, *splits.validation.targets, *splits.test.targets]
    assert all((row == wanted).all() for row, (wanted, _) in zip(rows, expected, strict=True))
    assert targets == [value for _, value in expected]
    assert splits.notes == ("not the benchmark itself: expressions of 50 to 300 tokens, not of 500 to 2000 tokens",)
    assert (splits.layout.kind, splits.layout.vocab, splits.answers) == ("text", 17, tuple("0123456789"))
    assert len(splits.train.inputs[:3]) == 3
    # What was made is taken from the cache, whole files only.
    monkeypatch.setattr(listops, "expressions", lambda *_: (row for row in ()))
    again = opened("listops", lengths=(50, 300), counts=(40, 7, 5), seed=3)
    assert (again.test.inputs[2] == splits.test.inputs[2]).all()


def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path))
    settings = {"lengths": (50, 300), "counts": (6, 1, 1)}
    first = opened("listops", **settings)
    rows = [row.tobytes() for row in first.train.inputs]
    (tokens,) = tmp_path.glob("generated/listops-*/tokens")
    tokens.write_bytes(tokens.read_bytes()[:-1])
    assert [row.tobytes() for row in opened("listops", **settings).train.inputs] == rows


class _DiedError(BaseException):
    """Stands for whatever ends a process."""


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("stops", [[4], [7, 8, 11], [1, 9]])
@pytest.mark.parametrize("dataset", ["listops", "pathfinder"])
def test_an_interrupted_set_goes_on_where_it_was_and_has_the_same_bytes(
    dataset: str, stops: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_processors", lambda: 1)  # other processes would not know the small chunks
    monkeypatch.setattr(generated, "PIECE", 3)
    monkeypatch.setattr(pathfinder, "CHUNK", 4)
    monkeypatch.setattr(workers, "CHUNK", 4)
    settings = {"counts": (8, 2, 3), **({"lengths": (50, 300)} if dataset == "listops" else {"contour": 3})}
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path / "whole"))
    opened(dataset, **settings)
    (whole,) = (tmp_path / "whole" / "generated").glob(f"{dataset}-*[!k]")
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path / "parts"))
    make, begins = generated._fill, list[int]()

    def dying(begun: Path, name: str, key: object, count: int, examples: Any, progress: bool, after: int) -> None:
        def some(first: int) -> Any:
            begins.append(first)
            yield from itertools.islice(examples(first), after - first)
            raise _DiedError

        make(begun, name, key, count, some, progress)  # type: ignore[arg-type]

    for stop in stops:
        monkeypatch.setattr(generated, "_fill", functools.partial(dying, after=stop))
        with pytest.raises(_DiedError):
            opened(dataset, **settings)
    # What was written behind the last whole piece does not count, whatever it is.
    for tokens in (tmp_path / "parts" / "generated").glob("*.begun/tokens"):
        tokens.write_bytes(tokens.read_bytes() + b"half a piece")
    monkeypatch.setattr(generated, "_fill", make)
    opened(dataset, **settings)
    (found,) = (tmp_path / "parts" / "generated").glob(f"{dataset}-*[!k]")
    assert found.name == whole.name and _files(found) == _files(whole)
    assert begins == [0, *(stop // 3 * 3 for stop in stops[:-1])], "whole pieces are not made again"


def test_a_begun_set_that_lacks_what_it_claims_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path))
    settings = {"lengths": (50, 300), "counts": (6, 1, 1)}
    rows = [row.tobytes() for row in opened("listops", **settings).train.inputs]
    (folder,) = tmp_path.glob("generated/listops-*[!k]")
    begun = folder.with_name(f"{folder.name}.begun")
    for done in ("5 100000", "5", "", "five 5", "99 5", "5 5 5"):
        folder.rename(begun)
        (begun / "done").write_text(done)
        (begun / "tokens").write_bytes(b"\0" * 20)
        assert [row.tobytes() for row in opened("listops", **settings).train.inputs] == rows, done


def test_what_cannot_be_generated_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path))
    monkeypatch.setattr(listops, "_PATIENCE", 2)
    with pytest.raises(UserError, match="choose other lengths"):
        opened("listops", lengths=(1, 2), counts=(6, 1, 1))
    assert [path.suffix for path in tmp_path.glob("generated/*")] == [".lock"]


def test_splits_of_pathfinder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path))
    splits = opened("pathfinder", counts=(8, 2, 4), contour=6)
    for examples in (splits.train, splits.validation, splits.test):
        assert np.bincount(examples.targets).tolist() == [len(examples) // 2] * 2
    expected = pictures("pathfinder", 14, contour=6)
    assert (splits.train.inputs[5] == expected[5].image.ravel()).all()
    assert (splits.test.inputs[3] == expected[13].image.ravel()).all()
    assert (splits.layout.kind, splits.layout.length, splits.answers) == ("image", 1024, ("no", "yes"))
    assert splits.notes == ("not the benchmark's hardest: contours of 6 paddles, not of 14",)
    assert opened("pathfinder", counts=(8, 2, 4)).notes == ()


def test_the_numbers_of_the_benchmark_are_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[int, int, int]]] = []

    def note(name: str, parameters: object, counts: tuple[int, int, int], *_: object) -> object:
        asked.append((name, counts))
        raise InterruptedError

    monkeypatch.setattr("s4gen.data.labelled.opening.generated", note)
    for dataset in ("listops", "pathfinder", "pathx"):
        with pytest.raises(InterruptedError):
            opened(dataset)
    assert asked == [
        ("listops", (96_000, 2_000, 2_000)),
        ("pathfinder", (160_000, 20_000, 20_000)),
        ("pathx", (160_000, 20_000, 20_000)),
    ]
    assert generated.generated.__module__ == "s4gen.data.labelled.generated"
