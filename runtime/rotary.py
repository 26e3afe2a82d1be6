"""Rotary tables of a bundle, memory-mapped, and the rule which of them a sequence of some length needs.

Boundary: lengths in, arrays out. LongRoPE models are trained with one table for sequences up to their original length
and another one beyond; a whole sequence uses one table, as in a run of transformers over it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .errors import ContextOverflow, RequestError
from .manifest import Region, RotaryTable, TextModel
from .sampling import is_whole


class RotaryTables:
    """The tables that a session may use, ordered by the longest sequence that each serves; `context` is the limit of
    all.
    """

    def __init__(self, folder: Path, tables: tuple[RotaryTable, ...], context: int) -> None:
        self.context = context
        self._arrays = {table.limit: (_map(folder, table.cos), _map(folder, table.sin)) for table in tables}

    @classmethod
    def open(cls, folder: Path, text: TextModel, context: int | None) -> RotaryTables:
        """Map the tables for sessions of at most `context` tokens.

        None: the whole context of the model, each sequence with its own table. A number: one table from the first token
        on, the first that serves `context` tokens; so a budget beyond the original length never recomputes, at the
        price of the long table for short sequences too. Raises RequestError for a context that the model does not
        have.
        """
        if context is None:
            return cls(folder, text.rotary, text.context_length)
        if not (is_whole(context) and 1 <= context <= text.context_length):
            raise RequestError(
                f"context is {context!r}; this model takes 1 to {text.context_length} tokens: choose one of these"
            )
        serving = next(table for table in text.rotary if table.limit >= context)
        return cls(folder, (serving,), context)

    def limit_for(self, length: int) -> int:
        """The table for a sequence of `length` tokens in all, by its limit. Raises ContextOverflow beyond `context`."""
        if length > self.context:
            raise ContextOverflow(
                f"{length} tokens do not fit into the context of {self.context}: shorten the prompt"
                f" or load the bundle with a larger context"
            )
        return next(limit for limit in self._arrays if length <= limit)

    def arrays(self, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 cosines and sines (positions, rotary_dim / 2) of the table with this limit, read-only."""
        return self._arrays[limit]


def _map(folder: Path, region: Region) -> np.ndarray:
    # as a plain array: indexing a memmap costs more, and nothing here needs its file
    return np.asarray(np.memmap(folder / region.file, np.float32, "r", region.offset, region.shape))
