"""Many clients at once on one server, for a long time: is every answer right, does memory stay flat, does it end well?

Boundary: runs `edgephi serve` in a process of its own, as a user would, and looks at it from outside: by HTTP, by
signals, and through /proc. The clients are load_clients.py.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgephi.demo.showcase import conversation
from edgephi.demo.tasks import TASKS, held_out
from edgephi.runtime.errors import RequestError
from edgephi.runtime.loading import load

from . import machine, processes
from .load_clients import PATIENCE, SHOWN, Client, Talk, Tally, stream_chunks

RESULTS_NAME = "load.json"
TABLE_NAME = "load.md"
MODEL = "model"
SECONDS_TO_END = 20.0  # the server gives answers in progress 5 s; what is beyond is too much
CACHE_MIB = 32  # small, so that it is full within the first quarter of the time
OPEN_STREAMS = 8
_LONGEST = 64  # tokens of an expected answer; longer ones would be mostly waiting


@dataclass(frozen=True)
class Sample:
    """The server at one moment: resident bytes, open files, threads, seconds that its /health took to answer."""

    resident: int
    files: int
    threads: int
    health_seconds: float


@dataclass(frozen=True)
class Load:
    """What came of it. Times are seconds, sizes bytes; `…_p50` and `…_p95` are percentiles.

    `early_resident` and `late_resident` are medians over the second and the last quarter of the time. `open_streams`
    were in progress when the server was told to end; `ended_streams` of them were told so.
    """

    clients: int
    places: int
    seconds: float
    right: int
    wrong: int
    lost: int
    refused: int
    refused_without_advice: int
    left: int
    left_behind: int
    first_token_p50: float
    first_token_p95: float
    answer_p50: float
    answer_p95: float
    health_p95: float
    early_resident: int
    late_resident: int
    early_files: int
    late_files: int
    early_threads: int
    late_threads: int
    open_streams: int
    ended_streams: int
    seconds_to_end: float
    exit_code: int
    mistakes: tuple[str, ...]
    load_before: float
    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]


def expected_talks(bundle: Path, count: int, threads: int | None, seed: int) -> list[Talk]:
    """`count` conversations of two turns about the demo's tasks, answered by a session that nobody else asks.

    No two answers are the same, so that one client's can never pass for another's.
    """
    pool = iter([
        str(turns[-1]["content"])
        for examples in zip(*(held_out(task, 4 * count, seed) for task in TASKS), strict=True)
        for turns, tools in map(conversation, examples) if len(turns) == 1 and not tools
    ])
    talks: list[Talk] = []
    known: set[str] = set()
    with load(bundle, threads=threads) as session:
        while len(talks) < count:
            turns: list[dict[str, str]] = []
            for question in (next(pool), next(pool)):
                turns.append({"role": "user", "content": question})
                reply = session.chat(turns, temperature=0, max_tokens=_LONGEST)
                if reply.finish_reason != "stop" or reply.text in known:
                    break
                turns.append({"role": "assistant", "content": reply.text})
            else:
                said = [turn["content"] for turn in turns]
                if said[1] != said[3]:
                    talks.append(Talk((said[0], said[2]), (said[1], said[3])))
                    known |= {said[1], said[3]}
    return talks


def measure(
    bundle: Path, clients: int, seconds: float, *, places: int, talks: int, threads: int | None, seed: int
) -> Load:
    """Load a server of `bundle` with `clients` for `seconds`, then end it. Raises RequestError if it does not start."""
    load_before = os.getloadavg()[0]
    known = expected_talks(bundle, talks, threads, seed)
    tally, samples = Tally(), list[Sample]()
    with serving(bundle, threads, "--max-queue", str(places), "--cache-ram", str(CACHE_MIB)) as (process, port):
        crowd = [Client(number, port, MODEL, known, tally, seed) for number in range(clients)]
        for client in crowd:
            client.start()
        ends = time.monotonic() + seconds
        while (remaining := ends - time.monotonic()) > 0 and process.poll() is None:
            samples.append(_sample(process.pid, port))
            time.sleep(min(1.0, remaining))
        for client in crowd:
            client.stop()
        for client in crowd:
            client.join(PATIENCE)
        left_behind = _left_behind(port)
        streams = min(OPEN_STREAMS, places)
        ended, seconds_to_end, code = _end_with_open_streams(process, port, streams)
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    return Load(
        clients, places, seconds, tally.right, len(tally.wrong), len(tally.lost), tally.refused,
        tally.refused_without_advice, tally.left, left_behind,
        *_percentiles(tally.first_seconds), *_percentiles(tally.seconds),
        _percentiles([sample.health_seconds for sample in samples])[1],
        _median(early, "resident"), _median(late, "resident"), _median(early, "files"), _median(late, "files"),
        _median(early, "threads"), _median(late, "threads"),
        streams, ended, round(seconds_to_end, 2), code, tuple((tally.wrong + tally.lost)[:SHOWN]),
        round(load_before, 2), datetime.now(UTC).date().isoformat(), machine.describe(), machine.versions(),
    )


@contextmanager
def serving(bundle: Path, threads: int | None, *further: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of `bundle` as MODEL, and its port; `further` options of the verb. Raises RequestError."""
    command = [
        sys.executable, "-m", "edgephi", "serve", f"{MODEL}={bundle}", "--port", "0", "--json", "--quiet", "--preload",
        *further, *(() if threads is None else ("--threads", str(threads))),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            told = process.stdout.readline() if process.stdout is not None else ""
            if not told:
                raise RequestError("the server did not start: its message is above")
            yield process, int(json.loads(told)["url"].split(":")[2].partition("/")[0])
        finally:
            if process.poll() is None:
                process.kill()


def _sample(pid: int, port: int) -> Sample:
    resident = processes.memory(pid)["VmRSS"]
    files, threads = (len(list(Path(f"/proc/{pid}/{kind}").iterdir())) for kind in ("fd", "task"))
    started = time.monotonic()
    _health(port)
    return Sample(resident, files, threads, time.monotonic() - started)


def _health(port: int) -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/health")
        told: dict[str, object] = json.loads(connection.getresponse().read())["models"][MODEL]
        return told
    finally:
        connection.close()


def _left_behind(port: int) -> int:
    """Requests that the server still works on although every client is gone: after a while, none should be left."""
    left = 1
    for _ in range(50):
        told = _health(port)
        left = int(str(told["waiting"])) + bool(told["busy"])
        if not left:
            break
        time.sleep(0.1)
    return left


def _end_with_open_streams(process: subprocess.Popen[str], port: int, streams: int) -> tuple[int, float, int]:
    """Open some streams, send SIGTERM in their midst: streams that were told their end, seconds to it, exit code."""
    begun, ended = threading.Semaphore(0), list[bool]()

    def read(user: str) -> None:
        # Many prompts in one request: longer than the server's patience.
        body = {"model": MODEL, "prompt": ["Once"] * 64, "max_tokens": 2000, "temperature": 1.5, "stream": True}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body | {"user": user}), {
                "content-type": "application/json"
            })
            response = connection.getresponse()
            if response.status == 503:  # it was still waiting for its turn
                ended.append("error" in json.loads(response.read()))
                return
            for chunk in stream_chunks(response):
                begun.release()
                if "error" in chunk:
                    break
            ended.append(True)
        except (OSError, ValueError, http.client.HTTPException):
            pass  # its stream broke off: it is not counted
        finally:
            begun.release()
            connection.close()

    readers = [threading.Thread(target=read, args=(f"reader-{number}",)) for number in range(streams)]
    for reader in readers:
        reader.start()
    begun.acquire(timeout=PATIENCE)
    time.sleep(1.0)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        code = -signal.SIGKILL
        process.kill()
    seconds = time.monotonic() - told
    for reader in readers:
        reader.join(PATIENCE)
    return sum(ended), seconds, code


