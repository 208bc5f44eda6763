"""Say what a checkpoint or a model preset is."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from s4gen.cli.output import print_json
from s4gen.cli.subject import is_preset
from s4gen.config import DensityConfig, ImageLayout, TextLayout, load_preset, recipe_to_dict

if TYPE_CHECKING:
    from s4gen.models.density import DensityModel


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
    """Tables of facts about a checkpoint."""
    from s4gen.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(name_or_path)
    facts = _model_facts(checkpoint.config, checkpoint.model)
    if isinstance(checkpoint.config.layout, TextLayout):
        tokenizer = checkpoint.tokenizer()
        facts["tokenizer"] = {"kind": tokenizer.kind, "vocab": tokenizer.vocab}
    facts["metrics"] = checkpoint.metrics
    if checkpoint.recipe is not None:
        tables = recipe_to_dict(checkpoint.recipe)
        facts |= {f"recipe: {section}": tables[section] for section in ("data", "optim", "train")}
    return facts


def preset_facts(name_or_path: str) -> dict[str, dict[str, Any]]:
    """Tables of facts about a preset; one without a layout is counted as a model of MNIST's."""
    from s4gen.models.density import DensityModel

    model, ssm, layout = load_preset(name_or_path)
    config = DensityConfig(layout or ImageLayout(28, 28, 1), model, ssm)
    return _model_facts(config, DensityModel(config))


def _model_facts(config: DensityConfig, model: DensityModel) -> dict[str, dict[str, Any]]:
    facts: dict[str, dict[str, Any]] = {
        "layout": {"kind": config.layout.kind} | dataclasses.asdict(config.layout) | {"length": config.layout.length},
        "model": dataclasses.asdict(config.model),
    }
    if config.model.mixer != "attention":
        facts["ssm"] = dataclasses.asdict(config.ssm)
    facts["parameters"] = count_parameters(model)
    facts["state"] = {"bytes_per_sequence": state_bytes(model)}
    return facts


def count_parameters(model: DensityModel) -> dict[str, int]:
    """Number of parameters of each part, and in all."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        first, *rest = name.split(".")
        part = first if first != "blocks" else "mixers" if rest[1] == "mixer" else "rest of the blocks"
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts | {"total": sum(counts.values())}


def state_bytes(model: DensityModel) -> int:
    """What the model remembers of one sequence after all of its tokens; only a KV cache grows on the way."""
    import torch
    from torch.utils._pytree import tree_leaves

    with torch.inference_mode():
        _, state = model.prefill(torch.zeros(1, model.config.layout.length - 1, dtype=torch.int64))
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor))


def _shown(value: Any) -> str:
    return f"{value:,}" if type(value) is int and abs(value) >= 10_000 else str(value)
