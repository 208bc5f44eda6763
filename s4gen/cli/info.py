"""Say what a checkpoint or a model preset is."""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import TYPE_CHECKING, Any

from s4gen.cli.media import MEDIA
from s4gen.cli.output import print_json
from s4gen.cli.presets import is_preset
from s4gen.config import DensityConfig, ImageLayout, Layout, load_preset, recipe_to_dict
from s4gen.config.combinations import means_something
from s4gen.errors import UserError

if TYPE_CHECKING:
    from s4gen.checkpoint import PredictorCheckpoint
    from s4gen.models.build import AnyModel
    from s4gen.models.density import DensityModel


SUMMARY = "Say what a checkpoint or a model preset is."
"""The command line shows this sentence for `-h`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="CHECKPOINT|PRESET", help="a path or a shipped name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    facts = preset_facts(args.subject) if is_preset(args.subject) else checkpoint_facts(args.subject)
    if args.json:
        print_json({"name": args.subject, **facts})
        return 0
    print(args.subject)
    for section, table in facts.items():
        print(f"  {section}")
        width = max((len(key) for key in table), default=0)
        for key, value in table.items():
            print(f"    {key:<{width}}  {_shown(value)}")
    return 0


def checkpoint_facts(name_or_path: str) -> dict[str, dict[str, Any]]:
    """Return tables of facts about a checkpoint."""
    from s4gen.checkpoint import PredictorCheckpoint, load_any

    checkpoint = load_any(name_or_path)
    if isinstance(checkpoint, PredictorCheckpoint):
        facts = predictor_facts(checkpoint)
    else:
        facts = _model_facts(checkpoint.config, checkpoint.model)
        facts |= MEDIA[checkpoint.config.layout.kind].extra_facts(checkpoint)
    facts["metrics"] = checkpoint.metrics
    if checkpoint.recipe is not None:
        tables = recipe_to_dict(checkpoint.recipe)
        facts |= {f"recipe: {section}": tables[section] for section in ("data", "optim", "train")}
    return facts


def predictor_facts(checkpoint: PredictorCheckpoint) -> dict[str, dict[str, Any]]:
    """Return tables of facts about a predictor."""
    from s4gen.models.flops import count_flops
    from s4gen.models.states import tensors

    config, model = checkpoint.config, checkpoint.model
    layout, settings = config.layout, dataclasses.asdict(config.task)
    task = {
        key: value for key, value in settings.items() if means_something(f"task.{key}", layout.kind, settings["kind"])
    }
    length = layout.length // (layout.channels if isinstance(layout, ImageLayout) and config.reader == "values" else 1)
    task |= {"reader": config.reader, "pool": config.task.pooling}
    facts: dict[str, dict[str, Any]] = {
        "task": task | {"answers": list(config.answers.names)},
        "layout": {"kind": layout.kind} | dataclasses.asdict(layout) | {"length": layout.length},
        "model": dataclasses.asdict(config.model),
    }
    if config.model.traits.inits:
        facts["ssm"] = dataclasses.asdict(config.ssm)
    facts["parameters"] = count_parameters(model)
    flops = count_flops(model, length)
    if config.task.bidirectional:
        facts["state"] = {"steps": "no: it reads rows in both directions"}
    else:
        facts["state"] = {"bytes_per_stream": sum(tensor.nbytes for tensor in tensors(model.initial_state(1)))}
    facts["flops"] = {
        "forward_per_position": round(flops.forward / length),
        "forward_per_row": flops.forward,
        "training_step_per_row": flops.training,
        "positions_per_row": length,
    }
    facts["memory"] = {"bytes_of_weights": sum(parameter.nbytes for parameter in model.parameters())}
    return facts


def preset_facts(name_or_path: str) -> dict[str, dict[str, Any]]:
    """Return tables of facts about a preset; it may be of any size, because its weights are not made.

    A preset without a layout is counted as a model of MNIST's images.
    """
    from s4gen.machine.memory import in_words
    from s4gen.models.build import MOST_NUMBERS, TooLargeError, build_shapes

    model, ssm, layout = load_preset(name_or_path)
    config = DensityConfig(layout or ImageLayout(28, 28, 1), model, ssm)
    try:
        shapes = build_shapes(config, MOST_NUMBERS)
    except TooLargeError as error:
        raise UserError(
            f"{name_or_path}: a model of more than {error.least:,} parameters, whose weights need more than "
            f"{in_words(4 * error.least)}; choose smaller sizes"
        ) from None
    return _model_facts(config, shapes)


def _model_facts(config: DensityConfig, model: DensityModel) -> dict[str, dict[str, Any]]:
    facts: dict[str, dict[str, Any]] = {
        "layout": {"kind": config.layout.kind} | _layout_facts(config.layout) | {"length": config.layout.length},
        "model": dataclasses.asdict(config.model),
    }
    if ssm := {
        key: value for key, value in dataclasses.asdict(config.ssm).items() if config.model.traits.reads_key(key)
    }:
        facts["ssm"] = ssm
    facts["parameters"] = count_parameters(model)
    if config.model.pool:
        facts["levels"] = count_levels(model)
    facts["state"] = {"bytes_per_sequence": state_bytes(model)}
    facts["flops"] = count_operations(model)
    facts["memory"] = {"bytes_of_weights": sum(parameter.nbytes for parameter in model.parameters())}
    return facts


def count_operations(model: DensityModel) -> dict[str, int]:
    """Count the operations of scoring a token and a sequence, and of a training step for each sequence in it."""
    from s4gen.models.flops import count_flops

    layout = model.config.layout
    flops, what = count_flops(model, layout.length), MEDIA[layout.kind].NOUN
    return {
        "forward_per_token": round(flops.forward / layout.length),
        f"forward_per_{what}": flops.forward,
        f"training_step_per_{what}": flops.training,
    }


def _layout_facts(layout: Layout) -> dict[str, Any]:
    """Return the fields of a layout; `bare_prompts` of text, which is rare, only where it is set."""
    facts = dataclasses.asdict(layout)
    if not facts.get("bare_prompts", True):
        del facts["bare_prompts"]
    return facts


def count_parameters(model: AnyModel) -> dict[str, int]:
    """Count the parameters of each part, and in all."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part(name.split("."))
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts | {"total": sum(counts.values())}


