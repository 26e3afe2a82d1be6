"""Phi-4-reasoning-vision-15B: images in, text out, with a thought first or without. Phi4ForCausalLMV.

The decoder of Phi-4-reasoning, without adapters; the SigLIP-2 NaFlex encoder, whose patches are one token each. The
published code puts the projected patches where `<image>` stands in the text and attends to them causally, whatever the
model card says of attention inside an image; so does this family.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...runtime.errors import ConfigMismatch
from ...runtime.manifest import LARGEST_PICTURE, Pictures, RotaryTable, TextModel, Thinking
from ...runtime.providers.provider import Provider
from ..config import ConfigReader
from ..layers import text_config
from ..layers.decoder import DecoderShape, text_graph
from ..layers.prompt_embeddings import EmbeddingShape, embedding_graph
from ..layers.rope import Rope, Table, tables
from ..layers.siglip_block import BLOCK_WEIGHTS, POOLING_HEAD, BlockShape
from ..layers.siglip_naflex import PREFIX, NaflexShape, fixed_naflex_graph, naflex_vision_graph
from ..layers.text_config import ALONE, EMBEDDING, HEAD, LAYER, LINEARS, NORMS, TextConfig
from ..weights import WEIGHT_AND_BIAS, Drop, Rename, Rule, Tie, layer_renames
from . import PartPlan

NAME = "phi4_siglip"
ARCHITECTURES = ("Phi4ForCausalLMV",)
CAPABILITIES = ("text", "image")
PARTS = {
    "text": PartPlan("text", "linear"), "embedding": PartPlan("embedding", "linear"),
    "vision": PartPlan("vision", "encoder"),
    "model": PartPlan("text", "linear"),  # from ids on, for runtimes that do not know these pictures
}

# The published code has no id for a place in an image. <|dummy_0|> is used for nothing else; vLLM takes it too.
IMAGE_TOKEN = 100256
FEATURE_LAYER = -2  # of the encoder's hidden states: what goes into the last of its blocks
MODES = Thinking(open="<think>", close="</think>", skip="<|dummy_84|>")
AFTER_IMAGE = "\n"  # "<image>\n" in the prompts of the model card and of training

_TOWER, _PROJECTOR = "model.vision_tower.vision_tower.vision_model.", "model.mm_projector."
# `tokenizer_model_max_length` is where the published code cuts prompts; nothing is cut here without a word.
_WITHOUT_EFFECT = (
    "freeze_mm_mlp_adapter", "image_aspect_ratio", "mm_projector_lr", "mm_vision_tower", "tokenizer_model_max_length",
    "tokenizer_padding_side", "tune_mm_mlp_adapter", "unfreeze_vision_tower",
)


@dataclass(frozen=True)
class Config:
    """`blocks` counts those of the checkpoint's encoder; `vision` has those that are computed."""

    text: TextConfig
    vision: NaflexShape
    blocks: int
    patches: tuple[int, int]
    image_token: int


TINY = Config(
    text=TextConfig(
        vocabulary=320, hidden=64, intermediate=96, layers=2, heads=4, kv_heads=2, head_dim=16, norm_epsilon=1e-5,
        sliding_window=None, tied=False, rope=Rope(500000.0, 16, 4096, 4096),
    ),
    vision=NaflexShape(BlockShape(hidden=32, intermediate=48, heads=2, norm_epsilon=1e-6), layers=2, patch=16, grid=16),
    blocks=3, patches=(256, 3600), image_token=300,
)


def read(raw: ConfigReader) -> Config:
    """Read a published config.json. Raises ConfigMismatch for a value that this family does not implement."""
    raw.expect("model_type", "phi4-siglip")
    raw.expect("mm_projector_type", "mlp2x_gelu")
    raw.expect("use_mm_proj", True, default=True)
    raw.expect("use_s2", False, default=False)
    raw.expect("mm_vision_select_layer", FEATURE_LAYER, default=FEATURE_LAYER)
    raw.ignore(*_WITHOUT_EFFECT)
    text = text_config.read_text_config(raw)
    vision, blocks = _read_vision(raw)
    raw.expect("mm_hidden_size", vision.block.hidden)
    fewest, most = (raw.count(f"{limit}_num_patches", LARGEST_PICTURE) for limit in ("min", "max"))
    if fewest > most:
        raise ConfigMismatch(
            f"{raw.path}: min_num_patches is {fewest} and max_num_patches {most}; the first must not be larger: "
            "check the checkpoint"
        )
    image_token = raw.optional("image_token_id", int, IMAGE_TOKEN)
    if not 0 <= image_token < text.vocabulary:
        raise ConfigMismatch(
            f"{raw.path}: pictures need the id {image_token} as their placeholder, the vocabulary has "
            f"{text.vocabulary} ids: set image_token_id to a control token that nothing else uses"
        )
    return Config(text, vision, blocks, (fewest, most), image_token)


