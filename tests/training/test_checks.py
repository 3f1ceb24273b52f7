"""What cannot be trained is refused before the first step; the plan tells what is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import SMALL, small_dataset

from spender_core import registry
from spender_core.datasets.reading import Dataset
from spender_core.datasets.stream import Stream
from spender_core.errors import GridError, InputError, MissingFileError, SpenderError
from spender_core.grid import Log
from spender_core.training import Recipe, packaged
from spender_core.training.building import make_instruments, untrained
from spender_core.training.checks import check, check_recipe, open_datasets, selection
from spender_core.training.config import Phase
from spender_core.training.objective import Inputs, Objective, Weights
from spender_core.training.planning import Plan, memory_of, reached, steps_of

JOINT = SMALL.replace("[[phases]]", "[data.boss]\nbatch_size = 8\n[[phases]]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with datasets of SDSS and BOSS."""
    made = tmp_path_factory.mktemp("datasets")
    for name in ("sdss", "boss"):
        small_dataset(made / name, name)
    return made


def planned(folder: Path, *settings: str, text: str = SMALL) -> Plan:
    """Return the plan of a recipe on the small datasets."""
    recipe = Recipe.parse(text, settings=settings)
    recipe = recipe.with_paths({name: str(folder / name) for name in recipe.data})
    return check(recipe, open_datasets(recipe))


def refused(
    folder: Path, *settings: str, text: str = SMALL, error: type[SpenderError] = SpenderError
) -> str:
    """Return what is said when a recipe is refused."""
    with pytest.raises(error) as caught:
        planned(folder, *settings, text=text)
    return str(caught.value)


# -- plans -------------------------------------------------------------------------------------


def test_the_plan_counts_what_a_stream_hands_out(folder: Path) -> None:
    plan = planned(folder, "data.sdss.z_range=[0.05,0.2]", "phases.0.epochs=2.5")
    entry, dataset = plan.recipe.data["sdss"], Dataset(folder / "sdss", registry.instrument("sdss"))
    for split in ("train", "validation"):
        stream = Stream(dataset, split, batch_size=8, selection=selection(entry), prefetch=0)
        assert plan.data["sdss"].spectra[split] == stream.spectra
        assert plan.data["sdss"].left_out[split] == dataset.rows(split) - stream.spectra
    stream = Stream(dataset, "train", batch_size=8, selection=selection(entry), prefetch=0)
    assert plan.data["sdss"].batches == plan.phases[0].batches == len(stream)
    assert plan.steps == plan.phases[0].steps == int(np.ceil(2.5 * len(stream)))
    low, high = plan.data["sdss"].z or (0, 0)
    assert 0.05 <= low < high <= 0.2


def test_the_plan_counts_parameters_and_rates(folder: Path) -> None:
    plan = planned(folder, "phases.0.lr={all=1e-2,encoders=1e-3}", "phases.0.steps=50")
    model = untrained(plan.recipe, make_instruments(plan.recipe))
    assert sum(plan.parameters.values()) == sum(p.numel() for p in model.parameters())
    rates = plan.phases[0].rates
    assert {part: rate.peak for part, rate in rates.items()} == {
        "encoders.sdss": 1e-3,
        "decoder": 1e-2,
    }
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=50)
    assert rates["decoder"].start == pytest.approx(schedule.get_last_lr()[0])
    optimizer.step()
    for _ in range(49):
        schedule.step()
    assert rates["decoder"].end == pytest.approx(schedule.get_last_lr()[0])


@pytest.mark.parametrize(
    ("phase", "batches", "steps"),
    [
        (Phase(steps=7), 100, 7),
        (Phase(epochs=2.0), 100, 200),
        (Phase(epochs=0.5), 3, 2),
        (Phase(epochs=1.0, accumulation=4), 10, 3),
        (Phase(epochs=0.001), 3, 1),
    ],
)
def test_steps_of_a_phase(phase: Phase, batches: int, steps: int) -> None:
    assert steps_of(phase, batches) == steps


