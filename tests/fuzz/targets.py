"""What reads files of each kind: anything but a `SpenderError` that comes out of it is a fault.

A target is a list of stages. Each of them is called with what the earlier ones delivered;
where one refuses, those that need it are left out.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from fuzz import seeds
from spender_core import legacy, registry, weights
from spender_core.archives.downloads.fetch import fetch
from spender_core.archives.fits.hdus import Hdus
from spender_core.archives.remote.bytefile import LocalFile
from spender_core.batch import SpectrumBatch
from spender_core.cataloguing import measuring
from spender_core.errors import SpenderError, WeightsError
from spender_core.interfaces import Instrument, Model
from spender_core.records import ModelCard
from spender_core.training.checks import check_recipe
from spender_core.training.config import Recipe

Stage = tuple[str, bool, Callable[[], Any]]
"""Name; whether its memory is bounded by the file's size; what it does.

The last of those that are bounded says whether an input was accepted."""


def stages(kind: str, path: Path) -> Iterator[Stage]:
    """Yield the stages of a kind, for one input."""
    yield from STAGES[kind](path)


def _safetensors(path: Path) -> Iterator[Stage]:
    yield "info", True, lambda: registry.info(str(path))
    yield "weights.read", True, lambda: weights.read(path)
    yield from _loading(path, None)


def _pt(path: Path) -> Iterator[Stage]:
    instrument = "desi" if "flow" in path.name else "sdss"
    yield "legacy.read", True, lambda: legacy.read(path, instrument)
    yield "load without instrument", True, lambda: registry.load(path)
    yield from _loading(path, instrument)


def _loading(path: Path, instrument: str | None) -> Iterator[Stage]:
    loaded: list[Any] = []
    yield "load", True, lambda: loaded.append(registry.load(path, instrument=instrument))
    if loaded:
        yield "apply", False, lambda: apply(*loaded[0])


@torch.inference_mode()
def apply(instrument: Instrument, model: Any) -> None:
    """Do with a model what everyone does: density, or latents and spectra."""
    if isinstance(model, Model):
        dtype = next(model.parameters()).dtype
        flux = 1 + 0.1 * torch.sin(torch.arange(instrument.grid.size, dtype=dtype))[None]
        batch = SpectrumBatch(flux, torch.ones_like(flux), z=[0.1], instrument=instrument)
        model.reconstruct(batch)
    else:
        model.log_prob(torch.zeros(2, model.n_latent, dtype=model.shift.dtype))


def _fits(path: Path) -> Iterator[Stage]:
    yield "hdus", True, lambda: everything(path)
    found: list[Instrument] = []
    yield "recognise", True, lambda: found.append(registry.recognise(str(path)))
    instrument = found[0] if found else registry.instrument(_expected(path.name))
    batches: list[SpectrumBatch] = []
    read = instrument.read
    yield "read", True, lambda: batches.append(read(str(path), quality=False))
    if batches:
        yield "encode", False, lambda: encode(instrument, batches[0])


def everything(path: Path) -> None:
    """Read all of a FITS file by spender's own reader; only its own errors may come out."""
    file = LocalFile(str(path))
    try:
        for hdu in Hdus(file):
            assert all(hdu.header[key] == value for key, value in hdu.header.items())
            if hdu.kind == "table":
                found = hdu.table(list(hdu.columns))
                assert all(len(column) == len(hdu) for column in found.values())
            elif hdu.kind in ("image", "compressed"):
                assert hdu.image().shape == hdu.nonzero().shape == hdu.shape
    finally:
        file.close()


def _expected(name: str) -> str:
    if name.startswith("coadd") or name.startswith("redrock"):
        return "desi"
    return "boss" if "boss" in name else "sdss"


def encode(instrument: Instrument, batch: SpectrumBatch) -> None:
    """Encode up to four spectra, and describe them as the command line does."""
    model = joint()
    part = batch[: min(len(batch), 4)]
    result = measuring.encode(model, part, keep=True)
    for row in range(len(part)):
        measuring.remark(registry.info("sdss_demo"), part, row)
        part.label(row)
    assert result.latents.shape == (len(part), 2)
    assert part.flux.shape[1] == instrument.grid.size


