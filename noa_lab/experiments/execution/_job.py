"""What executing a run takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.experiments.execution._provenance import Provenance
from noa_lab.experiments.execution._wish import EngineFor, EngineWish, Hindrance, Requested
from noa_lab.experiments.grid._conversations import Conversations
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.store._store import Store
from noa_lab.experiments.store._writer import Change
from noa_lab.inference import InferenceEngine

if TYPE_CHECKING:
    from noa_lab.experiments.score._base import Scorer

__all__ = ["Job"]


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that executing a run takes.

    Attributes:
        store: Where the run is.
        run_id: The run.
        grid: Its grid.
        conversations: Its conversations.
        scorers: How answers are scored.
        engine_for: Opens a model's engine.
        hindrance: Tells what stands against the executor "tree"; None where there is none to be had.
        report: Told how far the opening of a model is.
        cancel: Gives up what is being opened.
        put: Takes what happens to a cell.
        stopping: Whether no further cell is to be begun.
        requested: The executor that was asked for.
        reuse: Whether answers of other runs may be taken over.
        provenance: What the answers depend on beside the grid.
    """

    store: Store
    run_id: str
    grid: Grid
    conversations: Conversations
    scorers: Sequence[Scorer]
    engine_for: EngineFor
    put: Callable[[Change], None]
    stopping: Callable[[], bool]
    requested: Requested
    reuse: bool
    provenance: Provenance
    hindrance: Hindrance | None = None
    report: Report = silent
    cancel: CancelToken = field(default_factory=CancelToken)

    @contextmanager
    def open(self, model: str, wish: EngineWish) -> Iterator[InferenceEngine]:
        """Opens the engine of a model.

        Raises:
            Cancelled: When the run was cancelled or paused meanwhile.
        """
        self.report(Progress(f"Open {model}"))
        with self.engine_for(model, self._watched(wish)) as engine:
            self.report(Progress(f"Open {model}", finished=True))
            yield engine

    def against_a_tree(self, model: str, wish: EngineWish) -> str:
        """What stands against the executor "tree", see `Hindrance`; a model that is not here yet is downloaded to find that out.

        Raises:
            Cancelled: When the run was cancelled or paused meanwhile.
        """
        assert self.hindrance is not None
        return self.hindrance(model, self._watched(wish))

    def _watched(self, wish: EngineWish) -> EngineWish:
        return replace(wish, cancel=self.cancel, report=self.report)

    @property
    def variables(self) -> Mapping[str, Mapping[str, Any]]:
        """The inputs' fields, by input id."""
        return {found.id: found.variables for found in self.grid.inputs}
