"""The site as a reader meets it: built without a warning, served from a folder, in a browser.

Needs the extra `docs`, Playwright and Chromium; where one is missing the tests are skipped, and
with MINQWEN_NO_SKIPS=1 that fails. MINQWEN_SITE names a site that is built already (`make docs`,
with the notebooks executed); without it one is built here with DOCS_FAST=1.
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AXE = Path(os.environ.get("MINQWEN_AXE", ROOT / "docs/_build/axe/package/axe.min.js"))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_configure(config):
    config.addinivalue_line("markers", "site: builds the site, or opens it in a browser")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Return the folder of the built site; a warning of Sphinx is an error."""
    if "MINQWEN_SITE" in os.environ:
        return (ROOT / os.environ["MINQWEN_SITE"]).resolve()
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package, reason="needs the extra docs", exc_type=ImportError)
    out = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "."]
    built = subprocess.run(
        [*command, str(out)],
        cwd=ROOT,
        env={**os.environ, "DOCS_FAST": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(site):
    """Serve the site, and return its address."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(scope="session")
def browser():
    """Return a headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def axe():
    """Return the program of axe-core, which looks for what keeps people out."""
    if not AXE.is_file():
        pytest.skip(f"needs axe-core 4.14.1 at {AXE}: npm pack axe-core@4.14.1, or MINQWEN_AXE")
    return AXE.read_text(encoding="utf-8")


class Watch:
    """A page that notes what went wrong on it."""

    def __init__(self, browser, address, **options):
        self.page = browser.new_page(**options)
        self.address, self.wrong = address, []
        self.page.on("console", self.console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("requestfailed", self.failed)
        self.page.on("response", self.response)
        self.page.on("request", self.request)

    def console(self, message):
        if message.type in ("error", "warning"):
            self.wrong.append(f"console: {message.text}")

    def failed(self, request):
        if request.failure == "net::ERR_ABORTED" and request.url.endswith("/favicon.svg"):
            return  # the tab went on to the next page before its icon had come
        self.wrong.append(f"failed: {request.url} {request.failure}")

    def response(self, response):
        if response.status >= 400:
            self.wrong.append(f"{response.status}: {response.url}")

    def request(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.wrong.append(f"to another host: {request.url}")

    def open(self, path):
        """Go to a page of the site and wait for its maths."""
        self.wrong.clear()
        self.page.goto(f"{self.address}/{path}")
        self.page.evaluate("() => window.MathJax?.startup?.promise ?? null")
        return self.page


@pytest.fixture
def watch(browser, address):
    """Return a maker of watched pages, by the options of Playwright's new_page."""
    made = []

    def new(**options):
        made.append(Watch(browser, address, **options))
        return made[-1]

    yield new
    for one in made:
        one.page.close()  # twice does no harm
