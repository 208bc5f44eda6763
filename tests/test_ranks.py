"""Training on many ranks: the same curve as in one process, one who writes, and an end for all when one is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import HERE, by_hand, differ, launched, losses, ranks_of, said_by_us, train, wait_for, written
from two_hosts import cut_and_go_on, possible

from s4gen.checkpoint import load_tensors
from s4gen.config import DataConfig, ModelConfig, OptimConfig, Recipe, SSMConfig, TaskConfig, TrainConfig
from s4gen.errors import UserError
from s4gen.train import run
from s4gen.train.metrics import read_metrics
from s4gen.train.ranks import Ranks, check_evenly, joined_states, own_states, scored_together

CLOSE = 1e-5
"""How far losses may be apart, in bits or nats: float32 sums in another order."""


def recipe(kind: str, **train: Any) -> Recipe:
    """A tiny run without dropout, which would be another one on each rank, and with all optimisers there are."""
    model = {
        "images": ModelConfig("s4d", 8, 1, d_ff=8),
        "text": ModelConfig("s4", 8, 1, d_ff=8, mixers_per_block=2, cutoffs=(100,)),
        "sound": ModelConfig("s4d", 8, 1, d_ff=8, pool=(4, 2)),
        "classes": ModelConfig("s4", 8, 1, d_ff=8),
    }[kind]
    data = {
        "images": DataConfig("mnist-mini", validation=11),
        "text": DataConfig("wikitext-mini", tokenizer="word", vocab_size=300),
        "sound": DataConfig("fsdd-mini", labels=True, tail=0.01, validation=6, rate=1000),
        "classes": DataConfig("fsdd-mini", validation=6, rate=1000),
    }[kind]
    settings = {"steps": 6, "batch_size": 4, "accumulate": 2 if kind == "text" else 1, "eval_every": 3, "save_every": 3}
    limits = {"eval_limit": 11, "n_samples": 0, "log_every": 1, "precision": "fp32"}
    chunk = {"chunk": 16} if kind == "text" else {}
    return Recipe(
        dataclasses.replace(model, dropout=0.0),
        SSMConfig(d_state=4, init="legs"),
        data,
        OptimConfig(warmup_steps=2, muon_lr=0.01),
        TrainConfig(**{**settings, **limits, **chunk, **train}),
        TaskConfig("classify" if kind == "classes" else "density"),
    )


def with_dropout(settings: Recipe) -> Recipe:
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, dropout=0.2))


KINDS = ("images", "text", "sound", "classes")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one process, by kind."""
    folder = tmp_path_factory.mktemp("single")
    for kind in KINDS:
        run(recipe(kind), folder / kind, progress=False)
    return folder


def saved(out: Path) -> dict[str, torch.Tensor]:
    return load_tensors(out / "checkpoint" / "training.safetensors")


# What needs one process alone


def test_a_batch_that_cannot_be_shared_evenly_is_refused_with_what_to_choose() -> None:
    four = Ranks(0, 4)
    check_evenly(four, 8, 2)
    check_evenly(Ranks(), 7, 2)
    with pytest.raises(UserError, match=r"10 rows .* by 4 ranks: .* multiple of 4, such as 8 or 12"):
        check_evenly(four, 10, 1)
    with pytest.raises(UserError, match=r"4 rows .* by 4 ranks in 2 parts each .* multiple of 8, such as 8,"):
        check_evenly(four, 4, 2)


def test_one_process_is_a_group_of_one_and_sends_nothing() -> None:
    alone = Ranks()
    assert alone.leads and alone.alone and alone.rows(6) == slice(0, 6)
    assert alone.totals(1.5, 2.0) == [1.5, 2.0] and alone.from_leader(lambda: {"a": 1}) == {"a": 1}
    states = [(torch.zeros(2, 3), 5)]
    assert joined_states(alone, states, 1) == states and own_states(alone, states, 1) == states
    scores = scored_together(alone, lambda x: x.sum(-1), [(torch.ones(2, 3),), (torch.ones(1, 3),)])
    assert [part.tolist() for part in scores] == [[3.0, 3.0], [3.0]]


