"""Questions about facts that stand in the prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import words
from .example import Example, Message, assistant, user
from .source import Source

NAME = "facts"
RANGE = "2 or 3 sentences about different people: homes, jobs, favourite foods and pets; 1 to 4 questions one by one"


@dataclass(frozen=True)
class Kind:
    """A sentence about a person, a question for the value, a question for the person, and where values come from."""

    fact: str
    ask_value: str
    ask_name: str
    value: Callable[[Source], str]


KINDS = (
    Kind(
        "{name} lives in {value}.",
        "Where does {name} live?",
        "Who lives in {value}?",
        lambda source: source.pick(words.PLACES),
    ),
    Kind(
        "{name} works as {a} {value}.",
        "What does {name} work as?",
        "Who works as {a} {value}?",
        lambda source: source.pick(words.JOBS),
    ),
    Kind(
        "{name} likes {value}.", "What does {name} like?", "Who likes {value}?", lambda source: source.pick(words.FOODS)
    ),
    Kind(
        "{name} has {a} {value}.",
        "What pet does {name} have?",
        "Who has {a} {value}?",
        lambda source: source.pick(words.ANIMALS),
    ),
)


@dataclass(frozen=True)
class Fact:
    """What is said about one person."""

    kind: Kind
    name: str
    value: str

    def say(self, pattern: str) -> str:
        """One of the kind's patterns with this name and value."""
        return pattern.format(name=self.name, value=self.value, a="an" if self.value[0] in "aeio" else "a")

    def question(self, source: Source) -> str:
        """A question that `sentence` answers."""
        return self.say(source.pick((self.kind.ask_value, self.kind.ask_name)))

    @property
    def sentence(self) -> str:
        """The fact as a sentence."""
        return self.say(self.kind.fact)


def facts(source: Source, count: int) -> list[Fact]:
    """Facts about different people. No two values are alike: a question for a person must have one answer."""
    found: list[Fact] = []
    for name in source.several(words.NAMES, count):
        kind = source.pick(KINDS)
        value = kind.value(source)
        while value in {fact.value for fact in found}:
            value = kind.value(source)
        found.append(Fact(kind, name, value))
    return found


def make(source: Source) -> Example:
    """`Mia lives in Oslo. Tom lives in Fobu. Where does Tom live?` → `Tom lives in Fobu.`; then perhaps more
    questions.
    """
    return questioned(source, source.between(1, 4))


def questioned(source: Source, count: int) -> Example:
    """Facts and `count` questions about them; all but the last are answered already."""
    told = facts(source, source.between(2, 3))
    story = " ".join(fact.sentence for fact in told)
    turns: list[Message] = []
    for number in range(count):
        wanted = source.pick(told)
        question = wanted.question(source)
        turns += [user(question if number else f"{story} {question}"), assistant(wanted.sentence)]
    return Example(NAME, tuple(turns[:-1]), wanted.sentence, f"{story} {question}")
