"""What the panel of models looks at, on a worker thread: what is here, and the model that is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput, NoaLabError, UnknownModel
from noa_lab.widgets._form import Form, whole, words

if TYPE_CHECKING:
    from noa_lab.models import DiskReport, Fit, ModelListing, Models, Removal, StoredModel

__all__ = ["Closer", "Found", "Here", "look_at_model", "look_here", "memory_settings"]


@dataclass(frozen=True, slots=True)
class Here:
    """What does not change while the form is filled in.

    Attributes:
        asked: By which request to look again it was found.
        rows: The models there are.
        stored: What other tools have.
        disk: What takes disk.
        types: What a model can be quantised to; empty without llama.cpp.
    """

    asked: int
    rows: Sequence[ModelListing]
    stored: Sequence[StoredModel]
    disk: DiskReport
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Closer:
    """A closer look at whether a model fits, and what it was asked for."""

    ref: str
    settings: Mapping[str, Any]
    fit: Fit


@dataclass(frozen=True, slots=True)
class Found:
    """What there is, and what is known about the model that is chosen.

    Attributes:
        here: What is here.
        chosen: The reference that is typed, else the default model.
        details: Facts about it; None where nothing is known yet.
        problem: What is wrong with the reference, in words.
        fit: Whether it fits.
        fit_problem: Why that is not known, in words.
        mistakes: What is wrong in the form, by field.
        plan: What removing it would do; None where there is nothing to remove.
    """

    here: Here
    chosen: str
    details: Mapping[str, Any] | None
    problem: str
    fit: Fit | None
    fit_problem: str
    mistakes: Mapping[str, str]
    plan: Removal | None

    @property
    def installed(self) -> bool:
        """Whether the chosen model is here."""
        return bool(self.details and self.details.get("installed"))

    @property
    def gone(self) -> bool:
        """Whether the chosen model was imported, and its file is there no more."""
        return any(row.name == self.chosen and row.missing for row in self.here.rows)

    @property
    def half(self) -> bool:
        """Whether an interrupted download of it is here; of a reference that has no name only the disk knows."""
        listed = any(row.name == self.chosen and row.here_bytes for row in self.here.rows)
        uses = (use for use in self.here.disk.uses if use.kind == "unfinished")
        return listed or any(self.chosen in {use.name, use.path} for use in uses)


def look_here(models: Models, asked: int) -> Here:
    """Look at everything but the chosen model."""
    try:
        types = models.quantization_types()
    except NoaLabError:  # no llama.cpp yet: the set-up panel says so
        types = ()
    return Here(asked, models.list(), models.stored(), models.disk(), types)


def look_at_model(models: Models, here: Here, form: Form, closer: Closer | None) -> Found:
    """Look at the model that the form names."""
    chosen = words(form, "model") or next((row.name for row in here.rows if row.default), "")
    details, problem = _details(models, chosen)
    fit, fit_problem, mistakes = _fit(models, chosen, form, closer)
    found = Found(here, chosen, details, problem, fit, fit_problem, mistakes, None)
    if not (found.installed or found.half or found.gone):
        return found
    try:
        return replace(found, plan=models.plan_removal(chosen))
    except UnknownModel:  # it went since everything was looked at
        return found


def memory_settings(form: Form) -> dict[str, Any]:
    """What is given to `lab.models.fit` beside the reference.

    Raises:
        BadInput: When a number is none, or not allowed.
    """
    from noa_lab.models.memory import MemorySettings

    numbers = {name: whole(form, name) for name in ("context_size", "slots")}
    settings: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    kind = words(form, "cache_type")
    settings |= {"cache_type_k": kind, "cache_type_v": kind} if kind != "f16" else {}
    MemorySettings(**settings)
    return settings


def _details(models: Models, chosen: str) -> tuple[Mapping[str, Any] | None, str]:
    try:
        return models.show(chosen, quick=True), ""
    except UnknownModel as error:
        elsewhere = "://" in chosen or "/" in chosen
        return None, "" if elsewhere else f"{error.message} {error.fix}"
    except BadInput as error:
        return None, f"{error.message} {error.fix}"


def _fit(models: Models, chosen: str, form: Form, closer: Closer | None) -> tuple[Fit | None, str, dict[str, str]]:
    try:
        settings = memory_settings(form)
    except BadInput as error:
        return None, "", {str(error.fields.get("field")): f"{error.message} {error.fix}"}
    if closer is not None and (closer.ref, closer.settings) == (chosen, settings):
        return closer.fit, "", {}
    try:
        return models.fit(chosen, quick=True, **settings), "", {}
    except BadInput:
        return None, "", {}
    except NoaLabError as error:
        return None, f"{error.message} Press Look closer.", {}
