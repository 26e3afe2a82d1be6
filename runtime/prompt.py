"""What a caller asks, in any of its forms → the positions that the model sees.

Boundary: text, messages and ids in; ids out, and for prompts with media the rows that encoders make of them. Reading a
prompt checks everything and runs no model; `ReadPrompt.positions` runs the encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from .audio import FRAME_SECONDS, FRAMES_PER_TOKEN, MAXIMUM_SECONDS, AudioInputs, prepare_audio
from .cache import Position
from .chat import ChatTemplate
from .encoders import ImageEncoder, Picture, SpeechEncoder
from .errors import BundleError, ContextOverflow, MediaError, RequestError
from .graphs import Interrupt
from .image import Crop, prepare_image
from .image_naflex import prepare_naflex_image
from .inputs import MediaRow
from .manifest import MODE_SPEECH, MODE_VISION_SPEECH, Pictures, Tokens
from .messages import Media, Message, media
from .sampling import is_whole
from .tokens import Segment, Tokenizer

T = TypeVar("T")
Prompt: TypeAlias = str | Sequence[Message] | Sequence[int]
Tools: TypeAlias = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Encoders:
    """What turns media into rows, None for a kind that the bundle does not take."""

    image: ImageEncoder | None
    speech: SpeechEncoder | None


@dataclass(frozen=True)
class Slot:
    """One picture or recording: it takes `inputs.tokens` positions from `start` on, each with the id `placeholder`."""

    start: int
    placeholder: int
    inputs: Picture | AudioInputs


@dataclass(frozen=True)
class ReadPrompt:
    """A checked prompt: the ids of all positions, media included, and where media stand, in order."""

    ids: list[int]
    slots: tuple[Slot, ...] = ()

    def positions(self, encoders: Encoders, interrupt: Interrupt) -> Sequence[Position]:
        """The positions with the rows of media in their places. Raises BundleError, Interrupted."""
        def rows(inputs: Picture | AudioInputs, mode: int) -> np.ndarray:
            if isinstance(inputs, AudioInputs):
                return _present(encoders.speech).encode(inputs, mode, interrupt)
            return _present(encoders.image).encode(inputs, interrupt)

        return self._placed(rows)

    def outline(self) -> Sequence[Position]:
        """Positions equal to those of `positions`, without the rows: nothing is encoded, only text can be computed."""
        nothing = np.empty(0, np.float32)
        return self._placed(lambda inputs, mode: nothing)

    def _placed(self, rows: Callable[[Picture | AudioInputs, int], np.ndarray]) -> Sequence[Position]:
        """The positions with `rows(medium, mode)` in the places of media; recordings depend on the mode."""
        if not self.slots:
            return self.ids
        pictured = any(not isinstance(slot.inputs, AudioInputs) for slot in self.slots)
        mode = MODE_VISION_SPEECH if pictured else MODE_SPEECH
        found: list[Position] = list(self.ids)
        for slot in self.slots:
            content = slot.inputs.sha256
            if isinstance(slot.inputs, AudioInputs):
                content = f"{content}:{mode}"
            made = rows(slot.inputs, mode)
            places = range(slot.start, slot.start + slot.inputs.tokens)
            found[places.start : places.stop] = [
                MediaRow(slot.placeholder, content, row, made) for row in range(len(places))
            ]
        return found


class PromptReader:
    """Reads prompts for one bundle."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate | None, vocabulary: int, tokens: Tokens,
        pictures: Pictures | None, context: int,
    ) -> None:
        """`pictures`: how they are prepared, None where the bundle takes none. `context`: positions that there are,
        beyond which no medium is decoded. Raises BundleError.
        """
        self._tokenizer = tokenizer
        self._template = template
        self._vocabulary = vocabulary
        self._media = tokens.placeholders
        self._pictures = pictures
        self._context = context
        plain = {kind: number for kind, number in self._media.items() if number not in tokenizer.control_ids}
        if plain:
            raise BundleError(
                f"the ids {plain} stand for media, but to this bundle's tokenizer they are text that a user can write:"
                " export the checkpoint again with its own tokenizer"
            )
        self._marks = {kind: tokenizer.decode([number], skip_special=False) for kind, number in self._media.items()}

    @property
    def placeholders(self) -> tuple[int, ...]:
        """Ids that have no vector of their own but rows of media: a prompt may hold them, an answer never."""
        return tuple(self._media.values())

    def read(self, prompt: Prompt, tools: Tools | None, variables: Mapping[str, object]) -> ReadPrompt:
        """Check and encode `prompt`; media are decoded, not yet encoded. Raises RequestError."""
        if isinstance(prompt, str) and self._template is None:
            return ReadPrompt(self._tokenizer.encode_text(prompt))
        items: list[Any] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if not items:
            raise RequestError("the prompt is empty: give text, at least one message or one token id")
        if not all(isinstance(item, Mapping) for item in items):
            return ReadPrompt(self._checked(items))
        if self._template is None:
            raise RequestError("this bundle has no chat template: give text or token ids instead of messages")
        messages = cast("list[Message]", items)
        segments = self._template.render(messages, tools=tools, variables=variables, placeholders=self._marks)
        return self._expand(segments, media(messages))

    def _expand(self, segments: Sequence[Segment], given: Sequence[Media]) -> ReadPrompt:
        """Give every medium as many positions as it takes; the template kept their order.

        The text around a medium is encoded by itself, white space included: to the model there is no token between.
        """
        waiting = iter(given)
        kinds = {text: kind for kind, text in self._marks.items()}
        ids: list[int] = []
        slots: list[Slot] = []
        text: list[Segment] = []
        after = ""
        for segment in segments:
            kind = kinds.get(segment.text) if segment.trusted else None
            if not segment.text.startswith(after):
                text.append(Segment(after, trusted=True))
            after = ""
            if kind is None:
                text.append(segment)
                continue
            ids += self._tokenizer.encode_segments(text)
            text = []
            slots.append(Slot(len(ids), self._media[kind], self._prepare(next(waiting), self._context - len(ids))))
            ids += [slots[-1].placeholder] * slots[-1].inputs.tokens
            after = self._pictures.after if kind == "image" and self._pictures is not None else ""
        return ReadPrompt(ids + self._tokenizer.encode_segments(text), tuple(slots))

    def _checked(self, ids: Sequence[object]) -> list[int]:
        for index, number in enumerate(ids):
            if not (is_whole(number) and 0 <= number < self._vocabulary):
                raise RequestError(
                    f"prompt[{index}] is {number!r:.60}; a prompt is text, a list of messages, or a list of token ids"
                    f" from 0 to {self._vocabulary - 1}"
                )
            if number in self._media.values():
                raise RequestError(
                    f"prompt[{index}] is {number}, which stands for a picture or recording: give these as content of"
                    " messages"
                )
        return [int(cast("int", number)) for number in ids]

    def _prepare(self, medium: Media, room: int) -> Picture | AudioInputs:
        """Decode one medium, for which `room` positions are left; an error says where in the messages it stands."""
        if room < 1:
            raise ContextOverflow(
                f"{medium.where}: what stands before it fills the context of {self._context} tokens: shorten the"
                " conversation or load the bundle with a larger context"
            )
        source = cast("Any", medium.source)
        if medium.kind == "audio" and isinstance(source, AudioInputs):  # prepared ahead, as for a long recording
            return source
        try:
            if medium.kind == "audio":
                return prepare_audio(source, max_seconds=min(MAXIMUM_SECONDS, room * FRAMES_PER_TOKEN * FRAME_SECONDS))
            limits = _present(self._pictures)
            if limits.kind == "patches":
                return prepare_naflex_image(source, min_patches=limits.minimum, max_patches=limits.maximum)
            return prepare_image(source, max_crops=limits.maximum, crop=Crop(limits.side, limits.patch))
        except MediaError as error:
            raise MediaError(f"{medium.where}: {error}") from error


def _present(value: T | None) -> T:
    """What a bundle has that takes such media."""
    assert value is not None
    return value
