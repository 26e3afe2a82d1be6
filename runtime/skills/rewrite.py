"""The same in other words: a text in another tone, part by part where it is long.

Boundary: says what to ask; parts are cut between paragraphs where there are some, and keep the white space around them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RequestError
from ..long_text import split_to_fit
from ..messages import Message
from .asking import Asking, Made, Progress, Session, Show, frame, nothing

_WISH = (
    "Rewrite the text. Keep its language, its meaning, names, numbers and layout; add nothing. Answer with the"
    " rewritten text alone."
)
_GENERAL = "Correct mistakes and make it read well."
# Longer stretches are retold rather than rewritten by small models.
_LONGEST = 1024


def rewrite(
    session: Session, text: str, *, tone: str | None = None, adapter: str | None = None, show: Show = nothing,
    progress: Progress = nothing,
) -> Made:  # fmt: skip
    """`text` in another `tone`, a name of TONES; None corrects and smooths it. `adapter`: one of the bundle's.

    `show` is told the text as it is made, `progress` how many answers of the model there are so far. Raises
    RequestError, ContextOverflow where the context is too small for any of it, and what `Session.stream` raises.
    """
    if not text.strip():
        raise RequestError("the text is empty: there is nothing to rewrite")
    wish = f"{_WISH} {_GENERAL}" if tone is None else _WISH
    asking = Asking(session, progress, adapter)

    def ask(part: str) -> Sequence[Message]:
        return frame(wish, tone, part)

    overhead = len(session.encode(ask("")))

    def room(prompt: int) -> int:
        """As long as the part itself and a half, and no place at all for parts that are too long."""
        part = prompt - overhead
        return _room(part) if part <= _LONGEST else session.context + 1

    texts: list[str] = []
    for part in split_to_fit(session, text, ask, room):
        body = part.strip()
        before, after = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
        if not body:
            texts.append(part)
            show(part)
            continue
        messages = ask(body)
        show(before)
        reply = asking.ask(messages, _room(len(session.encode(messages)) - overhead), show)
        show(after)
        texts.append(f"{before}{reply.text.strip()}{after}")
        if reply.finish_reason == "cancelled":
            break
    return Made("".join(texts), asking.finish_reason, asking.cost)


def _room(part: int) -> int:
    """Tokens for a part of so many, rewritten."""
    return part + part // 2 + 32
