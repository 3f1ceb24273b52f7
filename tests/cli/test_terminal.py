"""Whatever comes from outside is shown without control characters, and URLs without secrets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import Hub

from spender_core import registry
from spender_core.cli.show import print_table
from spender_core.records import ModelCard

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")

Spender = Callable[..., Any]
Check = Callable[..., None]
Writer = Callable[..., Path]

RED = "\x1b[31m"


def test_an_error_has_no_escapes(spender: Spender, assert_one_line: Check) -> None:
    ran = spender("info", f"a{RED}b\nc")
    assert RED not in ran.err
    assert_one_line(ran, "x1b[31mb")


def test_unexpected_errors_have_no_escapes(
    spender: Spender, monkeypatch: pytest.MonkeyPatch, assert_one_line: Check
) -> None:
    def fail() -> None:
        raise ValueError(f"{RED}two\nlines")

    monkeypatch.setattr(registry, "list", fail)
    assert_one_line(spender("list"), "ValueError: \\x1b[31mtwo\\nlines (spender --debug")


def test_a_table_has_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a",), [(f"{RED}x\ry",)])
    shown = capsys.readouterr().out
    assert "\\x1b[31mx\\ry" in shown
    assert "\x1b" not in shown


def test_a_card_has_no_escapes_and_readable_lines(
    spender: Spender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin may make a card without its checks."""
    card = registry.info("sdss_demo")
    odd = ModelCard.model_construct(
        **{**dict(card), "description": f"one{RED}\ntwo", "training": {f"k{RED}": "v"}}
    )
    monkeypatch.setattr(registry, "info", lambda name: odd)
    ran = spender("info", "sdss_demo")
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.out
    lines = ran.out.splitlines()
    assert lines[lines.index("description: one\\x1b[31m") + 1] == "    two"
    assert "  k\\x1b[31m: v" in lines


@pytest.mark.parametrize("command", ["encode", "plot"])
def test_what_is_not_used_has_no_escapes(
    spender: Spender, tmp_path: Path, write_spec: Writer, command: str
) -> None:
    sky = write_spec(tmp_path / f"{RED}.fits", ZWARNING=1)
    ran = spender(command, sky, "-o", tmp_path / ("a.png" if command == "plot" else "a.fits"))
    assert ran.code == 1
    assert "not used: " in ran.err
    assert "\x1b" not in ran.err


def test_a_label_is_no_formula(spender: Spender, tmp_path: Path, write_spec: Writer) -> None:
    spec = write_spec(tmp_path / "a.fits", run2d="$\\x{$")
    ran = spender("plot", spec, "-o", tmp_path / "a.png")
    assert ran.code == 0, ran.err


def test_secrets_of_the_models_url_are_nowhere(
    spender: Spender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_spec: Writer
) -> None:
    monkeypatch.setenv("SPENDER_OFFLINE", "1")
    spec, url = write_spec(tmp_path / "a.fits"), "https://bob:pw123@host.org/m.pt?token=hidden"
    commands: list[tuple[Any, ...]] = [("info", url), ("pull", url)]
    commands += [("encode", spec, option, url) for option in ("-m", "--model")]
    commands += [("encode", spec, f"--model={url}"), ("plot", spec, "-m", url, "-o", "a.png")]
    for command in commands:
        ran = spender(*command)
        assert ran.code == 1
        assert not [word for word in ("bob", "pw123", "hidden") if word in ran.out + ran.err]


def test_secrets_of_the_url_of_another_model_are_nowhere(hub: Hub) -> None:
    """As the library tells it, without the command line's own care."""
    from spender_core.cli.spectra import Models
    from spender_core.errors import InputError

    hub.files["m.safetensors?token=hush"] = registry.pull("desi_demo").read_bytes()
    url = f"{hub.url.replace('//', '//bob:hush@')}/cdn/m.safetensors?token=hush"
    with pytest.raises(InputError, match=r"m\.safetensors\?token=\.\.\.' serves desi") as raised:
        Models(url).for_instrument(registry.instrument("sdss"))
    assert "hush" not in str(raised.value)
