"""The commands `cache list` and `cache clear`: what is kept that can be made or fetched again."""

from __future__ import annotations

from typing import Annotated

import typer

from speechprompt.cli.commands import add_command, with_terminal
from speechprompt.cli.terminal import Terminal, table


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Units kept so that no clip is encoded twice.", rich_markup_mode=None)
    group.callback(invoke_without_command=True)(with_terminal(default))
    add_command(group, list_stores, "speechprompt cache list", name="list")
    add_command(group, clear, "speechprompt cache clear")
    app.add_typer(group, name="cache")


def default(terminal: Terminal, context: typer.Context) -> None:
    """Units kept so that no clip is encoded twice; without a command, list them."""
    if context.invoked_subcommand is None:
        list_stores(terminal)


def list_stores(terminal: Terminal) -> None:
    """List the stores of units: one for each tokenizer and precision."""
    from speechprompt.speech import unit_store

    stores = unit_store.list_stores()
    rows = [
        (
            s.tokenizer_fingerprint[:16],
            s.precision,
            s.utterance_count,
            round(s.size_bytes / 1e6, 2),
            str(s.folder),
        )
        for s in stores
    ]
    document = [
        {
            "folder": str(s.folder),
            "tokenizer_fingerprint": s.tokenizer_fingerprint,
            "precision": s.precision,
            "utterances": s.utterance_count,
            "size_bytes": s.size_bytes,
        }
        for s in stores
    ]
    shown = (
        table(("tokenizer", "precision", "utterances", "MB", "folder"), rows)
        if rows
        else "the cache is empty"
    )
    terminal.show(document, shown)


def clear(
    terminal: Terminal,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="FINGERPRINT", help="Only this tokenizer's units.")
    ] = None,
) -> None:
    """Remove kept units; they are made again when they are needed. Downloaded models stay."""
    from speechprompt.speech import unit_store

    chosen = [
        store
        for store in unit_store.list_stores()
        if tokenizer is None or store.tokenizer_fingerprint.startswith(tokenizer)
    ]
    for store in chosen:
        store.clear()
    freed = sum(store.size_bytes for store in chosen)
    document = {"stores": len(chosen), "size_bytes": freed}
    terminal.show(document, f"{len(chosen)} stores cleared, {freed / 1e6:.1f} MB")
