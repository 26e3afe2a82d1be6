"""Text ↔ token ids. What a user wrote can never become a control token, and no character is ever split.

Boundary: knows `tokenizer.json` and nothing of chats, graphs or sessions. Encoding is done by the `tokenizers` library;
what is our own is the split at control tokens (the library would also find them in what a user typed, even under
`encode_special_tokens`: Phi-4's tool tokens are not marked special) and the incremental way back from ids to text.

The rules of the split are those of the library: leftmost, longest, `lstrip` and `rstrip` swallow white space, and every
stretch between two control tokens is encoded on its own.
"""

from __future__ import annotations

import codecs
import copy
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import BundleError, RequestError

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_NAME = "tokenizer.json"
MAXIMUM_BYTES = 256 << 20
MAXIMUM_CHARACTERS = 64 << 20
_BPE_SETTINGS = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
)
_ID_LIMIT = 1 << 32
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# Unicode's White_Space, which is what `\s` means to the tokenizers library; Python's own `\s` also takes U+001C–U+001F.
_SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_LEADING = re.compile(f"[{_SPACES}]*")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

T = TypeVar("T")


@dataclass(frozen=True)
class Segment:
    """A stretch of a prompt. Control tokens are recognised where `trusted` is true; any other text stays text."""

    text: str
    trusted: bool


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the text before the model's own vocabulary is used."""

    id: int
    content: str
    special: bool
    lstrip: bool
    rstrip: bool


