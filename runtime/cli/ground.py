"""`edgephi run --ground`: where in a picture something is, as boxes in pixels.

Boundary: asks the question that vision models were trained on and prints what grounding.py reads out of the answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ..grounding import Box, find_boxes, instruction
from .answering import answer, note, note_end, statistics

if TYPE_CHECKING:
    from ..session import Session
    from .settings import Settings


def ground(session: Session, text: str, image: str, settings: Settings, *, stats: bool) -> None:
    """Print the boxes of what `text` describes in `image`, as JSON. Raises RequestError, MediaError."""
    from ..image_decode import decode_image

    picture = decode_image(image)  # as the model sees it: upright
    content = [{"type": "image", "image": image}, {"type": "text", "text": instruction(text)}]
    finished = answer(session, [{"role": "user", "content": content}], settings, show=None)
    boxes = find_boxes(finished.text)
    found = {
        "image": {"file": image, "width": picture.width, "height": picture.height},
        "boxes": [_described(box, picture.width, picture.height) for box in boxes],
        "answer": finished.text,
    }
    click.echo(json.dumps(found, ensure_ascii=False))
    if not boxes:
        note("(the answer names no place)")
    note_end(finished)
    if stats:
        note(statistics(finished))
    if finished.interrupted:
        raise KeyboardInterrupt


def _described(box: Box, width: int, height: int) -> dict[str, list[float]]:
    """Left, top, right, bottom in pixels and as shares of the picture."""
    return {"pixels": list(box.pixels(width, height)), "relative": [box.x1, box.y1, box.x2, box.y2]}