def _part(path: list[str]) -> str:
    if path[0] != "blocks":
        return path[0]
    return "mixers" if "mixer" in path else "pooling" if "pool" in path else "rest of the blocks"


def count_levels(model: DensityModel) -> dict[str, dict[str, int]]:
    """Describe each level of a multi-scale stack, pooling apart, the finest first; it runs once per `stride` tokens."""
    config = model.config.model
    levels: dict[str, dict[str, int]] = {}
    for depth in range(len(config.pool) + 1):
        level: Any = model.get_submodule("blocks.0" + ".inner" * depth)
        blocks = [*level.down, *level.up]
        levels[f"level {depth + 1}"] = {
            "stride": math.prod(config.pool[:depth]),
            "d_model": config.d_model * config.expand**depth,
            "blocks": len(blocks),
            "parameters": sum(parameter.numel() for block in blocks for parameter in block.parameters()),
        }
    return levels


def state_bytes(model: DensityModel) -> int:
    """Count the bytes that the model remembers of a whole sequence; only a KV cache grows on the way."""
    import torch

    from s4gen.models.states import tensors

    with torch.inference_mode():
        state = model.initial_state(1)
        if model.config.model.traits.state == "growing":
            tokens = torch.zeros(1, model.config.layout.length - 1, dtype=torch.int64, device=model.device)
            _, state = model.prefill(tokens)
    return sum(tensor.nbytes for tensor in tensors(state))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:,}" if type(value) is int and abs(value) >= 10_000 else str(value)
