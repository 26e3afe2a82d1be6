"""Messages → the text that a model was trained on, with every character that a user wrote marked as such.

Boundary: messages and the published Jinja template in, segments out; ids are made by tokens.py, the template runs in
sandbox.py. No message, tool or picture is ever dropped without an error: what a template does not read it is not given.

How a user's text is kept from becoming a control token: before the template runs, each character with which a control
token begins or ends is replaced, in every string that came from outside, by a character that occurs nowhere else.
Whatever the template trims, joins or cuts, only its own text can form a control token; afterwards the characters are
put back as untrusted segments.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from .errors import BundleError, RequestError
from .messages import ROLES, Message, plain_data, prepare, strings, write_calls
from .sandbox import Template
from .tokens import Segment, read_controls

TEMPLATE_NAME = "chat_template.jinja"
CONFIG_NAME = "tokenizer_config.json"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# What a template must read where a message has it: leaving it out would change what was said.
_MUST_BE_READ = ("content", "tools", "tool_calls")
_PRIVATE = range(0xF0000, 0xFFFFE)


class ChatTemplate:
    """The published chat template of a bundle. Safe to share between threads."""

    def __init__(self, source: str, name: str, controls: Collection[str], special_tokens: Mapping[str, str]) -> None:
        self._name = name
        self._controls = re.compile("|".join(map(re.escape, sorted(controls, key=len, reverse=True))) or "(?!)")
        self._edges = frozenset(edge for control in controls for edge in (control[0], control[-1]))
        self._inside = frozenset(char for control in controls for char in control if not char.isspace()) | self._edges
        self._special_tokens = dict(special_tokens)
        try:
            self._template = Template(source)
        except jinja2.TemplateError as error:
            raise BundleError(
                f"{name}: the chat template is not one that edgephi runs ({_one_line(error)}); export again"
            ) from error
        # `'<|' + message['role'] + '|>'`: text that, followed by other text, could become a control token.
        starts = tuple({control[:length] for control in controls for length in range(1, len(control))})
        self._composes = any(constant.endswith(starts) for constant in self._template.constants)

    @classmethod
    def open(cls, folder: Path, controls: Collection[str] | None = None) -> ChatTemplate | None:
        """Read the template of a bundle, None if it has none. Raises BundleError.

        `controls` is Tokenizer.controls; without it the tokenizer's file is read once more.
        """
        config = _read_config(folder / CONFIG_NAME)
        path = folder / TEMPLATE_NAME
        source = path.read_text(encoding="utf-8") if path.is_file() else _embedded_template(config)
        if source is None:
            return None
        special_tokens = {name: text for name in SPECIAL_TOKENS if (text := _token_text(config.get(name))) is not None}
        name = str(path if path.is_file() else folder / CONFIG_NAME)
        return cls(source, name, read_controls(folder) if controls is None else controls, special_tokens)

    @property
    def source(self) -> str:
        """The template as published."""
        return self._template.source

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, object] = {},
        placeholders: Mapping[str, str] = {},
    ) -> list[Segment]:
        """The prompt for `messages`, as transformers' apply_chat_template renders it, cut into segments.

        Content is a string or a list of OpenAI's or Hugging Face's parts; neighbouring text parts are joined by a
        newline. A picture or recording becomes the control token that `placeholders` names for "image" or "audio";
        without one it is an error. `tools` reach templates that read them, or the system message where a template looks
        for them there (Phi-4-mini). `variables` are further names that the template reads. Raises RequestError, also
        when the template would leave out a message, tools or tool calls.
        """
        texts = list(strings([messages, tools, variables]))
        written = set().union(*map(set, texts))
        marks = _Marks(self._edges, self._inside, placeholders, written.union(self._template.source))
        prepared = prepare(messages, marks.media)
        if "tool_calls" not in self._template.keys:
            prepared = [write_calls(message, f"messages[{index}]") for index, message in enumerate(prepared)]
        given = {**self._checked(variables), **self._place_tools(prepared, tools), "messages": prepared}
        given["add_generation_prompt"] = add_generation_prompt
        size = sum(map(len, texts)) + len(self._template.source)
        text = self._run(marks.guard(given), marks, size)
        if self._composes:
            self._require_same_controls(text, self._run(marks.cover(given), marks, size))
        if not written.isdisjoint(self._edges):
            plain = self._run(marks.hide(given, self._controls), marks, size)
            if marks.restore(text) != marks.restore(plain):
                # The template looks at guarded characters, as in `'</think>' in content`, and so must see them.
                self._require_same_controls(plain, text)
                text = plain
        return marks.segments(text)

    def _require_same_controls(self, text: str, other: str) -> None:
        """`other` is the same with less of what users wrote, so a control token that only `text` has is theirs."""
        found = self._controls.findall(text)
        if found != self._controls.findall(other):
            raise RequestError(
                f"{self._name}: the template would make a control token of what a message says; remove what reads like "
                f"{' or '.join(sorted(set(found)))} from the messages"
            )

    def _run(self, given: Mapping[str, Any], marks: _Marks, size: int) -> str:
        """Render. Raises RequestError if that fails, or if the template left something unread that a message says."""
        messages = [_Watched(message) for message in given["messages"]]
        try:
            text = self._template.render({**given, **self._special_tokens, "messages": messages}, size)
        except jinja2.TemplateError as error:
            raise RequestError(
                f"{self._name}: the chat template refuses these messages: {marks.restore(_one_line(error))}"
            ) from error
        # What Python raises when a template adds a string to a list, asks None for a key, ...
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise RequestError(
                f"{self._name}: the chat template cannot handle these messages ({type(error).__name__}: "
                f"{marks.restore(_one_line(error))}); give each message a role and a content of text"
            ) from error
        for index, message in enumerate(messages):
            for key in _MUST_BE_READ:
                if message.unread(key):
                    advice = "put it into a user message" if key == "content" else "remove it"
                    raise RequestError(
                        f"messages[{index}] ({message['role']}): the chat template of this bundle does not read "
                        f"{key!r} and would drop it; {advice} ({self._name})"
                    )
        return text

    def _checked(self, variables: Mapping[str, object]) -> dict[str, object]:
        reserved = {"messages", "tools", "add_generation_prompt", "documents", *SPECIAL_TOKENS}
        for name in variables:
            if name in reserved or name not in self._template.variables:
                readable = sorted(self._template.variables - reserved) or "none"
                raise RequestError(
                    f"template variable {name!r} is not read by this bundle's chat template; it reads {readable}"
                )
        return {name: plain_data(value, f"variables[{name!r}]") for name, value in variables.items()}

    def _place_tools(
        self, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, object]] | None
    ) -> dict[str, object]:
        """Give `tools` to the template as it asks for them: by name, or inside the system message of `messages`."""
        if not tools:
            return {}
        copied = [plain_data(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
        if any(not isinstance(tool, dict) for tool in copied):
            raise RequestError(
                "tools must be a list of objects with name, description and parameters, or of OpenAI's function form"
            )
        for tool in copied:  # an order to whoever reads the calls, no description for the model
            (tool["function"] if isinstance(tool.get("function"), dict) else tool).pop("strict", None)
        if "tools" in self._template.variables:
            return {"tools": copied}
        if "tools" not in self._template.keys:
            raise RequestError(
                f"{len(tools)} tools are given, but this bundle's chat template has no place for tools ({self._name})"
            )
        if not any(message["role"] == "system" for message in messages):
            messages.insert(0, {"role": "system", "content": ""})
        system = next(message for message in messages if message["role"] == "system")
        # Phi-4-mini's model card gives the bare function objects.
        functions = [tool["function"] if isinstance(tool.get("function"), dict) else tool for tool in copied]
        system["tools"] = json.dumps(functions, ensure_ascii=False)
        return {}


class _Watched(dict[str, Any]):
    """A message that knows which of its keys a template has read."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def unread(self, key: str) -> bool:
        """Whether the message says something under `key` that nobody has read."""
        return bool(super().get(key)) and key not in self.read

    def items(self) -> Any:
        self.read.update(self)
        return super().items()

    def values(self) -> Any:
        self.read.update(self)
        return super().values()


