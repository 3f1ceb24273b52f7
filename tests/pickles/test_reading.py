"""What torch.save writes is read as torch.load reads it, bit by bit."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core import pickles

# what torch.load must be told to read arrays and numbers of numpy
_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    bytes,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLefd"),
    *(
        (function, f"{module}.multiarray.{name}")
        for name, function in {
            "_reconstruct": np.zeros(1).__reduce__()[0],
            "scalar": np.float64(0).__reduce__()[0],
        }.items()
        for module in ("numpy.core", "numpy._core")
    ),
]


def by_torch(path: Path) -> Any:
    with torch.serialization.safe_globals(_NUMPY):
        return torch.load(path, weights_only=True)


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def same(left: Any, right: Any) -> bool:
    """Tell whether nested data agree in types, shapes and every bit."""
    if isinstance(left, Tensor):
        alike = isinstance(right, Tensor) and left.dtype == right.dtype
        return alike and (
            left.shape == right.shape
            and left.stride() == right.stride()
            and torch.equal(bits(left), bits(right))
        )
    if isinstance(left, np.ndarray):
        alike = type(right) is np.ndarray and left.dtype == right.dtype
        return alike and left.shape == right.shape and left.tobytes() == right.tobytes()
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "saved.pt"


@pytest.fixture
def both(path: Path) -> Callable[[Any], Any]:
    """Save something, compare what both readers make of it, and return it."""

    def compare(content: Any) -> Any:
        torch.save(content, path)
        made = pickles.read(path)
        assert same(by_torch(path), made)
        return made

    return compare


DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64, torch.complex128),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_type_are_read(both: Callable[[Any], Any], dtype: torch.dtype) -> None:
    made = both({"a": (torch.randn(3, 4) * 50).to(dtype), "0": torch.zeros(0, 3, dtype=dtype)})
    assert made["a"].dtype == dtype


def test_views_are_read_with_their_strides(both: Callable[[Any], Any]) -> None:
    whole = torch.randn(6, 5)
    both([whole, whole.T, whole[1:, ::2], whole[2, 3], torch.tensor(1.5), whole[:0]])


def test_shared_storages_stay_shared(both: Callable[[Any], Any]) -> None:
    whole = torch.zeros(8)
    first, second = both([whole[:4], whole[2:]])
    first[3] = 1
    assert second[1] == 1


def test_parameters_are_read_as_tensors(path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save({"state": model.state_dict(), "one": torch.nn.Parameter(torch.ones(2))}, path)
    made = pickles.read(path)
    assert isinstance(made["state"], OrderedDict)
    assert all(torch.equal(made["state"][n], t) for n, t in model.state_dict().items())
    assert torch.equal(made["one"], torch.ones(2))
    assert not made["one"].requires_grad


@pytest.mark.parametrize("kind", ["?", "i1", "u2", "i4", "i8", "f2", "f4", "f8", ">f4", ">i2"])
def test_arrays_and_numbers_of_numpy_are_read(both: Callable[[Any], Any], kind: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(kind)
    both(
        {"c": array, "f": np.asfortranarray(array), "n": array[1, 2], "0": array[:, :0].copy()[:1]}
    )


def test_plain_data_are_read(both: Callable[[Any], Any]) -> None:
    both({"a": [1, -1, 2**40, -(2**70), 1.5, None, True], 3: ("ä", ((),)), "d": {"": [[]]}})


def test_arrays_of_numpy_1_are_read(path: Path) -> None:
    torch.save({"losses": np.array([1.5, 2.5])}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content.replace(b"numpy._core.multi", b"numpy.core.multi"))
    assert b"numpy.core.multiarray" in path.read_bytes()
    assert pickles.read(path)["losses"].tolist() == [1.5, 2.5]


def test_a_self_containing_list_is_read_and_does_not_hang(path: Path) -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    torch.save(loop, path)
    made = pickles.read(path)
    assert made[1] is made


def test_a_published_model_is_read(real_data: Path) -> None:
    files = sorted((real_data / "weights").glob("*.pt"))
    assert files
    for file in files:
        assert same(by_torch(file), pickles.read(file))
