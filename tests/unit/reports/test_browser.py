"""The pages in a browser: they are drawn, their script runs, the console stays empty, nothing is fetched."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from folders import write_run

from pointcept.reports import write_reports

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
PROBE = """<script>
const svg = document.querySelector("svg[data-chart]"), box = svg.getBoundingClientRect();
const before = getComputedStyle(document.body).backgroundColor;
svg.dispatchEvent(new MouseEvent("mousemove", { clientX: box.right - 12, clientY: box.top + 50 }));
const hint = document.getElementById("hint").innerText;
document.getElementById("theme").click();
const fetched = performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:"));
document.title = JSON.stringify([hint, before !== getComputedStyle(document.body).backgroundColor, fetched,
  [...document.images].every(image => image.naturalWidth > 0)]);
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium-headless-shell")
def test_a_report_in_a_browser(tmp_path: Path) -> None:
    html = write_reports(write_run(tmp_path / "run")).html
    html.write_text(html.read_text().replace("</body>", f"{PROBE}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    command = [str(BROWSER), *options, html.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert title == '["iteration 40\\nmIoU: 40 %\\naccuracy: 70 %",true,[],true]'
