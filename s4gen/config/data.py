"""The section [data] of a recipe: which data are read, and how; and the kind of a data set by its name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from s4gen.config.checks import ConfigError, at_least, one_of
from s4gen.config.layouts import check_sound
from s4gen.config.names import (
    ARRAY_PREFIX,
    AUDIO_PREFIX,
    AUDIO_SETS,
    CSV_PREFIX,
    FITS,
    GENERATED_SETS,
    IMAGE_PREFIX,
    IMAGE_SETS,
    LABELLED_PREFIX,
    SERIES,
    TEXT_SETS,
    TEXT_SUFFIXES,
    TOKENIZERS,
)


@dataclass(frozen=True)
class DataConfig:
    """The data to train on."""

    dataset: str = "mnist"
    """Name or place of the data set. A name that ends in -mini is a small set inside the package.

    - Images: mnist, cifar10, mnist-mini, cifar10-mini; or images:PLACE, where PLACE is a folder of pictures or of
      Parquet files, a Parquet file, or OWNER/NAME on the Hugging Face hub.
    - Text: wikitext-2, wikitext-103, wikitext-mini; or a .txt, .md or .jsonl file, or a folder of them, whose name must
      be written with a slash.
    - Audio: fsdd, fsdd-mini, sc09, youtubemix, beethoven; or audio:FOLDER, a folder of recordings.
    - For classification also listops, pathfinder and pathx, which are generated; labelled:PATH, a folder of texts by
      class or Parquet files; and npy:FOLDER, arrays of inputs and classes.
    - For regression npy:FOLDER; for forecasting csv:FILE.
    """
    validation: int = 1000
    """How many images or clips are held out of the training split for the periodic evaluation; 0 means no evaluation.
    Folders of images, and audio other than fsdd, have a validation split of their own, of which this is the most that
    is used. Text has one, too; 0 leaves its evaluation out, and no other number is allowed."""
    tokenizer: str = "word"
    """Text only: the tokeniser. word splits at white space and has <eos> for the end of each line; bpe merges pairs of
    bytes; bytes has a token for each byte."""
    vocab_size: int = 0
    """Text only: how many tokens there are, <eos> and <unk> included. bpe needs it; for word, 0 takes all words."""
    rate: int = 0
    """Audio only: samples per second. 0 takes the rate of the set, and 16000 for a folder."""
    law: str = ""
    """Audio only: mu-law or linear. Empty takes the law of the set, and mu-law for a folder."""
    bits: int = 8
    """Audio only: bits of the code of a sample."""
    normalise: str = ""
    """Audio only: how each recording is scaled: none, peak or minmax. Empty takes that of the set, and none for a
    folder. Bits per sample can be compared only between models with the same scaling."""
    labels: bool = False
    """Images and audio: whether the model is conditional on the class of an image or a clip."""
    crop: float = 0.0
    """Audio only: seconds of a training sequence, which is cut at random from a clip. 0 takes that of the set, or whole
    clips."""
    tail: float = 0.0
    """Audio only: seconds of silence behind every training clip. From them the model learns to end a clip by itself.
    The training loss counts them, and they cost nearly nothing, so it is lower than the loss of held-out clips."""
    speed: float = 0.0
    """Classification of audio only: each time a training clip is read, it is played faster or slower, and so higher or
    lower, by a factor drawn at random from 1 - speed to 1 + speed."""
    gain: float = 0.0
    """Classification of audio only: each time a training clip is read, it is made louder or quieter by at most this
    many decibels, drawn at random."""
    min_seconds: float = 0.0
    """Audio only: recordings shorter than this are left out."""
    max_seconds: float = 0.0
    """Audio only: recordings longer than this are left out; 0 leaves none out."""
    flips: bool = False
    """Images only: mirror half of the training images, chosen at random, left to right."""
    size: int = 0
    """With images:PLACE only: every image is brought to this many rows and columns. 0 leaves images as they are; then
    all must be of one size."""
    channels: int = 0
    """With images:PLACE only: 1 for grey, 3 for red, green and blue. 0 takes 3 if any image has a colour, else 1."""
    fit: str = "crop"
    """With images:PLACE and a size only. crop scales an image until its shorter side fits, and takes the middle of the
    longer one; stretch scales each side by itself."""
    grey: bool = False
    """cifar10 for classification only: pixels are read as one grey value instead of three colours."""
    permuted: bool = False
    """Images for classification only: pixels are read in a random order, which is the same for all images."""
    seed: int = 0
    """Generated sets only: the seed of all their randomness. The same seed gives the same bytes."""
    counts: tuple[int, ...] = ()
    """Generated sets only: how many examples the train, the validation and the test split have. Empty takes the numbers
    of the benchmark: 96000, 2000 and 2000 of listops, 160000, 20000 and 20000 of pathfinder and pathx."""
    lengths: tuple[int, ...] = ()
    """listops only: an expression has more tokens than the first number and fewer than the second. Empty takes 500 and
    2000."""
    contour: int = 0
    """pathfinder only: how many paddles the contour has that joins two markers, which is how hard the images are.
    0 takes 14."""
    text_column: str = "text"
    """With labelled:PATH of Parquet files only: the column that holds the texts."""
    label_column: str = "label"
    """With labelled:PATH of Parquet files only: the column that holds the classes, as numbers or as names."""
    longest: int = 0
    """With labelled:PATH only: texts are cut after this many tokens. 0 cuts none."""
    time_column: str = ""
    """With csv:FILE only: the column that holds the time. Empty takes the first one that is called date, time, datetime
    or timestamp, in capitals or not."""
    columns: tuple[str, ...] = ()
    """With csv:FILE only: the columns that are read. Empty reads those of task.targets, or, if these are empty too, all
    columns but that of the time."""
    splits: tuple[int, ...] = ()
    """With csv:FILE only: how many rows, from the first on, the train, the validation and the test part have. Empty
    takes 12, 4 and 4 months of 30 days for a file called ETT*, and otherwise 70, 10 and 20 per cent."""

    def __post_init__(self) -> None:
        known = (*IMAGE_SETS, *GENERATED_SETS)
        if self.dataset not in known and kind_of(self.dataset) == "image" and not _is_own(self.dataset):
            names = ", ".join((*IMAGE_SETS, *TEXT_SETS, *AUDIO_SETS))
            raise ConfigError(
                "data.dataset",
                f'= "{self.dataset}": expected one of {names}, a path to text, such as ./my.txt, images:FOLDER or '
                "audio:FOLDER",
            )
        self._check_images()
        at_least(0, "data", validation=self.validation)
        one_of(TOKENIZERS, "data.tokenizer", self.tokenizer)
        least, most = {"word": (2, math.inf), "bpe": (257, math.inf), "bytes": (257, 257)}[self.tokenizer]
        if not least <= self.vocab_size <= most and (self.vocab_size or self.tokenizer == "bpe"):
            wanted = f"at least {least}" if most > least else f"{least}"
            raise ConfigError(
                "data.vocab_size", f'= {self.vocab_size}: expected {wanted} for data.tokenizer = "{self.tokenizer}"'
            )
        self._check_audio()
        self._check_examples()

    def _check_examples(self) -> None:
        """Raise ConfigError for a value of the sets that are not for density models which is out of range."""
        at_least(0, "data", contour=self.contour, longest=self.longest)
        if not 0 <= self.seed < 2**32:
            raise ConfigError("data.seed", f"= {self.seed}: expected 0 to {2**32 - 1}")
        if self.contour == 1 or self.contour > 30:
            raise ConfigError("data.contour", f"= {self.contour}: expected 2 to 30 paddles, or 0")
        for key in ("counts", "splits"):
            numbers = getattr(self, key)
            if numbers and (len(numbers) != 3 or min(numbers) < 1):
                raise ConfigError(f"data.{key}", f"= {list(numbers)}: expected three numbers, each at least 1")
        if self.lengths and (len(self.lengths) != 2 or not 1 <= self.lengths[0] <= self.lengths[1]):
            raise ConfigError("data.lengths", f"= {list(self.lengths)}: expected the least and the most, at least 1")
        if len(set(self.columns)) < len(self.columns):
            raise ConfigError("data.columns", f"= {list(self.columns)}: expected each column once")

    def _check_images(self) -> None:
        if not self.dataset.isprintable() and any("\ud800" <= character <= "\udfff" for character in self.dataset):
            raise ConfigError(
                "data.dataset", f"= {self.dataset!a} is not valid Unicode: rename it, or set LC_ALL=C.UTF-8"
            )
        at_least(0, "data", size=self.size)
        if self.channels not in (0, 1, 3):
            raise ConfigError("data.channels", f"= {self.channels}: expected 1 (grey), 3 (red, green, blue) or 0")
        one_of(FITS, "data.fit", self.fit)
        if _is_own(self.dataset):
            return
        for key, default in (("size", 0), ("channels", 0), ("fit", "crop")):
            if kind_of(self.dataset) == "image" and getattr(self, key) != default:
                raise ConfigError(f"data.{key}", f"goes with images:PLACE, not with {self.dataset}: leave it out")

    def _check_audio(self) -> None:
        check_sound("data", self.rate or 16_000, self.law or "mu-law", self.bits, self.normalise or "none")
        for key in ("crop", "tail", "min_seconds", "max_seconds"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"data.{key}", f"= {getattr(self, key)}: expected a number of seconds, at least 0")
        if not 0 <= self.speed <= 0.5:
            raise ConfigError("data.speed", f"= {self.speed}: expected a number from 0 to 0.5")
        if not 0 <= self.gain <= 60:
            raise ConfigError("data.gain", f"= {self.gain}: expected a number of decibels from 0 to 60")
        if 0 < self.max_seconds < self.min_seconds:
            raise ConfigError("data.max_seconds", f"= {self.max_seconds}: expected at least {self.min_seconds}, or 0")


def _is_own(dataset: str) -> bool:
    """Return whether the data set is the user's own images, images:PLACE."""
    return dataset.startswith(IMAGE_PREFIX)


def kind_of(dataset: str) -> str:
    """Return the kind of a data set: image, text, audio or series.

    Text is a named corpus, or a path, which is known by the ending of a text file or by a slash.
    """
    if dataset in GENERATED_SETS:
        return GENERATED_SETS[dataset]
    if dataset.startswith((CSV_PREFIX, ARRAY_PREFIX)):
        return SERIES
    if dataset.startswith(LABELLED_PREFIX):
        return "text"
    if dataset in AUDIO_SETS or dataset.startswith(AUDIO_PREFIX):
        return "audio"
    if _is_own(dataset):
        return "image"
    return "text" if dataset in TEXT_SETS or dataset.lower().endswith(TEXT_SUFFIXES) or "/" in dataset else "image"


def is_text(dataset: str) -> bool:
    """Return whether a data set is text."""
    return kind_of(dataset) == "text"
