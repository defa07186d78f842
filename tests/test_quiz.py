"""What the page of a notebook adds: questions that it checks itself, how to get the notebook and
run it, its place in the chain, and the files that Binder builds from.
"""

import ast
import base64
import builtins
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from urllib.parse import unquote
import nbformat
import numpy as np
import pytest
from affnb.engine.cli import make_parser
from affnb.engine.core import notebooks_below, read_json
from affnb.engine.course import AFTER_GUESS, acceptance, tagged
from in_step import PAGES, ROOT
from refresh import ANSWERS, STAGES, exercises_hash
from test_site import opened, visit

sys.path.insert(0, str(ROOT / "docs"))
import notebook_page  # noqa: E402  (it lies beside docs/build.py)

NBS = {name: path for name, path in notebooks_below(ROOT / "nbs").items() if name not in PAGES}
KEPT = read_json(ANSWERS)
ASKED = [(name, number) for name, kept in KEPT.items() for number in kept["answers"]]


@functools.cache
def cells_of(name):
    return nbformat.read(NBS[name], 4).cells


def solution_of(name, number):
    return next(
        cell.source
        for cell in cells_of(name)
        if cell.cell_type == "code"
        and tagged(cell, "solution")
        and cell.source.startswith(f"# answer_{number}: ")
    )


# ---------------------------------------------------------------- what is kept of a check
def test_of_a_number_the_tolerance_is_kept():
    def near(a):
        return abs(a - 0.3) < 0.005

    kept = acceptance(np.float32(0.3), near)
    assert abs(kept["value"] - 0.3) < 1e-6
    assert abs(kept["low"] - 0.295) < 1e-8 and abs(kept["high"] - 0.305) < 1e-8
    assert near(kept["low"]) and near(kept["high"])


@pytest.mark.parametrize(
    "answer, right, low, high",
    [
        (15, lambda a: a == 15, 15, 15),
        (15, lambda a: isinstance(a, int) and abs(a - 15) <= 2, 13, 17),
        (np.int64(1000), lambda a: abs(a / 1000 - 1) <= 0.25, 750, 1250),
        (0, lambda a: -1 <= a <= 2, -1, 2),
        (-4.0, lambda a: a < -3 and a > -4.5, -4.5, -3),
    ],
)
def test_an_interval_reaches_as_far_as_the_test_accepts(answer, right, low, high):
    kept = acceptance(answer, right)
    assert abs(kept["low"] - low) < 1e-6 and abs(kept["high"] - high) < 1e-6


def test_words_and_several_answers_are_kept_with_their_order():
    assert acceptance("AU12", lambda a: a == "AU12") == dict(value="AU12")
    assert acceptance({"b", "a"}, lambda a: set(a) == {"a", "b"}) == dict(
        value=["a", "b"], ordered=False
    )
    assert acceptance(("b", "a"), lambda a: a == ("b", "a"))["ordered"]
    pair = acceptance((2, "x"), lambda a: a[1] == "x" and 1 <= a[0] <= 4)
    assert pair["low"][1] is pair["high"][1] is None
    assert pair["low"][0] == 1 and pair["high"][0] == 4


@pytest.mark.parametrize(
    "answer",
    [True, None, {"a": 1}, max, float("nan"), "two\nlines", "x" * 61, "", [], [[1, 2]], range(3)],
    ids=repr,
)
def test_what_cannot_be_typed_is_no_question(answer):
    assert acceptance(answer, lambda a: True) is None


# ---------------------------------------------------------------- answers and notebooks
@pytest.mark.parametrize("name", NBS)
def test_the_answers_are_those_of_the_exercises_as_they_are(name):
    remedy = f"run python tests/refresh.py --answers {name}"
    assert name in KEPT, remedy
    assert KEPT[name]["exercises"] == exercises_hash(nbformat.read(NBS[name], 4)), remedy


def test_answers_are_of_notebooks_that_are_there():
    assert set(KEPT) <= set(NBS)
    assert len(ASKED) > 60


@pytest.mark.parametrize("name, number", ASKED)
def test_a_question_has_an_exercise_a_solution_and_a_hint(name, number):
    cells = cells_of(name)
    listed = cells[notebook_page.exercises_cell(cells)].source.split("## Exercises")[1]
    assert re.search(rf"^{number}\. ", listed, re.M)
    asked, text = notebook_page.what_is_asked(solution_of(name, number))
    assert asked == number
    assert len(text) >= 4
    assert len(notebook_page.hints_of(cells)[number]) > 9


