"""A catalogue of real files, ids and a dataset: what is in it, by what is known otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.table import Table

from spender_core import cataloguing, losses, registry
from spender_core.errors import InputError

pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytest.importorskip("spender_desi", reason="the plugin spender-desi is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

LATENTS = [f"s_{k}" for k in range(8)]


@pytest.fixture(scope="module")
def files(real_data: Path) -> list[str]:
    """Real spectra of SDSS, more than one partition of them."""
    return sorted(map(str, real_data.glob("sdss/sas/dr17/**/26/**/lite/**/spec-*.fits")))[:12]


def run(plan: cataloguing.Plan, folder: Path, **options: Any) -> cataloguing.Done:
    return cataloguing.run(plan, folder, workers=0, **options)


def latents(table: Table) -> Any:
    return np.stack([table[name] for name in LATENTS], axis=1)


@pytest.mark.filterwarnings("ignore::spender_core.errors.RedshiftRangeWarning")
def test_columns_are_what_instrument_and_model_say(files: list[str], tmp_path: Path) -> None:
    how = cataloguing.how("sdss", everything=True)
    done = run(cataloguing.of_files(how, files, 5), tmp_path / "catalogue")
    assert (done.of, done.rows, done.failures) == (3, len(files), 0)
    table = cataloguing.read(tmp_path / "catalogue")
    instrument, model = registry.load("sdss_demo")
    batch = instrument.read(files, quality=False)
    assert batch.ids is not None
    for name in batch.ids.dtype.names or ():
        assert table[name].tolist() == batch.ids[name].tolist()
    assert table["source"].tolist() == files
    assert set(table["model"]) == {"sdss_demo"}
    for name in ("z", "zerr", "norm", "flags", "snr"):
        np.testing.assert_array_equal(table[name], getattr(batch, name).numpy())
    with torch.inference_mode():
        s = model.encode(batch)
        np.testing.assert_allclose(latents(table), s.numpy(), rtol=1e-4, atol=1e-5)
        inside = model.reaches(batch.z, "sdss").numpy()
        np.testing.assert_array_equal(table["reached"], inside)
        known = np.flatnonzero(inside)
        made = model.reconstruct(batch[known], s=s[known], normalize=True)
        weight = batch[known].ivar * made.valid
        chi2 = losses.reduced_chi2(batch[known].flux, weight, made.observed, s.shape[1] + 1)
    np.testing.assert_allclose(table["chi2"][known], chi2.numpy(), rtol=1e-4)


def test_quality_cuts_are_those_of_the_survey(files: list[str], tmp_path: Path) -> None:
    done = run(cataloguing.of_files(cataloguing.how("sdss"), files), tmp_path / "catalogue")
    good = registry.instrument("sdss").read(files)
    assert (done.rows, done.cut) == (len(good), len(files) - len(good))
    assert 0 < done.rows < len(files)


def test_ids_give_what_their_files_give(real_data: Path, files: list[str], tmp_path: Path) -> None:
    instrument = registry.instrument("sdss")
    ids = Table(instrument.read(files, quality=False).ids)
    root = real_data / "sdss/sas"
    absent = Table(ids[:1])
    absent["FIBERID"] = 999
    rows = [*range(len(ids) - 1, -1, -1), 3]  # in another order, and one of them twice
    wanted = Table(np.concatenate([ids[rows].as_array(), absent.as_array()]))
    how = cataloguing.how("sdss", everything=True, root=str(root), release="dr17")
    done = run(cataloguing.of_ids(how, wanted, 5), tmp_path / "ids")
    assert (done.rows, done.failures) == (len(ids), 1)
    alone = cataloguing.how("sdss", everything=True)
    run(cataloguing.of_files(alone, files, 5), tmp_path / "files")
    by_id, by_file = (cataloguing.read(tmp_path / name) for name in ("ids", "files"))
    names = ["PLATE", "MJD", "FIBERID"]
    by_id.sort(names)
    by_file.sort(names)
    for name in [*names, "z", "norm", "flags"]:
        assert by_id[name].tolist() == by_file[name].tolist()
    np.testing.assert_allclose(latents(by_id), latents(by_file), rtol=1e-4, atol=1e-5)
    assert "999" in (tmp_path / "ids/_failures.csv").read_text()


def test_a_dataset_gives_what_its_spectra_give(tmp_path: Path) -> None:
    from spender_core.datasets.mock.stream import MockSurvey
    from spender_core.datasets.reading import Dataset
    from spender_core.datasets.shards import write_dataset

    instrument, model = registry.load("sdss_demo")
    survey = MockSurvey(instrument, n=60, seed=3)
    write_dataset(str(tmp_path / "dataset"), (mock.batch for mock in survey), instrument)
    how = cataloguing.how("sdss", refine=2)
    plan = cataloguing.of_dataset(how, str(tmp_path / "dataset"), size=1)
    assert len(plan.parts) == 3
    assert run(plan, tmp_path / "catalogue").rows == 60
    table = cataloguing.read(tmp_path / "catalogue")
    assert sorted(table["FIBERID"]) == list(range(60))
    batch = Dataset(tmp_path / "dataset", instrument).read("train")
    rows = table[: len(batch)]
    assert batch.ids is not None
    assert rows["FIBERID"].tolist() == batch.ids["FIBERID"].tolist()
    assert set(rows["source"]) == {"data/train-00000.parquet"}
    expected = model.reconstruct(batch, refine=2).latents.detach().numpy()
    np.testing.assert_allclose(latents(rows), expected, rtol=1e-3, atol=1e-4)
    assert rows["refined"].all()


def test_files_of_many_spectra(real_data: Path, tmp_path: Path) -> None:
    files = sorted(map(str, real_data.glob("desi/public/**/coadd-*.fits")))
    how = cataloguing.how("desi", everything=True)
    done = run(cataloguing.of_files(how, files), tmp_path / "catalogue")
    table = cataloguing.read(tmp_path / "catalogue", columns=["TARGETID", "source", "s_0"])
    expected = registry.instrument("desi").read(files, quality=False)
    assert expected.ids is not None
    assert done.rows == len(expected)
    assert table["TARGETID"].tolist() == expected.ids["TARGETID"].tolist()
    assert len(set(table["source"])) == len(files)
    assert done.of == -(-len(files) // 4)


def test_programs_open_it(files: list[str], tmp_path: Path) -> None:
    """As pyarrow and astropy do, and pandas where it is: a folder, with flat columns alone."""
    import pyarrow as pa
    import pyarrow.dataset

    folder = tmp_path / "catalogue"
    run(
        cataloguing.of_files(cataloguing.how("sdss", everything=True), [*files, "/absent"], 5),
        folder,
    )
    table = cataloguing.read(folder)
    opened = pyarrow.dataset.dataset(folder).to_table()
    assert opened["source"].to_pylist() == table["source"].tolist() == files
    assert not any(pa.types.is_nested(field.type) for field in opened.schema)
    assert cataloguing.merge(folder, tmp_path / "single.parquet") == len(files)
    single = pyarrow.parquet.read_table(tmp_path / "single.parquet")
    assert single.equals(opened.replace_schema_metadata(None))
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_parquet(folder, columns=["PLATE", "s_0"])
    assert frame["PLATE"].tolist() == table["PLATE"].tolist()
    part = Table.read(folder / "part-000000.parquet", format="parquet")
    assert part["s_0"].tolist() == table["s_0"][: len(part)].tolist()


def test_one_that_is_not_finished_is_told(files: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"
    run(cataloguing.of_files(cataloguing.how("sdss", everything=True), files, 5), folder)
    (folder / "part-000001.parquet").unlink()
    with pytest.raises(InputError, match=r"1 of 3 parts are missing, such as part-000001"):
        cataloguing.read(folder)
    assert len(cataloguing.read(folder, partial=True)) == len(files) - 5


def test_every_part_says_where_it_comes_from(files: list[str], tmp_path: Path) -> None:
    import json

    import pyarrow.parquet

    secret = f"https://bob:pw123@127.0.0.1:1/{'x' * 9}.fits?token=hidden"
    folder = tmp_path / "catalogue"
    plan = cataloguing.of_files(cataloguing.how("sdss", everything=True), [*files, secret])
    run(plan, folder)
    schema = pyarrow.parquet.read_schema(folder / "part-000000.parquet")
    about = json.loads(schema.metadata[b"spender_catalogue"])
    assert about["plan"] == plan.hash
    assert about["made"]["model"] == {
        "name": "sdss_demo",
        "sha256": registry.info("sdss_demo").sha256,
    }
    assert about["made"]["versions"]["torch"] == torch.__version__
    assert about["made"]["sources"]["names"][:-1] == files
    for path in folder.rglob("*.*"):
        assert not [word for word in (b"bob", b"pw123", b"hidden") if word in path.read_bytes()]


def test_a_flow_of_other_latents_is_refused(real_data: Path) -> None:
    flow = real_data / "weights/spender.desi-edr.galaxyflow-b71f8966.pt"
    with pytest.raises(InputError, match="no flow of the latents of 'desi_demo'"):
        cataloguing.how("desi", flow=str(flow))
