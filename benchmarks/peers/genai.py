"""onnxruntime-genai: its model builder and its generator, each as it comes but for the number of threads.

The builder holds the whole model in memory, 6.8 bytes a parameter: Phi-4-mini does not fit into 24 GB. Deeper models
are therefore built in slices of some layers, which genai_layers.py puts together: same nodes, same weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from . import layers
from .genai_layers import join
from .peer import Command, Conversion, Pause, Peer, call, go_on

_FIRST, _SLICE = 2, 6  # layers at a time; the first slice has embedding and head, which take as much as six layers
_OPTIONS = {"default": (), "best": ("block_size=128", "prune_lm_head=true")}


class _Engine:
    def __init__(self, model: Path, threads: int, context: int) -> None:
        import onnxruntime_genai

        self._api = onnxruntime_genai
        config = onnxruntime_genai.Config(str(model))
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = onnxruntime_genai.Model(config)
        self._tokenizer = onnxruntime_genai.Tokenizer(self._model)  # an application loads it too

    def answer(self, tokens: Sequence[int], steps: int, pause: Pause = go_on) -> list[float]:
        begun = time.perf_counter()
        parameters = self._api.GeneratorParams(self._model)
        parameters.set_search_options(max_length=len(tokens) + steps + 1, do_sample=False)
        generator = self._api.Generator(self._model, parameters)
        generator.append_tokens(list(tokens))
        seconds = []
        for _ in range(1 + steps):
            generator.generate_next_token()
            seconds.append(time.perf_counter() - begun)
            pause()
            if generator.is_done():
                break
            begun = time.perf_counter()
        return seconds


def _convert(conversion: Conversion) -> Sequence[Command]:
    if conversion.layers <= _FIRST + _SLICE:
        return [_build(conversion, conversion.checkpoint, conversion.target, first=True)]
    commands: list[Command] = []
    parts = []
    for start in (0, *range(_FIRST, conversion.layers, _SLICE)):
        # the checkpoint of the next slice takes the place of this one's
        piece, part = conversion.scratch / "layers", conversion.scratch / f"graph-{start}"
        count = min(_SLICE, conversion.layers - start) if start else _FIRST
        commands += [
            call("genai", "take", checkpoint=str(conversion.checkpoint), target=str(piece), first=start, layers=count),
            _build(conversion, piece, part, first=start == 0),
        ]
        parts.append(str(part))
    return [*commands, call("genai", "join", parts=parts, target=str(conversion.target))]


def _build(conversion: Conversion, checkpoint: Path, target: Path, *, first: bool) -> Command:
    """The builder's command. Embedding and head are built once: they are the largest tensors of all."""
    options = ("hf_token=false", *_OPTIONS[conversion.variant])
    without = () if first else ("exclude_embeds=true", "exclude_lm_head=true")
    return (
        "-m", "onnxruntime_genai.models.builder", "-m", "checkpoint", "-i", str(checkpoint), "-o", str(target), "-p",
        "int4", "-e", "cpu", "-c", str(conversion.scratch / "cache"), "--extra_options", *options, *without,
    )


PEER = Peer(
    name="genai",
    title="onnxruntime-genai",
    requirements=(
        "onnxruntime-genai==0.18.0", "onnxruntime>=1.31,<1.33", "onnx", "onnx_ir", "torch==2.13.0",
        "transformers==5.24.0",
    ),
    environment={},
    variants={
        "default": "the builder's default: INT4 in blocks of 32, logits of all rows",
        "best": "block_size=128, prune_lm_head=true",
    },
    convert=_convert,
    open=_Engine,
    verbs={"take": layers.take, "join": join},
    note=(
        f"A model of more than {_FIRST + _SLICE} layers was exported in slices: at once the builder holds 6.8 bytes a"
        " parameter in memory, 26 GB for Phi-4-mini."
    ),
)
