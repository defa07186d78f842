"""The order of the tests. A process of pytest-xdist runs a whole file (`--dist loadfile`), whose
tests share what takes long to make; the longest files come first, so that at the end no process
waits long for another.
"""

LONGEST = ["test_chain", "test_real_faces", "test_notebooks", "test_site", "test_parallel"]


def place(item):
    name = item.path.stem
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(items):
    items.sort(key=place)