def test_every_rank_takes_its_rows_of_the_states() -> None:
    parts = [(torch.arange(4).view(4, 1), 7), (torch.arange(4, 8).view(4, 1), 7)]
    found = [own_states(Ranks(rank, 4, device=torch.device("cpu")), parts, 2) for rank in range(4)]
    assert [[leaf.flatten().tolist() for leaf, _ in rank] for rank in found] == [
        [[0], [1]],
        [[2], [3]],
        [[4], [5]],
        [[6], [7]],
    ]
    assert found[3][1][1] == 7


# Two ranks


def test_two_ranks_learn_what_one_process_does(single: Path, tmp_path: Path) -> None:
    """Images, text with its state, sound of many lengths, its classes, and shards; only rank 0 says anything."""
    for kind in KINDS:
        written(recipe(kind), tmp_path, f"{kind}.toml")
    for kind in ("text", "classes"):
        written(recipe(kind, shard=True), tmp_path, f"{kind}-shard.toml")
    said = by_hand(2, HERE / "train_together.py", tmp_path)
    assert said[0].count("s4gen: trained 6 steps") == 6 and not said[1], said
    for path in sorted(tmp_path.glob("*.toml")):
        one, two = single / path.stem.partition("-")[0], path.with_suffix("")
        assert differ(one, two) < CLOSE and differ(one, two, "validation") < CLOSE, path.stem
        a, b = saved(one), saved(two)
        assert {name: (x.shape, x.dtype) for name, x in a.items()} == {
            name: (x.shape, x.dtype) for name, x in b.items()
        }
    row = read_metrics(tmp_path / "images")[-2]
    assert 0 < row["scaling_efficiency"] <= 1 and row["images_per_second"] > 0


# Slow: four ranks, and faults


@pytest.mark.slow
@pytest.mark.faults("ranks: a signal to one or to all")
@pytest.mark.parametrize(("name", "to"), [("SIGTERM", "rank"), ("SIGINT", "launcher"), ("SIGHUP", "rank")])
def test_a_signal_saves_once_and_ends_all_and_one_process_goes_on(tmp_path: Path, name: str, to: str) -> None:
    out = tmp_path / "out"
    with launched(2, written(endless("text"), tmp_path), "--out", out) as process:
        wait_for(lambda: read_metrics(out), process)
        os.kill(ranks_of(process.pid)[1] if to == "rank" else process.pid, getattr(signal, name))
        _, said = process.communicate(timeout=200)
    assert process.returncode != 0
    assert said.count("stopped and saved at step") == 1, said
    assert "exitcode  : 130" in said or to == "launcher", said
    step = json.loads((out / "checkpoint" / "training.json").read_text())["step"]
    assert read_metrics(out)[-1]["step"] == step
    assert run(None, out, resume=True, steps=step + 2, progress=False)
    assert len(losses(out)) == step + 2


def endless(kind: str, save_every: int = 3) -> Recipe:
    return recipe(kind, steps=1_000_000, eval_every=1_000_000, save_every=save_every)


@pytest.mark.slow
@pytest.mark.faults("ranks: one is killed or hangs")
@pytest.mark.parametrize(("name", "victim"), [("SIGKILL", 1), ("SIGKILL", 0), ("SIGSTOP", 1), ("SIGSTOP", 0)])
def test_a_rank_that_is_killed_or_hangs_ends_all_and_is_named(tmp_path: Path, name: str, victim: int) -> None:
    out = tmp_path / "out"
    with launched(2, written(endless("images"), tmp_path), "--out", out, S4GEN_RANK_TIMEOUT="12") as process:
        wait_for(lambda: len(read_metrics(out)) > 3, process)
        number = ranks_of(process.pid)[victim]
        os.kill(number, getattr(signal, name))
        since = time.monotonic()
        _, said = process.communicate(timeout=200)
    print(f"{name} to rank {victim}: ended after {time.monotonic() - since:.1f} s")
    lines = [line for line in said_by_us(said) if "error" in line]
    assert process.returncode != 0 and len(lines) == 1, said
    assert f"rank {victim} (process {number} on " in lines[0] and "waits for it; go on with s4gen" in lines[0]
    assert ("has ended without a word" if name == "SIGKILL" else "has not answered for") in lines[0]
    assert time.monotonic() - since < 60
    step = json.loads((out / "checkpoint" / "training.json").read_text())["step"]
    assert run(None, out, resume=True, steps=step + 2, progress=False)


