"""What people say about runs, and what they ask of a run that another process executes: tags, notes, deletion, wishes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal

import sqlalchemy as sa

from noa_lab.errors import BadInput, RunBusy
from noa_lab.experiments.store._schema import cells, runs, tags
from noa_lab.experiments.store._store import Store

__all__ = [
    "Wish",
    "add_tags",
    "ask",
    "checked_tag",
    "delete",
    "purge",
    "remove_tags",
    "restore",
    "set_note",
    "tags_of",
    "take_wish",
]

Wish = Literal["pause", "cancel"]

_LONGEST_TAG = 80
_LONGEST_NOTE = 100_000


def add_tags(store: Store, run_id: str, names: Iterable[str]) -> None:
    """Label a run; a label that it has already is fine.

    Raises:
        UnknownName: When there is no such run.
        BadInput: When a label is empty or too long.
    """
    found = [checked_tag(name) for name in names]
    store.run(run_id)
    with store.write() as connection:
        known = set(connection.execute(sa.select(tags.c.tag).where(tags.c.run_id == run_id)).scalars())
        new = [{"run_id": run_id, "tag": name} for name in dict.fromkeys(found) if name not in known]
        if new:
            connection.execute(tags.insert(), new)


def remove_tags(store: Store, run_id: str, names: Iterable[str]) -> None:
    """Take labels off a run; one that it does not have is fine.

    Raises:
        UnknownName: When there is no such run.
    """
    store.run(run_id)
    with store.write() as connection:
        gone = (tags.c.run_id == run_id) & tags.c.tag.in_([name.strip() for name in names])
        connection.execute(tags.delete().where(gone))


def tags_of(store: Store, run_id: str) -> list[str]:
    """The labels of a run, sorted."""
    with store.read() as connection:
        query = sa.select(tags.c.tag).where(tags.c.run_id == run_id).order_by(tags.c.tag)
        return list(connection.execute(query).scalars())


def checked_tag(name: str) -> str:
    """The label without white space at its ends.

    Raises:
        BadInput: When it is empty, too long or no single line.
    """
    text = name.strip()
    if not text or len(text) > _LONGEST_TAG or any(ord(character) < 32 for character in text):
        raise BadInput(
            f"{name!r} cannot be a tag.",
            fix=f"Give one line of 1 to {_LONGEST_TAG} characters.",
            field="tag",
            value=name,
        )
    return text


def set_note(store: Store, run_id: str, text: str) -> None:
    """Put down what there is to say about a run; it takes the place of what was put down before.

    Raises:
        UnknownName: When there is no such run.
        BadInput: When it is too long.
    """
    if len(text) > _LONGEST_NOTE:
        raise BadInput(
            f"The note has {len(text):,} characters.",
            fix=f"Use at most {_LONGEST_NOTE:,}.",
            field="note",
            value=text[:80],
        )
    store.run(run_id)
    store.update_run(run_id, note=text)


def delete(store: Store, run_id: str) -> None:
    """Put a run into the bin: it is not listed, not continued and lends no answers, until `restore` takes it out.

    Raises:
        UnknownName: When there is no such run.
        RunBusy: While it is being executed.
    """
    _refuse_running(store, run_id)
    store.update_run(run_id, deleted=time.time())


def restore(store: Store, run_id: str) -> None:
    """Take a run out of the bin; one that is not in it stays as it is.

    Raises:
        UnknownName: When there is no such run.
    """
    store.run(run_id)
    store.update_run(run_id, deleted=None)


def purge(store: Store, run_id: str) -> None:
    """Remove a run from the bin, for good.

    Raises:
        UnknownName: When there is no such run.
        BadInput: When it is not in the bin.
    """
    if store.run(run_id)["deleted"] is None:
        raise BadInput(
            f"The run {run_id} is not deleted: it is not in the bin.",
            fix=f"Put it there first: `noa-lab runs delete {run_id}`.",
            field="run_id",
            value=run_id,
        )
    with store.write() as connection:
        for table in (cells, tags, runs):
            connection.execute(table.delete().where(table.c.run_id == run_id))


def _refuse_running(store: Store, run_id: str) -> None:
    pid = store.run(run_id)["pid"]
    if pid is not None:
        raise RunBusy(
            f"The run {run_id} is being executed by process {pid}.",
            fix=f"Cancel it first: `noa-lab runs cancel {run_id}`.",
            run_id=run_id,
            pid=pid,
        )


def ask(store: Store, run_id: str, wish: Wish) -> None:
    """Ask whoever executes a run to pause or cancel it; that process looks every second."""
    store.update_run(run_id, wish=wish)


def take_wish(store: Store, run_id: str) -> Wish | None:
    """What was asked for since the last call, if anything was."""
    with store.read() as connection:
        found: Wish | None = connection.execute(sa.select(runs.c.wish).where(runs.c.run_id == run_id)).scalar()
    if found is not None:
        store.update_run(run_id, wish=None)
    return found
