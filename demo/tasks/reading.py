"""Questions about facts that stand in the prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import words
from .example import Example, Message, assistant, user
from .source import Source

NAME = "facts"
RANGE = "2 or 3 sentences about different people: homes, jobs, favourite foods and pets; 1 or 2 questions one by one"


@dataclass(frozen=True)
class Kind:
    """A sentence about a person, the question that it answers, and where values come from."""

    fact: str
    question: str
    value: Callable[[Source], str]


KINDS = (
    Kind(
        "{name} lives in {value}.",
        "Where does {name} live?",
        lambda source: source.pick(words.PLACES),
    ),
    Kind(
        "{name} works as {a} {value}.",
        "What does {name} work as?",
        lambda source: source.pick(words.JOBS),
    ),
    Kind("{name} likes {value}.", "What does {name} like?", lambda source: source.pick(words.FOODS)),
    Kind(
        "{name} has {a} {value}.",
        "What pet does {name} have?",
        lambda source: source.pick(words.ANIMALS),
    ),
)


@dataclass(frozen=True)
class Fact:
    """What is said about one person."""

    kind: Kind
    name: str
    value: str

    @property
    def sentence(self) -> str:
        """The fact as a sentence."""
        return self._say(self.kind.fact)

    @property
    def question(self) -> str:
        """The question that `sentence` answers."""
        return self._say(self.kind.question)

    def _say(self, pattern: str) -> str:
        return pattern.format(name=self.name, value=self.value, a="an" if self.value[0] in "aeio" else "a")


def facts(source: Source, count: int) -> list[Fact]:
    """Facts about different people."""
    kinds = [source.pick(KINDS) for _ in range(count)]
    names = source.several(words.NAMES, count)
    return [Fact(kind, name, kind.value(source)) for kind, name in zip(kinds, names, strict=True)]


def make(source: Source) -> Example:
    """`Mia has a cat. Tom lives in Rome. Where does Tom live?` → `Tom lives in Rome.`; then perhaps about Mia."""
    return questioned(source, source.between(1, 2))


def questioned(source: Source, count: int) -> Example:
    """Facts and `count` ≤ 2 questions about them; all but the last are answered already."""
    told = facts(source, source.between(2, 3))
    story = " ".join(fact.sentence for fact in told)
    turns: list[Message] = []
    for number, wanted in enumerate(source.several(told, count)):
        question = wanted.question if number else f"{story} {wanted.question}"
        turns += [user(question), assistant(wanted.sentence)]
    return Example(NAME, tuple(turns[:-1]), wanted.sentence, f"{story} {wanted.question}")
