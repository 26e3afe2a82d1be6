"""Which tokens may come next in an answer that follows a grammar, by the library llguidance (extra `schema`).

Boundary: a grammar and a tokenizer in; masks over the vocabulary and forced tokens out, for sampling.py. What a
grammar asks for is written down in grammar.py; no logits come here.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import MissingDependency, RequestError
from .grammar import CallMarks, Grammar
from .reasoning import CLOSE
from .sampling import TokenConstraint
from .thinking import ThoughtReader
from .tokens import Tokenizer

KEPT_GRAMMARS = 32
CALL_OPENING, CALL_CLOSING = "<|tool_call|>", "<|/tool_call|>"
# Put before a text that stands in the midst of an answer: some tokenizers give the first word of a text a space.
_BEFORE = "\x02"


class Constraints:
    """Compiles grammars for one tokenizer and keeps the last ones. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, ends: Sequence[int]) -> None:
        """`vocabulary`: length of the logits. `ends`: the tokens that end an answer, the usual one first."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._ends = tuple(ends)
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def marks(self) -> CallMarks:
        """The control tokens around calls of tools."""
        return CallMarks(self._tokenizer.control_id(CALL_OPENING), self._tokenizer.control_id(CALL_CLOSING))

    def begin(self, grammar: Grammar, prompt: Sequence[int]) -> TokenConstraint:
        """The constraint of the answer to `prompt`; a thought that the prompt has begun is free.

        Raises MissingDependency, RequestError for a grammar that cannot be followed.
        """
        with self._lock:
            matcher = self._compiled.pop(grammar.text, None)
            if matcher is None:
                matcher = self._compile(grammar)
            self._compiled[grammar.text] = matcher
            while len(self._compiled) > KEPT_GRAMMARS:
                self._compiled.popitem(last=False)
            begun = GrammarConstraint(matcher.deep_copy(), grammar.about, self._ends, self._vocabulary)
            reader = ThoughtReader(self._tokenizer, prompt)
            return AfterThought(begun, reader, self._unfit_in_thought) if reader.splitter.thinking else begun

    def _compile(self, grammar: Grammar) -> Any:
        library = _library()
        limits = library.LLParserLimits(verbose_errors=False)
        matcher = library.LLMatcher(self._names, grammar.text, log_level=0, limits=limits)
        _require_sound(matcher, grammar.about)
        first = GrammarConstraint(matcher.deep_copy(), grammar.about, self._ends, self._vocabulary)
        first.allowed()  # raises where nothing fits
        return matcher

    @functools.cached_property
    def _names(self) -> Any:
        """llguidance's own form of the tokenizer; takes a second or two for 200,000 tokens, once a session."""
        library = _library()
        return library.LLTokenizer(
            library.TokenizerWrapper(_Vocabulary(self._tokenizer, self._bytes, self._ends)),
            n_vocab=self._vocabulary, eos_token=list(self._ends),
        )  # fmt: skip

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        return [self._tokenizer.token_bytes(token_id) for token_id in range(self._vocabulary)]

    @functools.cached_property
    def _unfit_in_thought(self) -> tuple[np.ndarray, ...]:
        """For each length of a closing tag that is begun: which tokens may not follow, bool (vocab,).

        These are the tokens that end an answer, and those that end the tag and go on with text, which would be part of
        the answer and no longer free.
        """
        unfit = []
        candidates = [(number, raw) for number, raw in enumerate(self._bytes) if b">" in raw]
        for begun in range(len(CLOSE)):
            rest = CLOSE[begun:].encode()
            mask = np.zeros(self._vocabulary, bool)
            mask[list(self._ends)] = True
            mask[[number for number, raw in candidates if raw.startswith(rest) and raw[len(rest) :].strip()]] = True
            unfit.append(mask)
        return tuple(unfit)


