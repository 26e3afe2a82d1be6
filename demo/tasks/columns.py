"""Longer sums with the working written out, column by column from the right, and the total at the end."""

from __future__ import annotations

from .example import Example, asked
from .source import Source

NAME = "working"
RANGE = "two numbers of three digits, with the working"
DIGITS = 3

_QUESTIONS = (
    "Add {a} and {b} step by step.",
    "What is {a} + {b}? Show your working.",
    "Work out {a} + {b}.",
    "Add {a} and {b} and show your working.",
    "Explain step by step: {a} + {b}",
    "What is {a} + {b}? Think step by step.",
)


def make(source: Source) -> Example:
    """`Work out 347 + 285.` → `7 + 5 = 12. 4 + 8 + 1 = 13. 3 + 2 + 1 = 6. The sum is 632.`"""
    low, high = 10 ** (DIGITS - 1), 10**DIGITS - 1
    while True:
        a, b = source.between(low, high), source.between(low, high)
        if source.allowed_sum(a, b):
            return asked(NAME, source.pick(_QUESTIONS).format(a=a, b=b), working(a, b), f"{min(a, b)} + {max(a, b)}")


def working(a: int, b: int) -> str:
    """The columns of the sum of two numbers of equally many digits, then the sum."""
    carry, steps = 0, []
    for upper, lower in zip(reversed(str(a)), reversed(str(b)), strict=True):
        total = int(upper) + int(lower) + carry
        steps.append(f"{upper} + {lower}{' + 1' if carry else ''} = {total}.")
        carry = total // 10
    return f"{' '.join(steps)} The sum is {a + b}."
