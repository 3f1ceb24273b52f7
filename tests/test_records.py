"""Records: names, targets, versions, and cards as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from spender_core.records import (
    API_VERSION,
    FORMAT_VERSION,
    ArchitectureSpec,
    InstrumentSpec,
    ModelCard,
    PluginStatus,
    ServedInstrument,
    read_cards,
)


def card(**changes: Any) -> ModelCard:
    return ModelCard(**({"name": "mine", "architecture": "net", "latents": 6} | changes))


@pytest.mark.parametrize("name", ["sdss_I", "a", "DESI2"])
def test_identifiers_are_names(name: str) -> None:
    assert card(name=name).name == name


@pytest.mark.parametrize("name", ["", "2dF", "a-b", "a b", "../a", "_a", "a.b", "å", "a\n"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="use letters, digits and underscores"):
        card(name=name)


@pytest.mark.parametrize("record", [InstrumentSpec, ArchitectureSpec])
def test_targets_are_a_module_and_a_class(record: type[InstrumentSpec]) -> None:
    assert record(name="a", target="my_package.deep:Mine").target == "my_package.deep:Mine"
    for target in ("", "my_package", "my_package:", ":Mine", "my package:Mine", "a:b:c", "a:b.c"):
        with pytest.raises(ValidationError, match=r"package\.module:Class"):
            record(name="a", target=target)


def test_unknown_fields_of_this_version_are_refused() -> None:
    with pytest.raises(
        ValidationError, match="unknown field colour; allowed are api_version, name"
    ):
        card(colour="red")


def test_unknown_fields_of_another_version_are_kept() -> None:
    other = card(colour="red", api_version=API_VERSION + 1)
    assert other.api_version == API_VERSION + 1
    assert other.model_extra == {"colour": "red"}


@pytest.mark.parametrize("latents", [0, -1])
def test_a_model_has_latents(latents: int) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        card(latents=latents)


@pytest.mark.parametrize(
    "changes", [{"kind": "diffusion"}, {"lsf": "maybe"}, {"file_format": "pickle"}]
)
def test_choices_are_closed(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="Input should be"):
        card(**changes)


def test_served_instruments_have_no_other_fields() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        ServedInstrument(name="desi", grid="00", colour="red")  # type: ignore[call-arg]


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        card().name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        InstrumentSpec(name="a", target="b:C").target = "d:E"  # type: ignore[misc]


def test_a_card_is_printed_a_field_a_line() -> None:
    lines = str(card(latents=3, training={"data": "a\nb", "steps": 4}, licence="")).split("\n")
    assert {"latents: 3", "training:", "  data: a", "    b", "  steps: 4"} <= set(lines)
    assert not any(line.startswith("licence") for line in lines)


def test_cards_survive_json() -> None:
    full = card(
        aliases=("old",),
        kind="flow",
        config={"hidden": 50, "widths": [1, 2]},
        instruments=(ServedInstrument(name="desi", grid="ab", lsf_taps=5),),
        z_range=(0.0, 0.5),
        lsf="constant",
        training={"data": "mock", "steps": 10},
        evaluation={"chi2": 1.01},
        licence="MIT",
        citation=("A & B 2023",),
        weights="hf:owner/repository/file",
        sha256="ab" * 32,
        parent="other",
    )
    assert ModelCard.model_validate_json(full.to_json()) == full
    assert ModelCard.model_validate_json(card().to_json()) == card()


def test_json_holds_what_differs_and_the_versions() -> None:
    assert json.loads(card().to_json()) == {
        "name": "mine",
        "api_version": API_VERSION,
        "format_version": FORMAT_VERSION,
        "architecture": "net",
        "latents": 6,
    }


def test_serves_goes_by_name() -> None:
    served = card(instruments=(ServedInstrument(name="desi", grid="ab"),))
    assert served.serves("desi")
    assert not served.serves("sdss")


def test_status_is_ok_without_problems() -> None:
    assert PluginStatus("a", "dist", "1").ok
    assert not PluginStatus("a", "dist", "1", problems=("broken",)).ok


PUBLISHED = {
    "spender_sdss": {"sdss_I", "sdss_I_superres", "sdss_II", "sdss_II_galaxy_flow"},
    "spender_desi": {
        "desi_edr_galaxy",
        "desi_edr_galaxy_flow",
        "desi_edr_star",
        "desi_edr_star_flow",
    },
}


@pytest.mark.parametrize("package", PUBLISHED)
def test_cards_of_the_plugins_are_complete(package: str) -> None:
    pytest.importorskip(package, reason="the plugin is not installed")
    cards = {one.name: one for one in read_cards(package)}
    assert PUBLISHED[package] <= cards.keys()
    for one in cards.values():
        assert one.api_version == API_VERSION
        assert one.description
        assert one.instruments
        assert all(len(served.grid) == 64 for served in one.instruments)
        assert one.weights.startswith(("package:", "hf:"))
        assert one.sha256
        assert one.licence != "unknown"
    for name in PUBLISHED[package]:
        file = cards[name].weights.rpartition("/")[2]
        assert cards[name].file_format == "spender-pt"
        assert file.endswith(f"-{cards[name].sha256[:8]}.pt"), "spender's names hold the hash"
