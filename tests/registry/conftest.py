"""A made-up survey of two tiny instruments, and small models that serve them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer, market_of

from spender_core import registry
from spender_core.batch import SpectrumBatch
from spender_core.interfaces import Instrument
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.plugins import builtin
from spender_core.plugins.hookspecs import hookimpl
from spender_core.plugins.manager import Candidate
from spender_core.records import InstrumentSpec, ModelCard

SURVEY = '''\
"""A survey of two tiny instruments."""

from spender_core.grid import Linear
from spender_core.interfaces import Instrument


class Near(Instrument):
    name = "near"
    grid = Linear(4000.0, 10.0, 60)
    loader = None


class Far(Instrument):
    name = "far"
    grid = Linear(5000.0, 20.0, 40)
    loader = None


class Regridded(Near):
    grid = Linear(4000.0, 10.0, 61)


class Unfinished(Instrument):
    name = "unfinished"
'''

SMALL: dict[str, Any] = {
    "n_latent": 2,
    "filters": (3, 4, 6),
    "sizes": (3, 5, 3),
    "encoder_hidden": (5,),
    "decoder_hidden": (7,),
}
REST = torch.linspace(3000, 7000, 31, dtype=torch.float64)

Survey = Callable[..., None]


class Hooks:
    """A plugin of given records."""

    def __init__(
        self, instruments: Iterable[InstrumentSpec] = (), models: Iterable[ModelCard] = ()
    ) -> None:
        self.instruments, self.models = list(instruments), list(models)

    @hookimpl
    def spender_instruments(self) -> list[InstrumentSpec]:
        return self.instruments

    @hookimpl
    def spender_models(self) -> list[ModelCard]:
        return self.models


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of an importable package with the classes of a tiny survey."""
    folder = tmp_path_factory.mktemp("site") / "tiny_survey"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text(SURVEY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder.parent)
        yield folder
        # the next module has a folder of its own
        sys.modules.pop(folder.name, None)


@pytest.fixture
def survey(package: Path, offer: Callable[[Iterable[Candidate]], Any]) -> Survey:
    """Install a plugin of the tiny survey, beside core's own."""

    def install(models: Iterable[ModelCard] = (), **targets: str) -> None:
        targets = targets or {"near": "tiny_survey:Near", "far": "tiny_survey:Far"}
        specs = [InstrumentSpec(name=name, target=target) for name, target in targets.items()]
        hooks = Hooks(specs, models)
        offer(
            [
                Candidate("core", "spender-core", "1", lambda: builtin),
                Candidate("tiny", "spender-tiny", "1", lambda: hooks),
            ]
        )

    install()
    return install


@pytest.fixture
def small() -> Callable[..., SpectrumAutoencoder]:
    """Return a function that makes a small random model."""

    def make(*served: str | Instrument, **changes: Any) -> SpectrumAutoencoder:
        """Make a random model that serves installed instruments."""
        instruments = [
            registry.instrument(one) if isinstance(one, str) else one for one in served or ("near",)
        ]
        return SpectrumAutoencoder(instruments, REST, **(SMALL | changes)).eval()

    return make


@pytest.fixture
def spectra() -> Callable[..., SpectrumBatch]:
    """Return a function that makes random spectra of an instrument."""

    def make(name: str = "near", count: int = 2) -> SpectrumBatch:
        one = registry.instrument(name)
        flux = 1 + 0.1 * torch.rand(count, one.grid.size)
        return SpectrumBatch(flux, torch.ones_like(flux), z=[0.1] * count, instrument=one)

    return make


@pytest.fixture
def assert_alike() -> Callable[..., None]:
    """Return a function that compares two models."""

    def check(model: SpectrumAutoencoder, other: Any, batch: SpectrumBatch) -> None:
        """Check that two models agree in every bit of what they make of a batch."""
        with torch.no_grad():
            ours, theirs = model.reconstruct(batch), other.reconstruct(batch)
        assert torch.equal(ours.latents, theirs.latents)
        assert torch.equal(ours.restframe, theirs.restframe)
        assert torch.equal(ours.observed, theirs.observed)
        assert torch.equal(ours.valid, theirs.valid)

    return check


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test saves its model."""
    return tmp_path / "small.safetensors"


@pytest.fixture
def rest() -> torch.Tensor:
    """Return the restframe wavelengths of every small model."""
    return REST


@pytest.fixture
def card() -> ModelCard:
    """Return the card of a small model, as one gives it to `registry.save`."""
    return ModelCard(name="small", architecture="spectrum_autoencoder", latents=2)


@pytest.fixture
def flow_card() -> ModelCard:
    """Return the card of a flow, which names no instrument yet."""
    return ModelCard(name="small_flow", kind="flow", architecture="maf", latents=3)


@pytest.fixture
def described(survey: Survey, path: Path, small: Callable[..., Any], card: ModelCard) -> Path:
    """A weights file of a model of two instruments, with a card that tells something."""
    told = {
        "licence": "CC-BY-4.0",
        "description": "A small <model>.",
        "training": {"data": {"spectra": 12, "survey": "near"}, "steps": 50},
        "evaluation": {"chi2": 1.25},
        "citation": ("Somebody et al. 2026",),
    }
    registry.save(path, small("near", "far"), card.model_copy(update=told))
    return path


@pytest.fixture
def other(described: Path, small: Callable[..., Any], card: ModelCard) -> Path:
    """Another weights file of the same name."""
    found = described.parent / "other" / described.name
    torch.manual_seed(7)
    registry.save(found, small("near"), card)
    assert found.read_bytes() != described.read_bytes()
    return found


@pytest.fixture
def market(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server that stands in for the Hugging Face Hub, for one who may write there."""
    yield from market_of(monkeypatch)


@pytest.fixture
def assert_loads() -> Callable[[str, Path], None]:
    """Return a check that a location gives the model of a file."""

    def check(location: str, file: Path) -> None:
        """Check that a location gives the model of a file, bit by bit."""
        ours, theirs = registry.load(file)[1].state_dict(), registry.load(location)[1].state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    return check
