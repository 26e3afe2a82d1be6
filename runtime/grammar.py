"""What an answer must be → one grammar: a form of the answer, calls of tools, or whichever of the two the model picks.

Boundary: plain data in, the text of a grammar out, in llguidance's form; constraint.py compiles it. JSON is written as
`json.dumps` writes it by default, on one line with a space behind `,` and `:`: so the grammar leaves no choice between
values, what it forces costs no step of the model, and no answer gets lost in white space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

from .errors import RequestError
from .messages import plain_data

MAXIMUM_CHARACTERS = 64 << 10
MAXIMUM_CHOICES = 1000
JSON_OBJECT: Mapping[str, object] = {"type": "object"}
_ONE_LINE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
# Types by which model cards describe parameters → JSON schema's.
_TYPES = {
    "str": "string", "string": "string", "int": "integer", "integer": "integer", "float": "number", "number": "number",
    "bool": "boolean", "boolean": "boolean", "list": "array", "array": "array", "dict": "object", "object": "object",
}
_SCHEMA_KEYS = {"$ref", "allOf", "anyOf", "oneOf", "additionalProperties", "required"}


class SchemaModel(Protocol):
    """What pydantic's models, and others like them, can say about themselves."""

    def model_json_schema(self) -> Mapping[str, object]:
        """The JSON schema of the model."""


Schema: TypeAlias = Mapping[str, object] | str | SchemaModel
Tools: TypeAlias = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Form:
    """How an answer must read. `name` is the option that said so, `source` a grammar of llguidance's list of them."""

    name: str
    source: Mapping[str, object]


@dataclass(frozen=True)
class CallMarks:
    """Ids of the control tokens around a list of calls; None where the vocabulary has none: then it is `functools`."""

    opening: int | None
    closing: int | None


@dataclass(frozen=True)
class Grammar:
    """`about` names the options that asked for it, `text` is what llguidance compiles."""

    about: str
    text: str


def answer_form(
    schema: Schema | None = None, regex: str | None = None, choice: Sequence[str] | None = None,
    grammar: str | None = None,
) -> Form | None:  # fmt: skip
    """The form that one of the options asks for, None where none does.

    `schema`: a JSON schema as object, as JSON text, or a class that has `model_json_schema`; what it asks for and
    llguidance does not know is an error, unless it holds {"x-guidance": {"lenient": true}}. `regex`: of the whole
    answer, in the syntax of Rust's regex crate. `choice`: the texts to choose from. `grammar`: Lark, as llguidance
    reads it. Raises RequestError for several options or one that is not of its kind.
    """
    options = {"schema": schema, "regex": regex, "choice": choice, "grammar": grammar}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise RequestError(f"{given[0]} and {given[1]} are both given: an answer has one form, choose one")
    if schema is not None:
        return Form("schema", {"json_schema": _json_grammar(read_schema(schema, "schema"))})
    if choice is not None:
        return Form("choice", {"lark_grammar": f"start: {' | '.join(map(_literal, _choices(choice)))}"})
    if regex is None and grammar is None:
        return None
    name, text = ("regex", regex) if regex is not None else ("grammar", grammar)
    if not isinstance(text, str) or not 0 < len(text) <= MAXIMUM_CHARACTERS:
        raise RequestError(f"{name} is {text!r:.60}; allowed is text of 1 to {MAXIMUM_CHARACTERS} characters")
    return Form(name, {"lark_grammar": f"start: /{_escaped(text)}/" if name == "regex" else text})


def read_schema(schema: Schema, where: str) -> dict[str, Any]:
    """A JSON schema in any of its forms as plain data. Raises RequestError, whose text begins with `where`."""
    describe = getattr(schema, "model_json_schema", None)
    value: object = describe() if callable(describe) else schema
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{where} is text that is not JSON ({error}): give a JSON schema") from error
    if not isinstance(value, Mapping):
        raise RequestError(
            f"{where} is a {type(value).__name__}; allowed is a JSON schema as object or JSON text, or a class with"
            " model_json_schema"
        )
    plain = cast("dict[str, Any]", plain_data(value, where))
    size = len(json.dumps(plain))
    if size > MAXIMUM_CHARACTERS:
        raise RequestError(f"{where} has {size} characters as JSON, at most {MAXIMUM_CHARACTERS} are allowed")
    return plain


