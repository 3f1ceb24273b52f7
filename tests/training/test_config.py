"""Recipes: what they say is read, written and overridden; what they cannot say is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spender_core import registry
from spender_core.batch import Flag
from spender_core.datasets.augment import CappedRedshift, UniformRedshift
from spender_core.errors import FileError, InputError, MissingFileError, SpenderError
from spender_core.training import Recipe, packaged, tomltext
from spender_core.training.ramps import at, positive
from spender_core.training.reading import parsed
from spender_core.training.settings import RestConfig

TINY = """
recipe = 1
name = "tiny"
[model]
latents = 4
rest = {low = 3000, high = 9000, pixels = 500}
[data.sdss]
path = "somewhere"
z_range = [0, 0.4]
reject = ["NO_Z", "EMPTY"]
augmentation = {redshifts = {uniform = [0, 0.5]}, mask = 0.1}
[data.boss]
[loss]
similarity = [[0, 0], [0.5, 3]]
slope = 2
[[phases]]
steps = 10
loss = {consistency = 1}
[[phases]]
name = "encoders"
epochs = 2.5
train = ["encoders"]
data = ["boss"]
lr = {all = 1e-2, encoders = 1e-3, "encoders.boss" = 1e-4}
"""


def refusal(*settings: str, text: str = TINY) -> str:
    """Return what is said when a recipe is refused."""
    with pytest.raises(InputError) as caught:
        Recipe.parse(text, "tiny.toml", settings)
    return str(caught.value)


# -- ramps -------------------------------------------------------------------------------------

shares = st.floats(0, 1)
heights = st.floats(-100, 100)


@st.composite
def ramps(draw: Any) -> Any:
    places = sorted(draw(st.lists(shares, min_size=1, max_size=6, unique=True)))
    return tuple((place, draw(heights)) for place in places)


@given(ramps(), shares)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_ramps_interpolate_as_numpy_does(ramp: Any, share: float) -> None:
    expected = np.interp(share, *zip(*ramp, strict=True))
    assert at(ramp, share) == pytest.approx(expected, abs=1e-9, rel=1e-9)


def test_ramps_jump_where_two_pairs_are_at_one_share() -> None:
    ramp = ((0.0, 0.0), (0.5, 5.0), (0.5, 1.0), (1.0, 2.0))
    assert at(ramp, np.nextafter(0.5, 0)) == pytest.approx(5.0)
    assert at(ramp, 0.5) == 1.0
    assert at(ramp, 1.0) == 2.0
    assert (at(3.0, 0.2), positive(0.0), positive(((0.0, 0.0), (1.0, 1e-9)))) == (3.0, False, True)


# -- reading and writing -----------------------------------------------------------------------


def test_what_a_recipe_says_is_read() -> None:
    recipe = Recipe.parse(TINY)
    sdss, (first, second) = recipe.data["sdss"], recipe.phases
    assert (recipe.model.latents, sdss.z_range, sdss.batch_size) == (4, (0.0, 0.4), 512)
    assert sdss.rejected == Flag.NO_Z | Flag.EMPTY
    assert sdss.augmentation.settings().redshifts == UniformRedshift(0, 0.5)
    assert recipe.data["boss"].augmentation.settings().redshifts is None
    assert recipe.loss.similarity == ((0.0, 0.0), (0.5, 3.0))
    assert (recipe.data_of(first), recipe.data_of(second)) == (("sdss", "boss"), ("boss",))
    wanted = {"encoders.boss": 1e-4, "encoders.sdss": 1e-3, "decoder": 1e-2}
    assert {part: second.rate(part) for part in wanted} == wanted


def test_a_phase_overrides_only_the_losses_that_it_names() -> None:
    recipe = Recipe.parse(TINY)
    changed, same = (recipe.loss_of(phase) for phase in recipe.phases)
    assert (changed.consistency, changed.slope, changed.similarity) == (
        1.0,
        2.0,
        recipe.loss.similarity,
    )
    assert same == recipe.loss


def test_capped_redshifts() -> None:
    recipe = Recipe.parse(TINY, settings=["data.sdss.augmentation.redshifts={capped=0.3}"])
    assert recipe.data["sdss"].augmentation.settings().redshifts == CappedRedshift(0.3)


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_the_restframe_grid_has_its_ends_and_its_pixels(spacing: Any) -> None:
    rest = RestConfig(low=2000.0, high=9000.0, pixels=100, spacing=spacing, superres=1.5)
    wave = rest.grid().wave
    assert len(wave) == rest.size == 150
    assert wave[[0, -1]] == pytest.approx([2000, 9000], rel=1e-12)
    steps = np.diff(wave if spacing == "linear" else np.log(wave))
    assert steps == pytest.approx(steps.mean(), rel=1e-9)


@pytest.mark.parametrize("name", packaged())
def test_packaged_recipes_survive_being_written(name: str, tmp_path: Path) -> None:
    recipe = Recipe.read(name)
    (tmp_path / "again.toml").write_text(recipe.to_toml(), encoding="utf-8")
    again = Recipe.read(tmp_path / "again.toml")
    assert again == recipe
    assert again.sha256 == recipe.sha256
    assert recipe.name == name


PUBLISHED = {
    "sdss_I": 5881,
    "sdss_I_superres": 11762,
    "sdss_II": 7000,
    "desi_edr_galaxy": 9780,
    "desi_edr_star": 7864,
}
"""Restframe pixels of the published files."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_packaged_recipes_make_what_was_published(name: str) -> None:
    recipe, card = Recipe.read(name), registry.info(name)
    assert recipe.model.latents == card.latents
    assert list(recipe.data) == [one.name for one in card.instruments]
    assert recipe.model.rest.size == PUBLISHED[name]
    (data,) = recipe.data.values()
    assert data.z_range == card.z_range
    losses = recipe.loss_of(recipe.phases[0])
    named = card.training["loss"].split(", ")
    assert [
        "fidelity",
        *(n for n in ("similarity", "consistency") if positive(getattr(losses, n))),
    ] == named
    assert recipe.card.citation == card.citation
    wave, low, high = registry.instrument(next(iter(recipe.data))).wave, *data.z_range
    assert recipe.model.rest.low <= wave[0] / (1 + high) * 1.0001
    assert recipe.model.rest.high >= wave[-1] / (1 + low) * 0.9999


