"""Prompts side by side: write them, run them on inputs, read answers, scores and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput, NoaLabError
from noa_lab.widgets._compare_blocks import form_blocks
from noa_lab.widgets._compare_code import comparison_code
from noa_lab.widgets._compare_form import (
    FEWEST_PROMPTS,
    Given,
    configuration,
    empty_prompt,
    first_form,
    given_inputs,
    prompt_keys,
)
from noa_lab.widgets._form import Form, words
from noa_lab.widgets._run import RunPanel
from noa_lab.widgets._run_facts import RunFacts
from noa_lab.widgets._scorers import typed_scorers
from noa_lab.widgets._view import Block, Kind, View, button, buttons, text

if TYPE_CHECKING:
    from noa_lab.experiments import Grid, Run
    from noa_lab.inference import InferenceConfig
    from noa_lab.workbench import Lab

__all__ = ["ComparePanel"]


@dataclass(frozen=True, slots=True)
class _Found:
    here: tuple[str, ...]
    grid: Grid | None
    code: str
    mistake: BadInput | None
    run: RunFacts | None
    plan: str = ""
    """What pressing Run would take."""
    earlier: Run | None = None
    """The run that pressing Run would go on with."""


class ComparePanel(RunPanel):
    """Compare prompts: their texts, the inputs, the scorers, a run, its answers and its verdict.

    Everything can be given here or typed into the panel. The same settings again continue the newest run of theirs: as long as the panel
    shows no run, it looks for that one and shows it, for example after the kernel was restarted.

    Args:
        prompts: Prompts by name: texts, `lab.Prompt`s or mappings; default: two examples.
        inputs: A list of dicts, a DataFrame or the path of a CSV, JSONL or Parquet file; default: three examples, to be typed over.
        scorers: From `lab.score`; default: none, to be typed.
        models: References of models; default: the default model.
        sampling: One or several `InferenceConfig`s or mappings; default: temperature 0.7, at most 48 tokens.
        repeats: How often each cell is sampled.
        seed: From which the cells' seeds are derived.
        name: What the run is called.
        lab: The Lab to use; default: the default Lab.

    Raises:
        BadInput: When something given cannot be used.
    """

    title = "Compare prompts"
    intro = "Every prompt is asked about every input. Each answer is saved; with the same settings, Run goes on where it stopped."

    def __init__(
        self,
        prompts: Mapping[str, Any] | None = None,
        inputs: Any = None,
        scorers: Sequence[Any] | None = None,
        models: Iterable[str] | str | None = None,
        sampling: Iterable[InferenceConfig | Mapping[str, Any]] | InferenceConfig | Mapping[str, Any] | None = None,
        *,
        repeats: int = 1,
        seed: int = 1,
        name: str = "",
        lab: Lab | None = None,
    ) -> None:
        self._given = Given(given_inputs(inputs), None if scorers is None else tuple(scorers), _samplings(sampling))
        self._loaded: Sequence[Any] | None = None
        form = first_form(prompts, models, self._given, {"repeats": repeats, "seed": seed}, name)
        super().__init__(lab, form)

    @property
    def grid(self) -> Grid:
        """The grid that the panel is set to.

        Raises:
            BadInput: When a field holds something that cannot be used.
        """
        return configuration(self._form, self._given, self._loaded)

    @property
    def scorers(self) -> tuple[Any, ...]:
        """The scorers that the panel is set to.

        Raises:
            BadInput: When a line is no scorer.
        """
        return self._scorers_of(self._form)

    def _scorers_of(self, form: Form) -> tuple[Any, ...]:
        return self._given.scorers if self._given.scorers is not None else typed_scorers(str(form["scorers"]))

    def _code(self) -> str:
        return self._write(self.grid, self.scorers, self._form)

    def _write(self, grid: Grid, scorers: Sequence[Any], form: Form) -> str:
        path = self._given.inputs if isinstance(self._given.inputs, str) else None
        return comparison_code(grid, scorers, words(form, "name"), path)

    def _shown_code(self) -> str:
        found: _Found | None = self._facts
        if found is not None and found.mistake is not None:
            raise found.mistake
        return found.code if found is not None else ""

    def _look(self, form: Mapping[str, Any]) -> _Found:
        run = self._look_at_run()
        before: _Found | None = self._facts
        here = tuple(row.name for row in self.lab.models.list() if row.installed)
        if before is not None and form == self._looked_form:
            return replace(before, here=here, run=run)
        try:
            if self._given.inputs is not None and self._loaded is None:
                self._loaded = configuration(form, self._given).inputs
            grid = configuration(form, self._given, self._loaded)
            source = self._write(grid, self._scorers_of(form), form)
            found = _Found(here, grid, source, None, run, *self._before(grid))
        except BadInput as error:
            found = _Found(here, None, "", error, run)
        self._looked_form = dict(form)
        return found

    _looked_form: Mapping[str, Any] | None = None

    def _before(self, grid: Grid) -> tuple[str, Run | None]:
        """What can be known of a grid before it is run: what it takes, and the run that is there already."""
        try:
            return str(self.lab.estimate(grid)), self.lab.newest_run(grid) if self.run is None else None
        except NoaLabError as error:
            return f"{error.message} {error.fix}", None

    def _saw(self, result: Any, error: Exception | None) -> None:
        super()._saw(result, error)
        if error is None and result.earlier is not None and self.run is None and self._job is None:
            self._running(result.earlier)

    def _edited(self, names: frozenset[str]) -> None:
        del names
        self._looker.look()

    def do_add_prompt(self) -> None:
        """Another prompt, at the end."""
        number = 1 + max(int(key.removeprefix("prompt")) for key in prompt_keys(self._form))
        self._form |= empty_prompt(number, f"prompt {number + 1}")
        self._looker.look()

    def do_remove_prompt(self, prompt: str) -> None:
        """Take a prompt away."""
        if len(prompt_keys(self._form)) > FEWEST_PROMPTS and prompt in prompt_keys(self._form):
            self._form = {key: value for key, value in self._form.items() if not key.startswith(f"{prompt}.")}
        self._looker.look()

    def do_run(self, fresh: bool = False) -> None:
        """Run the comparison, or continue the newest run of the same settings."""
        form = dict(self._form)
        self._loaded = None
        self._looked_form = None

        def work(_report: object, _cancel: object) -> Run:
            grid = configuration(form, self._given)
            return self.lab.compare(grid, self._scorers_of(form), fresh=fresh, name=words(form, "name"))

        self._work("Preparing the run", work, self._running)

    def _running(self, run: Run) -> None:
        self.run = run
        self._run_facts = None
        self._offsets.clear()
        self._looker.look()

    def _draw(self) -> View:
        found: _Found | None = self._facts
        run = found.run if found else None
        wrong = _wrong_fields(found.mistake) if found and found.mistake else {}
        kind, status = self._status(found)
        return self._show(
            kind,
            status,
            [
                *form_blocks(self._form, self._given, self._loaded, found.here if found else (), wrong),
                self._job_block(),
                self._other_mistake(found, wrong),
                self._plan(found),
                buttons("buttons", self._buttons(found, run)),
                *(self._shown_run(run) if run else []),
            ],
        )

    def _plan(self, found: _Found | None) -> Block | None:
        """What a run would take, as long as none is going on."""
        if found is None or not found.plan or (found.run is not None and found.run.running):
            return None
        return text("plan", found.plan)

    def _other_mistake(self, found: _Found | None, wrong: Mapping[str, str]) -> Block | None:
        """A mistake that belongs to no field, or to one that is not shown."""
        words_of = [what for name, what in wrong.items() if name not in self._form]
        return text("mistake", words_of[0], kind="warn") if found and words_of else None

    def _status(self, found: _Found | None) -> tuple[Kind, str]:
        if self._job is not None:
            return "busy", self._job.label
        if found is None:
            return ("error", "What is on this machine could not be read") if self._messages else ("busy", "Looking")
        if found.run is not None:
            return self._run_status(found.run)
        if found.mistake is not None:
            return "warn", "Something is not filled in correctly"
        size = len(found.grid) if found.grid else 0
        return "info", f"Ready to run: {size} answers"

    def _buttons(self, found: _Found | None, run: RunFacts | None) -> list[Block]:
        able = self._job is None and found is not None and found.mistake is None and not (run and run.running)
        again = [button("run", "Run afresh", enabled=able, args={"fresh": True})] if run and not run.running else []
        return [button("run", "Run", enabled=able, primary=able), *self._run_buttons(run), *again]


def _samplings(given: Any) -> tuple[Mapping[str, Any], ...]:
    """The samplings as mappings of the fields that were set; one, empty, for none."""
    if given is None:
        return ({},)
    listed = [given] if isinstance(given, Mapping) or hasattr(given, "model_fields_set") else list(given)
    return tuple(
        dict(one) if isinstance(one, Mapping) else {name: getattr(one, name) for name in one.model_fields_set}
        for one in listed
    ) or ({},)


def _wrong_fields(error: BadInput) -> dict[str, str]:
    name = "scorers" if error.fields.get("kind") == "scorer" else str(error.fields.get("field"))
    return {name: f"{error.message} {error.fix}"}
