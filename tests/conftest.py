"How tests are shared out to the processes of pytest-xdist (`--dist loadgroup`)."

import pytest

# long, and one piece: begun first, so that no process waits for it at the end
FIRST = ["test_chain", "test_real_faces", "test_site", "test_parallel", "test_claims"]
# each test stands alone: they fill what is left
LAST = ["test_notebooks"]


def place(item):
    name = item.path.stem
    if name in FIRST:
        return FIRST.index(name)
    return len(FIRST) + (name in LAST)


def pytest_collection_modifyitems(items):
    "One process runs a file, whose tests share what is long to make; notebooks go one by one."
    for item in items:
        if item.path.stem not in LAST:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=place)
