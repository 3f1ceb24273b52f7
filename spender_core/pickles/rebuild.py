"""What the instructions of a torch file may ask for: tensors, arrays and numbers, checked.

Each function stands for one that torch or numpy names in a pickle, takes what that one
takes, and trusts none of it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST_TENSORS = 4_000
_MOST_DIMENSIONS = 16
_LARGEST = 2**48


class RefusedError(ValueError):
    """A file holds something that is not read; the message says what, as "it ..."."""


@dataclass(frozen=True)
class StorageType:
    """A kind of storage: torch names it after the type of its numbers."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Function:
    """A function that a file may have called, under the name by which it asks for it."""

    name: str
    call: Callable[..., Any]


class DType:
    """A numpy type, whose byte order a pickle sets after it has made it."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype


class Storages:
    """The storages of a file, each read once, and the tensors that view them.

    Args:
        read: Returns the bytes of a storage, given its key and how many they must be.
    """

    def __init__(self, read: Callable[[str, int], bytes]) -> None:
        self._read = read
        self._held: dict[str, Tensor] = {}
        self._left = MOST_TENSORS

    def load(self, reference: Any) -> Tensor:
        """Return all numbers of a storage, shape (n,), for torch's reference to it."""
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise RefusedError("it refers to something that is no storage of numbers")
        _, kind, key, place, count = reference
        if not isinstance(kind, StorageType) or type(key) is not str or type(place) is not str:
            raise RefusedError("it refers to a storage of an unknown kind")
        if not _is_count(count):
            raise RefusedError("it refers to a storage of an impossible size")
        if key not in self._held:
            data = self._read(key, count * kind.dtype.itemsize)
            empty = torch.empty(0, dtype=kind.dtype)
            self._held[key] = torch.frombuffer(bytearray(data), dtype=kind.dtype) if data else empty
        held = self._held[key]
        if held.dtype != kind.dtype or len(held) != count:
            raise RefusedError(f"it describes the storage {key[:20]!r} in two ways")
        return held

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
        """Return a view of a storage, which must lie within it, as torch._utils makes them."""
        self._left -= 1
        if self._left < 0:
            raise RefusedError(f"it holds more than {MOST_TENSORS} tensors")
        if not isinstance(storage, Tensor) or storage.ndim != 1 or not 2 <= len(rest) <= 3:
            raise RefusedError("it has a tensor without a storage")
        counts = isinstance(size, tuple) and isinstance(stride, tuple)
        if not counts or not all(map(_is_count, (offset, *size, *stride))):
            raise RefusedError("it has a tensor of impossible shape")
        if len(size) != len(stride) or len(size) > _MOST_DIMENSIONS:
            raise RefusedError("it has a tensor of impossible shape")
        if math.prod(max(n, 1) for n in size) > _LARGEST:
            raise RefusedError("it has a tensor of impossible shape")
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count > len(storage) or offset > len(storage) or (count and last >= len(storage)):
            raise RefusedError(
                f"it has a tensor of shape {size} that needs more than the {len(storage)} numbers "
                "of its storage"
            )
        return storage.as_strided(size, stride, offset)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def parameter(data: Any, *rest: Any) -> Tensor:
    """Return the tensor of a Parameter."""
    if not isinstance(data, Tensor) or len(rest) != 2:
        raise RefusedError("it has a Parameter without a tensor")
    return data


def mapping(*arguments: Any) -> OrderedDict[Any, Any]:
    """Return an OrderedDict, which is filled later."""
    if arguments:
        raise RefusedError("it has an OrderedDict in a form that pickle never writes")
    return OrderedDict()


