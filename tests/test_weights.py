"""Weights files: strict, bit-exact, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spender_core import weights
from spender_core.errors import FileError, MissingFileError, WeightsError
from spender_core.grid import Grid, Linear, Table
from spender_core.interfaces import Instrument
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.nn.flow import MaskedAutoregressiveFlow
from spender_core.records import FORMAT_VERSION, ModelCard

REST = Table(np.geomspace(3000.0, 7000.0, 23))
SMALL: dict[str, Any] = {
    "n_latent": 2,
    "filters": (3, 4, 6),
    "sizes": (3, 5, 3),
    "encoder_hidden": (5,),
    "decoder_hidden": (7,),
}
CARD = ModelCard(name="small", architecture="spectrum_autoencoder", latents=2)


class Near(Instrument):
    name = "near"
    grid: Grid = Linear(4000.0, 10.0, 60)
    loader = None  # type: ignore[assignment]


class Far(Instrument):
    name = "far"
    grid: Grid = Linear(5000.0, 20.0, 40)
    loader = None  # type: ignore[assignment]


def small(*instruments: Instrument, **changes: Any) -> SpectrumAutoencoder:
    return SpectrumAutoencoder(instruments or (Near(),), REST, **(SMALL | changes))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Tell whether tensors agree in names, types and every bit."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


def left_in(folder: Path) -> list[str]:
    """Return the names of all that lies in a folder, hidden or not."""
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "small.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_what_is_written_is_read_back_bit_by_bit(path: Path, dtype: torch.dtype) -> None:
    model = small(lsf_taps={"near": 5}).to(dtype)
    weights.write(path, model, CARD)
    _, tensors = weights.read(path)
    wave = tensors.pop(weights.WAVE_REST)
    assert wave.dtype == torch.float64
    assert np.array_equal(wave.numpy(), REST.wave)
    assert same(tensors, model.state_dict())


def test_a_flow_is_read_back_bit_by_bit_without_wavelengths(path: Path) -> None:
    flow = MaskedAutoregressiveFlow(3, hidden=6, transforms=2, blocks=1)
    weights.write(path, flow, CARD)
    _, tensors = weights.read(path)
    assert same(tensors, flow.state_dict())
    assert tensors["permutations"].dtype == torch.int64


def test_a_model_is_written_from_any_memory_layout(path: Path) -> None:
    model = small()
    with torch.no_grad():
        model.decoder.mlp[0].weight.set_(torch.randn(2, 7).T)
    weights.write(path, model, CARD)
    assert torch.equal(weights.read(path)[1]["decoder.mlp.0.weight"], model.decoder.mlp[0].weight)


def test_the_card_is_in_the_header_as_json(path: Path) -> None:
    card = CARD.model_copy(update={"description": "läßt sich lesen", "sha256": "0" * 64})
    weights.write(path, small(), card)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["spender"])
    assert header["name"] == "small"
    assert header["architecture"] == "spectrum_autoencoder"
    assert header["format_version"] == FORMAT_VERSION
    assert "sha256" not in header
    assert weights.read(path)[0] == card.model_copy(update={"sha256": ""})


def test_write_returns_the_hash_of_the_file(path: Path) -> None:
    digest = weights.write(path, small(), CARD)
    assert len(digest) == 64
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_writing_makes_folders_and_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "small.safetensors"
    weights.write(path, small(), CARD)
    assert left_in(path.parent) == [path.name]


def test_restored_tensors_are_those_given(path: Path) -> None:
    model, other = small(), small()
    weights.restore(other, model.state_dict(), "a test")
    assert same(other.state_dict(), model.state_dict())


def test_restore_keeps_the_precision_of_the_tensors() -> None:
    model, other = small().double(), small()
    weights.restore(other, model.state_dict(), "a test")
    assert same(other.state_dict(), model.state_dict())


def test_restore_names_what_is_missing_unknown_and_misshapen() -> None:
    tensors = small().state_dict()
    del tensors["decoder.mlp.0.bias"]
    tensors["decoder.extra"] = torch.zeros(1)
    tensors["decoder.mlp.2.weight"] = torch.zeros(4, 7)
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        weights.restore(model, tensors, "some.safetensors")
    message = str(caught.value)
    assert "some.safetensors does not fit SpectrumAutoencoder" in message
    assert "decoder.mlp.0.bias is missing" in message
    assert "decoder.extra is unknown" in message
    assert "decoder.mlp.2.weight has shape (4, 7) instead of (23, 7)" in message
    assert same(model.state_dict(), before)


def test_restore_counts_the_faults_it_does_not_name() -> None:
    model = small()
    count = len(model.state_dict())
    with pytest.raises(WeightsError, match=f"and {count - 8} more"):
        weights.restore(model, {}, "empty")


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"small\.safetensors"):
        weights.read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 7, b"SIMPLE  =                    T", b"\xff" * 64, b"{}" * 40],
    ids=["empty", "short", "fits", "huge header", "json"],
)
def test_another_kind_of_file_is_refused_by_name(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"small\.safetensors is not a readable safetensors"):
        weights.read(path)


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises((WeightsError, FileError), match=tmp_path.name):
        weights.read(tmp_path)


@pytest.mark.parametrize("keep", [4, 100, 0.5, -1])
def test_a_truncated_file_is_refused_by_name(path: Path, keep: float) -> None:
    weights.write(path, small(), CARD)
    content = path.read_bytes()
    end = int(len(content) * keep) if isinstance(keep, float) else keep
    path.write_bytes(content[:end])
    with pytest.raises(WeightsError, match=r"small\.safetensors"):
        weights.read(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=["no header", "another header"])
def test_safetensors_without_a_card_are_refused(
    path: Path, metadata: dict[str, str] | None
) -> None:
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(WeightsError, match="no model card in its header"):
        weights.read(path)


@pytest.mark.parametrize("card", ["not json", "[]", "{}", '{"name": "small", "latents": -1}'])
def test_an_invalid_card_is_refused(path: Path, card: str) -> None:
    save_file({"a": torch.zeros(2)}, path, metadata={"spender": card})
    with pytest.raises(WeightsError, match="invalid model card"):
        weights.read(path)


@pytest.mark.parametrize("field", ["format_version", "api_version"])
def test_another_version_is_refused_with_both(path: Path, field: str) -> None:
    card = CARD.model_copy(update={field: 7})
    save_file({"a": torch.zeros(2)}, path, metadata={"spender": card.to_json()})
    with pytest.raises(WeightsError, match=r"version \((7, 1|1, 7)\).* reads \(1, 1\)"):
        weights.read(path)


def test_a_later_version_is_refused_by_version_though_its_card_has_new_fields(path: Path) -> None:
    header = json.loads(CARD.to_json()) | {"api_version": 2, "format_version": 2, "colour": "red"}
    save_file({"a": torch.zeros(2)}, path, metadata={"spender": json.dumps(header)})
    with pytest.raises(WeightsError, match=r"version \(2, 2\).*update spender-core"):
        weights.read(path)


def test_a_damaged_header_is_refused(path: Path) -> None:
    weights.write(path, small(), CARD)
    content = bytearray(path.read_bytes())
    (size,) = struct.unpack("<Q", content[:8])
    content[8 + size // 2 : 8 + size // 2 + 4] = b"\0\0\0\0"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"small\.safetensors"):
        weights.read(path)


def test_a_folder_that_cannot_be_made_is_a_file_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(FileError, match="cannot write"):
        weights.write(blocker / "small.safetensors", small(), CARD)
    assert left_in(tmp_path) == ["file"]
    assert blocker.read_text() == "in the way"


def test_a_target_that_is_a_folder_is_a_file_error_and_nothing_is_left(tmp_path: Path) -> None:
    target = tmp_path / "small.safetensors"
    target.mkdir()
    with pytest.raises(FileError, match="cannot write"):
        weights.write(target, small(), CARD)
    assert left_in(tmp_path) == [target.name]


FULL_DISK = """\
import resource, sys
from torch import nn
from spender_core import weights
from spender_core.errors import FileError
from spender_core.records import ModelCard
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
card = ModelCard(name="small", architecture="spectrum_autoencoder", latents=2)
try:
    weights.write(sys.argv[1], nn.Linear(100, 100), card)
