"""The demo's model with eyes and ears for training: transformers' Phi4MultimodalForCausalLM on a frozen text decoder.

Boundary: tensors in, hidden states and losses out; knows no task, no batch order and no file but the base's. The
encoders are run part by part, for three reasons: what training alone needs is taken from the middle of them; padding of
a batch is masked as a recording alone would have it, where transformers' encoder of speech lets it be looked at; and
what is never read (the last image block, the pooling head) is not computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AttentionInterface, Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from . import architecture
from .media_batches import MediaBatch
from .train import ATTENTION, causal_attention

FULL_ATTENTION = "full_float32"
MASKED = -1e4
SEED = 0
_EQUAL = 0.999  # cosine of two rows that nothing tells apart
_APART = 2.5  # length of what tells them apart; rows that are used are about 3.4 long
_CELL = 2  # patches of a cell, in each direction


class Adapted(nn.Module):
    """A frozen linear layer with one low-rank side path for each adapter (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.active: str | None = None
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for name in architecture.ADAPTERS:
            self.down[name] = nn.Linear(linear.in_features, rank, bias=False)
            self.up[name] = nn.Linear(rank, linear.out_features, bias=False)
            nn.init.normal_(self.down[name].weight, std=linear.in_features**-0.5)  # type: ignore[arg-type]
            nn.init.zeros_(self.up[name].weight)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out), with the active adapter's path added."""
        y: torch.Tensor = self.linear(x)
        if self.active is None:
            return y
        side: torch.Tensor = self.up[self.active](self.down[self.active](x))
        return y + architecture.SCALE * side


