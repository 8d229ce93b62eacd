"""All commands under one name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

import speechprompt
from speechprompt.cli import (
    bench,
    cache,
    compare,
    corpora,
    demo,
    evaluate,
    lms,
    predict,
    pretrain,
    report,
    reproduce,
    serve,
    show,
    sources,
    sweep,
    table,
    train,
)

HELP = """One frozen spoken language model, many small trained prompts, one speech classifier per prompt.

Start with: speechprompt demo
"""


def build(arguments: Sequence[str] = ()) -> typer.Typer:
    """The application for a command line; only `train` and `pretrain` pay for reading their options."""
    app = typer.Typer(
        name="speechprompt",
        help=HELP,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_version)
    demo.register(app)
    train.register(app, with_options="train" in arguments)
    sweep.register(app, with_options="sweep" in arguments)
    pretrain.register(app, arguments)
    for group in (
        evaluate,
        predict,
        serve,
        show,
        report,
        compare,
        reproduce,
        table,
        sources,
        corpora,
        lms,
        bench,
        cache,
    ):
        group.register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"speechprompt {speechprompt.__version__}")
        raise typer.Exit


def _version(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


_version.__doc__ = HELP