@pytest.mark.slow
def test_what_rank_0_refuses_is_said_once(tmp_path: Path) -> None:
    """A batch that cannot be shared, a wrong key of the recipe, data that are not there."""
    for command, words in (
        ((written(recipe("images"), tmp_path), "--out", tmp_path / "a", "--set", "train.batch_size=5"), "5 rows"),
        (("mnist-small", "--set", "train.stepz=5"), "unknown key train.stepz"),
        ((written(recipe("images"), tmp_path), "--out", tmp_path / "b", "--set", "data.dataset=images:no"), "no"),
    ):
        code, said = train(2, *command)
        lines = said_by_us(said)
        assert code != 0 and "exitcode  : 2" in said, said
        assert len(lines) == 1 and lines[0].startswith("s4gen: error: ") and words in lines[0], said
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_what_fails_at_rank_0_alone_ends_the_others_with_its_line(tmp_path: Path) -> None:
    """A checkpoint that cannot be written, while the other rank waits."""
    out = tmp_path / "out"
    with launched(2, written(endless("images", save_every=40), tmp_path), "--out", out) as process:
        wait_for(lambda: len(read_metrics(out)) > 3, process)
        (out / "metrics.jsonl").unlink()
        (out / "metrics.jsonl").mkdir()
        _, said = process.communicate(timeout=100)
    assert process.returncode != 0 and "exitcode  : 2" in said
    lines = said_by_us(said)
    assert len(lines) == 1 and "cannot write" in lines[0], said


@pytest.mark.slow
def test_what_a_recipe_and_the_command_line_may_ask_for_goes_with_ranks(tmp_path: Path) -> None:
    """Minutes, patience, blocks that are computed again, another run's weights, and a run that is replaced."""
    settings = recipe("sound", minutes=0.03, patience=1, checkpoint_activations=True, eval_every=2, shard=True)
    first = written(settings, tmp_path)
    code, said = train(2, first, "--out", tmp_path / "first")
    assert code == 0 and said.count("s a step, so") == 1 and said.count(" steps in 0.03 minutes") == 1, said
    assert (tmp_path / "first" / "best" / "model.safetensors").is_file()
    begun = ("--start-from", tmp_path / "first", "--set", "train.shard=false", "--force")
    code, said = train(2, written(recipe("sound"), tmp_path, "second.toml"), "--out", tmp_path / "first", *begun)
    assert code == 0 and said.count("tensors taken") == 1, said
    one = tmp_path / "one"
    code, said = train(1, tmp_path / "second.toml", "--out", one)
    assert code == 0 and not differ(one, tmp_path / "first") < 0.01, "it began from other weights"


@pytest.mark.slow
def test_torchrun_may_start_all_ranks_again(tmp_path: Path) -> None:
    """With --max-restarts a killed rank costs the steps since the last checkpoint; the run goes on by itself."""
    settings, out = written(recipe("text", steps=400, eval_every=400, save_every=20), tmp_path), tmp_path / "out"
    with launched(2, settings, "--out", out, restarts=1) as process:
        wait_for(lambda: len(read_metrics(out)) > 30, process)
        os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
        _, said = process.communicate(timeout=250)
    assert process.returncode == 0, said
    assert [row["step"] for row in read_metrics(out) if row["split"] == "train"] == list(range(1, 401))


