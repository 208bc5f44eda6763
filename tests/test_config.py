"""Recipes, presets and configs: what is written loads back, and every mistake is one helpful sentence."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s4gen.config import (
    Answers,
    AudioLayout,
    DataConfig,
    DensityConfig,
    ImageLayout,
    InputLayout,
    ModelConfig,
    OptimConfig,
    PredictorConfig,
    Recipe,
    SeriesLayout,
    SSMConfig,
    TextLayout,
    TrainConfig,
    density_config_from_dict,
    density_config_to_dict,
    kind_of,
    load_preset,
    load_recipe,
    recipe_to_toml,
)
from s4gen.config.combinations import FOR_SETS, FOR_TASKS, GOES_WITH
from s4gen.config.mixers import MIXERS
from s4gen.config.schema import DISCRETIZATIONS, INITS, MOST_LAYERS
from s4gen.errors import UserError
from s4gen.files.shipped import shipped_names
from s4gen.models.build import build_shapes
from s4gen.models.predictor import Predictor

DEFAULT = Recipe(ModelConfig(), SSMConfig(), DataConfig(), OptimConfig(), TrainConfig())

whole = st.integers(1, 10**9)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
fraction = st.floats(min_value=0, max_value=1, exclude_max=True)


@st.composite
def models(draw: st.DrawFn) -> tuple[ModelConfig, SSMConfig]:
    mixer = draw(st.sampled_from(["s4d", "s4", "attention"]))
    n_heads = draw(st.integers(1, 64))
    model = ModelConfig(
        mixer=mixer,
        mixers_per_block=draw(st.integers(1, 9)),
        d_model=n_heads * draw(st.integers(1, 64)),
        n_layers=draw(st.integers(1, MOST_LAYERS)),
        d_ff=draw(st.integers(0, 10**6)),
        dropout=draw(fraction),
        n_heads=n_heads,
        zero_start=draw(st.booleans()),
    )
    dt_min, dt_max = sorted([draw(positive), draw(positive)])
    ssm = SSMConfig(
        d_state=2 * draw(st.integers(1, 512)),
        init=draw(st.sampled_from(MIXERS[mixer].inits or INITS)),
        discretization=draw(st.sampled_from(["auto", *(MIXERS[mixer].discretizations or DISCRETIZATIONS)])),
        dt_min=dt_min,
        dt_max=dt_max,
        n_ssm=draw(st.integers(0, 1)),
        decay=draw(st.sampled_from(["exp", "softplus", "relu"])),
        dt_transform=draw(st.sampled_from(["exp", "softplus"])),
        tie_dt=mixer != "s4d" or draw(st.booleans()),
        train_B=draw(st.booleans()),
    )
    return model, ssm


def of_images(draw: st.DrawFn, model: ModelConfig) -> ModelConfig:
    """Half of them read whole pixels, with whatever goes with the mixer."""
    if not draw(st.booleans()):
        return model
    attention = model.mixer == "attention"
    taps = not attention and draw(st.booleans())
    scans = ["raster", *([] if attention else ["row", "column"]), *(["none"] if taps else [])]
    return dataclasses.replace(
        model,
        whole_pixels=True,
        neighbourhood=draw(st.integers(0, 9)),
        taps=taps,
        scan=tuple(draw(st.lists(st.sampled_from(scans), min_size=1, max_size=4))),
        head=draw(st.sampled_from(["categorical", "mixture"])),
        components=draw(st.integers(1, 100)),
    )


def of_text(draw: st.DrawFn, model: ModelConfig) -> ModelConfig:
    cutoffs = draw(st.lists(st.integers(1, 10**6), unique=True, max_size=3))
    cutoffs = cutoffs if model.d_model >= 4 ** len(cutoffs) else []
    return dataclasses.replace(model, cutoffs=tuple(sorted(cutoffs)), window=draw(st.integers(1, 10**6)))


def of_audio(draw: st.DrawFn, model: ModelConfig) -> ModelConfig:
    recent = draw(st.integers(0, 4096))
    model = dataclasses.replace(model, window=draw(st.integers(1, 10**6)), mixers_per_block=1, recent=recent)
    if not model.traits.scannable:
        return model
    pool, expand = tuple(draw(st.lists(st.integers(2, 9), min_size=1, max_size=3))), draw(st.integers(1, 3))
    return dataclasses.replace(model, pool=pool, expand=expand, unet=draw(st.booleans()))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    kind = draw(st.sampled_from(["image", "text", "audio"]))
    if kind == "audio":
        seconds = st.floats(min_value=0, allow_infinity=False, allow_nan=False)
        data = st.builds(
            DataConfig,
            dataset=st.sampled_from(["fsdd", "sc09", "audio:recordings", "audio:/a/b.txt"]),
            rate=st.integers(100, 10**6),
            law=st.sampled_from(["", "mu-law", "linear"]),
            bits=st.integers(2, 16),
            normalise=st.sampled_from(["", "none", "peak", "minmax"]),
            labels=st.booleans(),
            validation=st.integers(0, 10**9),
            crop=seconds,
            tail=seconds,
            min_seconds=seconds,
        )
    elif kind == "text":
        data = st.builds(
            DataConfig,
            dataset=st.sampled_from(
                ["wikitext-2", "wikitext-103", "wikitext-mini", "my.txt", "a/b.jsonl.gz", "./folder"]
            ),
            tokenizer=st.sampled_from(["word", "bpe"]),
            vocab_size=st.integers(257, 10**9),
        )
    else:
        data = st.builds(
            DataConfig,
            dataset=st.sampled_from(["mnist", "cifar10", "mnist-mini", "cifar10-mini"]),
            validation=st.integers(0, 10**9),
            flips=st.booleans(),
        )
    optim = st.builds(
        OptimConfig,
        lr=positive,
        ssm_lr=positive,
        muon_lr=st.just(0.0) | positive,
        weight_decay=st.floats(min_value=0, allow_infinity=False, allow_nan=False),
        warmup_steps=st.integers(0, 10**9),
        grad_clip=positive,
        ema_decay=fraction,
    )
    train = st.builds(
        TrainConfig,
        steps=whole,
        minutes=st.none() | positive,
        batch_size=st.integers(1, 1000).map(lambda size: 6 * size),
        accumulate=st.sampled_from([1, 2, 3]),
        checkpoint_activations=st.booleans(),
        chunk=whole if kind == "text" else st.just(256),
        seed=st.integers(0, 2**32 - 1),
        precision=st.sampled_from(["auto", "fp32", "bf16"]),
        compile=st.booleans(),
        log_every=whole,
        eval_every=whole,
        eval_limit=whole,
        save_every=whole,
        n_samples=st.integers(0, 10**6),
        patience=st.integers(0, 10**6),
    )
    model, ssm = draw(models())
    of_kind = {"image": of_images, "text": of_text, "audio": of_audio}[kind]
    drawn, loop = draw(data), draw(train)
    if kind != "text" and not drawn.validation:
        loop = dataclasses.replace(loop, patience=0)
    return Recipe(of_kind(draw, model), ssm, drawn, draw(optim), loop)


@given(recipe=recipes())
def test_any_recipe_survives_the_trip_through_toml(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.toml"
    path.write_text(recipe_to_toml(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


@given(parts=models(), size=st.tuples(whole, whole, whole), levels=st.integers(2, 256), data=st.data())
def test_any_density_config_survives_the_trip_through_json(
    parts: tuple[ModelConfig, SSMConfig], size: tuple[int, int, int], levels: int, data: st.DataObject
) -> None:
    config = DensityConfig(ImageLayout(*size, levels), of_images(data.draw, parts[0]), parts[1])
    assert density_config_from_dict(json.loads(json.dumps(density_config_to_dict(config)))) == config


@given(parts=models(), vocab=st.integers(2, 10**6), length=whole, data=st.data())
def test_any_config_of_text_survives_the_trip_through_json(
    parts: tuple[ModelConfig, SSMConfig], vocab: int, length: int, data: st.DataObject
) -> None:
    model = of_text(data.draw, parts[0])
    model = dataclasses.replace(model, cutoffs=tuple(cut for cut in model.cutoffs if cut < vocab))
    config = DensityConfig(TextLayout(vocab, data.draw(st.integers(0, vocab - 1)), length), model, parts[1])
    assert density_config_from_dict(json.loads(json.dumps(density_config_to_dict(config)))) == config


@given(parts=models(), bits=st.integers(2, 16), classes=st.lists(st.text(), max_size=3), data=st.data())
def test_any_config_of_audio_survives_the_trip_through_json(
    parts: tuple[ModelConfig, SSMConfig], bits: int, classes: list[str], data: st.DataObject
) -> None:
    layout = AudioLayout(8000, "linear", bits, "peak", tuple(classes))
    config = DensityConfig(layout, of_audio(data.draw, parts[0]), parts[1])
    assert density_config_from_dict(json.loads(json.dumps(density_config_to_dict(config)))) == config


@pytest.mark.parametrize("dataset", ["mnist", "wikitext-2", "fsdd", "audio:x/y"])
def test_a_written_recipe_names_every_key_that_goes_with_its_data(dataset: str) -> None:
    """A key that has no value by default, of which there is one, is named in a comment."""
    text = recipe_to_toml(dataclasses.replace(DEFAULT, data=DataConfig(dataset)))
    tables = tomllib.loads(text)
    others = [key for key, kinds in GOES_WITH.items() if kind_of(dataset) not in kinds]
    others += [key for key, tasks in FOR_TASKS.items() if "density" not in tasks]
    others += [key for key in FOR_SETS if key not in others]  # none of these sets is for density models
    assert len(others) > 1
    for section in dataclasses.fields(Recipe):
        assert f"[{section.name}]" in text
        for field in dataclasses.fields(getattr(DEFAULT, section.name)):
            named = field.name in tables[section.name] or f"\n# {field.name} is not set\n" in text
            assert named is (f"{section.name}.{field.name}" not in others)
    assert text.count("is not set") == 1


def test_an_empty_recipe_is_all_defaults(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "")) == DEFAULT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nd_modle = 3", "unknown key model.d_modle; did you mean model.d_model?"),
        ("[modle]\nd_model = 3", "unknown section [modle]; did you mean [model]?"),
        (
            "[layout]\nheight = 3",
            "unknown section [layout]; expected [model], [ssm], [data], [optim], [train], [task]",
        ),
        ("[train]\nlr = 0.1", "unknown key train.lr; did you mean optim.lr?"),
        ("steps = 3", "unknown key steps; did you mean train.steps?"),
        (
            "[data]\nqqqq = 3",
            "unknown key data.qqqq; expected one of data.dataset, data.validation, data.tokenizer, data.vocab_size, "
            "data.rate, data.law, data.bits, data.normalise, data.labels, data.crop, data.tail, data.speed, "
            "data.gain, data.min_seconds, data.max_seconds, data.flips, data.size, data.channels, data.fit, "
            "data.grey, data.permuted, data.seed, "
            "data.counts, data.lengths, data.contour, data.text_column, data.label_column, data.longest, "
            "data.time_column, data.columns, data.splits",
        ),
        ("model = 3", "model = 3: expected a section [model]"),
        ('[train]\nsteps = "3"', 'train.steps = "3": got a string, expected a whole number'),
        ("[train]\nsteps = 3.0", "train.steps = 3.0: got a decimal number, expected a whole number"),
        ("[train]\nsteps = true", "train.steps = true: got true/false, expected a whole number"),
        ("[optim]\nlr = false", "optim.lr = false: got true/false, expected a number"),
        ("[data]\ndataset = 3", "data.dataset = 3: got a whole number, expected a word in quotes"),
        ("[data.dataset]\nx = 3", "data.dataset = {'x': 3}: got a table, expected a word in quotes"),
        ("[train]\nsteps = 0", "train.steps = 0: expected at least 1"),
        ("[train]\nseed = -1", "train.seed = -1: expected 0 to 4294967295"),
        ('[train]\nprecision = "fp16"', 'train.precision = "fp16": expected one of auto, fp32, bf16'),
        ("[model]\ndropout = 1", "model.dropout = 1.0: expected at least 0 and less than 1"),
        ("[model]\ndropout = nan", "model.dropout = nan: expected at least 0 and less than 1"),
        ("[optim]\nlr = inf", "optim.lr = inf: expected a number greater than 0"),
        ("[optim]\nema_decay = 1.0", "optim.ema_decay = 1.0: expected at least 0 and less than 1"),
        ("[optim]\nweight_decay = -0.1", "optim.weight_decay = -0.1: expected a number, at least 0"),
        ("[ssm]\nd_state = 7", "ssm.d_state = 7: expected an even number, at least 2"),
        ("[ssm]\ndt_min = 0.5", "ssm.dt_min = 0.5: expected at most ssm.dt_max = 0.1"),
        (
            '[ssm]\ninit = "hippo"',
            'ssm.init = "hippo": expected one of legs, lin, inv, inv2, quad, real, random, legt, lagt, fourier',
        ),
        (
            '[model]\nmixer = "s4"\n[ssm]\ninit = "lin"',
            'ssm.init = "lin" does not go with model.mixer = "s4": expected one of legs, legt, lagt, fourier',
        ),
        (
            '[model]\nmixer = "s4"\n[ssm]\ndiscretization = "zoh"',
            'ssm.discretization = "zoh" does not go with model.mixer = "s4": expected "bilinear" or "auto"',
        ),
        (
            '[model]\nmixer = "attention"\nd_model = 100',
            "model.d_model = 100: expected a multiple of model.n_heads = 8",
        ),
        (
            '[data]\ndataset = "minst"',
            'data.dataset = "minst": expected one of mnist, cifar10, mnist-mini, cifar10-mini, wikitext-2, '
            "wikitext-103, wikitext-mini, fsdd, fsdd-mini, sc09, youtubemix, beethoven, a path to text, such as "
            "./my.txt, images:FOLDER or audio:FOLDER",
        ),
        ("[ssm]\ntie_dt = 1", "ssm.tie_dt = 1: got a whole number, expected true or false"),
        ("[model]\nmixers = 0", "model.mixers_per_block = 0: expected at least 1"),
        (
            "[model]\ncutoffs = 3",
            "model.cutoffs = 3: got a whole number, expected a list of whole numbers, such as [2, 3]",
        ),
        (
            "[model]\ncutoffs = [1.5]",
            "model.cutoffs = [1.5]: got a list, expected a list of whole numbers, such as [2, 3]",
        ),
        ("[model]\ncutoffs = [5, 5]", "model.cutoffs = [5, 5]: expected increasing numbers from 1"),
        ("[model]\ncutoffs = [0]", "model.cutoffs = [0]: expected increasing numbers from 1"),
        (
            "[model]\nd_model = 15\ncutoffs = [5, 9]",
            "model.cutoffs = [5, 9]: 2 clusters, each 4 times as narrow as the one before, leave no width of "
            "model.d_model = 15; expected fewer",
        ),
        (
            "[model]\ncutoffs = [5]",
            'model.cutoffs = [5] goes with text, not with data.dataset = "mnist": leave it out',
        ),
        ("[train]\nchunk = 3", 'train.chunk = 3 goes with text, not with data.dataset = "mnist": leave it out'),
        (
            '[data]\ntokenizer = "bytes"',
            'data.tokenizer = "bytes" goes with text, not with data.dataset = "mnist": leave it out',
        ),
        (
            '[data]\ndataset = "my.txt"\nvalidation = 3',
            'data.validation = 3 goes with images and sound, not with data.dataset = "my.txt": leave it out',
        ),
        (
            '[data]\ndataset = "my.txt"\n[model]\nmixer = "attention"',
            'model.window = 0: attention needs a window, such as 512, on data.dataset = "my.txt"',
        ),
        ("[data]\nrate = 8000", 'data.rate = 8000 goes with sound, not with data.dataset = "mnist": leave it out'),
        ('[data]\ndataset = "fsdd"\nrate = 8', "data.rate = 8: expected 100 to 1000000 samples per second"),
        ('[data]\ndataset = "fsdd"\nlaw = "mu"', 'data.law = "mu": expected one of mu-law, linear'),
        ('[data]\ndataset = "fsdd"\nbits = 17', "data.bits = 17: expected 2 to 16"),
        ('[data]\ndataset = "fsdd"\nnormalise = "max"', 'data.normalise = "max": expected one of none, peak, minmax'),
        ('[data]\ndataset = "fsdd"\ntail = -1', "data.tail = -1.0: expected a number of seconds, at least 0"),
        (
            '[data]\ndataset = "fsdd"\nmin_seconds = 2\nmax_seconds = 1',
            "data.max_seconds = 1.0: expected at least 2.0, or 0",
        ),
        ("[model]\npool = [4, 1]", "model.pool = [4, 1]: expected strides of at least 2"),
        (
            '[model]\npool = [4]\nmixer = "lssl"',
            'model.pool = [4] does not go with model.mixer = "lssl": expected one of s4d, s4, dss',
        ),
        ("[model]\npool = [4]\nexpand = 0", "model.expand = 0: expected at least 1"),
        ("[model]\nexpand = 3", "model.expand goes with model.pool, which is not set: leave it out"),
        ("[model]\nunet = true", "model.unet goes with model.pool, which is not set: leave it out"),
        ("[model]\npool = [4]\nmixers = 2", "model.mixers_per_block = 2 does not go with model.pool: leave it out"),
        (
            '[model]\nmixer = "wavenet"',
            'model.mixer = "wavenet" goes with sound, not with data.dataset = "mnist"',
        ),
        (
            '[data]\ndataset = "fsdd"\n[model]\nmixer = "wavenet"\nd_ff = 0',
            'model.d_ff = 0: model.mixer = "wavenet" needs at least one skip',
        ),
        ('[data]\ntokenizer = "char"', 'data.tokenizer = "char": expected one of word, bpe, bytes'),
        (
            '[data]\ndataset = "x/"\ntokenizer = "bpe"',
            'data.vocab_size = 0: expected at least 257 for data.tokenizer = "bpe"',
        ),
        (
            '[data]\ndataset = "x/"\ntokenizer = "bytes"\nvocab_size = 300',
            'data.vocab_size = 300: expected 257 for data.tokenizer = "bytes"',
        ),
        (
            '[data]\ndataset = "x/"\nvocab_size = 1',
            'data.vocab_size = 1: expected at least 2 for data.tokenizer = "word"',
        ),
        ("[train]\nminutes = 0", "train.minutes = 0.0: expected a number greater than 0"),
        ("[train]\nminutes = inf", "train.minutes = inf: expected a number greater than 0"),
        ('[train]\nminutes = "ten"', 'train.minutes = "ten": got a string, expected a number'),
        ("[train]\npatience = -1", "train.patience = -1: expected at least 0"),
        (
            "[train]\npatience = 2\n[data]\nvalidation = 0",
            "train.patience = 2 needs held-out data, and data.validation = 0: hold some out, or leave it out",
        ),
        ("[train]\ncompile = 1", "train.compile = 1: got a whole number, expected true or false"),
        ("[optim]\nmuon_lr = -1", "optim.muon_lr = -1.0: expected a number, at least 0"),
        (
            '[data]\ndataset = "my.txt"\nflips = true',
            'data.flips = true goes with images, not with data.dataset = "my.txt": leave it out',
        ),
        (
            '[data]\ndataset = "my.txt"\n[model]\nwhole_pixels = true\nhead = "mixture"',
            'model.whole_pixels = true goes with images, not with data.dataset = "my.txt": leave it out',
        ),
        (
            '[data]\ndataset = "my.txt"\n[model]\nhead = "mixture"',
            "model.head goes with model.whole_pixels = true, which is not set: leave it out",
        ),
        ('[model]\nhead = "logistic"', 'model.head = "logistic": expected one of categorical, mixture'),
        ("[model]\ntaps = true", "model.taps goes with model.whole_pixels = true, which is not set: leave it out"),
        (
            "[model]\nneighbourhood = 2",
            "model.neighbourhood goes with model.whole_pixels = true, which is not set: leave it out",
        ),
        (
            '[model]\nscan = ["row"]',
            "model.scan goes with model.whole_pixels = true, which is not set: leave it out",
        ),
        (
            '[model]\nwhole_pixels = true\nscan = ["row", "diagonal"]',
            'model.scan = "diagonal": expected one of raster, row, column, none',
        ),
        (
            "[model]\nwhole_pixels = true\nscan = []",
            "model.scan = []: expected at least one of raster, row, column, none",
        ),
        (
            "[model]\nwhole_pixels = true\nscan = [1]",
            'model.scan = [1]: got a list, expected a list of strings, such as ["row"]',
        ),
        (
            '[model]\nwhole_pixels = true\nscan = ["none"]',
            'model.scan has "none", which leaves such a block nothing but taps: set model.taps = true',
        ),
        (
            '[model]\nwhole_pixels = true\nmixer = "attention"\nscan = ["raster", "column"]',
            'model.scan has "column", which does not go with model.mixer = "attention": expected "raster"',
        ),
        (
            '[model]\nwhole_pixels = true\nmixer = "attention"\ntaps = true',
            'model.taps = true does not go with model.mixer = "attention": expected false',
        ),
        (
            "[model]\nwhole_pixels = true\npool = [4]",
            "model.whole_pixels = true does not go with model.pool: leave one of them out",
        ),
        (
            '[model]\nwhole_pixels = true\nmixer = "wavenet"',
            'model.whole_pixels = true does not go with model.mixer = "wavenet": leave one of them out',
        ),
        ("[model]\nrecent = 4097", "model.recent = 4097: expected at most 4096"),
        ("[model]\nrecent = 4", 'model.recent = 4 goes with sound, not with data.dataset = "mnist": leave it out'),
        ("[train]\naccumulate = 3", "train.accumulate = 3: expected a divisor of train.batch_size = 64"),
    ],
)
def test_a_wrong_recipe_is_one_sentence_naming_file_key_and_remedy(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize("content", [b"[model", b"\xff\xfe", b"a = 1\na = 2", b"x = \x00"])
def test_a_file_that_is_not_toml_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.toml: not a TOML file: ") as error:
        load_recipe(path)
    assert "\n" not in str(error.value)


def test_a_missing_recipe_is_answered_with_the_shipped_names() -> None:
    with pytest.raises(UserError, match=r"^no recipe at nowhere.toml; ") as error:
        load_recipe("nowhere.toml")
    for name in shipped_names("train"):
        assert name in str(error.value)


def test_overrides_are_toml_values_and_bare_words_are_strings(tmp_path: Path) -> None:
    path = write(tmp_path, "[train]\nsteps = 5")
    overrides = [
        "train.steps=7",
        "optim.lr = 1e-2",
        "data.dataset=cifar10",
        'model.mixer="s4"',
        "model.dropout=0",
    ]
    recipe = load_recipe(path, overrides)
    assert recipe.train.steps == 7
    assert recipe.optim.lr == 0.01
    assert recipe.data.dataset == "cifar10"
    assert recipe.model.mixer == "s4"
    assert type(recipe.model.dropout) is float


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "--set train.stepz=3: unknown key train.stepz; did you mean train.steps?"),
        ("train.steps", "--set train.steps: expected section.key=value, such as train.steps=1000"),
        ("steps=3", "--set steps=3: expected section.key=value, such as train.steps=1000"),
        (
            "train.steps=many",
            '--set train.steps=many: train.steps = "many": got a string, expected a whole number',
        ),
        ("train.steps=-1", "--set train.steps=-1: train.steps = -1: expected at least 1"),
        (
            "train.steps=1\noptim.lr=2",
            '--set train.steps=1 optim.lr=2: train.steps = "1 optim.lr=2": got a string',
        ),
    ],
)
def test_a_wrong_override_is_named_instead_of_the_file(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, ""), [override])
    assert str(error.value).startswith(message)


def test_a_recipe_takes_a_preset_and_its_own_keys_win(tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_text(
        "[model]\nd_model = 512\nn_layers = 9\n[ssm]\nd_state = 32\n[layout]\nheight = 8\nwidth = 8\nchannels = 1"
    )
    path = write(tmp_path, '[model]\npreset = "wide.toml"\nn_layers = 2\n[ssm]\ninit = "lin"')
    recipe = load_recipe(path, ["model.d_ff=64"])
    assert recipe.model == ModelConfig(d_model=512, n_layers=2, d_ff=64)
    assert recipe.ssm == SSMConfig(d_state=32, init="lin")
    assert load_recipe(path, ["model.d_model=16"]).model.d_model == 16


def test_a_mistake_in_a_preset_names_the_preset(tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_text("[model]\nd_model = 0")
    path = write(tmp_path, '[model]\npreset = "wide.toml"')
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert str(error.value) == f"{tmp_path / 'wide.toml'}: model.d_model = 0: expected at least 1"
    with pytest.raises(UserError, match=r'model\.preset = "gone": no model preset at gone'):
        load_recipe(write(tmp_path, '[model]\npreset = "gone"'))


def test_a_preset_has_a_layout_only_if_it_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "[model]\nd_model = 32")
    assert load_preset(path) == (ModelConfig(d_model=32), SSMConfig(), None)
    path = write(tmp_path, '[layout]\nkind = "text"\nvocab = 9\nstart = 2\n[model]\nd_model = 32\ncutoffs = [3]')
    assert load_preset(path) == (ModelConfig(d_model=32, cutoffs=(3,)), SSMConfig(), TextLayout(9, 2, 1024))
    path = write(tmp_path, '[layout]\nkind = "image"\nheight = 3\nwidth = 4\nchannels = 1\nlevels = 2')
    assert load_preset(path) == (ModelConfig(), SSMConfig(), ImageLayout(3, 4, 1, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[layout]\nheight = 3\nwidth = 4", "layout.channels is missing"),
        ('[layout]\nkind = "sound"', 'layout.kind = "sound": expected "image" or "text"'),
        ("[layout]\nkind = 3", 'layout.kind = 3: expected "image" or "text"'),
        ('[layout]\nkind = "text"\nvocab = 5', "layout.start is missing"),
        ('[layout]\nkind = "text"\nvocab = 5\nheight = 5', "unknown key layout.height"),
        ('[layout]\nkind = "text"\nvocab = 5\nstart = 5', "layout.start = 5: expected 0 to 4, one of the tokens"),
        (
            '[layout]\nkind = "text"\nvocab = 5\nstart = 0\n[model]\ncutoffs = [5]',
            "model.cutoffs = [5]: expected numbers below the vocabulary of 5",
        ),
        (
            "[layout]\nheight = 3\nwidth = 4\nchannels = 1\n[model]\ncutoffs = [5]",
            "model.cutoffs = [5] goes with text, not with images: leave it out",
        ),
        (
            "[layout]\nheight = 3\nwidth = 4\nchannels = 1\nlevels = 257",
            "layout.levels = 257: expected 2 to 256",
        ),
        ("[train]\nsteps = 4", "unknown section [train]; expected [model], [ssm], [layout]"),
        (
            '[model]\nmixer = "s4"\n[ssm]\ninit = "inv"',
            'ssm.init = "inv" does not go with model.mixer = "s4"',
        ),
    ],
)
def test_a_wrong_preset_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_preset(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_every_shipped_recipe_and_preset_loads() -> None:
    for name in shipped_names("train"):
        assert load_recipe(name) == load_recipe(f"train/{name}.toml"), name
    for name in shipped_names("models"):
        assert load_preset(name)[2] is not None, f"{name} has no layout, so it cannot be benchmarked"


@pytest.mark.parametrize("name", shipped_names("models"))
def test_every_shipped_preset_builds(name: str) -> None:
    """On the meta device, where the largest has shapes and no memory."""
    model, ssm, layout = load_preset(name)
    assert layout is not None
    assert build_shapes(DensityConfig(layout, model, ssm)).config.model == model


@pytest.mark.parametrize("name", shipped_names("train"))
def test_every_shipped_recipe_builds(name: str) -> None:
    """With the layout of its kind of data; how many words there are matters to nothing else."""
    recipe = load_recipe(name)
    classes = ("0", "1")
    layouts: dict[str, InputLayout] = {
        "image": ImageLayout(28, 28, 1) if "mnist" in recipe.data.dataset else ImageLayout(32, 32, 3),
        "text": TextLayout(40_000, 0),
        "audio": AudioLayout(8000, classes=classes if recipe.task.kind == "density" else ()),
        "series": SeriesLayout(recipe.task.targets or ("x",), (0.0,), (1.0,)),
    }
    layout = layouts[kind_of(recipe.data.dataset)]
    if recipe.task.kind == "density":
        assert not isinstance(layout, SeriesLayout)
        model: torch.nn.Module = build_shapes(DensityConfig(layout, recipe.model, recipe.ssm))
    else:
        answers = Answers(recipe.task.targets or classes)
        with torch.device("meta"):
            model = Predictor(PredictorConfig(layout, recipe.model, recipe.ssm, recipe.task, answers))
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


@pytest.mark.parametrize("size", [5, 20, 60])
def test_large_models_of_pixels_are_as_large_as_their_names_say(size: int) -> None:
    model, ssm, layout = load_preset(f"cifar10-pixel-{size}m")
    assert layout is not None
    count = sum(p.numel() for p in build_shapes(DensityConfig(layout, model, ssm)).parameters())
    assert count == pytest.approx(size * 1e6, rel=0.05)


def test_the_models_of_the_s4_paper_have_its_hyperparameters() -> None:
    """arXiv 2111.00396, section D.3.1: blocks, width, feed-forward, downsampling, dropout."""
    for name, layers, width, dropout in (("cifar10-base", 8, 128, 0.0), ("cifar10-large", 16, 192, 0.1)):
        model = load_recipe(name).model
        assert model == load_preset(name)[0]
        assert (model.mixer, model.n_layers, model.d_model, model.d_ff) == ("s4", layers, width, 2 * width)
        assert (model.pool, model.unet, model.dropout) == ((3, 4, 4), True, dropout)


def test_values_are_checked_in_python_too() -> None:
    with pytest.raises(UserError, match=r"^model.d_model = -1: expected at least 1$"):
        ModelConfig(d_model=-1)
    with pytest.raises(UserError, match=r"ssm.init"):
        dataclasses.replace(DEFAULT, model=ModelConfig(mixer="s4"), ssm=SSMConfig(init="lin"))


def write(folder: Path, text: str) -> Path:
    path = folder / "x.toml"
    path.write_text(text, encoding="utf-8")
    return path
