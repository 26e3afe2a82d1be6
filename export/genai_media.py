"""What onnxruntime-genai needs on top for its model type `phi4mm`: sections of its configuration, processor settings.

Boundary: settings only. The preprocessing that they ask for is genai's own; its image and audio placeholders are fixed
to the published ids. Of the decoders it takes one; the one with the adapter for images is named here, and an
application that sends speech or text alone overlays `model.decoder.filename` with `text-speech.onnx` or `model.onnx`.
"""

from __future__ import annotations

import json
from typing import Any

from ..runtime.manifest import Manifest, Pictures
from . import signatures as names

TYPE = "phi4mm"
DECODER = "text-vision"
VISION_PROCESSOR, SPEECH_PROCESSOR = "vision_processor.json", "speech_processor.json"


def is_known(manifest: Manifest) -> bool:
    """Whether genai has a model type for the encoders of the bundle; of others it gets the decoder alone."""
    return DECODER in manifest.graphs


def sections(manifest: Manifest) -> dict[str, Any]:
    """`embedding`, `vision` and `speech` of the section `model`."""
    return {
        "embedding": {
            "filename": manifest.graphs["embedding"].file,
            "inputs": {
                "input_ids": names.INPUT_IDS,
                "image_features": names.IMAGE_FEATURES,
                "audio_features": names.AUDIO_FEATURES,
            },
            "outputs": {"inputs_embeds": names.INPUTS_EMBEDS},
        },
        "vision": {
            "filename": manifest.graphs["vision"].file,
            "config_filename": VISION_PROCESSOR,
            "inputs": {
                "pixel_values": names.PIXEL_VALUES,
                "attention_mask": names.IMAGE_ATTENTION_MASK,
                "image_sizes": names.IMAGE_SIZES,
            },
            "outputs": {"image_features": names.IMAGE_FEATURES},
        },
        "speech": {
            "filename": manifest.graphs["speech"].file,
            "config_filename": SPEECH_PROCESSOR,
            "inputs": {
                "audio_embeds": names.AUDIO_EMBEDS,
                "attention_mask": names.AUDIO_ATTENTION_MASK,
                "audio_sizes": names.AUDIO_SIZES,
                "audio_projection_mode": names.AUDIO_PROJECTION_MODE,
            },
            "outputs": {"audio_features": names.AUDIO_FEATURES},
        },
    }


def processors(manifest: Manifest) -> dict[str, bytes]:
    """File name → settings of genai's preprocessing for the bundle's encoders."""
    assert manifest.pictures is not None
    return {VISION_PROCESSOR: _bytes(_vision(manifest.pictures)), SPEECH_PROCESSOR: _bytes(_speech())}


def _vision(pictures: Pictures) -> dict[str, Any]:
    """Up to 36 crops, normalized to -1 … 1, and a view of the whole."""
    normalized = {"mean": [0.5] * 3, "std": [0.5] * 3}
    crops = {"dynamic_hd": pictures.maximum, "dyhd_base_resolution": pictures.side}
    steps: list[tuple[str, str, list[str], dict[str, Any]]] = [
        ("decode_image", "DecodeImage", [], {"color_space": "RGB"}),
        ("phi4_vision_dynamic_preprocess", "Phi4VisionDynamicPreprocess", [], crops),
        ("rescale", "Rescale", [":0"], {}),
        ("normalize", "Normalize", [], normalized),
        (
            "phi4_vision_processor", "Phi4VisionProcessor", [":0", "phi4_vision_dynamic_preprocess:1"],
            {"dyhd_base_resolution": pictures.side, "interpolation": "CUBIC"},
        ),
    ]
    return {"processor": {
        "name": "phi_4_image_processor", "transforms": [_operation(*step) for step in steps],
        "output_aligner": "phi4-vision-aligner",
    }}


def _speech() -> dict[str, Any]:
    """80 mel bins every 10 ms of audio at 16 kHz, or at 8 kHz with half the window."""
    settings: dict[str, Any] = {"audio_compression_rate": 8}
    for suffix, window, frame, hop in (("", 512, 400, 160), ("_8k", 256, 200, 80)):
        settings |= {
            f"stft_normal{suffix}/n_fft": window, f"stft_normal{suffix}/frame_length": frame,
            f"stft_normal{suffix}/hop_length": hop, f"stft_normal{suffix}/win_fn": "hamming",
            f"logmel{suffix}/chunk_size": 30, f"logmel{suffix}/hop_length": hop, f"logmel{suffix}/n_fft": 512,
            f"logmel{suffix}/n_mel": 80, f"logmel{suffix}/feature_first": 0, f"logmel{suffix}/no_padding": 1,
        }
    steps: list[tuple[str, str, list[str], dict[str, Any]]] = [
        ("audio_decoder", "AudioDecoderEx", [], {"target_sample_rates": [8000, 16000]}),
        ("phi_4_audio_embed", "Phi4AudioEmbed", [], settings),
    ]
    return {"feature_extraction": {
        "sequence": [_operation(*step) for step in steps], "output_aligner": "phi4-audio-aligner",
    }}


def _operation(name: str, kind: str, inputs: list[str], attributes: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {"name": name, "type": kind}
    settings |= {"inputs": inputs} if inputs else {}
    return {"operation": settings | ({"attrs": attributes} if attributes else {})}


def _bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
