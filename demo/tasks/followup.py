"""Conversations whose last question can only be answered from an earlier turn."""

from __future__ import annotations

from collections.abc import Callable

from . import addition, reading, words
from .example import Example, Message, assistant, user
from .source import Source

NAME = "followup"
RANGE = "2 or 3 turns: add to the last sum, turn the last list around, recall a fact or the user's name"


def make(source: Source) -> Example:
    """`What is 12 + 30?` → `42`, `Add 7 to that.` → `49`."""
    turns, answer = source.pick(_KINDS)(source)
    return Example(NAME, tuple(turns), answer, " ".join(str(turn["content"]) for turn in turns))


def _add_more(source: Source) -> tuple[list[Message], str]:
    while True:
        first, more = addition.make(source), source.between(1, 99)
        if int(first.answer) < 100 and source.allowed_sum(int(first.answer), more):
            break
    question = source.pick(("Add {0} to that.", "Now add {0}.", "And {0} more?", "Plus {0}?")).format(more)
    return [*first.turns, assistant(first.answer), user(question)], str(int(first.answer) + more)


def _turn_around(source: Source) -> tuple[list[Message], str]:
    if source.chance(0.5):
        items, separator = source.distinct(source.word, source.between(2, 4)), ", "
    else:
        items, separator = source.several(words.LETTERS, source.between(2, 5)), " "
    given = separator.join(items)
    first = source.pick(("Repeat: {0}", "Copy: {0}", "Say: {0}", "Repeat after me: {0}")).format(given)
    question = source.pick(("Now backwards.", "And backwards?", "Now reverse it.", "Now the other way round."))
    return [user(first), assistant(given), user(question)], separator.join(reversed(items))


def _largest_first(source: Source) -> tuple[list[Message], str]:
    numbers = sorted(source.several(range(10, 100), source.between(2, 4)))
    given = " ".join(map(str, source.several(numbers, len(numbers))))
    question = source.pick(("And from large to small?", "Now from large to small.", "Now the largest first."))
    rising, falling = " ".join(map(str, numbers)), " ".join(map(str, reversed(numbers)))
    return [user(f"Sort these numbers: {given}"), assistant(rising), user(question)], falling


def _recall(source: Source) -> tuple[list[Message], str]:
    told = reading.facts(source, source.between(1, 3))
    wanted = source.pick(told)
    turns = [user(" ".join(fact.sentence for fact in told)), assistant("Thank you, I will remember that.")]
    return [*turns, *_interlude(source), user(wanted.question)], wanted.sentence


def _name(source: Source) -> tuple[list[Message], str]:
    name = source.name()
    said = source.pick(("My name is {0}.", "I am {0}.", "Hello, my name is {0}.", "Hi, I am {0}.")).format(name)
    question = source.pick(("What is my name?", "Who am I?", "Do you remember my name?"))
    return [
        user(said),
        assistant(f"Hello {name}, nice to meet you."),
        *_interlude(source),
        user(question),
    ], f"Your name is {name}."


def _interlude(source: Source) -> list[Message]:
    """Sometimes another question and its answer."""
    if source.chance(0.5):
        return []
    other = addition.make(source)
    return [*other.turns, assistant(other.answer)]


_KINDS: tuple[Callable[[Source], tuple[list[Message], str]], ...] = (
    _add_more,
    _turn_around,
    _largest_first,
    _recall,
    _name,
)
