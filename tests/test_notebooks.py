"""Every cell of the notebooks that are no rule of the chain runs (the stages' run in test_chain),
and each keeps its sitting.
"""

import ast
import contextlib
import functools
import graphlib
import multiprocessing
import os
import re
import signal
import sys
import tomllib
from pathlib import Path
import nbformat
import pytest
from affnb.engine.core import notebooks_below
from in_step import PAGES, ROOT, listed_files

NBS = ROOT / "nbs"
RULES = {
    "06_pretrain",
    "07_separate",
    "09_joint",
    "10_search",
    "engine/ablations",
    "engine/focus",
    "11_evaluate",
    "engine/report",
}
ALL = notebooks_below(NBS)


STRICT = """
from affnb.engine import course
_as_a_student_has_it = course.check
def check(exercise, answer, right, hint):
    "As the student's; but no answer, a wrong solution and a check that passes nonsense are errors."
    assert answer is not ..., f"exercise {exercise}: no solution"
    solved = _as_a_student_has_it(exercise, answer, right, hint)
    assert solved, f"exercise {exercise}: the solution is wrong"
    for nonsense in (None, 0, -1, 1e9, "", "no", [], {}, lambda *a, **k: None):
        if type(nonsense) == type(answer) and nonsense == answer:
            continue
        passes = _as_a_student_has_it(exercise, nonsense, right, hint)
        assert not passes, f"exercise {exercise}: {nonsense!r} passes"
    return True
course.check = check
"""


# what notebooks import, and takes seconds to import
ROOMS = [f"affnb.engine.{name}" for name in ("bench", "cli", "predict", "report")]
LIBRARIES = [*ROOMS, "seaborn", "timm"]


@pytest.fixture(scope="module")
def warm_processes():
    """A context of processes that are forked from one which has imported the libraries, and has
    done nothing else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES, "IPython.core.interactiveshell", "nbformat"])
    return context


# `make test` leaves out cells that take seconds and that nothing stands on (they have the tag
# `full`), and the tour, which learns for two minutes, learns next to nothing there; all that is
# left to `test_what_takes_long_runs_too`
TOUR = "00_tour"
SHORT = "clips, long_videos, validation_videos, epochs, trainings = 100, 10, 8, 1, 1"


def cells_of(path, short):
    "The sources of a notebook's cells of code; of a short run, without what only a long one shows."
    for cell in nbformat.read(path, 4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and not (short and "full" in tags):
            yield cell.source
            if short and "parameters" in tags and Path(path).stem == TOUR:
                yield SHORT


def run_cells(path, printed, short=False):
    "In a process of its own: IPython's shell runs the cells as a kernel would, where they lie."
    from IPython.core.interactiveshell import InteractiveShell

    os.setsid()
    output = os.open(printed, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.chdir(Path(path).parent)
    multiprocessing.set_start_method(None, force=True)  # how a kernel starts processes
    shell = InteractiveShell.instance()
    for source in (STRICT, *cells_of(path, short)):
        shell.run_cell(source, store_history=True).raise_error()


def run_notebook(warm_processes, name, printed, short=False, seconds=300):
    process = warm_processes.Process(target=run_cells, args=(ALL[name], printed, short))
    process.start()
    process.join(seconds)
    ended = process.exitcode
    with contextlib.suppress(ProcessLookupError):  # the usual case: nothing is left of it
        os.killpg(process.pid, signal.SIGKILL)
    assert ended == 0, printed.read_text()[-3000:]


@pytest.fixture(autouse=True)
def inline(monkeypatch):
    "Pictures are drawn as in a kernel; the first process hands this on to all others."
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in RULES])
def test_every_cell_runs(name, warm_processes, tmp_path):
    "The solutions with them: each is right, and no check accepts nonsense."
    run_notebook(warm_processes, name, tmp_path / "printed", short=True)


def takes_long(name) -> bool:
    cells = nbformat.read(ALL[name], 4).cells
    return any("full" in cell.metadata.get("tags", []) for cell in cells)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in ALL if name not in RULES and takes_long(name)])
def test_what_takes_long_runs_too(name, warm_processes, tmp_path):
    "Such as the tour, and what it asserts of a model that has learned."
    run_notebook(warm_processes, name, tmp_path / "printed", seconds=600)


@pytest.mark.parametrize("name", [name for name in ALL if name not in PAGES])
def test_a_notebook_keeps_its_sitting(name):
    path = ALL[name]
    cells = nbformat.read(path, 4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert cells[0].cell_type == "markdown", "title and subtitle come first"
    assert re.match(r"# .+\n+> ", cells[0].source), "title and subtitle come first"
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "## Summary" in text
    assert "## Exercises" in text
    assert (
        next(
            i
            for i, cell in enumerate(cells)
            if cell.cell_type == "markdown" and "## Exercises" in cell.source
        )
        <= 60
    )
    assert any("assert" in source for source in code)
    assert path.stat().st_size < 1_000_000


CHAPTERS = [name for name in ALL if re.match(r"\d\d_", name)]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_is_read_in_a_sitting(name):
    cells = nbformat.read(ALL[name], 4).cells
    assert len(cells) <= 50
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    assert 1200 <= words <= 2500


def exported(cell) -> bool:
    return cell.cell_type == "code" and re.match(r"#\| export", cell.source.strip()) is not None


def defined_by(cell) -> list:
    "The public functions and classes of an exported cell."
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [node.name for node in ast.parse(cell.source).body if isinstance(node, kinds)]
    return [name for name in names if not name.startswith("_")]


@pytest.mark.parametrize("name", [*CHAPTERS, "lab"])
def test_each_function_is_shown_at_work_before_the_next_is_written(name):
    shown = ""
    missing = []
    for cell in reversed(nbformat.read(ALL[name], 4).cells):
        if exported(cell):
            missing += [n for n in defined_by(cell) if not re.search(rf"\b{n}\b", shown)]
            shown = ""
        elif cell.cell_type == "code":
            shown += f"\n{cell.source}"
    assert not missing


def lines_of_code(source) -> int:
    "How many lines a reader has to think through: no empty ones, comments, signatures, docstrings."
    skipped = set()
    for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "pass", source, flags=re.M))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first = node.body[0]
            end = first.end_lineno if ast.get_docstring(node) else first.lineno - 1
            skipped |= set(range(node.lineno + 1, end + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in skipped
        for number, line in lines
    )


def test_what_a_reader_thinks_through_is_counted():
    source = """
