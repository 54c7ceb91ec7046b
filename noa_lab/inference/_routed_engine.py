"""The engine that asks one of several models behind a router."""

from __future__ import annotations

from noa_lab.inference._api import Recover
from noa_lab.inference._protocol import Mode
from noa_lab.inference._server_engine import LlamaInferenceEngine

__all__ = ["RoutedEngine"]


class RoutedEngine(LlamaInferenceEngine):
    """An `InferenceEngine` over a model of a router: noa_lab's own (`noa_lab.server.router`), or llama-server's router mode.

    Each request names the model; the router loads it when it is first asked for. `Completion.model` says which one answered.

    Args:
        base_url: The router's address, without "/v1".
        model_name: A name of the router's, or a task tag ("code", "general", ...), which means a model that has it.
        api_key: The router's key; never shown.
        mode: "fast" or "strict" (see `Mode`).
        cache_prompt: Whether a slot may reuse the start of its last prompt.
        patience: Seconds of silence after which a request is given up. Waiting for the model to be loaded is not silence as long as
            the router answers.
        recover: Awaited when the router went away under a request that had not brought a token (see `Recover`).

    Raises, beside what every engine raises: `UnknownModel` when the router has no such model or tag.
    """

    def __init__(
        self,
        base_url: str,
        model_name: str,
        api_key: str | None = None,
        *,
        mode: Mode = "fast",
        cache_prompt: bool = True,
        patience: float = 300.0,
        recover: Recover | None = None,
    ) -> None:
        super().__init__(
            base_url, model_name, api_key, mode=mode, cache_prompt=cache_prompt, patience=patience, recover=recover
        )
        self._api.model = model_name
