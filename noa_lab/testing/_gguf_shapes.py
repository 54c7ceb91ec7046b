"""GGUF files in the shape of published models, without their weights: llama.cpp loads them and takes the memory of the real thing.

The header is complete; the weights are a hole in the file that reads as zeros and takes no disk. Shapes are those of the models' own
`config.json`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SHAPES", "Shape", "write_shape"]

_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how much memory a model takes.

    Attributes:
        architecture: As llama.cpp names it.
        layers: Blocks.
        embedding: Width of the residual stream.
        feed_forward: Width of the dense feed-forward network; of one expert, where there are experts.
        heads: Attention heads.
        kv_heads: Key/value heads.
        head: Width of one head.
        vocabulary: Tokens.
        context: Tokens it was trained for.
        tied: Whether the output matrix is the embedding matrix.
        experts: Experts of a block; 0 for a dense model.
        experts_used: Experts that one token takes.
        window: Tokens that a sliding-window layer sees; 0 where all layers see everything.
        latent: Width of the latent key/value vector (multi-head latent attention); 0 elsewhere.
        state: Width of a recurrent block's state (Mamba); 0 elsewhere.
    """

    architecture: str
    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    context: int
    tied: bool = True
    experts: int = 0
    experts_used: int = 0
    window: int = 0
    latent: int = 0
    state: int = 0


