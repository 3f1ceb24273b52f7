"""Runs on two real workers of Dask: killed ones, a killed scheduler, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spender_core import cataloguing
from spender_core.cataloguing import parts
from spender_core.cataloguing.cluster import connected
from spender_core.datasets.mock.stream import MockSurvey
from spender_core.datasets.shards import write_dataset
from spender_core.errors import SpenderError

pytest.importorskip("distributed", reason="Dask is not installed")
pytest.importorskip("spender_sdss", reason="the plugin spender-sdss is not installed")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL"),
]

N, SIZE = 4200, 512
"""Spectra, and those of a partition, of which each takes a worker some tenths of a second."""


@pytest.fixture(scope="module")
def study() -> Any:
    """The script that disturbs runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
        import study_catalogue
    return study_catalogue


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of mocks."""
    from spender_core import registry

    sdss = registry.instrument("sdss")
    folder = tmp_path_factory.mktemp("mocks") / "dataset"
    write_dataset(str(folder), (mock.batch for mock in MockSurvey(sdss, n=N, seed=1)), sdss)
    return folder


@pytest.fixture(scope="module")
def plan(dataset: Path) -> cataloguing.Plan:
    return cataloguing.of_dataset(cataloguing.how("sdss"), str(dataset), SIZE)


@pytest.fixture(scope="module")
def clean(plan: cataloguing.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogue of a run that nobody disturbs, in one process, without Dask."""
    folder = tmp_path_factory.mktemp("clean") / "catalogue"
    assert cataloguing.run(plan, folder, workers=0).rows == N
    return folder


def each_once(folder: Path) -> bool:
    return sorted(cataloguing.read(folder, ["FIBERID"])["FIBERID"]) == list(range(N))


def test_two_workers_give_the_bytes_of_one_process(
    plan: cataloguing.Plan, clean: Path, tmp_path: Path, digests: Any
) -> None:
    told: list[cataloguing.Progress] = []
    done = cataloguing.run(plan, tmp_path / "catalogue", workers=2, progress=told.append)
    assert (done.rows, done.kept, done.errors) == (N, 0, {})
    assert digests(tmp_path / "catalogue") == digests(clean)
    assert [one.parts for one in told] == list(range(len(plan.parts) + 1))
    assert (told[-1].expected, told[-1].of_expected, told[-1].spectra) == (N, N, N)


def test_killed_workers_and_a_killed_run_change_nothing(
    study: Any, dataset: Path, clean: Path, tmp_path: Path, digests: Any
) -> None:
    """Local workers: the scheduler is in the process of the run, which is killed last."""
    out = tmp_path / "catalogue"
    line = study.command(dataset, out, SIZE, "--workers", "2")
    study.disturbed(line, out, len(digests(clean)), 2, None)
    there = len(list(out.glob("part-*")))
    assert 0 < there < len(list(clean.glob("part-*")))
    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"{there} before" in again.stdout
    assert digests(out) == digests(clean)
    assert each_once(out)


def test_a_lost_scheduler_is_told_and_another_one_goes_on(
    study: Any, dataset: Path, clean: Path, tmp_path: Path, digests: Any
) -> None:
    out, known = tmp_path / "catalogue", tmp_path / "scheduler.json"
    line = [*study.command(dataset, out, SIZE), "--scheduler", str(known)]
    with study.cluster(tmp_path, 2) as (scheduler, nanny):
        told = study.disturbed(line, out, len(digests(clean)), 1, (scheduler.pid, nanny.pid))
    (error,) = told.splitlines()
    assert "is lost; finished partitions stay" in error
    with study.cluster(tmp_path, 2):
        subprocess.run(line, capture_output=True, check=True)
    assert digests(out) == digests(clean)
    assert each_once(out)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_what_is_finished(
    study: Any, dataset: Path, tmp_path: Path, number: int, status: int
) -> None:
    """Ctrl-C goes to all processes of a terminal, SIGTERM of a batch system to the first."""
    out = tmp_path / "catalogue"
    running = subprocess.Popen(
        study.command(dataset, out, SIZE, "--workers", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not list(out.glob("part-*")):
        assert running.poll() is None
        time.sleep(0.02)
    (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
    _, error = running.communicate()
    assert running.returncode == status
    (line,) = error.splitlines()
    assert line == (
        f"interrupted: finished partitions stay in {out}; the same command goes on from there"
    )
    plan = parts.read_plan(out)
    assert plan is not None
    finished = [path.name for path in out.glob("part-*")]
    assert 0 < len(finished) < len(plan["partitions"])
    assert all(parts.found(out, int(name[5:11]), plan["plan"]) for name in finished)
    assert not list(out.glob(".*"))


def test_a_file_that_kills_its_reader_costs_its_partition_alone(tiny: Any, tmp_path: Path) -> None:
    """Its workers die, one after the other; then it is tried alone, and listed."""
    files = tiny.files(tmp_path / "data", range(24))
    files[3] = files[3].rename(files[3].with_name("spectrum-0003-puzzling.npy"))
    files[10] = files[10].rename(files[10].with_name("spectrum-0010-deadly.npy"))
    out = tmp_path / "catalogue"
    ran = tiny.encode(
        *files, tmp_path / "data/zz-absent.npy", "-o", f"{out}/", "--workers", 2, "--partition", 2
    )
    assert ran.returncode == 3, ran.stderr
    assert "1 partition(s) failed; the same command tries them again" in ran.stderr
    listed = Counter(one.error for _, one in parts.read_listing(out))
    assert listed == {"partition failed": 1, "ZeroDivisionError": 1, "FileError": 1}
    there = set(cataloguing.read(out, ["NUMBER"], partial=True)["NUMBER"].tolist())
    assert set(range(24)) - there == {3, 10, 11}
    (told,) = [one for _, one in parts.read_listing(out) if one.error == "partition failed"]
    assert "spectrum-0010-deadly.npy to" in told.source
    assert "every worker that measured it died" in told.message


def test_workers_with_other_weights_end_the_run(tiny: Any, tmp_path: Path) -> None:
    """As where a model was trained anew between two runs: of the same plan, by its hash."""
    from dataclasses import replace

    plan = cataloguing.of_files(cataloguing.how("sdss"), ["/absent.fits"])
    model = replace(plan.how.model, sha256="0" * 64)
    other = replace(plan, how=replace(plan.how, model=model))
    with pytest.raises(SpenderError, match="the weights of 'sdss_demo' are others"):
        cataloguing.run(other, tmp_path / "catalogue", workers=1)


def test_no_more_workers_than_partitions_and_one_thread_each(tmp_path: Path) -> None:
    with connected(1, None) as client:
        assert list(client.nthreads().values()) == [1]
        environment = client.run(lambda: __import__("os").environ["OMP_NUM_THREADS"])
        assert set(environment.values()) == {"1"}


def test_a_cluster_without_the_package_is_told(
    study: Any, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler and its workers may come from another environment."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/spender_core.py").write_text("raise ImportError('not for you')\n")
    line = study.command(dataset, tmp_path / "catalogue", SIZE)
    with monkeypatch.context() as patch:
        there = os.environ.get("PYTHONPATH", "")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "hidden"), there]))
        started = study.cluster(tmp_path, 1)
        started.__enter__()
    try:
        ran = subprocess.run(
            [*line, "--scheduler", str(tmp_path / "scheduler.json")],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        started.__exit__(None, None, None)
    assert ran.returncode == 1
    (told,) = ran.stderr.splitlines()
    assert "install the same packages for the scheduler and all workers" in told