@pytest.mark.slow
@pytest.mark.skipif(not possible(), reason="it takes Linux, root, ip and unshare")
def test_two_hosts_whose_network_is_cut_end_and_go_on(tmp_path: Path) -> None:
    settings, out = written(endless("images"), tmp_path), tmp_path / "out"
    seconds, said = cut_and_go_on(settings, out, 5)
    assert seconds < 60
    first, second = ([line for line in said_by_us(text) if "error" in line] for text in said)
    assert len(first) == 1 and "rank 1 (process " in first[0] and "has not answered for" in first[0]
    assert len(second) == 1 and "has had no contact with the launcher of rank 0" in second[0]


@pytest.mark.slow
def test_a_picture_of_the_curves_of_1_2_and_4_ranks(tmp_path: Path) -> None:
    """It is curves.png in the test's folder, and the largest difference is printed."""
    from matplotlib import pyplot

    settings = recipe("images", batch_size=8, steps=60, eval_every=60, save_every=60)
    first = written(settings, tmp_path)
    figure, (above, below) = pyplot.subplots(2, sharex=True, figsize=(6, 6))
    for n in (1, 2, 4):
        assert train(n, first, "--out", tmp_path / str(n))[0] == 0
        found = losses(tmp_path / str(n))
        above.plot(range(1, 61), found, label=f"{n} ranks", linewidth=5 - n)
        apart = [abs(x - y) for x, y in zip(found, losses(tmp_path / "1"), strict=True)]
        below.plot(range(1, 61), apart, label=f"{n} ranks")
        print(f"{n} ranks: {max(apart):.1e} bits/dim from one process at most")
        assert max(apart) < CLOSE
    above.set(ylabel="bits/dim of the batch"), below.set(ylabel="difference from one process", xlabel="step")
    above.legend(), below.legend()
    figure.savefig(tmp_path / "curves.png")
    print(tmp_path / "curves.png")


@pytest.mark.slow
def test_with_dropout_a_resumed_run_of_two_ranks_is_the_uninterrupted_one(tmp_path: Path) -> None:
    settings = written(with_dropout(recipe("text")), tmp_path)
    assert train(2, settings, "--out", tmp_path / "whole")[0] == 0
    stop_at(tmp_path / "cut", 2, settings, 3)
    assert train(2, "--resume", tmp_path / "cut")[0] == 0
    a, b = saved(tmp_path / "whole"), saved(tmp_path / "cut")
    assert all(torch.equal(a[name], b[name]) for name in a if name != "rng.cpu")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_four_ranks_and_the_number_of_ranks_may_change_from_resumption_to_resumption(
    single: Path, tmp_path: Path, kind: str
) -> None:
    """2 -> 4 -> 1, and with shards now and then; the curve is that of one process."""
    more = recipe(kind, batch_size=8, steps=9)
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(more, whole, progress=False)
    code, said = train(4, written(more, tmp_path), "--out", tmp_path / "four")
    assert code == 0, said
    assert differ(whole, tmp_path / "four") < CLOSE and differ(whole, tmp_path / "four", "validation") < CLOSE
    first = written(dataclasses.replace(more, train=dataclasses.replace(more.train, steps=9)), tmp_path, "first.toml")
    stop_at(out, 2, first, 3)
    stop_at(out, 4, None, 6)
    assert run(None, out, resume=True, progress=False)
    assert differ(whole, out) < CLOSE and differ(whole, out, "validation") < CLOSE


def stop_at(out: Path, n: int, settings: Path | None, step: int) -> None:
    """Let n ranks begin or go on with a run, and kill them all once its checkpoint is at `step`."""
    command = ("--resume", out) if settings is None else (settings, "--out", out)

    def is_saved() -> bool:
        try:
            return json.loads((out / "checkpoint" / "training.json").read_text())["step"] >= step
        except OSError:
            return False

    with launched(n, *command) as process:
        wait_for(is_saved, process)
        for number in ranks_of(process.pid).values():
            os.kill(number, signal.SIGKILL)
        process.communicate(timeout=100)
