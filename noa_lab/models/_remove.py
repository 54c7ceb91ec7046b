"""Removing a model: what that would do, said before it is done. A file of another tool is never touched."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from noa_lab.errors import BadInput, SetupError
from noa_lab.models._file import ModelFile
from noa_lab.models._record import record_elsewhere, record_path
from noa_lab.models._unfinished import unfinished
from noa_lab.models._users import children_of, owner_of, servers_with
from noa_lab.paths import Home

__all__ = ["Removal", "plan_giving_up", "plan_removal", "remove"]

_HOW = {
    "Hugging Face": "`hf cache ls` and `hf cache rm` free it",
    "Ollama": "`ollama rm` frees it",
    "LM Studio": "LM Studio's own list of models frees it",
    "you": "delete it yourself if you do not need it",
}


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a model does.

    Attributes:
        model: Its name.
        deletes: Files that are deleted: the model's own, or the links to those of another tool; and what is remembered about it.
        frees_bytes: Disk that is free afterwards.
        stays: In words, what stays where it is and why.
        used_by: Servers that run it: it is not removed before they have ended.
        children: Models that were quantised from it; they stay.
    """

    model: str
    deletes: tuple[Path, ...]
    frees_bytes: int
    stays: tuple[str, ...]
    used_by: tuple[str, ...]
    children: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "deletes": [str(path) for path in self.deletes]}

    def __str__(self) -> str:
        lines = [f"Removing {self.model} frees {self.frees_bytes / 1e6:,.1f} MB."]
        lines += [f"In use by {name}." for name in self.used_by]
        lines += self.stays
        lines += [f"{name} was made of it and stays." for name in self.children]
        return "\n".join(lines)


def plan_removal(model: ModelFile, home: Home) -> Removal:
    """What `remove` would do; changes nothing."""
    deletes: list[Path] = []
    stays: list[str] = []
    frees = 0
    for file in model.files:
        inside = file.parent.resolve().is_relative_to(home.models.resolve())
        if not inside:
            stays += [_stays(file, owner_of(file, home))] if file.exists() else []
            continue
        deletes.append(file)
        if file.is_symlink():
            stays += [_stays(file.resolve(), owner_of(file, home))] if file.exists() else []
        elif file.stat().st_nlink > 1:
            stays.append(f"The bytes of {file.name} have another name on this disk and stay under that.")
        else:
            frees += file.stat().st_size
    deletes += [path for path in (record_path(model.path), record_elsewhere(model.path, home)) if path.exists()]
    used, children = servers_with(model, home), children_of(model, home)
    return Removal(model.name, tuple(deletes), frees, tuple(stays), tuple(used), tuple(children))


def _stays(file: Path, owner: str) -> str:
    whose = "is yours" if owner == "you" else f"belongs to {owner}"
    return f"{file} {whose} and stays: {_HOW.get(owner, _HOW['you'])}."


def remove(model: ModelFile, home: Home) -> Removal:
    """Remove a model: its own files, or the links to those of another tool, which stay.

    Returns:
        What was done.

    Raises:
        BadInput: When a server runs it. `fields`: used_by.
        SetupError: When a file cannot be deleted; those before it are gone, and it can be tried again.
    """
    plan = plan_removal(model, home)
    if plan.used_by:
        raise BadInput(
            f"{model.name} is in use by {', '.join(plan.used_by)}.",
            fix=f"Stop it first: `noa-lab stop {plan.used_by[0]}`.",
            field="ref",
            value=model.name,
            used_by=list(plan.used_by),
        )
    # The record goes last: what is left after a failure is still known.
    for path in plan.deletes:
        _delete(path)
    folder = model.path.parent
    if folder != home.models and folder.parent == home.models and not any(folder.iterdir()):
        folder.rmdir()
    return plan


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "Close the programs that use it, then try again."
        raise SetupError(f"{path} cannot be deleted: {reason}.", fix=fix, path=str(path)) from None


def plan_giving_up(ref: str, home: Home) -> tuple[Removal, str] | None:
    """What giving up an interrupted download would do, and its reference; None where there is none of this name or reference."""
    found = next((each for each in unfinished(home) if ref in {each.name, each.source}), None)
    if found is None:
        return None
    return Removal(found.name, (), found.disk_bytes, ("What has arrived of it is thrown away.",), (), ()), found.source
