"""The fields of requests: what each may hold, what is unknown, and what all kinds of models have in common."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from s4gen.config.filters import FilterSettings
from s4gen.errors import UserError, printable, shortened
from s4gen.files import expected
from s4gen.files.expected import Check
from s4gen.files.parsing import json_value, reason
from s4gen.sampling.filters import Filters
from s4gen.serving.limits import Limits
from s4gen.serving.refusal import RefusedError
from s4gen.serving.served import Served, chosen

FILTERS: dict[str, Check] = {
    each.name: expected.whole() if type(each.default) is int else expected.number() for each in fields(FilterSettings)
}
"""The settings of filters under their own names, which are OpenAI's where OpenAI has them."""
COMMON: dict[str, Check] = {
    "model": expected.text(200),
    "seed": expected.whole(),
    "stream": expected.flag,
    **FILTERS,
}
"""Fields that every request for samples may have."""


def parsed(body: bytes, known: Mapping[str, Check]) -> dict[str, Any]:
    """Return the fields of a request, without those that are null, which stand for no value.

    Raises:
        RefusedError: the body is no JSON object, or a field is unknown or holds something else than it may.
    """
    try:
        value = json_value(body, max(1, len(body)))
    except ValueError as error:
        raise RefusedError(
            400, f"the body is no JSON ({shortened(printable(reason(error)))})", code="not_json"
        ) from None
    if not isinstance(value, dict):
        raise RefusedError(400, f"the body is {expected.shown(value)}: expected a JSON object", code="not_an_object")
    if unknown := [key for key in value if key not in known]:
        raise RefusedError(400, _unknown(unknown, known), param=shortened(unknown[0], 60), code="unknown_field")
    found = {}
    for key, item in value.items():
        if item is not None:
            try:
                found[key] = known[key](item, key)
            except ValueError as error:
                raise RefusedError(400, printable(str(error)), param=key, code="invalid_value") from None
    return found


def _unknown(keys: list[str], known: Mapping[str, Check]) -> str:
    named = ", ".join(shortened(printable(key), 60) for key in keys[:5]) + (" ..." if len(keys) > 5 else "")
    near = difflib.get_close_matches(keys[0], known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown field{'s' if len(keys) > 1 else ''} {named}; {hint}the fields are {', '.join(known)}"


def model_of(found: Mapping[str, Any], models: dict[str, Served], kind: str) -> Served:
    """Return the model that a request names.

    Raises:
        RefusedError: there is none of this name, or none is named and several are served.
    """
    model = chosen(models, found.get("model"), kind)
    if isinstance(model, str):
        raise RefusedError(404 if "model" in found else 400, model, param="model", code="model_not_found")
    return model


def filters_of(found: Mapping[str, Any], kind: str) -> Filters:
    """Return the filters that a request sets.

    Raises:
        RefusedError: one is out of range, or is for models of another kind.
    """
    given = {key: found[key] for key in FILTERS if key in found}
    for each in fields(FilterSettings):
        if each.metadata["kind"] not in ("", kind) and each.name in given:
            raise RefusedError(400, f"{each.name} is for models of {each.metadata['kind']}", param=each.name)
    for key in given:  # one at a time, so that the message can name the field
        try:
            Filters(**{key: given[key]})
        except UserError as error:
            raise RefusedError(400, str(error), param=key, code="invalid_value") from None
    return Filters(**given)


def seed_of(found: Mapping[str, Any]) -> int:
    """Return the seed of a request, or a random one, which the answer names, so that it can be had again."""
    seed: int | None = found.get("seed")
    return secrets.randbelow(2**32) if seed is None else seed


def count_of(found: Mapping[str, Any], limits: Limits) -> int:
    """Return how many samples a request wants, 1 by default.

    Raises:
        RefusedError: more than a request may.
    """
    n: int = found.get("n", 1)
    if n > limits.per_request:
        raise RefusedError(400, f"n = {n}: a request may have {limits.per_request}", param="n", code="invalid_value")
    return n


def labels_in(found: Mapping[str, Any], model: Served, n: int) -> list[int] | None:
    """Return the number of the class of each of n samples: those of the field `label` in turn, or all in turn.

    Returns None for a model that is not conditional on classes.

    Raises:
        RefusedError: the model has no such class, or none at all.
    """
    classes, given = model.classes, found.get("label")
    if not classes:
        if given is not None:
            raise RefusedError(400, f"{model.name} is not conditional on classes; leave label out", param="label")
        return None
    names = list(classes) if given is None else given if isinstance(given, list) else [given]
    if wrong := [name for name in names if name not in classes]:
        message = f"label = {expected.shown(printable(wrong[0]))}: the classes are {', '.join(classes)}"
        raise RefusedError(400, message, param="label", code="invalid_value")
    return [classes.index(names[i % len(names)]) for i in range(n)]


def one_or_more(most: int) -> Check:
    """Expect a string, or a list of 1 to `most` strings."""
    one, several = expected.text(1 << 30), expected.items(expected.text(1 << 30), 1, most)

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, str | list):
            raise ValueError(f'{name} = {expected.shown(value)}: expected a string, such as "3", or a list of strings')
        return one(value, name) if isinstance(value, str) else several(value, name)

    return check
