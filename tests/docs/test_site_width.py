"""No page is wider than a phone, as a real browser lays it out."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PHONE = 375
"""Pixels: the narrowest phone in common use."""
BROWSERS = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)
MEASURE = """<!doctype html><title>measure</title><pre id="found"></pre><script>
const pages = PAGES, found = {};
function scrolls(one) {  // or is within what does, or is not shown
  if (!one.checkVisibility()) return true;
  for (; one !== null; one = one.parentElement) {
    const style = one.ownerDocument.defaultView.getComputedStyle(one);
    if (["auto", "scroll"].includes(style.overflowX) && one.scrollWidth > one.clientWidth) return true;
    if (style.position === "fixed" || style.clip !== "auto") return true;
  }
  return false;
}
async function measure() {
  for (const page of pages) {
    const frame = document.createElement("iframe");
    frame.style = "width:PHONEpx;height:812px;border:0";
    frame.src = page;
    await new Promise(done => { frame.onload = done; document.body.append(frame); });
    await frame.contentDocument.fonts.ready;
    const root = frame.contentDocument.documentElement;
    const seen = [...frame.contentDocument.querySelectorAll("main *, body > *")];
    const ends = seen.filter(one => !scrolls(one)).map(one => one.getBoundingClientRect().right);
    const widest = Math.max(root.scrollWidth, ...ends.map(Math.floor));
    found[page] = [root.clientWidth, widest];
    frame.remove();
  }
  document.getElementById("found").textContent = JSON.stringify(found);
}
measure();
</script>
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def browser() -> str:
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")


@pytest.fixture
def measured(browser: str, tmp_path: Path) -> Iterator[Any]:
    """A function that tells the widths of pages in a folder, as a phone shows them."""
    servers = []

    def widths(folder: Path, pages: list[str]) -> dict[str, list[int]]:
        script = MEASURE.replace("PAGES", json.dumps(pages)).replace("PHONE", str(PHONE))
        (folder / "measure.html").write_text(script)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=600000"]
        url = f"http://127.0.0.1:{server.server_port}/measure.html"
        done = subprocess.run(
            [browser, *options, "--dump-dom", url],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        (folder / "measure.html").unlink()
        found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stdout[-2000:] + done.stderr[-2000:]
        widths: dict[str, list[int]] = json.loads(html.unescape(found[1]))
        return widths

    yield widths
    for server in servers:
        server.shutdown()
        server.server_close()


def test_pages_fit_a_phone(site: Any, measured: Any) -> None:
    pages = sorted(site.pages)
    found = measured(site.folder, pages)
    assert sorted(found) == pages
    assert all(inner <= PHONE for inner, _ in found.values())
    wide = {page: needed for page, (_, needed) in found.items() if needed > PHONE}
    assert not wide


def test_a_page_that_is_too_wide_is_seen(tmp_path: Path, measured: Any) -> None:
    (tmp_path / "wide.html").write_text("<!doctype html><div style='width:500px'>wide</div>")
    wide = "<div style='width:500px'>wide</div>"
    hidden = f"<body style='overflow-x:hidden'><main>{wide}</main>"
    (tmp_path / "hidden.html").write_text(f"<!doctype html>{hidden}")
    scrolled = f"<main><div style='overflow-x:auto'>{wide}</div></main>"
    (tmp_path / "scrolled.html").write_text(f"<!doctype html>{scrolled}")
    found = measured(tmp_path, ["wide.html", "hidden.html", "scrolled.html"])
    assert found["wide.html"][1] >= 500
    assert found["hidden.html"][1] >= 500
    assert found["scrolled.html"][1] <= PHONE
