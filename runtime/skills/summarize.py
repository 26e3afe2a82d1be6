"""Long to short: a text of any length in a sentence, a paragraph or a list of its points.

Boundary: says what to ask; longer texts are summarized part by part, and then the summaries.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RequestError
from ..long_text import condense
from ..messages import Message
from ..usage import Reply
from .asking import Asking, Made, Progress, Session, Show, check_choice, frame, nothing

FORMS = {
    "sentence": "in a single sentence",
    "paragraph": "in one paragraph",
    "bullets": "as a Markdown list of its main points",
}
# How much is asked for, and the tokens that it may take.
LENGTHS = {
    "short": ("at most 50 words", 192),
    "medium": ("at most 150 words", 512),
    "long": ("at most 400 words", 1024),
}
_PART = "Summarize this part of a longer text. Keep names, numbers, dates and decisions; add nothing."


def summarize(
    session: Session, text: str, *, form: str = "paragraph", length: str = "medium", tone: str | None = None,
    adapter: str | None = None, show: Show = nothing, progress: Progress = nothing,
) -> Made:  # fmt: skip
    """A summary of `text` in its own language. `form`, `length`, `tone`: names of FORMS, LENGTHS, TONES; `adapter`: of
    an adapter of the bundle.

    `show` is told the summary as it is made, `progress` how many answers of the model there are so far. Raises
    RequestError, ContextOverflow where the context is too small for any of it, and what `Session.stream` raises.
    """
    check_choice("form", form, FORMS)
    check_choice("length", length, LENGTHS)
    if not text.strip():
        raise RequestError("the text is empty: there is nothing to summarize")
    words, tokens = LENGTHS[length]
    wish = f"Summarize the text {FORMS[form]}, {words}, in its own language. Keep names and numbers; add nothing."
    asking = Asking(session, progress, adapter)

    def ask_whole(part: str) -> Sequence[Message]:
        return frame(wish, tone, part)

    def ask_part(part: str) -> Sequence[Message]:
        return frame(_PART, None, part)

    ask_whole("")  # raises for an unknown tone before anything is computed
    room = min(tokens, session.context // 4)

    def answer(messages: Sequence[Message], limit: int, last: bool) -> Reply:
        return asking.ask(messages, limit, show if last else nothing)

    reply = condense(session, text, ask_part, room, answer, ask_whole)
    return Made(reply.text.strip(), asking.finish_reason, asking.cost)
