"""The entry of the program: lazy verbs, one-line errors, exit codes, a quiet end when nobody reads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import edgephi
from edgephi import __main__ as entry
from edgephi.runtime.errors import RequestError

Program = Callable[..., Any]


def _modules_after(*arguments: str) -> set[str]:
    code = (
        "import json, sys\nfrom edgephi.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


def test_help_lists_every_verb_and_imports_none() -> None:
    loaded = _modules_after("--help")
    heavy = {"numpy", "onnxruntime", "tokenizers", "jinja2", "rich", "onnx_ir", "torch", "platformdirs"}
    assert not loaded & heavy
    assert not {name for name in loaded if name.startswith(("edgephi.export", "edgephi.demo", "edgephi.runtime.cli"))}


def test_help_of_a_verb_imports_no_numerics() -> None:
    assert not _modules_after("run", "--help") & {"numpy", "onnxruntime", "tokenizers", "jinja2"}


def test_help_shows_verbs_with_what_they_do(program: Program) -> None:
    for arguments in (("--help",), ("-h",), ()):
        done = program(*arguments)
        assert done.code == 0 and done.err == ""
        for name, verb in entry.VERBS.items():
            assert f"{name} " in done.out and verb.summary in done.out


@pytest.mark.parametrize("verb", [name for name in entry.VERBS])
def test_every_verb_has_a_help_of_its_own(verb: str, program: Program) -> None:
    done = program(verb, "--help")
    assert done.code == 0 and done.out.startswith(f"Usage: edgephi {verb}")


def test_version(program: Program) -> None:
    assert program("--version").out == f"edgephi {edgephi.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("rnu",), "'rnu' is no command; did you mean 'run'?"),
        (("fly",), "'fly' is no command; there are run, "),
        (("--fast",), "No such option"),
        (("run",), "Missing argument 'BUNDLE'"),
        (("run", "b", "-n", "many"), "'many' is not a valid integer"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(
    arguments: tuple[str, ...], complaint: str, program: Program
) -> None:
    done = program(*arguments)
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("error: ") and complaint in done.err and done.err.count("\n") == 1
    assert "--help" in done.err


def test_an_error_is_one_line_and_code_1(tmp_path: Path, program: Program) -> None:
    done = program("show", tmp_path)
    assert done.code == 1 and done.out == ""
    assert done.err.startswith("error: ") and "is no bundle" in done.err and done.err.count("\n") == 1


def test_debug_shows_where_as_well(tmp_path: Path, program: Program) -> None:
    done = program("--debug", "show", tmp_path)
    assert done.code == 1 and "Traceback" in done.err and done.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (RequestError("two\nlines"), 1, "error: two lines\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (OSError(28, "No space left on device", "a.onnx"), 1, "error: a.onnx: No space left on device\n"),
        (MemoryError(), 1, "error: the memory of this machine is used up"),
        (ZeroDivisionError("division"), 1, "error: ZeroDivisionError: division; this is a defect of edgephi"),
    ],
)
def test_every_end_has_its_code(
    raised: BaseException, code: int, line: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise raised

    monkeypatch.setattr(entry.edgephi, "invoke", fail)
    done = program("show", "x")
    assert done.code == code and done.out == "" and "Traceback" not in done.err
    assert done.err.startswith(line) and done.err.count("\n") <= 1


def test_a_reader_that_goes_away_ends_the_program_quietly(bundle: Path, endless: str) -> None:
    command = [sys.executable, "-m", "edgephi", "run", str(bundle), endless, "--stream-json", "-n", "3000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == entry.BROKEN_PIPE
        assert process.stderr.read() == b""


@pytest.mark.parametrize(("words", "anew"), [
    (["run", "--help"], True), (["--debug", "bench", "--help"], True), (["show", "--help"], False), (["--help"], False),
])
def test_verbs_that_load_a_bundle_get_large_pages(
    words: list[str], anew: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(sys, "argv", ["edgephi", *words])
    monkeypatch.setattr(entry.large_pages, "start_anew", lambda: begun.append("anew"))
    with pytest.raises(SystemExit):
        entry.main()
    assert begun == ["anew"] * anew and capsys.readouterr().out.startswith("Usage: edgephi")
    with pytest.raises(SystemExit):
        entry.main(words)  # another program's call, which goes on in its own process
    assert len(begun) == anew
