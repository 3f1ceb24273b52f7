"""Every pair of lines in docs/coming_from_spender.md is run with spender 0.3 and here, and compared.

The page is what is tested: its left blocks run in one namespace, its right ones in another, in the
order of the page. Comments behind a pair, which the page does not show, say what must hold:

    % same: THEIRS | OURS ; TOLERANCE    equal values; 1e-5 of the largest, if none is given
    % true: EXPRESSION                   of `their` and `our`, the namespaces
    % fails: ERROR: TEXT                 spender's block raises that; its names stay as they were

Servers of this machine stand for the archives, the Hub and the image service. The spectra are
real ones, under the ids of spender's README; the weights are random, the flow is the published one.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from full_coadds import write
from PIL import Image
from range_server import serving
from servers import Hub
from spender_sdss import plugin as sdss_plugin

from spender_core.plugins.hookspecs import hookimpl
from spender_core.plugins.manager import Candidate, installed

spender = pytest.importorskip("spender", reason="the oracle spender 0.3 is not installed")
for needed in ("nflows", "datasets", "accelerate", "pandas", "huggingface_hub"):
    pytest.importorskip(needed, reason=f"{needed}, which lines of spender need, is not installed")

PAGE = Path(__file__).parents[2] / "docs" / "coming_from_spender.md"
BLOCK = r"```\{code-block\} python\n:caption: %s\n\n(.*?)```"
PAIR = re.compile(
    BLOCK % "spender 0.3" + r"\n:::\n:::\{grid-item\}\n" + BLOCK % "spender-core" + r"\n:::\n::::\n"
    r"\n?((?:% [^\n]*\n)*)",
    re.DOTALL,
)
IDS = {
    (412, 52254, 308): "0266/spec-0266-51602-0013",
    (412, 52250, 129): "0266/spec-0266-51602-0107",
}
"""Ids of spender's README, and the real spectra that have them here."""

FLOW = "spender.desi-edr.galaxyflow-b71f8966.pt"
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Pair:
    """A block of spender, ours, and what must hold; `line` is where the page has it."""

    line: int
    theirs: str
    ours: str
    claims: tuple[str, ...]


def pairs() -> list[Pair]:
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for match in PAIR.finditer(text):
        claims = tuple(line.removeprefix("% ") for line in match[3].splitlines())
        found.append(Pair(text[: match.start()].count("\n") + 1, match[1], match[2], claims))
    return found


def significant(code: str) -> list[str]:
    """Return the lines of code without comments, spaces at the ends, and empty ones."""
    lines = (" ".join(line.split("#")[0].split()) for line in code.splitlines())
    return [line for line in lines if line and line != "import os"]


def test_every_pair_claims_something() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(pairs()) == text.count(":caption: spender 0.3") == text.count("::::{grid}") > 30
    assert all(pair.claims for pair in pairs())
    assert all(
        claim.split(":")[0] in ("same", "true", "fails")
        for pair in pairs()
        for claim in pair.claims
    )


def test_every_line_of_the_readme_is_there() -> None:
    about = importlib.metadata.metadata("spender")
    readme = about["Description"] or about.get_payload()
    assert isinstance(readme, str)
    blocks = re.findall(r"```python\r?\n(.*?)```", readme, re.DOTALL)
    lines = [line for block in blocks for line in significant(block)]
    assert len(lines) > 20
    there = {line for pair in pairs() for line in significant(pair.theirs)}
    there |= set(re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8")))
    assert [line for line in lines if line not in there] == []


def test_every_public_name_of_spender_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = {
        "spender": ("hub", "load_model", "load_flow_model", "Instrument", "LSF"),
        "spender.hub": ("list", "help", "load"),
        "spender.data.sdss.SDSS": METHODS,
        "spender.loss": (
            *("LossConfig", "consistency_loss", "similarity_loss", "similarity_restframe_loss"),
            *("restframe_weight", "get_losses"),
        ),
    }
    assert [name for group in names.values() for name in group if name not in text] == []


METHODS = (
    *("get_data_loader", "save_dataset", "get_spectrum", "get_image", "prepare_spectrum"),
    *("make_batch", "query", "augment_spectra"),
)


# ---- the archives and the Hub --------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server with real spectra of SDSS, a fabricated coadd of DESI, and images."""
    folder = tmp_path_factory.mktemp("archive")
    redux = folder / "sdss/sas/dr16/sdss/spectro/redux"
    given = real_data / "sdss/sas/dr17/sdss/spectro/redux/26/spectra/lite"
    for ids, path in IDS.items():
        made = redux / f"26/spectra/lite/{ids[0]:04d}/spec-{ids[0]:04d}-{ids[1]}-{ids[2]:04d}.fits"
        made.parent.mkdir(parents=True, exist_ok=True)
        renamed(given / f"{path}.fits", made, ids)
    catalogue(redux / "specObj-dr16.fits")
    (folder / "sdss/sas/dr17/sdss/spectro").mkdir(parents=True)
    shutil.copytree(redux, folder / "sdss/sas/dr17/sdss/spectro/redux")
    (redux.parents[3] / "dr17/sdss/spectro/redux/specObj-dr16.fits").rename(
        redux.parents[3] / "dr17/sdss/spectro/redux/specObj-dr17.fits"
    )
    coadd = write(folder / "desi/public/edr/spectro/redux/fuji/healpix", 12, seed=4).coadd
    for kind in ("rrdetails", "emline", "qso_mgii", "qso_qn"):
        suffix = ".h5" if kind == "rrdetails" else ".fits"
        coadd.with_name(coadd.name.replace("coadd", kind)).with_suffix(suffix).write_bytes(b"-")
    pixels = np.random.default_rng(6).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "cutout.jpeg")
    with serving(folder) as server:
        yield server.root


