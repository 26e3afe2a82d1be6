"""Answers from what a tool returned, and questions that need none of the tools on offer."""

from __future__ import annotations

from dataclasses import replace

from . import addition, copying, reading
from .example import Example
from .source import Source
from .tools import KINDS, answered, offer, request, system_turn

NAME = "results"
RANGE = "weather, time or a short status returned by the called tool; or a question for which no tool is needed"


def make(source: Source) -> Example:
    """`{"degrees": 21, "sky": "cloudy"}` → `It is 21 degrees and cloudy in Lisbon.`"""
    if source.chance(0.3):
        plain = source.pick((addition.make, copying.make, _told))(source)
        tools = offer(source, source.several(KINDS, source.weighted((1, 2), (3, 1))))
        return replace(plain, task=NAME, turns=(system_turn(source, tools), *plain.turns))
    tools = offer(source, source.several(KINDS, source.between(1, 2)))
    call = request(source, tools)
    *turns, answer = answered(source, call)
    return Example(
        NAME, (system_turn(source, tools), *turns), str(answer["content"]), f"{call.text} {answer['content']}"
    )


def _told(source: Source) -> Example:
    return reading.questioned(source, 1)
