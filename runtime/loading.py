"""From a bundle folder to a session.

Boundary: checks the folder and puts the parts of a session together; answers no prompt.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from . import int8_cache, prepacked
from .chat import ChatTemplate
from .encoder_devices import choose_encoders
from .errors import RequestError
from .fit import require_memory
from .graphs import Interrupt
from .manifest import Manifest, read_manifest, verify_files
from .memory import available_memory
from .model import TEXT, TEXT_INT8_CACHE, Model
from .prefix_cache import PrefixCache, find
from .prompt import PromptReader
from .providers.provider import Provider
from .rotary import RotaryTables
from .sampling import is_whole
from .selection import choose
from .session import Session
from .tokens import Tokenizer

HASHED_BYTES = 64 << 20  # larger files are weights: loading checks their size, `edgephi verify` their hash
MAXIMUM_THREADS = 1024
CACHES = ("float", "int8")  # of keys and values
TRIAL_PROMPT, TRIAL_ANSWER = 64, 16  # tokens that devices are compared by


def load(
    bundle: str | Path, *, device: str = "cpu", vision_device: str | None = None, speech_device: str | None = None,
    threads: int | None = None, context: int | None = None,
    prefix_cache: PrefixCache | str | Path | bool | None = None, mapped: bool = False, allow_oversized: bool = False,
    kv: str = "float",
) -> Session:
    """Open a bundle folder.

    `device` is a name of `edgephi.runtime.providers`; "npu" or "gpu" for one of that kind; or "auto" for the fastest of
    all that are there, found out the first time with a few tokens and remembered. `Session.device` and
    `Session.device_reason` say which one it is and why, `Session.left_to_cpu` what it does not compute itself.
    `vision_device`, `speech_device`: what encodes pictures and recordings, in the same words; None for the same device,
    and for the CPU where that one does not take the encoder, which is logged and said in `Session.encoder_devices`.
    `threads`: None for one on each physical core. `context`: the longest conversation in tokens; None for all that
    the model has, where a LongRoPE model computes a conversation again when it outgrows its original length; a number
    for one rotary table from the first token on. Sizes of all files and hashes of all but the weights are checked.

    `prefix_cache` keeps what was read of prompts and media, so that it is not read again: None in memory, for all
    sessions of this process; True in the user's cache folder as well, and a path in that folder, where it outlives the
    process and is as private as the prompts; False not at all; or a PrefixCache with bounds of its own.

    `mapped`: take the weights from a file in the user's cache folder that is made for this processor the first time,
    1.8 to 2.4 times the bundle. Sessions and processes share its pages, and a system short of memory drops them instead
    of swapping; answers and speed are the same. `allow_oversized`: load although memory for `context` tokens, or for
    the shortest conversation where that is None, is not free.

    `kv`: "int8" keeps keys and values as INT8, a quarter of their memory and half of the time that attention takes for
    a token, with scales that are measured the first time and kept; answers differ a little. For bundles that take text
    alone, without adapters.

    Raises BundleError, ProviderUnavailable, RequestError, NotEnoughMemory.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    if threads is not None and not (is_whole(threads) and 1 <= threads <= MAXIMUM_THREADS):
        raise RequestError(f"threads is {threads!r}; allowed is a whole number from 1 to {MAXIMUM_THREADS}, or None")
    if kv not in CACHES:
        raise RequestError(f"kv is {kv!r}; allowed are {', '.join(CACHES)}")
    tables = RotaryTables.open(folder, manifest.text, context)
    verify_files(folder, manifest, below=HASHED_BYTES)
    if not (allow_oversized or mapped):  # before devices are compared
        require_memory(manifest, context, available_memory(), kv)
    choice = choose(device, manifest, lambda candidate: _seconds(folder, manifest, candidate, tables))
    parts = choose_encoders(folder, manifest, choice, {"vision": vision_device, "speech": speech_device})
    provider = choice.provider
    prepared = _folder_to_map(manifest, kv, provider, context, allow_oversized) if mapped else None
    chosen = threads or provider.default_threads()
    with ThreadPoolExecutor(max_workers=1) as pool:  # a large vocabulary takes as long as some of the weights
        text = pool.submit(_open_text, folder, manifest, tables.context)
        calibration = None if kv == "float" else lambda: text.result()[0].encode_text(int8_cache.CALIBRATION_TEXT)
        model = Model(folder, manifest, provider, chosen, tables, find(prefix_cache), prepared, parts, calibration)
    try:
        tokenizer, reader = text.result()
    except BaseException:
        model.close()
        raise
    if model.form_note is not None:
        choice = replace(choice, reason=f"{choice.reason}; {model.form_note}")
    return Session(manifest, choice, chosen, tokenizer, reader, model)


def _folder_to_map(
    manifest: Manifest, kv: str, provider: Provider, context: int | None, allow_oversized: bool
) -> Path:
    """Where weights to be mapped are kept. Raises RequestError, and NotEnoughMemory to prepare them."""
    if not provider.maps_weights:
        raise RequestError(f"device {provider.name!r} maps no weights: load without mapping (--mapped)")
    prepared = prepacked.default_folder()
    if not allow_oversized:
        decoder = TEXT if kv == "float" else TEXT_INT8_CACHE
        ready = decoder in manifest.graphs and prepacked.find(manifest, decoder, provider, prepared) is not None
        require_memory(manifest, context, available_memory(), kv, mapped=ready)
    return prepared


def _open_text(folder: Path, manifest: Manifest, context: int) -> tuple[Tokenizer, PromptReader]:
    """Everything between text and ids."""
    tokenizer = Tokenizer.open(folder)
    template = ChatTemplate.open(folder, tokenizer.controls)
    vocabulary = manifest.text.vocab_size
    return tokenizer, PromptReader(tokenizer, template, vocabulary, manifest.tokens, manifest.pictures, context)


def _seconds(folder: Path, manifest: Manifest, provider: Provider, tables: RotaryTables) -> float:
    """How long a device takes for a short prompt and a short answer, once it is warm."""
    model = Model(folder, manifest, provider, provider.default_threads(), tables, find(False))
    try:
        interrupt, prompt = Interrupt(), [0] * max(1, min(TRIAL_PROMPT, tables.context - TRIAL_ANSWER))
        model.decoder.advance(prompt, interrupt)
        model.decoder.clear()
        started = time.perf_counter()
        model.decoder.advance(prompt, interrupt)
        for _ in range(min(TRIAL_ANSWER, tables.context - len(prompt))):
            model.decoder.append(0, interrupt)
        return time.perf_counter() - started
    finally:
        model.close()
