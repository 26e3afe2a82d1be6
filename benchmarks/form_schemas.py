"""Fifty JSON schemas, as applications ask for them: what constrained output is measured and tested with.

Boundary: data. Most strings and lists have a limit, so that a model of random weights comes to an end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_WORD: Schema = {"type": "string", "maxLength": 12}
_TEXT: Schema = {"type": "string", "maxLength": 60}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 1000}
_PRICE: Schema = {"type": "number", "minimum": 0, "maximum": 9999}


def _object(**properties: Any) -> Schema:
    """A closed object; all properties are required."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _without(schema: Schema, *optional: str) -> Schema:
    """The same object where some properties may be missing."""
    return {**schema, "required": [name for name in schema["required"] if name not in optional]}


def _list(items: Any, low: int = 0, high: int = 4) -> Schema:
    return {"type": "array", "items": items, "minItems": low, "maxItems": high}


_POINT = _object(x={"type": "number"}, y={"type": "number"})
_PERSON = _object(name=_WORD, age={"type": "integer", "minimum": 0, "maximum": 130})

SCHEMAS: Mapping[str, Schema] = {
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "string": {"type": "string"},
    "small_integer": {"type": "integer", "minimum": -7, "maximum": 42},
    "exclusive_range": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500},
    "bounded_string": {"type": "string", "minLength": 3, "maxLength": 8},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "email": {"type": "string", "format": "email", "maxLength": 40},
    "clock": {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"},
    "enum_of_texts": {"enum": ["north", "south", "east", "west"]},
    "enum_of_kinds": {"enum": [1, 2.5, "three", None, True, [4], {"five": 5}]},
    "constant": {"const": {"version": 2, "kind": "reply"}},
    "two_types": {"type": ["integer", "null"]},
    "any_of": {"anyOf": [{"type": "boolean"}, _WORD, _COUNT]},
    "one_of_apart": {"oneOf": [{"type": "integer", "maximum": 0}, {"type": "string", "maxLength": 5}]},
    "list_of_integers": _list(_COUNT, 1, 6),
    "list_of_lists": _list(_list({"type": "integer", "minimum": 0, "maximum": 9}, 3, 3), 3, 3),
    "pair": {
        "type": "array", "prefixItems": [_WORD, {"type": "boolean"}], "items": False, "minItems": 2, "maxItems": 2,
    },
    "long_list": _list({"type": "boolean"}, 20, 40),
    "empty_object": _object(),
    "person": _PERSON,
    "optional": _without(_object(name=_WORD, nickname=_WORD, email=_WORD), "nickname", "email"),
    "all_optional": _without(_object(a=_COUNT, b=_WORD, c={"type": "null"}), "a", "b", "c"),
    "nested": _object(owner=_PERSON, home=_object(street=_WORD, city=_object(name=_WORD, code=_COUNT))),
    "list_of_objects": _list(_object(item=_WORD, count=_COUNT, price=_PRICE), 1, 3),
    "map": {"type": "object", "additionalProperties": _COUNT, "maxProperties": 4},
    "pattern_map": {
        "type": "object", "patternProperties": {"^[a-z]{1,3}$": _COUNT}, "additionalProperties": False,
        "maxProperties": 3,
    },
    "odd_names": _object(**{"a b": _COUNT, 'quo"te': _COUNT, "ünïcode": _COUNT, "$dollar": _COUNT}),
    "definitions": {
        **_object(**{"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}}), "$defs": {"point": _POINT},
    },
    "linked_list": {
        **_object(value=_COUNT, next={"anyOf": [{"type": "null"}, {"$ref": "#"}]}),
    },
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {"node": _object(label={"enum": ["a", "b"]}, children=_list({"$ref": "#/$defs/node"}, 0, 1))},
    },
    "all_of": {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 50}, {"multipleOf": 3}]},
    "tagged_union": {
        "anyOf": [
            _object(kind={"const": "circle"}, radius=_PRICE), _object(kind={"const": "square"}, side=_PRICE),
            _object(kind={"const": "text"}, text=_WORD),
        ]
    },
    "weather_call": _object(name={"const": "get_weather"}, arguments=_object(city=_WORD, unit={"enum": ["C", "F"]})),
    "invoice": _object(
        number={"type": "string", "pattern": "^[0-9]{6}$"}, customer=_PERSON,
        lines=_list(_object(text=_WORD, amount=_PRICE), 1, 3), paid={"type": "boolean"},
    ),
    "classification": _object(
        label={"enum": ["spam", "ham"]}, confidence={"type": "number", "minimum": 0, "maximum": 1}
    ),
    "extraction": _object(people=_list(_WORD), places=_list(_WORD), dates=_list({"type": "string", "maxLength": 10})),
    "sentiment": _object(reason=_TEXT, sentiment={"enum": ["positive", "neutral", "negative"]}),
    "table": _list(_object(name=_WORD, value={"type": ["number", "null"]}), 2, 4),
    "box": _object(box=_list({"type": "integer", "minimum": 0, "maximum": 1000}, 4, 4), label=_WORD),
    "quiz": _list(_object(question=_TEXT, options=_list(_WORD, 4, 4), answer={"enum": ["A", "B", "C", "D"]}), 1, 2),
    "settings": _without(
        _object(
            theme={"enum": ["dark", "light"]}, size={"type": "integer", "minimum": 8, "maximum": 72},
            flags=_object(beta={"type": "boolean"}, log={"type": ["boolean", "null"]}),
        ),
        "theme",
    ),
    "version": {"type": "string", "pattern": r"^v[0-9]{1,2}\.[0-9]{1,2}(\.[0-9]{1,3})?$"},
    "recipe": _object(title=_WORD, minutes=_COUNT, steps=_list(_TEXT, 1, 3), vegan={"type": "boolean"}),
    "twenty_fields": _object(**{f"field_{index}": _COUNT if index % 2 else _WORD for index in range(20)}),
}