def names_used(tree) -> set:
    "Names that code reads and does not define."
    loads, known = set(), set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (loads if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.alias):
            known.add((node.asname or node.name).partition(".")[0])
    return loads - known


def alone(name, number):
    "What a solution computes with the notebook's imports and nothing else; None if it needs more."
    imports = {}
    for cell in cells_of(name):
        if cell.cell_type == "code" and not tagged(cell, "check") and "import" in cell.source:
            for node in ast.parse(cell.source).body if cell.source[0] not in "%!" else ():
                for alias in getattr(node, "names", ()) if "Import" in type(node).__name__ else ():
                    imports[(alias.asname or alias.name).partition(".")[0]] = node
    tree = ast.parse(solution_of(name, number))
    needed = names_used(tree)
    if not needed <= set(imports):
        return None
    space = {}
    nodes = [imports[word] for word in sorted(needed)]
    exec(compile(ast.Module([*nodes, *tree.body], []), name, "exec"), space)
    return space[f"answer_{number}"]


def test_kept_values_are_what_the_solutions_compute():
    checked = 0
    for name, number in ASKED:
        answer = alone(name, number)
        if answer is None:
            continue
        entry = KEPT[name]["answers"][number]
        again = acceptance(answer, lambda a: False)["value"]
        if "low" in entry:
            ends = np.atleast_1d(entry["low"]), np.atleast_1d(again), np.atleast_1d(entry["high"])
            for low, value, high in zip(*map(list, ends)):
                assert low is None or low <= value <= high, (name, number)
        else:
            assert again == entry["value"], (name, number)
        checked += 1
    assert checked >= 15


# ---------------------------------------------------------------- the forms
@functools.cache
def forms_of(name):
    "The block of a page's questions."
    cells = notebook_page.add_questions(name, cells_of(name))
    block = next(cell.source for cell in cells if cell.source.startswith('<div class="quizzes"'))
    assert "\n\n" not in block, "an empty line would end the HTML"
    assert block.startswith('<div class="quizzes" hidden>'), "the script shows them"
    return block


def form(name, number):
    block = forms_of(name)
    return re.search(rf'<form class="quiz" data-exercise="{number}".+?</form>', block, re.S)[0]


@pytest.mark.parametrize("name, number", ASKED)
def test_a_form_asks_and_gives_nothing_away(name, number):
    text = form(name, number)
    entry = KEPT[name]["answers"][number]
    accepts = json.loads(base64.b64decode(re.search('data-accepts="(.+?)"', text)[1]))
    assert accepts.items() >= entry.items()
    shown = re.sub(r'data-accepts=".+?"|<option.*?</option>|<label><input.*?</label>', "", text)
    shown = re.sub(r"answer to exercise \d|(quiz|solution)-\d|data-exercise.*?>", "", shown)
    values = entry["value"] if isinstance(entry["value"], list) else [entry["value"]]
    for value in values:
        found = re.search(rf"(?<![\w.]){re.escape(str(value))}(?![\w.])", shown)
        one_of_several = "such as" in shown or shown.count("&quot;") > 2
        assert not found or one_of_several, f"{value} stands in the question: {shown}"
    assert accepts["hint"] not in shown


def test_words_are_chosen_and_numbers_typed():
    kinds = {kind: sum(mark in form(*asked) for asked in ASKED) for kind, mark in MARKS.items()}
    assert all(kinds.values()), kinds


MARKS = {
    "number": 'type="number"',
    "choice": "<select",
    "several": 'type="checkbox"',
    "text": 'type="text"',
}


# ---------------------------------------------------------------- the top of a page
@pytest.fixture(scope="module")
def chain():
    return notebook_page.read_chain()


@pytest.fixture(scope="module")
def titles():
    return {name: notebook_page.title_of(name) for name in notebooks_below(ROOT / "nbs")}


def test_every_stage_has_its_rule_what_it_needs_and_what_it_leaves(chain, titles):
    rules = set(re.findall(r"^rule (\w+):", (ROOT / "Snakefile").read_text(), re.M))
    for name in STAGES:
        text = notebook_page.place_in_chain(name, chain, titles)
        rule, needs, leaves = re.match(r"rule `(\w+)`.*; needs (.+); leaves(.+)", text).groups()
        assert rule in rules
        assert set(re.findall(r"`(\w+)`", needs)) - {"windows"} <= rules
        assert "seed0" in leaves or "figures/" in leaves
        for target in re.findall(r"\]\((.+?)\)", text):
            assert (NBS[name].parent / target).is_file()
    assert "needs `pack`" in notebook_page.place_in_chain("06_pretrain", chain, titles)
    assert "`separate`" in notebook_page.place_in_chain("engine/focus", chain, titles)
    assert "`report`" in notebook_page.place_in_chain("13_claims", chain, titles)
    assert "does not run" in notebook_page.place_in_chain("lab", chain, titles)