def renamed(source: Path, destination: Path, ids: tuple[int, int, int]) -> None:
    """Copy a spectrum and give it other ids."""
    with fits.open(source) as hdus:
        for hdu in (hdus[0].header, hdus[2].data):
            for name, value in zip(("PLATE", "MJD", "FIBERID"), ids, strict=True):
                if isinstance(hdu, fits.Header):
                    hdu[{"PLATE": "PLATEID"}.get(name, name)] = value
                else:
                    hdu[name] = value
        hdus.writeto(destination)


def catalogue(path: Path) -> None:
    """Write a specObj file of five galaxies."""
    n = 5
    Table(
        {
            "PLATE": [412] * n, "MJD": [52254] * n, "FIBERID": np.arange(306, 306 + n),
            "RUN2D": ["26"] * n, "RUN1D": [""] * n, "PLUG_RA": np.linspace(150, 151, n),
            "PLUG_DEC": [2.0] * n, "Z": [0.1, 0.2, 0.3, 0.05, 0.4], "Z_ERR": [1e-5] * n,
            "ZWARNING": [0] * n, "CLASS": ["GALAXY"] * n, "SPECPRIMARY": [1] * n,
            "PLATEQUALITY": ["good"] * n, "TARGETTYPE": ["SCIENCE"] * n, "SURVEY": ["sdss"] * n,
        }
    ).write(path)  # fmt: skip


@pytest.fixture
def reached(
    archive: str, hub: Hub, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    offer: Callable[..., Any],
) -> None:  # fmt: skip
    """Lead both packages to the servers, in a folder with the files that the page names."""
    monkeypatch.chdir(tmp_path)
    content = weights()
    (tmp_path / "mine.pt").write_bytes(content)
    hub.offer("spender.sdss.paperII-c273bb69.pt", content)
    hub.offer(FLOW, (real_data / "weights" / FLOW).read_bytes())
    lead_spender(archive, hub, tmp_path, monkeypatch)
    monkeypatch.setenv("SPENDER_ROOT_SDSS", f"{archive}/sdss/sas")
    monkeypatch.setenv("SPENDER_ROOT_DESI", f"{archive}/desi/public")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[cutouts.sdss]\nurl = "{archive}/cutout.jpeg?ra={{ra}}&dec={{dec}}"\n'
        'layers = ["sdss"]\nsizes = [64, 2048]\npixel_scale = 0.396127\n'
    )
    monkeypatch.setenv("SPENDER_CONFIG", str(config))
    offer(with_hash(content))
    name = "spec-0412-52254-0308.fits"
    there = f"{archive}/sdss/sas/dr16/sdss/spectro/redux/26/spectra/lite/0412/{name}"
    with urllib.request.urlopen(there) as reply:
        (tmp_path / name).write_bytes(reply.read())


