"""What an answer can be asked to be: the options of `Session.stream`, and what is chosen where one is left open.

Boundary: values in, checked values out; knows no model and no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, TypeVar

from .decode import Progress
from .errors import ContextOverflow, RequestError
from .grammar import Schema
from .manifest import RecommendedSampling
from .sampling import Sampling, is_whole

DEFAULT_TOKENS = 8192  # an answer that never ends must not eat all memory by itself

T = TypeVar("T")


class Options(TypedDict, total=False):
    """The keyword arguments of `Session.stream`, which states their meaning."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: str | Sequence[str]
    logprobs: bool
    top_logprobs: int
    tools: Sequence[Mapping[str, object]] | None
    tool_choice: str
    parallel_tool_calls: bool
    schema: Schema | None
    regex: str | None
    choice: Sequence[str] | None
    grammar: str | None
    variables: Mapping[str, object]
    progress: Progress | None
    draft: bool
    think: bool | None
    think_budget: int | None
    adapter: str | None


def choose_sampling(
    recommended: RecommendedSampling,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    presence_penalty: float | None,
    frequency_penalty: float | None,
    seed: int | None,
) -> Sampling:
    """Fill what the caller left open: the publisher's recommendation, else off; greedy unless someone asks for
    drawing. Raises RequestError.
    """
    draws = bool(recommended.do_sample) or any(value is not None for value in (top_k, top_p, min_p))
    chosen = (temperature, recommended.temperature if draws else 0.0, 1.0)
    return Sampling(
        temperature=_first(*chosen),
        top_k=_first(top_k, recommended.top_k, 0),
        top_p=_first(top_p, recommended.top_p, 1.0),
        min_p=_first(min_p, recommended.min_p, 0.0),
        repetition_penalty=_first(repetition_penalty, recommended.repetition_penalty, 1.0),
        presence_penalty=_first(presence_penalty, 0.0),
        frequency_penalty=_first(frequency_penalty, 0.0),
        seed=seed,
    )


def choose_limit(max_tokens: int | None, prompt: int, context: int) -> int:
    """How many tokens may follow a prompt of `prompt` tokens: what the context leaves, unless less was asked for.

    Raises RequestError, ContextOverflow.
    """
    if max_tokens is not None and not (is_whole(max_tokens) and max_tokens >= 1):
        raise RequestError(f"max_tokens is {max_tokens!r}; allowed is a whole number from 1, or None")
    if prompt >= context:
        raise ContextOverflow(
            f"the prompt has {prompt} tokens, the context of {context} must hold it and at least one token of"
            " the answer: shorten the conversation or load the bundle with a larger context"
        )
    return min(context - prompt, DEFAULT_TOKENS if max_tokens is None else max_tokens)


def _first(*values: T | None) -> T:
    return next(value for value in values if value is not None)