class MediaModel(nn.Module):
    """`model` is transformers'; three heads exist in training only: what a patch shows, what the four patches of a cell
    show, which word a step ends.
    """

    def __init__(
        self, base: Path, shape: architecture.Shape, media: architecture.MediaShape, labels: int, words: int
    ) -> None:
        """Take the text weights from the checkpoint in `base` and freeze them."""
        super().__init__()
        AttentionInterface.register(ATTENTION, causal_attention)
        AttentionInterface.register(FULL_ATTENTION, full_attention)
        self.model: Any = Phi4MultimodalForCausalLM(Phi4MultimodalConfig(**_settings(shape, media)))
        self.media = media
        extended = self.model.model.embed_tokens_extend
        self.image, self.audio = extended.image_embed, extended.audio_embed
        _initialize(extended)
        tensors = load_file(base / "model.safetensors")
        missing, unknown = self.model.load_state_dict(tensors, strict=False)
        alien = [name for name in missing if "embed_tokens_extend" not in name and name != "lm_head.weight"]
        if alien or unknown:
            raise ValueError(f"{base} is no checkpoint of the text stage: {(alien or unknown)[0]} does not fit")
        tell_apart(self.model.model.embed_tokens.weight.data)
        self.requires_grad_(False)
        for module in list(self.model.model.layers.modules()):
            for name, child in list(module.named_children()):
                if name in architecture.TARGETS:
                    setattr(module, name, Adapted(child.to(torch.bfloat16), media.rank))
        self.marks = nn.Linear(media.vision_hidden, labels)
        self.cells = nn.Linear(media.vision_hidden, _CELL**2 * labels)
        self.words = nn.Linear(media.speech_hidden, words + 1)

    def adapted(self) -> dict[str, Adapted]:
        """Name of each linear layer of the decoder → the layer."""
        return {name: part for name, part in self.model.model.layers.named_modules() if isinstance(part, Adapted)}

    def activate(self, adapter: str | None) -> None:
        """Use this adapter in all layers."""
        for part in self.adapted().values():
            part.active = adapter

    def patches(self, pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """pixels (crops, 3, side, side), mask bool (crops, patches, patches) → features (crops, patches², hidden)."""
        tower = self.image.img_processor
        x = tower.embeddings(pixels, mask)
        hidden = None
        if not mask.all():
            hidden = torch.zeros(len(mask), 1, 1, x.shape[1]).masked_fill(~mask.flatten(1)[:, None, None], MASKED)
        for layer in tower.encoder.layers[:-1]:
            x = layer(x, hidden)
        result: torch.Tensor = x
        return result

    def pooled(self, features: torch.Tensor) -> torch.Tensor:
        """features (images, crops, patches², hidden) → means of 2 × 2 patches (images, crops, cells, cells, hidden)."""
        images, crops, count, width = features.shape
        side = math.isqrt(count)
        grid = features.reshape(images * crops, side, side, width).permute(0, 3, 1, 2)
        means: torch.Tensor = self.image.image_token_compression(grid).permute(0, 2, 3, 1)
        return means.reshape(images, crops, side // _CELL, side // _CELL, width)

    def told(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of what each patch shows, by its cell alone: (images, crops, patches², labels).

        A decoder gets cells, so a cell has to say which of its four patches shows what.
        """
        pooled = self.pooled(features)
        images, crops, cells, _, _ = pooled.shape
        each: torch.Tensor = self.cells(pooled).reshape(images, crops, cells, cells, _CELL, _CELL, -1)
        return each.transpose(3, 4).reshape(images, crops, (cells * _CELL) ** 2, -1)

    def image_rows(self, features: torch.Tensor, rows: int, columns: int, useful: tuple[int, int]) -> torch.Tensor:
        """features (images, 1 + rows · columns, patches², hidden) → (images, tokens, decoder's width).

        All pictures have the same grid, of which `useful` rows and columns of cells hold something.
        """
        images, _, _, width = features.shape
        pooled = self.pooled(features)
        cells = pooled.shape[2]
        crop = pooled[:, 1:].reshape(images, rows, columns, cells, cells, width).transpose(2, 3)
        crop = crop.reshape(images, rows * cells, columns * cells, width)[:, : useful[0], : useful[1]]
        between = self.image.global_img_feature_extensor.expand(images, 1, width)
        lines = [self._with_row_ends(part).flatten(1, 2) for part in (crop, pooled[:, 0])]
        sequence = torch.cat([lines[0], between, lines[1]], 1)
        projected: torch.Tensor = self.image.img_projection_down(
            nn.functional.gelu(self.image.img_projection_up(sequence))
        )
        return projected

    def speech(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """frames (clips, frames, 80) and their numbers → features (clips, steps, hidden), bool (clips, steps)."""
        encoder = self.audio.encoder
        inside = torch.arange(frames.shape[1])[None] < lengths[:, None]
        x = encoder.encoder_embedding(frames)[:, None]
        for layer in encoder.embed.conv:
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                x = _strided(layer, x * inside[:, None, :, None])
                inside = inside[:, ::2]
            else:
                x = layer(x)
        x = encoder.embed.out(x.transpose(1, 2).flatten(2))
        mask = encoder.relative_attention_bias_layer(x).float()
        mask = mask + torch.zeros(len(x), 1, 1, x.shape[1]).masked_fill(~inside[:, None, None], MASKED)
        for block in encoder.encoders:
            x = block(x, mask)
        return x, inside

    def speech_rows(self, features: torch.Tensor, mode: str) -> torch.Tensor:
        """features (steps, hidden) → (steps, decoder's width) by the projector of `mode`, "speech" or "vision"."""
        name = "speech" if mode == "speech" else "vision_speech"
        up, down = getattr(self.audio, f"up_proj_for_{name}"), getattr(self.audio, f"down_proj_for_{name}")
        projected: torch.Tensor = down(nn.functional.gelu(up(features)))
        return projected

    def hidden(self, batch: MediaBatch, images: torch.Tensor | None, steps: torch.Tensor | None) -> torch.Tensor:
        """The decoder's last hidden states (rows, tokens, width), with rows of media in their places."""
        embedded = self.model.model.embed_tokens(batch.ids).float()
        for place, found in ((architecture.IMAGE_ID, images), (architecture.AUDIO_ID, steps)):
            if found is not None:
                at = batch.ids == place
                embedded = embedded.masked_scatter(at[..., None], found.reshape(-1, found.shape[-1]).float())
        positions = torch.arange(batch.ids.shape[1])[None]
        states: torch.Tensor = self.model.model(
            inputs_embeds=embedded, position_ids=positions, use_cache=False
        ).last_hidden_state
        return states

    def _with_row_ends(self, grid: torch.Tensor) -> torch.Tensor:
        """(images, height, width, hidden) → (images, height, width + 1, hidden)."""
        end = self.image.sub_img_feature_extensor.expand(*grid.shape[:2], 1, grid.shape[-1])
        return torch.cat([grid, end.to(grid.dtype)], 2)


def full_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float,
    **_unused: object,
) -> tuple[torch.Tensor, None]:
    """Attention of everything to everything but what the mask takes away, in float32."""
    with torch.autocast("cpu", enabled=False):
        attended = nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=mask, scale=scaling
        )
    return attended.transpose(1, 2).contiguous(), None


def tell_apart(embedding: torch.Tensor) -> None:
    """Give every row that text training never used, (tokens, width), a random direction besides the common one.

    Such rows have become equal, pushed down together; a frozen head could not choose one of them for an answer.
    """
    directions = nn.functional.normalize(embedding.float(), dim=-1)
    alike = directions @ directions.T
    unused = (alike.fill_diagonal_(0) > _EQUAL).any(-1)
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(SEED))
    apart = embedding + _APART * nn.functional.normalize(noise, dim=-1)
    embedding[unused] = apart[unused].to(torch.bfloat16).to(embedding.dtype)


def trainable(model: MediaModel, parts: Iterable[str]) -> list[tuple[str, nn.Parameter]]:
    """Unfreeze the parameters whose names contain one of `parts`, freeze all others, and return the first."""
    found = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in parts))
        if parameter.requires_grad:
            found.append((name, parameter))
    return found


def _strided(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """The layer's output; on a CPU a depthwise one takes five times as long in bfloat16 or with its channels first."""
    if layer.groups > 1:
        x = x.float().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=layer.groups == 1 and torch.is_autocast_enabled("cpu")):
        y: torch.Tensor = layer(x)
    return y


def _settings(shape: architecture.Shape, media: architecture.MediaShape) -> dict[str, Any]:
    only_stored = ("architectures", "model_type", "torch_dtype")
    values = {key: value for key, value in architecture.media_config(shape, media).items() if key not in only_stored}
    attention = {"": ATTENTION, "vision_config": FULL_ATTENTION, "audio_config": FULL_ATTENTION}
    return {**values, "attn_implementation": attention}


def _initialize(module: nn.Module) -> None:
    """Weights of variance 1 / inputs; transformers' image encoder begins far larger."""
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2 or "extensor" in name:
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        elif "position" in name or "bias_values" in name:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    nn.init.normal_(module.image_embed.global_img_feature_extensor, std=0.5)  # type: ignore[union-attr,arg-type]
    nn.init.normal_(module.image_embed.sub_img_feature_extensor, std=0.5)  # type: ignore[union-attr,arg-type]
