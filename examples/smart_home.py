"""A smart home to talk to: the model chooses what to do, this program does it and says what came of it.

    python examples/smart_home.py phi-4-mini "It is dark in the hall, and too cold in the bedroom."

The tools are in tools.json beside this file; with `edgephi run phi-4-mini --tools examples/tools.json` you are the home
and type what they return. They are `strict`: the arguments of a call always follow their schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edgephi

TOOLS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("tools.json").read_text(encoding="utf-8"))
SYSTEM = "You run a smart home. Use the tools for what is asked of you, then say in one sentence what you did."
ROUNDS = 5  # answers to one request, before a model that only calls tools is stopped


@dataclass
class Room:
    """What a room is like."""

    light: bool = False
    degrees: int = 18


@dataclass
class Home:
    """A home of three rooms, in place of lamps and radiators."""

    rooms: dict[str, Room] = field(default_factory=lambda: {name: Room() for name in ("hall", "kitchen", "bedroom")})

    def carry_out(self, call: edgephi.ToolCall) -> str:
        """Do what a call says; what the tool returns as JSON, an error included."""
        tools: dict[str, Callable[..., dict[str, object]]] = {
            "set_light": self.set_light, "set_temperature": self.set_temperature, "read_room": self.read_room,
        }
        try:
            return json.dumps(tools[call.name](**call.arguments))
        except (KeyError, TypeError) as error:
            return json.dumps({"error": f"{type(error).__name__}: {error}"})

    def set_light(self, room: str, on: bool) -> dict[str, object]:
        """Switch the light."""
        self.rooms[room].light = on
        return {"status": "ok"}

    def set_temperature(self, room: str, degrees: int) -> dict[str, object]:
        """Set the heating."""
        self.rooms[room].degrees = degrees
        return {"status": "ok"}

    def read_room(self, room: str) -> dict[str, object]:
        """Light and temperature."""
        return {"light": "on" if self.rooms[room].light else "off", "degrees": self.rooms[room].degrees}


def ask(session: edgephi.Session, home: Home, messages: list[dict[str, Any]], request: str) -> str:
    """Have a request done; `messages` is the conversation and grows by it. The model's last words."""
    messages.append({"role": "user", "content": request})
    for _ in range(ROUNDS):
        reply = session.chat(messages, tools=TOOLS, temperature=0)
        messages.append(reply.message)
        for malformed in reply.malformed_calls:
            print(f"  no call: {malformed.reason}: {malformed.text}", file=sys.stderr)
        if not reply.tool_calls:
            return reply.text
        for call in reply.tool_calls:
            result = home.carry_out(call)
            print(f"  {call.name} {json.dumps(call.arguments)} -> {result}", file=sys.stderr)
            messages.append({"role": "tool", "content": result})
    return f"(stopped after {ROUNDS} answers that only called tools)"


def main() -> None:
    """One request, from the command line."""
    bundle, request = sys.argv[1], " ".join(sys.argv[2:])
    with edgephi.load(bundle) as session:
        print(ask(session, Home(), [{"role": "system", "content": SYSTEM}], request))


if __name__ == "__main__":
    main()
