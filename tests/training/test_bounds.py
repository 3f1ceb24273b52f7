"""What recipes refuse since float32, a log or a fresh model could not hold it."""

from __future__ import annotations

import pytest
from trainees import ONE, RECIPE, recipe

from spender_core.errors import InputError


@pytest.mark.parametrize(
    "setting",
    [
        "data.red.weight=1e300",
        "loss.fidelity=1e308",
        "loss.similarity=[[0.0, 0.0], [1.0, 1e30]]",
        "phases.0.eps=1e-300",
        "phases.0.clip=1e-320",
        "phases.0.ema=0.9999999999999999",
    ],
)
def test_what_cannot_be_held_is_refused(setting: str) -> None:
    with pytest.raises(InputError):
        recipe(setting, text=ONE)


def test_a_name_that_would_colour_a_terminal_is_refused() -> None:
    with pytest.raises(InputError, match="printable"):
        recipe(text=ONE.replace('name = "only"', 'name = "a\\u001b[31m"'))


def test_the_order_of_instruments_is_part_of_what_is_learned() -> None:
    red, blue = (RECIPE.index(f"[data.{name}]") for name in ("red", "blue"))
    end = RECIPE.index("[loss]")
    turned = RECIPE[:red] + RECIPE[blue:end] + RECIPE[red:blue] + RECIPE[end:]
    assert list(recipe(text=turned).data) == ["blue", "red"]
    assert recipe(text=turned).sha256 != recipe().sha256


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from spender_core.training.running import make_accelerator

    make_accelerator("no")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="ACCELERATE_USE_CPU"):
        make_accelerator("no")
