"""llama.cpp through llama-cpp-python, compiled for this processor. Its defaults, but for the number of threads.

GGUF is written with the `gguf` package: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Sequence
from pathlib import Path

from . import layers
from .peer import Command, Conversion, Pause, Peer, call, go_on

_BATCH = 512  # tokens a call, llama.cpp's own default
_TYPES = {"Q4_0": 2, "Q4_K_M": 15}  # llama_ftype


class _Engine:
    def __init__(self, model: Path, threads: int, context: int) -> None:
        import llama_cpp
        import numpy as np

        self._np, self._api = np, llama_cpp
        self._llama = llama_cpp.Llama(
            str(model / "model.gguf"), n_ctx=context, n_threads=threads, n_threads_batch=threads, n_batch=_BATCH,
            verbose=False,
        )
        self._context = self._llama.ctx

    def answer(self, tokens: Sequence[int], steps: int, pause: Pause = go_on) -> list[float]:
        begun = time.perf_counter()
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        for start in range(0, len(tokens), _BATCH):
            self._decode(tokens[start : start + _BATCH])
        seconds = []
        for _ in range(steps):
            token = self._choose()
            seconds.append(time.perf_counter() - begun)
            pause()
            begun = time.perf_counter()
            self._decode([token])
        self._choose()
        seconds.append(time.perf_counter() - begun)
        pause()
        return seconds

    def _decode(self, tokens: Sequence[int]) -> None:
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        status = self._api.llama_decode(self._context, self._api.llama_batch_get_one(ids, len(tokens)))
        if status:
            raise RuntimeError(f"llama_decode ended with {status}")

    def _choose(self) -> int:
        logits = self._api.llama_get_logits_ith(self._context, -1)
        return int(self._np.ctypeslib.as_array(logits, (self._llama.n_vocab(),)).argmax())


def _quantize(source: str, target: str, kind: str, threads: int) -> None:
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = _TYPES[kind], threads
    Path(target).parent.mkdir()
    status = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
    if status:
        raise RuntimeError(f"llama_model_quantize ended with {status}")


def _write_gguf(checkpoint: str, target: str) -> None:
    """Write a Phi3ForCausalLM as bfloat16 GGUF, norms as float32."""
    import gguf
    import numpy as np

    folder = Path(checkpoint)
    config = layers.config(folder)
    writer = gguf.GGUFWriter(target, "phi3", use_temp_file=False)
    _describe(writer, config)
    _write_vocabulary(writer, folder, config["vocab_size"])
    rotary = int(config["hidden_size"] // config["num_attention_heads"] * config["partial_rotary_factor"])
    for name in ("long", "short"):
        factors = np.array((config["rope_scaling"] or {}).get(f"{name}_factor", [1.0] * (rotary // 2)), np.float32)
        writer.add_tensor(f"rope_factors_{name}.weight", factors)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.PHI3, config["num_hidden_layers"])
    for name, bits in layers.bits(folder):
        renamed = names.get_name(name, try_suffixes=(".weight",))
        if bits.ndim == 1:
            writer.add_tensor(renamed, (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(renamed, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer, config) -> None:  # type: ignore[no-untyped-def]  # a class of a package that is not here
    head = config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(int(head * config["partial_rotary_factor"]))
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_sliding_window(0)
    writer.add_file_type(32)  # LLAMA_FTYPE_MOSTLY_BF16


def _write_vocabulary(writer, folder: Path, size: int) -> None:  # type: ignore[no-untyped-def]  # likewise
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [5] * size  # unused
    for text, number in tokenizer["model"]["vocab"].items():
        tokens[number], kinds[number] = text, 1  # normal
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], 3  # control
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # the stand-in of a random checkpoint has none, and llama.cpp loads no file without
    writer.add_token_merges(merges or [" ".join(tokens[:2])])


def _convert(conversion: Conversion) -> Sequence[Command]:
    plain = str(conversion.scratch / "bf16.gguf")
    return [
        call("llama_cpp", "gguf", checkpoint=str(conversion.checkpoint), target=plain),
        call(
            "llama_cpp", "quantize", source=plain, target=str(conversion.target / "model.gguf"),
            kind=conversion.variant, threads=conversion.threads,
        ),
    ]


PEER = Peer(
    name="llama_cpp",
    title="llama.cpp",
    requirements=("llama-cpp-python==0.3.36", "gguf==0.19.0"),
    environment={"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"},
    variants={"Q4_K_M": "Q4_K_M", "Q4_0": "Q4_0, head Q6_K"},
    convert=_convert,
    open=_Engine,
    verbs={"gguf": _write_gguf, "quantize": _quantize},
)
