"""Sums of numbers of at most two digits, in natural digit order, answered at once."""

from __future__ import annotations

from .example import Example, asked
from .source import Source

NAME = "sum"
RANGE = "two numbers from 0 to 99, answered at once"

_QUESTIONS = (
    "What is {a} + {b}?",
    "{a} + {b}",
    "{a} + {b} =",
    "Add {a} and {b}.",
    "How much is {a} plus {b}?",
    "Compute {a} + {b}.",
    "What is {a} plus {b}?",
    "What is the sum of {a} and {b}?",
    "Calculate {a}+{b}.",
    "{a}+{b}",
    "How much is {a} + {b}?",
    "{a} + {b} = ?",
)


def make(source: Source) -> Example:
    """`What is 47 + 38?` → `85`."""
    a, b = source.pair(2)
    return asked(NAME, source.pick(_QUESTIONS).format(a=a, b=b), str(a + b), f"{min(a, b)} + {max(a, b)}")
