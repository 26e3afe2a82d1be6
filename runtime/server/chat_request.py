"""POST /v1/chat/completions: JSON → a checked request.

Boundary: names and forms of OpenAI's Chat Completions API; runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RequestError
from ..messages import Message
from .bundles import Bundle
from .content import read_messages
from .fields import Fields
from .forms import read_form
from .origins import Origin
from .parameters import read_options, read_streaming, read_top_logprobs, refuse_unoffered
from .thoughts import BUDGETS, SWITCH, read_thinking
from .tool_fields import Tools, read_tools

if TYPE_CHECKING:
    from ..options import Options


@dataclass(frozen=True)
class ChatRequest:
    """`options` are the keyword arguments of `Session.stream`; `ignored` are members that change nothing."""

    messages: tuple[Message, ...]
    tools: Tools
    options: Options
    stream: bool
    include_usage: bool
    logprobs: bool
    ignored: tuple[str, ...]


def read_chat(fields: Fields, bundle: Bundle, media_from: Sequence[Origin] = ()) -> ChatRequest:
    """`media_from`: hosts whose addresses stand for media. Raises RequestError naming what cannot be honoured."""
    if bundle.template is None:
        raise RequestError(f"model {bundle.name!r} has no chat template: use /v1/completions")
    refuse_unoffered(fields, but=(SWITCH, *BUDGETS))
    messages = read_messages(fields.items("messages"), bundle, media_from)
    tools = read_tools(fields, flat=False)
    options = read_options(fields, ("max_completion_tokens", "max_tokens"))
    options["logprobs"] = logprobs = fields.flag("logprobs")
    options["top_logprobs"] = read_top_logprobs(fields, logprobs=logprobs)
    options |= read_form(fields, fields.inner("response_format"))
    options |= tools.options
    options |= read_thinking(fields, fields, "reasoning_effort", bundle)
    stream, include_usage = read_streaming(fields)
    return ChatRequest(
        messages, tools, options, stream, include_usage, logprobs, fields.unread()
    )
