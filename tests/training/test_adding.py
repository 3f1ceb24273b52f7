"""Encoders of new instruments for decoders that stay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import SMALL, small_dataset

from spender_core import registry
from spender_core.cli import main
from spender_core.errors import InputError, SpenderError, UnknownNameError
from spender_core.interfaces import Model
from spender_core.losses import fidelity
from spender_core.nn.weighted import WeightedAutoencoder
from spender_core.records import ModelCard
from spender_core.training import Recipe, train
from spender_core.training.adding import encoder_recipe
from spender_core.training.building import make_instruments, make_model
from spender_core.training.config import LossConfig
from spender_core.training.objective import Inputs, Objective, Weights

WIDTHS: dict[str, Any] = {
    "n_latent": 2, "channels": [4, 6], "strides": [4], "encoder_hidden": [8], "decoder_hidden": [8],
}  # fmt: skip


def save_parent(folder: Path, rest: Any, **changes: Any) -> tuple[str, WeightedAutoencoder]:
    """Write a small model of SDSS with a learned kernel; return its path and itself."""
    sdss = registry.instrument("sdss")
    torch.manual_seed(7)
    arguments = WIDTHS | {"lsf_taps": {"sdss": 5}} | changes
    model = WeightedAutoencoder([sdss], rest, **arguments)
    card = ModelCard(
        name="old", architecture="weighted_autoencoder", latents=2, z_range=(0.0, 0.4),
        lsf="constant" if arguments["lsf_taps"] else "none", licence="MIT", citation=("A 2020",),
    )  # fmt: skip
    path = folder / "old.safetensors"
    registry.save(path, model, card)
    return str(path), model


@pytest.fixture
def parent(tmp_path: Path) -> tuple[str, WeightedAutoencoder]:
    return save_parent(tmp_path, torch.linspace(2500.0, 10000.0, 200))


def made_by(recipe: Recipe) -> Model:
    return make_model(recipe, make_instruments(recipe))


def test_the_recipe_is_that_of_the_model(parent: tuple[str, WeightedAutoencoder]) -> None:
    path, old = parent
    recipe = encoder_recipe("sdss", path, like="sdss", steps=7, batch_size=3, lr=0.01)
    about, (phase,) = recipe.model, recipe.phases
    assert (about.latents, about.rest.spacing, about.rest.pixels) == (2, "linear", 200)
    assert old.rest.pixel_offset(about.rest.grid().wave) < 0.01
    assert dict(about.lsf_taps) == {"sdss": 5}
    assert (phase.steps, phase.train) == (7, ("encoders.sdss", "lsf.sdss"))
    assert (phase.rate("encoders.sdss"), phase.rate("lsf.sdss")) == pytest.approx((0.01, 0.001))
    assert recipe.data["sdss"].z_range == (0.0, 0.4)
    assert recipe.data["sdss"].batch_size == 3
    assert (recipe.card.licence, recipe.card.citation) == ("MIT", ("A 2020",))
    assert Recipe.parse(recipe.to_toml()) == recipe


def test_all_begins_like_the_instrument_named(
    parent: tuple[str, WeightedAutoencoder], recwarn: pytest.WarningsRecorder
) -> None:
    path, old = parent
    new = made_by(encoder_recipe("sdss", path, like="sdss"))
    assert all(torch.equal(mine, old.state_dict()[name]) for name, mine in new.state_dict().items())
    assert not recwarn.list


def test_another_instrument_begins_with_what_fits(parent: tuple[str, WeightedAutoencoder]) -> None:
    path, old = parent
    with pytest.warns(UserWarning, match=r"1 begin untrained \(encoders\.boss\.mlp\.0\.weight\)"):
        new = made_by(encoder_recipe("boss", path, like="sdss"))
    mine, theirs = new.state_dict(), old.state_dict()
    shared = {name for name in mine if "mlp.0.weight" not in name or "encoders" not in name}
    assert {name.replace("boss", "sdss") for name in shared} < set(theirs)
    assert all(torch.equal(mine[name], theirs[name.replace("boss", "sdss")]) for name in shared)


def test_without_a_like_one_the_encoder_begins_untrained(
    parent: tuple[str, WeightedAutoencoder],
) -> None:
    path, old = parent
    recipe = encoder_recipe("boss", path)
    with pytest.warns(UserWarning, match=r"begin untrained \(lsf\.boss"):
        new = made_by(recipe)
    assert dict(recipe.model.lsf_taps) == {"boss": 5}
    stem = new.state_dict()["encoders.boss.stem.weight"]
    assert not torch.equal(stem, old.state_dict()["encoders.sdss.stem.weight"])
    assert torch.equal(new.state_dict()["decoder.mlp.0.weight"], old.decoder.mlp[0].weight)


@pytest.mark.parametrize("name", ["sdss_demo", "desi_demo", "desi_star_demo"])
def test_embedded_models_take_encoders(name: str) -> None:
    _, old = registry.load(name)
    recipe = encoder_recipe("boss", name, like=next(iter(old.instruments)))
    with pytest.warns(UserWarning, match=r"1 begin untrained"):
        new = made_by(recipe)
    s_BS = torch.randn(3, recipe.model.latents, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(new.decode(s_BS), old.decode(s_BS))


def test_models_without_kernels_and_those_with_all(tmp_path: Path) -> None:
    path, _ = save_parent(tmp_path, torch.logspace(3.4, 4.0, 150), lsf_taps={})
    recipe = encoder_recipe("boss", path)
    assert (recipe.model.rest.spacing, dict(recipe.model.lsf_taps)) == ("log", {})
    assert recipe.phases[0].train == ("encoders.boss",)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    uneven = torch.cat([torch.linspace(2500.0, 5000.0, 100), torch.linspace(5010.0, 10000.0, 50)])
    path, _ = save_parent(tmp_path, uneven)
    with pytest.raises(InputError, match="neither linear nor logarithmic"):
        encoder_recipe("boss", path)
    with pytest.raises(UnknownNameError, match=r"bos.*sdss"):
        encoder_recipe("boss", path, like="bos")
    with pytest.raises(UnknownNameError, match="no instrument named 'nothing'"):
        encoder_recipe("nothing", path)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("model.encoders_from.boss=sdss", "encoders_from needs a parent"),
        ("model.encoders_from.sdss=desi", r"model\.encoders_from.*'desi'.*sdss"),
        ("model.encoders_from.bos=sdss", r"model\.encoders_from.*'bos'.*sdss"),
    ],
)
def test_encoders_of_none_are_refused(
    parent: tuple[str, WeightedAutoencoder], setting: str, told: str, tmp_path: Path
) -> None:
    small_dataset(tmp_path / "data")
    settings = [setting] if "needs" in told else [f"model.parent={parent[0]}", setting]
    with pytest.raises(SpenderError, match=told):
        train(
            Recipe.parse(SMALL, settings=settings),
            tmp_path / "run",
            data={"sdss": str(tmp_path / "data")},
        )
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_the_command(
    parent: tuple[str, WeightedAutoencoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, old = parent
    small_dataset(tmp_path / "data", "boss")
    run = tmp_path / "run"
    words = ["spender", "new-encoder", "boss", path, "--like", "sdss", "--steps", "3"]
    words += ["--data", str(tmp_path / "data"), "--batch-size", "8", "-o", str(run)]
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [*words, "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().out
    assert not ended.value.code
    assert not run.exists()
    assert all(part in told for part in ("encoders.boss", "no phase", "3 steps in all"))
    monkeypatch.setattr(sys, "argv", [*words, "--set", "engine.threads=1"])
    with pytest.raises(SystemExit) as ended, pytest.warns(UserWarning, match="begin untrained"):
        main()
    torch.set_num_threads(threads)
    assert not ended.value.code, capsys.readouterr().err
    boss, new = registry.load(str(run / "old_boss.safetensors"))
    assert boss.name == "boss"
    assert new.card.parent == "old"
    mine, theirs = new.state_dict(), old.state_dict()
    same = {name for name in mine if name in theirs and torch.equal(mine[name], theirs[name])}
    assert {name for name in mine if name.startswith("decoder.")} <= same
    stem = mine["encoders.boss.stem.weight"]
    assert not torch.equal(stem, theirs["encoders.sdss.stem.weight"])
    again = Recipe.read(run / "recipe.toml")
    assert again.model.encoders_from == {"boss": "sdss"}


def test_the_logarithm_of_the_fidelity(parent: tuple[str, WeightedAutoencoder]) -> None:
    _, old = parent
    sdss = registry.instrument("sdss")
    generator = torch.Generator().manual_seed(2)
    flux = 1 + torch.randn(4, sdss.grid.size, generator=generator)
    ivar = torch.tensor([0.1, 1.0, 10.0, 1000.0])[:, None].expand_as(flux)
    z = torch.full((4,), 0.1, dtype=torch.float64)
    given = {"sdss": Inputs(flux, ivar, z)}
    with torch.no_grad():
        y_BL, valid_BL = old.observe(old.decode(old.encode_weighted(flux, ivar, "sdss")), sdss, z)
        each = fidelity(flux, ivar * valid_BL, y_BL, individual=True)
        found = [
            Objective(old, LossConfig(fidelity_form=form))(given, Weights())
            for form in ("chi2", "log")
        ]
    for losses, expected in zip(found, (each.mean(), each.log1p().mean()), strict=True):
        torch.testing.assert_close(losses.total, expected)
        torch.testing.assert_close(losses.fidelity, expected)