except FileError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_a_file_error_and_keeps_the_file_that_was_there(path: Path) -> None:
    path.write_bytes(b"precious")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert path.read_bytes() == b"precious"
    assert left_in(path.parent) == [path.name]


def test_a_model_with_shared_tensors_is_written_or_refused_readably(path: Path) -> None:
    model = nn.ModuleDict({"one": nn.Linear(3, 3)})
    model["two"] = model["one"]
    try:
        weights.write(path, model, CARD)
    except (FileError, WeightsError):
        assert not path.exists()
    else:
        assert same(weights.read(path)[1], dict(model.state_dict()))


def test_a_joint_model_stores_its_decoder_once(path: Path) -> None:
    model = small(Near(), Far(), lsf_taps={"far": 3})
    weights.write(path, model, CARD)
    names = set(load_file(path))
    parts = {name for name in names if "decoder" in name}
    assert parts == {f"decoder.{name}" for name in model.decoder.state_dict()}
    encoders = {name.split(".")[1] for name in names if name.startswith("encoders.")}
    assert encoders == {"near", "far"}
    stored = sum(tensor.numel() for tensor in load_file(path).values())
    assert stored == sum(p.numel() for p in model.parameters()) + REST.size


@pytest.mark.parametrize("first", [Near, Far])
def test_a_joint_model_comes_back_for_either_instrument(
    path: Path, first: type[Instrument]
) -> None:
    model = small(Near(), Far())
    weights.write(path, model, CARD)
    second = Far if first is Near else Near
    other = small(first(), second())
    tensors = weights.read(path)[1]
    del tensors[weights.WAVE_REST]
    weights.restore(other, tensors, str(path))
    flux = torch.randn(2, first().grid.size)
    assert other.instrument.name == first.name
    assert torch.equal(other.encode(flux), model.encode(flux, first.name))
