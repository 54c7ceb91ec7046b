"""What a GGUF header says, as it was read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from noa_lab.models._file import ModelMetadata

__all__ = ["GgufHeader", "Number", "TensorInfo", "Value"]

Number = int | float
Value = Number | str | list[Number]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the file.

    Attributes:
        name: For example "blk.0.attn_k.weight".
        type: For example "Q4_K".
        shape: Its dimensions, the innermost first.
        size_bytes: Bytes that it takes.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def weights(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A checked header.

    Attributes:
        values: Key-values: numbers, short lists of numbers, and the few texts that are of use here.
        lengths: Length of each list, kept or not.
        tensors: The tensors, in the file's order.
        end: Where the descriptions end, in bytes from the file's beginning.
        file_bytes: Size of the file.
    """

    values: Mapping[str, Value]
    lengths: Mapping[str, int]
    tensors: tuple[TensorInfo, ...]
    end: int
    file_bytes: int

    @property
    def architecture(self) -> str:
        """For example "llama"; fit for a terminal."""
        return _printable(self.text("general.architecture"))

    @property
    def alignment(self) -> int:
        """What the tensors' places in the file are multiples of."""
        return self.number("general.alignment") or 32

    @property
    def data_offset(self) -> int:
        """Where the tensors' bytes begin."""
        return -(-self.end // self.alignment) * self.alignment

    @property
    def split_count(self) -> int:
        """Files that the model is split into; 1 where it is not."""
        return max(1, self.number("split.count"))

    @property
    def vocabulary(self) -> int:
        """Tokens in the vocabulary."""
        return self.lengths.get("tokenizer.ggml.tokens") or self.of("vocab_size")

    def number(self, key: str) -> int:
        """A whole number that is not negative; of a list the largest; 0 where there is none."""
        return max(self.numbers(key), default=0)

    def numbers(self, key: str) -> list[int]:
        """A list of whole numbers that are not negative, or the one number as a list; [] where there is none."""
        value = self.values.get(key, [])
        candidates = value if isinstance(value, list) else [value]
        return [int(each) for each in candidates if isinstance(each, int | float) and math.isfinite(each) and each >= 0]

    def text(self, key: str) -> str:
        """A text, "" where there is none."""
        value = self.values.get(key, "")
        return value if isinstance(value, str) else ""

    def of(self, key: str) -> int:
        """A number that stands under the architecture's name: `of("block_count")` is "llama.block_count"."""
        return self.number(f"{self.text('general.architecture')}.{key}")

    def per_layer(self, key: str, layers: int) -> list[int]:
        """A fact of each layer that a file gives as one number for all or as a list; [] where it is neither."""
        found = self.numbers(f"{self.text('general.architecture')}.{key}")
        return found * layers if len(found) == 1 else found if len(found) == layers else []

    def joined(self, others: Iterable[GgufHeader]) -> GgufHeader:
        """The header of the whole model, of which this is the first part and `others` are the further ones."""
        parts = (self, *others)
        return replace(
            self,
            tensors=tuple(chain.from_iterable(part.tensors for part in parts)),
            file_bytes=sum(part.file_bytes for part in parts),
        )

    def metadata(self) -> ModelMetadata:
        """The facts that people look at."""
        bytes_by_type: Counter[str] = Counter()
        for tensor in self.tensors:
            bytes_by_type[tensor.type] += tensor.size_bytes
        heads = self.of("attention.head_count")
        template = self.values.get("tokenizer.chat_template")
        return ModelMetadata(
            architecture=self.architecture,
            name=_printable(self.text("general.name")),
            parameters=sum(tensor.weights for tensor in self.tensors),
            context_length=self.of("context_length"),
            layers=self.of("block_count"),
            embedding_length=self.of("embedding_length"),
            heads=heads,
            kv_heads=self.of("attention.head_count_kv") or heads,
            vocabulary=self.vocabulary,
            quantization=bytes_by_type.most_common(1)[0][0] if bytes_by_type else "",
            chat_template=template if isinstance(template, str) else None,
            tensors=len(self.tensors),
        )


def _printable(text: str) -> str:
    """A name for a terminal: the file's author decides what is in it."""
    return "".join(character for character in text[:200] if character.isprintable()).strip()