def encoded(*arguments: Any) -> bytes:
    """Return bytes, which a pickle of torch keeps as text."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise RefusedError("it has bytes in a form that pickle never writes")
    text: str = arguments[0]
    return text.encode("latin1")


def no_bytes(*arguments: Any) -> bytes:
    """Return empty bytes."""
    if arguments:
        raise RefusedError("it has bytes in a form that pickle never writes")
    return b""


_NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}


def dtype_of(*arguments: Any) -> DType:
    """Return a numpy type of numbers."""
    if len(arguments) != 3 or type(arguments[0]) is not str or arguments[0] not in _NUMBERS:
        given = str(arguments[0])[:20] if arguments else ""
        raise RefusedError(f"it has an array of the type {given!r}, which is none of numbers")
    return DType(np.dtype(arguments[0]))


def order(made: DType, state: Any) -> None:
    """Set the byte order of a numpy type."""
    plain = (None, None, None, -1, -1, 0)
    if not isinstance(state, tuple) or len(state) != 8 or state[0] != 3 or state[2:] != plain:
        raise RefusedError("it has an array of an unknown type")
    if state[1] not in ("<", ">", "|", "="):
        raise RefusedError("it has an array of an unknown byte order")
    made.dtype = made.dtype.newbyteorder(state[1])


def array(*arguments: Any) -> np.ndarray[Any, Any]:
    """Return an array, which is filled later."""
    if len(arguments) != 3 or arguments[0] is not NDARRAY or arguments[1:] != ((0,), b"b"):
        raise RefusedError("it has an array in a form that numpy never writes")
    return np.empty(0, dtype=np.int8)


def fill(made: np.ndarray[Any, Any], state: Any) -> None:
    """Give an array its shape, type and numbers."""
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], DType):
        raise RefusedError("it has an array in a form that numpy never writes")
    version, shape, kind, by_column, data = state
    if version != 1 or not isinstance(shape, tuple) or not all(map(_is_count, shape)):
        raise RefusedError("it has an array of impossible shape")
    if type(by_column) is not bool or type(data) is not bytes or len(shape) > _MOST_DIMENSIONS:
        raise RefusedError("it has an array of objects, or of an unknown layout")
    if math.prod(max(n, 1) for n in shape) > _LARGEST:
        raise RefusedError("it has an array of impossible shape")
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise RefusedError(f"it has an array of shape {shape} with {len(data)} bytes of data")
    state = (1, shape, kind.dtype, by_column, data)
    made.__setstate__(state)


def scalar(*arguments: Any) -> Any:
    """Return a numpy number."""
    if len(arguments) != 2 or not isinstance(arguments[0], DType):
        raise RefusedError("it has a number of an unknown type")
    kind, data = arguments[0].dtype, arguments[1]
    if type(data) is not bytes or len(data) != kind.itemsize:
        raise RefusedError("it has a number of the wrong size")
    return np.frombuffer(data, kind)[0]


NDARRAY = Function("numpy.ndarray", lambda *_: _refuse("numpy.ndarray"))


def _refuse(name: str) -> None:
    raise RefusedError(f"it asks to call {name}")


_STORAGES = {
    **{"Float": torch.float32, "Double": torch.float64, "Half": torch.float16},
    **{"BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32},
    **{"Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool},
    **{"ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128},
}


def known(storages: Storages) -> dict[str, Function | StorageType]:
    """Return all that a file may ask for, by module and name."""
    functions: dict[str, Callable[..., Any]] = {
        "torch._utils _rebuild_tensor_v2": storages.tensor,
        "torch._utils _rebuild_parameter": parameter,
        "collections OrderedDict": mapping,
        "_codecs encode": encoded,
        "__builtin__ bytes": no_bytes,
        "numpy dtype": dtype_of,
        "numpy.core.multiarray _reconstruct": array,
        "numpy._core.multiarray _reconstruct": array,
        "numpy.core.multiarray scalar": scalar,
        "numpy._core.multiarray scalar": scalar,
    }
    made: dict[str, Function | StorageType] = {
        name: Function(name.replace(" ", "."), call) for name, call in functions.items()
    }
    made |= {f"torch {name}Storage": StorageType(dtype) for name, dtype in _STORAGES.items()}
    return made | {"numpy ndarray": NDARRAY}