leaves = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
trees = st.dictionaries(
    keys,
    st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=10,
    ),
    max_size=4,
)


@given(trees)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_is_written_as_toml_is_read_as_it_was(content: dict[str, Any]) -> None:
    assert parsed(tomltext.written(content), "it") == content


def test_the_hash_follows_what_is_learned_and_nothing_else() -> None:
    first = Recipe.parse(TINY)
    same = ["engine.keep=9", "description=x", "data.sdss.path=elsewhere", "phases.0.name=one"]
    same += ["phases.0.loss.slope=2", "data.boss.batch_size=512"]
    others = ["seed=1", "phases.0.loss.slope=3", "phases.1.epochs=3", "data.boss.weight=2"]
    others += ["model.rest.pixels=501", "engine.precision=bf16"]
    assert {Recipe.parse(TINY, settings=[one]).sha256 for one in same} == {first.sha256}
    hashes = {Recipe.parse(TINY, settings=[one]).sha256 for one in others}
    assert len(hashes | {first.sha256}) == len(others) + 1


# -- overrides ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "where", "value"),
    [
        ("phases.0.steps=100", lambda r: r.phases[0].steps, 100),
        ("phases.0.epochs=1.5", lambda r: (r.phases[0].steps, r.phases[0].epochs), (None, 1.5)),
        ("phases.1.steps=3", lambda r: (r.phases[1].steps, r.phases[1].epochs), (3, None)),
        ("phases.0.train=encoders,decoder", lambda r: r.phases[0].train, ("encoders", "decoder")),
        ('phases.0.train=["decoder"]', lambda r: r.phases[0].train, ("decoder",)),
        ("data.sdss.path=12", lambda r: r.data["sdss"].path, "12"),
        ("data.sdss.path=a=b", lambda r: r.data["sdss"].path, "a=b"),
        ("data.desi.path=new", lambda r: r.data["desi"].path, "new"),
        ("data.sdss.z_range=none", lambda r: r.data["sdss"].z_range, None),
        ("loss.similarity=[[0,1],[1,2]]", lambda r: r.loss.similarity, ((0.0, 1.0), (1.0, 2.0))),
        ("phases.1.lr=1e-5", lambda r: r.phases[1].lr, 1e-5),
        ("model.rest.spacing=log", lambda r: r.model.rest.spacing, "log"),
        (
            "model.config.activation=leaky_relu",
            lambda r: r.model.config["activation"],
            "leaky_relu",
        ),
        ("engine.compile=true", lambda r: r.engine.compile, True),
        ("model.parent='x'", lambda r: r.model.parent, "x"),
    ],
)
def test_settings_are_typed_by_the_schema(setting: str, where: Any, value: Any) -> None:
    assert where(Recipe.parse(TINY, settings=[setting])) == value