def test_the_memory_is_what_autograd_keeps(folder: Path) -> None:
    settings = ["loss.similarity=1", "loss.consistency=1", "data.sdss.batch_size=16"]
    plan = planned(folder, *settings)
    memory = memory_of(plan)
    assert memory is not None
    model = untrained(plan.recipe, make_instruments(plan.recipe)).train()
    batch = Dataset(folder / "sdss", registry.instrument("sdss")).read("train", range(16))
    inputs = Inputs(batch.flux, batch.ivar, batch.z, None, batch.flux.flip(0), batch.ivar)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    objective = Objective(model, plan.recipe.loss)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective({"sdss": inputs}, Weights(1, 1, 1, 5), {"sdss": 1.0})
    estimate = memory.activations + memory.pairs
    assert 0.5 < estimate / sum(held.values()) < 2


@pytest.mark.parametrize("losses", [("fidelity",), ("similarity",), ("consistency",)])
@pytest.mark.parametrize("form", ["restframe", "data"])
def test_parts_are_reached_where_they_have_gradients(
    folder: Path, losses: Sequence[str], form: str
) -> None:
    settings = [f"loss.similarity_form={form}", "model.lsf_taps.sdss=3", "loss.fidelity=0"]
    recipe = Recipe.parse(SMALL, settings=[*settings, *(f"loss.{name}=1" for name in losses)])
    model = untrained(recipe, make_instruments(recipe))
    batch = Dataset(folder / "sdss", registry.instrument("sdss")).read("train", range(6))
    inputs = Inputs(batch.flux, batch.ivar, batch.z, None, batch.flux.flip(0), batch.ivar)
    made = Objective(model, recipe.loss)(
        {"sdss": inputs}, Weights.of(recipe.loss, 0.5), {"sdss": 1.0}
    )
    made.total.backward()
    taught = {
        name
        for name, one in (
            ("encoders.sdss", model.encoders),
            ("decoder", model.decoder),
            ("lsf.sdss", model.lsf),
        )
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in one.parameters())
    }
    names = ("encoders.sdss", "decoder", "lsf.sdss")
    assert {name for name in names if reached(name, losses, form, ["sdss"])} == taught


def test_only_what_is_reached_is_trained(folder: Path) -> None:
    plan = planned(folder, "phases.0.data=sdss", text=JOINT)
    assert plan.phases[0].parts == ("encoders.sdss", "decoder")
    assert set(plan.parameters) == {"encoders.sdss", "encoders.boss", "decoder"}
    assert "encoders.boss is never trained" in " ".join(plan.remarks)
    assert "no phase uses the data of boss" in plan.remarks


@pytest.mark.parametrize("name", packaged())
def test_packaged_recipes_are_possible(name: str) -> None:
    recipe = Recipe.read(name)
    model = check_recipe(recipe)
    assert list(model.instruments) == list(recipe.data)
    assert all(parameter.is_meta for parameter in model.parameters())
    with pytest.raises(InputError, match=r"--data \w+=PATH"):
        open_datasets(recipe)


# -- impossible recipes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["phases.0.train=encoder"], ["phases.0.train", "'encoder'", "encoders.sdss"]),
        (["phases.0.train=encoders.boss"], ["'encoders.boss'", "'encoders.sdss'"]),
        (["phases.0.train=lsf"], ["phases.0.train", "'lsf'", "decoder"]),
        (["phases.0.data=boss"], ["phases.0.data", "'boss'", "sdss"]),
        (["phases.0.lr={encoder=1e-3}"], ["phases.0.lr", "'encoder'"]),
        (["phases.0.lr={decoder=1e-3}"], ["encoders.sdss", "learning rate"]),
        (["phases.0.steps=1"], ["'0'", "onecycle", "constant"]),
        (["phases.0.loss.fidelity=0"], ["phases.0 has no loss"]),
        (
            ["loss.fidelity=0", "loss.consistency=1", "phases.0.train=decoder"],
            ["phases.0 trains 'decoder'", "none of its losses reaches", "consistency of sdss"],
        ),
        (["loss.consistency=1", "data.sdss.batch_size=1"], ["data.sdss.batch_size", "2 or more"]),
        (
            ["loss.consistency=1", "data.sdss.augmentation.noise=0"],
            ["data.sdss.augmentation", "alters nothing"],
        ),
        (["loss.similarity=1", "model.rest.high=3900"], ["loss.bound", "4000 to 7000"]),
        (["model.lsf_taps.desi=3"], ["model.lsf_taps", "'desi'", "sdss"]),
        (["model.architecture=pca"], ["architecture", "'pca'", "spectrum_autoencoder"]),
        (["model.architecture=maf"], ["model.architecture = 'maf'", "spectrum_autoencoder"]),
        (["model.config.filtres=[1]"], ["model.config", "'filtres'", "Did you mean 'filters'"]),
        (["model.config.n_latent=3"], ["'n_latent'", "model.latents"]),
        (["model.config.filters=[1,2]"], ["model.config", "three filters"]),
        (["model.config.decoder_hidden=x"], ["model.config"]),
        (["model.parent=sdss_III"], ["'sdss_III'", "sdss_II"]),
        (["model.parent=sdss_II_galaxy_flow"], ["model.parent", "flow"]),
        (["data.euclid.path=x"], ["'euclid'", "sdss", "desi"]),
    ],
)
def test_impossible_recipes_are_refused(
    folder: Path, settings: list[str], parts: list[str]
) -> None:
    told = refused(folder, *settings)
    assert all(part in told for part in parts), told