def test_the_command_runs_the_rule_and_little_else(chain, titles):
    parser = make_parser()
    for name in NBS:
        text = notebook_page.how_to_run(name, chain, None)
        commands = re.findall(r"^\.venv/bin/affnb ([^#\n]+)", text, re.M)
        assert bool(commands) == (name in STAGES)
        for words in commands:
            only = parser.parse_args(words.split()).only
            if only:
                jobs = chain.jobs_for(chain.tables[only.removeprefix("table_")])
                assert any(notebook_page.runs(job, name) for job in jobs)
                assert len(jobs) < len(chain.jobs)
        assert re.search(r"^lab:", (ROOT / "Makefile").read_text(), re.M)
    assert "--only table_focus" in notebook_page.how_to_run("engine/focus", chain, None)


def test_a_page_says_how_long_it_takes():
    for name in NBS:
        text = notebook_page.time_it_takes(KEPT[name])
        assert re.search(r"\d+ (s|minutes) on \d+ cores?\.$", text), text
        assert ("published smoke run" in text) == (name in STAGES), text


def test_the_tour_says_as_many_minutes_as_its_page():
    words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    said = re.search(r"some (\w+) minutes of computing", cells_of("00_tour")[0].source)
    minutes = f"all cells, {words.index(said[1])} minutes on"
    assert minutes in notebook_page.time_it_takes(KEPT["00_tour"])


@pytest.mark.parametrize(
    "address, home",
    [
        ("somebody/affnb", "somebody/affnb"),
        ("https://github.com/some-body/affnb.git", "some-body/affnb"),
        ("git@github.com:somebody/affnb.x.git", "somebody/affnb.x"),
        ("https://github.com/somebody/affnb/", "somebody/affnb"),
    ],
)
def test_the_repository_is_known_by_any_of_its_addresses(address, home, monkeypatch):
    monkeypatch.setenv("AFFNB_REPOSITORY", address)
    assert notebook_page.repository() == home


def test_links_lead_to_files_of_the_repository_and_are_left_out_where_none_is_known(
    chain, titles, monkeypatch
):
    branch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["nbdev"]["branch"]
    for name in NBS:
        text = notebook_page.top_of_page(name, chain, titles, "somebody/copy")
        colab, binder = re.findall(r"\[Open in \w+\]\((.+?)\)", text)
        start = f"https://colab.research.google.com/github/somebody/copy/blob/{branch}/"
        assert colab.startswith(start)
        assert (ROOT / colab.removeprefix(start)).is_file()
        start = f"https://mybinder.org/v2/gh/somebody/copy/{branch}?labpath="
        assert binder.startswith(start)
        assert (ROOT / unquote(binder.removeprefix(start))).is_file()
        clone, enter = re.search(r"```text\n(.+)\n(.+)\n```", text).groups()
        assert clone.startswith("!git clone --depth 1 https://github.com/somebody/copy && pip ")
        assert (ROOT / enter.removeprefix("%cd copy/") / f"{name.split('/')[-1]}.ipynb").is_file()
        text = notebook_page.top_of_page(name, chain, titles, None)
        assert "https://" not in text
        assert "AFFNB_REPOSITORY=OWNER/NAME" in text