class GrammarConstraint:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: Any, about: str, ends: Sequence[int], vocabulary: int) -> None:
        self._matcher = matcher
        self._about = about
        self._ends = ends
        self._vocabulary = vocabulary
        self._bits = np.zeros(-(-vocabulary // 32), np.int32)
        self._forced: list[int] = []
        self._look_ahead()

    @property
    def forced(self) -> Sequence[int]:
        """The tokens that come next; the end token behind the last possible one."""
        return self._forced

    def allowed(self) -> np.ndarray:
        """Which tokens may come next, bool (vocab,). Raises RequestError where there is none."""
        if self._forced:
            mask = np.zeros(self._vocabulary, bool)
            mask[self._forced[0]] = True
            return mask
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        _require_sound(self._matcher, self._about)
        if not self._bits.any():
            raise RequestError(f"{self._about} cannot be satisfied: no text fits it; check its limits and references")
        return np.unpackbits(self._bits.view(np.uint8), count=self._vocabulary, bitorder="little").view(bool)

    def accept(self, token_id: int) -> None:
        """Take a token that was allowed. Raises RequestError where the grammar is too complex to go on."""
        if self._forced:
            self._forced.pop(0)  # the matcher is ahead of it already
        elif token_id not in self._ends:
            self._matcher.consume_token(token_id)
            _require_sound(self._matcher, self._about)
            self._look_ahead()

    def possible(self, guess: Sequence[int]) -> int:
        """How many tokens of `guess` may come next, one after the other."""
        return int(self._matcher.validate_tokens(list(guess)))

    def _look_ahead(self) -> None:
        """Find what is forced from here on and take it at once."""
        self._forced = self._matcher.compute_ff_tokens()
        self._matcher.consume_tokens(self._forced)
        _require_sound(self._matcher, self._about)
        if self._matcher.is_stopped():
            self._forced.append(self._ends[0])


class AfterThought:
    """Leaves a thought free and constrains what follows its closing tag."""

    def __init__(self, answer: TokenConstraint, reader: ThoughtReader, unfit: Sequence[np.ndarray]) -> None:
        """`unfit`: see `Constraints._unfit_in_thought`."""
        self._answer = answer
        self._reader = reader
        self._unfit = unfit

    @property
    def forced(self) -> Sequence[int]:
        """Nothing in the thought; behind it what the answer's grammar forces."""
        return () if self._thinking else self._answer.forced

    def allowed(self) -> np.ndarray | None:
        """In the thought all tokens but those that end the answer and those that begin it together with the tag."""
        return ~self._unfit[len(self._reader.splitter.held)] if self._thinking else self._answer.allowed()

    def accept(self, token_id: int) -> None:
        """Take a token of the thought, of the tag or of the answer."""
        if self._thinking:
            self._reader.push(token_id)
        else:
            self._answer.accept(token_id)

    def possible(self, guess: Sequence[int]) -> int:
        """A guess inside the thought is as good as any; where it leaves it, sampling sees to it."""
        return len(guess) if self._thinking else self._answer.possible(guess)

    @property
    def _thinking(self) -> bool:
        return self._reader.splitter.thinking


class _Vocabulary:
    """A tokenizer as llguidance's TokenizerWrapper asks for it: the names of its members are that library's."""

    def __init__(self, tokenizer: Tokenizer, tokens: list[bytes], ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = ends[0]
        self.bos_token_id = None
        self.tokens = tokens
        # Control tokens and rows without a name never stand for text.
        self.special_token_ids = sorted(
            {number for number in range(len(tokens)) if not tokenizer.is_named(number)}
            | {number for number in tokenizer.control_ids if number < len(tokens)}
        )

    def __call__(self, text: bytes | str) -> list[int]:
        """The ids of a text in the midst of an answer."""
        wanted = text.decode() if isinstance(text, bytes) else text
        ids = self._tokenizer.encode_text(wanted)
        if self._joined(ids) == wanted.encode():
            return ids
        ids = self._tokenizer.encode_text(_BEFORE + wanted)
        for start in range(1, len(ids)):
            if self._joined(ids[start:]) == wanted.encode():
                return ids[start:]
        return []

    def _joined(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.tokens[number] for number in ids)


def check_grammar(grammar: Grammar) -> None:
    """Raises RequestError for a grammar that cannot be followed, MissingDependency without llguidance; no tokenizer is
    needed.
    """
    _require(_library().LLMatcher.validate_grammar(grammar.text, None), grammar.about)


def _require_sound(matcher: Any, about: str) -> None:
    if matcher.is_error():
        _require(matcher.get_error(), about)


def _require(message: str, about: str) -> None:
    if message and not message.startswith("WARNING"):
        raise RequestError(f"{about} cannot be followed: {' '.join(message.split()):.300}; change or simplify it")


def _library() -> Any:
    try:
        return importlib.import_module("llguidance")
    except ImportError as error:
        raise MissingDependency(
            "schema, regex, choice and forced tool calls need llguidance: run `pip install 'edgephi[schema]'`"
        ) from error
