"""Tool calls: which of the tools of the system turn to call, with which arguments; and an answer from what a tool
returned.

The JSON texts are what the published chat format carries between <|tool|> … <|/tool|> and <|tool_call|> …
<|/tool_call|>.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import words
from .example import Example, Message, assistant, user
from .source import Source

NAME = "tools"
RANGE = (
    "1 or 2 tools of 8 kinds under several names, flat or OpenAI-style definitions; one call, after 0 to 2 earlier ones"
)

Arguments = Mapping[str, str | int]

_SKY = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy")


@dataclass(frozen=True)
class Parameter:
    """An argument of a tool: its name, its JSON type and description, and where its values come from."""

    name: str
    type: str
    description: str
    value: Callable[[Source], str | int]


@dataclass(frozen=True)
class Kind:
    """A kind of tool: possible names and descriptions, parameters, and requests with {0}, {1} for the arguments."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    requests: tuple[str, ...]


@dataclass(frozen=True)
class Tool:
    """One tool as it is offered: a kind under one of its names."""

    kind: Kind
    name: str
    description: str

    def flat(self) -> dict[str, object]:
        """The definition as Phi-4-mini's model card writes it."""
        return {"name": self.name, "description": self.description, "parameters": self._properties()}

    def openai(self) -> dict[str, object]:
        """The definition as OpenAI's API takes it."""
        parameters = {"type": "object", "properties": self._properties(), "required": list(self._properties())}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }

    def _properties(self) -> dict[str, object]:
        return {
            parameter.name: {"type": parameter.type, "description": parameter.description}
            for parameter in self.kind.parameters
        }


@dataclass(frozen=True)
class Call:
    """A wish of the user, and the call that fulfils it."""

    tool: Tool
    arguments: Arguments
    text: str


def _phrase(source: Source) -> str:
    return " ".join(source.word() for _ in range(source.between(1, 4)))


_CITY = Parameter("city", "string", "Name of the city", Source.place)

KINDS = (
    Kind(
        ("get_weather", "weather"),
        ("Current weather of a city", "Looks up the weather"),
        (_CITY,),
        (
            "What is the weather in {0}?",
            "How is the weather in {0}?",
            "Is it raining in {0}?",
            "Tell me the weather in {0}.",
        ),
    ),
    Kind(
        ("get_time", "clock"),
        ("Local time of a city", "Tells the time"),
        (_CITY,),
        ("What time is it in {0}?", "Tell me the time in {0}.", "How late is it in {0}?"),
    ),
    Kind(
        ("set_timer", "timer"),
        ("Starts a timer", "Sets a timer in minutes"),
        (Parameter("minutes", "integer", "Number of minutes", lambda source: source.between(1, 99)),),
        ("Set a timer for {0} minutes.", "Wake me in {0} minutes.", "Start a timer of {0} minutes."),
    ),
    Kind(
        ("send_message", "message"),
        ("Sends a message to a person", "Sends a text"),
        (
            Parameter("to", "string", "Who gets it", Source.name),
            Parameter("text", "string", "What to say", _phrase),
        ),
        ("Send {0} this message: {1}", "Write to {0}: {1}", "Send a message to {0}: {1}"),
    ),
    Kind(
        ("play_music", "play"),
        ("Plays a song", "Plays music"),
        (Parameter("title", "string", "Title of the song", _phrase),),
        ("Play the song {0}", "Play {0}", "I want to hear {0}"),
    ),
    Kind(
        ("set_light", "light"),
        ("Switches a light on or off", "Controls the lights"),
        (
            Parameter(
                "room",
                "string",
                "Name of the room",
                lambda source: source.pick(("kitchen", "bedroom", "bathroom", "hall", "garage", "office")),
            ),
            Parameter("state", "string", "on or off", lambda source: source.pick(("on", "off"))),
        ),
        ("Turn {1} the light in the {0}.", "Switch {1} the {0} light.", "Light {1} in the {0}, please."),
    ),
    Kind(
        ("find_route", "route"),
        ("Finds a way between two cities", "Plans a trip"),
        (
            Parameter("start", "string", "Where to start", Source.place),
            Parameter("end", "string", "Where to go", Source.place),
        ),
        ("How do I get from {0} to {1}?", "Find a route from {0} to {1}.", "I am in {0} and want to go to {1}."),
    ),
    Kind(
        ("buy", "order"),
        ("Orders something from the shop", "Puts things into the cart"),
        (
            Parameter("count", "integer", "How many", lambda source: source.between(2, 60)),
            Parameter("item", "string", "What to buy", lambda source: source.pick(words.FOODS)),
        ),
        ("Buy {0} {1}.", "Order {0} {1} for me.", "I need {0} {1}."),
    ),
)


def offer(source: Source, kinds: list[Kind]) -> list[Tool]:
    """The kinds under random names."""
    return [Tool(kind, source.pick(kind.names), source.pick(kind.descriptions)) for kind in kinds]


def system_turn(source: Source, tools: list[Tool]) -> Message:
    """The system turn that offers the tools, in one of the two styles of definition."""
    form = Tool.openai if source.chance(0.25) else Tool.flat
    content = source.pick(("You are a helpful assistant with some tools.", *words.SYSTEM_TURNS))
    return {"role": "system", "content": content, "tools": json.dumps([form(tool) for tool in tools])}


def call_text(name: str, arguments: Arguments) -> str:
    """A call as the model writes it."""
    return f"<|tool_call|>{json.dumps([{'name': name, 'arguments': arguments}])}<|/tool_call|>"


def request(source: Source, tools: list[Tool]) -> Call:
    """A wish for one of the tools."""
    tool = source.pick(tools)
    arguments = {parameter.name: parameter.value(source) for parameter in tool.kind.parameters}
    return Call(tool, arguments, source.pick(tool.kind.requests).format(*arguments.values()))


def answered(source: Source, call: Call) -> tuple[Message, Message, Message, Message]:
    """The wish, the call, what the tool returned and the sentence that says it."""
    result, answer = _outcome(source, call)
    called = {"name": call.tool.name, "arguments": json.dumps(call.arguments)}
    return (
        user(call.text),
        {"role": "assistant", "tool_calls": [{"type": "function", "function": called}]},
        {"role": "tool", "content": json.dumps(result)},
        assistant(answer),
    )


def make(source: Source) -> Example:
    """`Play fox` → `<|tool_call|>[{"name": "play_music", "arguments": {"title": "fox"}}]<|/tool_call|>`."""
    tools = offer(source, source.several(KINDS, source.between(1, 2)))
    before = [turn for _ in range(source.below(3)) for turn in answered(source, request(source, tools))]
    call = request(source, tools)
    turns = (system_turn(source, tools), *before, user(call.text))
    return Example(NAME, turns, call_text(call.tool.name, call.arguments), f"{call.text} {call.tool.name}")


def _outcome(source: Source, call: Call) -> tuple[dict[str, object], str]:
    """What the tool returns and the sentence that says it."""
    place = next(iter(call.arguments.values()))
    if call.tool.kind is KINDS[0]:
        degrees, sky = source.between(0, 39), source.pick(_SKY)
        return {"degrees": degrees, "sky": sky}, f"It is {degrees} degrees and {sky} in {place}."
    if call.tool.kind is KINDS[1]:
        time = f"{source.between(0, 23):02d}:{source.between(0, 59):02d}"
        return {"time": time}, f"It is {time} in {place}."
    if source.chance(0.5):
        return {"status": "ok"}, "Done."
    reason = source.pick(("no network", "not found", "not allowed", "out of order", "busy"))
    return {"status": "error", "reason": reason}, f"That did not work: {reason}."
