"""The command line and the environment of a llama-server.

Facts about flags, configuration files and environment variables: llama.cpp b11312, `common/arg.cpp`. Three things decide what a
llama-server does beside its arguments, and all three are shut out: variables (LLAMA_ARG_*, AIP_*), the user's configuration file
(XDG_CONFIG_HOME points to an empty folder) and the working folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from noa_lab.errors import BadInput, ServerError
from noa_lab.models.memory import prompt_cache_bytes
from noa_lab.runtime import refuse_known_bad, with_patient_threads
from noa_lab.server._options import option_arguments

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.runtime import Runtime
    from noa_lab.server._settings import ServerSettings
    from noa_lab.server.tuning._tuned import Tuned

__all__ = ["Launch", "plan_launch", "scrubbed_environment", "server_name"]

_KEPT_VARIABLES = frozenset(
    re.findall(
        r"\w+",
        """PATH HOME USER LOGNAME TMPDIR TEMP TMP LANG LC_ALL LC_CTYPE TZ SYSTEMROOT WINDIR SYSTEMDRIVE USERPROFILE
        NUMBER_OF_PROCESSORS LD_LIBRARY_PATH DYLD_LIBRARY_PATH CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER NVIDIA_VISIBLE_DEVICES
        HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HSA_OVERRIDE_GFX_VERSION GGML_VK_VISIBLE_DEVICES ONEAPI_DEVICE_SELECTOR
        ZE_AFFINITY_MASK OMP_WAIT_POLICY GOMP_SPINCOUNT""",
    )
)
_REQUIRED = ("--model", "--ctx-size", "--parallel", "--host", "--port")
_FLASH_TAKES_A_VALUE = 6325
"""First build whose `-fa` is followed by on, off or auto."""
_OLD_LOAD_MODES = {"none": ("--no-mmap",), "mlock": ("--mlock", "--no-mmap"), "mmap+mlock": ("--mlock",), "mmap": ()}
"""What `--load-mode` was called before build 10884."""
_POOLING_KEY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that starts one llama-server, but for its secrets.

    Attributes:
        argv: Program and arguments; no secret is among them.
        settings: The settings after `ServerSettings.resolved`.
        notes: In words, what this binary or machine cannot honour.
        fingerprint: Equal for two launches that one server can serve: model bytes, settings, runtime.
        alias: The name under which llama-server reports the model.
        origins: Where the value of each setting comes from.
    """

    argv: tuple[str, ...]
    settings: ServerSettings
    notes: tuple[str, ...]
    fingerprint: str
    alias: str
    origins: dict[str, str] = field(default_factory=dict)


def server_name(model: str) -> str:
    """`model` as the name of a folder, an alias and a log file: letters, digits, dot, dash and underscore."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")
    return name[:60] or "model"


def plan_launch(
    runtime: Runtime, model: ModelFile, settings: ServerSettings, *, tuned: Tuned | None = None, verbosity: int = 3
) -> Launch:
    """The launch of `model` on `runtime`.

    Args:
        runtime: The llama.cpp to run.
        model: The model to serve.
        settings: How to run it.
        tuned: What was measured for this model, machine and build.
        verbosity: How much llama-server writes into its log, as its `-lv`; at least 3, because the log is read.

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
    chosen = settings.resolved(runtime, model, tuned)
    alias = server_name(model.name)
    arguments, missing = _arguments(chosen.settings, path, alias, runtime, max(3, verbosity))
    lost = [flag for flag in missing if flag in _REQUIRED]
    if lost:
        raise ServerError(
            f"llama-server of runtime {runtime.id} ({runtime.tag}) does not understand {', '.join(lost)}.",
            fix="Install another llama.cpp: `noa-lab install`.",
            runtime=runtime.id,
            flags=lost,
        )
    notes = chosen.notes + tuple(
        f"llama-server of runtime {runtime.id} has no option {flag}: it runs without." for flag in missing
    )
    advice = refuse_known_bad(runtime.build_number, arguments)
    # Of a build without a number nothing certain can be said at every start; `check` says what there is.
    notes += tuple(str(each) for each in advice if each.action == "warn" and runtime.build_number > 1)
    return Launch(
        argv=(str(runtime.tool("llama-server")), *arguments),
        settings=chosen.settings,
        notes=notes,
        fingerprint=_fingerprint(runtime, model, chosen.settings),
        alias=alias,
        origins=chosen.origins,
    )


@dataclass(frozen=True, slots=True)
class _Flag:
    """An option to be given: its short and long name, its value, and whether its absence is to be said."""

    short: str
    long: str
    value: str | None = None
    said: bool = True


def _arguments(
    s: ServerSettings, path: str, alias: str, runtime: Runtime, verbosity: int
) -> tuple[list[str], list[str]]:
    """The arguments this binary understands, and the options (long names) that it lacks and whose absence matters."""
    known = frozenset(runtime.server_flags)
    arguments: list[str] = []
    missing: list[str] = []
    wanted = [*_places(s, path, alias), *_sizes(s), *_optional(s, path, runtime, verbosity), *_closed()]
    for flag in wanted:
        name = flag.short if not known or flag.short in known else flag.long
        if known and name not in known:
            missing += [flag.long] if flag.said else []
            continue
        arguments += [name] if flag.value is None else [name, flag.value]
    further, lacking = option_arguments(s.options, known)
    return arguments + further, missing + lacking