def build_grammar(
    form: Form | None, tools: Tools | None, tool_choice: str, marks: CallMarks, *, several: bool = True
) -> Grammar | None:
    """One grammar for an answer of `form` and for calls of `tools`; None where anything may be said.

    `tool_choice`: "auto" (an answer or calls), "none", "required" (calls), or the name of the tool to call. A call
    follows the parameters of its tool: those of a tool with `strict` to the letter, those of others as far as they are
    understood. "auto" alone constrains nothing unless a tool is strict. `several`: more than one call at once. Raises
    RequestError.
    """
    offered = _offered(tools or (), tool_choice)
    must_call = tool_choice not in ("auto", "none")
    if not offered or (form is None and not must_call and not any(tool.strict for tool in offered)):
        return None if form is None else _whole("start: @answer", [{"name": "answer", **form.source}], form.name)
    calls = [f'call{index}: {_literal(tool.opening)} @arguments{index} "}}"' for index, tool in enumerate(offered)]
    sources: list[Mapping[str, object]] = [
        {"name": f"arguments{index}", "json_schema": tool.arguments} for index, tool in enumerate(offered)
    ]
    more = '(", " call)*' if several else ""
    marked = '"functools" list' if marks.opening is None else f"<[{marks.opening}]> list"
    if marks.opening is not None and marks.closing is not None:
        marked += f" <[{marks.closing}]>"
    rules = [
        f'list: "[" call {more} "]"',
        f"call: {' | '.join(f'call{index}' for index in range(len(offered)))}",
        *calls,
    ]
    if must_call:
        start = f"start: {marked}"
    elif form is not None:
        start = f"start: @answer | {marked}"
        sources.append({"name": "answer", **form.source})
    else:
        start = f"start: TEXT? | {_free(marks, marked)}"
        # `functools` in the middle of prose is a word, at its start it begins calls
        rules.append(r"TEXT: /(?s:.)+/ & ~/\s*functools\[(?s:.)*/")
    return _whole("\n".join([start, *rules]), sources, "tools" if form is None or must_call else form.name)


def _free(marks: CallMarks, marked: str) -> str:
    """Calls in an answer that may also be text: by control tokens anywhere, by the word at the start."""
    spelled = r'/\s*/ "functools" list'
    return spelled if marks.opening is None else f"TEXT? {marked} | {spelled}"


@dataclass(frozen=True)
class _Tool:
    """`opening` is the text of a call up to its arguments, `arguments` the schema of these."""

    opening: str
    arguments: Mapping[str, object]
    strict: bool


def _offered(tools: Tools, choice: str) -> list[_Tool]:
    functions = [tool.get("function", tool) for tool in tools] if choice != "none" else []
    named = {str(function["name"]): function for function in functions if isinstance(function, Mapping)}
    if choice in ("required", "auto", "none"):
        if choice == "required" and not named:
            raise RequestError("tool_choice is 'required', but there are no tools: give some")
        return [_tool(name, function) for name, function in named.items()]
    if choice not in named:
        known = ", ".join(["auto", "none", "required", *named])
        raise RequestError(f"tool_choice is {choice!r:.60}, which is none of the tools; allowed are {known}")
    return [_tool(choice, named[choice])]


def _tool(name: str, function: Mapping[str, object]) -> _Tool:
    strict = function.get("strict") is True
    parameters = function.get("parameters")
    arguments = _parameters(parameters, f"the parameters of tool {name!r:.60}")
    opening = f'{{"name": {json.dumps(name)}, "arguments": '
    return _Tool(opening, _json_grammar(arguments, lenient=not strict), strict)


def _parameters(given: object, where: str) -> dict[str, Any]:
    """The schema of a tool's arguments, which are always an object; model cards list the parameters without one."""
    if not given:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    schema = read_schema(cast("Schema", given), where)
    if isinstance(schema.get("type"), str) or "properties" in schema or not _is_list_of_parameters(schema):
        return {"type": "object", **schema}
    properties: dict[str, Any] = {}
    required = []
    for name, parameter in schema.items():
        kind, _, optional = str(parameter.get("type", "")).partition(",")
        known = _TYPES.get(kind.partition("[")[0].strip())
        properties[name] = {} if known is None else {"type": known}
        if "enum" in parameter:
            properties[name]["enum"] = parameter["enum"]
        if "default" not in parameter and not optional:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _is_list_of_parameters(schema: Mapping[str, object]) -> bool:
    return not _SCHEMA_KEYS & schema.keys() and all(isinstance(value, Mapping) for value in schema.values())


def _json_grammar(schema: Mapping[str, Any], *, lenient: bool = False) -> dict[str, object]:
    asked = schema.get("x-guidance")
    lenient = lenient or (isinstance(asked, Mapping) and asked.get("lenient") is True)
    return {**schema, "x-guidance": _ONE_LINE | ({"lenient": True} if lenient else {})}


def _choices(choice: object) -> list[str]:
    if isinstance(choice, str) or not isinstance(choice, Sequence) or not 0 < len(choice) <= MAXIMUM_CHOICES:
        raise RequestError(f"choice is {choice!r:.60}; allowed is a list of 1 to {MAXIMUM_CHOICES} texts")
    for index, text in enumerate(choice):
        if not isinstance(text, str) or not text:
            raise RequestError(f"choice[{index}] is {text!r:.60}; allowed is text of at least one character")
    if sum(map(len, choice)) > MAXIMUM_CHARACTERS:
        raise RequestError(f"choice holds more than {MAXIMUM_CHARACTERS} characters: give shorter texts")
    return list(choice)


def _escaped(regex: str) -> str:
    """A regex as it stands between the slashes of a Lark grammar, on one line."""
    escaped = re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], regex, flags=re.DOTALL)
    return escaped.replace("\n", r"\n")


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _whole(rules: str, sources: Sequence[Mapping[str, object]], about: str) -> Grammar:
    grammars = [{"lark_grammar": rules}, *sources]
    return Grammar(about, json.dumps({"grammars": grammars}, ensure_ascii=False))
