"""The commands `lms`: list, show, fetch, convert and verify spoken LMs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechprompt.cli.commands import Force, Out, Threads, add_command, with_terminal
from speechprompt.cli.terminal import Terminal, next_command, pairs, table
from speechprompt.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from speechprompt.downloads import PublishedFile

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of `speechprompt lms`, or a folder.")]
MEGABYTE = 1e6


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Spoken LMs: bundled, published, or in a folder of yours.", rich_markup_mode=None
    )
    group.callback(invoke_without_command=True)(with_terminal(default))
    add_command(group, list_all, "speechprompt lms list", name="list")
    add_command(group, show, "speechprompt lms show tiny")
    add_command(group, fetch, "speechprompt lms fetch gslm-hubert100")
    add_command(group, convert, "speechprompt lms convert hubert100_lm.tgz --out lms/hubert100")
    add_command(group, verify, "speechprompt lms verify tiny")
    app.add_typer(group, name="lms")


def default(terminal: Terminal, context: typer.Context) -> None:
    """Spoken LMs: bundled, published, or in a folder of yours; without a command, list them."""
    if context.invoked_subcommand is None:
        list_all(terminal)


def list_all(terminal: Terminal) -> None:
    """List the spoken LMs that have a name; `+bfloat16` behind a published one makes its units in bfloat16."""
    from speechprompt.spoken_lm import known_names

    found = [facts_of(name) for name in known_names()]
    rows = [(x["name"], x["state"], x["tokenizer"], x["license"]) for x in found]
    terminal.show(found, table(("name", "", "tokenizer", "licence"), rows))


def show(terminal: Terminal, name: Name) -> None:
    """What a spoken LM consists of and where its files are; nothing is downloaded."""
    facts = facts_of(name)
    head = {key: value for key, value in facts.items() if key != "files"}
    parts: list[Any] = [pairs(head)]
    if facts["files"]:
        rows = [(file["name"], file["state"], file["path"]) for file in facts["files"]]
        parts += ["", table(("file", "", "path"), rows)]
    terminal.show(facts, *parts)


def facts_of(name: str) -> dict[str, Any]:
    """A spoken LM's versioned name, state, tokenizer, licence and files. UnknownName for none."""
    from speechprompt.downloads import place
    from speechprompt.spoken_lm import SpokenLM

    spoken_lm = SpokenLM.load(name)
    if spoken_lm.folder is not None:
        state, files = "bundled" if spoken_lm.folder.parent.name == "bundled" else "folder", []
    else:
        files = [
            {
                "name": file.name,
                "url": file.url,
                "path": str(place(file.url)),
                "state": "here" if place(file.url).is_file() else "not fetched",
            }
            for file in published_files(name.partition("@")[0])
        ]
        state = "fetched" if all(file["state"] == "here" for file in files) else "not fetched"
    return {
        "name": spoken_lm.name,
        "state": state,
        "tokenizer": spoken_lm.tokenizer_name,
        "license": spoken_lm.license,
        "folder": None if spoken_lm.folder is None else str(spoken_lm.folder),
        "files": files,
    }


def published_files(name: str) -> list[PublishedFile]:
    """The files that a published spoken LM is made of. UnknownName when it is not published."""
    from speechprompt import downloads
    from speechprompt.spoken_lm import PUBLISHED, published

    model = published(name.partition("@")[0])
    if model is None:
        raise UnknownName("published spoken LM", name, PUBLISHED)
    return [downloads.PUBLISHED[part] for part in model.files]


def fetch(terminal: Terminal, name: Name) -> None:
    """Download a published spoken LM: HuBERT, its k-means and the unit LM. A cut download goes on."""
    from speechprompt.downloads import fetch_published

    paths = []
    for file in published_files(name):
        with terminal.progress(file.name) as progress:
            path = fetch_published(
                file.name,
                lambda done, total, shown=progress: shown.update(  # type: ignore[misc]
                    int(done / MEGABYTE), None if total is None else int(total / MEGABYTE), "MB"
                ),
            )
        paths.append(path)
    document = {"name": name, "files": [str(path) for path in paths]}
    terminal.show(
        document,
        *map(str, paths),
        next_command("train", "SOURCE", "--lm", name, "--out", "prompts/TASK"),
    )