# ---------------------------------------------------------------- Binder
def test_binder_has_a_python_that_the_lock_is_made_for():
    python = (ROOT / ".binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    from packaging.specifiers import SpecifierSet

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"{python}.99" in SpecifierSet(project["requires-python"])
    assert f"python_full_version == '{python}.*'" in (ROOT / "uv.lock").read_text()
    assert f"python:{python}-slim" in (ROOT / "Containerfile").read_text(), "one in both places"


STUB = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
if [ "$1" = export ]; then exec "$REAL_UV" "$@" --offline; fi
while [ $# -gt 0 ]; do
  if [ "$1" = --requirements ]; then cp "$2" "$CALLS.packages"; fi
  shift
done
"""


def test_what_binder_runs_installs_the_lock_and_the_clone(tmp_path):
    "Run as it is, but that nothing is fetched: pip and `uv pip` are only asked what they would do."
    real = shutil.which("uv", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    if not real:
        pytest.skip("no uv here (`make` installs it): the lock cannot be read")
    for name in ("python", "uv"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    script = ROOT / ".binder" / "postBuild"
    assert os.access(script, os.X_OK)
    calls = tmp_path / "calls"
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(script)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "CALLS": str(calls), "REAL_UV": real},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = calls.read_text().splitlines()
    uv = re.search(r"uv==[\d.]+", (ROOT / "Makefile").read_text())[0]
    assert said[0].startswith("python -m pip install") and uv in said[0], "as in the Makefile"
    assert "--torch-backend cpu" in said[2]
    assert said[3].endswith("--no-deps --editable .")
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    versions = {package["name"]: package.get("version") for package in lock["package"]}
    lines = (tmp_path / "calls.packages").read_text().splitlines()
    pinned = dict(line.split(" ;")[0].split("==") for line in lines)
    assert len(pinned) > 100
    assert {"torch", "jupyterlab", "ipywidgets", "numpy"} <= set(pinned)
    assert all(versions[name] for name in pinned)
    assert pinned["torch"] == versions["torch"]
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))]


# ---------------------------------------------------------------- in a browser
slow = pytest.mark.slow


ALL_KINDS = "09_joint"  # it asks all kinds of questions


def example(mark):
    "An exercise whose form has this mark, with its entry."
    kept = KEPT[ALL_KINDS]["answers"]
    number = next(number for number in kept if mark in form(ALL_KINDS, number))
    return ALL_KINDS, number, kept[number]


def reach(page, place):
    "Tabs on until the focus is there."
    page.locator(f"{place} >> xpath=preceding::a[1]").first.focus()
    for _ in range(400):
        if page.evaluate("place => document.activeElement.matches(place)", place):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{place} cannot be reached by the keyboard")


def fill_in(page, form_at, entry, right):
    "Answers with the keyboard alone."
    value = entry["value"]
    kind = page.locator(f"{form_at} [name=answer]").first.evaluate("field => field.type")
    if kind == "checkbox":
        boxes = page.locator(f"{form_at} [name=answer]")
        wanted = value if right else []
        for k in range(boxes.count()):
            box = boxes.nth(k)
            if box.is_checked() != (box.get_attribute("value") in wanted):
                box.focus()
                page.keyboard.press("Space")
        page.locator(f"{form_at} button").focus()
        page.keyboard.press("Enter")
        return
    if kind == "select-one":
        options = page.locator(f"{form_at} option").all_inner_texts()
        word = value if right else next(word for word in options[1:] if word != value)
        page.locator(f"{form_at} select").focus()
        page.keyboard.press("Home")
        for _ in range(options.index(word)):
            page.keyboard.press("ArrowDown")
        page.locator(f"{form_at} button").focus()
        page.keyboard.press("Enter")
        return
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    page.locator(f"{form_at} [name=answer]").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type(text if right else "-12345" if kind == "number" else "surely not")
    page.keyboard.press("Enter")


@slow
@pytest.mark.parametrize("kind", MARKS)
def test_a_question_is_answered_with_the_keyboard(kind, browser, site):
    "Wrong: a hint, and the way to the solution; right: it says so. Nothing is said before."
    name, number, entry = example(MARKS[kind])
    page, wrong = opened(browser, site / "nbs" / f"{name}.html")
    at = f"form.quiz[data-exercise='{number}']"
    result = page.locator(f"{at} .quiz-result")
    solution = page.locator(f"{at} a.quiz-solution")
    closed = page.locator(f"#solution-{number} + .cell details")
    reach(page, f"{at} [name=answer]")
    assert page.locator(f"li {at}").count() == 1, "it stands in the item that asks"
    assert result.get_attribute("aria-live") == "polite"
    assert result.inner_text() == ""
    assert not solution.is_visible()
    assert closed.get_attribute("open") is None
    fill_in(page, at, entry, right=False)
    assert result.inner_text().startswith("Not right yet. Hint: ")
    assert solution.is_visible()
    solution.focus()
    page.keyboard.press("Enter")
    assert closed.get_attribute("open") is not None
    fill_in(page, at, entry, right=True)
    assert result.inner_text() == "Right."
    assert not wrong


@slow
def test_the_ends_of_an_interval_decide(browser, site):
    name, number, entry = example(MARKS["number"])
    page, _ = opened(browser, site / "nbs" / f"{name}.html")
    at = f"form.quiz[data-exercise='{number}']"
    width = entry["high"] - entry["low"] or 1
    for typed, right in (
        (entry["low"] + width / 100, True),
        (entry["high"] - width / 100, True),
        (entry["low"] - width / 100, False),
        (entry["high"] + width / 100, False),
    ):
        page.locator(f"{at} input").fill(repr(typed))
        page.locator(f"{at} button").click()
        assert (page.locator(f"{at} .quiz-result").inner_text() == "Right.") == right


@slow
def test_without_a_script_the_exercises_stand_as_text(browser, site):
    name, number, _ = example(MARKS["number"])
    page, _ = opened(browser, site / "nbs" / f"{name}.html", java_script_enabled=False)
    listed = page.locator("#exercises ol > li")
    assert listed.count() >= 3
    assert listed.first.is_visible()
    assert page.locator("form.quiz").count() >= 1
    assert not page.locator("form.quiz").first.is_visible()


@slow
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
def test_questions_have_names_contrast_and_room(browser, site, scheme):
    "Answered wrongly, which shows all that there is, on a screen of 400 pixels."
    from axe_playwright_python.sync_playwright import Axe

    paths = [site / "nbs" / f"{name}.html" for name in (ALL_KINDS, "engine/focus")]
    size = dict(width=400, height=800)
    for page, _ in visit(browser, paths, color_scheme=scheme, viewport=size):
        for button in page.locator("form.quiz button").all():
            at = f"form.quiz[data-exercise='{button.evaluate('b => b.form.dataset.exercise')}']"
            fill_in(page, at, dict(value=[]), right=False)
        page.locator(".this-notebook details summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 401, page.url
        options = dict(runOnly=["wcag2a", "wcag2aa"], resultTypes=["violations"])
        places = [place for place in (".this-notebook", "#exercises") if page.query_selector(place)]
        found = Axe().run(page, context=dict(include=places), options=options)
        problems = found.response["violations"]
        assert not problems, f"{page.url}: " + "; ".join(
            f"{v['id']}: {v['nodes'][0]['html'][:150]} {v['nodes'][0]['failureSummary'][:200]}"
            for v in problems
        )


@slow
def test_what_is_to_be_guessed_is_closed_and_can_be_opened(browser, site):
    page, wrong = opened(browser, site / "nbs" / "lab.html")
    guessed = [cell for cell in cells_of("lab") if tagged(cell, "guess")]
    closed = page.locator(".tag_guess details")
    assert closed.count() == len(guessed) >= 3
    output = page.locator(".tag_guess .cell_output").first
    assert not output.is_visible()
    page.locator(".tag_guess details summary").first.focus()
    page.keyboard.press("Enter")
    assert output.is_visible()
    assert "Guess first, then look" in closed.nth(1).inner_text()
    assert not wrong


@slow
def test_what_came_of_a_guess_is_closed_and_can_be_opened(browser, site):
    page, wrong = opened(browser, site / "nbs" / "lab.html")
    after = [cell for cell in cells_of("lab") if tagged(cell, "after-guess")]
    code = page.locator(".tag_after-guess details")
    assert code.count() == sum(cell.cell_type == "code" for cell in after) >= 3
    texts = page.locator("details.sd-dropdown", has_text=AFTER_GUESS)
    assert texts.count() == sum(cell.cell_type == "markdown" for cell in after) >= 3
    for box, inside in [(code, ".cell_input pre"), (texts, "p >> nth=-1")]:
        for place in box.all():
            assert not place.locator(inside).is_visible()
            place.locator("summary").first.click()
            place.locator(inside).wait_for(state="visible", timeout=5000)
    assert not wrong


def check_downloads(site, names):
    for name in names:
        path = NBS[name]
        page = (site / "nbs" / f"{name}.html").read_text()
        assert f'<a href="{path.name}" download>Download this notebook</a>' in page
        assert (site / "nbs" / f"{name}.ipynb").read_bytes() == path.read_bytes()


@slow
def test_a_notebook_is_downloaded_as_it_is_committed(site):
    check_downloads(site, ("lab", "03_metrics", "engine/core"))
    assert "How it is made" in (site / "nbs" / "results.html").read_text()
    assert "this-notebook" not in (site / "nbs" / "index.html").read_text()


@pytest.mark.nightly
def test_every_notebook_is_downloaded_as_it_is_committed(whole_site):
    check_downloads(whole_site, NBS)
