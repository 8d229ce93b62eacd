"""The command `serve`: the HTTP server over a folder of artifacts."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

import typer

from speechprompt.cli.commands import ArtifactLm, Device, Dtype, Threads, add_command
from speechprompt.cli.materials import open_spoken_lm
from speechprompt.cli.terminal import Terminal
from speechprompt.errors import MissingExtra, SpeechPromptError, UsageError

TOKEN_VARIABLE = "SPEECHPROMPT_TOKEN"

Folder = Annotated[
    Path, typer.Argument(metavar="ARTIFACTS_DIR", help="A folder of prompt folders; watched while serving.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, serve, "speechprompt serve prompts/")


def _finite(value: float) -> float:
    """A number of seconds. BadParameter for nan, which no bound keeps out, and for what never ends."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number of seconds; give one")
    return value


Deadline = Annotated[
    float, typer.Option("--deadline", min=0.1, callback=_finite, help="Seconds to answer in by default.")
]
Longest = Annotated[float, typer.Option("--max-seconds", min=0.1, callback=_finite, help="Longest clip.")]
Drain = Annotated[
    float,
    typer.Option("--drain", min=0, callback=_finite, help="Seconds to serve on, not ready, after SIGTERM."),
]


def serve(
    terminal: Terminal,
    folder: Folder,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help=f"File with the bearer token that may change tasks; else the variable {TOKEN_VARIABLE}.",
        ),
    ] = None,
    deadline: Deadline = 10.0,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, help="Largest body.")] = 25 * 2**20,
    max_held_bytes: Annotated[
        int, typer.Option("--max-held-bytes", min=1, help="All bodies together; a client gets half.")
    ] = 2**30,
    max_seconds: Longest = 600.0,
    drain: Drain = 0.0,
    client_header: Annotated[
        str | None,
        typer.Option("--client-header", help="Header in which a proxy names the client, for fairness."),
    ] = None,
    lm: ArtifactLm = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
) -> None:
    """Serve every prompt of a folder over HTTP: one LM in memory, mixed batches, a page at /, documents at /docs.

    Prompts that appear, change or go while it runs are served, swapped or removed. SIGTERM answers what was
    accepted, then ends. The log goes to stderr, a JSON document a line.
    """
    try:
        from speechprompt.server.running import run_server
        from speechprompt.server.settings import ServerSettings
    except ImportError as error:
        raise MissingExtra(str(error.name), "server", "serving") from None
    _check_folder(folder)
    settings = ServerSettings(
        artifacts=folder,
        token=_token(token_file),
        deadline_seconds=deadline,
        body_bytes=max_bytes,
        held_bytes=max_held_bytes,
        clip_seconds=max_seconds,
        drain_seconds=drain,
        client_header=client_header,
    )
    spoken_lm = open_spoken_lm(lm or _lm_of(folder), device, dtype, threads)
    run_server(spoken_lm, settings, host, port, quiet=terminal.quiet)


def _check_folder(folder: Path) -> None:
    """UsageError for what is no folder, or is a prompt itself."""
    from speechprompt.prompting.artifact import CONFIG

    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; make it, and put prompt folders into it")
    if (folder / CONFIG).is_file():
        raise UsageError(
            f"{folder} is a prompt, not a folder of prompts; serve the one that holds it: "
            f"speechprompt serve {folder.absolute().parent}"
        )


def _token(file: Path | None) -> str | None:
    token = os.environ.get(TOKEN_VARIABLE) if file is None else file.read_text(encoding="utf-8")
    token = token.strip() if token else None
    if token is not None and len(token) < 16:
        raise UsageError("the token is shorter than 16 characters; make one with: openssl rand -hex 16")
    return token


def _lm_of(folder: Path) -> str:
    """The spoken LM that the first readable artifact names, else the default."""
    from speechprompt.prompting.artifact import CONFIG, read_config
    from speechprompt.spoken_lm import DEFAULT

    for path in sorted(folder.glob(f"*/{CONFIG}")):
        try:
            return read_config(path.parent).spoken_lm
        except SpeechPromptError:
            continue
    return DEFAULT
