"""Checks messages and turns their content into text: content parts in OpenAI's and in Hugging Face's form.

Boundary: plain Python data in and out; knows no template, no token and no file format. Whatever a message holds that
cannot be honoured is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .errors import RequestError

ROLES = ("system", "user", "assistant", "tool")
MAXIMUM_DEPTH = 64

Message: TypeAlias = Mapping[str, object]
Kind: TypeAlias = Literal["image", "audio"]

_TEXT_PARTS = ("text", "input_text", "output_text")
# Type of a content part → what it holds, and the keys under which OpenAI and Hugging Face put it.
_MEDIA_PARTS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "image": ("image", ("image", "url", "path", "base64")),
    "image_url": ("image", ("image_url",)),
    "input_image": ("image", ("image_url",)),
    "audio": ("audio", ("audio", "url", "path", "base64")),
    "audio_url": ("audio", ("audio_url",)),
    "input_audio": ("audio", ("input_audio",)),
}


@dataclass(frozen=True)
class Media:
    """A picture or a recording of a message; `source` is what the message gives: a path, URL, bytes, Pillow image."""

    kind: Kind
    where: str
    source: object


def media(messages: Sequence[Message]) -> list[Media]:
    """Every picture and recording of `messages`, in the order in which their placeholders come. Raises RequestError."""
    found = []
    for index, message in enumerate(messages):
        content = message.get("content")
        for number, part in enumerate(content if isinstance(content, list | tuple) else ()):
            if isinstance(part, Mapping) and part.get("type") in _MEDIA_PARTS:
                found.append(_medium(part, f"messages[{index}].content[{number}]"))
    return found


def _medium(part: Mapping[str, object], where: str) -> Media:
    kind, keys = _MEDIA_PARTS[str(part["type"])]
    source = next((part[key] for key in keys if part.get(key) is not None), None)
    if isinstance(source, Mapping) and "url" in source:
        source = source["url"]
    elif isinstance(source, Mapping) and isinstance(source.get("data"), str):
        source = f"data:{kind}/{source.get('format', 'wav')};base64,{source['data']}"
    elif isinstance(source, str) and source == part.get("base64"):
        source = f"data:{kind}/*;base64,{source}"
    if source is None:
        raise RequestError(f"{where} is of type {part['type']!r} but holds none of {', '.join(keys)}")
    return Media(kind, where, source)


def prepare(messages: Sequence[Message], marks: Mapping[str, str]) -> list[dict[str, Any]]:
    """Checked copies of `messages` whose content is one string; media are the characters of `marks`."""
    given: object = messages
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise RequestError("messages must be a list of at least one {'role': ..., 'content': ...}")
    prepared = []
    for index, message in enumerate(given):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise RequestError(f"{where} is a {type(message).__name__}, not an object with role and content")
        # OpenAI's newer name for the same thing.
        role = "system" if message.get("role") == "developer" else message.get("role")
        if role not in ROLES:
            raise RequestError(f"{where} has role {role!r:.60}; the roles are {', '.join(ROLES)}")
        copied = {
            str(key): plain_data(value, f"{where}[{key!r}]")
            for key, value in message.items()
            if key not in ("role", "content")
        }
        if message.get("content") is None and not copied.get("tool_calls"):
            raise RequestError(f"{where} ({role}) has no content; give it a string or a list of parts")
        content = message.get("content")
        prepared.append(
            {"role": role, "content": None if content is None else _content(content, where, marks), **copied}
        )
        if isinstance(copied.get("tools"), list | dict):
            prepared[-1]["tools"] = json.dumps(copied["tools"], ensure_ascii=False)
    return prepared


def _content(content: object, where: str, marks: Mapping[str, str]) -> str:
    if isinstance(content, str):
        return str(content)
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise RequestError(f"{where}: content is a {type(content).__name__}; it must be a string or a list of parts")
    pieces: list[str] = []
    after_text = False
    for number, part in enumerate(content):
        here = f"{where}.content[{number}]"
        text = _part_text(part, here)
        if text is None:
            pieces.append(_part_mark(part, here, marks))
        else:
            pieces.append(f"\n{text}" if after_text else text)
        after_text = text is not None
    return "".join(pieces)


def _part_text(part: object, where: str) -> str | None:
    """The text of a text part, None for any other part."""
    if isinstance(part, str):
        return str(part)
    if not isinstance(part, Mapping):
        raise RequestError(f"{where} is a {type(part).__name__}; a part is an object with a type")
    if part.get("type") not in _TEXT_PARTS:
        return None
    text = part.get("text")
    if not isinstance(text, str):
        raise RequestError(
            f"{where} is of type {part.get('type')!r} but its 'text' is a {type(text).__name__}, not a string"
        )
    return str(text)


def _part_mark(part: Any, where: str, marks: Mapping[str, str]) -> str:
    known = _MEDIA_PARTS.get(str(part.get("type")))
    if known is None:
        raise RequestError(
            f"{where} has type {part.get('type')!r:.60}; known are {', '.join([*_TEXT_PARTS, *_MEDIA_PARTS])}"
        )
    if known[0] not in marks:
        taken = ", ".join(["text", *marks])
        raise RequestError(
            f"{where} is of type {part['type']!r}, but this bundle takes {taken} only; remove it or use another bundle"
        )
    return marks[known[0]]


def read_calls(calls: object, where: str) -> list[dict[str, object]]:
    """Name and arguments of every call of tools that an earlier answer made. Raises RequestError."""
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise RequestError(f"{where}.tool_calls is not a list")
    found = []
    for index, call in enumerate(calls):
        here = f"{where}.tool_calls[{index}]"
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError(f"{here} is not a call of a function with a name; send back what the answer held")
        arguments = function.get("arguments", "{}")
        if not isinstance(arguments, Mapping):
            try:
                arguments = json.loads(arguments or "{}")
            except (TypeError, ValueError, RecursionError) as error:
                raise RequestError(
                    f"{here}.function.arguments is not JSON text; send back what the answer held"
                ) from error
        found.append({"name": function["name"], "arguments": arguments})
    return found


def write_calls(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A message whose calls of tools are part of its text, in the spelling of the Phi-4 family that needs no control
    token, for templates that read no calls. Raises RequestError.
    """
    written = dict(message)
    functions = read_calls(written.pop("tool_calls", None) or (), where)
    if functions:
        calls = f"functools{json.dumps(functions, ensure_ascii=False)}"
        written["content"] = f"{message['content']}\n{calls}" if message["content"] else calls
    return written


def plain_data(value: object, where: str, depth: int = 0) -> Any:
    """A deep copy made of JSON's types only: nothing in it can do more than hold data."""
    if depth > MAXIMUM_DEPTH:
        raise RequestError(f"{where} is nested deeper than {MAXIMUM_DEPTH} levels; flatten it")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain_data(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain_data(item, where, depth + 1) for item in value]
    raise RequestError(
        f"{where} holds a {type(value).__name__}; only text, numbers, true, false, null, lists and objects are allowed"
    )


def strings(value: object) -> Iterator[str]:
    """Every string inside `value`. Raises RequestError for what is nested too deeply, as a list that holds itself."""
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAXIMUM_DEPTH + 8:
            raise RequestError(f"the messages are nested deeper than {MAXIMUM_DEPTH} levels; flatten them")
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting.extend((inner, depth + 1) for inner in [*item.keys(), *item.values()])
        elif isinstance(item, Sequence) and not isinstance(item, bytes | bytearray):
            waiting.extend((inner, depth + 1) for inner in item)
