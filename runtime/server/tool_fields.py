"""Tools of a request in the forms of both APIs, checked.

Boundary: JSON in, OpenAI's function form out; how a template shows tools to its model is chat.py's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import RequestError
from .fields import Fields

MAXIMUM_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")


@dataclass(frozen=True)
class Tools:
    """`functions` are the tools as `Session.stream` takes them; `one_call`: only the first call of an answer counts."""

    functions: tuple[Mapping[str, object], ...] = ()
    one_call: bool = False


def read_tools(fields: Fields, *, flat: bool) -> Tools:
    """`flat`: a function's name stands beside its type, as /v1/responses has it. Raises RequestError."""
    given = fields.items("tools") or ()
    if len(given) > MAXIMUM_TOOLS:
        raise RequestError(f"tools holds {len(given)} tools, at most {MAXIMUM_TOOLS} are allowed")
    functions = tuple(_function(fields, tool, f"tools[{index}]", flat) for index, tool in enumerate(given))
    parallel = fields.raw("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise RequestError("parallel_tool_calls is neither true nor false")
    return Tools(_chosen(fields, functions), parallel is False)


def _chosen(fields: Fields, functions: tuple[Mapping[str, object], ...]) -> tuple[Mapping[str, object], ...]:
    choice = fields.raw("tool_choice")
    if choice is None or choice == "auto":
        return functions
    if choice == "none":
        return ()
    # To force a call, tokens would have to be ruled out while they are drawn.
    shown = "an object" if isinstance(choice, Mapping) else repr(choice)[:60]
    raise RequestError(f"tool_choice is {shown}, which this server does not offer: no call can be forced; use 'auto'")


def _function(fields: Fields, tool: object, where: str, flat: bool) -> Mapping[str, object]:
    outer = fields.nested(tool, where)
    kind = outer.text("type")
    if kind != "function":
        raise RequestError(f"{where}.type is {kind!r:.60}; tools of type 'function' are offered: leave the others out")
    inner = outer if flat else outer.required("function", outer.inner("function"))
    name = inner.required("name", inner.text("name"))
    if not _NAME.fullmatch(name):
        raise RequestError(f"{inner.name_of('name')} is {name!r:.80}; allowed are letters, digits, '_', '-', '.'")
    function: dict[str, object] = {"name": name}
    description, parameters = inner.text("description"), inner.raw("parameters")
    if description is not None:
        function["description"] = description
    if parameters is not None:
        if not isinstance(parameters, Mapping):
            raise RequestError(f"{inner.name_of('parameters')} is not an object; give a JSON schema")
        function["parameters"] = parameters
    return {"type": "function", "function": function}