class Tokenizer:
    """The tokenizer of a bundle. Safe to share between threads; `detokenizer` makes the stateful part."""

    def __init__(self, spec: dict[str, Any], name: str) -> None:
        self._name = name
        self._added = {token.content: token for token in _added_tokens(spec, name)}
        self._contents = {token.id: token.content for token in self._added.values()}
        self._special = frozenset(token.id for token in self._added.values() if token.special)
        longest_first = sorted(self._added, key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        try:
            first, inner = _plain(spec, frozenset(self._added))
        except (AttributeError, TypeError, ValueError) as error:
            raise BundleError(f"{name}: 'model' is malformed ({error!r}); export the checkpoint again") from error
        self._first = _load(first, name)
        self._inner = self._first if inner is None else _load(inner, name)
        self._spec_decoder = spec.get("decoder")

    @classmethod
    def open(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json` of `folder`. Raises BundleError."""
        path = folder / TOKENIZER_NAME
        return cls(_read(path), str(path))

    @property
    def controls(self) -> frozenset[str]:
        """The text of every added token, special or not."""
        return frozenset(self._added)

    @property
    def control_ids(self) -> frozenset[int]:
        """The id of every added token, special or not."""
        return frozenset(self._contents)

    def control_id(self, text: str) -> int | None:
        """The id of the added token that reads `text`, None if there is none."""
        token = self._added.get(text)
        return None if token is None else token.id

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text: whatever it reads, no id of an added token comes out. Raises RequestError."""
        return self.encode_segments([Segment(text, trusted=False)])

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        """Ids of a prompt; equal to those of the published tokenizer wherever untrusted text holds no control token.

        Raises RequestError for text that has no UTF-8 form or is beyond MAXIMUM_CHARACTERS.
        """
        text, found = self._find(segments)
        ids: list[int] = []
        at = 0
        for start, end, token in [*found, (len(text), len(text), None)]:
            if at < start:
                plain = self._first if at == 0 else self._inner
                ids.extend(_guarded(functools.partial(_encode, plain, text[at:start]), self._name))
            if token is not None:
                ids.append(token.id)
            at = end
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; ids without text read as U+FFFD. `skip_special` leaves out tokens marked special."""
        detokenizer = self.detokenizer(skip_special=skip_special)
        return "".join([*map(detokenizer.push, ids), detokenizer.flush()])

    def detokenizer(self, *, skip_special: bool = True) -> Detokenizer:
        """A fresh way back from ids to text, one id at a time."""
        return Detokenizer(self._bytes_of, self._special if skip_special else frozenset(), self._strips_first_space)

    def token_bytes(self, token_id: int) -> bytes:
        """What `token_id` stands for: part of a character, where the vocabulary cuts one."""
        return self._bytes_of(token_id)

    def is_named(self, token_id: int) -> bool:
        """Whether the vocabulary has a token of this id: an embedding may have more rows."""
        return token_id in self._contents or (token_id < _ID_LIMIT and self._first.id_to_token(token_id) is not None)

    def _bytes_of(self, token_id: int) -> bytes:
        """What `token_id` stands for. Rows of the embedding that have no name show as U+FFFD instead of vanishing."""
        token = self._contents.get(token_id)
        if token is not None:
            return token.encode()
        token = self._first.id_to_token(token_id) if token_id < _ID_LIMIT else None
        if token is None:
            return REPLACEMENT.encode()
        return _byte_level_bytes(token) if self._is_byte_level else _byte_fallback_bytes(token)

    @functools.cached_property
    def _is_byte_level(self) -> bool:
        kinds = _decoder_kinds(self._spec_decoder)
        if "ByteLevel" not in kinds and "ByteFallback" not in kinds:
            raise BundleError(
                f"{self._name}: decoder {kinds or None} cannot be streamed; ByteLevel and ByteFallback can: "
                "use a checkpoint of the Phi family"
            )
        return "ByteLevel" in kinds

    @property
    def _strips_first_space(self) -> bool:
        return "Strip" in _decoder_kinds(self._spec_decoder) or "Metaspace" in _decoder_kinds(self._spec_decoder)

    def _find(self, segments: Sequence[Segment]) -> tuple[str, list[tuple[int, int, AddedToken | None]]]:
        """The whole text, and (start, end, token) of every control token in it, swallowed white space included."""
        text = "".join(segment.text for segment in segments)
        _require_encodable(text)
        found: list[tuple[int, int, AddedToken | None]] = []
        at = 0
        for start, end in self._matches(segments):
            token = self._added[text[start:end]]
            if token.lstrip:
                start = at + len(text[at:start].rstrip(_SPACES))
            if token.rstrip:
                spaces = _LEADING.match(text, end)
                end = end if spaces is None else spaces.end()
            found.append((start, end, token))
            at = end
        return text, found

    def _matches(self, segments: Sequence[Segment]) -> Iterator[tuple[int, int]]:
        """Where control tokens stand in trusted text; neighbouring trusted segments read as one."""
        if self._controls is None:
            return
        begin, run = 0, ""
        for segment in [*segments, Segment("", trusted=False)]:
            if segment.trusted:
                run += segment.text
                continue
            for match in self._controls.finditer(run):
                yield begin + match.start(), begin + match.end()
            begin, run = begin + len(run) + len(segment.text), ""


class Detokenizer:
    """Turns ids into text as they come: `push` returns what is complete, `flush` what is left. Constant work per id."""

    def __init__(self, bytes_of: Callable[[int], bytes], skipped: frozenset[int], strip_first_space: bool) -> None:
        self._bytes_of = bytes_of
        self._skipped = skipped
        self._strip = strip_first_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes, empty while a character is incomplete. Raises RequestError."""
        if token_id < 0:
            raise RequestError(f"token id {token_id} is negative; ids count from 0: pass ids of this tokenizer")
        if token_id in self._skipped:
            return ""
        return self._emit(self._decoder.decode(self._bytes_of(token_id)))

    @property
    def incomplete(self) -> bool:
        """Whether part of a character is held back."""
        return bool(self._decoder.getstate()[0])

    def flush(self) -> str:
        """What was held back; bytes that never became a character read as U+FFFD."""
        return self._emit(self._decoder.decode(b"", final=True))

    def _emit(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text


def read_controls(folder: Path) -> frozenset[str]:
    """The text of every added token of `folder`, for callers that need no more of the tokenizer. Raises BundleError."""
    path = folder / TOKENIZER_NAME
    return frozenset(token.content for token in _added_tokens(_read(path), str(path)))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise BundleError(
                f"{path} has {path.stat().st_size} bytes, at most {MAXIMUM_BYTES} are allowed: export again"
            )
        spec = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); export the checkpoint again") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON ({error}); export the checkpoint again") from error
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise BundleError(f"{path} is no tokenizer: it has no 'model' object; export the checkpoint again")
    return spec


def _added_tokens(spec: dict[str, Any], name: str) -> list[AddedToken]:
    try:
        return [
            AddedToken(
                int(raw["id"]), str(raw["content"]), *(bool(raw[flag]) for flag in ("special", "lstrip", "rstrip"))
            )
            for raw in spec.get("added_tokens") or ()
            if raw["content"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{name}: 'added_tokens' is malformed ({error!r}); export the checkpoint again") from error


def _plain(spec: dict[str, Any], controls: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Specifications without a way to a control token: for the start of a prompt, and for the rest if that differs."""
    model = dict(spec["model"])
    unreachable = controls - {model.get("unk_token")}
    model["vocab"] = {
        token: number for token, number in dict(model.get("vocab") or {}).items() if token not in unreachable
    }
    merges = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in model.get("merges") or ()]
    # looked up as pairs: joining some 200,000 of them would take longer than all the rest
    leading = {(token[:cut], token[cut:]) for token in unreachable for cut in range(len(token) + 1)}
    model["merges"] = [pair for pair in merges if pair not in leading]
    first = {**spec, "model": model, "added_tokens": [], "truncation": None, "padding": None}
    # `first` puts a space before the first word of a prompt only: the rest needs a tokenizer that never does.
    scheme = copy.deepcopy(first.get("pre_tokenizer"))
    changed = False
    for part in [scheme, *((scheme or {}).get("pretokenizers") or ())]:
        if part and part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
            changed = True
    return first, {**first, "pre_tokenizer": scheme} if changed else None


def _load(spec: dict[str, Any], name: str) -> tokenizers.Tokenizer:
    try:
        return _guarded(lambda: _built(spec), name)
    except RequestError as error:
        raise BundleError(f"{error}; export the checkpoint again") from error
    # The library raises plain Exception for what it cannot read.
    except Exception as error:
        raise BundleError(
            f"{name} is not read by the tokenizers library ({' '.join(str(error).split())}); export again"
        ) from error


def _built(spec: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a specification. The vocabulary goes to the library as it is: as JSON it takes twice as long."""
    import tokenizers
    from tokenizers import models

    model = dict(spec["model"])
    if model.pop("type", "BPE") != "BPE":
        return tokenizers.Tokenizer.from_str(json.dumps(spec))
    vocab, merges = model.pop("vocab"), model.pop("merges")
    shell = {**spec, "model": {"type": "BPE", "vocab": {}, "merges": []}}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(shell))
    settings = {name: model[name] for name in _BPE_SETTINGS if model.get(name) is not None}
    tokenizer.model = models.BPE(vocab=vocab, merges=merges, **settings)
    return tokenizer


def _encode(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _guarded(call: Callable[[], T], name: str) -> T:
    """Run `call`; a panic of the library's Rust code, which is no Exception, becomes a RequestError."""
    try:
        return call()
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise RequestError(f"{name}: the tokenizers library gave up ({str(error).splitlines()[0]:.200})") from error


def _require_encodable(text: str) -> None:
    if len(text) > MAXIMUM_CHARACTERS:
        raise RequestError(f"the prompt has {len(text)} characters, at most {MAXIMUM_CHARACTERS} are allowed: cut it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"the prompt holds U+{ord(text[error.start]):04X} at character {error.start}, half of a surrogate pair, "
            "which is no text: decode the input as UTF-8 first"
        ) from error


def _decoder_kinds(spec: dict[str, Any] | None) -> tuple[str, ...]:
    if not spec:
        return ()
    return tuple(str(part.get("type")) for part in spec.get("decoders") or [spec])


@functools.cache
def _byte_level_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as one character: printable bytes as themselves, the rest as U+0100 onwards."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    itself = {ord(character) for character in alphabet if ord(character) < 256}
    moved = [character for character in alphabet if ord(character) >= 256]
    return {chr(byte): byte for byte in itself} | dict(zip(moved, sorted(set(range(256)) - itself), strict=True))


def _byte_level_bytes(token: str) -> bytes:
    alphabet = _byte_level_alphabet()
    # Specials that the vocabulary lists as plain text may hold what the alphabet does not.
    return bytes(alphabet[character] for character in token) if alphabet.keys() >= set(token) else token.encode()


def _byte_fallback_bytes(token: str) -> bytes:
    """Sentencepiece-BPE: `<0x41>` is one byte, U+2581 is a space, everything else is itself."""
    match = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token.replace("\u2581", " ").encode()
