"""The speech graph against transformers' Phi4MultimodalAudioEmbedding, with random weights, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from transformers import Phi4MultimodalConfig
from transformers.models.phi4_multimodal.configuration_phi4_multimodal import Phi4MultimodalAudioConfig
from transformers.models.phi4_multimodal.modeling_phi4_multimodal import Phi4MultimodalAudioEmbedding

from edgephi.export.layers.conformer import ConformerShape, speech_graph
from edgephi.runtime.manifest import MODE_SPEECH, MODE_VISION_SPEECH

SHAPES = {
    "plain": ConformerShape(
        mel_bins=80, subsampling=8, channels=12, hidden=32, heads=4, intermediate=48, layers=2, kernel=3,
        bias_distance=500, output=40,
    ),
    "odd": ConformerShape(
        mel_bins=26, subsampling=4, channels=5, hidden=24, heads=2, intermediate=20, layers=3, kernel=5,
        bias_distance=37, output=16,
    ),
}
PLACEHOLDER = 7  # any token id: all of a prompt is one recording here
SECOND = 98  # frames of one second: (16,000 - 400) // 160 + 1
TOLERANCE = 1e-4  # of the largest feature, both sides float32; what is seen is below 1e-5

# (name in transformers, name in the graph); {layer} and {level} are counted
NAMES = (
    ("encoder.encoder_embedding.global_mean", "speech.input.mean"),
    ("encoder.encoder_embedding.global_invstd", "speech.input.inverse_std"),
    ("encoder.embed.conv.0.", "speech.subsampling.0.conv."),
    ("encoder.embed.out.", "speech.subsampling.out."),
    ("encoder.relative_attention_bias_layer.bias_values.", "speech.relative_bias."),
    ("up_proj_for_speech.", "speech.projector.speech.up."),
    ("down_proj_for_speech.", "speech.projector.speech.down."),
    ("up_proj_for_vision_speech.", "speech.projector.vision.up."),
    ("down_proj_for_vision_speech.", "speech.projector.vision.down."),
    ("encoder.encoders.", "speech.layers."),
    (".layer_norm_att.", ".attention.norm."),
    (".layer_norm.", ".norm."),
    (".gate_up_proj.", ".up_gate_proj."),
    (".self_attn.", ".attention."),
    (".conv.glu.ext_pw_conv_1d.", ".conv.glu_proj."),
    (".conv.glu.b1", ".conv.glu_shift.value"),
    (".conv.glu.b2", ".conv.glu_shift.gate"),
    (".conv.dw_sep_conv_1d.dw_conv.", ".conv.depthwise."),
    (".conv.dw_sep_conv_1d.pw_conv.", ".conv.pointwise."),
    (".conv.ext_pw_conv_1d.", ".conv.out_proj."),
    *((f"encoder.embed.conv.{3 * level - 1}.", f"speech.subsampling.{level}.depthwise.") for level in (1, 2)),
    *((f"encoder.embed.conv.{3 * level}.", f"speech.subsampling.{level}.pointwise.") for level in (1, 2)),
)


@dataclass(frozen=True)
class Pair:
    """The same encoder twice: transformers' and a session over our graph."""

    shape: ConformerShape
    reference: Phi4MultimodalAudioEmbedding
    session: ort.InferenceSession

    def expected(self, frames: np.ndarray, mode: int) -> np.ndarray:
        """Features of one clip (frames, mel_bins), as transformers encodes a single clip: without a mask."""
        tokens = -(-len(frames) // self.shape.subsampling)
        ids = torch.full((1, tokens), PLACEHOLDER)
        with torch.no_grad():
            merged = self.reference(
                ids, torch.zeros(1, tokens, self.shape.output), torch.from_numpy(frames)[None], torch.tensor([tokens]),
                audio_projection_mode="vision" if mode == MODE_VISION_SPEECH else "speech",
            )
        features: np.ndarray = merged[0].numpy()
        return features

    def features(
        self, clips: Sequence[np.ndarray], mode: int, *, filler: float = 0.0, context: int | None = None
    ) -> np.ndarray:
        """Features of a batch of clips that are padded with `filler` to the longest of them."""
        longest = max(len(clip) for clip in clips)
        frames = np.full((len(clips), longest, self.shape.mel_bins), filler, np.float32)
        mask = np.zeros((len(clips), longest), bool)
        for index, clip in enumerate(clips):
            frames[index, : len(clip)], mask[index, : len(clip)] = clip, True
        sizes = [-(-(len(clip) - (context or 0)) // self.shape.subsampling) for clip in clips]
        feed = {
            "audio_embeds": frames, "audio_attention_mask": mask, "audio_sizes": np.array(sizes, np.int64),
            "audio_projection_mode": np.array([mode], np.int64),
        }
        if context is not None:
            feed["audio_context"] = np.array([context], np.int64)
        (features,) = self.session.run(["audio_features"], feed)
        result: np.ndarray = features
        return result


def build(shape: ConformerShape, seed: int) -> Pair:
    torch.manual_seed(seed)
    audio = Phi4MultimodalAudioConfig(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_blocks=shape.layers,
        num_attention_heads=shape.heads, ext_pw_out_channel=shape.hidden,
        depthwise_separable_out_channel=shape.hidden, kernel_size=shape.kernel, input_size=shape.mel_bins,
        time_reduction=shape.subsampling, bias_max_distance=shape.bias_distance, nemo_conv_channels=shape.channels,
        audio_token_id=PLACEHOLDER,
    )
    config = Phi4MultimodalConfig(audio_config=audio, hidden_size=shape.output, num_hidden_layers=1, embd_pdrop=0.0)
    reference = Phi4MultimodalAudioEmbedding(config).eval()
    with torch.no_grad():
        for name, tensor in reference.state_dict().items():
            # every value random, the initial zeros and ones too, and features that depend on distant frames
            spread = 0.6 if "bias_values" in name else 0.3 if tensor.ndim == 1 else 1.2 / np.sqrt(tensor[0].numel())
            tensor.copy_(torch.randn_like(tensor) * spread + ("norm" in name and name.endswith("weight")))
    return Pair(shape, reference, session_of(speech_graph(shape), graph_weights(reference)))


def graph_weights(reference: torch.nn.Module) -> dict[str, np.ndarray]:
    weights = {}
    for name, tensor in reference.state_dict().items():
        renamed = name
        for theirs, ours in NAMES:
            renamed = renamed.replace(theirs, ours)
        weights[renamed] = tensor.numpy().astype(np.float32)
    return weights


def session_of(model: ir.Model, weights: dict[str, np.ndarray]) -> ort.InferenceSession:
    declared = {name: value for name, value in model.graph.initializers.items() if value.const_value is None}
    assert declared.keys() == weights.keys()
    for name, value in declared.items():
        shape = value.meta["stored_shape"]
        # a pointwise convolution is a matrix here: its kernel axis of one goes
        assert weights[name].shape in (shape, (*shape, 1)), name
        value.const_value = ir.tensor(weights[name].reshape(shape), name=name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # an input with a default is meant here
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


def clip(shape: ConformerShape, frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, shape.mel_bins)).astype(np.float32)


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module", params=[(name, seed) for name in SHAPES for seed in (0, 1)], ids=str)
def pair(request: pytest.FixtureRequest) -> Pair:
    name, seed = request.param
    return build(SHAPES[name], seed)


@pytest.mark.parametrize("mode", [MODE_SPEECH, MODE_VISION_SPEECH])
@pytest.mark.parametrize("frames", [1, 7, 8, 9, SECOND, 12 * 100 - 2, 4000, 4001, 65 * 100 - 2])
def test_one_clip_gives_the_features_of_transformers(pair: Pair, frames: int, mode: int) -> None:
    samples = clip(pair.shape, frames, seed=frames)
    assert relative(pair.features([samples], mode), pair.expected(samples, mode)) <= TOLERANCE


@pytest.mark.parametrize("filler", [0.0, 50.0])
@pytest.mark.parametrize(
    "lengths", [(3, 200, 1), (161, 7, 98, 160), (5200, 900, 4007), (SECOND, 8100, 4000)], ids=lambda value: str(value)
)
def test_a_padded_batch_gives_what_transformers_gives_for_its_clips_one_by_one(
    pair: Pair, lengths: tuple[int, ...], filler: float
) -> None:
    """transformers' own batches differ: it adds its mask to the scores as 0 and 1, so padding is attended."""
    clips = [clip(pair.shape, frames, seed=index) for index, frames in enumerate(lengths)]
    alone = np.concatenate([pair.expected(samples, MODE_SPEECH) for samples in clips])
    assert relative(pair.features(clips, MODE_SPEECH, filler=filler), alone) <= TOLERANCE


@pytest.mark.parametrize("pieces_at_once", [1, 2])
@pytest.mark.parametrize("rest", [0, 1, 8, 1501])
def test_a_recording_encoded_in_several_calls_gives_what_transformers_gives_at_once(
    pair: Pair, rest: int, pieces_at_once: int
) -> None:
    factor = pair.shape.subsampling
    step = pieces_at_once * pair.shape.piece * factor
    samples = clip(pair.shape, 3 * pair.shape.piece * factor + rest, seed=rest)
    parts = [pair.features([samples[:step]], MODE_SPEECH)]
    for start in range(step, len(samples), step):
        parts.append(pair.features([samples[start - factor : start + step]], MODE_SPEECH, context=factor))
    assert relative(np.concatenate(parts), pair.expected(samples, MODE_SPEECH)) <= TOLERANCE


def test_a_size_beyond_the_clip_gives_the_steps_that_there_are(pair: Pair) -> None:
    samples = clip(pair.shape, (pair.shape.piece + 5) * pair.shape.subsampling, seed=3)
    feed = {
        "audio_embeds": samples[None], "audio_attention_mask": np.ones((1, len(samples)), bool),
        "audio_sizes": np.array([2 * pair.shape.piece], np.int64),
        "audio_projection_mode": np.array([MODE_SPEECH], np.int64),
    }
    (features,) = pair.session.run(["audio_features"], feed)
    assert relative(features, pair.expected(samples, MODE_SPEECH)) <= TOLERANCE
