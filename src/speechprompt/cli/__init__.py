"""The command line: parse, call, print. Each file holds one group of commands; nothing else imports them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

COMPLETION_VARIABLE = "_SPEECHPROMPT_COMPLETE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed on data or model, 2 wrong call, 130 interrupted.

    Errors are one line on stderr; with `--debug` the traceback comes first.
    """
    from typer.main import get_command

    from speechprompt.cli.application import build
    from speechprompt.cli.failures import end_of

    _print_anything()
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command = get_command(build(given))
    if COMPLETION_VARIABLE in os.environ:
        command.main(given, prog_name="speechprompt")
    try:
        with command.make_context("speechprompt", given) as context:
            command.invoke(context)
        sys.stdout.flush()
    except BaseException as error:
        return end_of(error, debug="--debug" in given)
    return 0


def _print_anything() -> None:
    """Escape what a stream cannot encode, such as file names that are not UTF-8, instead of failing at it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
