"""The first answer: from the header alone, before a byte of the weights is here."""

from __future__ import annotations

import re
from dataclasses import replace

from noa_lab.models._gguf_header import GgufHeader, TensorInfo
from noa_lab.models.memory._compute import compute_bytes, logits_bytes
from noa_lab.models.memory._kv_cache import cache_of_layers
from noa_lab.models.memory._layout import Layout
from noa_lab.models.memory._parts import DeviceMemory, MemoryParts, Prediction
from noa_lab.models.memory._program import program_bytes
from noa_lab.models.memory._settings import MemorySettings
from noa_lab.models.memory._slots import slots_bytes

__all__ = ["estimate", "grown"]

_LAYER = re.compile(r"blk\.(\d+)\.")


def estimate(header: GgufHeader, settings: MemorySettings) -> Prediction:
    """How much memory a server would take, from the header of the whole model.

    Args:
        header: The header; of a split model that of all parts joined.
        settings: How it would be run.
    """
    layout = Layout.of(header)
    weights = sum(tensor.size_bytes for tensor in header.tensors)
    program, slots = program_bytes(layout), slots_bytes(layout, settings)
    compute, output = compute_bytes(layout, settings), logits_bytes(layout, settings.slots)
    caches = cache_of_layers(layout, settings)
    if not settings.gpu_layers:
        return Prediction(MemoryParts(weights, sum(caches), compute, output, program, slots))
    there = _layers_on_gpu(layout, settings)
    first = layout.blocks - there
    with_output = settings.gpu_layers < 0 or settings.gpu_layers > layout.blocks
    on_gpu = sum(tensor.size_bytes for tensor in header.tensors if _goes_to_gpu(tensor, first, output=with_output))
    tied = with_output and not any(tensor.name == "output.weight" for tensor in header.tensors)
    embedding = next((each.size_bytes for each in header.tensors if each.name == "token_embd.weight"), 0)
    device = MemoryParts(on_gpu + (embedding if tied else 0), sum(caches[first:]), compute)
    # With all layers on the GPU only the embedding of the next step is looked up here.
    left = compute if first else settings.tokens_at_once * layout.width * 4
    host = MemoryParts(weights - on_gpu, sum(caches[:first]), left, output, program, slots)
    return Prediction(host, (DeviceMemory("GPU", device),))


def _layers_on_gpu(layout: Layout, settings: MemorySettings) -> int:
    """How many of the layers go to the GPU; they are the last ones."""
    return layout.blocks if settings.gpu_layers < 0 else min(layout.blocks, settings.gpu_layers)


def _goes_to_gpu(tensor: TensorInfo, first: int, *, output: bool) -> bool:
    match = _LAYER.match(tensor.name)
    if match is not None:
        return int(match[1]) >= first
    return output and tensor.name.startswith("output")


def grown(found: Prediction, layout: Layout, before: MemorySettings, then: MemorySettings) -> Prediction:
    """A prediction for other settings, by how the cache and the compute buffer grow with the context.

    Args:
        found: The prediction for `before`, however it was come by.
        layout: The model.
        before: The settings that it is for.
        then: The settings that are wanted; only `context_size` may differ.
    """
    old = sum(cache_of_layers(layout, before))
    cache = sum(cache_of_layers(layout, then)) / old if old else 1.0
    compute = compute_bytes(layout, then) - compute_bytes(layout, before)

    def parts(each: MemoryParts) -> MemoryParts:
        more = compute if each.compute else 0
        return replace(each, kv_cache=int(each.kv_cache * cache), compute=max(0, each.compute + more))

    devices = tuple(DeviceMemory(each.name, parts(each.parts), each.free_bytes) for each in found.devices)
    return Prediction(parts(found.host), devices, found.repacked)
