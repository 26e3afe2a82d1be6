"""Writing down spoken digits."""

from __future__ import annotations

from ..example import Example
from ..source import Source
from .voices import heard

NAME = "digits"
RANGE = "2 to 6 spoken digits, written as one number"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTIONS = ("Which digits do you hear?", "Write down the digits.", "Write the number.")


def make(source: Source) -> Example:
    """`seven four two` → `742`."""
    while True:
        digits = [source.below(10) for _ in range(source.between(2, 6))]
        text = "".join(map(str, digits))
        if source.allowed(f"digits {text}"):
            said = [WORDS[digit] for digit in digits]
            return heard(NAME, source, said, source.pick(QUESTIONS), text, f"digits {text}")
