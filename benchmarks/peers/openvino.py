"""OpenVINO GenAI: INT4 as optimum-intel exports it, in groups of 128, and the pipeline that applications use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from .peer import Command, Conversion, Pause, Peer, go_on


class _Engine:
    def __init__(self, model: Path, threads: int, context: int) -> None:
        import numpy as np
        import openvino
        import openvino_genai

        self._np, self._openvino, self._api = np, openvino, openvino_genai
        self._pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)

    def answer(self, tokens: Sequence[int], steps: int, pause: Pause = go_on) -> list[float]:
        clock = time.perf_counter
        api = self._api
        seconds: list[float] = []

        class Times(api.StreamerBase):  # type: ignore[misc, name-defined]  # a class of a package that is not here
            """Notes what a token took."""

            def __init__(self) -> None:
                super().__init__()
                self.begun = clock()

            def write(self, tokens: object) -> object:
                seconds.append(clock() - self.begun)
                seconds.extend([0.0] * (len(tokens) - 1 if isinstance(tokens, list) else 0))
                pause()
                self.begun = clock()
                return api.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        config = api.GenerationConfig(max_new_tokens=steps + 1, ignore_eos=True, do_sample=False)
        ids = self._np.array([tokens], self._np.int64)
        tensors = [self._openvino.Tensor(array) for array in (ids, self._np.ones_like(ids))]
        self._pipeline.generate(api.TokenizedInputs(*tensors), config, Times())
        return seconds


def _convert(conversion: Conversion) -> Sequence[Command]:
    return [(
        "-m", "optimum.commands.optimum_cli", "export", "openvino", "-m", str(conversion.checkpoint), "--task",
        "text-generation-with-past", "--weight-format", "int4", "--group-size", "128", str(conversion.target),
    )]


PEER = Peer(
    name="openvino",
    title="OpenVINO GenAI",
    requirements=(
        "openvino==2026.4.1", "openvino-genai==2026.4.1", "openvino-tokenizers==2026.4.1", "optimum-intel==2.2.0",
        "nncf==3.4.0", "torch==2.13.0",
    ),
    environment={},
    variants={"default": "INT4 in groups of 128, head INT8, as optimum-intel chooses"},
    convert=_convert,
    open=_Engine,
    verbs={},
    pauses=False,  # tokens are given out by a thread of their own
    unwanted=("torchvision",),  # a build for another torch than the installed one stops transformers; text needs none
)
