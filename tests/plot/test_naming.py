"""Lines in pictures: how they are asked for, and how labels are spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spender_core import plot
from spender_core.errors import InputError
from spender_core.plot.naming import spread


def names(wanted: str) -> list[str]:
    return [zoom.name for zoom in plot.zooms(wanted)]


def test_named_lines_are_in_vacuum() -> None:
    waves = [wave for wave, _, _ in plot.lines()]
    wave_of = {label: wave for wave, _, label in plot.lines()}
    assert len(set(waves)) == len(waves) > 20
    assert {kind for _, kind, _ in plot.lines()} <= {"emission", "absorption"}
    assert wave_of["Hα"] == pytest.approx(6564.6, abs=0.1), "6562.8 would be in air"


@pytest.mark.parametrize("label", sorted({label for _, _, label in plot.lines()}))
def test_every_line_is_found_by_its_label_in_any_case(label: str) -> None:
    for text in (label, label.lower(), label.upper(), label.replace(" ", "")):
        found = plot.zooms(text)
        centres = [wave for wave, _, other in plot.lines() if other == label]
        assert all(any(zoom.low < wave < zoom.high for zoom in found) for wave in centres)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("halpha, Ha ,H alpha,HALPHA", ["Hα"] * 4),
        ("hb,lya,Hgamma,h δ", ["Hβ", "Lyα", "Hγ", "Hδ"]),
        ("oiii,[O III] 5008,oiii 4959", ["[O III]", "[O III] 5008", "[O III] 4960"]),
        ("4000 break,4000 Å break,4000A break", ["4000 Å break"] * 3),
        ("balmer BREAK,4861:80", ["Balmer break", "4861 Å"]),
        ("he ii", ["He II 1640", "He II 4687"]),
    ],
)
def test_what_can_be_asked_for(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_ranges_are_centre_and_width() -> None:
    (zoom,) = plot.zooms("4861:80")
    assert (zoom.low, zoom.high) == (4821, 4901)
    (pair,) = plot.zooms("[O III]")
    assert pair.low < 4960.30 - 50 < 5008.24 + 50 < pair.high


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hq", "no line of this name"),
        ("[O IIII]", "Did you mean"),
        ("[O III] 6000", "it has 4960, 5008"),
        ("4861:", "centre:width"),
        ("4861:-3", "both positive"),
        ("4861:nan", "both positive"),
        ("10:80", "both positive"),
        (" , ", "no zoom is named"),
    ],
)
def test_mistakes_are_told(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        plot.zooms(text)


@given(st.lists(st.floats(0, 100), max_size=20))
def test_labels_are_spread_in_order_and_apart(wanted: list[float]) -> None:
    wanted.sort()
    places = spread(wanted, 3.0, 0.0, 100.0)
    assert len(places) == len(wanted)
    if wanted:
        assert np.diff(places).min(initial=3.0) > 3 - 1e-9
        assert places.min() > -1e-9
        assert places.max() < 100 + 1e-9


def test_labels_that_have_room_stay() -> None:
    assert spread([1.0, 5.0, 9.0], 3.0, 0.0, 10.0).tolist() == [1, 5, 9]
    assert spread([4.0, 4.0], 2.0, 0.0, 10.0).tolist() == [3, 5], "least squares: both move"
