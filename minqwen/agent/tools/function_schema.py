"""The JSON Schema of a function, made of its annotations, and arguments as the function wants them.

    def summarize(text: str, words: int = 50) -> str

    {"type": "object", "required": ["text"], "additionalProperties": false, "properties":
        {"text": {"type": "string"}, "words": {"type": "integer", "default": 50}}}

Paper:    Qwen Technical Report, 3.4 Tool Use, Code Interpreter, and Agent; nothing on this there.
Origin:   PEP 484; JSON Schema, draft 2020-12, https://json-schema.org/draft/2020-12.
Differs:  nothing.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Make a JSON Schema of the annotations of a function.

    Args:
        function: each argument is annotated with str, int, float, bool, list, list[X],
            dict[str, X], Literal, Any or a choice X | Y | None of them. Annotated[X, "text"]
            describes it.

    Returns:
        The schema of an object; arguments without a default are required.

    Raises:
        TypeError: an annotation is missing or another one, or the function takes *args, **kwargs
            or an argument by position only.

    >>> def wait(days: int, until: str | None = None) -> None: ...
    >>> schema_of(wait)["properties"]["until"]
    {'anyOf': [{'type': 'string'}, {'type': 'null'}], 'default': None}
    """
    called = function if inspect.isroutine(function) else type(function).__call__
    try:
        hints = get_type_hints(called, include_extras=True)
    except NameError as error:
        raise TypeError(f"an annotation of {function!r} cannot be read: {error}") from None
    properties: dict[str, Any] = {}
    required: list[str] = []
    for key, parameter in signature_of(function).parameters.items():
        place = f"{key} of {getattr(function, '__name__', 'the function')}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{place} cannot be given by keyword; pass parameters=")
        if key not in hints:
            raise TypeError(f"{place} has no annotation; add one, or pass parameters=")
        properties[key] = _schema(hints[key], place)
        if parameter.default is parameter.empty:
            required.append(key)
        else:
            try:
                properties[key]["default"] = json.loads(json.dumps(parameter.default))
            except (TypeError, ValueError):
                raise TypeError(f"the default of {place} is not JSON; pass parameters=") from None
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def as_asked(schema: Any, value: Any) -> Any:
    """Make 3.0 the integer 3 wherever an integer is wanted: to JSON Schema it is one.

    Args:
        schema: of the value, such as `schema_of` makes.
        value: that fits it.

    >>> as_asked({"properties": {"n": {"type": "integer"}}}, {"n": 3.0, "x": 3.0})
    {'n': 3, 'x': 3.0}
    """
    if not isinstance(schema, dict):
        return value
    if isinstance(value, dict):
        inside, others = schema.get("properties", {}), schema.get("additionalProperties")
        return {key: as_asked(inside.get(key, others), value[key]) for key in value}
    if isinstance(value, list):
        return [as_asked(schema.get("items"), part) for part in value]
    kinds = [schema.get("type"), *(_kind(choice) for choice in schema.get("anyOf", ()))]
    whole = "integer" in kinds and "number" not in kinds
    return int(value) if whole and isinstance(value, float) else value


def _kind(schema: Any) -> Any:
    return schema.get("type") if isinstance(schema, dict) else None


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return what a function takes; raise TypeError where it does not tell."""
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        raise TypeError(f"{function!r} does not tell what it takes; wrap it in a def") from None


def _schema(annotation: Any, place: str) -> dict[str, Any]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return {}
    if annotation in KINDS:
        return {"type": KINDS[annotation]}
    if annotation is type(None):
        return {"type": "null"}
    if origin is Annotated:
        text = next((part for part in parts[1:] if isinstance(part, str)), None)
        return _schema(parts[0], place) | ({} if text is None else {"description": text})
    if origin is Literal:
        return {"enum": list(parts)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(part, place) for part in parts]}
    if annotation is list or origin is list:
        return {"type": "array"} | ({"items": _schema(parts[0], place)} if parts else {})
    if annotation is dict or (origin is dict and parts[0] is str):
        values = {"additionalProperties": _schema(parts[1], place)} if parts else {}
        return {"type": "object"} | values
    raise TypeError(f"{place} has the annotation {annotation!r}, which is not JSON; see schema_of")
