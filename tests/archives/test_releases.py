"""Releases as data: a plugin's, a user's own, and roots from wherever they may be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spender_core.archives.configuration import archive
from spender_core.archives.releases import Archive
from spender_core.archives.templates import fields_of, fill, is_part
from spender_core.errors import InputError

OWN = """
default = "two"
[roots]
https = "https://example.org/public"
s3 = "s3://bucket"
[layouts.flat]
spectrum = ["{run}/{number:04d}.fits", "old/{run}/{number}.fits"]
[[releases.one.collections.things]]
folder = "one"
layout = "flat"
[releases.two]
catalogues.all = "two/all-{part}.fits"
[[releases.two.collections.things]]
folder = "two/{run}x"
layout = "flat"
values = { run = ["a", "b"] }
limits = { number = [1, 10] }
[cutouts]
url = "https://example.org/cut?ra={ra:.3f}&size={size}"
layers = ["sky"]
sizes = [1, 100]
pixel_scale = 0.5
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "releases.toml"
    path.write_text(OWN)
    return path


@pytest.fixture(autouse=True)
def user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for the user's file, where there is none yet."""
    monkeypatch.delenv("SPENDER_CONFIG", raising=False)
    monkeypatch.delenv("SPENDER_ROOT_MINE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "spender" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def root(found: Archive, given_root: str | None = None, release: str | None = None) -> str:
    return found.root(given_root, found.release(release)[1])


def test_a_plugins_file_is_read(own: Path) -> None:
    found = archive("mine", own)
    assert found.release(None)[0] == "two"
    (collection,) = found.release("two", "things")[1].collections["things"]
    fields = {"run": "a", "number": 7}
    assert found.paths(collection, "spectrum", fields) == [
        "two/ax/a/0007.fits",
        "two/ax/old/a/7.fits",
    ]
    assert collection.beyond({"number": 11}) == "number 11 is not between 1 and 10"
    assert collection.beyond({"number": 10, "other": 99}) == ""
    assert root(found) == "https://example.org/public"
    where = found.catalogue("all", "s3", None, {"part": "x"})
    assert where == "s3://bucket/two/all-x.fits"


def test_what_is_not_there_is_named(own: Path) -> None:
    found = archive("mine", own)
    with pytest.raises(InputError, match=r"release 'three' is not known; known: \['one', 'two'\]"):
        found.release("three")
    with pytest.raises(InputError, match=r"release 'two' has no stars data; known: \[\]"):
        found.release(None, "stars")
    with pytest.raises(
        InputError, match=r"release one of mine has no catalogue 'all'; it has \[\]"
    ):
        found.catalogue("all", None, "one", {})
    (collection,) = found.release("one")[1].collections["things"]
    with pytest.raises(InputError, match=r"no files of the kind 'plate'; it has \['spectrum'\]"):
        found.paths(collection, "plate", {})
    with pytest.raises(InputError, match=r"needs number; given are \['run'\]"):
        found.paths(collection, "spectrum", {"run": "a"})


def test_roots_come_from_the_nearest_place(
    own: Path, user_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Argument, environment, release, user's file, plugin: each beats those after it."""
    assert root(archive("mine", own)) == "https://example.org/public"
    user_file.write_text(
        '[roots]\nmine = "/from/file"\n[releases.mine.far]\nroot = "https://far.example.org"\n'
    )
    found = archive("mine", own)
    assert root(found) == "/from/file"
    assert root(found, release="far") == "https://far.example.org"
    monkeypatch.setenv("SPENDER_ROOT_MINE", "/from/environment")
    assert root(found) == root(found, release="far") == "/from/environment"
    assert root(found, "/given") == root(found, "/given", "far") == "/given"
    assert root(found, str(tmp_path)) == str(tmp_path)
    monkeypatch.setenv("SPENDER_ROOT_MINE", "s3")
    assert root(found) == "s3://bucket"


def test_home_is_found_in_roots(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPENDER_ROOT_MINE", "~/data")
    assert root(archive("mine", own)) == str(tmp_path / "data")
    monkeypatch.setenv("SPENDER_ROOT_MINE", "file:///a//b")
    assert root(archive("mine", own)) == "file:///a//b"


@pytest.mark.parametrize("bad", ["nowhere", "S3", "a\nb", " ", "\x1b[2J/x"])
def test_roots_that_are_none_are_refused(bad: str, own: Path) -> None:
    with pytest.raises(InputError, match="root") as error:
        root(archive("mine", own), bad)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("end", ["\x01", "\n", "x?token=swordfish", "x#swordfish"])
def test_no_password_of_a_root_is_shown(
    end: str, own: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = f"https://joe:swordfish@example.org/{end}"
    with pytest.raises(InputError, match="root") as given_it:
        root(archive("mine", own), secret)
    monkeypatch.setenv("SPENDER_ROOT_MINE", secret)
    with pytest.raises(InputError, match="SPENDER_ROOT_MINE") as environment:
        root(archive("mine", own))
    user_file.write_text(f"[roots]\nmine = {json.dumps(secret)}\n")
    with pytest.raises(InputError, match=r"roots\.mine") as config:
        archive("mine", own)
    for error in (given_it, environment, config):
        assert "example.org" in str(error.value)
        assert "swordfish" not in str(error.value)


def test_a_home_that_is_not_there(
    own: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = archive("mine", own)
    with pytest.raises(InputError, match="no home folder"):
        root(found, "~nobody-at-all/data")
    user_file.write_text('[roots]\nmine = "~nobody-at-all/data"\n')
    with pytest.raises(InputError, match=r"roots\.mine.*no home folder"):
        archive("mine", own)
    monkeypatch.setenv("SPENDER_CONFIG", "~nobody-at-all/config.toml")
    with pytest.raises(InputError, match="the configuration cannot be read"):
        archive("mine", own)


def test_no_login_of_a_service_is_shown(own: Path, user_file: Path) -> None:
    user_file.write_text('[cutouts.mine]\nurl = "https://u:swordfish@a.b/{ra}"\nlayers = ["x"]\n')
    with pytest.raises(InputError, match="not the URL of a service") as error:
        archive("mine", own)
    assert "swordfish" not in str(error.value)


def test_limits_are_of_numbers(own: Path, user_file: Path) -> None:
    user_file.write_text("""
[[releases.mine.two.collections.things]]
folder = "two"
layout = "flat"
limits = { run = [1, 2] }
""")
    (collection,) = archive("mine", own).release("two")[1].collections["things"]
    assert collection.beyond({"run": "a"}) == "run a is not between 1 and 2"


def test_a_folder_may_have_a_bare_name(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror").mkdir()
    assert root(archive("mine", own), "mirror") == "mirror"


def test_users_add_releases_and_layouts_and_change_the_default(own: Path, user_file: Path) -> None:
    user_file.write_text("""
[defaults]
mine = "private"
[layouts.mine.deep]
spectrum = ["deep/{number}.fits"]
[releases.mine.private]
catalogues.all = "private.fits"
collections.things = [{ folder = "private", layout = "deep" }]
[releases.mine.one]
root = "/mirror/one"
catalogues.all = "one/all.fits"
[releases.other.x]
collections.things = [{ folder = "x", layout = "of another survey" }]
[cutouts.mine]
url = "http://localhost/cut/{ra}"
layers = ["b"]
sizes = [2, 3]
pixel_scale = 1.0
""")
    found = archive("mine", own)
    name, release = found.release(None)
    assert name == "private"
    (collection,) = release.collections["things"]
    assert found.paths(collection, "spectrum", {"number": 3}) == ["private/deep/3.fits"]
    assert list(found.releases) == ["one", "two", "private"]
    one = found.releases["one"]  # what the plugin says of it stays
    assert (one.root, list(one.collections), list(one.catalogues)) == (
        "/mirror/one",
        ["things"],
        ["all"],
    )
    assert found.cutouts is not None
    assert found.cutouts.layers == ("b",)


def test_a_changed_file_is_read_again(own: Path, user_file: Path) -> None:
    for where in ("/first", "/second"):
        user_file.write_text(f'[roots]\nmine = "{where}"\n')
        assert root(archive("mine", own)) == where


def test_another_file_may_be_named(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[roots]\nmine = "/elsewhere"\n')
    monkeypatch.setenv("SPENDER_CONFIG", str(mine))
    assert root(archive("mine", own)) == "/elsewhere"
    monkeypatch.setenv("SPENDER_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(InputError, match=r"absent\.toml cannot be read .* correct SPENDER_CONFIG"):
        archive("mine", own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[roots\n", r"config\.toml is not TOML"),
        ('[root]\ndesi = "/x"\n', r"root: .*\(allowed: roots, defaults, layouts, releases, cut"),
        ("[roots]\nmine = 3\n", r"roots\.mine: Input should be a valid string"),
        ('[roots]\nmine = ""\n', r"roots\.mine: '' is no folder or URL"),
        ('[defaults]\nmine = "x"\n', r"default release 'x' of mine is none of \['one', 'two'\]"),
        ("[releases.mine.a]\nfolder = 1\n", r"mine\.a\.folder: .*allowed: collections, catalogues"),
        (
            '[releases.mine.a]\ncollections.b = [{ folder = "c", layout = "flat", run = 1 }]\n',
            r"collections\.b\.0\.run: .*\(allowed: folder, layout, values, limits\)",
        ),
        (
            '[releases.mine.a]\ncollections.b = [{ folder = "c", layout = "round" }]\n',
            r"release a of mine has a collection of layout 'round', which is none of \['flat'\]",
        ),
        (
            '[releases.mine.a]\ncollections.b = [{ folder = "../c", layout = "flat" }]\n',
            r"folder: .* must stay below the root",
        ),
        (
            '[layouts.mine.a]\nspectrum = ["/etc/{number}"]\n',
            r"layouts\.mine\.a\.spectrum\.0: .* must stay below the root",
        ),
        ('[layouts.mine.a]\nspectrum = ["{number.real}"]\n', "a field is a name in braces"),
        ('[layouts.mine.a]\nspectrum = ["{number!r}"]\n', "a field is a name in braces"),
        ('[layouts.mine.a]\nspectrum = ["{number:>999999999d}"]\n', "a field is a name in braces"),
        ('[layouts.mine.a]\nspectrum = ["https://a.b/{number}"]\n', "is not a path below the root"),
        ('[layouts.mine.a]\nspectrum = ["a?x={number}"]\n', "is not a path below the root"),
        (
            '[cutouts.mine]\nurl = "file:///{ra}"\nlayers = ["a"]\nsizes = [1, 2]\n'
            "pixel_scale = 1\n",
            r"cutouts\.mine\.url: .*is not the URL of a service",
        ),
        (
            '[cutouts.mine]\nurl = "http://{layer}/x"\nlayers = ["a"]\nsizes = [1, 2]\n'
            "pixel_scale = 1\n",
            r"cutouts\.mine\.url: .*is not the URL of a service",
        ),
        (
            '[cutouts.mine]\nurl = "https://a.b/{ra}"\nlayers = []\nsizes = [1, 2]\n'
            "pixel_scale = 1\n",
            r"cutouts\.mine\.layers: .* at least 1 item",
        ),
        ("[layouts.mine.a]\nspectrum = []\n", r"layouts\.mine\.a\.spectrum: .* at least 1 item"),
        (
            '[releases.mine.a]\ncollections.b = [{ folder = "c", layout = "flat", '
            "limits = { number = [5, 2] } }]\n",
            r"limits: number cannot be from 5 to 2",
        ),
    ],
)
def test_faults_of_a_users_file_are_named(
    text: str, message: str, own: Path, user_file: Path
) -> None:
    user_file.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        archive("mine", own)
    assert str(user_file) in str(error.value)


def test_what_is_no_text_is_refused(own: Path, user_file: Path) -> None:
    user_file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not text in UTF-8"):
        archive("mine", own)
    user_file.write_bytes(b"# " + b"x" * (1 << 20))
    with pytest.raises(InputError, match="is longer than"):
        archive("mine", own)


@given(text=st.text(max_size=120))
def test_nothing_that_fills_a_template_leads_elsewhere(text: str) -> None:
    """Either it is refused, or it is one part of a path, and stays as it was written."""
    try:
        path = fill("top/{name}/{name}.fits", {"name": text})
    except InputError:
        assert not is_part(text)
        return
    assert path.split("/") == ["top", text, f"{text}.fits"]
    assert text not in ("", ".", "..")
    assert text.isascii()
    assert not set(text) & set("/\\%?#:@{} \t\n\x00~")


@pytest.mark.parametrize(
    "text", ["..", "../x", "a/b", "/a", "a\\b", "", ".hidden", "a..b", "{0}", "a b", "a\x00", "é"]
)
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"name '.*' may only have letters"):
        fill("{name}.fits", {"name": text})


def test_text_is_no_number() -> None:
    with pytest.raises(InputError, match="cannot be filled"):
        fill("{number:04d}", {"number": "x"})


def test_fields_are_found() -> None:
    assert fields_of("{a}/{b:04d}-{b}{{c}}.fits") == ["a", "b", "b"]
    with pytest.raises(ValueError, match="Single '}'"):
        fields_of("a}")


@given(text=st.text(alphabet="[]{}.=\"'#rotseladm \n\\/0:-\x00", max_size=80))
def test_any_users_file_is_read_or_refused(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    own, mine = folder / "own.toml", folder / "fuzzed.toml"
    own.write_text(OWN)
    mine.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPENDER_CONFIG", str(mine))
        try:
            found = archive("mine", own).release(None)[0]
        except InputError as error:
            found = str(error)
    assert found == "two" or str(mine) in found


def test_deep_nesting_is_refused(own: Path, user_file: Path) -> None:
    user_file.write_text("a = " + 50_000 * "[")
    with pytest.raises(InputError, match=r"config\.toml is not TOML"):
        archive("mine", own)
