"""POST /v1/completions: JSON → a checked request.

Boundary: names and forms of OpenAI's older Completions API. Its prompt is raw: control tokens that it spells out are
control tokens, no chat template is applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ..errors import RequestError
from ..sampling import MAXIMUM_ALTERNATIVES, is_whole
from .bundles import Bundle
from .fields import Fields
from .forms import read_form
from .parameters import read_options, read_streaming, refuse_unoffered

if TYPE_CHECKING:
    from ..options import Options

MAXIMUM_PROMPTS = 64

RawPrompt: TypeAlias = str | tuple[int, ...]


@dataclass(frozen=True)
class CompletionRequest:
    """`prompts`: text or token ids, answered one after the other. `echo`: the text of the prompt comes first."""

    prompts: tuple[RawPrompt, ...]
    echo: bool
    options: Options
    stream: bool
    include_usage: bool
    logprobs: bool
    ignored: tuple[str, ...]


def read_completion(fields: Fields, bundle: Bundle) -> CompletionRequest:
    """Raises RequestError naming what cannot be honoured."""
    refuse_unoffered(fields, but=("echo",))
    fields.refuse("suffix", ("",))
    prompts = _prompts(fields.raw("prompt"), bundle.manifest.text.vocab_size)
    options = read_options(fields, ("max_tokens",))
    if options["max_tokens"] is None:
        options["max_tokens"] = 16  # OpenAI's default here
    options |= read_form(fields, fields.inner("response_format"))
    # The number of alternatives; 0 asks for the chosen tokens' own.
    chosen = None if fields.raw("logprobs") is False else fields.whole("logprobs", 0, MAXIMUM_ALTERNATIVES)
    logprobs = options["logprobs"] = chosen is not None
    options["top_logprobs"] = chosen or 0
    echo = fields.flag("echo")
    if echo and logprobs:
        raise RequestError("echo and logprobs are both given; the prompt's own logarithms are not offered")
    stream, include_usage = read_streaming(fields)
    return CompletionRequest(prompts, echo, options, stream, include_usage, logprobs, fields.unread())


def _prompts(given: object, vocabulary: int) -> tuple[RawPrompt, ...]:
    """One prompt or several, each a string or a list of token ids."""
    wrong = RequestError("prompt must be a string, a list of token ids, or a list of at least one of these")
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list) or not given:
        raise wrong
    several = given if not is_whole(given[0]) else [given]
    if len(several) > MAXIMUM_PROMPTS:
        raise RequestError(f"prompt holds {len(several)} prompts, at most {MAXIMUM_PROMPTS} are allowed")
    prompts: list[RawPrompt] = []
    for prompt in several:
        if isinstance(prompt, str):
            prompts.append(prompt)
        elif isinstance(prompt, list) and prompt and all(is_whole(number) for number in prompt):
            if not all(0 <= number < vocabulary for number in prompt):
                raise RequestError(f"prompt holds a token id that is not one of 0 to {vocabulary - 1}")
            prompts.append(tuple(prompt))
        else:
            raise wrong
    return tuple(prompts)
