"""Without a network: what is cached works, nothing tries to connect, and a miss fails at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import Hub

from spender_core import registry
from spender_core.archives.downloads import cache
from spender_core.archives.downloads.fetch import fetch
from spender_core.archives.location import parse

CUT_OFF = ["unshare", "--user", "--map-root-user", "--net"]

SCRIPT = """
import json, sys
asked = []
sys.addaudithook(lambda event, args: event in ("socket.connect", "socket.getaddrinfo") and asked.append(event))
from spender_core import registry
from spender_core.errors import OfflineError, SpenderError
result = {"loaded": []}
for source in sys.argv[1:]:
    instrument, model = registry.load(source)
    result["loaded"].append(type(model).__name__)
result["asked"] = list(asked)
try:
    registry.load("sdss_I")
except SpenderError as error:
    result["miss"] = [type(error).__name__, str(error)]
print(json.dumps(result))
"""


def cut_off(*sources: str, **settings: str) -> dict[str, list[str]]:
    """Load models in a process that has no network at all."""
    probe = subprocess.run([*CUT_OFF, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"needs user namespaces: {probe.stderr.strip()}")
    ran = subprocess.run(
        [*CUT_OFF, sys.executable, "-c", SCRIPT, *sources],
        capture_output=True, text=True, timeout=100, env=os.environ | settings,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: dict[str, list[str]] = json.loads(ran.stdout)
    return found


def test_what_is_cached_works_with_the_network_cut_off(hub: Hub) -> None:
    path = registry.pull("desi_demo")
    location = hub.offer("mine.safetensors", path.read_bytes())
    fetch(location)
    hub.stop()
    result = cut_off("sdss_demo", "boss_demo", location, str(path))
    assert result["loaded"] == ["WeightedAutoencoder"] * 4
    assert result["asked"] == []
    kind, message = result["miss"]
    assert kind == "OfflineError"
    for part in ("sdss_I is not in the cache", str(cache.home()), "spender pull sdss_I"):
        assert part in message


def test_a_published_model_works_with_the_network_cut_off(real_data: Path) -> None:
    card = registry.info("desi_edr_galaxy_flow")
    one = cache.entry(parse(card.weights))
    one.folder.mkdir(parents=True)
    one.path.write_bytes((real_data / "weights" / one.file).read_bytes())
    result = cut_off("desi_edr_galaxy_flow", SPENDER_OFFLINE="1")
    assert result["loaded"] == ["MaskedAutoregressiveFlow"]
    assert result["asked"] == []
    assert "SPENDER_OFFLINE is set" in result["miss"][1]


def test_a_shared_cache_that_cannot_be_written_serves(hub: Hub, tmp_path: Path) -> None:
    path = registry.pull("desi_demo")
    location = hub.offer("mine.safetensors", path.read_bytes())
    folder = fetch(location).parent
    hub.stop()
    for closed in (folder, folder.parent, cache.home()):
        closed.chmod(0o555)
    home = str(tmp_path / "nowhere")
    result = cut_off(location, SPENDER_HOME=home, SPENDER_SHARED_CACHE=str(cache.home()))
    assert result["loaded"] == ["WeightedAutoencoder"]
    assert not list(Path(home).rglob("mine*"))
