"""The decode loop: continues a prompt token by token, several at a time where they are guessed or forced.

Boundary: positions in, token ids out; never sees text. The model is run by decode.py, tokens are chosen by sampling.py,
guesses come from draft.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .cache import Position
from .decode import Decoder, Progress, Work
from .draft import Drafter
from .graphs import Interrupt
from .sampling import Sampler

FORCED = 64  # tokens of one step that a constraint forces
FREE = Work(0, 0, 0, 0.0)


@dataclass(frozen=True)
class Step:
    """A token of the answer. `finish` is "stop" at an end token, "length" at the last one allowed, else None.

    `drafted`: it was guessed rightly or forced by a constraint, so the step that ran it gave the token after it, too,
    for the same `work`. `alternatives`: the likeliest tokens and their log-probabilities, where asked for.
    """

    token_id: int
    logprob: float | None
    work: Work
    finish: str | None
    drafted: bool = False
    alternatives: tuple[tuple[int, float], ...] = ()


def generate(
    decoder: Decoder,
    prompt: Sequence[Position],
    sampler: Sampler,
    limit: int,
    ends: frozenset[int],
    interrupt: Interrupt,
    progress: Progress | None = None,
    *,
    draft: bool = False,
    ahead: Work | None = None,
) -> Iterator[Step]:
    """Continue `prompt` by at most `limit` ≥ 1 tokens, up to and with a token of `ends`.

    `draft`: guess tokens from what the sequence said before and verify several in one step, each chosen from the
    model's own logits all the same; and run what the sampler's constraint forces in one step. An end that is forced
    needs none. `ahead`: what `Decoder.read_ahead` did for this prompt, which the first step's work includes. Raises
    what `Decoder.advance` raises; the tokens that were given out stay cached.
    """
    logits, work = decoder.advance(prompt, interrupt, progress)
    work = work if ahead is None else ahead.then(work)
    rows, guess, made = logits[None], list[int](), 0
    drafter: Drafter | None = None
    while True:
        steps = _verified(rows, guess, sampler, limit - made, ends, work)
        decoder.rewind(len(decoder.cache) - (len(guess) + 1 - len(steps)))
        if drafter is not None and guess:
            drafter.recycle(guess[len(steps) - 1 :], rows[len(steps) :].argmax(axis=-1).tolist())
        made += len(steps)
        if steps[-1].finish is None and not sampler.logprobs:
            steps += _forced_end(sampler.forced, limit - made, ends)
        yield from steps
        if steps[-1].finish is not None:
            return
        if draft and drafter is None:  # only now: the first token does not wait for it
            drafter = Drafter(position if isinstance(position, int) else -1 for position in prompt)
        token_id = steps[-1].token_id
        if drafter is not None:
            drafter.learn(step.token_id for step in steps)
            room = max(0, min(limit - made - 1, decoder.room - 1, FORCED))
            guess = list(sampler.forced[:room]) or list(sampler.possible(drafter.guess(room)))
        if guess:
            rows, work = decoder.extend([token_id, *guess], interrupt)
        else:
            logits, work = decoder.append(token_id, interrupt, progress)
            rows = logits[None]


def _verified(
    rows: np.ndarray, guess: Sequence[int], sampler: Sampler, limit: int, ends: frozenset[int], work: Work
) -> list[Step]:
    """Choose from row after row, as long as the choice is what was guessed: then the next row is the model's, too."""
    steps: list[Step] = []
    for index, logits in enumerate(rows):
        choice = sampler.choose(logits)
        finish = "stop" if choice.token_id in ends else "length" if len(steps) + 1 == limit else None
        drafted = index < len(guess) and choice.token_id == guess[index]
        taken = FREE if steps else work
        steps.append(Step(choice.token_id, choice.logprob, taken, finish, drafted, choice.alternatives))
        if finish is not None or not drafted:
            break
    return steps


def _forced_end(forced: Sequence[int], limit: int, ends: frozenset[int]) -> list[Step]:
    """The rest of an answer that has no choice left until its end or `limit`: there is nothing to ask the model."""
    if not forced or not (forced[-1] in ends or len(forced) >= limit):
        return []
    *before, last = forced[:limit]
    steps = [Step(token_id, None, FREE, None, drafted=True) for token_id in before]
    return [*steps, Step(last, None, FREE, "stop" if last in ends else "length", drafted=True)]
