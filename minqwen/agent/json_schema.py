"""Check arguments against a JSON Schema, and say what is wrong in words that a model can use.

    schema      {"type": "object", "properties": {"days": {"type": "integer", "minimum": 1}}}
    arguments   {"days": "two"}         ->      days must be an integer, got "two"

The checking is done by the package jsonschema, draft 2020-12. This file makes its messages short:
which argument, what is needed, what came.

A schema may refer to its own `$defs` only: a reference to an address would be fetched from there.
`format` says something to the reader and is not checked.

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent.
Origin:   JSON Schema, draft 2020-12, https://json-schema.org/draft/2020-12.
Differs:  nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from ..extras import require_extra

MOST = 3  # errors told at once
WORDS = {"integer": "an integer", "array": "an array", "object": "an object", "null": "null"}


def require_schema(name: str, schema: Any) -> None:
    """Raise an error unless `schema` describes an object, and is itself a schema.

    Args:
        name: of the argument or field, for the message.
        schema: what may be one.

    Raises:
        TypeError: it is no dict, or holds what JSON does not have.
        ValueError: it does not say `"type": "object"`, is no schema, or refers to what it lacks.
        ImportError: jsonschema is missing.

    >>> require_schema("parameters", {"type": "object"})
    >>> require_schema("parameters", {"type": "object", "required": "n"})
    Traceback (most recent call last):
    ...
    ValueError: parameters is no JSON Schema: required must be an array, got "n"
    """
    if not isinstance(schema, dict):
        raise TypeError(f"{name} must be a dict, a JSON Schema, got {type(schema).__name__}")
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold what JSON has only: {error}") from None
    if schema.get("type") != "object":
        raise ValueError(f'{name} must say "type": "object", got {_shown(schema.get("type"))}')
    validator = _validator(schema)
    meta = type(validator)(validator.META_SCHEMA, format_checker=validator.FORMAT_CHECKER)
    for wrong in meta.iter_errors(schema):
        raise ValueError(f"{name} is no JSON Schema: {_explain(wrong)}")
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

    resolver = EMPTY_REGISTRY.resolver_with_root(DRAFT202012.create_resource(schema))
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise ValueError(f"{name} refers to {reference!r}, which is not in it") from None
    try:
        list(validator.iter_errors({}))
    except RecursionError:
        raise ValueError(f"{name} refers to itself without end") from None


def schema_errors(schema: Mapping[str, Any], arguments: Any) -> list[str]:
    """Say what is wrong with arguments, in a few short messages; none when they fit.

    Args:
        schema: that `require_schema` took.
        arguments: of json_arguments.py.

    Returns:
        At most three messages.

    >>> schema_errors({"type": "object", "required": ["n"]}, {"m": 1})
    ['n is missing']
    """
    try:
        errors = islice(_validator(schema).iter_errors(arguments), 10 * MOST)
        return list(dict.fromkeys(map(_explain, errors)))[:MOST]  # two missing come as two errors
    except RecursionError:
        return ["they are nested too deeply"]
    except OverflowError:
        return ["a number is too large"]


def _validator(schema: Mapping[str, Any]) -> Any:
    require_extra("jsonschema", extra="agent")
    from jsonschema import Draft202012Validator
    from referencing.jsonschema import EMPTY_REGISTRY

    return Draft202012Validator(schema, registry=EMPTY_REGISTRY)  # empty: nothing is fetched


def _explain(error: Any) -> str:
    """Put an error of jsonschema in words: the place, what is needed, what came."""
    place = _place(error.absolute_path)
    got, needed = _shown(error.instance), error.validator_value
    if error.validator == "type":
        kinds = [needed] if isinstance(needed, str) else needed
        return f"{place} must be {' or '.join(WORDS.get(k, f'a {k}') for k in kinds)}, got {got}"
    if error.validator == "required":
        missing = [key for key in needed if key not in error.instance]
        inside = f" in {place}" if error.absolute_path else ""
        return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing{inside}"
    if error.validator == "additionalProperties" and needed is False:
        known = error.schema.get("properties", {})
        unknown = [_shown(key) for key in error.instance if key not in known]
        names = ", ".join(known) or "nothing"
        return f"{place} must not hold {', '.join(unknown)[:100]}, it may hold: {names}"
    if error.validator in ("enum", "const"):
        choice = ", ".join(map(_shown, needed)) if error.validator == "enum" else _shown(needed)
        return f"{place} must be one of {choice[:300]}, got {got}"
    if error.validator in ("anyOf", "oneOf") and error.context:
        return " or ".join(dict.fromkeys(_explain(part) for part in error.context))[:300]
    limits = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "exclusiveMaximum": "less than",
    }
    if error.validator in limits:
        return f"{place} must be {limits[error.validator]} {_shown(needed)}, got {got}"
    return f"{place} does not fit {error.validator} {_shown(needed)}, got {got}"


def _place(path: Any) -> str:
    """Write a path as one would in code: rows[2].name.

    >>> _place(["rows", 2, "name"])
    'rows[2].name'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")[:100] or "the object"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _references(schema: Any) -> Iterator[str]:
    """Yield what a schema refers to, wherever it stands."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
