"""POST /v1/responses: JSON → a checked request.

Boundary: names and forms of OpenAI's Responses API, without its memory: every request brings its whole conversation,
nothing is stored, and what refers to something stored is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..messages import Message
from .bundles import Bundle
from .content import read_messages
from .fields import Fields
from .forms import read_form
from .origins import Origin
from .parameters import read_options, read_top_logprobs, refuse_unoffered
from .thoughts import BUDGETS, SWITCH, read_thinking
from .tool_fields import Tools, read_tools

if TYPE_CHECKING:
    from ..options import Options

# Parameters of this API alone that refer to memory or to what is not offered → values that mean what happens anyway.
_REFUSED: dict[str, tuple[object, ...]] = {
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
    "background": (False,),
    "truncation": ("disabled",),
    "max_tool_calls": (),
    "context_management": ([],),
}
_ECHOED = (
    "instructions", "temperature", "top_p", "max_output_tokens", "tools", "tool_choice", "metadata", "text",
    "presence_penalty", "frequency_penalty", "top_logprobs",
)


@dataclass(frozen=True)
class ResponsesRequest:
    """`echoed` are members that the answer repeats, as OpenAI's does."""

    messages: tuple[Message, ...]
    tools: Tools
    options: Options
    stream: bool
    logprobs: bool
    echoed: Mapping[str, object]
    ignored: tuple[str, ...]


def read_responses(fields: Fields, bundle: Bundle, media_from: Sequence[Origin] = ()) -> ResponsesRequest:
    """`media_from`: hosts whose addresses stand for media. Raises RequestError naming what cannot be honoured."""
    if bundle.template is None:
        raise RequestError(f"model {bundle.name!r} has no chat template: use /v1/completions")
    refuse_unoffered(fields, but=(SWITCH, *BUDGETS))
    for name, accepted in _REFUSED.items():
        fields.refuse(name, accepted)
    form = fields.inner("text")
    if form is not None:
        form.refuse("verbosity", ("medium",))
    messages = _messages(fields, bundle, media_from)
    tools = read_tools(fields, flat=True)
    options = read_options(fields, ("max_output_tokens",))
    options |= read_form(fields, None if form is None else form.inner("format"))
    options |= tools.options
    effort = fields.inner("reasoning")
    if effort is not None:
        for name in ("summary", "generate_summary"):
            effort.refuse(name, ("auto",))
    options |= read_thinking(fields, effort, "effort", bundle)
    options["logprobs"] = logprobs = _wants_logprobs(fields)
    options["top_logprobs"] = read_top_logprobs(fields, logprobs=logprobs)
    echoed = {name: fields.raw(name) for name in _ECHOED}
    echoed["effort"] = None if effort is None else effort.text("effort")
    stream = fields.flag("stream")
    return ResponsesRequest(messages, tools, options, stream, logprobs, echoed, fields.unread())


def _messages(fields: Fields, bundle: Bundle, media_from: Sequence[Origin]) -> tuple[Message, ...]:
    instructions = fields.text("instructions")
    given = _input(fields.raw("input"))
    if instructions is not None:
        given.insert(0, ("instructions", {"role": "system", "content": instructions}))
    if not given:
        raise RequestError("input is empty; give at least one item")
    return read_messages([message for _, message in given], bundle, media_from, [where for where, _ in given])


def _wants_logprobs(fields: Fields) -> bool:
    """`include` may name output that is stored or that is not made here; logprobs are the one thing that is."""
    known = {"message.output_text.logprobs": True, "reasoning.encrypted_content": False}
    wanted = fields.items("include") or ()
    for name in wanted:
        if name not in known:
            raise RequestError(f"include holds {name!r:.60}; offered is 'message.output_text.logprobs'")
    return any(known[str(name)] for name in wanted)


def _input(given: object) -> list[tuple[str, dict[str, Any]]]:
    """The conversation as chat messages, each with its place in the request."""
    if isinstance(given, str):
        return [("input", {"role": "user", "content": given})]
    if not isinstance(given, list):
        raise RequestError("input is missing; give a string or a list of items")
    messages: list[tuple[str, dict[str, Any]]] = []
    for index, item in enumerate(given):
        where = f"input[{index}]"
        if not isinstance(item, Mapping):
            raise RequestError(f"{where} is not an object with a type")
        kind = item.get("type", "message")
        if kind == "message":
            messages.append((where, {"role": item.get("role"), "content": item.get("content")}))
        elif kind == "function_call":
            _add_call(messages, item, where)
        elif kind == "function_call_output":
            result = {"role": "tool", "tool_call_id": item.get("call_id"), "content": _output(item, where)}
            messages.append((where, result))
        elif kind != "reasoning":  # what was thought before an earlier answer is no part of the next prompt
            raise RequestError(
                f"{where} has type {kind!r:.60}; known are message, function_call, function_call_output and reasoning"
            )
    return messages


def _add_call(messages: list[tuple[str, dict[str, Any]]], item: Mapping[str, Any], where: str) -> None:
    """A call belongs to the assistant's message before it; calls in a row make one message."""
    if not isinstance(item.get("name"), str):
        raise RequestError(f"{where} is a function_call without a name; send back what the answer held")
    function = {"name": item["name"], "arguments": item.get("arguments", "{}")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    last = messages[-1][1] if messages else None
    if last is None or last["role"] != "assistant":
        last = {"role": "assistant", "content": None}
        messages.append((where, last))
    elif isinstance(last["content"], list):
        last["content"] = _joined(last["content"], where)
    last.setdefault("tool_calls", []).append(call)


def _joined(parts: Sequence[object], where: str) -> str:
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise RequestError(f"{where} follows a message of the assistant that is not text alone")
    return "\n".join(str(text) for text in texts)


def _output(item: Mapping[str, Any], where: str) -> object:
    output = item.get("output")
    if output is None:
        raise RequestError(f"{where} is a function_call_output without output; give what the function returned")
    return output if isinstance(output, str | list) else json.dumps(output, ensure_ascii=False)