def test_settings_leave_the_rest_as_it_is() -> None:
    first, changed = Recipe.parse(TINY), Recipe.parse(TINY, settings=["phases.0.steps=7"])
    phases = (first.phases[0].model_copy(update={"steps": 7}), *first.phases[1:])
    assert changed == first.model_copy(update={"phases": phases})


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("phases.0.stepz=1", ["'phases.0.stepz'", "Did you mean 'steps'?", "epochs", "optimizer"]),
        ("modle.latents=1", ["'modle'", "Did you mean 'model'?"]),
        ("phases.5.steps=1", ["phases.5", "2 of phases"]),
        ("phases.x.steps=1", ["phases.x", "counted from 0"]),
        ("phases.0.steps", ["phases.0.steps=100"]),
        ("=3", ["no setting"]),
        ("phases.0.steps=many", ["phases.0.steps = 'many'", "whole number"]),
        ("phases.0.steps=1.5", ["phases.0.steps = 1.5", "whole number"]),
        ("phases.0.steps=0", ["phases.0.steps = 0", "greater than or equal to 1"]),
        ("engine.compile=1", ["engine.compile = 1", "true or false"]),
        ("phases=3", ["phases = 3", "a list"]),
        ("loss=3", ["loss = 3", "a table"]),
    ],
)
def test_impossible_settings_are_refused(setting: str, parts: list[str]) -> None:
    told = refusal(setting)
    assert all(part in told for part in parts), told


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("slope =", "slop =", ["'loss.slop'", "Did you mean 'slope'?", "similarity_form"]),
        ("[data.boss]", "[data.boss]\npaht = 'x'", ["'data.boss.paht'", "'path'"]),
        ("latents = 4", "", ["model lacks 'latents'"]),
        ("steps = 10", "steps = 10\nepochs = 1", ["phases.0", "exactly one"]),
        ("steps = 10", "", ["phases.0", "exactly one"]),
        ("steps = 10", "steps = 9\nschedule = 'oncycle'", ["'oncycle'", "'cosine'", "'onecycle'?"]),
        ("steps = 10", "steps = 9\nlr = -1.0", ["phases.0.lr = -1.0", "above 0"]),
        ("slope = 2", "slope = -2", ["slope", "below 0"]),
        ("slope = 2", "slope = [[0.5, 1], [0.2, 1]]", ["loss.slope", "shares"]),
        ("slope = 2", "slope = nan", ["loss.slope", "finite"]),
        ("slope = 2", "bound = [7000, 4000]", ["bound", "lower one first"]),
        ("{uniform = [0, 0.5]}", "{uniform = [0.5, 0]}", ["redshifts", "0.5 to 0"]),
        ("{uniform = [0, 0.5]}", "{gauss = 1}", ["data.sdss.augmentation.redshifts", "capped"]),
        ('"NO_Z"', '"NOZ"', ["data.sdss.reject", "'NOZ'", "Z_WARNING"]),
        ("z_range = [0, 0.4]", "z_range = [0.4, 0]", ["data.sdss.z_range", "lower one first"]),
        ("high = 9000", "high = 900", ["model.rest", "above low"]),
        ('name = "tiny"', 'name = "../tiny"', ["'../tiny'", "letters, digits"]),
        ('name = "tiny"', 'name = "tiny"\ndescription = "\\u001b[2J"', ["control character"]),
        ("latents = 4", "latents = 4\nconfig = {x = 1979-05-27}", ["model.config", "strings"]),
    ],
)
def test_what_a_recipe_cannot_say_is_refused(old: str, new: str, parts: list[str]) -> None:
    assert old in TINY
    told = refusal(text=TINY.replace(old, new, 1))
    assert told.startswith("tiny.toml cannot be used: ")
    assert all(part in told for part in parts), told


