"""`spender push`: what it prints loads what was pushed; failures are one line, without secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import WRITER, HubServer, market_of, status

from spender_core import registry
from spender_core.cli.push import run

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Spender = Callable[..., Any]
Check = Callable[..., None]


@pytest.fixture
def market(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server that stands in for the Hugging Face Hub."""
    yield from market_of(monkeypatch)


def told(out: str) -> tuple[str, str]:
    """Return the location and the hash that were printed."""
    found = re.fullmatch(r'registry\.load\("(.+)"\)\nsha256 ([0-9a-f]{64})\n', out)
    assert found is not None, out
    return found[1], found[2]


def test_push_prints_the_line_that_loads(spender: Spender, tmp_path: Path) -> None:
    ran = spender("push", "sdss_demo", tmp_path / "shelf")
    assert (ran.code, ran.err) == (0, "")
    location, sha256 = told(ran.out)
    assert registry.load(location)[1].card.name == "sdss_demo"
    assert sha256 == registry.info("sdss_demo").sha256


def test_push_to_the_hub_takes_its_options(spender: Spender, market: HubServer) -> None:
    options = ("--revision", "first", "--message", "The first", "--private")
    ran = spender("push", "sdss_demo", "hf:team/demo", *options)
    assert (ran.code, ran.err) == (0, "")
    location, sha256 = told(ran.out)
    made = market.repositories["team/demo"]
    assert made.private
    assert made.messages[-1] == "The first"
    assert location == (
        f"hf:team/demo@{made.branches['first']}/sdss_demo.safetensors#sha256={sha256}"
    )
    assert registry.load(location)[1].card.name == "sdss_demo"


def test_a_push_that_fails_is_one_line(
    spender: Spender, market: HubServer, assert_one_line: Check
) -> None:
    market.faults.append(("commit/main", status(500)))
    ran = spender("push", "sdss_demo", "hf:team/demo")
    assert_one_line(ran, "cannot push to hf:team/demo", "500", "Push again")
    assert WRITER not in ran.err
    assert ran.out == ""


def test_a_destination_with_a_password_does_not_show_it(
    spender: Spender, assert_one_line: Check
) -> None:
    ran = spender("push", "sdss_demo", "https://me:secret-word@host.invalid/models")
    assert_one_line(ran, "cannot push to", "a folder, s3://bucket/prefix, or hf:owner/repository")
    assert "secret-word" not in ran.err


def test_the_command_is_a_function(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run("sdss_demo", str(tmp_path), None, "", False)
    assert told(capsys.readouterr().out)[0] == str(tmp_path / "sdss_demo.safetensors")
