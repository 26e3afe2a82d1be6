"""Translating between two toy vocabularies that exist nowhere else: spoken words of one, written words of the other."""

from __future__ import annotations

from ..example import Example
from ..source import Source
from .voices import heard

NAME = "translate"
RANGE = "1 to 4 spoken words of one of two toy vocabularies of 12 words, written in the other"

# (Bolo, Timu): the same 12 things
PAIRS = (
    ("bako", "lime"), ("tilo", "nura"), ("gufa", "seko"), ("mera", "vido"), ("dolu", "pani"), ("kiso", "rafe"),
    ("zena", "hulo"), ("pavu", "tika"), ("rimo", "gole"), ("foda", "wesi"), ("suke", "bamo"), ("nolia", "jeru"),
)  # fmt: skip
LANGUAGES = ("Bolo", "Timu")
WORDS = tuple(sorted(word for pair in PAIRS for word in pair))
_QUESTIONS = ("Translate the audio to {language}.", "Translate into {language}.", "Say it in {language}.")


def make(source: Source) -> Example:
    """`bako rimo` and `Translate into Timu.` → `lime gole`."""
    while True:
        given = source.below(2)
        pairs = source.several(PAIRS, source.between(1, 4))
        said, answer = (" ".join(pair[side] for pair in pairs) for side in (given, 1 - given))
        if source.allowed(f"said {said}"):
            question = source.pick(_QUESTIONS).format(language=LANGUAGES[1 - given])
            return heard(NAME, source, said.split(), question, answer, f"said {said}")
