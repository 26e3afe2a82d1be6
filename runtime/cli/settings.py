"""How an answer is to be made: the options that `edgephi run` and the `/set` of a conversation share.

Boundary: names, types and their text; which values make sense is the session's to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ..errors import RequestError

if TYPE_CHECKING:
    from ..options import Options


def memory_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options `mapped` and `allow_oversized` of every verb that loads a bundle."""
    mapped = click.option(
        "--mapped", is_flag=True,
        help="Map the weights from a file made for this processor, which other programs share. Costs disk space.",
    )
    oversized = click.option("--allow-oversized", is_flag=True, help="Load even where the memory is not free.")
    return mapped(oversized(function))


def cache_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option `kv` of the verbs whose conversations grow long."""
    return click.option(
        "--kv", type=click.Choice(("float", "int8")), default="float", show_default=True,
        help="How keys and values are kept: int8 is faster behind long texts and takes a quarter of the memory.",
    )(function)


def encoder_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options `vision_device` and `speech_device` of every verb that takes pictures and recordings."""
    for part, media in (("speech", "recordings"), ("vision", "pictures")):
        function = click.option(
            f"--{part}-device", metavar="NAME", help=f"What encodes {media}. Default: as --device, else the CPU."
        )(function)
    return function


@dataclass(frozen=True)
class Settings:
    """Arguments of `Session.stream`, None leaves a choice to the bundle; and whether thoughts are kept from view."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    think: bool | None = None
    think_budget: int | None = None
    hide_thinking: bool = False
    schema: dict[str, Any] | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()
    tools: Sequence[Mapping[str, object]] = ()
    tool_choice: str = "auto"
    adapter: str | None = None

    @property
    def form(self) -> str | None:
        """The option that gives the answer a form, None where it may say anything."""
        forms = {"--schema": self.schema, "--regex": self.regex, "--choice": self.choice}
        if self.tool_choice not in ("auto", "none"):
            forms["--tool-choice"] = self.tool_choice
        return next((name for name, wanted in forms.items() if wanted not in (None, ())), None)

    def options(self) -> Options:
        """Keyword arguments for `Session.stream`."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "seed": self.seed,
            "stop": self.stop,
            "think": self.think,
            "think_budget": self.think_budget,
            "schema": self.schema,
            "regex": self.regex,
            "choice": self.choice or None,
            "tools": self.tools or None,
            "tool_choice": self.tool_choice,
            "adapter": self.adapter,
        }

    def changed(self, name: str, text: str) -> Settings:
        """The same settings with one of them read from `text`; "default" takes it back. Raises RequestError."""
        name = {"temp": "temperature", "n": "max_tokens"}.get(name, name.replace("-", "_"))
        if name not in PARSERS:
            raise RequestError(f"there is no setting {name!r}; the settings are {', '.join(PARSERS)}")
        value: Any = () if name == "stop" else None
        if text not in ("default", "none"):
            try:
                value = (*self.stop, text) if name == "stop" else PARSERS[name](text)
            except ValueError as error:
                kind = "a whole number" if PARSERS[name] is int else "a number"
                raise RequestError(f"{name} is {text!r}; it must be {kind}, or 'default'") from error
        return dataclasses.replace(self, **{name: value})

    def with_thinking(self, text: str) -> Settings:
        """The same settings with what "on", "off", "auto", a budget in tokens, "hide" or "show" says of thoughts.

        Raises RequestError.
        """
        if text == "auto":
            return dataclasses.replace(self, think=None, think_budget=None)
        if text in ("on", "off"):
            budget = None if self.think_budget == 0 else self.think_budget
            return dataclasses.replace(self, think=text == "on", think_budget=budget)
        if text in ("hide", "show"):
            return dataclasses.replace(self, hide_thinking=text == "hide")
        if not (text.isascii() and text.isdigit()):
            raise RequestError(f"/think {text!r:.40} is none of on, off, auto, a number of tokens, hide, show")
        return dataclasses.replace(self, think=None, think_budget=int(text))

    def thinking(self) -> str:
        """What of thoughts is set, in words."""
        wish = {None: "as the model likes", True: "on", False: "off"}[self.think]
        budget = "" if self.think_budget is None else f", at most {self.think_budget} tokens"
        return f"thinking: {wish}{budget}{', hidden' if self.hide_thinking else ''}"

    def lines(self) -> list[str]:
        """One line for each setting."""
        values = {name: getattr(self, name) for name in PARSERS}
        return [f"{name:20}{'default' if value in (None, ()) else value}" for name, value in values.items()]


PARSERS: dict[str, Callable[[str], object]] = {
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "seed": int,
    "stop": str,
    "adapter": str,
}
