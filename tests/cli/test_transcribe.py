"""`edgephi transcribe`: which recordings are meant, where the text goes, and that one bad file stops nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgephi
from edgephi.runtime.cli.transcribe import FORMATS
from edgephi.runtime.subtitles import FORMATS as WRITERS
from edgephi.runtime.subtitles import to_fields, to_json, to_srt, to_text, to_vtt

Program = Callable[..., Any]
RATE = 8_000


@pytest.fixture(scope="session")
def ears(tiny_multimodal_bundle: Callable[..., Path]) -> Path:
    return tiny_multimodal_bundle()


@pytest.fixture(scope="module")
def phi(ears: Path) -> Iterator[edgephi.Session]:
    with edgephi.load(ears) as session:
        yield session


def record(path: Path, seconds: float, seed: int = 0) -> Path:
    """Noise with pauses, as 16-bit WAV of 8 kHz."""
    draw = np.random.default_rng(seed)
    samples = draw.normal(0, 3000, round(seconds * RATE))
    samples[(np.arange(len(samples)) // (RATE // 2)) % 7 == 6] *= 0.01
    with wave.open(str(path), "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(np.clip(samples, -32768, 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def talks(tmp_path: Path) -> list[Path]:
    """Two recordings with something wrong between them."""
    bad = tmp_path / "b.wav"
    bad.write_bytes(b"RIFF but nothing else")
    return [record(tmp_path / "a.wav", 6, 1), bad, record(tmp_path / "c.wav", 7, 2)]


def test_the_text_is_the_sessions(ears: Path, phi: edgephi.Session, talks: list[Path], program: Program) -> None:
    made = phi.transcribe(talks[0], language="de")
    done = program("transcribe", ears, talks[0], "--language", "German")
    assert done.code == 0 and done.out == to_text(made) and "error" not in done.err
    translated = program("transcribe", ears, talks[0], "--translate", "fr", "--chunk", "5", "--json")
    fields = json.loads(translated.out)
    assert fields == {"file": str(talks[0]), **to_fields(phi.transcribe(talks[0], translate="fr", chunk_seconds=5))}
    assert fields["translated_to"] == "fr" and len(fields["segments"]) == 2


def test_all_formats_are_known() -> None:
    assert tuple(WRITERS) == FORMATS


def test_one_bad_file_does_not_stop_the_rest(
    ears: Path, phi: edgephi.Session, talks: list[Path], program: Program
) -> None:
    done = program("transcribe", ears, *talks)
    texts = [to_text(phi.transcribe(path)) for path in (talks[0], talks[2])]
    assert done.code == 1
    shown = [f"==> {path} <==\n{text}\n" for path, text in zip((talks[0], talks[2]), texts, strict=True)]
    assert done.out == "".join(shown)
    first, last = (line for line in done.err.splitlines() if line.startswith("error"))
    assert str(talks[1]) in first and last == f"error: 1 of 3 recordings failed: {talks[1]}"
    as_json = program("transcribe", ears, *talks, "--json")
    lines = [json.loads(line) for line in as_json.out.splitlines()]
    assert as_json.code == 1 and [line["file"] for line in lines] == list(map(str, talks))
    assert ["error" in line for line in lines] == [False, True, False]


def test_a_single_bad_file_is_the_error(ears: Path, talks: list[Path], program: Program, tmp_path: Path) -> None:
    for path, complaint in ((talks[1], "b.wav"), (tmp_path / "nowhere.wav", "nowhere.wav")):
        done = program("transcribe", ears, path)
        assert done.code == 1 and done.out == "" and done.err.startswith("error: ") and complaint in done.err
        assert done.err.count("\n") == 1


def test_files_are_written_into_a_folder(
    ears: Path, phi: edgephi.Session, talks: list[Path], program: Program, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "texts"
    formats = [word for name in FORMATS for word in ("-o", name)]
    done = program("transcribe", ears, talks[0], talks[2], *formats, "-d", folder, "--summarize")
    assert done.code == 0 and done.out == ""
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{stem}.{suffix}" for stem in "ac" for suffix in (*FORMATS, "summary.txt")
    )
    for path in (talks[0], talks[2]):
        made = phi.transcribe(path, summarize=True, chunk_seconds=10)  # shorter segments for subtitles
        for suffix, write in (("txt", to_text), ("srt", to_srt), ("vtt", to_vtt), ("json", to_json)):
            written = (folder / f"{path.stem}.{suffix}").read_text(encoding="utf-8")
            assert written == write(made) and f"wrote {folder / path.stem}.{suffix}" in done.err
        assert (folder / f"{path.stem}.summary.txt").read_text(encoding="utf-8") == f"{made.summary}\n"


def test_files_are_written_beside_and_never_over_others(ears: Path, talks: list[Path], program: Program) -> None:
    notes = talks[0].with_suffix(".txt")
    notes.write_text("my own notes", encoding="utf-8")
    done = program("transcribe", ears, talks[0], talks[2], "--beside")
    assert done.code == 1 and "a.txt is there already; remove it, or give --overwrite" in done.err
    assert notes.read_text(encoding="utf-8") == "my own notes" and talks[2].with_suffix(".txt").exists()
    assert program("transcribe", ears, talks[0], "--beside", "--overwrite").code == 0
    assert notes.read_text(encoding="utf-8") != "my own notes"
    assert not list(talks[0].parent.glob(".*"))
    odd = talks[0].rename(talks[0].with_suffix(".txt"))
    before = odd.read_bytes()
    assert "is the recording itself" in program("transcribe", ears, odd, "--beside", "--overwrite").err
    assert odd.read_bytes() == before


def test_patterns_and_folders_are_searched(
    ears: Path, talks: list[Path], program: Program, tmp_path: Path
) -> None:
    talks[1].rename(tmp_path / "b.text")
    for given in (tmp_path, tmp_path / "*.wav", tmp_path / "**" / "[ac].wav"):
        done = program("transcribe", ears, given, "--json")
        assert done.code == 0
        assert [json.loads(line)["file"] for line in done.out.splitlines()] == [str(talks[0]), str(talks[2])]
    assert "nothing*.wav' cannot be opened" in program("transcribe", ears, tmp_path / "nothing*.wav").err


def test_a_recording_is_piped_in(
    ears: Path, phi: edgephi.Session, talks: list[Path], program: Program, tmp_path: Path
) -> None:
    data = talks[0].read_bytes()
    assert program("transcribe", ears, "-", stdin=data).out == to_text(phi.transcribe(data))
    assert program("transcribe", ears, "-", "-d", tmp_path, "-o", "vtt", stdin=data).code == 0
    assert (tmp_path / "stdin.vtt").read_text(encoding="utf-8").startswith("WEBVTT\n")
    assert "is empty" in program("transcribe", ears, "-").err


def test_a_summary_goes_below_the_text(
    ears: Path, phi: edgephi.Session, talks: list[Path], program: Program
) -> None:
    made = phi.transcribe(talks[0], summarize=True)
    done = program("transcribe", ears, talks[0], "--summarize")
    assert done.out == f"{to_text(made)}\nSummary:\n{made.summary}\n"
    assert json.loads(program("transcribe", ears, talks[0], "--summarize", "--json").out)["summary"] == made.summary


def test_what_the_model_did_not_finish_is_said(
    ears: Path, phi: edgephi.Session, program: Program, tmp_path: Path
) -> None:
    path = record(tmp_path / "long.wav", 20, 4)
    cut = [each for each in phi.transcribe(path, chunk_seconds=5).segments if each.finish_reason == "length"]
    assert cut, "the tiny model should go on for ever somewhere"
    err = program("transcribe", ears, path, "--chunk", "5", "--stats").err
    assert f"did not come to an end at {cut[0].start:.0f}–{cut[0].end:.0f} s" in err
    assert "20.0 s in " in err and "times real time" in err


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("a.wav", "-o", "txt", "-o", "srt"), 2, "only one of txt, srt can be printed"),
        (("a.wav", "c.wav", "-o", "srt"), 2, "need files of their own"),
        (("a.wav", "-o", "vtt", "--summarize"), 2, "subtitles hold no summary"),
        (("a.wav", "-d", "x", "--beside"), 2, "exclude each other"),
        (("a.wav", "-o", "doc"), 2, "doc"),
        (("a.wav", "a.mp3", "--beside"), 2, "would both be written to a.*"),
        (("-", "--beside"), 2, "lies beside nothing"),
        (("-", "-"), 2, "give '-' once"),
        ((), 2, "FILE"),
        (("a.wav", "--language", "tlh"), 1, "language is 'tlh'"),
        (("a.wav", "--translate", "tlh"), 1, "translate is 'tlh'"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_loaded(
    arguments: tuple[str, ...], code: int, complaint: str, program: Program, tmp_path: Path
) -> None:
    done = program("transcribe", tmp_path / "no bundle", *arguments)
    assert done.code == code and done.out == "" and complaint in done.err and done.err.count("\n") == 1


def test_the_length_of_segments_is_checked(ears: Path, talks: list[Path], program: Program) -> None:
    assert "chunk_seconds is 50.0; allowed is a number from 5 to 40" in program(
        "transcribe", ears, talks[0], "--chunk", "50"
    ).err


def test_a_bundle_for_text_says_what_it_takes(bundle: Path, talks: list[Path], program: Program) -> None:
    done = program("transcribe", bundle, *talks)
    assert done.code == 1 and done.err.count("\n") == 1
    assert "takes text, no audio: transcribe with a bundle of Phi-4-multimodal" in done.err


def test_ctrl_c_ends_with_code_130_and_what_was_said_stays(ears: Path, tmp_path: Path) -> None:
    path = record(tmp_path / "hours.wav", 900, 3)
    command = [sys.executable, "-m", "edgephi", "transcribe", str(ears), str(path), "--chunk", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == b"" and first.strip()
    assert out.count(b"\n") < 170  # of 180 segments or more


def test_text_comes_to_a_terminal(
    terminal: Callable[..., Any], ears: Path, phi: edgephi.Session, talks: list[Path]
) -> None:
    opened = terminal("transcribe", ears, talks[0])
    assert opened.end() == 0
    # Control characters are shown as pictures: compare what is neither.
    words = [word for word in phi.transcribe(talks[0]).text.split() if word.isascii() and word.isprintable()]
    assert words and all(word in opened.text for word in words)