def _read_vision(raw: ConfigReader) -> tuple[NaflexShape, int]:
    """The shape and the number of blocks in the checkpoint. The defaults are transformers' and so400m's."""
    section = raw.section("vision_config") or ConfigReader(raw.path, {})
    section.expect("model_type", "siglip2_vision_model", default="siglip2_vision_model")
    section.expect("hidden_act", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
    section.expect("num_channels", 3, default=3)
    section.expect("patch_size", 16, default=16)
    section.expect("vision_use_head", True, False, default=True)
    section.ignore("attention_dropout", "dtype", "initializer_range")
    hidden, heads = section.optional("hidden_size", int, 1152), section.optional("num_attention_heads", int, 16)
    positions, blocks = section.optional("num_patches", int, 256), section.optional("num_hidden_layers", int, 27)
    inner, grid = section.optional("intermediate_size", int, 4304), round(max(positions, 0) ** 0.5)
    if min(hidden, heads, inner, grid) < 1 or blocks < 2 or hidden % heads or grid * grid != positions:
        raise ConfigMismatch(
            f"{raw.path}: vision_config has {blocks} layers of {hidden} and {inner} with {heads} heads over "
            f"{positions} positions; heads must divide the width, positions must be a square, and layers at least 2: "
            "check the checkpoint"
        )
    block = BlockShape(hidden, inner, heads, section.optional("layer_norm_eps", float, 1e-6))
    return NaflexShape(block, blocks + 1 + FEATURE_LAYER, patch=16, grid=grid), blocks


def adapter_folders(config: Config) -> tuple[str, ...]:
    """None: what is trained on top of such a checkpoint is merged into it."""
    return ()


def rules(config: Config) -> tuple[Rule, ...]:
    """The decoder's published names are those of its weights; what the model never computes is dropped by name."""
    layered = [f"{LAYER}{name}.weight" for name in (*LINEARS, *NORMS)]
    head: Rule = Tie(HEAD, EMBEDDING) if config.text.tied else Rename(HEAD, HEAD)
    text = [*(Rename(name, name) for name in ALONE), *(Rename(name, name, config.text.layers) for name in layered)]
    return *text, head, *_vision_rules(config)


def _vision_rules(config: Config) -> list[Rule]:
    found: list[Rule] = [
        *layer_renames(f"{_TOWER}embeddings.patch_embedding", f"{PREFIX}.patch_embedding"),
        Rename(f"{_TOWER}embeddings.position_embedding.weight", f"{PREFIX}.position_embedding.weight"),
    ]
    for name in BLOCK_WEIGHTS:
        source, target = f"{_TOWER}encoder.layers.{{layer}}.{name}", f"{PREFIX}.layers.{{layer}}.{name}"
        found += layer_renames(source, target, config.vision.layers, pad=name.startswith("mlp."))
    for name, number in (("up", 0), ("down", 2)):
        found += layer_renames(f"{_PROJECTOR}{number}", f"{PREFIX}.projector.{name}")
    unused = [
        *(
            f"encoder.layers.{block}.{name}.{kind}" for block in range(config.vision.layers, config.blocks)
            for name in BLOCK_WEIGHTS for kind in WEIGHT_AND_BIAS
        ),
        *(f"post_layernorm.{kind}" for kind in WEIGHT_AND_BIAS), *(f"head.{name}" for name in POOLING_HEAD),
    ]
    after = "it comes after the block whose output is the picture's features"
    return [*found, *(Drop(f"{_TOWER}{name}", after) for name in unused)]


def build(config: Config, provider: Provider) -> dict[str, ir.Model]:
    """All graphs; `embedding` reads the decoder's own table. Other runtimes drive none of fixed shapes."""
    text, dtype = config.text, text_config.activations(provider)
    places = EmbeddingShape(EMBEDDING, text.vocabulary, text.hidden, config.image_token, None)
    if provider.fixed_shapes:
        return {
            "text": text_graph(text.shape(None), dtype), "embedding": embedding_graph(places),
            "vision": fixed_naflex_graph(config.vision, text.hidden, config.patches[1]),
        }
    return {
        "text": text_graph(text.shape(None), dtype), "embedding": embedding_graph(places),
        "vision": naflex_vision_graph(config.vision, text.hidden), "model": text_graph(text.shape(EMBEDDING), dtype),
    }


def decoder(config: Config) -> DecoderShape:
    """Structure of the text decoder, from ids on."""
    return config.text.shape(EMBEDDING)


def norm_feeding(config: Config) -> dict[str, str]:
    """Inputs of these linears are normed: γ² of the norm is their expected squared size, column by column."""
    return text_config.norm_feeding(config.text)


def rotary(config: Config) -> tuple[Table, ...]:
    """The rotary tables, ordered by the sequence length up to which each holds."""
    return tables(config.text.rope)


def media_tokens(config: Config) -> tuple[int, None]:
    """The id that stands for a patch of an image; recordings are not taken."""
    return config.image_token, None


def pictures(config: Config) -> Pictures:
    """Patches in the picture's own aspect ratio, one token each, and a line break behind them."""
    return Pictures("patches", *config.patches, AFTER_IMAGE)


def thinking(config: Config) -> Thinking:
    """THINK, NOTHINK and automatic mode: the answer is begun with one of these, or with none."""
    return MODES


def text_model(config: Config, rotary_tables: tuple[RotaryTable, ...]) -> TextModel:
    """The decoder's shape as the manifest states it."""
    return text_config.text_model(config.text, rotary_tables)
