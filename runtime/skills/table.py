"""Prose to rows: the facts of a text as a table, written as Markdown or CSV.

Boundary: the model writes JSON by a schema and never the table itself, so every row has every column. Needs the extra
`schema`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RequestError
from ..long_text import split_to_fit
from ..messages import Message
from .asking import Asking, Cost, Progress, Session, frame, nothing

_COLUMNS = (
    "Which columns would a table of the facts in the text have? Answer with their names as JSON, a few words each, the"
    " thing that every row is about first."
)
_ROWS = (
    "List the facts in the text as rows of a table with the columns {columns}, as JSON. One row for each thing that the"
    " text is about; leave a cell empty where the text does not say it; invent nothing."
)
_MOST_COLUMNS, _COLUMN_TOKENS, _ROW_TOKENS = 12, 160, 1536
_LONGEST_PART = 1024  # tokens: rows are missed in longer ones


@dataclass(frozen=True)
class Table:
    """Rows of cells, each row as long as `columns`. `finish_reason` and `cost` as in `Made`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    finish_reason: str
    cost: Cost

    def to_markdown(self) -> str:
        """A Markdown table."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)

    def to_csv(self) -> str:
        """Comma-separated values as RFC 4180 has them, with a line of names."""
        file = io.StringIO(newline="")
        csv.writer(file).writerows([self.columns, *self.rows])
        return file.getvalue()


WRITERS = {"markdown": Table.to_markdown, "csv": Table.to_csv}


def make_table(
    session: Session, text: str, *, columns: Sequence[str] | None = None, adapter: str | None = None,
    progress: Progress = nothing,
) -> Table:  # fmt: skip
    """The facts of `text` as a table; the model chooses the columns unless they are given. `adapter`: one of the
    bundle's.

    `progress` is told how many answers of the model there are so far. Raises RequestError, ContextOverflow where the
    context is too small for any of it, MissingDependency without llguidance, and what `Session.stream` raises.
    """
    if not text.strip():
        raise RequestError("the text is empty: there is nothing to make a table of")
    asking = Asking(session, progress, adapter)
    chosen = _checked(columns) if columns is not None else _chosen(session, asking, text)
    known: dict[tuple[str, ...], None] = {}
    if chosen and asking.finish_reason != "cancelled":
        for part in split_to_fit(session, text, lambda part: _ask_rows(part, chosen), _room(session)):
            if part.strip():
                known |= dict.fromkeys(_rows(session, asking, part, chosen))
            if asking.finish_reason == "cancelled":
                break
    return Table(tuple(chosen), tuple(known), asking.finish_reason, asking.cost)


def _checked(columns: Sequence[str]) -> list[str]:
    names = [str(name).strip() for name in columns]
    if not names or not all(names) or len(set(names)) < len(names) or len(names) > _MOST_COLUMNS:
        raise RequestError(f"columns are {names!r:.100}; give 1 to {_MOST_COLUMNS} different names")
    return names


def _chosen(session: Session, asking: Asking, text: str) -> list[str]:
    """Columns for the first part of the text."""
    first = split_to_fit(session, text, lambda part: frame(_COLUMNS, None, part), lambda _: _COLUMN_TOKENS)[0]
    name = {"type": "string", "minLength": 1, "maxLength": 40}
    schema = _closed({"columns": {"type": "array", "items": name, "minItems": 1, "maxItems": _MOST_COLUMNS}})
    reply = asking.ask(frame(_COLUMNS, None, first), _COLUMN_TOKENS, schema=schema)
    if reply.finish_reason == "cancelled":
        return []
    found = _parsed(reply.text)
    if found is None:
        raise RequestError("the model named no columns that end: name them yourself with columns")
    return list(dict.fromkeys(filter(None, (" ".join(str(each).split()) for each in found["columns"])))) or ["text"]


def _rows(session: Session, asking: Asking, part: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows of a part; of its halves, where they are too many for one answer."""
    row = _closed({name: {"type": "string", "maxLength": 300} for name in columns})
    schema = _closed({"rows": {"type": "array", "items": row}})
    messages = _ask_rows(part, columns)
    limit = min(_ROW_TOKENS, session.context - len(session.encode(messages)))
    reply = asking.ask(messages, limit, schema=schema)
    found = _parsed(reply.text)
    if found is not None:
        cells = [tuple(" ".join(str(row[name]).split()) for name in columns) for row in found["rows"]]
        return [each for each in cells if any(each)]
    lines = part.splitlines(keepends=True)
    if reply.finish_reason == "cancelled" or len(lines) < 2:
        return []  # the finish reason tells that something is missing
    middle = len(lines) // 2
    halves = "".join(lines[:middle]), "".join(lines[middle:])
    return [each for half in halves if half.strip() for each in _rows(session, asking, half, columns)]


def _room(session: Session) -> Callable[[int], int]:
    """Room for rows that say what the part says once more, and none for parts that are too long."""
    return lambda prompt: min(_ROW_TOKENS, session.context // 2) if prompt <= _LONGEST_PART else session.context + 1


def _ask_rows(part: str, columns: Sequence[str]) -> list[Message]:
    return frame(_ROWS.format(columns=", ".join(json.dumps(name, ensure_ascii=False) for name in columns)), None, part)


def _closed(properties: Mapping[str, object]) -> dict[str, object]:
    return {
        "type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False
    }


def _parsed(text: str) -> dict[str, Any] | None:
    """What an answer by a schema says; None where it was cut."""
    try:
        value: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return value


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
