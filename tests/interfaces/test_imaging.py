"""Images of objects: whatever `Instrument.image` takes, from a real server on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray
from PIL import Image
from range_server import RangeServer, serving

from spender_core import Instrument, Loader, SpectrumBatch
from spender_core.archives.releases import Cutouts
from spender_core.errors import InputError, MissingFileError, PartialReadWarning
from spender_core.grid import Linear
from spender_core.interfaces import Source

SIZE = 8
SKY = {1: (10.0, -5.0), 2: (20.0, 0.5), 3: (350.0, 60.0)}
"""Where three objects are, by their number; there is an image of each."""


class Stars(Loader):
    """Objects by their number; files hold positions of all three, unless they are absent."""

    id_dtype = np.dtype([("NUMBER", "i8")])

    def __init__(self, url: str) -> None:
        self.url = url

    def recognises(self, url: str) -> bool:
        return False

    def load(self, url: str) -> SpectrumBatch:
        raise InputError("there are none")

    def locate(self, ids: Sequence[Any], root: str | None, release: str | None) -> list[Source]:
        return [Source(("absent", root or "stars"), {"NUMBER": row[0]}) for row in ids]

    def positions(self, url: str) -> NDArray[np.void]:
        if url == "absent":
            raise MissingFileError("absent")
        rows = [(number, *place) for number, place in SKY.items()]
        return np.array(rows, dtype=[("NUMBER", "i8"), ("RA", "f8"), ("DEC", "f8")])

    def cutouts(self) -> Cutouts:
        return Cutouts(url=self.url, layers=("sky",), sizes=(1, 50), pixel_scale=1.0)


class Eye(Instrument):
    name = "eye"
    grid = Linear(4000.0, 2.0, 20)
    loader = None

    def __init__(self, loader: Loader | None) -> None:
        self.loader = loader  # type: ignore[assignment]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sky")
    for number, (ra, dec) in SKY.items():
        pixels = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{ra:.1f}_{dec:.1f}.png")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RangeServer]:
    with serving(folder) as running:
        yield running


@pytest.fixture
def eye(server: RangeServer) -> Instrument:
    return Eye(Stars(f"{server.root}/{{ra:.1f}}_{{dec:.1f}}.png"))


@pytest.fixture
def truth(folder: Path) -> NDArray[np.uint8]:
    """The three images, shape (3, SIZE, SIZE, 3)."""
    names = [f"{ra:.1f}_{dec:.1f}.png" for ra, dec in SKY.values()]
    return np.stack([np.asarray(Image.open(folder / name)) for name in names])


RA, DEC = (np.array(values) for values in zip(*SKY.values(), strict=True))


@pytest.mark.parametrize(
    "where",
    [
        (RA, DEC),
        (RA * units.deg, (DEC * units.deg).to("rad")),
        np.stack([RA, DEC], axis=1),
        list(SKY.values()),
        (RA.tolist(), DEC.tolist()),
        SkyCoord(RA, DEC, unit="deg"),
        SkyCoord(RA, DEC, unit="deg").galactic,
        Table({"ra": RA, "dec": DEC, "NUMBER": [3, 2, 1]}),
        Table({"TARGET_RA": RA * units.deg, "TARGET_DEC": DEC * units.deg, "RA": RA * 0}),
        Table({"NUMBER": [1, 2, 3]}),
        [(1,), (2,), (3,)],
        np.array([(1,), (2,), (3,)], dtype=Stars.id_dtype),
        "stars",
        ["stars"],
    ],
    ids=[
        *(
            "arrays",
            "angles",
            "pairs",
            "list of pairs",
            "lists",
            "SkyCoord",
            "galactic",
            "table",
            "columns",
        ),
        *("ids in a table", "ids", "rows", "path", "paths"),
    ],
)
def test_images_are_those_of_the_objects(
    where: Any, eye: Instrument, truth: NDArray[np.uint8]
) -> None:
    np.testing.assert_array_equal(eye.image(where, size=SIZE), truth)


def test_a_batch_has_images_in_its_order(eye: Instrument, truth: NDArray[np.uint8]) -> None:
    ids = np.array([(3,), (1,)], dtype=Stars.id_dtype)
    batch = eye.batch(eye.wave, np.ones((2, 20)), np.ones((2, 20)), ids=ids)
    np.testing.assert_array_equal(eye.image(batch, size=SIZE), truth[[2, 0]])
    assert eye.image(batch[:1], size=SIZE).shape == (1, SIZE, SIZE, 3)


@pytest.mark.parametrize(
    "where",
    [
        np.array([10.0, -5.0]),
        (10.0, -5.0),
        (10, -5),
        (10 * units.deg, -5 * units.deg),
        (1,),
        SkyCoord("10d -5d"),
    ],
)
def test_one_object_has_one_image(where: Any, eye: Instrument, truth: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(eye.image(where, size=SIZE), truth[0])


def test_what_cannot_be_had_is_black(eye: Instrument, truth: NDArray[np.uint8]) -> None:
    with pytest.warns(PartialReadWarning, match=r"1 of 2 images .*11\.0_0\.0\.png"):
        found = eye.image(([11.0, 20.0] * units.deg, [0.0, 0.5] * units.deg), size=SIZE)
    assert not found[0].any()
    np.testing.assert_array_equal(found[1], truth[1])
    with pytest.raises(MissingFileError, match=r"11\.0_0\.0\.png"):
        eye.image((11.0, 0.0), size=SIZE)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ((10.0, 95.0), "is no position"),
        ((np.array([1.0, np.nan]), np.zeros(2)), "is no position"),
        ((np.zeros(2), np.zeros(3)), "right ascension and declination differ in length"),
        (Table({"RA": np.ma.array([1.0, 2.0], mask=[0, 1]), "DEC": [0.0, 0.0]}), "without a value"),
        (Table({"RA": ["a"], "DEC": ["b"]}), "positions must be numbers"),
        (np.zeros((0, 2)), "there are no positions"),
        ([], "nothing to read"),
        ((1.0 * units.m, 2.0 * units.m), "are no angles"),
    ],
    ids=str,
)
def test_what_is_no_position_is_refused(where: Any, message: str, eye: Instrument) -> None:
    with pytest.raises(InputError, match=message):
        eye.image(where, size=SIZE)


def test_objects_without_a_position_are_black(eye: Instrument, truth: NDArray[np.uint8]) -> None:
    with pytest.warns(PartialReadWarning, match=r"2 of 4 images .*NUMBER.* 4"):
        found = eye.image([(1,), (4,), (3,), (5,)], size=np.int64(SIZE), pixel_scale=np.float32(1))
    np.testing.assert_array_equal(found[[0, 2]], truth[[0, 2]])
    assert not found[[1, 3]].any()


def test_files_that_are_absent_are_black(eye: Instrument, truth: NDArray[np.uint8]) -> None:
    with pytest.warns(PartialReadWarning, match=r"1 of 4 images .*absent"):
        found = eye.image(["absent", "stars"], size=SIZE)
    np.testing.assert_array_equal(found[1:], truth)
    assert not found[0].any()
    with pytest.raises(MissingFileError, match="absent"):
        eye.image(["absent"], size=SIZE)


def test_ids_that_files_lack_are_named(eye: Instrument) -> None:
    with pytest.raises(MissingFileError, match=r"no position of .*NUMBER.* 4"):
        eye.image([(4,)], size=SIZE)


def test_instruments_without_a_service_say_so() -> None:
    class Plain(Stars):
        cutouts, positions = Loader.cutouts, Loader.positions

    with pytest.raises(InputError, match="Plain knows no service"):
        Eye(Plain("")).image((1.0, 2.0))
    with pytest.raises(InputError, match="eye has no survey"):
        Eye(None).image((1.0, 2.0))
