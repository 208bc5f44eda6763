"""The command line on text, end to end: tokenise, train, convert, sample, say what it is; refusals in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from s4gen.bench import generation, limits, measure
from s4gen.checkpoint import load_checkpoint, save_checkpoint
from s4gen.cli import main
from s4gen.config import DataConfig, DensityConfig, ModelConfig, OptimConfig, Recipe, SSMConfig, TrainConfig
from s4gen.data.text import ByteTokenizer, from_json, layout_of, prepare_tokenizer
from s4gen.models.build import build_model

MODEL = ModelConfig(d_model=16, n_layers=1, d_ff=0, cutoffs=(20, 200))
SSM = SSMConfig(d_state=4)
RECIPE = Recipe(MODEL, SSM, DataConfig("wikitext-mini", vocab_size=800), OptimConfig(), TrainConfig(steps=2))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("saved") / "words"
    tokenizer = prepare_tokenizer("wikitext-mini", "word", 800, progress=False)
    model = build_model(DensityConfig(layout_of(tokenizer), MODEL, SSM))
    save_checkpoint(path, model, recipe=RECIPE, metrics={}, card="A card", tokenizer=tokenizer)
    return path


@pytest.fixture
def room(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with nothing but the checkpoint `words`."""
    shutil.copytree(saved, tmp_path / "words")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("s4gen: error: ")


Capture = pytest.CaptureFixture[str]

# sample


def test_sample_writes_a_text_that_the_seed_fixes(capsys: Capture, room: Path) -> None:
    command = ["sample", "words", "--prompt", "The history of", "--max-tokens", "20", "--engine", "eager", "--seed"]
    first, again, other = (output(capsys, *command, seed) for seed in ("1", "1", "2"))
    assert first == again != other
    assert first.startswith("The history of ") and first.endswith("\n")
    assert len(first.split(" ")) >= 20


