"""The form that a request wants its answer in, under the names that clients know.

Boundary: JSON members in, keyword arguments of `Session.stream` out; what a form means is grammar.py's business. The
names are OpenAI's (`response_format`, `text.format`), llama.cpp's (`json_schema`) and vLLM's (`guided_…`,
`structured_outputs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..constraint import check_grammar
from ..errors import RequestError
from ..grammar import JSON_OBJECT, CallMarks, Schema, answer_form, build_grammar, read_schema
from .fields import Fields

if TYPE_CHECKING:
    from ..options import Options

_LENIENT = {"lenient": True}


def read_form(fields: Fields, format_: Fields | None) -> Options:
    """`format_`: the member that OpenAI's API has for it. Raises RequestError naming the member that cannot be
    followed, and where a request asks for two forms.
    """
    found: list[tuple[str, Options]] = []
    if format_ is not None:
        found += _openai(format_)
    for name in ("json_schema", "guided_json"):
        if (given := fields.raw(name)) is not None:
            found.append((name, {"schema": _schema(given, name)}))
    found += _named(fields, "guided_regex", "guided_choice")
    wanted = fields.inner("structured_outputs")
    if wanted is not None:
        if (given := wanted.raw("json")) is not None:
            found.append((wanted.name_of("json"), {"schema": _schema(given, wanted.name_of("json"))}))
        if wanted.flag("json_object"):
            found.append((wanted.name_of("json_object"), {"schema": JSON_OBJECT}))
        found += _named(wanted, "regex", "choice")
        for name in wanted.unread():
            raise RequestError(f"{name} is not offered: give json, json_object, regex or choice")
    if len(found) > 1:
        raise RequestError(f"{found[0][0]} and {found[1][0]} both give the answer a form: choose one")
    for name, options in found:
        _check(name, options)
        return options
    return {}


def _openai(form: Fields) -> list[tuple[str, Options]]:
    kind = form.choice("type", ("text", "json_object", "json_schema"), "text")
    if kind == "text":
        return []
    # /v1/responses has name, schema and strict beside the type; llama.cpp's clients give json_object a schema.
    inner = form.inner("json_schema") if kind == "json_schema" else None
    holder = form if inner is None else inner
    given, where = holder.raw("schema"), holder.name_of("schema")
    for name in ("name", "description"):
        holder.raw(name)
    strict = holder.flag("strict")
    if given is None:
        if kind == "json_schema":
            raise RequestError(f"{where} is missing: give a JSON schema")
        return [(form.name_of("type"), {"schema": JSON_OBJECT})]
    schema = _schema(given, where)
    return [(where, {"schema": schema if strict else {**schema, "x-guidance": _LENIENT}})]


def _named(fields: Fields, regex: str, choice: str) -> list[tuple[str, Options]]:
    found: list[tuple[str, Options]] = []
    if (text := fields.text(regex)) is not None:
        found.append((fields.name_of(regex), {"regex": text}))
    if (texts := fields.items(choice)) is not None:
        found.append((fields.name_of(choice), {"choice": cast("list[str]", list(texts))}))
    return found


def _schema(given: object, where: str) -> dict[str, Any]:
    return read_schema(cast("Schema", given), where)


def _check(name: str, options: Options) -> None:
    """Raises RequestError, whose text begins with `name`, before the request waits for its turn."""
    try:
        form = answer_form(options.get("schema"), options.get("regex"), options.get("choice"))
        built = build_grammar(form, None, "auto", CallMarks(None, None))
        if built is not None:
            check_grammar(built)
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from error