def convert(
    terminal: Terminal,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A fairseq GSLM (a .tgz, its folder, or checkpoint_best.pt) or pGSLM (a .pt).",
        ),
    ],
    out: Out,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", metavar="NAME", help="What made its units; by default told by their number."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call it; by default PATH's folder.")
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", metavar="TEXT", help="Under which licence it was published.")
    ] = None,
    f0_bins: Annotated[
        Path | None,
        typer.Option(
            "--f0-bins", metavar="PATH", help="F0 bins of a discrete pGSLM; by default the file beside PATH."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Turn a fairseq GSLM or pGSLM checkpoint into a spoken-LM folder: safetensors and spoken_lm.json, no pickles."""
    from speechprompt.lms.gslm_units import GslmUnitLM
    from speechprompt.lms.pgslm import PgslmForCausalLM
    from speechprompt.lms.pgslm_fairseq import load_unit_lm_checkpoint
    from speechprompt.lms.pgslm_units import PgslmUnitLM
    from speechprompt.spoken_lm_folder import check_folder_output, write_folder

    check_folder_output(out, force)
    model = load_unit_lm_checkpoint(path, f0_bins)
    config = model.config
    prosodic = isinstance(model, PgslmForCausalLM)
    lm = PgslmUnitLM(model) if isinstance(model, PgslmForCausalLM) else GslmUnitLM(model)
    made_by = tokenizer or _tokenizer_for(lm.unit_count) + ("+yaapt" if prosodic else "")
    if prosodic and config.discrete_f0 and config.reads_f0 and config.f0_edges is None:
        raise UsageError(f"{path} reads F0 in bins; name the file of their edges with --f0-bins")
    write_folder(out, model, name or out.name, made_by, license, force)
    document = {
        "folder": str(out),
        "kind": config.model_type,
        "tokenizer": made_by,
        "unit_count": lm.unit_count,
        "layers": lm.layers,
        "width": lm.width,
        "fingerprint": lm.fingerprint,
    }
    hint = next_command("train", "SOURCE", "--lm", out, "--out", "prompts/TASK")
    terminal.show(document, pairs(document), hint)


def _tokenizer_for(unit_count: int) -> str:
    from speechprompt.spoken_lm import HUBERT_UNITS

    for name, count in HUBERT_UNITS.items():
        if count == unit_count:
            return name
    raise UsageError(f"no known tokenizer makes {unit_count} units; name the one that does with --tokenizer")


def verify(terminal: Terminal, name: Name, threads: Threads = None) -> None:
    """Check a spoken LM whole: fetch and hash its files, load both parts, encode bundled speech, predict its units.

    The figure to look at is bits per unit: clearly below that of a uniform guess, the LM fits its tokenizer. It
    is measured on a few synthetic clips, so it does not compare with published figures. The exit code is 1 when
    the LM does no better than a uniform guess.
    """
    from speechprompt.cli.materials import open_spoken_lm
    from speechprompt.cli.verification import bits_per_unit, hashes

    spoken_lm = open_spoken_lm(name, "cpu", threads=threads)
    files = [] if spoken_lm.folder is not None else hashes(terminal, published_files(name.partition("@")[0]))
    measured = bits_per_unit(spoken_lm)
    document = {
        "name": spoken_lm.name,
        "tokenizer_fingerprint": spoken_lm.tokenizer.fingerprint,
        "lm_fingerprint": spoken_lm.lm.fingerprint,
        "files": files,
        **measured,
    }
    facts = {key.replace("_", " "): value for key, value in document.items() if key != "files"}
    shown = [(f["name"], f["sha256"], f["verdict"]) for f in files]
    parts: list[Any] = [pairs(facts)]
    if files:
        parts += ["", table(("file", "sha256", ""), shown)]
    terminal.show(document, *parts)
    if measured["bits_per_unit"] >= measured["uniform_bits"]:
        terminal.complain(f"{spoken_lm.name} predicts units no better than a uniform guess")
        raise typer.Exit(1)
