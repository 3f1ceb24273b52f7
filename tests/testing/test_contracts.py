"""The contracts that a plugin's tests subclass, on a correct instrument, and without one."""

from __future__ import annotations

import pickle

import pytest
from testing import mutants

from spender_core.testing import ContractError, InstrumentContract, LoaderContract
from spender_core.testing.checks import CHECKS
from spender_core.testing.contracts import _made
from spender_core.testing.subject import Subject


class TestCorrect(InstrumentContract, LoaderContract):
    @pytest.fixture
    def instrument(self):
        return mutants.Correct()

    @pytest.fixture
    def example(self, tmp_path):
        return mutants.write(tmp_path)


class TestFilesAlone(LoaderContract):
    """As tests were written before there were examples."""

    @pytest.fixture
    def instrument(self):
        return mutants.Correct()

    @pytest.fixture
    def files(self, tmp_path):
        return list(mutants.write(tmp_path).paths)


def test_a_failure_says_what_was_expected_found_and_how_to_fix_it(tmp_path):
    mutant, name, _ = mutants.MUTANTS["air grid"]
    (check,) = [one for one in CHECKS if one.name == name]
    subject = Subject(mutant, tmp_path, mutants.write(tmp_path))
    with pytest.raises(ContractError) as failed:
        _made(check, subject)
    starts = [line.partition(": ")[0] for line in str(failed.value).splitlines()]
    assert starts == ["expected", "found", "to fix"]


def test_what_cannot_be_told_is_skipped_with_its_reason(tmp_path):
    (check,) = [one for one in CHECKS if one.name == "line wavelength"]
    with pytest.raises(pytest.skip.Exception, match="no file"):
        _made(check, Subject(mutants.Correct, tmp_path))


def test_errors_come_back_from_other_processes():
    error = pickle.loads(pickle.dumps(ContractError("this", "that", "do")))
    assert (error.expected, error.found, error.fix) == ("this", "that", "do")
    assert str(error) == "expected: this\nfound: that\nto fix: do"
