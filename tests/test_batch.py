"""`SpectrumBatch`: what it refuses, and that it keeps rows together."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spender_core.batch import Flag, SpectrumBatch, SpectrumLSF
from spender_core.errors import InputError

IDS = np.array(
    [(39627, "sv3", 57), (39628, "sv3", 57), (39629, "main", -1), (39630, "", 58)],
    dtype=[("TARGETID", "i8"), ("SURVEY", "U8"), ("HEALPIX", "i8")],
)


@dataclass(frozen=True)
class Taps:
    """A line spread function of each spectrum: its taps, shape (B, K)."""

    values: Tensor

    def __call__(self, y_BL: Tensor) -> Tensor:
        return y_BL

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Taps:
        return Taps(self.values[index])

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Taps:
        return Taps(self.values.to(device=device, dtype=dtype))

    @classmethod
    def cat(cls, parts: Sequence[Taps]) -> Taps:
        return cls(torch.cat([part.values for part in parts]))


def make(n: int = 4, **changes: Any) -> SpectrumBatch:
    """Return a batch whose values tell the row and the pixel they come from."""
    row, pixel = torch.arange(n)[:, None], torch.arange(6)
    arguments = {
        "flux": 10.0 * row + pixel,
        "ivar": 1.0 + row + 0.0 * pixel,
        "z": 0.1 * np.arange(n),
        "zerr": 1e-4 * np.arange(n),
        "norm": 1.0 + np.arange(n),
        "ids": IDS[:n],
        "instrument": "desi",
        "lsf": Taps(row + torch.zeros(3)),
        "flags": np.arange(n),
    }
    return SpectrumBatch(**(arguments | changes))


def assert_same(one: SpectrumBatch, other: SpectrumBatch) -> None:
    for name in ("flux", "ivar", "z", "zerr", "norm", "flags"):
        first, second = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    assert one.ids.tolist() == other.ids.tolist()  # type: ignore[union-attr]
    assert one.ids.dtype == other.ids.dtype  # type: ignore[union-attr]
    assert torch.equal(one.lsf.values, other.lsf.values)  # type: ignore[union-attr]
    assert one.instrument == other.instrument


def test_absent_columns_have_neutral_values() -> None:
    flux = torch.ones(2, 5)
    batch = SpectrumBatch(flux, flux)
    assert batch.z.isnan().all()
    assert batch.zerr.isinf().all()
    assert batch.norm.tolist() == [1.0, 1.0]
    assert batch.flags.tolist() == [0, 0]
    assert (batch.ids, batch.lsf, batch.instrument) == (None, None, None)


def test_columns_are_float64_whatever_the_spectra() -> None:
    batch = make()
    assert batch.flux.dtype == torch.float32
    assert {column.dtype for column in (batch.z, batch.zerr, batch.norm)} == {torch.float64}
    assert batch.flags.dtype == torch.int64


def test_plain_numbers_keep_their_precision() -> None:
    flux = torch.ones(1, 5)
    batch = SpectrumBatch(flux, flux, z=[0.1234567890123], norm=[1e-60])
    assert batch.z.item() == 0.1234567890123
    assert batch.norm.item() == 1e-60


@pytest.mark.parametrize(
    ("flux", "ivar"),
    [
        (torch.ones(5), torch.ones(5)),
        (torch.ones(2, 5), torch.ones(2, 6)),
        (torch.ones(2, 5), torch.ones(3, 5)),
        (torch.ones(2, 5, 1), torch.ones(2, 5, 1)),
    ],
)
def test_wrong_shapes_are_refused(flux: Tensor, ivar: Tensor) -> None:
    with pytest.raises(InputError, match=r"shape \(B, L\)"):
        SpectrumBatch(flux, ivar)


def test_wrong_types_are_refused() -> None:
    ones = torch.ones(2, 5)
    with pytest.raises(InputError, match=r"torch\.float32 and ivar is torch\.float64"):
        SpectrumBatch(ones, ones.double())
    with pytest.raises(InputError, match=r"flux must be float32 or float64, got torch\.int64"):
        SpectrumBatch(ones.long(), ones)
    with pytest.raises(InputError, match=r"got torch\.float16"):
        make().to(dtype=torch.float16)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("flux", float("nan"), "flux must be finite; set masked pixels to 0 with ivar 0"),
        ("flux", float("inf"), "flux must be finite"),
        ("ivar", -1.0, "ivar must be finite and >= 0"),
        ("ivar", float("inf"), "ivar must be finite"),
        ("ivar", float("nan"), "ivar must be finite"),
    ],
)
def test_bad_pixels_are_refused_and_named(name: str, value: float, message: str) -> None:
    values = getattr(make(), name).clone()
    values[2, 3] = value
    with pytest.raises(InputError, match=f"{message}.*spectra: 39629-main$"):
        make(**{name: values})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("norm", 0.0, "norm must be finite and > 0"),
        ("norm", -1.0, "norm must be finite and > 0"),
        ("norm", float("nan"), "norm must be finite and > 0"),
        ("norm", float("inf"), "norm must be finite and > 0"),
        ("zerr", -1e-9, "zerr must be >= 0"),
        ("zerr", float("nan"), "zerr must be >= 0"),
        ("z", -1.0, "z must be > -1"),
        ("z", -2.0, "z must be > -1"),
        ("z", float("inf"), "z must be > -1"),
        ("z", float("-inf"), "z must be > -1"),
    ],
)
def test_bad_columns_are_refused_and_named(name: str, value: float, message: str) -> None:
    values = getattr(make(), name).clone()
    values[1] = value
    with pytest.raises(InputError, match=f"{message}.*spectra: 39628-sv3-57$"):
        make(**{name: values})


def test_many_offenders_are_counted() -> None:
    flux = torch.full((8, 5), float("nan"))
    with pytest.raises(InputError, match=r"row 0, row 1, row 2, row 3, row 4 and 3 more$"):
        SpectrumBatch(flux, torch.ones(8, 5))


def test_unknown_values_are_allowed() -> None:
    batch = make(z=[0.1, float("nan"), 0.2, float("nan")], zerr=[0.0, float("inf"), 1.0, 0.0])
    assert batch.z.isnan().tolist() == [False, True, False, True]


@pytest.mark.parametrize("name", ["z", "zerr", "norm", "flags"])
def test_columns_of_other_lengths_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} must have shape \(4,\).* got \(3,\)"):
        make(**{name: [1, 1, 1]})
    with pytest.raises(InputError, match=rf"{name} must have shape"):
        make(**{name: 1})


@pytest.mark.parametrize(("name", "rows"), [("ids", IDS[:3]), ("lsf", Taps(torch.ones(3, 2)))])
def test_rows_of_other_lengths_are_refused(name: str, rows: Any) -> None:
    with pytest.raises(InputError, match=f"{name} has 3 rows for 4 spectra"):
        make(**{name: rows})


MASK = [False, True, False, True]


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (2, [2]),
        (-1, [3]),
        (np.int64(1), [1]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        (slice(2, 2), []),
        ([3, 0, 0], [3, 0, 0]),
        ([], []),
        (np.array([2, 1]), [2, 1]),
        (torch.tensor([2, 1]), [2, 1]),
        (MASK, [1, 3]),
        (np.array(MASK), [1, 3]),
        (torch.tensor(MASK), [1, 3]),
        (torch.zeros(4, dtype=torch.bool), []),
    ],
    ids=repr,
)
def test_selection_keeps_rows_together(index: Any, rows: list[int]) -> None:
    batch = make()
    chosen = batch[index]
    assert len(chosen) == len(rows)
    assert chosen.flux.tolist() == batch.flux.numpy()[rows].tolist()
    assert chosen.ivar.tolist() == batch.ivar.numpy()[rows].tolist()
    for name in ("z", "zerr", "norm", "flags"):
        assert getattr(chosen, name).tolist() == getattr(batch, name).numpy()[rows].tolist()
    assert chosen.ids is not None
    assert chosen.ids.tolist() == IDS[rows].tolist()
    assert chosen.lsf is not None
    assert chosen.lsf.values.tolist() == batch.lsf.values.numpy()[rows].tolist()  # type: ignore[union-attr]
    assert chosen.instrument == "desi"


def test_selection_out_of_range_raises() -> None:
    with pytest.raises(IndexError):
        make()[4]


def test_joining_the_parts_gives_the_whole() -> None:
    batch = make()
    assert_same(SpectrumBatch.cat([batch[:1], batch[1:3], batch[3:3], batch[3:]]), batch)
    assert_same(SpectrumBatch.cat([batch[2:], batch[:2]]), batch[[2, 3, 0, 1]])
    assert_same(SpectrumBatch.cat([batch]), batch)


def test_joining_without_ids_and_lsf() -> None:
    batch = make(ids=None, lsf=None)
    joined = SpectrumBatch.cat([batch, batch])
    assert len(joined) == 8
    assert (joined.ids, joined.lsf) == (None, None)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([make(instrument="sdss")], "different instruments.*desi.*sdss"),
        ([make(flux=torch.ones(4, 7), ivar=torch.ones(4, 7))], "different instruments and pixels"),
        ([make(ids=None)], "some of the batches have ids and some have none"),
        ([make(lsf=None)], "some of the batches have lsf and some have none"),
        ([make(ids=np.zeros(4, dtype=[("PLATE", "i8")]))], "ids"),
    ],
    ids=["instrument", "pixels", "no ids", "no lsf", "other ids"],
)
def test_batches_that_do_not_fit_are_not_joined(others: list[SpectrumBatch], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpectrumBatch.cat([make(), *others])


def test_nothing_cannot_be_joined() -> None:
    with pytest.raises(InputError, match="empty list"):
        SpectrumBatch.cat([])


def test_change_of_type_leaves_the_columns() -> None:
    double = make().to(dtype=torch.float64)
    assert double.flux.dtype == double.ivar.dtype == torch.float64
    assert double.lsf is not None
    assert double.lsf.values.dtype == torch.float64
    assert double.z.dtype == torch.float64
    assert_same(double.to("cpu", torch.float32), make())


def test_replace_changes_what_is_named_only() -> None:
    batch = make()
    changed = batch.replace(z=batch.z + 1)
    assert torch.equal(changed.z, batch.z + 1)
    assert_same(changed.replace(z=batch.z), batch)
    with pytest.raises(InputError, match="z must be > -1"):
        batch.replace(z=batch.z - 2)


def test_instrument_may_be_given_as_an_object() -> None:
    class Mine:
        name = "mine"

    assert make(instrument=Mine()).instrument == "mine"


def test_snr_is_the_median_of_the_good_pixels() -> None:
    flux = torch.tensor([[1.0, 2.0, 30.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    ivar = torch.tensor([[4.0, 4.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    batch = SpectrumBatch(flux, ivar)
    assert batch.good.tolist() == [[True, True, False, True], [False] * 4]
    assert batch.snr.tolist() == [4.0, 0.0]


def test_labels_are_the_ids_without_what_is_empty() -> None:
    labels = [make().label(row) for row in range(4)]
    assert labels == ["39627-sv3-57", "39628-sv3-57", "39629-main", "39630-58"]
    assert make(ids=None).label(2) == "row 2"
    assert make(ids=np.array(["a", "b", "c", "d"])).label(1) == "b"


def test_flags_are_told_in_words() -> None:
    batch = make(flags=[0, int(Flag.NO_Z), int(Flag.FIBRE | Flag.EMPTY), 511])
    assert batch.causes(0) == []
    assert batch.causes(1) == ["redshift unknown"]
    assert batch.causes(2) == ["fibre flagged by the survey", "no good pixel"]
    assert batch.causes(2, among=Flag.EMPTY) == ["no good pixel"]
    assert len(batch.causes(3)) == len(Flag)


def test_line_spread_function_fits_the_protocol() -> None:
    assert isinstance(Taps(torch.ones(2, 3)), SpectrumLSF)


def test_repr_tells_the_essentials() -> None:
    text = repr(make(z=[0.1, float("nan"), 0.2, 0.3]))
    assert text == (
        "SpectrumBatch(4 spectra of 6 pixels, instrument='desi', 3 with z, float32 on cpu)"
    )


def test_survives_pickling() -> None:
    assert_same(pickle.loads(pickle.dumps(make())), make())