SHAPES: dict[str, Shape] = {
    "smollm2-135m": Shape("llama", 30, 576, 1536, 9, 3, 64, 49152, 8192),
    "llama-3.2-1b": Shape("llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072),
    "llama-3.2-3b": Shape("llama", 28, 3072, 8192, 24, 8, 128, 128256, 131072),
    "llama-3.1-8b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, tied=False),
    "mistral-7b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 32000, 32768, tied=False),
    "codellama-7b": Shape("llama", 32, 4096, 11008, 32, 32, 128, 32016, 16384, tied=False),
    "qwen2.5-0.5b": Shape("qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768),
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960),
    "qwen3-4b": Shape("qwen3", 36, 2560, 9728, 32, 8, 128, 151936, 40960),
    "qwen3-30b-a3b": Shape(
        "qwen3moe", 48, 2048, 768, 32, 4, 128, 151936, 40960, tied=False, experts=128, experts_used=8
    ),
    "gemma-3-270m": Shape("gemma3", 18, 640, 2048, 4, 1, 256, 262144, 32768, window=512),
    "gemma-3-4b": Shape("gemma3", 34, 2560, 10240, 8, 4, 256, 262208, 131072, window=1024),
    "phi-3.5-mini": Shape("phi3", 32, 3072, 8192, 32, 32, 96, 32064, 131072, tied=False, window=262144),
    "deepseek-v2-lite": Shape(
        "deepseek2", 27, 2048, 1408, 16, 1, 192, 102400, 163840, tied=False, experts=64, experts_used=6, latent=512
    ),
    "mamba-130m": Shape("mamba", 24, 768, 0, 0, 0, 0, 50280, 1048576, state=16),
}
"""Shapes of published models, one or more for each way in which models keep what they have read."""


def write_shape(path: Path, shape: Shape, quantization: str = "Q8_0", *, words: bool = False) -> Path:
    """Write the model file of a shape.

    Args:
        path: Where to.
        shape: The shape.
        quantization: Type of the matrices, as GGUF names it; norms are F32.
        words: Give it a vocabulary of made-up words with merges, so that a server can be asked something; else only its size.

    Returns:
        `path`.
    """
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType[quantization]
    writer = gguf.GGUFWriter(path, shape.architecture)
    _write_facts(writer, shape)
    _write_vocabulary(writer, shape.vocabulary, words=words)
    data = 0
    for name, dimensions in _tensors(shape):
        chosen = kind if len(dimensions) > 1 and dimensions[0] >= 32 else gguf.GGMLQuantizationType.F32
        block, width = gguf.GGML_QUANT_SIZES[chosen]
        if dimensions[0] % block:
            chosen = gguf.GGMLQuantizationType.F16
            block, width = gguf.GGML_QUANT_SIZES[chosen]
        size = math.prod(dimensions) // block * width
        writer.add_tensor_info(name, list(reversed(dimensions)), np.dtype(np.float32), size, raw_dtype=chosen)
        data += -(-size // _ALIGNMENT) * _ALIGNMENT
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // _ALIGNMENT) * _ALIGNMENT + data)
    return path


def _write_facts(writer: object, shape: Shape) -> None:
    import gguf

    assert isinstance(writer, gguf.GGUFWriter)
    name = shape.architecture
    facts: dict[str, int] = {
        "context_length": shape.context,
        "block_count": shape.layers,
        "embedding_length": shape.embedding,
        "feed_forward_length": shape.feed_forward,
        "vocab_size": shape.vocabulary,
    }
    if shape.heads:
        facts |= {
            "attention.head_count": shape.heads,
            "attention.head_count_kv": shape.kv_heads,
            "attention.key_length": shape.head,
            "attention.value_length": shape.head,
            "rope.dimension_count": shape.head,
        }
    if shape.experts:
        facts |= {
            "expert_count": shape.experts,
            "expert_used_count": shape.experts_used,
            "expert_feed_forward_length": shape.feed_forward,
        }
    if shape.window:
        facts["attention.sliding_window"] = shape.window
    if shape.latent:
        rope = 64
        facts |= {
            "attention.kv_lora_rank": shape.latent,
            "attention.key_length": shape.latent + rope,
            "attention.value_length": shape.latent,
            "attention.key_length_mla": shape.head,
            "attention.value_length_mla": shape.head - rope,
            "rope.dimension_count": rope,
            "leading_dense_block_count": 0,
            "expert_shared_count": 2,
        }
    if shape.state:
        facts |= {
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 2 * shape.embedding,
            "ssm.state_size": shape.state,
            "ssm.time_step_rank": -(-shape.embedding // 16),
        }
    for key, value in facts.items():
        writer.add_uint32(f"{name}.{key}", value)
    writer.add_float32(f"{name}.attention.layer_norm_rms_epsilon", 1e-5)


def _write_vocabulary(writer: object, size: int, *, words: bool) -> None:
    import gguf

    assert isinstance(writer, gguf.GGUFWriter)
    if not words:
        writer.add_tokenizer_model("no_vocab")
        return
    # The 256 bytes as GPT-2 writes them, then words that merges of two earlier tokens make.
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in visible] + [chr(256 + index) for index in range(256 - len(visible))]
    tokens = ["<|end|>", *letters]
    merges: list[str] = []
    for first in letters * 16:
        for second in tokens[1:257]:
            if len(tokens) == size:
                break
            tokens.append(f"{first}{second}{len(tokens) // 65536 or ''}")
            merges.append(f"{first} {second}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, *([1] * (len(tokens) - 1))])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and dimensions, the first dimension first, as llama.cpp's src/models want them."""
    wide = shape.embedding
    yield "token_embd.weight", (wide, shape.vocabulary)
    yield "output_norm.weight", (wide,)
    if not shape.tied:
        yield "output.weight", (wide, shape.vocabulary)
    for layer in range(shape.layers):
        parts = _recurrent(shape) if shape.state else _block(shape)
        for name, dimensions in parts:
            yield f"blk.{layer}.{name}", dimensions


def _block(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    wide, head, kv = shape.embedding, shape.head, shape.head * shape.kv_heads
    yield "attn_norm.weight", (wide,)
    yield "ffn_norm.weight", (wide,)
    if shape.latent:
        yield from _latent_attention(shape)
    elif shape.architecture == "phi3":
        yield "attn_qkv.weight", (wide, wide + 2 * kv)
        yield "attn_output.weight", (wide, wide)
    else:
        yield "attn_q.weight", (wide, head * shape.heads)
        yield "attn_k.weight", (wide, kv)
        yield "attn_v.weight", (wide, kv)
        yield "attn_output.weight", (head * shape.heads, wide)
    if shape.architecture == "qwen2":
        yield from (("attn_q.bias", (head * shape.heads,)), ("attn_k.bias", (kv,)), ("attn_v.bias", (kv,)))
    if shape.architecture in {"qwen3", "qwen3moe", "gemma3"}:
        yield from (("attn_q_norm.weight", (head,)), ("attn_k_norm.weight", (head,)))
    if shape.architecture == "gemma3":
        yield from (("post_attention_norm.weight", (wide,)), ("post_ffw_norm.weight", (wide,)))
    yield from _feed_forward(shape)


def _feed_forward(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    wide, inner = shape.embedding, shape.feed_forward
    if not shape.experts:
        up = inner * (2 if shape.architecture == "phi3" else 1)
        yield from (("ffn_up.weight", (wide, up)), ("ffn_down.weight", (inner, wide)))
        if shape.architecture != "phi3":
            yield "ffn_gate.weight", (wide, inner)
        return
    yield "ffn_gate_inp.weight", (wide, shape.experts)
    yield "ffn_gate_exps.weight", (wide, inner, shape.experts)
    yield "ffn_up_exps.weight", (wide, inner, shape.experts)
    yield "ffn_down_exps.weight", (inner, wide, shape.experts)
    if shape.latent:
        yield "ffn_gate_shexp.weight", (wide, 2 * inner)
        yield "ffn_up_shexp.weight", (wide, 2 * inner)
        yield "ffn_down_shexp.weight", (2 * inner, wide)


def _latent_attention(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    rope, wide, heads = 64, shape.embedding, shape.heads
    plain = shape.head - rope
    yield "attn_kv_a_norm.weight", (shape.latent,)
    yield "attn_q.weight", (wide, heads * shape.head)
    yield "attn_kv_a_mqa.weight", (wide, shape.latent + rope)
    yield "attn_k_b.weight", (plain, shape.latent, heads)
    yield "attn_v_b.weight", (shape.latent, plain, heads)
    yield "attn_output.weight", (heads * plain, wide)


def _recurrent(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    wide, inner, rank = shape.embedding, 2 * shape.embedding, -(-shape.embedding // 16)
    yield "attn_norm.weight", (wide,)
    yield "ssm_in.weight", (wide, 2 * inner)
    yield "ssm_conv1d.weight", (4, inner)
    yield "ssm_conv1d.bias", (inner,)
    yield "ssm_x.weight", (inner, rank + 2 * shape.state)
    yield "ssm_dt.weight", (rank, inner)
    yield "ssm_dt.bias", (inner,)
    yield "ssm_a", (shape.state, inner)
    yield "ssm_d", (inner,)
    yield "ssm_out.weight", (inner, wide)
