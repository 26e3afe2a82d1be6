"""The verb `edgephi serve`: bundles behind an OpenAI-compatible server.

Boundary: reads the command line, key files and EDGEPHI_API_KEY; the server is runtime/server.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import click

from ..errors import MissingDependency, RequestError
from ..server.origins import read_listed
from ..server.settings import PORT, Access, Limits, Loading, Settings
from .settings import cache_option, encoder_options, memory_options

KEY_VARIABLE = "EDGEPHI_API_KEY"
MIB = 1 << 20
EXAMPLE = f"""\b
Example:
  edgephi serve phi-4-mini
  OPENAI_BASE_URL=http://127.0.0.1:{PORT}/v1 OPENAI_API_KEY=none my-application
"""


@click.command(epilog=EXAMPLE)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another address than loopback needs a key.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 for any free one.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Keys, one a line; any of them opens. {KEY_VARIABLE} is another way to give one.",
)
@click.option("--allow-host", "names", multiple=True, metavar="NAME", help="A name by which clients may address this.")
@click.option("--allow-origin", "origins", multiple=True, metavar="URL", help="A web page's origin that may ask.")
@click.option(
    "--allow-media-from", "media_from", multiple=True, metavar="HOST",
    help="A host whose pictures and recordings clients may name by address (https; http://HOST for http). Addresses of"
    " this machine and of private networks only where HOST is the number itself.",
)
@click.option("--device", default="cpu", show_default=True, help="What computes; 'auto' for what a bundle is made for.")
@encoder_options
@click.option("-t", "--threads", type=int, metavar="N", help="Default: the physical cores.")
@memory_options
@cache_option
@click.option("-c", "--context", "--ctx-size", type=int, metavar="N", help="Longest conversation, in tokens.")
@click.option("--preload", is_flag=True, help="Load models now instead of when they are first asked for.")
@click.option(
    "--keep-alive",
    type=click.FloatRange(-1),
    default=Limits.idle_seconds,
    show_default=True,
    metavar="SECONDS",
    help="How long an unused model stays in memory; -1 for ever.",
)
@click.option(
    "--max-loaded",
    type=click.IntRange(1),
    default=Limits.loaded,
    show_default=True,
    help="Models in memory at once.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(1),
    default=Limits.places,
    show_default=True,
    help="Requests that may wait for one model.",
)
@click.option(
    "--max-body",
    type=click.IntRange(1, 4096),
    default=Limits.body_bytes // MIB,
    show_default=True,
    metavar="MIB",
    help="Largest request.",
)
@click.option(
    "--cache-ram",
    type=click.IntRange(0),
    default=1024,
    show_default=True,
    metavar="MIB",
    help="Memory for beginnings of prompts that were read before.",
)
@click.option(
    "--prefix-cache",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Keep these on disk as well, for the next start; they are as private as the prompts.",
)
@click.option(
    "--cache-disk", type=click.IntRange(1), default=4096, show_default=True, metavar="MIB", help="Bound of that folder."
)
@click.option("--json", "as_json", is_flag=True, help="Say where the server is as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No line for every request.")
def serve(
    bundles: tuple[str, ...],
    host: str,
    port: int,
    api_key_file: Path | None,
    names: tuple[str, ...],
    origins: tuple[str, ...],
    media_from: tuple[str, ...],
    device: str, vision_device: str | None, speech_device: str | None,
    threads: int | None,
    context: int | None,
    mapped: bool, allow_oversized: bool,
    kv: str,
    preload: bool,
    keep_alive: float,
    max_loaded: int,
    max_queue: int,
    max_body: int,
    cache_ram: int,
    prefix_cache: Path | None,
    cache_disk: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Serve bundles to OpenAI's clients, on this machine alone unless told otherwise.

    BUNDLE is a folder, offered by its own name, or NAME=FOLDER.
    """
    _require_extra()
    from ..prefix_cache import PrefixCache

    kept = PrefixCache(memory_bytes=cache_ram * MIB, folder=prefix_cache, disk_bytes=cache_disk * MIB)
    settings = Settings(
        bundles=_named(bundles),
        access=Access(host, _keys(api_key_file), names, origins),
        limits=Limits(
            body_bytes=max_body * MIB,
            places=max_queue,
            loaded=max_loaded,
            idle_seconds=None if keep_alive < 0 else keep_alive,
        ),
        loading=Loading(
            device, threads, context, mapped, allow_oversized, kept,
            vision_device=vision_device, speech_device=speech_device, kv=kv,
        ),
        preload=preload,
        media_from=tuple(map(read_listed, media_from)),
    )
    _serve(settings, port, as_json=as_json, quiet=quiet)


def _serve(settings: Settings, port: int, *, as_json: bool, quiet: bool) -> None:
    from ..server.app import build
    from ..server.serving import listen, make_server, run

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)  # to stderr
    logging.getLogger("edgephi.server").setLevel(logging.WARNING if quiet else logging.INFO)
    server = make_server(build(settings), settings.limits)
    sock = listen(settings.access.host, port)
    host = f"[{settings.access.host}]" if ":" in settings.access.host else settings.access.host
    url = f"http://{host}:{sock.getsockname()[1]}/v1"

    def announce() -> None:
        click.echo(f"serving {', '.join(settings.bundles)} (Ctrl-C ends)", err=True)
        key = "your key" if settings.access.keys else "none"
        click.echo(f"OPENAI_BASE_URL={url} OPENAI_API_KEY={key!r}", err=True)
        click.echo(f"chat page: {url.removesuffix('v1')}", err=True)
        if as_json:
            click.echo(json.dumps({"url": url, "models": list(settings.bundles)}))

    run(server, sock, announce)


def _require_extra() -> None:
    try:
        import httpcore2
        import prometheus_client
        import python_multipart
        import starlette
        import uvicorn
    except ImportError as error:
        raise MissingDependency(
            f"the server needs the package {error.name!r}: pip install 'edgephi[server]'"
        ) from error
    del httpcore2, prometheus_client, python_multipart, starlette, uvicorn


def _named(bundles: Sequence[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for given in bundles:
        name, equals, folder = given.partition("=")
        path = Path(folder if equals and not Path(given).exists() else given)
        name = name if path != Path(given) else path.resolve().name
        if not name or name in named:
            raise RequestError(f"two bundles are called {name!r}: name one of them otherwise, as NAME=FOLDER")
        named[name] = path
    return named


def _keys(file: Path | None) -> tuple[str, ...]:
    keys = [] if file is None else [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    if file is not None and not any(keys):
        raise RequestError(f"{file} holds no API key; write one on a line")
    return tuple(filter(None, [*keys, os.environ.get(KEY_VARIABLE, "")]))
