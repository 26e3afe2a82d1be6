"""Answers from what a tool returned, and questions that need none of the tools on offer."""

from __future__ import annotations

import json
from dataclasses import replace

from . import addition, copying, reading
from .example import Example, Message, user
from .source import Source
from .tools import KINDS, Arguments, Tool, offer, request, system_turn

NAME = "results"
RANGE = "weather, time or a short status returned by the called tool; or a question for which no tool is needed"

_SKY = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy")


def make(source: Source) -> Example:
    """`{"degrees": 21, "sky": "cloudy"}` → `It is 21 degrees and cloudy in Lisbon.`"""
    if source.chance(0.3):
        plain = source.pick((addition.make, copying.make, reading.make))(source)
        tools = offer(source, source.several(KINDS, source.weighted((1, 2), (3, 1))))
        return replace(plain, task=NAME, turns=(system_turn(source, tools), *plain.turns))
    system, tool, arguments, text = request(source)
    result, answer = _outcome(source, tool, arguments)
    called = {"name": tool.name, "arguments": json.dumps(arguments)}
    call: Message = {"role": "assistant", "tool_calls": [{"type": "function", "function": called}]}
    response: Message = {"role": "tool", "content": json.dumps(result)}
    return Example(NAME, (system, user(text), call, response), answer, f"{text} {answer}")


def _outcome(source: Source, tool: Tool, arguments: Arguments) -> tuple[dict[str, object], str]:
    """What the tool returns and the sentence that says it."""
    place = next(iter(arguments.values()))
    if tool.kind is KINDS[0]:
        degrees, sky = source.between(0, 39), source.pick(_SKY)
        return {"degrees": degrees, "sky": sky}, f"It is {degrees} degrees and {sky} in {place}."
    if tool.kind is KINDS[1]:
        time = f"{source.between(0, 23):02d}:{source.between(0, 59):02d}"
        return {"time": time}, f"It is {time} in {place}."
    if source.chance(0.5):
        return {"status": "ok"}, "Done."
    reason = source.pick(("no network", "not found", "not allowed", "out of order", "busy"))
    return {"status": "error", "reason": reason}, f"That did not work: {reason}."
