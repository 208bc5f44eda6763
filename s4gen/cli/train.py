"""Train a model from a recipe: a density model or, with a section [task], a predictor."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.cli.arguments import path_to_write
from s4gen.cli.media import MEDIA
from s4gen.config import Recipe, load_recipe
from s4gen.errors import UserError
from s4gen.files.folders import user_path

SUMMARY = "Train a model from a recipe."
"""The sentence that `-h` shows; not `__doc__`, which `python -OO` removes."""
EXAMPLES = (
    "s4gen train mnist-small",
    "s4gen train own-images --set data.dataset=images:photos data.size=32 --out runs/photos",
    "s4gen train --resume runs/photos",
)

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.models.density import DensityModel
    from s4gen.train.ranks import Ranks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a TOML file, or the name of a shipped recipe")
    parser.add_argument("-o", "--out", metavar="DIR", type=path_to_write, help="where to write (default: runs/RECIPE)")
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        help="change values of the recipe, such as train.steps=1000; --keys lists them",
    )
    parser.add_argument(
        "--start",
        "--start-from",  # torchrun takes --start for an abbreviation of its own options, wherever it stands
        dest="start",
        metavar="CHECKPOINT",
        help="begin from the weights of a checkpoint, not from random ones; those that do not fit the model are listed",
    )
    parser.add_argument(
        "--resume",
        metavar="DIR",
        type=user_path,
        help="go on with the run in this folder by its own recipe; only its length may be changed, by "
        "--set train.steps=N, and the rest of the run then follows the learning rate of the new length",
    )
    parser.add_argument("--force", action="store_true", help="replace a run that is in the folder already")
    parser.add_argument("--keys", action="store_true", help="list all keys of recipes, with what they mean, and end")


def run(args: argparse.Namespace) -> int:
    if args.keys:
        from s4gen.config.keys import listing

        print(listing(), end="")
        return 0
    world = os.environ.get("WORLD_SIZE", "1")
    if world == "1":
        return 0 if train_here(args) else 130
    from s4gen.train import follow
    from s4gen.train.joining import joined

    with joined() as ranks:
        done = train_here(args, ranks) if ranks.leads else follow(ranks)
    return 0 if done else 130


def train_here(args: argparse.Namespace, ranks: Ranks | None = None) -> bool:
    """Train as the arguments say, in one process or as the first of many `ranks`; returns whether the run has ended.

    Raises:
        UserError: the arguments, or the recipe, are wrong; and all that `train.run` raises.
    """
    steps = None
    if ranks is not None and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        _resume_after_restart(args)
    if args.resume is None:
        if args.recipe is None:
            raise UserError("train needs a RECIPE, or --resume DIR to go on with a run (see s4gen train -h)")
        recipe = load_recipe(args.recipe, args.overrides)
        out = folder_for(args)
    else:
        recipe, out = None, folder_of_run(args.resume)
        steps = check_resumable(args, out)
    from s4gen import train

    return train.run(
        recipe,
        out,
        resume=recipe is None,
        steps=steps,
        start=args.start,
        overwrite=args.force,
        sampler=draw,
        ranks=ranks,
    )


def folder_for(args: argparse.Namespace) -> Path:
    """The folder that a new run writes to."""
    out: Path = args.out or Path("runs", Path(args.recipe).stem)
    return out


def _resume_after_restart(args: argparse.Namespace) -> None:
    """Go on with the run that these arguments began, since torchrun starts all ranks again after one has failed."""
    from s4gen.train.folder import recipe_file

    if args.resume is None and args.recipe is not None and recipe_file(folder_for(args)) is not None:
        args.resume, args.recipe, args.out = folder_for(args), None, None
        args.overrides, args.force, args.start = [], False, None


def folder_of_run(path: Path) -> Path:
    """Return the folder of a run; the user may have named the folder of its checkpoint instead."""
    from s4gen.files.atomic import current

    state = (current(path) or path) / "training.json"
    return path.parent if state.is_file() and (path.parent / "recipe.toml").is_file() else path


def check_resumable(args: argparse.Namespace, out: Path) -> int | None:
    """Check that there is a run in `out`, and that the command line changes nothing of it but its number of steps.

    Returns:
        The new number of steps, or None if the command line does not change it.

    Raises:
        UserError: there is no run in the folder `out`, or the command line changes something else.
    """
    for option in ("out", "force", "start"):
        if getattr(args, option):
            raise UserError(
                f"--resume {args.resume} goes on in that folder: leave out --out and --force"
                + (" and --start" if option == "start" else "")
            )
    from s4gen.train.folder import recipe_file

    saved = recipe_file(out)
    if saved is None:
        raise UserError(f"cannot resume {args.resume}: there is no training run in it (no recipe.toml)")
    before, now = load_recipe(saved), load_recipe(args.recipe or saved, args.overrides)
    steps = now.train.steps if any(text.partition("=")[0].strip() == "train.steps" for text in args.overrides) else None
    if steps is not None:
        before = dataclasses.replace(before, train=dataclasses.replace(before.train, steps=steps))
    elif before.train.minutes is not None and before.train.minutes == now.train.minutes:
        now = _with_steps_of(now, before)
    if before != now and args.recipe is not None and not args.overrides:
        raise UserError(
            f"cannot resume {args.resume} with another recipe: leave out {args.recipe}, since --resume goes on by the "
            "run's own"
        )
    if before != now:
        raise UserError(
            f"cannot resume {args.resume} with another recipe: {_difference(before, now)}; "
            "leave out RECIPE and --set (but for train.steps), or start a new run with --out"
        )
    return steps


def _with_steps_of(recipe: Recipe, run: Recipe) -> Recipe:
    """Return the recipe with the steps and the warm-up that the run found for its minutes when it began.

    A recipe with `train.minutes` leaves both open, so without this it would always differ from the run's.
    """
    train = dataclasses.replace(recipe.train, steps=run.train.steps)
    optim = dataclasses.replace(recipe.optim, warmup_steps=run.optim.warmup_steps)
    return dataclasses.replace(recipe, train=train, optim=optim)


def draw(model: DensityModel, n: int, seed: int) -> Tensor:
    """Draw what training shows at each evaluation.

    It is handed to the training as a function, because `s4gen.train` may not import `s4gen.sampling`.
    """
    return MEDIA[model.config.layout.kind].draw(model, n, seed)


def _difference(before: Recipe, now: Recipe) -> str:
    """List the keys in which two recipes differ, with both values."""
    tables_before, tables_now = dataclasses.asdict(before), dataclasses.asdict(now)
    return ", ".join(
        f"{section}.{key} was {value!r}, is {tables_now[section][key]!r}"
        for section, table in tables_before.items()
        for key, value in table.items()
        if value != tables_now[section][key]
    )
