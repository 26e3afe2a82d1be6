"""The program `edgephi`: verbs, loaded when they are used, and one line for every error.

Boundary: the only file that knows every stage. It holds the names of the verbs and what a shell needs to know of their
end (exit code, the line on stderr); options and output belong to the verb's own file.

Exit codes: 0 done, 1 an error, 2 a wrong command line, 3 an answer that was cut before it had the form asked for, 130
Ctrl-C, 141 the reader of the output went away.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import click

from . import __version__
from .runtime import large_pages
from .runtime.errors import EdgePhiError

COMPLETION = "_EDGEPHI_COMPLETE"  # bash: eval "$(_EDGEPHI_COMPLETE=bash_source edgephi)"
EXAMPLES = """\b
Examples:
  edgephi export microsoft/Phi-4-mini-instruct -o phi-4-mini
  edgephi run phi-4-mini "Explain RoPE in one line."
"""
FAILED, WRONG_USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


@dataclass(frozen=True)
class Verb:
    """Where the command of a verb is, as "module:function" below this package, and its line of `edgephi --help`.

    `loads`: whether it takes the weights of a model into memory.
    """

    target: str
    summary: str
    loads: bool = False


VERBS = {
    "run": Verb("runtime.cli.run:run", "Ask a bundle one question, or talk with it.", loads=True),
    "transcribe": Verb(
        "runtime.cli.transcribe:transcribe", "Write down, translate or summarize recordings.", loads=True
    ),
    "summarize": Verb("runtime.cli.skills:summarize", "Put texts of any length in a few words.", loads=True),
    "rewrite": Verb("runtime.cli.skills:rewrite", "Put texts in other words: formal, casual, concise, ...", loads=True),
    "table": Verb("runtime.cli.skills:table", "Make tables of the facts in texts.", loads=True),
    "serve": Verb("runtime.cli.serve:serve", "Answer OpenAI's clients over HTTP.", loads=True),
    "show": Verb("runtime.cli.show:show", "What a bundle is: model, sizes, precision, context, licence."),
    "export": Verb("export.cli:export", "Turn a Phi-4 checkpoint into a bundle."),
    "compile": Verb("export.cli:compile_graphs", "Compile a bundle for an NPU ahead of time."),
    "verify": Verb("export.cli:verify", "Check that a bundle is whole and computes."),
    "adapter": Verb("export.adapter_cli:adapter", "Add fine-tuned LoRA adapters to a bundle, list and remove them."),
    "fit": Verb("export.fit:fit", "Whether a model fits this machine, and how fast it is."),
    "doctor": Verb("runtime.cli.doctor:doctor", "Which devices of this machine can serve, and why not the others."),
    "bench": Verb("runtime.cli.bench:bench", "How fast a bundle reads and writes on this machine.", loads=True),
    "demo": Verb("demo.cli:demo", "Run the small model that comes with this package."),
}


class Verbs(click.Group):
    """A group that knows its verbs by name and imports the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the order of VERBS."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the file of a verb."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        module, function = verb.target.split(":")
        command = getattr(importlib.import_module(f".{module}", __package__), function)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; name the nearest ones when there is none of that name."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(VERBS)}"
            raise click.UsageError(f"'{args[0]}' is no command; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])


@click.group(cls=Verbs, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="edgephi %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error. Goes before the command.")
def edgephi(debug: bool) -> None:
    """Phi-4 on your own machine: export a checkpoint once, then use it offline."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and leave the interpreter with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked_to_complete = os.environ.get(COMPLETION)
    if asked_to_complete:
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(edgephi, {}, "edgephi", COMPLETION, asked_to_complete))
    verb = VERBS.get(next((word for word in given if not word.startswith("-")), ""))
    if arguments is None and verb is not None and verb.loads:
        large_pages.start_anew()
    code = _run(given or ["--help"])
    _flush_or_give_up()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run one command line; everything that goes wrong becomes a line on stderr and an exit code."""
    debug = "--debug" in arguments[: next((i for i, word in enumerate(arguments) if not word.startswith("-")), None)]
    try:
        # Not click's own main(): it turns a closed pipe into code 1 and writes an empty line at Ctrl-C.
        with edgephi.make_context("edgephi", arguments) as context:
            edgephi.invoke(context)
        return 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "edgephi"
        return _fail(f"{error.format_message()} (see '{path} --help')", WRONG_USAGE, debug)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code, debug)
    except (KeyboardInterrupt, click.Abort):
        return _fail(None, INTERRUPTED, debug)
    except BrokenPipeError:
        return _fail(None, BROKEN_PIPE, debug)
    except EdgePhiError as error:
        return _fail(str(error), FAILED, debug)
    except MemoryError:
        return _fail(
            "the memory of this machine is used up; close other programs or use a smaller bundle", FAILED, debug
        )
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", FAILED, debug)
    # A mistake of ours: still one line, and a way to see more.
    except Exception as error:  # noqa: BLE001
        text = f"{type(error).__name__}: {error}; this is a defect of edgephi: 'edgephi --debug ...' shows where"
        return _fail(text, FAILED, debug)


def _fail(text: str | None, code: int, debug: bool) -> int:
    """Say `text` in one line; with `debug`, show the traceback of the error that is being handled as well."""
    try:
        if debug:
            traceback.print_exc()
        if text is not None:
            click.echo(f"error: {' '.join(text.split())}", err=True)
    except BrokenPipeError:
        return BROKEN_PIPE
    return code


def _flush_or_give_up() -> None:
    """Empty stdout now, or let it go: Python would complain about a closed pipe while it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
