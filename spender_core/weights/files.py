"""Weights files, written whole or not at all, and read no further than they can be trusted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from spender_core.archives.writing import file_sha256, replacing
from spender_core.errors import FileError, InputError, MissingFileError, WeightsError
from spender_core.interfaces.model import Model
from spender_core.records import FORMAT_VERSION, ModelCard
from spender_core.weights.card import KEY, card_in, faults
from spender_core.weights.header import ITEM_SIZES, LONGEST_HEADER, Header, read_header

WAVE_REST = "wave_rest"
"""Name of the restframe wavelengths, beside the tensors of a model's state."""

_NAMES = {
    "BOOL": "bool",
    **{"U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64"},
    **{"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
}
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, _NAMES[name]) for name in ITEM_SIZES}


@dataclass(frozen=True)
class Stored:
    """Tensors of a file: what they are is known, their values are read on request.

    Attributes:
        source: The file, as messages name it.
        shapes: Tensors of the same names, types and shapes, without values.
        take: Reads some of them, by name.
    """

    source: str
    shapes: Mapping[str, Tensor]
    take: Callable[[Iterable[str]], dict[str, Tensor]]

    @classmethod
    def held(cls, source: str, tensors: Mapping[str, Tensor]) -> Self:
        """Return tensors that are in memory already."""
        shapes = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
        return cls(source, shapes, lambda names: {name: tensors[name] for name in names})

    def without(self, names: Iterable[str]) -> Self:
        """Return the same without some of the tensors, which are never read."""
        left = dict(self.shapes)
        for name in names:
            del left[name]
        return type(self)(self.source, left, self.take)


def write(path: str | os.PathLike[str], model: nn.Module, card: ModelCard) -> str:
    """Write a model and its card to a file, whole or not at all.

    Returns:
        The sha256 of the file.

    Raises:
        InputError: The card is one that `read` would refuse.
        WeightsError: A tensor holds NaN or infinity.
        FileError: The file cannot be written.
    """
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    check_finite(tensors, "the model")
    if isinstance(model, Model):
        tensors[WAVE_REST] = model.wave_rest
    described = card.model_copy(
        update={"sha256": "", "format_version": FORMAT_VERSION, "file_format": "safetensors"}
    )
    metadata = {KEY: _checked(described).to_json()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise FileError(f"cannot write {path}: {error}") from error
        return file_sha256(temporary)


def _checked(card: ModelCard) -> ModelCard:
    text = card.to_json()
    try:
        ModelCard.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"the card of {card.name!r} is invalid: {faults(error)}") from error
    if len(json.dumps(text, ensure_ascii=False).encode()) > LONGEST_HEADER // 2:
        raise InputError(
            f"the card of {card.name!r} takes {len(text)} bytes, allowed are "
            f"{LONGEST_HEADER // 2}; shorten what it says about training and evaluation"
        )
    return card


def read(path: str | os.PathLike[str]) -> tuple[ModelCard, dict[str, Tensor]]:
    """Read the card and the tensors of a weights file, on the host.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: It is not a weights file of this package, or of another version.
    """
    with opened(path) as (card, stored):
        return card, stored.take(stored.shapes)


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read the card of a weights file, and none of its tensors; raises as `read`."""
    with opened(path) as (card, _):
        return card


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[ModelCard, Stored]]:
    """Open a weights file, and check its header and its card; raises as `read`.

    Tensors can be read as long as the block lasts.
    """
    source = os.fspath(path)
    with opened_file(path) as (file, size):
        try:
            header = read_header(file, size)
        except WeightsError as error:
            raise WeightsError(f"{source} is not a readable safetensors file: {error}") from error
        card = card_in(header.metadata, source)
        shapes = {
            name: torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="meta")
            for name, entry in header.entries.items()
        }
        yield card, Stored(source, shapes, lambda names: _tensors(file, header, names, source))


@contextmanager
def opened_file(path: str | os.PathLike[str]) -> Iterator[tuple[BufferedReader, int]]:
    """Open an ordinary file, no pipe or device, which might never end; gives its size too.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: It is a folder or a device, or cannot be read.
    """
    try:
        if not Path(path).is_file() and Path(path).exists():
            raise WeightsError(f"{path} is not a file; give the path of the weights file itself")
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    with file:
        yield file, os.fstat(file.fileno()).st_size


def _tensors(
    file: BufferedReader, header: Header, names: Iterable[str], source: str
) -> dict[str, Tensor]:
    """Read tensors into memory of their own, in the order of the file."""
    entries = sorted(((n, header.entries[n]) for n in names), key=lambda item: item[1].start)
    tensors = {}
    for name, entry in entries:
        data = torch.empty(entry.stop - entry.start, dtype=torch.uint8)
        numbers: Any = data.numpy()
        try:
            file.seek(header.data + entry.start)
            count = file.readinto(numbers)
        except OSError as error:
            raise WeightsError(f"{source} cannot be read: {error}") from error
        if count != len(data):
            raise WeightsError(f"{source} ended while it was read, at {name}; download it again")
        tensors[name] = data.view(DTYPES[entry.dtype]).reshape(entry.shape)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that hold NaN or infinity.

    Raises:
        WeightsError: Some do; they are named.
    """
    bad = [
        name
        for name, tensor in tensors.items()
        # a sum is quick, and never finite where a term is not
        if tensor.is_floating_point()
        and not bool(tensor.sum().isfinite())
        and not bool(tensor.isfinite().all())
    ]
    if bad:
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise WeightsError(
            f"{source} holds NaN or infinity in {', '.join(bad[:8])}{more}: it is damaged, or its "
            "training diverged"
        )
