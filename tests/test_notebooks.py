"""Every cell of the notebooks that are no rule of the chain runs (the stages' run in test_chain),
and each keeps its sitting.
"""

import ast
import contextlib
import functools
import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path
import nbformat
import pytest
from in_step import PAGES, ROOT, listed_files

NBS = Path(__file__).resolve().parent.parent / "nbs"
RULES = {
    "06_pretrain",
    "07_separate",
    "08_joint",
    "09_search",
    "10_ablations",
    "10a_focus",
    "11_evaluate",
    "12_report",
}
ALL = sorted(NBS.glob("*.ipynb"))


STRICT = """
from affnb import course
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
LIBRARIES = ["affnb.bench", "affnb.cli", "affnb.predict", "affnb.report", "seaborn", "timm"]


@pytest.fixture(scope="module")
def warm_processes():
    """A context of processes that are forked from one which has imported the libraries, and has
    done nothing else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES, "IPython.core.interactiveshell", "nbformat"])
    return context


def run_cells(path, printed):
    "In a process of its own: IPython's shell runs the cells as a kernel would, in `nbs/`."
    from IPython.core.interactiveshell import InteractiveShell

    os.setsid()
    output = os.open(printed, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.chdir(NBS)
    multiprocessing.set_start_method(None, force=True)  # how a kernel starts processes
    shell = InteractiveShell.instance()
    cells = nbformat.read(path, 4).cells
    for source in (STRICT, *(cell.source for cell in cells if cell.cell_type == "code")):
        shell.run_cell(source, store_history=True).raise_error()


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in ALL if p.stem not in RULES], ids=lambda p: p.stem)
def test_every_cell_runs(path, warm_processes, tmp_path, monkeypatch):
    "The solutions with them: each is right, and no check accepts nonsense."
    # pictures are drawn as in a kernel; the first process hands this on to all others
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    process = warm_processes.Process(target=run_cells, args=(path, tmp_path / "printed"))
    process.start()
    process.join(300)
    ended = process.exitcode
    with contextlib.suppress(ProcessLookupError):  # the usual case: nothing is left of it
        os.killpg(process.pid, signal.SIGKILL)
    assert ended == 0, (tmp_path / "printed").read_text()[-3000:]


@pytest.mark.parametrize("path", [p for p in ALL if p.stem not in PAGES], ids=lambda p: p.stem)
def test_a_notebook_keeps_its_sitting(path):
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


def test_the_readme_is_read_in_minutes():
    assert len((ROOT / "README.md").read_text().split()) <= 800


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_no_line_of_code_is_wider_than_a_page(path):
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
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


@pytest.mark.parametrize("path", [p for p in ALL if p.stem in RULES], ids=lambda p: p.stem)
def test_a_parameters_cell_holds_one_literal_a_line(path):
    found = [
        cell.source
        for cell in nbformat.read(path, 4).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(found) == 1
    for statement in ast.parse(found[0]).body:
        assert isinstance(statement, ast.Assign)
        assert isinstance(statement.value, ast.Constant)


def test_arrows_run_downwards():
    """A module imports only modules of lower number; a stage imports no stage; tables, claims and
    report import neither model nor training.
    """
    # "01" < "01a" < "02"
    number = {
        name: place
        for place, _, name in (path.stem.partition("_") for path in ALL if path.stem[0].isdigit())
    }

    def imports(name):
        found = [
            node
            for node in ast.walk(ast.parse((NBS.parent / "affnb" / f"{name}.py").read_text()))
            if isinstance(node, ast.ImportFrom)
        ]
        return {
            node.module.removeprefix("affnb.")
            for node in found
            if node.level == 1 or (node.module or "").startswith("affnb.")
        }

    known = {name: imports(name) for name in number}
    for name, others in known.items():
        for other in others:
            assert number[other] < number[name], f"{name} imports {other}"
        if "06" <= number[name] <= "11":
            assert all(number[other] < "06" for other in others), (
                f"stage {name} imports a stage: {others}"
            )
    assert not known["core"]
    assert known["report"] <= {
        "core",
        "metrics",
        "compare",
        "tables",
        "claims",
        "pictures",
    }
    assert known["tables"] <= {"core", "metrics", "watch"}
    assert known["claims"] <= {"core", "metrics", "compare", "tables"}
    assert known["pictures"] <= {"core", "metrics", "compare", "tables", "claims"}


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