class _Marks:
    """Characters that stand in for what users wrote and for media, none of which occurs in any given string."""

    def __init__(
        self, edges: Collection[str], inside: Collection[str], kinds: Mapping[str, str], taken: set[str]
    ) -> None:
        wanted = len(inside) + len(kinds)
        start = secrets.randbelow(len(_PRIVATE))
        points = map(chr, itertools.chain(_PRIVATE[start:], _PRIVATE[:start]))
        free = list(itertools.islice((point for point in points if point not in taken), wanted))
        if len(free) < wanted:
            raise RequestError("the messages use up Unicode's private characters; remove U+F0000 to U+FFFFD from them")
        marks = dict(zip(inside, free, strict=False))
        self.media = dict(zip(kinds, free[len(inside) :], strict=True))
        self._tokens = {self.media[kind]: token for kind, token in kinds.items()}
        self._originals = {ord(mark): original for original, mark in marks.items()}
        self._all = str.maketrans(marks)
        self._edges = str.maketrans({edge: marks[edge] for edge in edges})
        # A template reads keys by name, so letters of theirs stay.
        self._keys = str.maketrans({edge: marks[edge] for edge in edges if not edge.isalnum()})

    def guard(self, value: Any) -> Any:
        """A copy of plain data in which every character that begins or ends a control token is replaced."""
        return _mapped(value, lambda text: text.translate(self._edges), lambda key: key.translate(self._keys))

    def cover(self, value: Any) -> Any:
        """A copy of plain data in which every character that occurs in a control token is replaced."""
        return _mapped(value, lambda text: text.translate(self._all), lambda key: key.translate(self._keys))

    def hide(self, value: Any, controls: re.Pattern[str]) -> Any:
        """A copy of plain data in which characters are replaced only inside a whole control token."""

        def change(text: str) -> str:
            return controls.sub(lambda match: match[0].translate(self._edges), text)

        return _mapped(value, change, change)

    def restore(self, text: str) -> str:
        """`text` with the original characters put back."""
        return text.translate(self._originals)

    def segments(self, text: str) -> list[Segment]:
        """Cut a rendered text at its marks."""
        marks = "".join([*map(chr, self._originals), *self._tokens])
        segments = []
        for piece in re.split(f"([{marks}])", text):
            if piece in self._tokens:
                segments.append(Segment(self._tokens[piece], trusted=True))
            elif piece:
                original = self.restore(piece)
                segments.append(Segment(original, trusted=original == piece))
        return segments


def _mapped(value: Any, change: Callable[[str], str], change_key: Callable[[str], str]) -> Any:
    """A copy of plain data with every string changed; a role is one of a few words already and stays."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {
            change_key(key): item if key == "role" and item in ROLES else _mapped(item, change, change_key)
            for key, item in value.items()
        }
    return [_mapped(item, change, change_key) for item in value] if isinstance(value, list) else value


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON ({error}); export the checkpoint again") from error
    if not isinstance(config, dict):
        raise BundleError(f"{path} holds a {type(config).__name__}, not an object; export the checkpoint again")
    return config


def _embedded_template(config: Mapping[str, Any]) -> str | None:
    """`chat_template` of tokenizer_config.json: text, or a list of named ones of which `default` counts."""
    found = config.get("chat_template")
    if isinstance(found, list):
        found = next(
            (item.get("template") for item in found if isinstance(item, dict) and item.get("name") == "default"), None
        )
    return found if isinstance(found, str) else None


def _token_text(value: object) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