@cache
def joint() -> Model:
    """Return a small model of all three instruments; made once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joint.safetensors"
        path.write_bytes(seeds.corpus("safetensors")["seed-joint"]["joint.safetensors"])
        model = registry.load(path)[1]
    assert isinstance(model, Model)
    return model


def _cards(path: Path) -> Iterator[Stage]:
    yield "validate", True, lambda: card(path.read_bytes())


def card(text: bytes | str) -> None:
    """Read a card as a weights file holds it, and write it again."""
    try:
        made = ModelCard.model_validate_json(text)
    except ValidationError:
        return  # what `weights.read` expects, and turns into a WeightsError
    again = ModelCard.model_validate_json(made.to_json())
    assert again.to_json() == made.to_json()


def _ids(path: Path) -> Iterator[Stage]:
    name, entry = identifier(path.read_bytes())
    root = path.parent / "root"
    root.mkdir(exist_ok=True)
    read = registry.instrument(name).read
    yield "read", True, lambda: refuse(lambda: read([entry], root=str(root), quality=False))
    yield "read bare", True, lambda: refuse(lambda: read(entry, root=str(root), quality=False))


def refuse(action: Callable[[], Any]) -> None:
    """Do what must be refused: the root is empty."""
    action()
    raise AssertionError("an id was found in an empty folder")


def identifier(data: bytes) -> tuple[str, Any]:
    """Return instrument and id of an input: JSON, with tuples in place of lists."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = data.decode("latin-1")
    if isinstance(content, list) and len(content) == 2 and content[0] in ("sdss", "boss", "desi"):
        return content[0], _as_id(content[1])
    return ("sdss", "boss", "desi")[len(data) % 3], _as_id(content)


def _as_id(content: Any, depth: int = 0) -> Any:
    if isinstance(content, list) and depth < 5:
        made = [_as_id(one, depth + 1) for one in content]
        return made if depth and len(made) % 5 == 0 else tuple(made)
    if isinstance(content, str) and content.startswith("np:"):
        return np.array([ord(c) for c in content[3:]])
    return content if depth or not isinstance(content, str) else (content,)


def _names(path: Path) -> Iterator[Stage]:
    text = path.read_bytes().decode("utf-8", "replace")
    if text.startswith(("/dev/", "/proc/")):
        return  # devices: a path that the caller chose
    yield "info", False, lambda: registry.info(text)
    yield "load", False, lambda: registry.load(text)
    yield "fetch", True, lambda: fetch(text)
    yield "location", True, lambda: location(text)


def location(text: str) -> None:
    """Look for weights where a plugin's card says; a card may be refused as such."""
    try:
        made = ModelCard(name="x", architecture="maf", latents=1, weights=text, sha256="0" * 64)
    except ValidationError as error:
        raise WeightsError(str(error)) from error
    registry._weights_of(made)


def _recipes(path: Path) -> Iterator[Stage]:
    made: list[Recipe] = []
    yield "read", True, lambda: made.append(Recipe.read(path))
    if made:
        yield "write", True, lambda: rewrite(made[0])
        yield "check", False, lambda: check_recipe(made[0])


def rewrite(recipe: Recipe) -> None:
    """Write a recipe as TOML, and read it again."""
    again = Recipe.parse(recipe.to_toml())
    assert again == recipe
    assert again.sha256 == recipe.sha256


STAGES: dict[str, Callable[[Path], Iterator[Stage]]] = {
    "safetensors": _safetensors,
    "pt": _pt,
    "fits": _fits,
    "cards": _cards,
    "ids": _ids,
    "names": _names,
    "recipes": _recipes,
}


def run(kind: str, path: Path) -> list[str]:
    """Run all stages, and return how each ended: "accepted" or the class of the refusal.

    Raises:
        Exception: Whatever is not a `SpenderError`.
    """
    ended = []
    for _, _, action in stages(kind, path):
        try:
            action()
            ended.append("accepted")
        except SpenderError as error:
            ended.append(type(error).__name__)
    return ended