@pytest.fixture
def own_accelerator() -> Iterator[None]:
    """Let spender's README set up accelerate, which a process does once, and undo that."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def weights() -> bytes:
    """Return a file as spender writes it, of the architecture of sdss_II, with random weights."""
    import io

    from spender.data.sdss import SDSS

    torch.manual_seed(12)
    first, last = SDSS._wave_obs[[0, -1]].tolist()
    model = spender.SpectrumAutoencoder(SDSS(), torch.linspace(first / 1.5, last, 7000), n_latent=6)
    with torch.no_grad():
        for parameter in model.encoder.mlp.parameters():
            parameter.mul_(3)  # so that latents differ clearly between spectra
    held = io.BytesIO()
    torch.save({"model": dict(model.state_dict())}, held)
    return held.getvalue()


def with_hash(content: bytes) -> list[Candidate]:
    """Return the installed plugins, with the hash of these weights on the card of sdss_II."""
    import hashlib

    digest = hashlib.sha256(content).hexdigest()
    changes = {"sha256": digest, "mirrors": ()}
    cards = [
        card.model_copy(update=changes) if card.name == "sdss_II" else card
        for card in sdss_plugin.spender_models()
    ]
    stand_in = ModuleType("stand_in")
    stand_in.spender_instruments = sdss_plugin.spender_instruments  # type: ignore[attr-defined]
    stand_in.spender_models = hookimpl(lambda: cards)  # type: ignore[attr-defined]
    stand_in.spender_models.__name__ = "spender_models"
    others = [candidate for candidate in installed() if candidate.distribution != "spender-sdss"]
    return [*others, Candidate("sdss", "spender-sdss", "0", lambda: stand_in)]


def lead_spender(archive: str, hub: Hub, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Lead its downloads, whose addresses are built in, to the servers."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    retrieve = urllib.request.urlretrieve
    places = {
        "https://data.sdss.org/sas": f"{archive}/sdss/sas",
        "https://data.desi.lbl.gov/public": f"{archive}/desi/public",
        "https://skyserver.sdss.org/dr16/SkyServerWS/ImgCutout/getjpeg": f"{archive}/cutout.jpeg",
    }

    def led(url: str, path: str) -> Any:
        for old, new in places.items():
            url = url.replace(old, new)
        assert url.startswith("http://127.0.0.1"), url
        return retrieve(re.sub(r"(?<!:)//+", "/", url), path)

    patch.setattr(urllib.request, "urlretrieve", led)


# ---- both sides ----------------------------------------------------------------------------


@pytest.mark.usefixtures("reached", "own_accelerator")
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore:Use PointwiseAffine:DeprecationWarning",
    "ignore:hdu= was not specified",
)
def test_both_give_the_same(hub: Hub) -> None:
    """One test, since later lines use the names of earlier ones."""
    table = Table({"PLATE": [412], "MJD": [52254], "FIBERID": [308], "logP": [12.5]})
    table.write("logp.parquet")
    hub.files["spender.sdss.paperII.logP.parquet"] = Path("logp.parquet").read_bytes()
    their: dict[str, Any] = {}
    our: dict[str, Any] = {}
    wrong: list[str] = []
    compared = 0
    for pair in pairs():
        failing = [claim for claim in pair.claims if claim.startswith("fails")]
        if failing:
            wrong += check_failure(pair, failing[0], their)
        else:
            run(pair, pair.theirs, their)
        run(pair, pair.ours, our)
        for claim in pair.claims:
            kind, _, text = claim.partition(": ")
            if kind in ("same", "true"):
                compared += 1
                held = holds(kind, text, SimpleNamespace(**their), SimpleNamespace(**our))
                wrong += [f"line {pair.line}: {claim}: {held}"] if held else []
    assert not wrong, "\n".join(wrong)
    assert compared > 50


def run(pair: Pair, code: str, names: dict[str, Any]) -> None:
    exec(compile(code, f"line {pair.line} of {PAGE.name}", "exec"), names)


def check_failure(pair: Pair, claim: str, names: dict[str, Any]) -> list[str]:
    """Run a block of spender that the page says fails; return what is wrong with that."""
    _, error, text = claim.split(": ", 2)
    try:
        run(pair, pair.theirs, dict(names))
    except Exception as caught:  # whatever it is, it is compared
        if type(caught).__name__ == error and text in str(caught):
            return []
        return [f"line {pair.line} fails with {caught!r}"]
    return [f"line {pair.line} does not fail any more"]


def holds(kind: str, text: str, their: SimpleNamespace, our: SimpleNamespace) -> str:
    """Return what is wrong with a claim; an empty text if it holds."""
    shared = {"their": their, "our": our, "pixels": pixels, "sum": sum, "torch": torch}
    if kind == "true":
        return "" if eval(text, shared) else "it does not hold"
    expressions, _, tolerance = text.partition(" ; ")
    left, right = expressions.split(" | ")
    expected = array(eval(left, shared | vars(their)))
    made = array(eval(right, shared | vars(our)))
    if expected.shape != made.shape:
        return f"shapes {expected.shape} and {made.shape}"
    if not (np.isfinite(expected).all() and np.isfinite(made).all()):
        return "there are values that are not finite"
    deviation = np.abs(expected - made).max() / max(np.abs(expected).max(), 1e-300)
    return "" if deviation <= float(tolerance or TOLERANCE) else f"they differ by {deviation:.1e}"


def array(values: Any) -> np.ndarray[Any, Any]:
    """Return whatever it is as an array of numbers."""
    if isinstance(values, torch.Tensor):
        values = values.detach().double().numpy()
    return np.asarray(values, dtype=np.float64)


def pixels(path: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))
