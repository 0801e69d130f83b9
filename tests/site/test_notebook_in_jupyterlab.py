"""One notebook as a reader runs it: opened in JupyterLab, all cells, in a real browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.site, pytest.mark.filterwarnings("default")]
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "02_one_block_forward_and_backward.ipynb"
# outputs are read from the notebook's model: JupyterLab need not keep all cells in the page
RUN_ALL = """async () => {
  const late = new Promise((_, no) => setTimeout(() => no(new Error("over 150 s")), 150000));
  const run = async () => {
    const app = window.jupyterapp, panel = app.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await app.commands.execute("notebook:run-all-cells");
    return panel.content.widgets.filter(c => c.model.type === "code").map(c => ({
      count: c.model.executionCount,
      kinds: c.model.outputs.toJSON().map(o => o.output_type),
      pictures: c.model.outputs.toJSON().filter(o => o.data && o.data["image/png"]).length,
      errors: c.model.outputs.toJSON().filter(o => o.output_type === "error").map(o => o.evalue),
    }));
  };
  return Promise.race([late, run()]);
}"""


@pytest.fixture
def lab(tmp_path):
    """Start JupyterLab on a copy of the notebooks, and return its address."""
    pytest.importorskip("jupyterlab", reason="needs the extra notebooks", exc_type=ImportError)
    folder = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    env = {**os.environ, **{name: str(tmp_path / name) for name in names}}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", "--expose-app-in-browser"]
    command += [f"--ServerApp.root_dir={folder}"]
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            wait_for(server, f"{address}/api/status", tmp_path / "log")
            yield address
        finally:
            server.terminate()
            server.wait(30)


def wait_for(server, url, log, seconds=90):
    """Wait until a server answers."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise AssertionError(f"no answer in {seconds} s: {log.read_text(encoding='utf-8')}")


def test_runs_in_jupyterlab(lab, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{lab}/lab/tree/{NOTEBOOK}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=90000)
    cells = page.evaluate(RUN_ALL)
    page.wait_for_selector(".jp-RenderedMarkdown mjx-container", timeout=30000)
    page.close()
    assert len(cells) > 10
    assert all(cell["count"] for cell in cells)
    assert not [error for cell in cells for error in cell["errors"]]
    assert sum(cell["pictures"] for cell in cells) > 0
    away = [url for url in asked if not url.startswith((lab, "data:", "blob:", "ws"))]
    assert not away, away
