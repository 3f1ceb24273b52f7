"""Images from a cutout service: a real server on this machine, and what it may do wrong."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from range_server import RangeServer, serving

from spender_core.archives.images import cutout_urls, fetch_images
from spender_core.archives.releases import Cutouts
from spender_core.errors import (
    DamagedFileError,
    InputError,
    MissingFileError,
    OfflineError,
    SpenderError,
)

SIZE = 24
Write = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cutouts")


@pytest.fixture(scope="module")
def serving_folder(folder: Path) -> Iterator[RangeServer]:
    with serving(folder) as running:
        yield running


@pytest.fixture
def server(
    serving_folder: RangeServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> RangeServer:
    monkeypatch.setattr("spender_core.archives.remote.fetching.PAUSE", 0.01)
    serving_folder.heal()
    serving_folder.forget()
    for old in folder.iterdir():
        old.unlink()
    return serving_folder


@pytest.fixture
def write(folder: Path) -> Write:
    def writer(name: str, size: tuple[int, int] = (SIZE, SIZE), mode: str = "RGB") -> NDArray:
        rng = np.random.default_rng(sum(name.encode()))
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
        pixels = rng.integers(0, 255, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, format="PNG")  # without losses
        return pixels

    return writer


def service(server: RangeServer) -> Cutouts:
    return Cutouts(
        url=server.at("x").removesuffix("x")
        + "{layer}_{ra:.2f}_{dec:.2f}_{size}_{pixel_scale}.png",
        layers=("sky", "deep"),
        sizes=(2, 100),
        pixel_scale=0.25,
    )


def sky(*positions: tuple[float, float]) -> NDArray[np.float64]:
    return np.array(positions, dtype=np.float64)


def test_images_are_fetched_as_they_are(server: RangeServer, write: Write) -> None:
    wanted = [(10.0, -5.5), (359.5, 0.0)]
    pixels = [write(f"sky_{ra:.2f}_{dec:.2f}_{SIZE}_0.25.png") for ra, dec in wanted]
    urls = cutout_urls(service(server), sky(*wanted), SIZE, None, None)
    found = fetch_images(urls, SIZE)
    for image, truth in zip(found, pixels, strict=True):
        assert not isinstance(image, SpenderError)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, truth)


def test_a_request_says_what_was_asked_for(server: RangeServer) -> None:
    (url,) = cutout_urls(service(server), sky((-10.0, 89.0)), 50, 0.5, "deep")
    assert url == server.at("deep_350.00_89.00_50_0.5.png")


def test_grey_images_become_colour(server: RangeServer, write: Write) -> None:
    grey = write("sky_1.00_2.00_24_0.25.png", mode="L")
    (image,) = fetch_images(cutout_urls(service(server), sky((1, 2)), SIZE, None, None), SIZE)
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sky_N2": sky((10, 91))}, r"\(10\.0, 91\.0\) is no position"),
        ({"sky_N2": sky((np.nan, 0))}, "is no position"),
        ({"sky_N2": sky((1e300, 0))}, "is no position"),
        ({"size": 1}, "size must be a whole number from 2 to 100, not 1"),
        ({"size": 101}, "size must be"),
        ({"size": 10.0}, "size must be"),
        ({"size": True}, "size must be"),
        ({"pixel_scale": 0.0}, "pixel_scale must be from 0.001"),
        ({"pixel_scale": np.inf}, "pixel_scale must be from 0.001"),
        ({"pixel_scale": "1"}, "pixel_scale must be from 0.001"),
        ({"layer": "x&a=b"}, r"there is no layer 'x&a=b'; layers are \['sky', 'deep'\]"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    asked = {"sky_N2": sky((10, 0)), "size": SIZE, "pixel_scale": None, "layer": None} | change
    made = Cutouts(
        url="https://example.org/{ra}", layers=("sky", "deep"), sizes=(2, 100), pixel_scale=1
    )
    with pytest.raises(InputError, match=message):
        cutout_urls(made, **asked)  # type: ignore[arg-type]


def only(server: RangeServer, name: str) -> SpenderError:
    (found,) = fetch_images([server.at(name)], SIZE)
    assert isinstance(found, SpenderError)
    return found


def test_bad_answers_are_told_apart(server: RangeServer, write: Write, folder: Path) -> None:
    good = write("good.png")
    write("small.png", size=(SIZE, SIZE - 1))
    (folder / "text.png").write_bytes(b"no coverage here")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:-200])
    (folder / "page.png").write_bytes(b"<!DOCTYPE html><html><body>busy</body></html>")
    (folder / "empty.png").write_bytes(b"")
    gif = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE)).save(gif, format="GIF")
    (folder / "other.png").write_bytes(gif.getvalue())
    names = ["small", "text", "cut", "page", "empty", "other", "absent"]
    found = fetch_images([server.at(f"{name}.png") for name in ["good", *names]], SIZE)
    np.testing.assert_array_equal(found[0], good)
    for name, error in zip(names, found[1:], strict=True):
        assert isinstance(error, SpenderError), name
        assert f"{name}.png" in str(error)
    assert isinstance(found[-1], MissingFileError)
    assert re.search("24 x 23 pixels, not 24 x 24", str(found[1]))
    assert re.search("web page", str(found[4]))


def test_bombs_are_not_unpacked(server: RangeServer, folder: Path) -> None:
    """A small file that claims to be an image of gigabytes."""
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, format="PNG")
    (folder / "bomb.png").write_bytes(bomb.getvalue())
    assert isinstance(only(server, "bomb.png"), DamagedFileError)
    (folder / "long.png").write_bytes(bytes((1 << 20) + 4 * SIZE**2 + 1))
    assert "too many for such an image" in str(only(server, "long.png"))


def test_a_busy_service_is_asked_again(server: RangeServer, write: Write) -> None:
    truth = write("sky.png")
    server.fault("status", ["sky.png"], code=503, times=2)
    (image,) = fetch_images([server.at("sky.png")], SIZE)
    np.testing.assert_array_equal(image, truth)


def test_offline_nothing_is_asked(
    server: RangeServer, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("sky.png")
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    assert isinstance(only(server, "sky.png"), OfflineError)
    assert server.seen().requests == 0
