"""The registry: what is saved comes back the same, and what does not fit is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spender_core import registry, weights
from spender_core.batch import SpectrumBatch
from spender_core.errors import (
    FileError,
    GridError,
    InputError,
    MissingFileError,
    PluginError,
    SpenderError,
    UnknownNameError,
    WeightsError,
)
from spender_core.nn.autoencoder import SpectrumAutoencoder
from spender_core.nn.flow import MaskedAutoregressiveFlow
from spender_core.plugins import builtin
from spender_core.plugins.hookspecs import hookimpl
from spender_core.plugins.manager import Candidate
from spender_core.records import InstrumentSpec, ModelCard, ServedInstrument

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
CARD = ModelCard(name="small", architecture="spectrum_autoencoder", latents=2)
FLOW_CARD = ModelCard(name="small_flow", kind="flow", architecture="maf", latents=3)
PUBLISHED = {
    "desi_edr_galaxy",
    "desi_edr_galaxy_flow",
    "desi_edr_star",
    "desi_edr_star_flow",
    "sdss_I",
    "sdss_I_superres",
    "sdss_II",
    "sdss_II_galaxy_flow",
}

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


def small(*names: str, **changes: Any) -> SpectrumAutoencoder:
    """Make a random model that serves installed instruments."""
    served = [registry.instrument(name) for name in names or ("near",)]
    return SpectrumAutoencoder(served, REST, **(SMALL | changes)).eval()


def spectra(name: str = "near", count: int = 2) -> SpectrumBatch:
    one = registry.instrument(name)
    flux = 1 + 0.1 * torch.rand(count, one.grid.size)
    return SpectrumBatch(flux, torch.ones_like(flux), z=[0.1] * count, instrument=one)


def assert_alike(model: SpectrumAutoencoder, other: Any, batch: SpectrumBatch) -> None:
    """Check that two models agree in every bit of what they make of a batch."""
    with torch.no_grad():
        ours, theirs = model.reconstruct(batch), other.reconstruct(batch)
    assert torch.equal(ours.latents, theirs.latents)
    assert torch.equal(ours.restframe, theirs.restframe)
    assert torch.equal(ours.observed, theirs.observed)
    assert torch.equal(ours.valid, theirs.valid)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "small.safetensors"


# -- the plugins that are really installed ------------------------------------------------


def test_the_published_models_are_listed() -> None:
    assert set(registry.list()) >= PUBLISHED
    assert registry.list() == sorted(registry.list())


def test_an_alias_gives_its_model() -> None:
    assert registry.info("desi_edr") == registry.info("desi_edr_galaxy")
    assert "desi_edr" not in registry.list()


def test_every_card_names_a_known_architecture_and_installed_instruments() -> None:
    for name in registry.list():
        card = registry.info(name)
        assert card.name == name
        assert card.architecture in {"maf", "spectrum_autoencoder"}
        assert card.sha256
        for served in card.instruments:
            assert registry.instrument(served.name).grid.sha256 == served.grid


def test_the_installed_plugins_are_in_order() -> None:
    statuses = {status.distribution: status for status in registry.plugins()}
    for name in ("spender-core", "spender-sdss", "spender-desi"):
        assert statuses[name].ok, statuses[name].problems
    assert statuses["spender-sdss"].instruments == ("sdss", "boss")
    assert statuses["spender-desi"].instruments == ("desi",)


def test_instruments_are_made_once() -> None:
    assert {"boss", "desi", "sdss"} <= set(registry.instruments())
    assert registry.instrument("desi") is registry.instrument("desi")


@pytest.mark.parametrize("ask", [registry.info, registry.load])
def test_an_unknown_model_suggests_near_names(ask: Callable[[str], Any]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'desi_edr'"):
        ask("desi_erd")


def test_an_unknown_instrument_suggests_near_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'desi'"):
        registry.instrument("desy")


# -- saving and loading -------------------------------------------------------------------


def test_a_saved_model_comes_back_the_same(survey: Survey, path: Path) -> None:
    model = small(lsf_taps={"near": 5})
    registry.save(path, model, CARD)
    instrument, loaded = registry.load(path)
    assert instrument is registry.instrument("near")
    assert not loaded.training
    assert_alike(model, loaded, spectra())


def test_transform_is_the_same_after_loading(survey: Survey, path: Path) -> None:
    model = small("near", "far")
    registry.save(path, model, CARD)
    _, loaded = registry.load(str(path))
    x, z = torch.rand(2, len(REST)), torch.tensor([0.05, 0.3], dtype=torch.float64)
    for name in ("near", "far"):
        for ours, theirs in zip(
            model.transform(x, name, z), loaded.transform(x, name, z), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_wavelengths_keep_their_full_precision(survey: Survey, path: Path) -> None:
    registry.save(path, small(), CARD)
    assert torch.equal(registry.load(path)[1].wave_rest, REST)


def test_save_completes_the_card_from_the_model(survey: Survey, path: Path) -> None:
    written = registry.save(path, small("near", "far", lsf_taps={"far": 3}), CARD)
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [(one.name, one.lsf_taps) for one in written.instruments] == [("near", None), ("far", 3)]
    assert written.instruments[0].grid == registry.instrument("near").grid.sha256
    assert written.config["filters"] == [3, 4, 6]
    assert registry.info(str(path)) == written.model_copy(update={"sha256": ""})


def test_a_loaded_model_has_its_card_and_can_be_saved_again(survey: Survey, path: Path) -> None:
    model = small()
    first = registry.save(path, model, CARD)
    _, loaded = registry.load(path)
    assert loaded.card == first.model_copy(update={"sha256": ""})
    second = registry.save(path.with_name("again.safetensors"), loaded, loaded.card)
    assert second.sha256 == first.sha256


def test_a_float64_model_comes_back_the_same(survey: Survey, path: Path) -> None:
    model = small().double()
    registry.save(path, model, CARD)
    assert_alike(model, registry.load(path)[1], spectra().to(dtype=torch.float64))


def test_a_calibration_is_not_lost_in_silence(survey: Survey, path: Path) -> None:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1.1))

        def forward(self, wave: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.gain * y

    model = small(calibration={"near": Gain()})
    with pytest.raises(InputError, match="calibration of near cannot be stored"):
        registry.save(path, model, CARD)
    assert not path.exists()
    model.calibration.clear()
    registry.save(path, model, CARD)
    batch = spectra()
    assert torch.equal(registry.load(path)[1].encode(batch), model.encode(batch))


def test_a_flow_comes_back_the_same(survey: Survey, path: Path) -> None:
    grid = registry.instrument("far").grid.sha256
    card = FLOW_CARD.model_copy(
        update={"instruments": (ServedInstrument(name="far", grid=grid),), "citation": ("A paper",)}
    )
    flow = MaskedAutoregressiveFlow(3, hidden=6, transforms=2, blocks=1)
    registry.save(path, flow, card)
    instrument, loaded = registry.load(path)
    assert instrument.name == "far"
    assert loaded.card.citation == ("A paper",)
    latents = torch.randn(5, 3)
    assert torch.equal(loaded.log_prob(latents), flow.log_prob(latents))
    seeds = [torch.Generator().manual_seed(7) for _ in range(2)]
    assert torch.equal(loaded.sample(4, seeds[0]), flow.sample(4, seeds[1]))


def test_a_flow_whose_card_names_no_instrument_is_not_saved(survey: Survey, path: Path) -> None:
    flow = MaskedAutoregressiveFlow(3, hidden=6, transforms=2, blocks=1)
    with pytest.raises(InputError, match="instrument"):
        registry.save(path, flow, FLOW_CARD)
    assert not path.exists()


def test_a_file_whose_card_names_no_instrument_is_refused(survey: Survey, path: Path) -> None:
    flow = MaskedAutoregressiveFlow(3, hidden=6, transforms=2, blocks=1)
    weights.write(path, flow, FLOW_CARD.model_copy(update={"config": flow.config}))
    with pytest.raises(WeightsError, match="instrument"):
        registry.load(path)


# -- joint models -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "given"), [(None, "near"), ("near", "near"), ("far", "far")], ids=str
)
def test_an_instrument_of_a_joint_model_can_be_picked(
    survey: Survey, path: Path, wanted: str | None, given: str
) -> None:
    model = small("near", "far", lsf_taps={"far": 3})
    registry.save(path, model, CARD)
    instrument, loaded = registry.load(path, instrument=wanted)
    assert instrument.name == loaded.instrument.name == given
    assert set(loaded.instruments) == {"near", "far"}
    for name in ("near", "far"):
        assert_alike(model, loaded, spectra(name))


def test_an_instrument_that_a_model_does_not_serve_is_refused(survey: Survey, path: Path) -> None:
    registry.save(path, small("near"), CARD)
    with pytest.raises(UnknownNameError, match=r"no instrument in model 'small' named 'far'.*near"):
        registry.load(path, instrument="far")


def test_a_joint_model_loads_though_one_of_its_instruments_is_not_installed(
    survey: Survey, path: Path
) -> None:
    model = small("far", "near", lsf_taps={"near": 3, "far": 5})
    registry.save(path, model, CARD)
    batch = spectra("near")
    survey(near="tiny_survey:Near")
    instrument, loaded = registry.load(path, instrument="near")
    assert instrument.name == "near"
    assert set(loaded.instruments) == {"near"}
    assert_alike(model, loaded, batch)


def test_a_missing_instrument_that_is_asked_for_is_named(survey: Survey, path: Path) -> None:
    registry.save(path, small("far", "near"), CARD)
    survey(near="tiny_survey:Near")
    with pytest.raises(UnknownNameError, match="no instrument named 'far'"):
        registry.load(path)


def test_an_absent_instrument_takes_only_its_own_tensors_along(
    survey: Survey, path: Path, package: Path
) -> None:
    twin = type(registry.instrument("far"))
    survey(near="tiny_survey:Near", decoder="tiny_survey:Far")
    odd = type("Odd", (twin,), {"name": "decoder"})()
    model = SpectrumAutoencoder([registry.instrument("near"), odd], REST, **SMALL).eval()
    registry.save(path, model, CARD)
    survey(near="tiny_survey:Near")
    assert_alike(model, registry.load(path)[1], spectra())


# -- refusals -----------------------------------------------------------------------------


def test_another_grid_is_refused_with_both_hashes(survey: Survey, path: Path) -> None:
    registry.save(path, small(), CARD)
    old = registry.instrument("near").grid.sha256
    survey(near="tiny_survey:Regridded")
    new = registry.instrument("near").grid.sha256
    with pytest.raises(GridError, match=rf"'near'.*{old[:8]}.*{new[:8]}"):
        registry.load(path)


def test_an_unknown_architecture_is_refused_with_near_names(survey: Survey, path: Path) -> None:
    card = CARD.model_copy(update={"architecture": "spectrum_autoencoders"})
    weights.write(path, small(), card)
    with pytest.raises(UnknownNameError, match="Did you mean 'spectrum_autoencoder'"):
        registry.load(path)
    with pytest.raises(UnknownNameError, match="no architecture named"):
        registry.save(path, small(), card)


def test_an_import_path_in_a_card_is_no_architecture(survey: Survey, path: Path) -> None:
    target = "spender_core.nn.autoencoder:SpectrumAutoencoder"
    weights.write(path, small(), CARD.model_copy(update={"architecture": target}))
    with pytest.raises(UnknownNameError, match="no architecture named"):
        registry.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": 3}, "the card says 3 latents, the model has 2"),
        ({"architecture": "maf"}, r"architecture 'maf' \(MaskedAutoregressiveFlow\).*Autoencoder"),
        ({"kind": "flow"}, "kind|flow"),
    ],
    ids=["latents", "architecture", "kind"],
)
def test_a_card_that_does_not_fit_the_model_is_not_saved(
    survey: Survey, path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        registry.save(path, small(), CARD.model_copy(update=changes))
    assert not path.exists()


def test_a_card_with_other_latents_than_the_flow_is_not_saved(survey: Survey, path: Path) -> None:
    flow = MaskedAutoregressiveFlow(2, hidden=6, transforms=2, blocks=1)
    served = ServedInstrument(name="near", grid=registry.instrument("near").grid.sha256)
    with pytest.raises(InputError, match="3 latents"):
        registry.save(path, flow, FLOW_CARD.model_copy(update={"instruments": (served,)}))
    assert not path.exists()


@pytest.mark.parametrize(
    "config",
    [{"colour": "red"}, {"n_latent": "many"}, {"wave_rest": [1, 2]}, {"filters": [3, 4]}],
    ids=str,
)
def test_a_config_that_makes_no_model_is_refused_readably(
    survey: Survey, path: Path, config: dict[str, Any]
) -> None:
    served = ServedInstrument(name="near", grid=registry.instrument("near").grid.sha256)
    card = CARD.model_copy(update={"config": config, "instruments": (served,)})
    weights.write(path, small(), card)
    with pytest.raises(SpenderError):
        registry.load(path)


def test_tensors_of_another_config_are_refused_by_name(survey: Survey, path: Path) -> None:
    model = small()
    card = registry.save(path, model, CARD)
    config = card.config | {"decoder_hidden": [8]}
    weights.write(path, model, card.model_copy(update={"config": config}))
    with pytest.raises(WeightsError, match=r"decoder\.mlp\.0\.bias has shape \(7,\).*\(8,\)"):
        registry.load(path)


@pytest.mark.parametrize("name", ["missing.safetensors", "missing.pt", "folder/missing"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="missing"):
        registry.load(tmp_path / name)


# -- faulty plugins -----------------------------------------------------------------------


@pytest.mark.parametrize("target", ["not_there:Near", "tiny_survey:Gone", "tiny_survey:Unfinished"])
def test_an_instrument_that_cannot_be_made_is_a_plugin_error(survey: Survey, target: str) -> None:
    survey(near="tiny_survey:Near", ghost=target)
    with pytest.raises(PluginError, match=target):
        registry.instrument("ghost")
    assert registry.instrument("near").name == "near"


def test_a_faulty_instrument_does_not_keep_others_from_being_recognised(
    survey: Survey, path: Path
) -> None:
    path.write_text("no spectra")
    survey(ghost="not_there:Ghost", near="tiny_survey:Near")
    with pytest.raises(FileError, match="not a file of an installed instrument"):
        registry.recognise(str(path))


def test_a_faulty_instrument_does_not_keep_joint_models_from_loading(
    survey: Survey, path: Path
) -> None:
    model = small("near", "far")
    registry.save(path, model, CARD)
    batch = spectra("near")
    survey(near="tiny_survey:Near", far="not_there:Far")
    assert_alike(model, registry.load(path, instrument="near")[1], batch)


# -- models that a plugin brings along ----------------------------------------------------


@pytest.fixture
def embedded(survey: Survey, package: Path) -> Iterator[ModelCard]:
    """Card of a model whose file lies in the package of its plugin."""
    path = package / "models" / "small.safetensors"
    card = registry.save(path, small(), CARD)
    yield card.model_copy(update={"weights": "package:tiny_survey/models/small.safetensors"})
    path.unlink(missing_ok=True)


def test_an_embedded_model_loads_by_name(survey: Survey, embedded: ModelCard) -> None:
    survey([embedded])
    instrument, model = registry.load("small")
    assert instrument.name == "near"
    assert model.card == embedded
    assert registry.embedded("near") == embedded
    assert registry.embedded("far") is None


def test_an_altered_embedded_model_is_refused_with_both_hashes(
    survey: Survey, embedded: ModelCard, package: Path
) -> None:
    file = package / "models" / "small.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    survey([embedded])
    with pytest.raises(WeightsError, match=rf"{found}.*{embedded.sha256}"):
        registry.load("small")


def test_an_embedded_model_without_a_hash_is_refused(survey: Survey, embedded: ModelCard) -> None:
    survey([embedded.model_copy(update={"sha256": ""})])
    with pytest.raises(WeightsError, match="its card says nothing"):
        registry.load("small")


def test_a_card_that_disagrees_with_its_file_is_refused(
    survey: Survey, embedded: ModelCard
) -> None:
    survey([embedded.model_copy(update={"latents": 3})])
    with pytest.raises(WeightsError, match="says latents = 2, the card of the plugin says 3"):
        registry.load("small")


@pytest.mark.parametrize(
    "place", ["tiny_survey/models/gone.safetensors", "not_there/a.safetensors"]
)
def test_embedded_weights_that_are_gone_are_refused_readably(
    survey: Survey, embedded: ModelCard, place: str
) -> None:
    survey([embedded.model_copy(update={"weights": f"package:{place}"})])
    with pytest.raises(SpenderError):
        registry.load("small")


def test_a_card_that_tells_no_weights_is_refused_by_name(survey: Survey) -> None:
    survey([CARD])
    with pytest.raises(WeightsError, match="'small' does not say where its weights are"):
        registry.load("small")


# -- files of spender up to 0.3 -----------------------------------------------------------


def legacy_state(model: SpectrumAutoencoder, wave_obs: Any = None) -> dict[str, torch.Tensor]:
    """Return the state of a model under spender's names, with the grid of its instrument."""
    state = {"decoder.wave_rest": model.wave_rest.float()}
    for name, tensor in model.state_dict().items():
        parts = name.replace("encoders.near.", "encoder.").split(".")
        if parts[1] == "mlp":
            layer, part = divmod(int(parts[2]), 2)
            parts[2] = str(3 * layer + part)
        state[".".join(parts)] = tensor
    if wave_obs is not None:
        state["encoder.instrument.wave_obs"] = torch.tensor(wave_obs, dtype=torch.float32)
    return state


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "old.pt"


