"""What llama-server tells of itself: the raw answers, with typed views of what is asked for most."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["Metrics", "Props", "Slot"]

_SAMPLE = re.compile(r"^llamacpp:([a-z_]+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class Props(dict[str, Any]):
    """The answer of `/props`, whole; properties for what is used most."""

    @property
    def context_size(self) -> int:
        """Tokens of one slot, prompt and answer together; 0 where it is not told (a router)."""
        settings = self.get("default_generation_settings") or {}
        return int(settings.get("n_ctx") or 0)

    @property
    def slots(self) -> int:
        """Requests worked on at the same time; 0 where it is not told."""
        return int(self.get("total_slots") or 0)

    @property
    def model_name(self) -> str:
        """The server's name for its model."""
        return str(self.get("model_alias") or self.get("model_path") or "")

    @property
    def model_path(self) -> str:
        """The model's file on the server."""
        return str(self.get("model_path") or "")

    @property
    def build(self) -> str:
        """llama.cpp's build, for example "b11312-0c1e57098"."""
        return str(self.get("build_info") or "")

    @property
    def chat_template(self) -> str:
        """The template in use; a server gives a model without one a template of its own."""
        return str(self.get("chat_template") or "")

    @property
    def supports_tools(self) -> bool:
        """Whether the template has a place for tools; where it has none, llama-server leaves tools out without a word."""
        return bool((self.get("chat_template_caps") or {}).get("supports_tools"))


class Slot(dict[str, Any]):
    """One slot of `/slots`, whole; properties for what is used most."""

    @property
    def id(self) -> int:
        """Its number."""
        return int(self.get("id", -1))

    @property
    def busy(self) -> bool:
        """Whether it works on a request."""
        return bool(self.get("is_processing"))

    @property
    def context_size(self) -> int:
        """Its tokens, prompt and answer together."""
        return int(self.get("n_ctx") or 0)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt that it works on or worked on last; 0 where it has had none."""
        return int(self.get("n_prompt_tokens") or 0)


class Metrics(dict[str, float]):
    """The counters of `/metrics` by name, without the prefix "llamacpp:" (for example `tokens_predicted_total`).

    Attributes:
        text: The answer as it came, in Prometheus' format.
    """

    def __init__(self, text: str) -> None:
        super().__init__({name: float(value) for name, value in _SAMPLE.findall(text)})
        self.text = text