# a remark
def twice(
    x,  # a number
):
    "Two times x."

    return 2 * x


twice(
    4
)
"""
    assert lines_of_code(source) == 5


@pytest.mark.parametrize("name", [*CHAPTERS, "lab"])
def test_a_cell_shows_one_idea(name):
    "In at most 25 lines of code, and 40 with signatures and docstrings; of what is for reading."
    cells = [
        cell.source
        for cell in nbformat.read(ALL[name], 4).cells
        if cell.cell_type == "code"
        and not {"check", "solution"} & set(cell.metadata.get("tags", []))
    ]
    assert not [source for source in cells if lines_of_code(source) > 25]
    assert not [source for source in cells if len(source.strip().splitlines()) > 40]


def test_chapters_are_few_and_the_first_one_trains_a_model():
    assert len(CHAPTERS) <= 14
    first = nbformat.read(ALL[CHAPTERS[0]], 4).cells
    assert any("loss.backward()" in cell.source for cell in first)


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("engine/")])
def test_a_room_of_the_engine_says_first_who_needs_it(name):
    _, first, *_ = nbformat.read(ALL[name], 4).cells[0].source.split("\n\n")
    assert re.fullmatch(r"\*Engine: for .+\. Readers of the paper may skip it\.\*", first)


def markdown_of(name) -> list:
    "The texts of a notebook's cells that are no code."
    cells = nbformat.read(ALL[name], 4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_says_which_run_is_committed(name):
    texts = [text for text in markdown_of(name) if re.search("(committed|published) run", text)]
    assert all(re.search("smoke|laptop", text) for text in texts)


def test_an_extra_is_installed_in_one_way():
    "From the clone, for no index has affnb; with -e, or a copy takes the place of the clone."
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", *ALL.values()]
    ways = set()
    for page in pages:
        text = page.read_text(encoding="utf-8").replace('\\"', '"')
        ways |= set(re.findall(rf"pip install ([^\n`]*?\[(?:{'|'.join(extras)})\]\S?)", text))
    assert ways, "some extra is named"
    assert all(re.fullmatch(r'-e "\.\[\w+\]"', way) for way in ways), ways


def test_the_readme_is_read_in_minutes():
    assert len((ROOT / "README.md").read_text().split()) <= 800


@pytest.mark.parametrize("name", ALL)
def test_no_line_of_code_is_wider_than_a_page(name):
    cells = [cell.source for cell in nbformat.read(ALL[name], 4).cells if cell.cell_type == "code"]
    wide = [line for source in cells for line in source.splitlines() if len(line) > 100]
    assert not wide


def test_no_other_line_is_wider_either():
    "What is code or is read as code, but for the package, which nbdev writes from the notebooks."
    suffixes = {".py", ".toml", ".yaml", ".ini"}
    names = {"Makefile", "Snakefile", "Containerfile", ".ci/run"}
    files = [
        name
        for name in listed_files()
        if (name in names or Path(name).suffix in suffixes) and not name.startswith("affnb/")
    ]
    assert len(files) > 40
    wide = [
        f"{name}:{number}"
        for name in files
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        if len(line) > 100
    ]
    assert not wide


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_parameters_cell_holds_one_literal_per_line(name):
    found = [
        cell.source
        for cell in nbformat.read(ALL[name], 4).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(found) == 1
    for statement in ast.parse(found[0]).body:
        assert isinstance(statement, ast.Assign)
        assert isinstance(statement.value, ast.Constant)


# rooms of the engine that stand on the chapters: what is drawn, told and served of their results
ABOVE = {
    *("ablations", "bench", "cli", "describe", "example", "findings", "focus", "intake", "media"),
    *("archive", "living", "paper", "pictures", "predict", "rendering", "report", "scoring"),
    *("tables", "watch"),
}
# what chapters may use of these
USED = {"tables", "watch"}


@functools.cache
def imports():
    "Module -> the modules of affnb that it imports, within functions too."
    known = {}
    for path in sorted((ROOT / "affnb").rglob("[a-z]*.py")):
        known[path.stem] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            if node.level or (node.module or "").startswith("affnb."):
                name = (node.module or "").split(".")[-1]
                names = [alias.name for alias in node.names]  # `from affnb.engine import arms`
                known[path.stem].update(names if name in ("", "engine") else [name])
    return known


def test_the_engine_knows_no_chapter():
    "Chapters import earlier chapters and the engine; a stage imports no stage."
    chapters = {}
    for name, path in ALL.items():
        exported = re.search(r"#\| default_exp (\w+)", path.read_text())
        if "/" not in name and exported:
            chapters[exported[1]] = name
    known = imports()
    rooms = set(known) - set(chapters)
    assert rooms >= ABOVE
    assert len(chapters) >= 12
    for name, others in known.items():
        if name in chapters:
            assert others & rooms <= rooms - ABOVE | USED, name
            earlier = {other for other in chapters if chapters[other] < chapters[name]}
            assert others & set(chapters) <= earlier, name
        elif name not in ABOVE:
            assert not others & (set(chapters) | ABOVE), f"{name} knows a chapter"
    assert not known["core"]
    stages = {module for module, name in chapters.items() if name in RULES}
    stages |= {Path(name).name for name in RULES if "/" in name}
    for name in stages:
        assert not known[name] & stages, f"stage {name} imports a stage"


def test_arrows_run_in_no_circle():
    order = graphlib.TopologicalSorter(imports())
    assert len(list(order.static_order())) == len(imports())


def test_results_are_drawn_without_models():
    "Tables, claims and report import neither model nor training."
    known = imports()
    assert known["tables"] <= {"core", "metrics", "records", "watch"}
    assert known["arms"] == {"core"}, "their names, and no model"
    assert known["claims"] <= {"core", "metrics", "compare", "tables", "arms"}
    assert known["findings"] <= {"core", "metrics", "compare", "tables", "claims", "arms"}
    reading = {"core", "metrics", "compare", "tables", "claims", "findings"}
    assert known["pictures"] <= reading | {"watch"}
    assert known["report"] <= reading | {"pictures"}


def test_the_page_of_promises_names_tests_that_exist_and_when_they_run():
    "A promise that `make nightly` alone shows is marked so, and no other."
    tests = Path(__file__).resolve().parent
    page = (tests.parent / "docs" / "promises.md").read_text()

    @functools.cache
    def marks_in(file):
        return {
            node.name: {ast.unparse(mark) for mark in node.decorator_list}
            for node in ast.parse((tests / file).read_text()).body
            if isinstance(node, ast.FunctionDef)
        }

    listed = re.findall(r"`(test_\w+\.py)::(test_\w+)`( \(nightly\))?", page)
    assert len(listed) > 30
    for file, name, nightly in listed:
        marks = marks_in(file)
        assert name in marks, f"{file}: no {name}"
        rare = bool(marks[name] & {"pytest.mark.nightly", "pytest.mark.fuzz"})
        assert rare == bool(nightly), f"{file}: {name} runs at another time than the page says"
