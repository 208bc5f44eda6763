"""Put records of runs and checkpoints together as the sections of a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s4gen.reporting.records import Record, Row
from s4gen.reporting.samples import samples_by_step
from s4gen.showing.plots import COLOURS, GREY, Curve, curves_svg
from s4gen.showing.report import Beside, Block, Code, Drawing, Folded, Legend, Picture, Section, Table, Text
from s4gen.showing.words import plural

SAMPLE_BYTES = 24_000_000
"""Bytes of samples that a page holds at most, shared evenly by its runs."""
_UNKNOWN = "-"


def sections_of(records: Sequence[Record]) -> list[Section]:
    """Return the sections of a page about one record, or about several side by side."""
    budget = SAMPLE_BYTES // len(records)
    samples = {record.name: samples_by_step(record, budget) for record in records}
    several = len(records) > 1
    shown = [
        Section("Runs" if several else "In short", [_summary(records), *_notes(records)]),
        Section("Learning curves", curves_of(records)),
        Section("Measured", measured(records)),
        Section(
            "Samples by step",
            [
                block
                for record in records
                for block in ([Text(record.name)] if several and samples[record.name] else []) + samples[record.name]
            ],
        ),
        Section("Speed in training", _speed(records)),
        Section("Where the configurations differ", differences(records)),
        Section("Recipes" if several else "Recipe", _texts((r.name, r.recipe_text) for r in records)),
        Section("Cards" if several else "Card", _texts((r.name, r.card.split("\n## Recipe\n")[0]) for r in records)),
    ]
    return [section for section in shown if section.blocks]


def curves_of(records: Sequence[Record]) -> list[Block]:
    """Return the learning curves of all records, against steps and against minutes; a picture for each measure.

    Training batches are thin and smoothed, held-out data are points on a thick line. Beyond as many runs as there are
    colours, those that end worst on held-out data are grey.
    """
    blocks: list[Block] = []
    logged = [record for record in records if record.curve_measure is not None]
    for measure in dict.fromkeys(record.curve_measure for record in logged):
        assert measure is not None
        alike = [record for record in logged if record.curve_measure == measure]
        blocks += _pictures(alike, measure)
        other = alike[0].measures[0]
        if other != measure:  # predictors are judged by another measure than the one that they minimise
            blocks += _pictures([record for record in alike if other in record.measures], other)
    drawn: list[Block] = []
    for record in records:
        if not record.rows and record.curve.startswith(b"\x89PNG"):
            drawn.append(Picture(record.curve, f"{record.name}: loss against minutes of training"))
        elif not record.rows and record.is_run:
            blocks.append(Text(f"{record.name} has logged nothing yet."))
        elif record.rows and not record.held_out:
            blocks.append(Text(f"{record.name} has not been evaluated on held-out data yet."))
    return [*blocks, Beside(drawn)] if drawn else blocks


def measured(records: Sequence[Record]) -> list[Block]:
    """Return what was measured of each record: on held-out data at the best and last step, and of the checkpoint."""
    found = [(record.name, _measured(record)) for record in records]
    if len(records) == 1:
        return found[0][1]
    return [Folded(name, tables) for name, tables in found if tables]


def _measured(record: Record) -> list[Block]:
    tables: list[Block] = []
    if record.held_out and record.measures:
        best = min(record.held_out, key=lambda row: _order(row.get(record.measures[0])))
        last = record.held_out[-1]
        columns = {f"last, step {last['step']:,}": last}
        if best is not last:
            columns = {f"best, step {best['step']:,}": best, **columns}
        rows = [[words(key), *(_value(row, key) for row in columns.values())] for key in record.measures]
        tables.append(Table(["held-out data", *columns], rows))
    for name, table in record.metrics.items():
        # The log has the numbers of this one, and more of them.
        if isinstance(table, Mapping) and not (record.rows and name == "validation"):
            tables.append(Table([words(name), ""], [[words(str(key)), _shown(value)] for key, value in table.items()]))
    return tables


def differences(records: Sequence[Record]) -> list[Block]:
    """Return a table of the keys in which the recipes differ; nothing for fewer than two recipes."""
    known = [record for record in records if record.recipe]
    if len(known) < 2:
        return []
    keys = list(dict.fromkeys(key for record in known for key in record.recipe))
    differing = [key for key in keys if len({_shown(record.recipe.get(key)) for record in known}) > 1]
    if not differing:
        return [Text("The recipes are equal.")]
    if len(known) > len(differing):
        rows = [[record.name, *(_shown(record.recipe.get(key)) for key in differing)] for record in known]
        return [Table(["run", *differing], rows)]
    rows = [[key, *(_shown(record.recipe.get(key)) for record in known)] for key in differing]
    return [Table(["key", *(record.name for record in known)], rows)]


def words(key: str) -> str:
    """Return the name of a measure as people write it: "bits_per_dim" is "bits/dim"."""
    return key.replace("_per_", "/").replace("_", " ")


def _summary(records: Sequence[Record]) -> Table:
    """Return the table of what each record is and how far it has come."""
    header = ["run", "data", "model", "parameters", "steps", "minutes", "held out, best"]
    rows = []
    for record in records:
        last: Row = record.rows[-1] if record.rows else {}
        steps, planned = last.get("step", record.metrics.get("step")), record.recipe.get("train.steps")
        seconds = last.get("seconds", record.metrics.get("train_seconds"))
        done = _UNKNOWN if steps is None else _shown(steps)
        minutes = f"{seconds / 60:.1f}" if isinstance(seconds, int | float) else _UNKNOWN
        model = [_shown(record.recipe[key]) for key in ("model.mixer", "model.n_layers") if key in record.recipe]
        rows.append(
            [
                record.name,
                str(record.recipe.get("data.dataset", _UNKNOWN)),
                f"{model[0]}, {plural(int(model[1]), 'layer')}" if len(model) == 2 else _UNKNOWN,
                _UNKNOWN if record.parameters is None else f"{record.parameters:,}",
                f"{done} of {_shown(planned)}" if planned not in (None, steps) and record.is_run else done,
                minutes,
                _best(record),
            ]
        )
    if len(rows) == 1:
        return Table(["", ""], [list(pair) for pair in zip(header, rows[0], strict=True)])
    return Table(header, rows)


def _best(record: Record) -> str:
    """Return the best value of the first measure on held-out data."""
    if record.held_out and record.measures:
        measure = record.measures[0]
        values = [row[measure] for row in record.held_out if math.isfinite(row.get(measure, math.nan))]
        return f"{_shown(min(values))} {words(measure)}" if values else _UNKNOWN
    found = record.metrics.get("validation")
    if isinstance(found, Mapping) and found:
        measure, value = next(iter(found.items()))
        return f"{_shown(value)} {words(str(measure))}"
    return _UNKNOWN


def _notes(records: Iterable[Record]) -> list[Block]:
    return [Text(f"{record.name}: {note}.") for record in records for note in record.notes]


def _pictures(records: Sequence[Record], measure: str) -> list[Block]:
    colours = _colours(records, measure)
    behind = sorted(records, key=lambda record: colours[record.name] != GREY)  # grey curves are drawn first
    drawings: list[Block] = []
    for against, label, scale in (("step", "step", 1), ("seconds", "minutes of training", 60)):
        curves = [
            Curve([(row[against] / scale, row[measure]) for row in rows if measure in row], colours[record.name], faint)
            for record in behind
            for rows, faint in ((record.training, True), (record.held_out, False))
        ]
        drawings.append(Drawing(curves_svg(curves, label, words(measure)), f"{words(measure)} against {label}"))
    names = [(record.name, colours[record.name]) for record in records if colours[record.name] != GREY]
    if others := len(records) - len(names):
        names.append((f"{plural(others, 'other run')}", GREY))
    explained = "The thick line is held-out data; the pale one is training batches, smoothed."
    has_both = any(measure in row for record in records for row in record.training)
    legend: list[Block] = [Legend(names)] if len(records) > 1 else []
    return [Beside(drawings), *legend, *([Text(explained)] if has_both else [])]


def _colours(records: Sequence[Record], measure: str) -> dict[str, str]:
    """Give each record a colour by its name; where there are too few colours, the best records get them."""

    def end(record: Record) -> float:
        return min((_order(row.get(measure)) for row in record.held_out or record.training), default=math.inf)

    best = {record.name for record in sorted(records, key=end)[: len(COLOURS)]}
    left = iter(COLOURS)
    return {record.name: next(left) if record.name in best else GREY for record in records}


def _speed(records: Sequence[Record]) -> list[Block]:
    """Return a table of the speeds that the log holds: the median over the run, since single lines jump."""
    columns: dict[str, str] = {}
    for record in records:
        for key in record.training[0] if record.training else ():
            if key.endswith("_per_second"):
                columns[key] = words(key).replace("/second", "/s")
    columns |= {"utilisation": "share of the processor's peak", "scaling_efficiency": "scaling efficiency"}
    rows = []
    for record in records:
        found = {key: [row[key] for row in record.training if math.isfinite(row.get(key, math.nan))] for key in columns}
        if any(found.values()):
            rows.append([record.name, *(_speed_value(key, values) for key, values in found.items())])
    if not rows:
        return []
    used = [i for i in range(len(columns)) if any(row[i + 1] != _UNKNOWN for row in rows)]
    header, table = list(columns.values()), [[row[0], *(row[i + 1] for i in used)] for row in rows]
    return [Table(["run", *(header[i] for i in used)], table, "The median of all lines of the log")]


def _speed_value(key: str, values: Sequence[float]) -> str:
    if not values:
        return _UNKNOWN
    middle = statistics.median(values)
    return f"{middle:,.1f}" if key.endswith("_per_second") else f"{middle:.1%}"


def _texts(named: Iterable[tuple[str, str]]) -> list[Block]:
    return [Folded(name, [Code(text.strip())]) for name, text in named if text.strip()]


def _order(value: Any) -> float:
    """Return a value to sort by: what is not finite comes last."""
    return value if isinstance(value, int | float) and math.isfinite(value) else math.inf


def _value(row: Row, key: str) -> str:
    """Return a measure, with its standard error where it has one: that is of the row's first measure or of accuracy."""
    value = _shown(row.get(key))
    stderr = row.get("stderr", math.nan)
    if key in ("bits_per_dim", "bits_per_sample", "accuracy") and math.isfinite(stderr):
        return f"{value} ± {_shown(stderr)}"
    return value


def _shown(value: Any) -> str:
    """Return a value of a recipe or a measurement in a few letters."""
    if value is None:
        return _UNKNOWN
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "[]"
    return str(value)
