"""One question about a picture or a recording, in a process of its own: what it costs in time and memory, as JSON.

    python -m edgephi.benchmarks.media_answer BUNDLE CASE [--threads N]

Boundary: knows one loaded bundle; which bundles and cases are measured is media_latency.py's. Linux only: memory is
read from /proc. What is shown and said is made here, from noise: times do not depend on what it is.
"""

from __future__ import annotations

import io
import json
import re
import time
import wave
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

import edgephi

from . import processes
from .options import threads_option

RATE = 16_000
SYLLABLES = 4.0  # a second: how fast people speak
TOKENS_PER_SECOND = 4  # of a transcript; English speech has 3 to 4
ANSWER_TOKENS = 16
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ +(/.*)$")

Part = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A kind of question: `medium` makes another one from every seed; `seconds` of sound; tokens of the `answer`."""

    medium: Callable[[int], Part] | None
    seconds: float | None
    answer: int


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process in bytes: all of it, its anonymous and its file-backed part, and for each file of
    the bundle that is mapped how much of the mapping is resident.
    """

    resident: int
    anonymous: int
    file_backed: int
    mapped: Mapping[str, int]


@dataclass(frozen=True)
class Answer:
    """What one process measured; seconds, bytes, tokens per second.

    `first` is the time to the first token of the process's first question, which opens the graphs that it needs;
    everything else is of the second question, about another medium of the same size. `processor` is the processor time
    to its first token, of all threads: other programs lengthen it little. `preparing` is the part of its time to the
    first token before the decoder reads the prompt: decoding, scaling or spectra, and encoding.
    `real_time_factor` is the time from the question to the end of an answer of TOKENS_PER_SECOND tokens for each second
    of sound, over the length of the sound.
    """

    case: str
    prompt_tokens: int
    answer_tokens: int
    load_seconds: float
    first: float
    time_to_first_token: float
    processor: float
    preparing: float
    prefill_rate: float
    decode_rate: float | None
    real_time_factor: float | None
    threads: int
    graphs: tuple[str, ...]
    memory: Memory
    memory_without_encoders: Memory
    peak_resident: int


def picture(side: int, seed: int) -> Part:
    """A square photograph of `side` pixels as a JPEG file: smooth noise."""
    small = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return {"type": "image", "image": file.getvalue()}


def speech(seconds: float, seed: int) -> Part:
    """A WAV file of `seconds`: noise that swells and fades as often as syllables do."""
    count = round(seconds * RATE)
    loudness = 0.1 * np.sin(np.pi * SYLLABLES * np.arange(count) / RATE) ** 2
    samples = loudness * np.random.default_rng(seed).standard_normal(count)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return {"type": "audio", "audio": file.getvalue()}


def _picture_case(side: int) -> Case:
    return Case(lambda seed: picture(side, seed), None, ANSWER_TOKENS)


def _speech_case(seconds: float) -> Case:
    return Case(lambda seed: speech(seconds, seed), seconds, round(seconds * TOKENS_PER_SECOND))


CASES = {
    "text": Case(None, None, ANSWER_TOKENS),
    "picture of 448×448": _picture_case(448), "picture of 1344×1344": _picture_case(1344),
    "10 s of speech": _speech_case(10.0), "60 s of speech": _speech_case(60.0),
}


def measure(bundle: Path, name: str, threads: int | None) -> Answer:
    """Ask two questions of the kind `name` and note what they cost. Raises what `load` and `Session.stream` raise.

    Without a cache of earlier prompts: its share of memory says nothing of the bundle.
    """
    case = CASES[name]
    started = time.perf_counter()
    with edgephi.load(bundle, threads=threads, prefix_cache=False) as session:
        loaded = time.perf_counter() - started
        first, _ = _ask(session, case, 1, 1)
        asked = time.perf_counter()
        usage, processor = _ask(session, case, 2, case.answer)
        seconds = time.perf_counter() - asked
        graphs, memory = session.loaded, read_memory(bundle)
        session.release_encoders()
        released = read_memory(bundle)
        assert first.time_to_first_token is not None
        assert usage.time_to_first_token is not None and usage.prefill_rate is not None
        reading = (usage.prompt_tokens - usage.cached_tokens) / usage.prefill_rate
        return Answer(
            name, usage.prompt_tokens, usage.completion_tokens, loaded, first.time_to_first_token,
            usage.time_to_first_token, processor, usage.time_to_first_token - reading, usage.prefill_rate,
            usage.decode_rate, None if case.seconds is None else seconds / case.seconds, usage.threads, graphs, memory,
            released, usage.peak_memory,
        )


def _ask(session: edgephi.Session, case: Case, seed: int, tokens: int) -> tuple[edgephi.Usage, float]:
    """What the answer cost, and the processor time to its first token.

    Nothing is guessed ahead: what a random model repeats would make it look fast.
    """
    words = {"type": "text", "text": f"{seed}. Say what this is."}  # nothing of it is known from the question before
    content = [words] if case.medium is None else [case.medium(seed), words]
    started = time.process_time()
    pieces = session.stream([{"role": "user", "content": content}], max_tokens=tokens, temperature=0, draft=False)
    next(pieces)
    processor = time.process_time() - started
    *_, last = pieces
    assert last.usage is not None
    return last.usage, processor


def read_memory(bundle: Path) -> Memory:
    """What of this process is in memory now."""
    sizes = processes.memory()
    inside = f"{bundle.resolve()}/"
    mapped: dict[str, int] = {}
    name = None
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        if not line[0].isupper():
            found = _MAPPING.match(line)
            path = found[1] if found is not None else ""
            name = path.removeprefix(inside) if path.startswith(inside) else None
        elif name is not None and line.startswith("Rss:"):
            mapped[name] = mapped.get(name, 0) + int(line.split()[1]) * 1024
    return Memory(sizes["VmRSS"], sizes["RssAnon"], sizes["RssFile"], dict(sorted(mapped.items())))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("case", type=click.Choice(list(CASES)))
@threads_option
def main(bundle: Path, case: str, threads: int | None) -> None:
    """Ask BUNDLE a question and print what it cost."""
    click.echo(json.dumps(asdict(measure(bundle, case, threads))))


if __name__ == "__main__":
    main()