def test_a_parent_that_does_not_exist(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "parent.safetensors"
    assert str(path) in refused(folder, f"model.parent={path}", error=MissingFileError)


# -- datasets that do not fit ------------------------------------------------------------------


def test_a_dataset_of_another_instrument(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sdss").symlink_to(folder / "boss")
    told = refused(tmp_path)
    assert all(part in told for part in ("data.sdss.path", "boss", "4686", "3921"))
    recipe = Recipe.parse(SMALL)
    boss = Dataset(folder / "boss", registry.instrument("boss"))
    with pytest.raises(InputError, match=r"data\.sdss is a dataset of 'boss'"):
        check(recipe, {"sdss": boss})
    with pytest.raises(InputError, match="no dataset is given for 'sdss'"):
        check(recipe, {})
    with pytest.raises(InputError, match="without its instrument"):
        check(recipe, {"sdss": Dataset(folder / "sdss")})


def test_a_dataset_on_another_grid(folder: Path) -> None:
    class Shifted(type(registry.instrument("sdss"))):  # type: ignore[misc]
        grid = Log(3.579, 1e-4, 3921)

    dataset = Dataset(folder / "sdss", registry.instrument("sdss"))
    dataset.instrument = Shifted()
    with pytest.raises(GridError, match=r"3\.579.*3\.578"):
        check(Recipe.parse(SMALL), {"sdss": dataset})
    with pytest.raises(InputError, match="grid"):
        Dataset(folder / "sdss", Shifted())


def test_an_empty_split(tmp_path: Path) -> None:
    rows = small_dataset(tmp_path / "sdss", n=1)
    missing = next(split for split in ("train", "validation") if not rows.get(split))
    told = refused(tmp_path)
    assert all(part in told for part in ("data.sdss.path", missing, "no spectra"))


def test_no_spectrum_is_left(folder: Path, tmp_path: Path) -> None:
    told = refused(folder, "data.sdss.z_range=[2,3]")
    assert all(part in told for part in ("data.sdss.z_range", "z_range 2 to 3", "0.3)", "train"))
    small_dataset(tmp_path / "sdss", z=np.full(40, np.nan))
    assert "have no redshift" in refused(tmp_path)
    told = refused(tmp_path, "data.sdss.reject=NO_Z")
    assert "redshift unknown" in told


def test_redshifts_that_the_restframe_does_not_reach(folder: Path) -> None:
    told = refused(folder, "model.rest.low=2500", "model.rest.high=2900")
    assert all(part in told for part in ("model.rest", "data.sdss.z_range", "2500", "3784"))
    remarks = planned(folder, "model.rest.low=5000").remarks
    assert any("percent of the pixels of sdss" in remark for remark in remarks)


def test_line_spread_functions_that_are_not_there(folder: Path) -> None:
    told = refused(folder, "model.uses_lsf=true")
    assert all(part in told for part in ("model.uses_lsf", "spender prepare --lsf"))


def test_a_dataset_that_is_not_there(folder: Path) -> None:
    recipe = Recipe.parse(SMALL, settings=[f"data.sdss.path={folder / 'nowhere'}"])
    with pytest.raises(SpenderError, match="nowhere"):
        open_datasets(recipe)
