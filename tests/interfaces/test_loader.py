"""Whatever a loader raises of a damaged file is one SpenderError that names the file."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from spender_core.batch import SpectrumBatch
from spender_core.errors import (
    FileError,
    InputError,
    MissingFileError,
    OfflineError,
    PluginError,
    SpenderError,
)
from spender_core.interfaces import Loader

SECRET = "https://user:pass@host.org/a.fits?token=abc"


def recursive() -> None:
    recursive()


def undecodable() -> None:
    b"\xff".decode()


def warned() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("an odd header", UserWarning, stacklevel=1)


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


FAULTS: dict[str, Callable[[], object]] = {
    "UnicodeDecodeError": undecodable,
    "AttributeError": lambda: None.data,  # type: ignore[attr-defined]
    "OverflowError": lambda: np.zeros(3, dtype="i4").fill(2**40),
    "ZeroDivisionError": lambda: 1 // 0,
    "KeyError": lambda: {}["FLUX"],
    "RecursionError": recursive,
    "error": lambda: struct.unpack("<i", b"x"),
    "zlib": lambda: zlib.decompress(b"nothing"),
    "MemoryError": raising(MemoryError()),
    "UserWarning": warned,
    "StopIteration": raising(StopIteration()),
    "OSError": raising(OSError("disk failed")),
    "EOFError": raising(EOFError("ended")),
}


class Failing(Loader):
    id_dtype = np.dtype([("ROW", "i8")])

    def __init__(self, fault: Callable[[], object]) -> None:
        self.fault = fault

    def recognises(self, url: str) -> bool:
        return bool(self.fault())

    def load(self, url: str) -> SpectrumBatch:
        self.fault()
        raise AssertionError("the fault did not happen")


class Derived(Failing):
    """Inherits `load`, and overrides `recognises`."""

    def recognises(self, url: str) -> bool:
        return super().recognises(url)


@pytest.mark.parametrize("method", ["load", "recognises"])
@pytest.mark.parametrize("kind", [Failing, Derived])
@pytest.mark.parametrize("fault", FAULTS)
def test_any_fault_becomes_a_file_error(kind: type[Failing], method: str, fault: str) -> None:
    loader = kind(FAULTS[fault])
    with pytest.raises(FileError, match=r"cannot read folder/a\.fits: .*remove it") as raised:
        getattr(loader, method)("folder/a.fits")
    assert raised.value.__cause__ is not None


def test_the_cause_is_named() -> None:
    with pytest.raises(FileError, match=r"seems damaged \(ZeroDivisionError: .* by zero\)"):
        Failing(FAULTS["ZeroDivisionError"]).load("a.fits")


@pytest.mark.parametrize("kind", [MissingFileError, OfflineError, PluginError, FileError])
def test_a_spender_error_stays_as_it_is(kind: type[SpenderError]) -> None:
    error = kind("just so")
    with pytest.raises(kind) as raised:
        Failing(raising(error)).load("a.fits")
    assert raised.value is error


def test_values_that_a_batch_refuses_are_a_damaged_file() -> None:
    with pytest.raises(FileError, match=r"cannot read a\.fits: z must be > -1"):
        Failing(raising(InputError("z must be > -1"))).load("a.fits")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_an_interrupt_passes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        Failing(raising(error)).load("a.fits")


@pytest.mark.parametrize(
    "error",
    [
        FileError(f"{SECRET} is odd"),
        ValueError(f"cannot parse '{SECRET}'"),
        OSError(f"403, message='no', url='{SECRET}'"),
        FileNotFoundError(SECRET),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_secrets_are_in_no_message(error: Exception) -> None:
    with pytest.raises(SpenderError, match=r"host\.org/a\.fits\?token=\.\.\.") as raised:
        Failing(raising(error)).load(SECRET)
    shown = f"{raised.value} {raised.value!r} {raised.value.__cause__}"
    assert raised.value.__suppress_context__
    for secret in ("user", "pass", "abc"):
        assert secret not in shown
