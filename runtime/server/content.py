"""Messages of a request → messages for a session: media become bytes, and nothing names a file.

Boundary: JSON in, the message form of runtime/messages.py out, which says what is wrong with the rest. Pictures and
recordings come inside the request, as data: URLs or base64: a server that opened paths or fetched addresses for its
clients would be their way to the files and networks of this machine. Addresses of hosts that the operator listed are
the one exception; they stay as an Address, for remote.py.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from ..errors import MediaError, RequestError
from ..media import data_url_bytes
from ..messages import Message, prepare, read_calls
from .bundles import Bundle
from .origins import Address, Origin, read_address

Kind = Literal["image", "audio"]

MAXIMUM_MESSAGES = 10_000
# Type of a part → kind of its content.
_KINDS: dict[object, Kind] = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
}
_SOURCES = ("image_url", "input_audio", "audio_url", "image", "audio", "url", "base64")
_URL = re.compile(r"https?:", re.IGNORECASE)
_INDEX = re.compile(r"^messages\[(\d+)\]")
_KEPT = ("name", "tool_call_id", "tools")


def read_messages(
    given: Sequence[object] | None, bundle: Bundle, media_from: Sequence[Origin] = (),
    places: Sequence[str] | None = None,
) -> tuple[Message, ...]:
    """Checked messages for a session. Raises RequestError naming the message or part that cannot be taken.

    `media_from`: hosts whose addresses are taken. `places`: where each of the messages stands in the request, if that
    is not `messages` itself.
    """
    if not given:
        raise RequestError("messages is missing or empty; give at least one message with role and content")
    if len(given) > MAXIMUM_MESSAGES:
        raise RequestError(f"messages holds {len(given)} messages, at most {MAXIMUM_MESSAGES} are allowed")
    named = places or [f"messages[{index}]" for index in range(len(given))]
    messages = tuple(_message(message, bundle, media_from, where) for message, where in zip(given, named, strict=True))
    try:
        prepare(messages, dict.fromkeys(bundle.takes, ""))
    except RequestError as error:
        raise RequestError(_INDEX.sub(lambda found: named[int(found[1])], str(error))) from error
    return messages


def _message(given: object, bundle: Bundle, media_from: Sequence[Origin], where: str) -> Message:
    if not isinstance(given, Mapping):
        raise RequestError(f"{where} is not an object with role and content")
    if given.get("function_call") or given.get("role") == "function":
        raise RequestError(f"{where} uses function_call, the old form of tools: use tool_calls and the role 'tool'")
    content = given.get("content")
    if content is None and isinstance(given.get("refusal"), str):
        content = given["refusal"]
    if isinstance(content, list):
        content = [
            _part(part, bundle, media_from, f"{where}.content[{number}]") for number, part in enumerate(content)
        ]
    message = {"role": given.get("role"), "content": content}
    # What else clients send back of an answer (reasoning_content, refusal, audio, annotations) is no part of a prompt.
    message |= {key: given[key] for key in _KEPT if given.get(key) is not None}
    calls = given.get("tool_calls")
    if calls:
        read_calls(calls, where)  # raises for what is none
        message["tool_calls"] = calls
    return message


def _part(part: object, bundle: Bundle, media_from: Sequence[Origin], where: str) -> object:
    """A part whose medium, if it is one that the bundle takes, is bytes or an Address."""
    if not isinstance(part, Mapping):
        return part
    if part.get("type") == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    kind = _KINDS.get(part.get("type")) if isinstance(part.get("type"), str) else None
    if kind is None or kind not in bundle.takes:
        return part
    source = next((part[key] for key in _SOURCES if part.get(key) is not None), None)
    if isinstance(source, Mapping):
        source = source.get("url", source.get("data"))
    if not isinstance(source, str):
        raise RequestError(f"{where} is of type {part['type']!r} and holds no data: give a data: URL or base64 text")
    return {"type": kind, kind: _medium(source, kind, where, media_from)}


def _medium(source: str, kind: Kind, where: str, media_from: Sequence[Origin]) -> bytes | Address:
    if _URL.match(source):
        return read_address(source, kind, where, media_from)
    try:
        if source[:5].lower() == "data:":
            return data_url_bytes(source, kind, len(source))
        return base64.b64decode(source, validate=True)
    except MediaError as error:
        raise MediaError(f"{where}: {error}") from error
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            f"{where} gives {source[:40]!r}, which is neither a data: URL nor base64; no file is opened for a client:"
            f" send the {kind} itself"
        ) from error
