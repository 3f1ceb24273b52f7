"""Reading by id: from a copy of the archive, with the user's own releases, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from spender_core.errors import InputError, MissingFileError

from spender_lamost.example import NEW, write_example
from spender_lamost.instrument import LAMOST


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the archive that holds the example's two spectra."""
    monkeypatch.setenv("SPENDER_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("")
    monkeypatch.delenv("SPENDER_ROOT_LAMOST", raising=False)
    write_example(tmp_path)
    return tmp_path


def test_by_number_and_by_name(root: Path) -> None:
    lamost = LAMOST()
    number = lamost.read([NEW["OBSID"]], root=root)
    assert number.ids.tolist() == [(NEW["OBSID"],)]
    assert lamost.read(number.ids, root=root).ids.tolist() == number.ids.tolist()
    assert lamost.read([(55862, "B6212", 8, 147)], root=root).ids.tolist() == [(6208147,)]


def test_the_environment_and_the_users_file_name_roots(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPENDER_ROOT_LAMOST", str(root))
    assert len(LAMOST().read([NEW["OBSID"]])) == 1
    monkeypatch.delenv("SPENDER_ROOT_LAMOST")
    (root / "config.toml").write_text(
        f'[releases.lamost.mine]\nroot = "{root}"\n'
        'collections.lrs = [{ folder = "dr10/v2.0", layout = "lrs" }]\n'
    )
    assert len(LAMOST().read([NEW["OBSID"]], release="mine")) == 1


def test_the_server_knows_spectra_by_their_number(root: Path) -> None:
    (source,) = LAMOST.loader.locate([437513049], None, "dr9")
    assert source.urls[0] == "https://www.lamost.org/dr9/v2.0/spectrum/fits/437513049"


def test_what_is_not_there_is_missing(root: Path) -> None:
    with pytest.raises(MissingFileError, match="12345"):
        LAMOST().read([12345], root=root)


@pytest.mark.parametrize(
    "wrong", [(1, 2), ("x",), (55862, "../B6212", 8, 147), (55862, "B6212", "a", 147)]
)
def test_ids_of_others_are_refused(root: Path, wrong: tuple[object, ...]) -> None:
    with pytest.raises(InputError):
        LAMOST.loader.locate([wrong], str(root), None)


def test_an_unknown_release_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match="dr10"):
        LAMOST.loader.locate([1], str(root), "dr2")
