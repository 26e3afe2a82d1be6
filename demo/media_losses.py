"""What training lowers: the answers' cross-entropy, and what the encoders are told of their inputs.

Boundary: a model and a batch in, losses out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .batches import IGNORED
from .corpus import Clip
from .media_batches import NO_WORD, MediaBatch
from .media_model import MediaModel


def losses(
    model: MediaModel, batch: MediaBatch, mode: str, *, alone: bool, hinted: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of an answer (0 while encoders are `alone`), and the encoders' own loss (0 unhinted).

    Of a whole answer, not of a token: in a long answer few tokens say what the picture decides.
    """
    nothing = torch.zeros(())
    with torch.autocast("cpu", torch.bfloat16):
        images, steps, hints = encode(model, batch, mode, hinted=hinted)
        if alone:
            return nothing, hints
        chosen = batch.labels != IGNORED
        logits = model.model.lm_head(model.hidden(batch, images, steps)[chosen].to(torch.bfloat16))
    whole = torch.nn.functional.cross_entropy(logits.float(), batch.labels[chosen], reduction="sum")
    return whole / len(batch.tasks), hints


def encode(
    model: MediaModel, batch: MediaBatch, mode: str, *, hinted: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
    """Rows of pictures and of recordings for the decoder, and the encoders' own loss."""
    rows, steps, hints = None, None, torch.zeros(())
    if batch.pixels is not None and batch.mask is not None and batch.grid is not None:
        features = picture_features(model, batch.pixels, batch.mask)
        if hinted:
            assert batch.marks is not None
            for shown in (model.marks(features), model.told(features)):
                hints = hints + torch.nn.functional.cross_entropy(shown.float().flatten(0, 2), batch.marks.flatten())
        useful = tuple(-(-count // 2) for count in batch.grid.valid_patches)
        rows = model.image_rows(features, batch.grid.rows, batch.grid.columns, (useful[0], useful[1]))
    if batch.frames is not None and batch.lengths is not None and batch.said is not None:
        heard, inside = model.speech(batch.frames, batch.lengths)
        if hinted:
            words = model.words(heard).float().log_softmax(-1).transpose(0, 1)
            counts = (batch.said != NO_WORD).sum(1)
            hints = hints + torch.nn.functional.ctc_loss(
                words, batch.said, inside.sum(1), counts, zero_infinity=True
            )
        steps = model.speech_rows(heard[inside], mode)
    return rows, steps, hints


def picture_features(model: MediaModel, pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Features (images, crops, patches², hidden) of pixels (images, crops, 3, side, side) under their mask.

    A picture of one whole crop is its own view of the whole: the same pixels are not computed twice.
    """
    images, crops = pixels.shape[:2]
    if crops == 2 and bool(mask.all()):
        return model.patches(pixels[:, 1], mask[:, 1])[:, None].expand(-1, 2, -1, -1)
    features = model.patches(pixels.flatten(0, 1), mask.flatten(0, 1))
    return features.reshape(images, crops, *features.shape[1:])


def normalize(model: MediaModel, clips: Mapping[str, Sequence[Clip]]) -> None:
    """Give the speech encoder mean and inverse deviation of each mel bin over the recordings."""
    frames = torch.cat([torch.from_numpy(clip.features) for rows in clips.values() for clip in rows[:100]])
    model.audio.encoder.encoder_embedding.global_mean.copy_(frames.mean(0))
    model.audio.encoder.encoder_embedding.global_invstd.copy_(1 / frames.std(0).clamp(min=0.1))