@pytest.mark.parametrize(
    ("first", "parts"),
    [
        ("recipe = 2", ["version 2", "reads version 1 only", "pip install --upgrade"]),
        ("recipe = 0", ["version 0", "reads version 1 only", "recipe = 1"]),
        ("recipe = true", ["version True", "reads version 1"]),
        ("recipe = '1'", ["version '1'", "reads version 1"]),
        ("recpie = 1", ["does not say of which version", "recipe = 1"]),
    ],
)
def test_a_recipe_of_another_version_is_refused_as_such(first: str, parts: list[str]) -> None:
    text = TINY.replace("recipe = 1", first).replace("slope =", "new_key_of_version_2 =")
    told = refusal(text=text)
    assert all(part in told for part in parts), told
    assert "new_key" not in told


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"Did you mean 'desi_edr_galaxy'\?.*sdss_II"):
        Recipe.read("desi_galaxy")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="UTF-8"):
        Recipe.read(tmp_path / "bytes.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(FileError, match="no recipe"):
        Recipe.read(tmp_path / "long.toml")
    with pytest.raises(FileError, match="cannot read"):
        Recipe.read(tmp_path)
    assert "is not TOML" in refusal(text="recipe = ")
    assert "nested too deeply" in refusal(text="a = " + "[" * 100_000)


def test_paths_are_given_by_instrument() -> None:
    recipe = Recipe.parse(TINY).with_paths({"boss": "there"})
    assert (recipe.data["boss"].path, recipe.data["sdss"].path) == ("there", "somewhere")
    assert Recipe.parse(recipe.to_toml()) == recipe
    with pytest.raises(InputError, match=r"no data of 'desi'.*sdss, boss"):
        recipe.with_paths({"desi": "x"})


huge = st.sampled_from([10**400, -(10**400), 2**70, "0x" + "f" * 5000, "nan", "-inf", "1e400"])
values = huge | st.booleans() | st.integers() | st.floats() | st.sampled_from(["[]", "{}", '""'])
paths = st.sampled_from(
    [
        *("seed", "model.latents", "model.rest.low", "model.rest.superres", "model.config.x"),
        *("data.sdss.batch_size", "data.sdss.weight", "data.sdss.augmentation.noise"),
        *("data.sdss.augmentation.redshifts", "data.sdss.z_range", "loss.sigma", "loss.bound"),
        *("loss.slope", "phases.0.lr", "phases.0.betas", "phases.0.eps", "phases.0.steps"),
        "engine.precision",
    ]
)


@given(paths, values)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_value_is_taken_or_refused_by_name(path: str, value: Any) -> None:
    text = "true" if value is True else "false" if value is False else str(value)
    try:
        recipe = Recipe.parse(TINY, settings=[f"{path}={text}"])
    except SpenderError as error:
        assert path.split(".")[0] in str(error) or path.split(".")[-1] in str(error)  # noqa: PT017
    else:
        assert Recipe.parse(recipe.to_toml()).sha256 == recipe.sha256


def test_recipes_are_read_without_torch() -> None:
    code = "import sys; from spender_core.training import Recipe, packaged; "
    code += "[Recipe.read(name).sha256 for name in packaged()]; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
