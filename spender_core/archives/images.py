"""Images of the sky from the surveys' public cutout services, checked before they are decoded."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from spender_core.archives.fits.opening import reading
from spender_core.archives.location import is_page, redacted, told
from spender_core.archives.releases import Cutouts
from spender_core.archives.remote.files import forget, open_bytes
from spender_core.archives.templates import fill
from spender_core.errors import DamagedFileError, InputError, SpenderError

_AT_ONCE = 8
"""Images that are asked for at a time."""

_SPARE = 1 << 20
"""Bytes of a file beyond 4 for each pixel."""

_SCALES = (1e-3, 1e3)
"""Least and largest size of a pixel that may be asked for, arcsec."""


def cutout_urls(
    service: Cutouts,
    sky_N2: NDArray[np.float64],
    size: int,
    pixel_scale: float | None,
    layer: str | None,
) -> list[str]:
    """Return the URLs of images.

    Args:
        service: What makes them.
        sky_N2: Right ascension and declination of their centres (N, 2), degrees.
        size: Width and height, pixels.
        pixel_scale: Size of a pixel, arcsec; None for the service's default.
        layer: One of the service's layers; None for its first.

    Raises:
        InputError: A position, the size, the scale or the layer is not possible.
    """
    least, most = service.sizes
    if isinstance(size, bool) or not isinstance(size, int) or not least <= size <= most:
        raise InputError(f"size must be a whole number from {least} to {most}, not {size!r:.40}")
    scale = service.pixel_scale if pixel_scale is None else pixel_scale
    if not isinstance(scale, (int, float)) or not _SCALES[0] <= scale <= _SCALES[1]:
        raise InputError(
            f"pixel_scale must be from {_SCALES[0]} to {_SCALES[1]} arcsec, not {scale!r:.40}"
        )
    layer = service.layers[0] if layer is None else layer
    if layer not in service.layers:
        raise InputError(f"there is no layer {layer!r:.40}; layers are {list(service.layers)}")
    urls = []
    for ra, dec in sky_N2.tolist():
        if not (math.isfinite(ra) and -90 <= dec <= 90 and -360 <= ra <= 360):
            raise InputError(
                f"({ra}, {dec}) is no position: right ascension is from 0 to 360 degrees, "
                "declination from -90 to 90"
            )
        where: dict[str, str | int | float] = {"ra": ra % 360, "dec": dec, "layer": layer}
        urls.append(fill(service.url, where | {"pixel_scale": float(scale), "size": size}))
    return urls


def fetch_images(urls: Sequence[str], size: int) -> list[NDArray[np.uint8] | SpenderError]:
    """Fetch images, several at a time.

    Args:
        urls: Where they are.
        size: Width and height that they must have, pixels.

    Returns:
        For each its pixels (size, size, 3), red, green, blue, north up and east left, or why
        there is none.
    """
    with ThreadPoolExecutor(_AT_ONCE, "spender-images") as pool:
        contents = list(pool.map(lambda url: _content(url, size), urls))
    found = [
        content if isinstance(content, SpenderError) else _pixels(url, content, size)
        for url, content in zip(urls, contents, strict=True)
    ]
    for url, one in zip(urls, found, strict=True):
        if isinstance(one, DamagedFileError):
            forget(url)
    return found


def _content(url: str, size: int) -> bytes | SpenderError:
    """Return what an URL holds, if it is not far larger than such an image can be."""
    try:
        with reading(url), open_bytes(url) as file:
            if file.size > 4 * size**2 + _SPARE:
                raise DamagedFileError(f"it has {file.size} bytes, too many for such an image")
            return file.read_at(0, file.size)
    except SpenderError as error:
        return error


def _pixels(url: str, content: bytes, size: int) -> NDArray[np.uint8] | SpenderError:
    """Decode an image; its header is believed only if it says the size that was asked for."""
    from PIL import Image

    if is_page(content):
        return DamagedFileError(f"{redacted(url)} is a web page, not an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
                if image.size != (size, size):
                    return DamagedFileError(
                        f"{redacted(url)} is an image of {image.size[0]} x {image.size[1]} pixels, "
                        f"not {size} x {size}"
                    )
                return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # decoders raise errors of any kind
        return DamagedFileError(f"{redacted(url)} is no image that can be read ({told(error)})")
