"""What ends a command: any exception -> one line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import sys
import traceback

import typer
from typer.exceptions import TyperException

from speechprompt.cli.terminal import one_line
from speechprompt.errors import SpeechPromptError

INTERRUPTED = 130
BROKEN_PIPE = 141


def end_of(error: BaseException, debug: bool = False) -> int:
    """The exit code of an exception; prints its line. What nobody expected is raised again with `debug`."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        return _close_stdout()
    if isinstance(error, SystemExit | GeneratorExit):
        raise error
    if debug:
        traceback.print_exception(error)
    line, code = described(error)
    print(line, file=sys.stderr)
    return code


def described(error: BaseException) -> tuple[str, int]:
    """The line that a user reads, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return one_line(error) or "interrupted; nothing was written, run the same command again", INTERRUPTED
    if isinstance(error, SpeechPromptError):
        return f"error: {one_line(error)}", error.exit_code
    if isinstance(error, TyperException):
        return f"error: {_usage(error)}", error.exit_code
    if isinstance(error, OSError):
        return f"error: {_system(error)}", 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "error: out of memory; lower --batch-size, or use a smaller spoken LM", 1
    return f"error: {type(error).__name__}: {one_line(error)}; --debug shows where", 1


def _usage(error: TyperException) -> str:
    """A parser's complaint, with the nearest option where one was mistyped."""
    message = one_line(error.format_message()).split(" (Possible options:")[0].rstrip(".")
    name, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if message.startswith("No such option") and name and context is not None:
        options = [text for parameter in context.command.get_params(context) for text in parameter.opts]
        near = difflib.get_close_matches(name, options, n=2, cutoff=0.5)
        path = context.command_path
        hint = f"did you mean {' or '.join(near)}?" if near else f"'{path} --help' lists them"
        return f"no such option {name}; {hint}"
    return message[:1].lower() + message[1:].replace(". Did you mean", "; did you mean")


def _system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on the device; free some and run the same command again"
    return f"{where}{one_line(error.strerror or error)}; check the path and its permissions"


def _close_stdout() -> int:
    """Nobody reads any more: keep Python from flushing into the pipe at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
