"""The options of an installation, in the one place where they are spelled out: `install`, `plan_install` and the Lab's verbs take these."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, TypeVar, get_type_hints

__all__ = ["DEFAULTS", "InstallOptions", "spelled_out"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class InstallOptions(TypedDict, total=False):
    """What may be said about the llama.cpp to install; what is left out noa_lab decides."""

    source: str | Path
    """The way: "auto"; "release" (prebuilt); "source" (compiled here); "system" (conda's, Homebrew's or the one on PATH, used where it
    is); or the path of an archive or a folder of programs, which are copied. Default: "auto"."""
    tag: str | None
    """Release: "b11312", "latest-stable" or "latest-nightly". Default: the pinned one. Implies "release"."""
    backend: str | None
    """"cpu", "cuda", "vulkan", "rocm", "metal", or one exact build of a release ("cuda-12.4"). Default: what suits this machine."""
    native: bool
    """Compile for this very CPU: faster, and dies on CPUs that advertise what they must not use. Default: no. Implies "source"."""
    mirror: str | None
    """Address of a copy of llama.cpp's releases. Default: GitHub. Implies "release"."""
    source_path: str | Path | None
    """An archive, a checkout or a folder of llama.cpp's source. Default: the pinned source. Implies "source"."""


DEFAULTS = InstallOptions(source="auto", tag=None, backend=None, native=False, mirror=None, source_path=None)
"""What each option is when it is left out."""


def spelled_out(function: _Function) -> _Function:
    """Name each option in the signature of a function that takes `**options: Unpack[InstallOptions]`.

    Type checkers read the `Unpack`; help(), Jupyter's tooltips and completion read the signature.
    """
    plain = inspect.signature(function)
    hints = get_type_hints(InstallOptions)
    named = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
        for name, default in DEFAULTS.items()
    ]
    others = list(plain.parameters.values())
    catch_all = others.pop()
    assert catch_all.kind is inspect.Parameter.VAR_KEYWORD, "it takes the options as **options"
    first = [each for each in others if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    last = [each for each in others if each.kind is inspect.Parameter.KEYWORD_ONLY]
    function.__signature__ = plain.replace(parameters=[*first, *named, *last])  # type: ignore[attr-defined]
    return function