def test_an_old_file_tells_its_instrument_by_its_grid(survey: Survey, old: Path) -> None:
    model = small()
    torch.save({"model": [legacy_state(model, model.instrument.wave)], "losses": None}, old)
    instrument, loaded = registry.load(old)
    assert instrument.name == "near"
    assert loaded.card.name == "converted"
    batch = spectra()
    assert torch.equal(loaded.encode(batch), model.encode(batch))


def test_an_old_file_without_a_grid_needs_an_instrument(survey: Survey, old: Path) -> None:
    model = small()
    torch.save({"model": legacy_state(model)}, old)
    with pytest.raises(InputError, match=r"does not tell its instrument.*'far', 'near'"):
        registry.load(old)
    instrument, loaded = registry.load(old, instrument="near")
    latents = torch.randn(3, 2)
    assert instrument.name == "near"
    assert torch.equal(loaded.decode(latents), model.decode(latents))


def test_an_old_file_of_another_grid_is_refused(survey: Survey, old: Path) -> None:
    torch.save({"model": legacy_state(small(), registry.instrument("near").wave)}, old)
    with pytest.raises(GridError, match=r"old\.pt are not those of 'far'"):
        registry.load(old, instrument="far")


def test_a_faulty_instrument_does_not_keep_an_old_file_from_loading(
    survey: Survey, old: Path
) -> None:
    torch.save({"model": legacy_state(small(), registry.instrument("near").wave)}, old)
    survey(ghost="not_there:Ghost", near="tiny_survey:Near")
    assert registry.load(old)[0].name == "near"


def test_an_old_model_can_be_saved_anew(survey: Survey, old: Path, path: Path) -> None:
    torch.save({"model": legacy_state(small(), registry.instrument("near").wave)}, old)
    _, loaded = registry.load(old)
    registry.save(path, loaded, loaded.card)
    assert_alike(loaded, registry.load(path)[1], spectra())
