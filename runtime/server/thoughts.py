"""How much a client wants a model to think, in the words of several APIs.

Boundary: JSON members in, keyword arguments of `Session.stream` out. OpenAI's clients state an effort, vLLM's a switch
for the chat template, Qwen's and llama.cpp's a budget; two wishes that contradict each other are an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import RequestError
from .bundles import Bundle
from .fields import Fields
from .parameters import read_variables

if TYPE_CHECKING:
    from ..options import Options

# Effort → the most tokens of a thought: 0 is no thought, None as many as it takes.
EFFORTS: dict[str, int | None] = {
    "none": 0, "minimal": 256, "low": 1024, "medium": 4096, "high": None, "xhigh": None,
}
SWITCH = "enable_thinking"
BUDGETS = ("thinking_budget", "reasoning_budget", "thinking_token_budget")


def read_thinking(fields: Fields, effort: Fields | None, name: str, bundle: Bundle) -> Options:
    """`think`, `think_budget`, and `variables` without the switch, unless the template reads that itself.

    `name`: the member of `effort` that holds the effort. A budget that is given as a number counts more than the
    effort's. Raises RequestError.
    """
    variables = dict(read_variables(fields))
    wishes: dict[str, bool] = {}
    budget = None
    chosen = None if effort is None else effort.choice(name, tuple(EFFORTS), "")
    if effort is not None and chosen:
        budget = EFFORTS[chosen]
        wishes[effort.name_of(name)] = budget != 0
    if bundle.template is None or SWITCH not in bundle.template:
        _read_switch(wishes, f"chat_template_kwargs.{SWITCH}", variables.pop(SWITCH, None))
    _read_switch(wishes, SWITCH, fields.raw(SWITCH))
    for budget_name in BUDGETS:
        number = fields.whole(budget_name, -1)
        if number == 0:
            wishes[budget_name] = False
        elif number is not None:
            budget = None if number == -1 else number
    think = _agreed(wishes)
    if think and bundle.manifest.thinking is None:
        names = " and ".join(wishes)
        raise RequestError(f"model {bundle.name!r} was not trained to think, which {names} asks for: leave it out")
    return {"variables": variables, "think": think, "think_budget": None if think is False else budget}


def _read_switch(wishes: dict[str, bool], name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, bool):
        raise RequestError(f"{name} is {value!r:.60}; allowed is true or false")
    wishes[name] = value


def _agreed(wishes: Mapping[str, bool]) -> bool | None:
    """What all wishes ask for, None where there is none. Raises RequestError naming two that contradict each other."""
    for_it, against = (_named(wishes, wish) for wish in (True, False))
    if for_it and against:
        raise RequestError(f"{for_it[0]} asks for a thought and {against[0]} for none: leave out one of them")
    return True if for_it else False if against else None


def _named(wishes: Mapping[str, bool], wish: bool) -> Sequence[str]:
    return [name for name, value in wishes.items() if value is wish]
