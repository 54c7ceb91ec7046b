"""Further options of llama-server that a user may set: a list of what is allowed, because some options open files, ports or programs.

Names are llama.cpp's long ones without the dashes (b11312, `common/arg.cpp`). What noa_lab decides itself (address, key, model, log,
slots, ...) and what reads or writes where it likes, talks to the network or lets the model act is not on the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from noa_lab.errors import BadInput, nearest

__all__ = ["OPTIONS", "PATH_OPTIONS", "OptionValue", "check_options", "option_arguments"]

OptionValue = str | int | float | bool
"""True is the option alone, False its "no-" form, anything else its value."""

_NAMES = """
    cache-ram cache-idle-slots cache-reuse cache-prompt slot-prompt-similarity ctx-checkpoints checkpoint-min-step swa-full
    context-shift keep cont-batching kv-offload op-offload repack no-host cpu-moe n-cpu-moe n-cpu-ffn split-mode tensor-split main-gpu
    device override-tensor override-kv numa prio prio-batch poll poll-batch cpu-mask cpu-mask-batch cpu-range cpu-range-batch
    cpu-strict cpu-strict-batch warmup check-tensors lazy-mode perf backend-sampling defrag-thold
    rope-scaling rope-scale rope-freq-base rope-freq-scale yarn-orig-ctx yarn-ext-factor yarn-attn-factor yarn-beta-slow yarn-beta-fast
    jinja chat-template chat-template-kwargs reasoning reasoning-format reasoning-budget reasoning-budget-message reasoning-effort
    reasoning-preserve prefill-assistant skip-chat-parsing special spm-infill
    rerank embd-normalize threads-http timeout sse-ping-interval
    n-predict seed temp top-k top-p min-p top-n-sigma typical-p xtc-probability xtc-threshold repeat-last-n repeat-penalty
    presence-penalty frequency-penalty dry-multiplier dry-base dry-allowed-length dry-penalty-last-n dynatemp-range dynatemp-exp
    mirostat mirostat-lr mirostat-ent adaptive-target adaptive-decay samplers ignore-eos logit-bias
    spec-type spec-default spec-draft-n-max spec-draft-n-min spec-draft-p-min spec-draft-p-split spec-draft-ngl spec-draft-device
    spec-draft-threads spec-draft-threads-batch spec-draft-type-k spec-draft-type-v spec-draft-cpu-moe spec-draft-n-cpu-moe
    spec-ngram-simple-size-n spec-ngram-simple-size-m spec-ngram-simple-min-hits spec-ngram-mod-n-match spec-ngram-mod-n-min
    spec-ngram-mod-n-max
    mmproj-offload image-min-tokens image-max-tokens
"""

PATH_OPTIONS = frozenset(("lora", "mmproj", "control-vector", "spec-draft-model", "chat-template-file"))
"""Those whose value is a file that llama-server reads."""

OPTIONS = frozenset(_NAMES.split()) | PATH_OPTIONS


def check_options(options: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
    """The options with plain names and absolute paths.

    Args:
        options: By long name, with or without dashes in front, "_" for "-" allowed.

    Raises:
        BadInput: For an option that may not be set, a value that cannot be handed on, or a file that is not there.
    """
    return {_name(given): _value(_name(given), value) for given, value in options.items()}


def _name(given: str) -> str:
    name = given.lstrip("-").replace("_", "-")
    if name in OPTIONS:
        return name
    near = nearest(name, OPTIONS)
    fix = (
        f"Did you mean {near!r}?" if near else "Use a field of ServerSettings, or an option that docs/server.md lists."
    )
    raise BadInput(
        f"llama-server's option {given!r} cannot be set here.",
        fix=fix,
        field="options",
        value=given,
        path=(given,),
        nearest=near,
    )


def _value(name: str, value: OptionValue) -> OptionValue:
    if isinstance(value, str) and any(ord(character) < 32 for character in value if character not in "\n\t"):
        raise _bad(name, value, "holds control characters", "Leave them out.")
    if name not in PATH_OPTIONS:
        return value
    path = Path(str(value)).expanduser().absolute()
    if not path.is_file():
        raise _bad(name, value, f"is a file that is not there ({path})", "Correct the path.")
    return str(path)


def _bad(name: str, value: OptionValue, why: str, fix: str) -> BadInput:
    return BadInput(
        f"The value {value!r} of option {name!r} {why}.", fix=fix, field="options", value=value, path=(name,)
    )


def option_arguments(options: Mapping[str, OptionValue], known: frozenset[str]) -> tuple[list[str], list[str]]:
    """The arguments for llama-server, and the options that this one lacks.

    Args:
        options: As `check_options` returned them.
        known: The options that this binary understands; empty where that is not known.
    """
    arguments: list[str] = []
    missing: list[str] = []
    for name, value in options.items():
        flag = f"--no-{name}" if value is False else f"--{name}"
        if known and flag not in known:
            missing.append(flag)
        else:
            arguments += [flag] if isinstance(value, bool) else [flag, str(value)]
    return arguments, missing