def _places(s: ServerSettings, path: str, alias: str) -> list[_Flag]:
    flags = [
        _Flag("-m", "--model", path),
        _Flag("-a", "--alias", alias),
        _Flag("--host", "--host", s.host),
        _Flag("--port", "--port", str(s.port)),
    ]
    # With it the watcher holds the port from before the start until after the end: see `_port`.
    return [*flags, _Flag("--reuse-port", "--reuse-port", said=False)] if hasattr(socket, "SO_REUSEPORT") else flags


def _sizes(s: ServerSettings) -> list[_Flag]:
    return [
        _Flag("-c", "--ctx-size", str(s.context_size * s.slots)),
        _Flag("-np", "--parallel", str(s.slots)),
        _Flag("-no-kvu", "--no-kv-unified"),
        _Flag("-t", "--threads", str(s.threads)),
        _Flag("-tb", "--threads-batch", str(s.threads_batch)),
        _Flag("-b", "--batch-size", str(s.batch_size)),
        _Flag("-ub", "--ubatch-size", str(s.ubatch_size)),
        # More than any model has, because old builds take numbers alone.
        _Flag("-ngl", "--gpu-layers", "9999" if s.gpu_layers < 0 else str(s.gpu_layers)),
    ]


def _optional(s: ServerSettings, path: str, runtime: Runtime, verbosity: int) -> list[_Flag]:
    """What is given only where it differs from llama-server's default, so that old builds without it serve as well."""
    flags = [*_flash(s, runtime), *_load_mode(s, runtime), *_prompt_cache(s)]
    flags += [_Flag("-ctk", "--cache-type-k", s.cache_type_k)] if s.cache_type_k != "f16" else []
    flags += [_Flag("-ctv", "--cache-type-v", s.cache_type_v)] if s.cache_type_v != "f16" else []
    flags += [_Flag("-lv", "--log-verbosity", str(verbosity))] if verbosity > 3 else []
    if s.embeddings:
        flags.append(_Flag("--embeddings", "--embedding"))
        pooling = s.pooling or ("" if _has_pooling(path) else "mean")
        flags += [_Flag("--pooling", "--pooling", pooling)] if pooling else []
    return flags


def _flash(s: ServerSettings, runtime: Runtime) -> list[_Flag]:
    if "--flash-attn" in runtime.server_switches or 1 < runtime.build_number < _FLASH_TAKES_A_VALUE:
        return [_Flag("-fa", "--flash-attn")] if s.flash_attention == "on" else []
    return [_Flag("-fa", "--flash-attn", s.flash_attention)]


def _prompt_cache(s: ServerSettings) -> list[_Flag]:
    """How much memory earlier prompts may be kept in: llama-server's own 8 GiB are more than many machines have."""
    if "cache-ram" in s.options:
        return []
    return [_Flag("-cram", "--cache-ram", str(prompt_cache_bytes() // 2**20), said=False)]


def _load_mode(s: ServerSettings, runtime: Runtime) -> list[_Flag]:
    if s.load_mode == "auto":
        return []
    flags = runtime.server_flags
    if flags and "--load-mode" not in flags and s.load_mode in _OLD_LOAD_MODES:
        return [_Flag(old, old) for old in _OLD_LOAD_MODES[s.load_mode]]
    return [_Flag("-lm", "--load-mode", s.load_mode)]


def _has_pooling(path: str) -> bool:
    """Whether the model itself says how its token embeddings are pooled (a key of its header that ends in `.pooling_type`)."""
    try:
        with Path(path).open("rb") as file:
            return b".pooling_type" in file.read(_POOLING_KEY_BYTES)
    except OSError:
        return False


def _closed() -> list[_Flag]:
    return [
        _Flag("--metrics", "--metrics"),
        _Flag("--slots", "--slots"),
        _Flag("--no-ui", "--no-webui"),
        _Flag("--cors-origins", "--cors-origins", "localhost"),
        _Flag("--offline", "--offline"),
        # Everything that it could fit is said above; what is left of it is half a second of looking at each start.
        _Flag("-fit", "--fit", "off", said=False),
    ]


def _fingerprint(runtime: Runtime, model: ModelFile, settings: ServerSettings) -> str:
    identity = model.sha256
    if not identity:
        found = model.path.stat() if model.path.exists() else None
        identity = f"{model.path}:{model.size_bytes}:{found.st_mtime_ns if found else 0}"
    same = settings.model_dump(mode="json", exclude={"allow_remote"})
    parts = {"model": identity, "name": model.name, "runtime": runtime.id, "settings": same}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def scrubbed_environment(environment: Mapping[str, str], *, api_key: str, empty_folder: Path) -> dict[str, str]:
    """The environment of llama-server: what a program needs to run and to find its GPUs, and nothing that steers or that is secret.

    Args:
        environment: The environment to take from.
        api_key: The key that llama-server shall ask for; the environment is the one way that no other user can read.
        empty_folder: Where llama-server looks for the user's configuration file, and finds none.
    """
    kept = {name: value for name, value in environment.items() if name.upper() in _KEPT_VARIABLES}
    return {**with_patient_threads(kept), "LLAMA_API_KEY": api_key, "XDG_CONFIG_HOME": str(empty_folder)}
