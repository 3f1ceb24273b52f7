"""Weights files: strict, self-describing safetensors.

A file holds the model card in its header (key "spender", JSON) and the tensors of the
model's state, beside `wave_rest`, the restframe wavelengths in float64. It names its
architecture; which class that is, the installed plugins say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spender_core.archives.writing import file_sha256, replacing
from spender_core.errors import FileError, MissingFileError, WeightsError
from spender_core.interfaces.model import Model
from spender_core.records import API_VERSION, FORMAT_VERSION, ModelCard

WAVE_REST = "wave_rest"
_HEADER = "spender"


def write(path: str | os.PathLike[str], model: nn.Module, card: ModelCard) -> str:
    """Write a model and its card to a file, whole or not at all.

    Returns:
        The sha256 of the file.

    Raises:
        FileError: The file cannot be written.
    """
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    if isinstance(model, Model):
        tensors[WAVE_REST] = model.wave_rest
    described = card.model_copy(
        update={"sha256": "", "format_version": FORMAT_VERSION, "file_format": "safetensors"}
    )
    header = {_HEADER: described.to_json()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise FileError(f"cannot write {path}: {error}") from error
        return file_sha256(temporary)


def read(path: str | os.PathLike[str]) -> tuple[ModelCard, dict[str, Tensor]]:
    """Read the card and the tensors of a weights file, on the host.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: It is not a weights file of this package, or of another version.
    """
    if not Path(path).exists():
        raise MissingFileError(f"there is no weights file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    if header is None:
        raise WeightsError(
            f"{path} has no model card in its header, so it was not written by registry.save. "
            "Convert spender's own .pt files with `spender convert`"
        )
    try:
        card = ModelCard.model_validate_json(header)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise WeightsError(f"{path} has an invalid model card: {faults}") from error
    versions = (card.api_version, card.format_version)
    if versions != (API_VERSION, FORMAT_VERSION):
        raise WeightsError(
            f"{path} has card and format version {versions}, this spender-core reads "
            f"{(API_VERSION, FORMAT_VERSION)}; update spender-core, or save the model again"
        )
    return card, tensors


def restore(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put tensors into a model, strictly: all of them, no others, in shape.

    Raises:
        WeightsError: Tensors are missing, unknown or misshapen; all of them are named.
    """
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name} is unknown" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(floats - {torch.float32}) > 0 and floats != {torch.float64}:
        problems.append(f"it mixes or has unusual types: {', '.join(sorted(map(str, floats)))}")
    problems += [
        f"{name} is {tensors[name].dtype} instead of {tensor.dtype}"
        for name, tensor in model.state_dict().items()
        if name in tensors and tensors[name].is_floating_point() != tensor.is_floating_point()
    ]
    if problems:
        raise WeightsError(
            f"{source} does not fit {type(model).__name__}: {'; '.join(sorted(problems)[:8])}"
            f"{f'; and {len(problems) - 8} more' if len(problems) > 8 else ''}. "
            "The config in its card may belong to another file"
        )
    with torch.no_grad():
        model.load_state_dict(dict(tensors), strict=True, assign=True)
