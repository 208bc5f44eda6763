"""Checkpoints: a directory that holds a trained model and where it came from.

    config.json          format, its version, and the DensityConfig or PredictorConfig
    model.safetensors    parameters and buffers, exactly as they were
    tokenizer.json       of a model of text: which text its tokens are
    recipe.toml          the whole resolved recipe, where a training run made it
    metrics.json         what was measured
    README.md            the card
    curve.png            how a training run learnt; the card shows it

A converted one also holds `recurrent.safetensors` and `certificate.json` (s4gen.sampling.converted).
"""

from s4gen.checkpoint.files import (
    CURVE_FILE,
    FORMAT_VERSION,
    LAYER_FORMAT,
    PREDICTOR_FORMAT,
    TOKENIZER_FILE,
    config_in,
    load_fitting,
    load_tensors,
    read_json,
    save_tensors,
)
from s4gen.checkpoint.folder import (
    AnyCheckpoint,
    Checkpoint,
    PredictorCheckpoint,
    check_target,
    fill_checkpoint,
    load_any,
    load_checkpoint,
    load_model,
    load_predictor,
    load_tokenizer,
    resolve_checkpoint,
    save_checkpoint,
)

__all__ = [
    "CURVE_FILE",
    "FORMAT_VERSION",
    "LAYER_FORMAT",
    "PREDICTOR_FORMAT",
    "TOKENIZER_FILE",
    "AnyCheckpoint",
    "Checkpoint",
    "PredictorCheckpoint",
    "check_target",
    "config_in",
    "fill_checkpoint",
    "load_any",
    "load_checkpoint",
    "load_fitting",
    "load_model",
    "load_predictor",
    "load_tensors",
    "load_tokenizer",
    "read_json",
    "resolve_checkpoint",
    "save_checkpoint",
    "save_tensors",
]