def write(load: Load, results: Path) -> None:
    """Write load.json and load.md into the folder `results`."""
    results.mkdir(parents=True, exist_ok=True)
    (results / RESULTS_NAME).write_text(json.dumps(asdict(load), indent=2) + "\n", encoding="utf-8")
    (results / TABLE_NAME).write_text(table(load), encoding="utf-8")


def table(load: Load) -> str:
    """The figures as Markdown."""
    rows = [
        ("answers read to the end and compared, all as without other clients", load.right),
        ("wrong or mixed answers", load.wrong),
        ("lost answers", load.lost),
        ("answers that the client left", load.left),
        ("requests still worked on after all clients had gone", load.left_behind),
        (f"refused with 429, {load.places} places in the queue", load.refused),
        ("of these without Retry-After", load.refused_without_advice),
        ("time to the first token, median and 95 %", f"{load.first_token_p50:.2f} s, {load.first_token_p95:.2f} s"),
        ("time to the whole answer, median and 95 %", f"{load.answer_p50:.2f} s, {load.answer_p95:.2f} s"),
        ("time of /health, 95 %", f"{load.health_p95 * 1000:.0f} ms"),
        ("resident memory, second and last quarter", f"{_mib(load.early_resident)}, {_mib(load.late_resident)}"),
        ("open files, second and last quarter", f"{load.early_files}, {load.late_files}"),
        ("threads, second and last quarter", f"{load.early_threads}, {load.late_threads}"),
        (f"streams of {load.open_streams} that were told their end at SIGTERM", load.ended_streams),
        ("time to the end of the process, exit code", f"{load.seconds_to_end:.1f} s, {load.exit_code}"),
    ]
    described = load.machine
    return (
        f"# {load.clients} clients at once\n\n{load.seconds / 60:g} minutes on a bundle of the demo's checkpoint, "
        f"{described['processor']}, {described['processors']} processors, {described['system']}, load "
        f"{load.load_before:.1f} before, {load.date}. Every client asks all the time; a quarter of the streams is left "
        "at a random moment.\n\n| | |\n|---|---|\n"
        + "".join(f"| {name} | {value} |\n" for name, value in rows)
    )


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return round(cuts[9], 3), round(cuts[18], 3)


def _median(samples: Sequence[Sample], name: str) -> int:
    return int(statistics.median(getattr(sample, name) for sample in samples)) if samples else 0


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.0f} MiB"
