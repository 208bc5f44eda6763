"""The names that users write: kinds of data, data sets, tokenisers, engines, precisions, endings of files.

Each tuple stands here once and is imported wherever the names are checked, served or shown. Nothing is imported here,
so the command line has the names before it pays for torch.
"""

from __future__ import annotations

KINDS = ("image", "text", "audio")
"""The kinds of sequences; `Layout.kind` is one of these. Compressed files hold the places, so the order stays."""
PLURAL = {"image": "images", "text": "text", "audio": "sound", "series": "series"}
"""The words for data of each kind in messages, as in "a model of sound"."""

ROWS = {
    ("sample", "image"): "images",
    ("sample", "text"): "texts",
    ("sample", "audio"): "clips",
    ("eval", "image"): "images",
    ("eval", "text"): "windows or chunks",
    ("eval", "audio"): "clips",
}
"""The noun for the rows that `--shard` shares out, by verb and kind."""
SERIES = "series"
"""The kind of sequences of real numbers. It stands beside `KINDS`, because no density model is of this kind."""
TASKS = ("density", "classify", "regress", "forecast")
"""The purposes of training: a density, the class of a row, numbers that go with a row, or the values after a row."""
PREDICTIONS = TASKS[1:]
"""The tasks whose models give answers about what they read (`models.predictor.Predictor`)."""

SPLITS = ("train", "validation", "test")
"""The parts of a data set, in the order in which galleries number them."""

IMAGE_SETS = ("mnist", "cifar10", "mnist-mini", "cifar10-mini")
IMAGE_SET_SPLITS = ("train", "test")
"""The splits of `IMAGE_SETS`: for validation, training images are held out. Users' own images have all of `SPLITS`."""
TEXT_SETS = ("wikitext-2", "wikitext-103", "wikitext-mini")
AUDIO_SETS = ("fsdd", "fsdd-mini", "sc09", "youtubemix", "beethoven")
GENERATED_SETS = {"listops": "text", "pathfinder": "image", "pathx": "image"}
"""The sets that a program makes of a seed, and the kind of each. They are for classification."""
WITHOUT_VALIDATION = ("fsdd", "fsdd-mini")
"""The sets of sound that have no validation split: for validation, training clips are held out."""
MINI_OF = {
    "mnist": "mnist-mini",
    "cifar10": "cifar10-mini",
    "wikitext-2": "wikitext-mini",
    "wikitext-103": "wikitext-mini",
    "fsdd": "fsdd-mini",
}
"""The part of a data set that comes inside the package, for where a little real data is enough."""

IMAGE_PREFIX = "images:"
"""Stands before a folder, a file or a name on the hub that holds somebody's own images."""
AUDIO_PREFIX = "audio:"
"""Stands before a folder of somebody's own recordings."""
LABELLED_PREFIX = "labelled:"
"""Stands before a folder of texts by class, or Parquet files of texts and labels."""
CSV_PREFIX = "csv:"
"""Stands before a CSV file of series to forecast."""
ARRAY_PREFIX = "npy:"
"""Stands before a folder of arrays: rows of numbers, and what belongs to each."""

FITS = ("crop", "stretch")
"""The ways to bring an image to a size of another shape."""
TOKENIZERS = ("word", "bpe", "bytes")
"""Tokenisers that can be made of a text."""
PRECISIONS = ("auto", "fp32", "bf16")
"""The number formats that training computes in."""
ENGINES = ("auto", "eager", "compiled", "native", "native-bf16", "native-int8")
"""The programs that run the steps of a converted model."""
CODING_ENGINES = ("auto", "eager", "native", "native-bf16", "native-int8")
"""The engines that can drive a coder. The compiled one cannot: its compiler may make other code from run to run."""

TEXT_SUFFIXES = tuple(f"{suffix}{packed}" for packed in ("", ".gz") for suffix in (".txt", ".jsonl", ".md", ".text"))
"""Endings of files of text, regardless of case."""
SOUND_SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
    *(".w64", ".rf64", ".voc", ".sph", ".nist", ".sf", ".ircam", ".avr", ".pvf", ".xi", ".htk", ".sds", ".sd2", ".paf"),
    *(".iff", ".svx", ".8svx", ".wve"),
)
"""Endings of the formats of sound that libsndfile reads and that say themselves what they are."""
UNREADABLE_SOUND = (
    *(".m4a", ".aac", ".wma", ".ape", ".wv", ".amr"),
    *(".mka", ".mid", ".midi", ".ra", ".dsf", ".mpc", ".ac3"),
)
"""Endings of recordings that libsndfile does not read: these are skipped by name, and not passed over in silence."""
UNREADABLE_IMAGES = (".heic", ".heif", ".svg", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".jxl")
"""Endings of pictures that PIL does not read, treated in the same way; PIL itself says which ones it reads."""

WRITTEN_IMAGES = (".png",)
WRITTEN_TEXTS = (".txt", ".jsonl")
WRITTEN_SOUND = (".wav", ".flac")
"""Endings of the files that samples are written to; other names stand for folders, or are refused."""
REFUSED_IMAGES = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
"""Endings that somebody gives to an image to be written and that would otherwise become the name of a folder."""
REFUSED_SOUND = (".ogg", ".mp3", ".m4a", ".aac", ".opus", ".aif", ".aiff", ".raw", ".pcm", ".webm")
"""Endings that somebody gives to sound to be written, likewise."""