def test_sample_is_live_for_one_text(capsys: Capture, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is flushed to the terminal before the next token is drawn."""
    shown: list[str] = []
    monkeypatch.setattr(
        "builtins.print", lambda *text, **options: shown.append(text[0]) if options.get("flush") else None
    )
    assert main(["sample", "words", "--max-tokens", "10", "--engine", "eager"]) == 0
    assert len(shown) == 11 and shown[-1] == ""


def test_several_texts_are_numbered_and_take_the_prompts_in_turn(capsys: Capture, room: Path) -> None:
    printed = output(capsys, "sample", "words", "--prompt", "The", "of a", "-n", "3", "--max-tokens", "5")
    blocks = dict(block.split(" of 3 ---\n", 1) for block in printed.split("--- ")[1:])
    assert sorted(blocks) == ["1", "2", "3"]
    assert blocks["1"].startswith("The ") and blocks["2"].startswith("of a ") and blocks["3"].startswith("The ")
    assert blocks["1"] != blocks["3"]


def test_prompts_come_from_a_file_and_texts_go_to_one(capsys: Capture, room: Path) -> None:
    (room / "prompts.txt").write_text("The first\n\nHe was a\n")
    (room / "prompts.jsonl").write_text('{"prompt": "The first"}\n{"text": ""}\n{"prompt": "He was a"}\n')
    options = ["--max-tokens", "6", "--engine", "eager"]
    for source in ("txt", "jsonl"):
        command = ["sample", "words", "--prompts", f"prompts.{source}", *options, "-o", f"{source}.jsonl"]
        assert output(capsys, *command) == f"3 texts in {source}.jsonl\n"
    assert (room / "txt.jsonl").read_bytes() == (room / "jsonl.jsonl").read_bytes()
    records = [json.loads(line) for line in (room / "txt.jsonl").read_text().splitlines()]
    assert [record["prompt"] for record in records] == [" The first", "", " He was a"]
    checkpoint = load_checkpoint("words")
    decode = checkpoint.tokenizer().decode
    for number, record in enumerate(records):
        assert (record["number"], record["ended"], len(record["tokens"])) == (number, "length", 6)
        assert decode(record["tokens"]) == record["text"]
        whole = torch.tensor([checkpoint.tokenizer().encode(record["prompt"]) + record["tokens"]])
        with torch.no_grad():
            nats = checkpoint.model.nats(whole)[0, -6:]
        assert record["log_probabilities"] == pytest.approx([-x for x in nats.tolist()], abs=1e-4)
    output(capsys, "sample", "words", "--prompts", "prompts.txt", *options, "-o", "out.txt")
    text = (room / "out.txt").read_text()
    assert (
        text
        == "\n\n".join(
            f"--- {i + 1} ---\n{(record['prompt'] + record['text']).lstrip(' ')}" for i, record in enumerate(records)
        )
        + "\n"
    )


def test_a_stop_string_ends_a_text_and_is_not_shown(capsys: Capture, room: Path) -> None:
    command = ["sample", "words", "--prompt", "The", "--max-tokens", "60", "--engine", "eager"]
    plain = output(capsys, *command)
    end = plain.split()[12]
    stopped = output(capsys, *command, "--stop", "no such string", "--stop", f" {end} ")
    assert plain.startswith(stopped.rstrip("\n")) and f" {end} " not in stopped[4:]
    assert len(stopped) < len(plain)


def test_a_repetition_penalty_says_where_it_runs(capsys: Capture, room: Path) -> None:
    command = ["sample", "words", "--max-tokens", "5", "--repetition-penalty", "1e9", "-n", "2", "-o", "x.jsonl"]
    assert main(command) == 0
    assert "s4gen: with a repetition penalty, going on with the eager engine\n" in capsys.readouterr().err
    for line in (room / "x.jsonl").read_text().splitlines():
        tokens = json.loads(line)["tokens"]
        assert len(set(tokens)) == len(tokens) == 5


def test_unknown_words_of_a_prompt_are_named(capsys: Capture, room: Path) -> None:
    assert main(["sample", "words", "--prompt", "The xylograph of Qqq", "--max-tokens", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("The <unk> of <unk> ")
    assert "s4gen: not in the vocabulary, so read as <unk>: Qqq xylograph\n" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-rows", "3", "--prompt", "a"], "--prompt-rows is for images, and words is a model of text"),
        (["--dataset", "mnist"], "--dataset is for images, and words is a model of text; leave it out"),
        (["-o", "x.png"], "x.png: texts are written as .txt or .jsonl; use a name that ends in one of these"),
        (["--prompt", "a", "--prompts", "p.txt"], "--prompt and --prompts are two ways to give prompts; leave one out"),
        (["--prompts", "gone.txt"], "gone.txt cannot be read: No such file or directory"),
        (["--prompts", "empty.txt"], "empty.txt is empty; expected a prompt in each line"),
        (["--prompts", "latin.txt"], "latin.txt is not UTF-8 at byte 1; convert it"),
        (["--prompts", "bad.jsonl"], 'bad.jsonl, line 2: expected a JSON object with "prompt" or "text", a string'),
        (["--prompt", "a\udcff"], "the text is not valid Unicode: character 1 is half a surrogate pair"),
        (["--stop", ""], "a stop string is empty"),
        (["--repetition-penalty", "0"], "argument --repetition-penalty: got '0', expected a number greater than 0"),
        (["--max-tokens", "0"], "argument --max-tokens: got 0, expected at least 1"),
        (["-o", "there.txt"], "there.txt exists; choose another name, or write over it with --force"),
        (["-o", "folder.txt"], "folder.txt is a folder; choose another name"),
    ],
)
def test_sample_refuses_in_one_line(arguments: list[str], message: str, capsys: Capture, room: Path) -> None:
    (room / "empty.txt").touch()
    (room / "there.txt").touch()
    (room / "folder.txt").mkdir()
    (room / "latin.txt").write_bytes(b"a\xe9")
    (room / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": 3}\n')
    assert refusal(capsys, "sample", "words", *arguments).startswith(message)


def test_what_is_for_text_is_refused_for_images(capsys: Capture, room: Path) -> None:
    for option in (["--max-tokens", "3"], ["--stop", "x"], ["--prompts", "x"], ["--repetition-penalty", "2"]):
        line = refusal(capsys, "sample", "mnist-small", "-o", "x.png", *option)
        assert line == f"{option[0]} is for text, and mnist-small is a model of images; leave it out"
    line = refusal(capsys, "sample", "mnist-small", "-o", "x.txt")
    assert line == "x.txt: images are written as PNG; use a name that ends in .png, or a folder"


# eval


def test_eval_gives_the_perplexities_and_the_name_of_the_protocol(capsys: Capture, room: Path) -> None:
    command = ["eval", "words", "--limit", "900", "--json"]
    results = {
        key: json.loads(output(capsys, *command, *options))
        for key, options in {
            "64": ["--chunk", "64"],
            "all": ["--chunk", "900"],
            "steps": ["--mode", "recurrent"],
            "windows": ["--windows", "16"],
        }.items()
    }
    wanted = results["all"]
    keys = {"word_perplexity", "perplexity", "bits_per_byte", "nats", "protocol", "length", "n_tokens", "n_words"}
    assert keys | {"seconds", "mode", "split", "dataset", "checkpoint"} == set(wanted)
    assert (wanted["protocol"], wanted["n_tokens"], wanted["n_words"]) == ("stream", 900, 900)
    assert (wanted["split"], wanted["dataset"]) == ("test", "wikitext-mini")
    for key in ("64", "steps"):
        assert results[key]["perplexity"] == pytest.approx(wanted["perplexity"], abs=1e-3)
    assert results["steps"]["engine"] == "eager"
    assert results["windows"]["protocol"] == "windows" and results["windows"]["length"] == 16
    assert abs(results["windows"]["perplexity"] - wanted["perplexity"]) > 1e-3


def test_eval_prints_a_line_for_people(capsys: Capture, room: Path) -> None:
    line = output(capsys, "eval", "words", "--split", "validation", "--limit", "100", "--windows", "30")
    assert line.startswith("words on wikitext-mini validation, in windows of 30: perplexity ")
    assert "bits/byte (100 tokens, 100 words, conv mode, " in line
    whole = output(capsys, "eval", "words")
    assert ", as one stream: " in whole and "(8,448 tokens, 8,448 words, " in whole


def test_eval_refuses_in_one_line(capsys: Capture, room: Path) -> None:
    line = refusal(capsys, "eval", "words", "--chunk", "3", "--windows", "3")
    assert line == "--chunk is of the stream, --windows is the other protocol; leave one out"
    line = refusal(capsys, "eval", "words", "--dataset", "mnist-mini")
    assert line == "mnist-mini is no text, and words a model of text: choose a fitting data set"
    for options in (["--chunk", "3"], ["--windows", "3"], ["--split", "validation"]):
        line = refusal(capsys, "eval", "mnist-small", *options)
        assert line.startswith(f"{' '.join(options).removesuffix(' 3')} is for text")
        assert line.endswith(", and mnist-small is a model of images; leave it out")


# The tokeniser


def test_the_tokeniser_travels_and_must_be_the_models(capsys: Capture, room: Path) -> None:
    output(capsys, "convert", "words", "converted", "--sequences", "1")
    file = room / "converted" / "tokenizer.json"
    assert file.read_bytes() == (room / "words" / "tokenizer.json").read_bytes()
    file.write_text(ByteTokenizer().to_json())
    assert refusal(capsys, "sample", "converted").startswith(
        "converted/tokenizer.json is of another vocabulary than the model: 257 tokens, <eos> being 256, where the "
        "model has 800 and 0; copy the checkpoint again"
    )
    file.write_text("{")
    assert refusal(capsys, "sample", "converted").startswith("converted/tokenizer.json is damaged or no tokeniser")
    file.write_bytes(b"\xff")
    assert refusal(capsys, "sample", "converted").startswith("converted/tokenizer.json is damaged")
    file.unlink()
    assert refusal(capsys, "sample", "converted").startswith("converted/tokenizer.json is missing")
    with pytest.raises(Exception, match="is a model of images, which has no tokeniser; expected one of text"):
        load_checkpoint("mnist-small").tokenizer()


def test_tokenize_prepares_what_training_finds(capsys: Capture, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4GEN_CACHE", str(room / "cache"))
    options = ["--dataset", "wikitext-mini", "--tokenizer", "bpe", "--vocab-size", "300"]
    found = json.loads(output(capsys, "tokenize", *options, "--json"))
    assert (found["tokenizer"], found["vocab"]) == ("bpe", 300)
    tokenizer = from_json(Path(found["file"]).read_text())
    for split, words in (("train", 54_386), ("validation", 12_009), ("test", 8_448)):
        file = found["splits"][split]
        assert file["words"] == words
        assert Path(file["file"]).stat().st_size == 2 * file["tokens"]
    before = sorted(room.rglob("*"))
    printed = output(capsys, "tokenize", *options)
    assert printed.startswith("tokeniser: bpe, 300 tokens") and "8,448 words" in printed
    assert sorted(room.rglob("*")) == before
    again = prepare_tokenizer("wikitext-mini", "bpe", 300, progress=False)
    assert again.fingerprint == tokenizer.fingerprint


def test_tokenize_refuses_in_one_line(capsys: Capture, room: Path) -> None:
    assert refusal(capsys, "tokenize").startswith("tokenize needs a RECIPE or --dataset NAME")
    assert (
        refusal(capsys, "tokenize", "--dataset", "mnist")
        == "mnist is not a text, and only texts need a tokeniser; name a text"
    )
    assert (
        refusal(capsys, "tokenize", "mnist-small")
        == "mnist is not a text, and only texts need a tokeniser; name a text"
    )
    assert refusal(capsys, "tokenize", "wikitext-mini", "--vocab-size", "3").startswith("a recipe says which text")
    assert refusal(capsys, "tokenize", "--dataset", "./gone").startswith("no corpus or file called './gone'")
    (room / "empty.txt").touch()
    assert main(["tokenize", "--dataset", "empty.txt"]) == 2
    assert "s4gen: error: there is no text in the train split of empty.txt" in capsys.readouterr().err


# train, convert, info


def test_the_tiny_recipe_trains_samples_and_goes_on(capsys: Capture, room: Path) -> None:
    out = "run"
    settings = ["train.steps=2", "train.eval_every=2", "train.eval_limit=2", "train.batch_size=2"]
    output(capsys, "train", "wikitext-mini", "--out", out, "--set", *settings)
    assert (room / out / "samples" / "step-000002.txt").read_text().strip()
    checkpoint = f"{out}/checkpoint"
    assert set(load_checkpoint(checkpoint).metrics["validation"]) >= {"word_perplexity", "bits_per_byte", "n_tokens"}
    output(capsys, "sample", checkpoint, "--prompt", "The", "--max-tokens", "3")
    printed = output(capsys, "info", checkpoint)
    assert "kind    text" in printed and "tokenizer\n    kind   word\n" in printed


def test_a_file_of_ones_own_is_a_data_set(capsys: Capture, room: Path) -> None:
    (room / "mine.txt").write_text("the cat sat on the mat\n" * 400, encoding="utf-8")
    settings = ["data.dataset=mine.txt", "data.tokenizer=bytes", "model.cutoffs=[]", "train.steps=1"]
    settings += ["train.eval_every=1", "train.n_samples=0", "train.save_every=1"]
    output(capsys, "train", "wikitext-mini", "--out", "run", "--set", *settings)
    printed = output(capsys, "convert", "run/checkpoint", "converted", "--sequences", "1")
    assert "bits/token" in printed and "(mine.txt test)" in printed


def test_convert_certifies_on_the_text_at_hand(capsys: Capture, room: Path) -> None:
    printed = output(capsys, "convert", "words", "out", "--sequences", "2")
    assert "2 sequences of 1024 tokens (wikitext-mini test)" in printed
    assert "bits/token" in printed
    line = refusal(capsys, "convert", "words", "out2", "--dataset", "mnist-mini")
    assert line == "mnist-mini is no text, and words a model of text: choose a fitting data set"
    line = refusal(capsys, "convert", "mnist-small", "out2", "--dataset", "wikitext-mini")
    assert line.startswith("wikitext-mini is text, and ") and "mnist-small a model of images: choose" in line


def test_info_of_a_checkpoint_of_text_is_json_too(capsys: Capture, room: Path) -> None:
    facts: dict[str, Any] = json.loads(output(capsys, "info", "words", "--json"))
    assert facts["layout"] == {"kind": "text", "vocab": 800, "start": 0, "length": 1024}
    assert facts["tokenizer"] == {"kind": "word", "vocab": 800}
    assert facts["recipe: data"] == {"dataset": "wikitext-mini", "tokenizer": "word", "vocab_size": 800}
    assert "chunk" in facts["recipe: train"]
    assert "chunk" not in json.loads(output(capsys, "info", "mnist-small", "--json"))["recipe: train"]


# every mixer, from training to text


@pytest.mark.parametrize("mixer", ["s4d", "s4", "h3", "attention"])
def test_every_mixer_is_trained_measured_and_sampled(
    capsys: Capture, room: Path, mixer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"model.mixer={mixer}", "model.d_model=16", "model.n_layers=1", "model.window=8", "ssm.init=legs"]
    settings += [
        "train.steps=2",
        "train.batch_size=2",
        "train.chunk=16",
        "train.eval_limit=2",
        "data.vocab_size=800",
        "model.cutoffs=[20,200]",
    ]
    settings += ["ssm.init=lin"] if mixer in ("s4d", "h3") else []
    assert main(["train", "wikitext-mini", "--out", "run", "--set", *settings]) == 0
    capsys.readouterr()
    command = ["eval", "run/checkpoint", "--limit", "60", "--json"]
    found = [json.loads(output(capsys, *command, *more)) for more in ([], ["--chunk", "7"], ["--windows", "60"])]
    assert found[0]["nats"] == pytest.approx(found[1]["nats"], rel=1e-5) == found[2]["nats"]
    if mixer == "attention":
        return
    stepped = json.loads(output(capsys, *command, "--mode", "recurrent"))
    assert stepped["nats"] == pytest.approx(found[0]["nats"], rel=1e-5)
    assert output(capsys, "sample", "run/checkpoint", "--prompt", "The", "--max-tokens", "5", "--engine", "eager")
    monkeypatch.setattr(generation, "measure_apart", measure.measure)
    monkeypatch.setattr(generation, "limits_apart", limits.limits)
    measured = output(
        capsys, "bench", "run/checkpoint", "--batch", "1", "--length", "9", "--engine", "eager", "--baseline", "conv"
    )
    assert "convolution again" in measured


# --prompt-cache


def test_a_prompt_is_read_once(capsys: Capture, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time nothing is computed, the text is the same, and parts fit together only if all have a cache."""
    from s4gen.sampling import recalling

    prompt = "The history of the city is long and the road to it is old"
    command = ["sample", "words", "--prompt", prompt, "--max-tokens", "9", "--engine", "eager"]
    plain = output(capsys, *command)
    assert output(capsys, *command, "--prompt-cache", "kept") == plain
    names = sorted(path.name for path in Path("kept").iterdir())
    assert len(names) == 1
    monkeypatch.setattr(recalling, "state_behind", None)
    assert output(capsys, *command, "--prompt-cache", "kept", "--prompt-cache-mb", "1") == plain
    assert sorted(path.name for path in Path("kept").iterdir()) == names


def test_the_options_of_the_cache_are_refused_where_they_do_nothing(capsys: Capture, room: Path) -> None:
    Path("file").write_text("")
    command = ["sample", "words", "--max-tokens", "3"]
    assert refusal(capsys, *command, "--prompt-cache", "kept").startswith(
        "--prompt-cache keeps what was read of prompts"
    )
    assert refusal(capsys, *command, "--prompt", "a", "--prompt-cache-mb", "3").startswith(
        "--prompt-cache-mb is the size"
    )
    assert refusal(capsys, *command, "--prompt", "a", "--prompt-cache", "file").startswith("file is a file")
    assert "expected at least 1" in refusal(capsys, *command, "--prompt", "a", "--prompt-cache-mb", "0")
    assert not Path("kept").exists()


def test_parts_with_a_cache_and_without_do_not_belong_together(capsys: Capture, room: Path) -> None:
    """Long prompts are rounded in another way with one."""
    command = ["sample", "words", "-n", "2", "--prompt", "a", "--max-tokens", "3", "--engine", "eager", "--batch", "1"]
    output(capsys, *command, "-o", "part0", "--shard", "0/2", "--prompt-cache", "kept")
    output(capsys, *command, "-o", "part1", "--shard", "1/2")
    assert "prompt_cache" in refusal(capsys, "merge", "all.txt", "part0", "part1")
    output(capsys, *command, "-o", "part2", "--shard", "1/2", "--prompt-cache", "kept")
    output(capsys, "merge", "all.txt", "part0", "part2")
