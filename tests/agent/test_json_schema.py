import pytest

from minqwen.agent.json_schema import require_schema, schema_errors


def errors(schema, value):
    return schema_errors({"type": "object", "properties": {"x": schema}}, {"x": value})


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"type": "integer"}, 1.5, "x must be an integer, got 1.5"),
        ({"type": "integer"}, True, "x must be an integer, got true"),
        ({"type": ["integer", "null"]}, "猫", 'x must be an integer or null, got "猫"'),
        ({"type": "string"}, [1], "x must be a string, got [1]"),
        ({"enum": ["a", 1]}, True, 'x must be one of "a", 1, got true'),
        ({"const": 2}, 3, "x must be one of 2, got 3"),
        ({"minimum": 1}, 0, "x must be at least 1, got 0"),
        ({"exclusiveMaximum": 1}, 1, "x must be less than 1, got 1"),
        ({"maxLength": 2}, "abc", 'x does not fit maxLength 2, got "abc"'),
        ({"pattern": "^a"}, "b", 'x does not fit pattern "^a", got "b"'),
        ({"items": {"type": "number"}}, [1, "2"], 'x[1] must be a number, got "2"'),
        ({"required": ["y", "z"]}, {}, "y, z are missing in x"),
        ({"type": "object", "additionalProperties": False}, {"q": 1}, "x must not hold"),
        (
            {"properties": {"y": {"items": {"required": ["z"]}}}},
            {"y": [{"z": 1}, {}]},
            "z is missing in x.y[1]",
        ),
        (
            {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "a",
            'x must be an integer, got "a" or x must be null, got "a"',
        ),
    ],
)
def test_a_message_says_which_what_came_and_what_is_needed(schema, value, message):
    (found,) = errors(schema, value)
    assert found.startswith(message)


def test_what_fits_says_nothing():
    assert errors({"type": "integer", "minimum": 0}, 2) == []
    assert errors({"type": "integer"}, 2.0) == []  # draft 2020-12: 2.0 is an integer
    assert errors({"type": "array", "items": {"enum": [None]}}, [None]) == []


def test_messages_are_few_and_short():
    found = errors({"items": {"type": "string"}}, [list(range(1000))] * 50)
    assert len(found) == 3
    assert max(map(len, found)) < 150


def test_a_number_beyond_a_float_is_no_exception():
    assert errors({"multipleOf": 0.5}, 10**400) == ["a number is too large"]


def test_a_deep_value_is_no_exception():
    schema = {"type": "object", "properties": {"x": {"$ref": "#"}}}
    require_schema("parameters", schema)
    deep = {}
    for _ in range(5000):
        deep = {"x": deep}
    assert schema_errors(schema, deep) == ["they are nested too deeply"]


@pytest.mark.parametrize(
    ("schema", "error", "message"),
    [
        ([], TypeError, "p must be a dict, a JSON Schema, got list"),
        ({"type": "object", "default": {1, 2}}, TypeError, "what JSON has only"),
        ({"type": "object", "default": float("nan")}, TypeError, "what JSON has only"),
        ({"type": "array"}, ValueError, 'must say "type": "object", got "array"'),
        ({"type": "object", "properties": {"x": {"type": "int"}}}, ValueError, "properties.x.type"),
        ({"type": "object", "properties": {"x": {"pattern": "("}}}, ValueError, "no JSON Schema"),
        ({"type": "object", "$ref": "#/$defs/x"}, ValueError, "refers to '#/\\$defs/x'"),
        ({"type": "object", "$ref": "https://example.com/s"}, ValueError, "which is not in it"),
        ({"type": "object", "properties": {"x": {"$ref": "other"}}}, ValueError, "'other'"),
        ({"type": "object", "$ref": "#"}, ValueError, "refers to itself without end"),
    ],
)
def test_a_bad_schema_is_refused(schema, error, message):
    with pytest.raises(error, match=message):
        require_schema("p", schema)


def test_references_to_its_own_parts_work():
    schema = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/day"}},
        "$defs": {"day": {"type": "integer", "maximum": 31}},
    }
    require_schema("p", schema)
    assert schema_errors(schema, {"x": 32}) == ["x must be at most 31, got 32"]
