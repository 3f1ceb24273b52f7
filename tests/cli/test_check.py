"""`spender check`: what it prints, and its exit status."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from testing import mutants

from spender_core import hookimpl
from spender_core.plugins.manager import Candidate, installed
from spender_core.records import InstrumentSpec
from spender_core.testing.checks import CHECKS


@pytest.fixture
def offered(offer, monkeypatch):
    """Offer an instrument of this process as an installed plugin would."""

    def install(make, example="testing.mutants:write"):
        monkeypatch.setattr(mutants, "Offered", make, raising=False)
        monkeypatch.setitem(sys.modules, "testing.mutants", mutants)
        spec = InstrumentSpec(name="correct", target="testing.mutants:Offered", example=example)
        plugin = SimpleNamespace(spender_instruments=hookimpl(lambda: [spec]))
        core = [one for one in installed() if one.distribution == "spender-core"]
        offer([*core, Candidate("correct", "spender-correct", "1", lambda: plugin)])

    return install


def test_a_correct_instrument(offered, spender):
    offered(mutants.Correct)
    ran = spender("check", "correct")
    assert ran.code == 0, ran.out
    assert f"{len(CHECKS)} passed, 0 failed, 0 skipped" in ran.out


def test_a_fault_is_told_in_three_lines(offered, spender):
    offered(mutants.MUTANTS["air grid"][0])
    ran = spender("check", "correct")
    assert ran.code == 1
    told = ran.out.partition("wavelengths: line wavelength")[2].splitlines()
    starts = [line.split(":")[0].strip() for line in told[1:4]]
    assert starts == ["expected", "found", "to fix"]
    assert "shift of air wavelengths" in told[2]


def test_results_for_scripts(offered, spender):
    offered(mutants.MUTANTS["mask of wrong shape"][0])
    ran = spender("check", "correct", "--json")
    assert ran.code == 1
    failed = [one for one in json.loads(ran.out) if one["outcome"] == "failed"]
    assert "mask" in [one["check"] for one in failed]
    assert all(one["expected"] and one["found"] and one["fix"] for one in failed)


def test_files_and_a_line_of_the_user(offered, spender, tmp_path):
    offered(mutants.Correct, None)
    path = mutants.write(tmp_path).paths[0]
    right = spender("check", "correct", path, "--line", "5200,50", "--json")
    wrong = spender("check", "correct", path, "--line", "5201.4,50", "--json")
    assert (right.code, wrong.code) == (0, 1)
    (failed,) = [one for one in json.loads(wrong.out) if one["outcome"] == "failed"]
    assert failed["check"] == "line wavelength"


def failed_in(ran):
    assert ran.code == 1, ran.err
    return {one["check"]: one for one in json.loads(ran.out) if one["outcome"] == "failed"}


def test_another_name_than_its_record(offered, spender):
    offered(type("Misnamed", (mutants.Correct,), {"name": "wrong"}))
    failed = failed_in(spender("check", "correct", "--json"))
    assert "'wrong'" in failed["name"]["found"]
    assert "registry round trip" in failed


@pytest.mark.parametrize(
    ("example", "words"),
    [("testing.mutants:absent", "cannot import"), ("testing.mutants:air_of", "TypeError")],
)
def test_an_example_that_fails(offered, spender, example, words):
    offered(mutants.Correct, example)
    failed = failed_in(spender("check", "correct", "--json"))
    assert list(failed) == ["example"]
    assert words in failed["example"]["found"]


def test_an_instrument_that_cannot_be_made(offered, spender):
    offered(None)
    failed = failed_in(spender("check", "correct", "--json"))
    assert list(failed) == ["name"]


@pytest.mark.parametrize("asked", ["mine", "unheard_of"])
def test_a_plugin_that_fails_is_told(offer, spender, asked, assert_one_line):
    def load():
        raise ImportError("no module named nonsense")

    offer([Candidate("mine", "spender-mine", "1", load)])
    ran = spender("check", asked, "--json")
    if asked == "mine":
        assert "no module named nonsense" in failed_in(ran)["plugin offers"]["found"]
    else:
        assert_one_line(ran, "no module named nonsense")


@pytest.mark.parametrize(("name", "optional"), [
    ("sdss", "load rows"), ("boss", "load rows"), ("desi", "load many"),
])  # fmt: skip
def test_instruments_that_are_installed_bring_examples(spender, name, optional):
    ran = spender("check", name, "--json")
    told = [(one["outcome"], one["check"]) for one in json.loads(ran.out)]
    assert [pair for pair in told if pair[0] != "passed"] == [("skipped", optional)]
    assert ran.code == 0


def test_usage(offered, spender, assert_one_line, tmp_path):
    offered(mutants.Correct, None)
    path = mutants.write(tmp_path).paths[0]
    for line in ("here", "1,2,3", "5200,nan", "-5200,50"):
        assert spender("check", "correct", path, f"--line={line}").code == 2
    assert "goes with files" in spender("check", "correct", "--line", "5200,50").err
    assert_one_line(spender("check", "nonsense"), "nonsense", "correct")
    assert_one_line(spender("check", "correct", tmp_path / "absent.fits"), "absent.fits")
