"""Tools of a request in the forms of both APIs, checked.

Boundary: JSON in, OpenAI's function form out; how a template shows tools to its model is chat.py's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..constraint import check_grammar
from ..errors import RequestError
from ..grammar import CallMarks, build_grammar
from .fields import Fields

if TYPE_CHECKING:
    from ..options import Options

MAXIMUM_TOOLS = 128
MODES = ("auto", "none", "required")
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")


@dataclass(frozen=True)
class Tools:
    """`functions` are the tools as `Session.stream` takes them, `choice` which of them to call: "auto", "none",
    "required" or a name. `one_call`: only the first call of an answer counts.
    """

    functions: tuple[Mapping[str, object], ...] = ()
    choice: str = "auto"
    one_call: bool = False

    @property
    def options(self) -> Options:
        """Keyword arguments of `Session.stream`."""
        return {
            "tools": self.functions or None, "tool_choice": self.choice, "parallel_tool_calls": not self.one_call,
        }


def read_tools(fields: Fields, *, flat: bool) -> Tools:
    """`flat`: a function's name stands beside its type, as /v1/responses has it. Raises RequestError."""
    given = fields.items("tools") or ()
    if len(given) > MAXIMUM_TOOLS:
        raise RequestError(f"tools holds {len(given)} tools, at most {MAXIMUM_TOOLS} are allowed")
    functions = tuple(_function(fields, tool, f"tools[{index}]", flat) for index, tool in enumerate(given))
    parallel = fields.raw("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise RequestError("parallel_tool_calls is neither true nor false")
    choice = _choice(fields, flat)
    tools = Tools(functions if choice != "none" else (), choice, parallel is False)
    _check(tools)
    return tools


def _choice(fields: Fields, flat: bool) -> str:
    given = fields.raw("tool_choice")
    if given is None:
        return "auto"
    if isinstance(given, str):
        return fields.choice("tool_choice", MODES, "auto")
    outer = fields.nested(given, "tool_choice")
    kind = outer.text("type")
    if kind != "function":
        raise RequestError(f"tool_choice.type is {kind!r:.60}; offered are 'function', or one of {', '.join(MODES)}")
    inner = outer if flat else outer.required("function", outer.inner("function"))
    return inner.required("name", inner.text("name"))


def _check(tools: Tools) -> None:
    """Raises RequestError for a choice that is none, and for strict parameters that cannot be followed."""
    built = build_grammar(None, tools.functions, tools.choice, CallMarks(None, None))
    if built is None:
        return
    try:
        check_grammar(built)
    except RequestError as error:
        raise RequestError(f"tools: {error}") from error


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
    if inner.flag("strict"):
        function["strict"] = True
    return {"type": "function", "function": function}
