"""Random material for the tasks, split once and for all into a training side and a held-out side.

The side of a piece of content is a hash of its text, so nothing that a held-out prompt is scored on can appear in
training, whatever the seeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TypeVar

from . import words

T = TypeVar("T")

HELD_OUT_SHARE = 16  # one piece of content in 16 is held out
COMMON_SHARE = 0.85  # of the words, names and places; the others are coined
SYLLABLES = tuple(first + vowel for first in "bcdfghjklmnprstvwz" for vowel in "aeiou")
_ENDINGS = ("", "", "l", "n", "r", "s", "t", "m")


def is_held_out(content: str) -> bool:
    """Which side of the split this content is on."""
    return blake2b(content.encode(), digest_size=2).digest()[0] % HELD_OUT_SHARE == 0


class Source:
    """Draws random material of one side of the split; equal seeds give equal draws."""

    def __init__(self, seed: int | str, *, held_out: bool) -> None:
        self.held_out = held_out
        self._random = random.Random(seed)

    def state(self) -> object:
        """The generator's state, for `restore`."""
        return self._random.getstate()

    def restore(self, state: tuple[object, ...]) -> None:
        """Go on where `state` was taken."""
        self._random.setstate(state)

    def allowed(self, content: str) -> bool:
        """Whether this content is on the source's side."""
        return is_held_out(content) == self.held_out

    def below(self, stop: int) -> int:
        """A number from 0 to stop - 1."""
        return self._random.randrange(stop)

    def between(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return self._random.randint(low, high)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random.random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """One item."""
        return self._random.choice(items)

    def several(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order."""
        return self._random.sample(items, count)

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One item, with these relative probabilities."""
        return self._random.choices(items, weights)[0]

    def coined(self) -> str:
        """A made-up word of two or three syllables; the words of the two sides differ."""
        while True:
            word = "".join(self.several(SYLLABLES, self.pick((2, 2, 3)))) + self.pick(_ENDINGS)
            if self.allowed(f"word {word}"):
                return word

    def name(self) -> str:
        """A first name, common or coined."""
        return self.pick(words.NAMES) if self.chance(COMMON_SHARE) else self.coined().capitalize()

    def place(self) -> str:
        """A place, real or coined."""
        return self.pick(words.PLACES) if self.chance(COMMON_SHARE) else self.coined().capitalize()

    def word(self) -> str:
        """Any word, known or coined."""
        return self.pick(words.WORDS) if self.chance(COMMON_SHARE) else self.coined()

    def distinct(self, draw: Callable[[], str], count: int) -> list[str]:
        """`count` different results of one of this source's drawing methods."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[draw()] = None
        return list(found)

    def pair(self, digits: int) -> tuple[int, int]:
        """Two numbers of at most `digits` digits whose sum is on this side; short ones are as likely as long ones."""
        while True:
            first, second = (self.below(10 ** self.pick((*range(1, digits), digits, digits))) for _ in range(2))
            if self.allowed_sum(first, second):
                return first, second

    def allowed_sum(self, first: int, second: int) -> bool:
        """Whether this sum, in either order, is on the source's side."""
        return self.allowed(f"{min(first, second)} + {max(first, second)}")
