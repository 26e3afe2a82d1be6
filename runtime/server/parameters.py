"""What all endpoints take besides the prompt: sampling, length, stops, and what is refused because it is not offered.

Boundary: JSON members in, keyword arguments of `Session.stream` out. A parameter that would change the answer and is
not offered is an error that names it; one that changes nothing is left unread, and the response names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import RequestError
from ..sampling import MAXIMUM_ALTERNATIVES, MAXIMUM_SEED, Sampling
from ..stops import StopScanner
from .fields import Fields

if TYPE_CHECKING:
    from ..options import Options

# Parameter → values that mean what happens anyway. The names are OpenAI's, llama.cpp's and vLLM's.
REFUSED: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logit_bias": ({}, []),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"], []),
    "audio": (),
    "web_search_options": (),
    "verbosity": ("medium",),
    "typical_p": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "mirostat": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "dynatemp_range": (0,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "prompt_logprobs": (),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "echo": (False,),
    "grammar": ("",),
    "guided_grammar": (),
    "enable_thinking": (),
    "thinking": (),
    "thinking_budget": (-1,),
    "reasoning_budget": (-1,),
    "thinking_token_budget": (-1,),
    "include_reasoning": (True,),
    "reasoning_format": ("auto", "deepseek"),
    "lora": ([],),
}


def refuse_unoffered(fields: Fields, *, but: Sequence[str] = ()) -> None:
    """Raises RequestError for a parameter of REFUSED; `but` are those that the endpoint reads itself."""
    for name, accepted in REFUSED.items():
        if name not in but:
            fields.refuse(name, accepted)


def read_options(fields: Fields, limits: Sequence[str]) -> Options:
    """Sampling, length and stops; `limits` are the names of the longest answer, the first one given counts.

    Raises RequestError.
    """
    given = [fields.whole(name, 1) for name in limits]
    options: Options = {
        "max_tokens": next((limit for limit in given if limit is not None), None),
        "temperature": fields.number("temperature"),
        "top_p": fields.number("top_p"),
        "top_k": fields.whole("top_k", -1),
        "min_p": fields.number("min_p"),
        "repetition_penalty": fields.number("repetition_penalty"),
        "presence_penalty": fields.number("presence_penalty"),
        "frequency_penalty": fields.number("frequency_penalty"),
        "seed": fields.whole("seed", -MAXIMUM_SEED, MAXIMUM_SEED),
        "stop": _stops(fields),
    }
    repeat = fields.number("repeat_penalty")  # llama.cpp's name of it
    if options["repetition_penalty"] is None:
        options["repetition_penalty"] = repeat
    if options["top_k"] == -1:  # vLLM's way to say "off"
        options["top_k"] = 0
    seed = options["seed"]
    if seed is not None and seed < 0:
        # Clients count seeds from -2^63; llama.cpp's clients mean "any" by -1.
        options["seed"] = None if seed == -1 else seed & MAXIMUM_SEED
    _check_ranges(options)
    return options


def read_top_logprobs(fields: Fields, *, logprobs: bool) -> int:
    """How many alternatives to tell of at each place. Raises RequestError."""
    count = fields.whole("top_logprobs", 0, MAXIMUM_ALTERNATIVES) or 0
    if count and not logprobs:
        raise RequestError("top_logprobs is given, but no logprobs are asked for: ask for these, too")
    return count


def read_variables(fields: Fields) -> Mapping[str, object]:
    """Names for the chat template, which refuses those that it does not read."""
    value = fields.raw("chat_template_kwargs")
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError("chat_template_kwargs is not an object; give the names that the chat template reads")
    return value


def read_streaming(fields: Fields) -> tuple[bool, bool]:
    """Whether the answer is streamed, and whether its last chunk states the usage. Raises RequestError."""
    stream, include_usage = fields.flag("stream"), False
    wanted = fields.inner("stream_options")
    if wanted is not None:
        if not stream:
            raise RequestError("stream_options is given without stream: set stream to true or leave it out")
        include_usage = wanted.flag("include_usage")
    return stream, include_usage


def _stops(fields: Fields) -> Sequence[str]:
    given = fields.raw("stop")
    if given is None:
        return ()
    stops = [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise RequestError("stop is neither a string nor a list of strings")
    StopScanner(stops)  # raises for what no scanner takes
    return tuple(stops)


def _check_ranges(options: Options) -> None:
    """Raises RequestError naming the parameter that no sampler takes."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    Sampling(**{name: options[name] for name in names if options[name] is not None})  # type: ignore[literal-required]
