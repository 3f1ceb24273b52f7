"""The whole judgement: a perfect model is at the floor, and the report says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spender_core.datasets.mock.conditions import Conditions
from spender_core.datasets.mock.galaxies import PreparedPopulations
from spender_core.datasets.mock.sources import FINE
from spender_core.datasets.mock.templates import Populations
from spender_core.errors import FileError, InputError, NoSpectraError
from spender_core.evaluation.baseline import learn_pca
from spender_core.evaluation.figures import all_of
from spender_core.evaluation.invariance import invariance
from spender_core.evaluation.judging import evaluate
from spender_core.evaluation.real import judge_real
from spender_core.evaluation.report import Report
from spender_core.evaluation.restframe import WINDOWS
from spender_core.evaluation.universe import Universe
from spender_core.grid import Linear
from spender_core.interfaces import Instrument

Take = Callable[..., Any]
Stream = Callable[..., Iterator[Any]]


class Elsewhere(Instrument):
    name = "elsewhere"
    grid = Linear(5000.0, 2.0, 500)
    loader: Any = None


@pytest.fixture
def report(exact: Any, survey: Any, stream: Stream, take: Take) -> Report:
    pca = learn_pca(exact, survey, stream(seed=50), size=3, n=100)
    batch = take(6, noise=0.0).batch
    return evaluate(
        exact,
        survey,
        stream(),
        n=130,
        pca=pca,
        sizes=(1, 3),
        invariance=invariance(exact, lambda **asked: batch, (0.1,), (5.0,)),
        real=judge_real(exact, survey, take(4, seed=8).batch, pca, (1, 3)),
        about={"mocks from": "a universe of three components"},
    )


def test_a_perfect_model_is_at_the_floor(report: Report) -> None:
    mocks = report.mocks
    assert mocks is not None
    assert len(mocks.snr) == len(mocks.z) == 130
    assert list(mocks.chi2) == ["model", "PCA 1", "PCA 3", "truth"]
    np.testing.assert_allclose(mocks.chi2["model"], mocks.chi2["truth"], atol=0.03)
    assert np.median(mocks.chi2["PCA 1"]) > np.median(mocks.chi2["model"])
    for window in WINDOWS:
        assert np.nanpercentile(mocks.errors[window], 90) < 0.05
    np.testing.assert_allclose(np.nanmedian(mocks.observed.mean("model")), 1, atol=0.05)
    assert mocks.observed.pixels.sum() == mocks.rest.pixels.sum()


def test_no_more_mocks_are_taken_than_asked_for(
    exact: Any, survey: Any, stream: Stream, take: Take
) -> None:
    steps: list[int] = []
    found = evaluate(exact, survey, stream(size=70), n=100, progress=steps.append).mocks
    assert found is not None
    assert len(found.snr) == sum(steps) == 100
    few = evaluate(exact, survey, [take(9)], n=100).mocks
    assert few is not None
    assert len(few.snr) == 9
    np.testing.assert_array_equal(few.z, take(9).batch.z)


def test_batches_make_no_difference(exact: Any, survey: Any, take: Take) -> None:
    whole = take(70)
    found = evaluate(exact, survey, [whole], n=70).mocks
    assert found is not None
    from spender_core.evaluation.judging import _rows

    parts = [_rows(whole, slice(0, 11)), _rows(whole, slice(11, 70))]
    other = evaluate(exact, survey, parts, n=70).mocks
    assert other is not None
    np.testing.assert_allclose(found.chi2["model"], other.chi2["model"], rtol=1e-5)
    np.testing.assert_allclose(found.rest.mean("truth"), other.rest.mean("truth"), rtol=1e-9)


def test_tables_add_up(report: Report) -> None:
    tables = report.tables()
    assert set(tables) == {
        "chi2_snr", "chi2_z", "restframe_snr", "restframe_68", "invariance", "real",
    }  # fmt: skip
    for name in ("chi2_snr", "chi2_z", "restframe_snr"):
        counts = tables[name].column("n")
        assert sum(int(str(count)) for count in counts[:-1]) == counts[-1] == 130
    errors = tables["restframe_68"]
    assert report.mocks is not None
    near = (report.mocks.snr >= 8) & (report.mocks.snr < 12.5)
    row = errors.column("S/N").index("8–12.5")
    own = report.mocks.errors[WINDOWS[0]][near]
    assert errors.column(f"n, {WINDOWS[0]}")[row] == near.sum()
    assert errors.column(WINDOWS[0])[row] == pytest.approx(np.percentile(own, 68))


def test_examples_are_best_median_and_worst(report: Report) -> None:
    assert report.mocks is not None
    own = report.mocks.chi2["model"]
    best, median, worst = report.mocks.examples
    assert best.chi2["model"] == own.min()
    assert worst.chi2["model"] == own.max()
    assert median.chi2["model"] == pytest.approx(np.median(own), abs=0.02)
    for one in (best, median, worst):
        pull = (one.flux - one.fits["truth"]) / one.sigma
        assert np.nanmean(pull**2) == pytest.approx(one.chi2["truth"], rel=1e-4)


def test_the_report_is_written(report: Report, tmp_path: Path) -> None:
    files = report.write(tmp_path / "new")
    names = {path.name for path in files}
    pictures = ("chi2", "pulls", "restframe", "examples", "invariance", "real")
    assert names == {
        "report.json", "report.md",
        *(f"{name}.{suffix}" for name in pictures for suffix in ("png", "svg")),
    }  # fmt: skip
    assert names == {path.name for path in (tmp_path / "new").iterdir()}
    content = json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert content == report.to_dict()
    assert content["summary"]["mocks"] == 130
    assert content["summary"]["mocks from"] == "a universe of three components"
    text = (tmp_path / "new" / "report.md").read_text(encoding="utf-8")
    for table in report.tables().values():
        assert table.title in text
    assert all(f"({name}.png)" in text for name in pictures)
    assert (tmp_path / "new" / "chi2.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_report_gives_the_same_pictures(report: Report, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        report.write(tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_pictures_show_the_numbers(report: Report) -> None:
    figures = all_of(report)
    left = figures["chi2"].axes[0]
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "model", "PCA 1", "PCA 3", "truth",
    ]  # fmt: skip
    upper = figures["pulls"].axes[0]
    assert report.mocks is not None
    values = upper.patches[0].get_data().values
    drawn = np.isfinite(values)
    np.testing.assert_array_equal(values[drawn], report.mocks.observed.mean("model")[drawn])
    assert drawn.sum() > 50
    assert len(figures["examples"].axes) == 6
    labels = [text.get_text() for text in figures["invariance"].axes[0].get_yticklabels()]
    assert labels == ["dz = 0.1", "S/N 5"]
    assert all(figure.get_suptitle() == "Exact on survey" for figure in figures.values())


def test_what_was_not_measured_is_not_reported(tmp_path: Path) -> None:
    empty = Report("a_model", "survey")
    assert empty.tables() == {}
    assert empty.summary() == {}
    assert {path.name for path in empty.write(tmp_path)} == {"report.json", "report.md"}


def test_errors_say_what_to_do(exact: Any, survey: Any, stream: Stream, tmp_path: Path) -> None:
    with pytest.raises(NoSpectraError, match="no mocks to judge"):
        evaluate(exact, survey, [], n=5)
    with pytest.raises(InputError, match="serves survey, not elsewhere"):
        evaluate(exact, Elsewhere(), stream(), n=5)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="cannot write"):
        Report("a_model", "survey").write(tmp_path / "file")


def test_mocks_that_nothing_can_be_told_of_have_no_examples(
    exact: Any, survey: Any, take: Take
) -> None:
    mocks = take(3)
    blind = replace(mocks, batch=mocks.batch.replace(ivar=torch.zeros_like(mocks.batch.ivar)))
    found = evaluate(exact, survey, [blind], n=3).mocks
    assert found is not None
    assert not np.isfinite(found.chi2["model"]).any()
    assert found.examples == ()


def test_seeds_that_generators_cannot_hold_are_refused(survey: Any) -> None:
    conditions = Conditions.parametric(survey, 1, torch.Generator().manual_seed(0))
    flat = Populations(torch.tensor([1.0, 2.0]).double(), torch.ones(2, FINE.size), "flat")
    ready = PreparedPopulations(flat, torch.ones(2, 4, 2, FINE.size))
    for seed in (-1, 2**43):
        with pytest.raises(InputError, match="seed must be from 0 to"):
            Universe(survey, ready, conditions, (0.0, 0.2), seed)
    last = Universe(survey, ready, conditions, (0.0, 0.2), 2**43 - 1, size=2)
    assert len(last.sources(2)) == len(next(iter(last)).batch) == 2
