"""The book that is kept of one model's cells while they are executed: what is left, what came back, what was lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.experiments.execution._answers import finished_values, score
from noa_lab.experiments.execution._losses import TRIES, Losses
from noa_lab.experiments.grid._cells import Cell
from noa_lab.experiments.store._writer import Change, describe_error
from noa_lab.inference import Completion

if TYPE_CHECKING:
    from noa_lab.experiments.score._base import Scorer

__all__ = ["Book"]


class Book:
    """What happens to the cells of one model.

    Args:
        cells: The cells, in the order of execution.
        put: Has a change recorded.
        stopping: Whether no further cell is to be begun.
        scorers: How answers are scored.
        variables: The inputs' fields, by input id.

    Attributes:
        left: The cells without a result, by id, in the order of execution.
        key: Tells what makes a cell the same question as another, see `cell_key`; set before the first is recorded.
        losses: How often the engine went away.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        put: Callable[[Change], None],
        stopping: Callable[[], bool],
        scorers: Sequence[Scorer],
        variables: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._put, self.stopping = put, stopping
        self._scorers, self._variables = scorers, variables
        self.left: dict[str, Cell] = {cell.cell_id: cell for cell in cells}
        self.key: Callable[[Cell], str] = _no_key
        self.losses = Losses()
        self._tries: dict[str, int] = {}

    def next_cells(self) -> list[list[Cell]]:
        """What is to be executed now, in groups, one group after the other.

        All cells are one group. Those under which the engine was lost before come last and each alone, so that one that always
        breaks the engine takes no innocent neighbour with it.
        """
        sound = [cell for cell_id, cell in self.left.items() if cell_id not in self._tries]
        return [sound] if sound else [[cell] for cell in self.left.values()]

    def begin(self, cell: Cell) -> None:
        """It is being asked for."""
        self._put(Change(cell.cell_id, "running", {}))

    def answered(self, cell: Cell, completion: Completion, executor: str) -> None:
        """Its answer is there."""
        self.losses.answered()
        self.done(cell, finished_values(completion, executor))

    def done(self, cell: Cell, values: Mapping[str, Any]) -> None:
        """It has an answer with these columns, new or copied."""
        self.left.pop(cell.cell_id, None)
        scores = score(self._scorers, values, self._variables[cell.input_id])
        self._put(Change(cell.cell_id, "done", {**values, "key": self.key(cell), "scores": scores}))

    def back(self, cell: Cell) -> None:
        """It was not answered, and nobody is to blame."""
        self._put(Change(cell.cell_id, "pending", {}))

    def failed(self, cell: Cell, error: BaseException) -> None:
        """It cannot be answered."""
        self.left.pop(cell.cell_id, None)
        self._put(Change(cell.cell_id, "failed", {"error": describe_error(error)}))

    def lost(self, cell: Cell, error: Exception) -> None:
        """The engine went away under it: it is tried again, a bounded number of times."""
        tries = self._tries[cell.cell_id] = self._tries.get(cell.cell_id, 0) + 1
        if tries >= TRIES:
            self.failed(cell, error)
        else:
            self.back(cell)


def _no_key(cell: Cell) -> str:
    raise AssertionError(cell)
