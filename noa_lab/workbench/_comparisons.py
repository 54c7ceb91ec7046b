"""The verbs about comparisons and their runs."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab import runtime
from noa_lab.paths import Home
from noa_lab.workbench._served_models import get_model, resolve_model
from noa_lab.workbench._trees import Trees
from noa_lab.workbench._wishes import server_wish

if TYPE_CHECKING:
    from noa_lab.experiments import (
        Budget,
        EngineWish,
        Estimate,
        Grid,
        Requested,
        Run,
        RunList,
        Scorer,
        Store,
    )
    from noa_lab.inference import InferenceConfig, InferenceEngine
    from noa_lab.models import ModelFile, Models
    from noa_lab.server import Server
    from noa_lab.server.config import ServerConfig

__all__ = ["Comparisons"]

_PAST_RUNS = 50
"""Newest runs from which the time of the next is estimated."""


class Comparisons(abc.ABC):
    """What a `Lab` can do with comparisons, over the models and servers that it has."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._store_lock = threading.Lock()  # protects the one above: panels ask for it from threads of their own
        self.on_run: Callable[[Run], object] | None = None
        """Called with each run that `compare` starts; in a notebook it shows the live view."""

    @property
    @abc.abstractmethod
    def home(self) -> Home:
        """Where everything is kept."""

    @property
    @abc.abstractmethod
    def models(self) -> Models:
        """The models."""

    @abc.abstractmethod
    def server_config(self, path: str | Path | None = None) -> ServerConfig:
        """What server.yaml and the environment say."""

    @abc.abstractmethod
    def serve(self, ref: str | None = None, **settings: Any) -> Server:
        """A llama-server with this model."""

    @property
    def store(self) -> Store:
        """Where the runs are kept."""
        from noa_lab.experiments import Store

        path = self.home.runs_db
        with self._store_lock:
            if self._store is None or self._store.path != path:
                if self._store is not None:
                    self._store.close()  # a run that goes on there opens it again
                self._store = Store(path)
            return self._store

    def compare(
        self,
        grid: Grid,
        scorers: Sequence[Scorer] = (),
        *,
        fresh: bool = False,
        name: str = "",
        executor: Requested = "auto",
        budget: Budget | None = None,
    ) -> Run:
        """Run prompts x inputs x models x sampling x repeats and keep every answer.

        Returns at once; in a notebook a live view appears. The same grid again continues its newest run. What a sampling leaves open
        is as the nearest server.yaml's `inference` says, else as `InferenceConfig` does.

        Args:
            grid: What to run; without models, the default model.
            scorers: How answers are scored, from `noa_lab.score`.
            fresh: Start another run, reusing no answer.
            name: What to call the run.
            executor: How the cells are asked for. "auto" takes what is fastest; "plain" is one request a cell; "lanes" and "tree"
                evaluate once what prompts share; "strict" reuses nothing, one request at a time; "latency" does so with the prompts
                taking turns, and is the only one whose times can be compared.
            budget: What the run may use up; then it pauses.

        Raises:
            TemplateInvalid: When a template uses a variable that an input lacks.
            UnknownModel: When the grid names a model that does not exist.
            ConfigInvalid: When the nearest server.yaml is wrong.
            RuntimeMissing: When llama.cpp is not installed.
        """
        from noa_lab import experiments

        config = self.server_config()
        grid = self._settled(grid)
        for ref in (*grid.models, *experiments.grader_models(scorers)):
            resolve_model(config, ref, self.models)
        runtime.current(self.home)
        run = experiments.start(
            grid,
            tuple(scorers),
            store=self.store,
            engine_for=self.engine_for,
            identity_for=self._identity,
            hindrance=self._hindrance,
            fresh=fresh,
            name=name,
            executor=executor,
            budget=budget,
        )
        if self.on_run is not None:
            self.on_run(run)
        return run

    def _settled(self, grid: Grid) -> Grid:
        """The grid with the models and samplings that it leaves open."""
        config = self.server_config()
        grid = grid.with_default_model(self.models.default)
        return grid.replace(sampling=[_complete(one.over(config.inference)) for one in grid.sampling])

    @contextmanager
    def engine_for(self, ref: str, wish: EngineWish | None = None) -> Iterator[InferenceEngine]:
        """An engine for this model on a server that is held for as long as the block runs; for a tree, in a process of its own.

        Args:
            ref: The model, as for `serve`.
            wish: What a comparison wants it for; None: the server that everybody shares.
        """
        if wish is not None and wish.executor == "tree":
            with self._trees.engine(self._get(ref, wish), wish, self.server_config().settings(ref)) as engine:
                yield engine
            return
        settings: dict[str, Any] = {}
        options: dict[str, Any] = {}
        if wish is not None:
            settings, options = server_wish(wish, self._get(ref, wish).metadata)
            settings |= {"cancel": wish.cancel, "report": wish.report}
        with self.serve(ref, **settings) as server, server.engine(**options) as engine:
            yield engine

    def estimate(self, grid: Grid) -> Estimate:
        """What a comparison will take: answers, tokens and, where its models have answered before, minutes. Starts nothing.

        Raises:
            TemplateInvalid: When a template uses a variable that an input lacks.
            ConfigInvalid: When the nearest server.yaml is wrong.
        """
        from noa_lab import experiments

        grid = self._settled(grid)
        known = {ref: self._identity(ref) for ref in grid.models}
        past = [
            experiments.Plan.from_dict(plan)
            for provenance in self.store.provenances(_PAST_RUNS)
            for ref, plan in provenance.get("plans", {}).items()
            if provenance.get("identities", {}).get(ref) == known.get(ref)
        ]
        here = {ref: self._here(ref) for ref in grid.models}
        templates = {ref: model.metadata.chat_template for ref, model in here.items() if model is not None}
        return experiments.estimate(grid, past, templates)

    def newest_run(self, grid: Grid, *, executor: Requested = "auto") -> Run | None:
        """The run of this grid that `compare` would go on with, in whatever state it is; None where there is none. Starts nothing.

        Args:
            grid: As for `compare`.
            executor: As for `compare`: a grid has runs of its own by each executor.

        Raises:
            ConfigInvalid: When the nearest server.yaml is wrong.
            RuntimeMissing: When llama.cpp is not installed.
        """
        grid = self._settled(grid)
        found = self.store.newest_run(grid, executor, {ref: self._identity(ref) for ref in grid.models})
        return None if found is None else self.open_run(found)

    def runs(self, tag: str | None = None, *, deleted: bool = False) -> RunList:
        """The runs, newest first. A table in a notebook; `pandas.DataFrame(lab.runs())` has all that is known of them.

        Args:
            tag: Only those with this label.
            deleted: Those in the bin instead.
        """
        from noa_lab import experiments

        return experiments.list_runs(self.store, tag=tag, deleted=deleted)

    def export_run(self, run_id: str, path: str | Path) -> Path:
        """Write a run, with every answer, into a zip that `import_run` reads; the file is replaced.

        Raises:
            UnknownName: When there is no such run.
            BadInput: When the file cannot be written.
        """
        from noa_lab import experiments

        return experiments.export_run(self.store, run_id, path)

    def import_run(self, path: str | Path) -> Run:
        """Take a run out of a zip that `export_run` has written, here or elsewhere.

        Raises:
            BadInput: When the file is no exported run, or is damaged; nothing is kept of it then.
        """
        from noa_lab import experiments

        return self.open_run(experiments.import_run(self.store, path))

    def delete_run(self, run_id: str) -> None:
        """Put a run into the bin; `restore_run` takes it out again.

        Raises:
            UnknownName: When there is no such run.
            RunBusy: While it is being executed.
        """
        from noa_lab import experiments

        experiments.delete(self.store, run_id)

    def restore_run(self, run_id: str) -> None:
        """Take a run out of the bin.

        Raises:
            UnknownName: When there is no such run.
        """
        from noa_lab import experiments

        experiments.restore(self.store, run_id)

    def open_run(self, run_id: str) -> Run:
        """A run by its id; it can be read, continued and reported on.

        Raises:
            UnknownName: When there is no such run.
        """
        from noa_lab import experiments

        return experiments.open_run(
            self.store,
            run_id,
            engine_for=self.engine_for,
            identity_for=self._identity,
            hindrance=self._hindrance,
        )

    @property
    def _trees(self) -> Trees:
        return Trees(self.home)

    def _hindrance(self, ref: str, wish: EngineWish) -> str:
        """What stands against a tree for this model, see `experiments.start`."""
        return self._trees.hindrance(self._get(ref, wish), wish, self.server_config().settings(ref))

    def _get(self, ref: str, wish: EngineWish) -> ModelFile:
        return get_model(self.server_config(), ref, self.models, report=wish.report, cancel=wish.cancel)

    def _here(self, ref: str) -> ModelFile | None:
        """The model, if its bytes are on this machine."""
        reference = resolve_model(self.server_config(), ref, self.models)
        return self.models.get(reference) if Path(reference).is_file() else self.models.find(reference)

    def _identity(self, ref: str) -> dict[str, Any]:
        """What answers for this model come from, known without a server; a model that is not here yet has no sha256."""
        found = self._here(ref)
        known: dict[str, Any] = {"runtime": runtime.current(self.home).id}
        return known | ({"model_sha256": found.sha256} if found is not None and found.sha256 else {})


def _complete(config: InferenceConfig) -> InferenceConfig:
    """The same with every field said: what a run has recorded holds whatever server.yaml says later."""
    return type(config)(**config.model_dump())
