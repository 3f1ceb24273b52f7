"""Where the archive keeps spectra of SDSS: every release, whole plates, and catalogues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spender_sdss import places
from spender_sdss.instrument import BOSS, SDSS

from spender_core import Instrument
from spender_core.archives.images import cutout_urls
from spender_core.errors import InputError

SAS = "https://data.sdss.org/sas"
LITE = "spec-0412-52254-0308.fits"
BOSS_LITE = "spectra/lite/3586/spec-3586-55181-0001.fits"
RELEASES = [f"dr{number}" for number in range(8, 20)]


def located(instrument: Instrument, row: Any, release: str | None, root: Any = None) -> list[str]:
    (source,) = instrument.loader.locate([row], root, release)
    assert not source.rows
    return list(source.urls)


@pytest.mark.parametrize(
    ("release", "folder"),
    [(name, f"{name}/sdss/spectro/redux") for name in RELEASES[:10]]
    + [(name, f"{name}/spectro/sdss/redux") for name in RELEASES[10:]],
)
def test_sdss_is_in_every_release(release: str, folder: str) -> None:
    """All reductions are tried, lite files of each first, since they are 8 times smaller."""
    assert located(SDSS(), (412, 52254, 308), release) == [
        f"{SAS}/{folder}/{run2d}/spectra/{kind}0412/{LITE}"
        for kind in ("lite/", "full/", "")
        for run2d in ("26", "104", "103")
    ]
    assert located(SDSS(), (412, 52254, 308, "26"), release) == [
        f"{SAS}/{folder}/26/spectra/{kind}0412/{LITE}" for kind in ("lite/", "full/", "")
    ]


@pytest.mark.parametrize(
    ("release", "folder"),
    [
        ("dr9", "dr9/boss/spectro/redux/v5_4_45"),
        ("dr10", "dr10/boss/spectro/redux/v5_5_12"),
        ("dr11", "dr11/boss/spectro/redux/v5_6_5"),
        ("dr12", "dr12/boss/spectro/redux/v5_7_0"),
        ("dr13", "dr13/eboss/spectro/redux/v5_9_0"),
        ("dr14", "dr14/eboss/spectro/redux/v5_10_0"),
        ("dr15", "dr15/eboss/spectro/redux/v5_10_0"),
        ("dr16", "dr16/eboss/spectro/redux/v5_13_0"),
        ("dr17", "dr17/eboss/spectro/redux/v5_13_2"),
        ("dr18", "dr18/spectro/sdss/redux/v5_13_2"),
        ("dr19", "dr19/spectro/sdss/redux/v5_13_2"),
    ],
)
def test_boss_is_in_every_release_since_dr9(release: str, folder: str) -> None:
    assert located(BOSS(), (3586, 55181, 1), release)[0] == f"{SAS}/{folder}/{BOSS_LITE}"


def test_dr12_has_two_reductions() -> None:
    """v5_7_2 has the plates of SEQUELS alone."""
    urls = located(BOSS(), (7339, 56768, 1), "dr12")
    assert [url.split("/redux/")[1].split("/")[0] for url in urls] == ["v5_7_0", "v5_7_2"] * 3


def test_spectra_of_sdss_v_are_found_by_field_and_catalogid() -> None:
    """Names as in sdss/tree, dr18.cfg and dr19.cfg, specLite."""
    assert located(BOSS(), (15143, 59205, 4544940698), "dr18")[0] == (
        f"{SAS}/dr18/spectro/boss/redux/v6_0_4/spectra/lite/15143p/59205/"
        "spec-15143-59205-04544940698.fits"
    )
    assert located(BOSS(), (15000, 59146, 4375786564), "dr19")[0] == (
        f"{SAS}/dr19/spectro/boss/redux/v6_1_3/spectra/lite/015000/59146/"
        "spec-015000-59146-4375786564.fits"
    )
    longest = 63050395106956948
    assert f"-{longest}.fits" in located(BOSS(), (100000, 60000, longest), "dr19")[0]
    with pytest.raises(
        InputError, match=r"dr17 has no spectra of boss .*fiberid 4375786564 is not"
    ):
        located(BOSS(), (15000, 59146, 4375786564), "dr17")


def test_numbers_lead_to_a_release_that_can_have_them() -> None:
    row = (112359, 60086, 27021598054114233)
    assert located(BOSS(), row, None) == located(BOSS(), row, "dr19")
    with pytest.raises(InputError, match=r"Releases that may have them: dr18, dr19$"):
        located(BOSS(), row, "dr17")


def test_the_default_release_is_dr17() -> None:
    assert located(SDSS(), (412, 52254, 308), None)[0].startswith(f"{SAS}/dr17/sdss/")


def test_a_reduction_leads_to_its_release() -> None:
    """A row that was read from DR15 is not looked for in DR17 alone."""
    urls = located(BOSS(), (4055, 55359, 6, "v5_10_0"), None)
    assert urls[0].startswith(f"{SAS}/dr15/eboss/spectro/redux/v5_10_0/spectra/lite/")
    assert urls[3].startswith(f"{SAS}/dr17/eboss/spectro/redux/v5_10_0/spectra/lite/")
    assert len(urls) == 6
    assert all("/dr16/" in url for url in located(BOSS(), (4055, 55359, 6, "v5_10_0"), "dr16"))


def test_a_reduction_leads_to_spectra_that_the_default_release_cannot_have() -> None:
    row = (15000, 59146, 4375786564, "v6_1_3")
    assert located(BOSS(), row, None) == located(BOSS(), row, "dr19")


def test_a_plate_is_a_file() -> None:
    urls = located(BOSS(), (3586, 55181), "dr16")
    assert urls == [f"{SAS}/dr16/eboss/spectro/redux/v5_13_0/3586/spPlate-3586-55181.fits"]
    table = np.array([(3586, 55181)], dtype=[("PLATE", "i4"), ("MJD", "i4")])
    assert located(BOSS(), table[0], "dr16") == urls


def test_rows_of_tables_are_ids() -> None:
    fields = [("RUN2D", "U8"), ("MJD", "i4"), ("Z", "f4"), ("FIBERID", "i4"), ("PLATE", "i4")]
    table = np.array([("26", 52254, 0.1, 308, 412)], dtype=fields)
    assert located(SDSS(), table[0], None) == located(SDSS(), (412, 52254, 308, "26"), None)
    lacking = np.array([(412, 308)], dtype=[("PLATE", "i4"), ("FIBERID", "i4")])
    with pytest.raises(InputError, match="the row has PLATE, FIBERID"):
        located(SDSS(), lacking[0], None)


@pytest.mark.parametrize("root", ["s3://bucket/sas", "/data/sas/", "file:///data/sas"])
def test_another_root_replaces_the_archives(root: str) -> None:
    url = located(SDSS(), (412, 52254, 308, "26"), "dr17", root)[0]
    assert url == f"{root.rstrip('/')}/dr17/sdss/spectro/redux/26/spectra/lite/0412/{LITE}"


def test_a_root_may_be_set_once_for_both_spectrographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDER_ROOT_SDSS", "/mirror/sas")
    assert located(SDSS(), (412, 52254, 308), None)[0].startswith("/mirror/sas/dr17/sdss/")
    assert located(BOSS(), (3586, 55181, 1), None)[0].startswith("/mirror/sas/dr17/eboss/")
    assert located(BOSS(), (3586, 55181, 1), None, "https")[0].startswith(SAS)


@pytest.mark.parametrize("run2d", ["../x", "..", "a/b", "v5 13", "%2e", "26;", "{plate}", "a\x00"])
def test_reductions_cannot_lead_elsewhere(run2d: str) -> None:
    with pytest.raises(InputError, match="may only have letters, digits and underscores"):
        located(SDSS(), (412, 52254, 308, run2d), None)


def test_long_names_of_reductions_are_not_cut() -> None:
    assert "/v5_13_0_test/" in located(BOSS(), (3655, 55240, 104, "v5_13_0_test"), None)[0]
    with pytest.raises(InputError, match="run2d"):
        located(BOSS(), (3655, 55240, 104, "v" * 33), None)


@pytest.mark.parametrize(
    "row", [(412,), (412, 52254, 308, "26", 1), 412, "412", b"412", ("x", 52254, 308), (4.5, 1, 2)]
)
def test_other_ids_are_refused(row: Any) -> None:
    with pytest.raises(InputError, match=r"\(plate, mjd, fiberid\)|must be whole numbers"):
        located(SDSS(), row, None)


@pytest.mark.parametrize("row", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1001), (10**6, 1, 1)])
def test_numbers_beyond_the_survey_are_refused(row: Any) -> None:
    with pytest.raises(InputError, match=r"no spectra of sdss with .* is not between 1 and"):
        located(SDSS(), row, None)


@pytest.mark.parametrize(("instrument", "first"), [(SDSS(), "dr8"), (BOSS(), "dr9")])
def test_unknown_releases_are_refused(instrument: Instrument, first: str) -> None:
    with pytest.raises(InputError, match=rf"'dr99' has no \w+ data; known: \['{first}', .*'dr19'"):
        located(instrument, (412, 52254, 308), "dr99")
    with pytest.raises(InputError, match="'dr8' has no boss data"):
        located(BOSS(), (412, 52254, 308), "dr8")


def test_catalogues_are_found() -> None:
    specobj = places.catalogue("sdss", "specobj", None, None)
    assert specobj == f"{SAS}/dr17/sdss/spectro/redux/specObj-dr17.fits"
    spall = places.catalogue("boss", "spall", "/data", "dr19")
    assert spall == "/data/dr19/spectro/boss/redux/v6_1_3/spAll-lite-v6_1_3.fits.gz"
    with pytest.raises(InputError, match=r"dr17 of sdss has no catalogue 'spall'; it has .'specob"):
        places.catalogue("boss", "spall", None, "dr17")


def test_every_real_file_is_where_its_id_says(real_data: Path) -> None:
    root = real_data / "sdss" / "sas"
    files = sorted(root.rglob("spec-*.fits"))
    assert files
    for path in files:
        release, survey, *_, run2d, _, _, _, _ = path.relative_to(root).parts
        plate, mjd, fibre = (int(part) for part in path.stem.split("-")[1:])
        instrument = SDSS() if survey == "sdss" else BOSS()
        urls = located(instrument, (plate, mjd, fibre, run2d), release, str(root))
        assert str(path) in urls


def test_positions_are_those_of_the_plugged_fibre(real_data: Path) -> None:
    path = next((real_data / "sdss").rglob("spec-0266-51602-0013.fits"))
    rows = SDSS().loader.positions(str(path))
    assert rows["RA"] == pytest.approx([146.9341], abs=1e-4)
    assert rows["DEC"] == pytest.approx([-0.67040], abs=1e-4)


def test_images_come_from_the_sky_server() -> None:
    (url,) = cutout_urls(BOSS().loader.cutouts(), np.array([[10.0, -5.0]]), 64, 0.5, None)
    assert url == (
        "https://skyserver.sdss.org/dr17/SkyServerWS/ImgCutout/getjpeg?ra=10.0000000"
        "&dec=-5.0000000&scale=0.5&width=64&height=64"
    )
