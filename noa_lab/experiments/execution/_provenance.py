"""What a run's answers depend on beside its grid, as it is kept with the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from noa_lab.errors import ExperimentError
from noa_lab.experiments.execution._choice import identity_of
from noa_lab.experiments.execution._identity import changed_names, recorded
from noa_lab.experiments.execution._plan import Plan
from noa_lab.experiments.execution._wish import ExecutorName
from noa_lab.experiments.store._store import Store

__all__ = ["Provenance"]

_OTHER_RUNS = 50
"""Newest runs among which answers that are there already are looked for."""


class Provenance:
    """The provenance of one run; whoever executes the run is the only one that writes it.

    Args:
        store: Where the run is.
        run_id: The run.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id = store, run_id

    def _read(self) -> dict[str, Any]:
        return dict(self._store.run(self._run_id)["provenance"])

    def executor(self, model: str) -> ExecutorName | None:
        """The executor of this model's answers so far, or None."""
        found: ExecutorName | None = self._read().get("executors", {}).get(model, {}).get("executor")
        return found

    def others(self, model: str) -> Iterator[tuple[ExecutorName, dict[str, Any]]]:
        """Executor and identity (`identity_of`) of this model's answers in the newest other runs, where it is what it is in this one."""
        now = recorded(self._read()).get(model, {})
        for provenance in self._store.provenances(_OTHER_RUNS, besides=self._run_id):
            executor = provenance.get("executors", {}).get(model, {}).get("executor")
            was = recorded(provenance).get(model, {})
            if executor is not None and all(was.get(name) == value for name, value in now.items()):
                yield executor, identity_of(provenance["engines"][model], executor)

    def note_engine(self, model: str, fingerprint: dict[str, Any], executor: ExecutorName, why: str) -> None:
        """Note what serves a model, and how its cells are executed.

        Raises:
            ExperimentError: When it is not what served it when the run began.
        """
        provenance = self._read()
        engines, executors = dict(provenance["engines"]), dict(provenance.get("executors", {}))
        before = identity_of(engines.setdefault(model, fingerprint), executor)
        now = identity_of(fingerprint, executor)
        if before != now:
            changed = changed_names(before, now)
            raise ExperimentError(
                f"The model {model!r} is not served as when the run {self._run_id} began: {', '.join(changed)} changed.",
                fix="Start with fresh=True: one run does not mix answers of two setups.",
                run_id=self._run_id,
                changed=changed,
            )
        executors.setdefault(model, {"executor": executor, "why": why})
        self._store.update_run(self._run_id, provenance={**provenance, "engines": engines, "executors": executors})

    def note_grader(self, model: str, fingerprint: dict[str, Any]) -> None:
        """Note what grades answers.

        Raises:
            ExperimentError: When it is not what graded when the run began to be graded.
        """
        provenance = self._read()
        graders = dict(provenance.get("graders", {}))
        before = graders.setdefault(model, fingerprint)
        if before != fingerprint:
            changed = changed_names(before, fingerprint)
            raise ExperimentError(
                f"The grader {model!r} is not served as when it began to grade the run {self._run_id}: {', '.join(changed)} changed.",
                fix="Give it another name in another scorer, or start with fresh=True: one run does not mix grades of two setups.",
                run_id=self._run_id,
                changed=changed,
            )
        self._store.update_run(self._run_id, provenance={**provenance, "graders": graders})

    def forget_executor(self, model: str) -> None:
        """The executor noted last turned out not to work, before anything was answered."""
        provenance = self._read()
        for part in ("engines", "executors", "plans"):
            provenance[part] = {name: kept for name, kept in provenance.get(part, {}).items() if name != model}
        self._store.update_run(self._run_id, provenance=provenance)

    def note_plan(self, model: str, plan: Plan) -> None:
        """Note how far the plan of a model has come, after what came before."""
        provenance = self._read()
        plans = dict(provenance.get("plans", {}))
        whole = plan.after(Plan.from_dict(plans[model])) if model in plans else plan
        plans[model] = whole.as_dict()
        self._store.update_run(self._run_id, provenance={**provenance, "plans": plans})
