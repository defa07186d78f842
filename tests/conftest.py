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


# one page of each kind, and those that the tests of `make test` open; `make nightly` builds all
SOME_PAGES = [
    "index",
    "docs/api/engine.predict",
    "docs/api/metrics",
    "docs/gallery",
    "docs/living",
    "docs/teach",
    "docs/results_laptop",
    "figures/laptop/table_headline",
    "nbs/03_metrics",
    "nbs/09_joint",
    "nbs/engine/core",
    "nbs/engine/focus",
    "nbs/index",
    "nbs/lab",
    "nbs/results",
]
SOME_ARE_BUILT = "search index couldn't be loaded"


def build_once(pages, folder):
    "The site, built once, whichever process of pytest-xdist asks first; and what Sphinx said."
    from affnb.engine.data import lock_folder

    out = folder / "site"
    said = folder / "said.txt"
    folder.mkdir(exist_ok=True)
    with lock_folder(folder / "lock"):
        if not said.exists():
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "docs/build.py", "site", str(out), *pages],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            assert time.perf_counter() - start < 300, "`make docs` in under five minutes"
            said.write_text(done.stderr)
    return out, said.read_text()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, request):
    "A folder that is the same for all processes of pytest-xdist."
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if hasattr(request.config, "workerinput") else folder


@pytest.fixture(scope="session")
def site(shared_folder):
    "A site of all kinds of pages, made from all sources; one warning says that it is not all."
    out, said = build_once(SOME_PAGES, shared_folder / "some-pages")
    warnings = [line for line in said.splitlines() if line and SOME_ARE_BUILT not in line]
    assert not warnings, "\n".join(warnings)
    return out


@pytest.fixture(scope="session")
def whole_site(shared_folder):
    return build_once([], shared_folder / "all-pages")[0]


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
