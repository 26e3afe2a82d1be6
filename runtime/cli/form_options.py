"""The options of `edgephi run` for answers of a given form and for tools: their files and texts, read.

Boundary: the command line in, arguments of `Session.stream` out; what a form means is the session's to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import RequestError

MAXIMUM_BYTES = 1 << 20


def form_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options `schema`, `regex`, `choice`, `tools` and `tool_choice`, which end up in Settings."""
    options: list[Callable[[Any], Any]] = [
        click.option(
            "--schema", metavar="FILE|JSON", callback=_read_schema, help="Answer with JSON that follows this schema."
        ),
        click.option("--regex", metavar="REGEX", help="Answer with text that this regular expression matches."),
        click.option("--choice", multiple=True, metavar="TEXT", help="Answer with one of several TEXTs."),
        click.option(
            "--tools", metavar="FILE|JSON", callback=_read_tools, help="Functions that the model may call, as a list."
        ),
        click.option(
            "--tool-choice", default="auto", metavar="NAME", show_default=True,
            help="The tool to call, or auto, none, required.",
        ),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def _read_schema(context: click.Context, option: click.Parameter, given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    schema = read_data(given, "--schema")
    if not isinstance(schema, dict):
        raise RequestError(f"--schema {given:.60} is no JSON object; give a JSON schema")
    return schema


def _read_tools(context: click.Context, option: click.Parameter, given: str | None) -> list[dict[str, Any]]:
    if given is None:
        return []
    tools = read_data(given, "--tools")
    if isinstance(tools, dict):
        tools = tools.get("tools")
    if not isinstance(tools, list) or not tools or not all(isinstance(tool, dict) for tool in tools):
        raise RequestError(f"--tools {given:.60} is no list of functions; give name and parameters of each")
    return tools


def read_data(given: str, option: str) -> Any:
    """JSON that stands on the command line itself or in the file that it names. Raises RequestError."""
    text = given
    if not given.lstrip().startswith(("{", "[")):
        try:
            with Path(given).open("rb") as file:
                text = file.read(MAXIMUM_BYTES + 1).decode("utf-8-sig")
        except OSError as error:
            raise RequestError(f"{option} {given} cannot be read ({error.strerror}); give a file or JSON") from error
        except UnicodeDecodeError as error:
            raise RequestError(f"{option} {given} is not UTF-8 text; convert it first") from error
        if len(text) > MAXIMUM_BYTES:
            raise RequestError(f"{option} {given} is larger than {MAXIMUM_BYTES} bytes; give less")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{option} {given:.60} is not JSON ({error})") from error
