"""A router as the one who holds it sees it."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from noa_lab.errors import UnknownModel
from noa_lab.server._holding import Hold
from noa_lab.server._http import ask_json
from noa_lab.server._server import Server
from noa_lab.server.router._plan import RouterPlan

if TYPE_CHECKING:
    from noa_lab.inference import Mode, RoutedEngine
    from noa_lab.paths import Home
    from noa_lab.server._settings import ServerSettings

__all__ = ["Router"]


class Router(Server):
    """A router that this process holds, as a `Server` is held: its models' servers end with it.

    `base_url` and `api_key` serve any OpenAI-compatible program on this machine.
    """

    def __init__(self, home: Home, hold: Hold, plan: RouterPlan) -> None:
        default = next(one for one in plan.models if one.name == plan.default)
        super().__init__(home, hold, default.file)
        self._plan = plan

    @property
    def names(self) -> tuple[str, ...]:
        """What requests can call models by, in server.yaml's order."""
        return self._plan.names

    @property
    def default(self) -> str:
        """The model for requests that name none."""
        return self._plan.default

    @property
    def settings(self) -> ServerSettings:
        """How the default model's server is run."""
        return next(one.settings for one in self._plan.models if one.name == self.default)

    def models(self) -> list[dict[str, Any]]:
        """How each model is now: the entries of `GET /v1/models`.

        Raises:
            InferenceError: When the router does not answer.
        """
        listed = ask_json(self.base_url, "/v1/models", api_key=str(self._record.api_key))
        return list(listed["data"])

    def engine(self, model: str | None = None, *, mode: Mode = "fast") -> RoutedEngine:
        """An `InferenceEngine` on one of the models; as long as it is referred to, the router stays held.

        A request that had brought no token when the router died is sent again once it is back; others fail by name.

        Args:
            model: A name or a task tag; None for the default. The model is loaded when it is first asked.
            mode: "fast" or "strict" (see `noa_lab.inference.Mode`).

        Raises:
            ServerMissing: When this hold was let go of.
            UnknownModel: When it is neither.
        """
        from noa_lab.inference import RoutedEngine

        key = str(self._record.api_key)
        return self._lend(
            RoutedEngine(self.base_url, self._resolve(model), api_key=key, mode=mode, recover=self._recover)
        )

    def _resolve(self, model: str | None) -> str:
        """`model` if it is a name or a tag; the default's name for None."""
        if model is None:
            return self.default
        if self._plan.resolve(model) is None:
            tags = {tag for one in self._plan.models for tag in one.tags}
            raise UnknownModel.among("model or task tag", model, (*self.names, *tags), where=f"the router {self.name}")
        return model

    def __repr__(self) -> str:
        return f"<Router {self.name}: {self.state}, {', '.join(self.names)} at {self.base_url}, pid {self.pid}>"

    def _repr_html_(self) -> str:
        facts = f"{len(self.names)} models: {', '.join(self.names)} · default {self.default} · pid {self.pid}"
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        return (
            f"<div><b>{html.escape(self.name)}</b> is {html.escape(self.state)} at <code>{html.escape(self.base_url)}</code></div>"
            f'<div style="opacity:.7;font-size:85%">{html.escape(facts)}{notes}</div>'
        )
