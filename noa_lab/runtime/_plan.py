"""What an installation would do, said before it does it."""

from __future__ import annotations

import html
import re
from dataclasses import asdict, dataclass
from typing import Any, Unpack

from noa_lab.errors import NoaLabError
from noa_lab.paths import Home
from noa_lab.runtime._options import InstallOptions, spelled_out
from noa_lab.runtime._wish import read_wish

__all__ = ["TRY", "InstallPlan", "Obstacle", "plan_install"]

TRY = "Try it in a child process: version, options, a server that loads a real model and answers 8 tokens"
"""The step that every llama.cpp has to pass before it is used."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands in the way.

    Attributes:
        message: What is missing or wrong.
        fix: What to do about it.
    """

    message: str
    fix: str

    @classmethod
    def of(cls, error: NoaLabError) -> Obstacle:
        """The error that the installation would raise, or go around."""
        return cls(error.message, error.fix)


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """What an installation would do, as far as it can be known without the network.

    Attributes:
        way: "auto", "release", "source", "system" or "path".
        steps: What would be done, in order, in words.
        otherwise: What would come next, in order, when it fails its trial.
        obstacles: What stands in the way already now; the installation goes around it where the steps say so, else ends with it.
        ready: Whether nothing is left to do.
    """

    way: str
    steps: tuple[str, ...]
    otherwise: tuple[str, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    ready: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{number}. {step}" for number, step in enumerate(self.steps, 1)]
        lines += [f"If it does not work here: {'; then '.join(self.otherwise)}."] if self.otherwise else []
        for obstacle in self.obstacles:
            lines += [f"! {obstacle.message}", f"  → {obstacle.fix}"]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A list; every text is escaped."""
        steps = "".join(f"<li>{html.escape(step)}</li>" for step in self.steps)
        rest = f"If it does not work here: {'; then '.join(self.otherwise)}." if self.otherwise else ""
        obstacles = "".join(
            f"<p><b>!</b> {_with_code(obstacle.message)}<br>→ {_with_code(obstacle.fix)}</p>"
            for obstacle in self.obstacles
        )
        return f"<ol>{steps}</ol>{f'<p>{html.escape(rest)}</p>' if rest else ''}{obstacles}"


def _with_code(text: str) -> str:
    """Escaped, with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


@spelled_out
def plan_install(home: Home, **options: Unpack[InstallOptions]) -> InstallPlan:
    """What `install` would do with these options; changes nothing, needs no network, takes a fraction of a second.

    What only the network can tell (which files a release has, whether it can be reached) is left open and said to be so.

    Args:
        home: The home.
        options: As for `install`.

    Raises:
        BadInput: When the options contradict each other, or name what does not exist.
    """
    from noa_lab.runtime._plan_ways import plan

    return plan(home, read_wish(options))
