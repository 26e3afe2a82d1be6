"""One loaded bundle in a process of its own: what loading and one answer cost in time and memory, as JSON.

    python -m edgephi.benchmarks.session_answer BUNDLE [--prompt N] [--answer N] [--threads N] [--mapped] [--image SIDE]

Boundary: knows one bundle; which ones are measured is session_cost.py's. Linux only: memory is read from /proc. Every
time is noted twice: as wall time, and as processor time, which does not count what other programs do meanwhile and is
comparable where one thread computes.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click

import edgephi
from edgephi.runtime.errors import RequestError
from edgephi.runtime.prompt import Prompt

from . import processes
from .media_answer import picture

SEEDS = 16  # prompts to try until an answer is as long as asked for


@dataclass(frozen=True)
class Moment:
    """Seconds on two clocks."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Moment:
        """Both clocks."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Moment) -> Moment:
        return Moment(self.wall - other.wall, self.processor - other.processor)


@dataclass(frozen=True)
class Resident:
    """Bytes in memory: anonymous pages and pages of files, which a system may drop."""

    anonymous: int
    file_backed: int

    @classmethod
    def now(cls) -> Resident:
        """Of this process."""
        sizes = processes.memory()
        return cls(sizes["RssAnon"], sizes["RssFile"])


@dataclass(frozen=True)
class Answer:
    """What one process measured. `peak` is the largest resident set since the bundle was loaded, `loading_peak` that
    of loading; `decode` is the time of the tokens behind the first, `decode_rate` what the session says of them: tokens
    a second of the model's own time.
    """

    prompt_tokens: int
    answer_tokens: int
    threads: int
    load: Moment
    first_token: Moment
    decode: Moment
    decode_rate: float
    loading_peak: int
    loaded: Resident
    answered: Resident
    peak: int
    graphs: tuple[str, ...]


def measure(
    bundle: Path, prompt: int, answer: int, threads: int | None, *, mapped: bool = False, image: int | None = None
) -> Answer:
    """Load a bundle and let it answer once; `image`: about a picture of so many pixels a side, instead of `prompt`
    random tokens. A model that ends its answer early is asked again, otherwise. Raises what `load` and `Session.stream`
    raise.
    """
    started = Moment.now()
    with edgephi.load(bundle, threads=threads, mapped=mapped) as session:
        load, loading_peak, loaded = Moment.now() - started, processes.memory()["VmHWM"], Resident.now()
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        for seed in range(SEEDS):
            usage, first, decode = _ask(session, _question(session, prompt, image, seed), answer)
            if usage.completion_tokens == answer:
                break
        if usage.decode_rate is None:
            raise RequestError(f"{bundle} ends every answer at once: nothing can be said of its speed")
        return Answer(
            usage.prompt_tokens, usage.completion_tokens, session.threads, load, first, decode, usage.decode_rate,
            loading_peak, loaded, Resident.now(), processes.memory()["VmHWM"], session.loaded,
        )


def _ask(session: edgephi.Session, question: Prompt, answer: int) -> tuple[edgephi.Usage, Moment, Moment]:
    """What an answer cost, the time to its first token, and that of the others.

    Nothing is guessed ahead: what a random model repeats would make it look fast.
    """
    session.clear()
    asked = last = Moment.now()
    first, usage = None, None
    for piece in session.stream(question, max_tokens=answer, temperature=0, draft=False):
        if piece.token_id is not None:
            last = Moment.now()
            first = first or last
        usage = piece.usage
    assert first is not None and usage is not None
    return usage, first - asked, last - first


def _question(session: edgephi.Session, prompt: int, image: int | None, seed: int) -> Prompt:
    if image is None:
        return _ids(session, prompt, seed)
    return [{"role": "user", "content": [picture(image, seed), {"type": "text", "text": "Say what this is."}]}]


def _ids(session: edgephi.Session, length: int, seed: int) -> list[int]:
    """The same tokens for the same seed, none of which ends an answer or stands for a medium."""
    tokens = session.manifest.tokens
    never = {*tokens.eos, *tokens.placeholders.values()}
    allowed = [token for token in range(session.manifest.text.vocab_size) if token not in never]
    return random.Random(seed).choices(allowed, k=length)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt", default=512, type=click.IntRange(min=1))
@click.option("--answer", default=32, type=click.IntRange(min=2))
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--mapped", is_flag=True)
@click.option("--image", type=click.IntRange(min=1))
def main(bundle: Path, prompt: int, answer: int, threads: int | None, mapped: bool, image: int | None) -> None:
    """Print what BUNDLE costs."""
    click.echo(json.dumps(asdict(measure(bundle, prompt, answer, threads, mapped=mapped, image=image))))


if __name__ == "__main__":
    main()
