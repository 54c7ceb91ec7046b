"""The command line and the environment of a llama-server.

Facts about flags, configuration files and environment variables: llama.cpp b11312, `common/arg.cpp`. Three things decide what a
llama-server does beside its arguments, and all three are shut out: variables (LLAMA_ARG_*, AIP_*), the user's configuration file
(XDG_CONFIG_HOME points to an empty folder) and the working folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from noa_lab.errors import BadInput, ServerError
from noa_lab.runtime import PATIENT_THREADS, refuse_known_bad

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.runtime import Runtime
    from noa_lab.server._settings import ServerSettings

__all__ = ["Launch", "plan_launch", "scrubbed_environment", "server_name"]

_KEPT_VARIABLES = frozenset(
    re.findall(
        r"\w+",
        """PATH HOME USER LOGNAME TMPDIR TEMP TMP LANG LC_ALL LC_CTYPE TZ SYSTEMROOT WINDIR SYSTEMDRIVE USERPROFILE
        NUMBER_OF_PROCESSORS LD_LIBRARY_PATH DYLD_LIBRARY_PATH CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER NVIDIA_VISIBLE_DEVICES
        HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HSA_OVERRIDE_GFX_VERSION GGML_VK_VISIBLE_DEVICES ONEAPI_DEVICE_SELECTOR
        ZE_AFFINITY_MASK OMP_WAIT_POLICY""",
    )
)
_REQUIRED = ("--model", "--ctx-size", "--parallel", "--host", "--port")


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that starts one llama-server, but for its secrets.

    Attributes:
        argv: Program and arguments; no secret is among them.
        settings: The settings after `ServerSettings.resolved`.
        notes: In words, what this binary or machine cannot honour.
        fingerprint: Equal for two launches that one server can serve: model bytes, settings, runtime.
        alias: The name under which llama-server reports the model.
    """

    argv: tuple[str, ...]
    settings: ServerSettings
    notes: tuple[str, ...]
    fingerprint: str
    alias: str


def server_name(model: str) -> str:
    """`model` as the name of a folder, an alias and a log file: letters, digits, dot, dash and underscore."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")
    return name[:60] or "model"


def plan_launch(runtime: Runtime, model: ModelFile, settings: ServerSettings) -> Launch:
    """The launch of `model` on `runtime`.

    Raises:
        BadInput: When the model's path cannot be handed to llama-server.
        ServerError: When this llama-server lacks an option without which it cannot be supervised.
        SetupError: When a known fault of this build forbids to start it so.
        UnknownName: When the runtime has no llama-server.
    """
    path = str(Path(model.path).absolute())
    if any(ord(character) < 32 for character in path):
        # Such a path could fake lines of the server's log, and the log is where the port is read.
        raise BadInput(
            f"The model's path {path!r} holds control characters.", fix="Rename the file.", field="path", value=path
        )
    chosen, notes = settings.resolved(runtime, model)
    alias = server_name(model.name)
    arguments, missing = _arguments(chosen, path, alias, frozenset(runtime.server_flags))
    lost = [flag for flag in missing if flag in _REQUIRED]
    if lost:
        raise ServerError(
            f"llama-server of runtime {runtime.id} ({runtime.tag}) does not understand {', '.join(lost)}.",
            fix="Install another llama.cpp: `noa-lab install`.",
            runtime=runtime.id,
            flags=lost,
        )
    notes += tuple(f"llama-server of runtime {runtime.id} has no option {flag}: it runs without." for flag in missing)
    advice = refuse_known_bad(runtime.build_number, arguments)
    # Of a build without a number nothing certain can be said at every start; `check` says what there is.
    notes += tuple(str(each) for each in advice if each.action == "warn" and runtime.build_number > 1)
    return Launch(
        argv=(str(runtime.tool("llama-server")), *arguments),
        settings=chosen,
        notes=notes,
        fingerprint=_fingerprint(runtime, model, chosen),
        alias=alias,
    )


def _arguments(s: ServerSettings, path: str, alias: str, known: frozenset[str]) -> tuple[list[str], list[str]]:
    """The arguments this binary understands, and the options (long names) that it lacks."""
    wanted: list[tuple[str, str, str | None]] = [
        ("-m", "--model", path),
        ("-a", "--alias", alias),
        ("--host", "--host", "127.0.0.1"),
        ("--port", "--port", "0"),
        ("-c", "--ctx-size", str(s.context_size * s.slots)),
        ("-np", "--parallel", str(s.slots)),
        ("-no-kvu", "--no-kv-unified", None),
        ("-t", "--threads", str(s.threads)),
        ("-b", "--batch-size", str(s.batch_size)),
        ("-ub", "--ubatch-size", str(min(s.ubatch_size, s.batch_size))),
        ("-ngl", "--gpu-layers", "all" if s.gpu_layers < 0 else str(s.gpu_layers)),
        ("-fa", "--flash-attn", s.flash_attention),
        ("--metrics", "--metrics", None),
        ("--slots", "--slots", None),
        ("--no-ui", "--no-webui", None),
        ("--cors-origins", "--cors-origins", "localhost"),
        ("--offline", "--offline", None),
    ]
    arguments: list[str] = []
    missing: list[str] = []
    for short, long, value in wanted:
        flag = short if not known or short in known else long
        if known and flag not in known:
            missing.append(long)
            continue
        arguments.append(flag)
        if value is not None:
            arguments.append(value)
    return arguments, missing


def _fingerprint(runtime: Runtime, model: ModelFile, settings: ServerSettings) -> str:
    identity = model.sha256
    if not identity:
        found = model.path.stat() if model.path.exists() else None
        identity = f"{model.path}:{model.size_bytes}:{found.st_mtime_ns if found else 0}"
    parts = {"model": identity, "name": model.name, "runtime": runtime.id, "settings": settings.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def scrubbed_environment(environment: Mapping[str, str], *, api_key: str, empty_folder: Path) -> dict[str, str]:
    """The environment of llama-server: what a program needs to run and to find its GPUs, and nothing that steers or that is secret.

    Args:
        environment: The environment to take from.
        api_key: The key that llama-server shall ask for; the environment is the one way that no other user can read.
        empty_folder: Where llama-server looks for the user's configuration file, and finds none.
    """
    kept = {name: value for name, value in environment.items() if name.upper() in _KEPT_VARIABLES}
    return {**PATIENT_THREADS, **kept, "LLAMA_API_KEY": api_key, "XDG_CONFIG_HOME": str(empty_folder)}
