"""The order of the tests. A process of pytest-xdist runs a whole file (`--dist loadfile`), whose
tests share what takes long to make; the longest files come first, so that at the end no process
waits long for another.
"""

import shutil
import subprocess
import sys
import time
import pytest
from in_step import ROOT

LONGEST = ["test_chain", "test_real_faces", "test_notebooks", "test_site", "test_parallel"]


def place(item):
    name = item.path.stem
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(items):
    items.sort(key=place)


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="session")
def site(tmp_path_factory, request):
    "Built once, whichever process of pytest-xdist asks first."
    from affnb.engine.data import lock_folder

    beside = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        beside = beside.parent
    out = beside / "docs" / "site"
    out.parent.mkdir(exist_ok=True)
    with lock_folder(out.parent / "lock"):
        if not (out / "slides" / "index.html").exists():
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "docs/build.py", "site", str(out)],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            assert time.perf_counter() - start < 300, "`make docs` in under five minutes"
    return out


@pytest.fixture(scope="module")
def browser():
    "Chromium, for the tests of one file: while it runs, no other event loop can."
    if not CHROMIUM:
        pytest.skip("no chromium here: the site is not opened (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
