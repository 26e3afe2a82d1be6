"""Pieces → OpenAI's response object and the events by which it comes into being.

Boundary: shapes alone. An answer is a list of items: thoughts, messages and function calls, each opened, filled and
closed by events of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from .event_stream import event
from .problems import Problem
from .responses_request import ResponsesRequest
from .writing import Head, Logprobs, Sums, new_id, own_facts

if TYPE_CHECKING:
    from ..session import Piece, ToolCall

Data = dict[str, Any]


class ResponsesWriter:
    """One response. `logprobs` is None where nobody asked for them."""

    def __init__(self, head: Head, request: ResponsesRequest, logprobs: Logprobs | None) -> None:
        self._head = head
        self._request = request
        self._logprobs = logprobs
        self._sums = Sums()
        self._output: list[Data] = []
        self._open: Data | None = None
        self._status = "in_progress"
        self._error: Data | None = None
        self._sequence = 0

    def begin(self) -> list[bytes]:
        """The response, with nothing in it."""
        return [self._event(kind, response=self._whole()) for kind in ("response.created", "response.in_progress")]

    def push(self, number: int, piece: Piece) -> list[bytes]:
        """The item that a piece belongs to, opened if it is another one than before, and the piece in it."""
        self._sums.push(piece)
        entries = [] if self._logprobs is None else self._logprobs.push(piece)
        events: list[bytes] = []
        if piece.call is not None:
            events += [*self._close(), *self._call(piece.call)]
        elif piece.text and piece.malformed is None:
            kind = "reasoning" if piece.kind == "thinking" else "message"
            if self._open is None or self._open["type"] != kind:
                events += [*self._close(), *self._begin_item(kind)]
            events.append(self._delta(piece.text, entries))
        if piece.finish_reason is not None:
            events += self._close("incomplete" if piece.finish_reason == "length" else "completed")
            self._status = "incomplete" if piece.finish_reason == "length" else "completed"
        return events

    def end(self) -> list[bytes]:
        """The response as a whole."""
        return [self._event(f"response.{self._status}", response=self._whole())]

    def failed(self, problem: Problem) -> list[bytes]:
        """The response with the error in it."""
        self._status = "failed"
        self._error = {"code": problem.code or "server_error", "message": problem.message}
        return self.end()

    def response(self, headers: Mapping[str, str]) -> Response:
        """The response object."""
        return JSONResponse(self._whole(), headers=headers)

    def _whole(self) -> Data:
        """The response object; what was asked for is repeated in it."""
        echoed, sums = self._request.echoed, self._sums
        over = {"reason": "max_output_tokens"} if self._status == "incomplete" else None
        return {
            "id": self._head.id,
            "object": "response",
            "created_at": self._head.created,
            "completed_at": int(time.time()) if self._status == "completed" else None,
            "status": self._status,
            "error": self._error,
            "incomplete_details": over,
            "instructions": echoed["instructions"],
            "max_output_tokens": echoed["max_output_tokens"],
            "metadata": echoed["metadata"] or {},
            "model": self._head.model,
            "output": list(self._output),
            "parallel_tool_calls": not self._request.tools.one_call,
            "previous_response_id": None,
            "reasoning": {"effort": echoed["effort"], "summary": None},
            "store": False,
            "temperature": echoed["temperature"],
            "text": echoed["text"] or {"format": {"type": "text"}},
            "top_logprobs": echoed["top_logprobs"] or 0,
            "presence_penalty": echoed["presence_penalty"] or 0,
            "frequency_penalty": echoed["frequency_penalty"] or 0,
            "tool_choice": echoed["tool_choice"] or "auto",
            "tools": [{"strict": None, **tool} for tool in _objects(echoed["tools"])],
            "top_p": echoed["top_p"],
            "truncation": "disabled",
            "usage": self._usage(),
            **({"edgephi": own_facts(sums)} if sums.usage is not None else {}),
        }

    def _usage(self) -> Data | None:
        usage = self._sums.usage
        if usage is None:
            return None
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }

    def _begin_item(self, kind: str) -> list[bytes]:
        item: Data
        if kind == "reasoning":
            item = {"id": new_id("rs_"), "type": kind, "status": "in_progress", "summary": [], "content": []}
            part: Data = {"type": "reasoning_text", "text": ""}
        else:
            item = {"id": new_id("msg_"), "type": kind, "status": "in_progress", "role": "assistant", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        events = [self._add(item)]
        item["content"].append(part)
        self._open = item
        return [*events, self._part_event("response.content_part.added", part=dict(part))]

    def _delta(self, text: str, entries: list[dict[str, object]]) -> bytes:
        assert self._open is not None
        part = self._open["content"][0]
        part["text"] += text
        if part["type"] == "reasoning_text":
            return self._part_event("response.reasoning_text.delta", delta=text)
        part["logprobs"] += entries
        return self._part_event("response.output_text.delta", delta=text, logprobs=entries)

    def _close(self, status: str = "completed") -> list[bytes]:
        """Close the open item, if there is one."""
        if self._open is None:
            return []
        item, part = self._open, self._open["content"][0]
        item["status"] = status
        text: Data = {"text": part["text"]}
        if part["type"] == "output_text":
            text["logprobs"] = part["logprobs"]
        kind = f"response.{part['type']}.done"
        events = [
            self._part_event(kind, **text),
            self._part_event("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=len(self._output) - 1, item=item),
        ]
        self._open = None
        return events

    def _call(self, call: ToolCall) -> list[bytes]:
        name, _ = self._sums.calls[-1]
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        item: Data = {
            "id": new_id("fc_"), "type": "function_call", "status": "in_progress", "call_id": name, "name": call.name,
            "arguments": "",
        }
        where = {"item_id": item["id"], "output_index": len(self._output)}
        events = [
            self._add(item),
            self._event("response.function_call_arguments.delta", **where, delta=arguments),
            self._event("response.function_call_arguments.done", **where, name=call.name, arguments=arguments),
        ]
        item |= {"arguments": arguments, "status": "completed"}
        done = self._event("response.output_item.done", output_index=where["output_index"], item=item)
        return [*events, done]

    def _add(self, item: Data) -> bytes:
        self._output.append(item)
        return self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _part_event(self, kind: str, **data: object) -> bytes:
        assert self._open is not None
        where = {"item_id": self._open["id"], "output_index": len(self._output) - 1, "content_index": 0}
        return self._event(kind, **where, **data)

    def _event(self, kind: str, **data: object) -> bytes:
        made = event({"type": kind, "sequence_number": self._sequence, **data}, kind)
        self._sequence += 1
        return made


def _objects(tools: object) -> list[Data]:
    return [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
