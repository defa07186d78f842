"""Student and teacher copies, exercises and their checks, decks: what is made of the notebooks for
a class, and whether the page for teachers fits them.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
import nbformat
import pytest
from nbclient import NotebookClient
from affnb.engine.cli import main
from affnb.engine.core import AffnbError, notebooks_below, read_json
from affnb.engine.course import (
    ANSWER,
    SESSIONS,
    check,
    closed,
    deck,
    place_to_write,
    student_copy,
    tagged,
    write_course,
    write_decks,
)
from in_step import PAGES, ROOT
from errors import assert_error, assert_one_line

NBS = {name: path for name, path in notebooks_below(ROOT / "nbs").items() if name not in PAGES}


def read(path):
    return nbformat.read(path, 4)


@pytest.mark.parametrize("path", NBS.values(), ids=list(NBS))
def test_exercises_solutions_and_checks_belong_together(path):
    """3 to 5 exercises, from a line to an hour; a solution each; a check of every answer; nothing
    of a solution is left in the student's copy.
    """
    notebook = read(path)
    listed = next(
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "markdown" and re.search("^## Exercises", cell.source, re.M)
    ).split("## Exercises")[1]
    exercises = re.findall(r"^(\d)\. (.+)$", listed, re.M)
    assert 3 <= len(exercises) <= 5
    assert [int(n) for n, _ in exercises] == list(range(1, len(exercises) + 1))
    solutions = [cell for cell in notebook.cells if tagged(cell, "solution")]
    answers = {
        name
        for cell in solutions
        if cell.cell_type == "code"
        for name in ANSWER.findall(cell.source)
    }
    in_words = {
        int(n)
        for cell in solutions
        if cell.cell_type == "markdown"
        for n in re.findall(r"^Exercise (\d)", cell.source, re.M)
    }
    assert {int(name[7]) for name in answers} | in_words == set(range(1, len(exercises) + 1)), (
        "an hour's project may have an answer in words"
    )
    assert len(answers) >= 3 - bool(in_words), "an hour's project may have an answer in words"
    checks = [cell for cell in notebook.cells if tagged(cell, "check")]
    assert len(checks) == 1
    assert notebook.cells[-1] is checks[0]
    assert "from affnb.engine.course import check" in checks[0].source.partition("\n\n")[0]
    calls = [
        node
        for node in ast.walk(ast.parse(checks[0].source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"
    ]
    assert {node.args[1].id for node in calls} == answers, "every answer is checked"
    assert all(len(node.args) == 4 and len(ast.unparse(node.args[3])) > 10 for node in calls), (
        "every check has a hint"
    )
    copy = student_copy(notebook)
    given = {
        name
        for cell in copy.cells
        if tagged(cell, "answer")
        for name in ANSWER.findall(cell.source)
    }
    assert given == answers
    assert not any(tagged(cell, "solution") for cell in copy.cells)
    for cell in copy.cells:
        if tagged(cell, "answer"):
            lines = cell.source.splitlines()
            assert lines[0].startswith("# "), f"says what the answer is to be: {lines[0]}"
            assert len(lines[0]) > 15, f"says what the answer is to be: {lines[0]}"
            assert all(
                line.startswith("#") or re.fullmatch(r"answer_\w+ = \.\.\.", line) for line in lines
            )
    kept = "\n".join(cell.source for cell in copy.cells)
    for cell in solutions:
        assert cell.source not in kept, cell.source
        assert not any(
            line in kept
            for line in cell.source.splitlines()
            if re.match(r"answer_\w+ = (?!\.\.\.$)", line)
        ), cell.source


@pytest.fixture
def within(tmp_path):
    "A folder in the project, which git ignores."
    import shutil

    place = ROOT / "data" / "runs" / f"{tmp_path.name}-of-a-test"
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["engine/watch", pytest.param("engine/course", marks=pytest.mark.nightly)]
)
def test_a_student_copy_runs_unanswered_and_tells_wrong_from_right(name, within):
    "As handed out in a clone; then with the first answer wrong; then with it right."
    made = write_course(within / "course", [name])["student"][0]
    solved = read(ROOT / "nbs" / f"{name}.ipynb")
    right = next(cell.source for cell in solved.cells if tagged(cell, "solution"))
    said = []
    for answer in (None, "answer_1 = 'surely not'", right):
        notebook = read(made)
        if answer:
            next(cell for cell in notebook.cells if tagged(cell, "answer")).source = answer
        NotebookClient(
            notebook, timeout=300, resources={"metadata": {"path": str(made.parent)}}
        ).execute()
        said.append("".join(output.get("text", "") for output in notebook.cells[-1].outputs))
    assert said[0].count("not answered yet") == said[0].count("exercise ") >= 2
    assert "exercise 1: not right yet" in said[1]
    assert "exercise 1: right" in said[2]


def test_copies_reach_the_project_from_within_and_from_outside(tmp_path, within):
    outside = write_course(tmp_path / "course", ["engine/report", "index"])["student"]
    assert f'"{ROOT.as_posix()}/data/records' in outside[0].read_text().replace('\\"', '"')
    assert f"({ROOT.as_posix()}/figures/smoke/fig_faces.png)" in outside[1].read_text()
    assert (
        "(../../../../../figures/smoke/fig_faces.png)"
        in write_course(within / "course", ["index"])["student"][0].read_text()
    )


def test_every_link_of_the_copies_and_of_the_syllabus_leads_somewhere(within):
    course = within / "course"
    write_course(course)
    address = re.compile(r"""(?:\]\(|src="|srcset=")(?![a-z]+:|#)([^)"#\s]+)""")
    dead = []
    links = 0
    for page in (course / "syllabus.md", *course.rglob("*.ipynb")):
        texts = [page.read_text()]
        if page.suffix == ".ipynb":
            texts = [cell.source for cell in read(page).cells if cell.cell_type == "markdown"]
        for link in address.findall("\n".join(texts)):
            links += 1
            if not (page.parent / link).exists():
                dead.append((page.name, link))
    assert dead == []
    assert links > 500
    assert "](student/03_metrics.ipynb)" in (course / "syllabus.md").read_text()


def test_what_is_to_be_guessed_is_not_shown_in_the_copy():
    lab = read(notebooks_below(ROOT / "nbs")["lab"])
    guessed = {cell.id: cell for cell in lab.cells if tagged(cell, "guess")}
    assert len(guessed) >= 3
    assert all(cell.outputs for cell in guessed.values())
    copy = {cell.id: cell for cell in student_copy(lab).cells}
    assert not any(copy[name].outputs for name in guessed)


def test_a_copy_asks_for_answers_where_the_notebook_announces_solutions():
    announced = "`affnb course DIR` writes a copy of the notebooks without them."
    first = read(NBS["00_tour"])
    assert sum(announced in cell.source for cell in first.cells) == 1
    copy = student_copy(first)
    assert sum("Write your answers into the next cells" in cell.source for cell in copy.cells) == 1
    for path in NBS.values():
        text = "\n".join(
            cell.source for cell in student_copy(read(path)).cells if cell.cell_type == "markdown"
        )
        assert "cells hold solutions" not in text, path


@pytest.mark.parametrize("name", NBS)
def test_what_came_of_a_guess_is_closed_in_the_copy(name):
    "No verdict beside the question: assertions are left out, texts take a click."
    notebook = read(NBS[name])
    after = [cell for cell in notebook.cells if tagged(cell, "after-guess")]
    for cell in notebook.cells:
        if tagged(cell, "guess"):
            kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
            assert ast.Assert not in kinds, f"an assertion tells the verdict: {cell.source[-200:]}"
    for cell in after:
        if cell.cell_type == "code":
            kinds = {type(node) for node in ast.parse(cell.source).body}
            assert kinds == {ast.Assert}, "what other cells need is not left out"
        else:
            assert not re.search("^#", cell.source, re.M), "no section is closed"
    copy = student_copy(notebook)
    by_id = {cell.id: cell.source for cell in copy.cells}
    for cell in after:
        assert by_id.get(cell.id) == (closed(cell.source) if cell.cell_type == "markdown" else None)


def test_each_guess_of_the_lab_has_a_text_that_says_what_came_out():
    tags = [cell.metadata.get("tags", []) for cell in read(NBS["lab"]).cells]
    order = [tag for tag in sum(tags, []) if tag in ("guess", "after-guess")]
    runs = [tag for tag, before in zip(order, ["", *order]) if tag != before]
    assert runs == ["guess", "after-guess"] * 3


def test_the_command_makes_both_copies_and_keeps_what_is_there(tmp_path, capsys):
    assert main(["course", str(tmp_path / "course")]) == 0
    assert f"student: {len(NBS)} notebooks" in capsys.readouterr().out
    assert (tmp_path / "course" / "syllabus.md").read_text().startswith("# Teach")
    for who in ("student", "teacher"):
        assert list(notebooks_below(tmp_path / "course" / who)) == list(NBS)
    for name, path in NBS.items():
        assert [c.source for c in read(path).cells if tagged(c, "solution")] == [
            c.source
            for c in read(tmp_path / "course" / "teacher" / f"{name}.ipynb").cells
            if tagged(c, "solution")
        ] or "../" in path.read_text()
    before = (tmp_path / "course" / "student" / "engine/watch.ipynb").read_bytes()
    assert main(["course", str(tmp_path / "course")]) == 1
    assert_one_line(capsys.readouterr().err, tmp_path / "course")
    assert (tmp_path / "course" / "student" / "engine/watch.ipynb").read_bytes() == before
    assert main(["course", str(tmp_path / "new"), "03_metric"]) == 2
    assert_one_line(capsys.readouterr().err, "03_metric", "03_metrics")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(AffnbError) as error:
        write_course(tmp_path / "file", ["engine/watch"])
    assert_error(error, tmp_path / "file", remedy=None)


def test_what_a_solution_is_asked_for_gives_nothing_away():
    "The comment that a student sees is one sentence: a line ends where the next word had no room."
    for name, path in NBS.items():
        for cell in read(path).cells:
            if not tagged(cell, "solution") or cell.cell_type != "code":
                continue
            lines = place_to_write(cell.source).splitlines()
            asked = [line for line in lines if line.startswith("# ")]
            if asked[1:] and asked[1].startswith('# "'):
                continue  # a condition on the answer, quoted from the exercise
            for line, following in zip(asked, asked[1:]):
                assert len(line) + len(following.split()[1]) + 1 > 98, (name, following)


def test_a_check_never_stumbles(capsys):
    import numpy as np

    for answer in (None, "x", [], np.zeros(3), lambda: 1 / 0, ...):
        assert check(1, answer, lambda a: a > 3, "think") is False
    assert check(2, np.array([4.0]), lambda a: a > 3)
    assert not check(3, 1, lambda a: a() > 3, "a function")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 8
    assert said[5].endswith("not answered yet")
    assert "TypeError" in said[7]


def test_what_a_student_gets_in_the_place_of_a_solution():
    assert (
        place_to_write("# answer_1: a number\n# between 0 and 1\nx = 3\nanswer_1 = x  # secret")
        == "# answer_1: a number\n# between 0 and 1\nanswer_1 = ..."
    )
    assert place_to_write("answer_1, y = f()\nanswer_2 = y") == "answer_1 = ...\nanswer_2 = ..."
    assert place_to_write("def answer_3(x):\n    return x") == "answer_3 = ..."


def test_every_session_has_a_deck_of_a_lecture_s_length():
    for title, names in SESSIONS.values():
        cells = deck(title, [read(ROOT / "nbs" / f"{name}.ipynb") for name in names]).cells
        slides = sum(
            cell.source.startswith(("# ", "## ")) for cell in cells if cell.cell_type == "markdown"
        )
        pictures = sum(
            not {"image/png", "image/jpeg"}.isdisjoint(output.get("data", {}))
            for cell in cells
            if cell.cell_type == "code"
            for output in cell.outputs
        )
        assert 12 <= slides <= 45 and pictures >= 3, (title, slides, pictures)


def words_of(text):
    return len(re.sub(r"\$+.+?\$+", "", text, flags=re.S).split())


def slides_of(session) -> list:  # of (shown, said, cells): Markdown, Markdown, code cells
    "A deck, slide by slide."
    title, names = SESSIONS[session]
    slides = []
    for cell in deck(title, [read(ROOT / "nbs" / f"{name}.ipynb") for name in names]).cells:
        if cell.cell_type == "code":
            slides[-1][2].append(cell)
            continue
        for part in re.split(r"^(?=#|:::\{revealjs-break\})", cell.source, flags=re.M):
            if part.startswith(("#", ":::{revealjs-break}")):
                slides.append(("", "", []))
            said = "\n\n".join(re.findall(r":::\{revealjs-notes\}\n(.+?)\n:::", part, re.S))
            shown = re.sub(r":::\{.+?\n:::", "", part, flags=re.S)
            if part:
                slides[-1] = (slides[-1][0] + shown, slides[-1][1] + said, slides[-1][2])
    return slides


def slide_of(session, words):
    "The slide that shows these words."
    (found,) = [slide for slide in slides_of(session) if words in slide[0]]
    return found


ABOUT_THE_PAGE = re.compile(
    r"this (notebook|chapter)|(next|last) (cell|line)|printed above|the \w+ above\b"
    r"|\[[^]]*\]\([^)]*ipynb|<picture|Engine: for",
    re.I,
)


@pytest.mark.parametrize("session", SESSIONS)
def test_slides_are_short_and_speak_to_a_room(session):
    slides = slides_of(session)
    assert len(slides) > 12
    for shown, _, _ in slides:
        assert not ABOUT_THE_PAGE.search(shown), shown
        paragraphs = [text for text in shown.split("\n\n") if not text.startswith(("|", "!["))]
        assert max(map(words_of, paragraphs), default=0) <= 120, shown
        prose = [text for text in paragraphs if not re.match(r"#|[-*] |\d+\. |>|\$", text)]
        assert max(map(words_of, prose), default=0) <= 60, shown
        assert shown.count("**") % 2 == 0, "a sentence that ends within bold words"


@pytest.mark.parametrize("session", SESSIONS)
def test_slides_show_figures_and_not_the_code_that_draws_them(session):
    for _, _, cells in slides_of(session):
        for cell in cells:
            if cell.outputs and "remove-input" not in cell.metadata.get("tags", []):
                assert "loss.backward()" in cell.source, cell.source


@pytest.mark.parametrize("session", SESSIONS)
def test_a_slide_with_a_picture_has_no_table_that_makes_it_small(session):
    title, names = SESSIONS[session]
    pictures = 0
    for cell in deck(title, [read(ROOT / "nbs" / f"{name}.ipynb") for name in names]).cells:
        outputs = cell.get("outputs", [])
        kinds = [{mime.partition("/")[0] for mime in o.get("data", {})} for o in outputs]
        if any("image" in kind for kind in kinds):
            pictures += 1
            others = [o for o, kind in zip(outputs, kinds) if "image" not in kind]
            assert all(len(o.get("text", "").splitlines()) == 1 for o in others)
    assert pictures


def test_what_is_said_of_a_figure_is_said_on_its_slide():
    """Text before a heading belongs to the slide before; what follows a figure is said and not
    shown.
    """
    shown, said, cells = slide_of("1-labels", "All four losses fall.")
    assert "Two minutes" not in said and "Valence starts last" in said and len(cells) == 1
    _, said, _ = slide_of("1-labels", "## Is that good?")
    assert said.startswith("The challenge scores") and "Valence starts last" not in said
    shown, said, cells = slide_of("1-labels", "The paper claims that a **temporal module**")
    assert "An action unit is a matter of the frame itself" in said
    assert "An action unit is a matter of the frame itself" not in shown
    assert any("with a temporal module minus" in cell.source for cell in cells)
    before = slide_of("1-labels", "## A threshold for a rare movement")
    assert "How high the two curves are" in before[1] and "The honest way" not in before[1]
    for session in SESSIONS:
        for shown, said, cells in slides_of(session):
            assert said or cells or shown.startswith("# ") or "revealjs" in shown, shown


def test_the_first_deck_shows_what_the_first_lesson_is_about():
    "The system, one frame with its labels, why people are split, a loop, a leak with its numbers."
    assert "![From labelled videos" in slide_of("1-labels", "The system in one picture")[0]
    assert "I have seen this face before" in slide_of("1-labels", "## No person on both sides")[0]
    frame = slide_of("1-labels", "## Three questions about one frame")
    assert "active units:" in frame[2][0].source and frame[2][0].outputs
    loop = [slide for slide in slides_of("1-labels") if "## Two minutes of learning" in slide[0]]
    assert "loss.backward()" in loop[0][2][0].source
    leak = slide_of("1-labels", "*Leak*")
    assert "nearest-leaked" in str(leak[2][0].outputs)


def test_decks_have_their_pictures_beside_them(tmp_path):
    write_decks(tmp_path / "decks")
    pictures = set()
    for session in SESSIONS:
        for cell in read(tmp_path / "decks" / f"{session}.ipynb").cells:
            pictures |= set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", cell.source))
    assert "figures/static/system.svg" in pictures
    assert all((tmp_path / "decks" / address).is_file() for address in pictures)


def test_commands_in_the_pages_are_commands():
    from affnb.engine.cli import make_parser

    parser = make_parser()
    seen = 0
    for page in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        for block in re.findall(r"```bash\n(.+?)```", page.read_text(), re.S):
            for line in re.findall(r"^\.venv/bin/affnb ([^#\n]+)", block, re.M):
                parser.parse_args(shlex.split(line))
                seen += 1
        for word in re.findall(r"`affnb ([a-z]+)", page.read_text()):
            assert re.search(rf"\b{word}\b", parser.format_help()), word
        for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.M):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target
    assert seen > 9


def test_a_copy_of_core_finds_the_project_from_anywhere(tmp_path):
    "With what the notebook itself defines, in a folder that lies in no project."
    exported = [
        cell.source
        for cell in read(ROOT / "nbs" / "engine/core.ipynb").cells
        if cell.source.startswith("#| export")
    ]
    last = next(k for k, source in enumerate(exported) if "def project_root" in source)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*exported[: last + 1], "print(project_root())"])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(ROOT), done.stderr


# ---------------------------------------------------------------- the page for teachers
TEACH = (ROOT / "docs" / "teach.md").read_text()


def plan_of(session) -> str:
    "The section of the page on a session, such as 1-labels."
    return re.split(r"^## ", TEACH.split(f"\n## Session {session[0]}: ")[1], flags=re.M)[0]


def headings_of(session) -> list:
    "Of the slides in its deck, as they follow each other; summaries are none."
    title, names = SESSIONS[session]
    cells = deck(title, [read(ROOT / "nbs" / f"{name}.ipynb") for name in names]).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = re.findall(r"^## (.+)$", text, re.M)
    return [heading for heading in found if heading not in ("Summary", "Exercises")]


def named_slides(text) -> list:  # (first, last); a slide alone is both
    "Which slides a plan shows: `*a* to *b*`, or `*a*`."
    pairs = re.findall(r"\*([^*]+)\*(?: to \*([^*]+)\*)?", text)
    return [(first, last or first) for first, last in pairs]


def test_the_plan_names_slides_that_are_there_and_leaves_none_out():
    "In the order of their decks; a slide that is shown in another session is in that plan."
    decks = {session: headings_of(session) for session in SESSIONS}
    shown = {session: set() for session in SESSIONS}
    for session in SESSIONS:
        plan = plan_of(session)
        lines = re.findall(r"^\|[^|]+\| (?:.+; )?Slides.+$|^The (?:rest|last).+$", plan, re.M)
        assert len(lines) >= 2
        for first, last in named_slides(" ".join(lines)):
            of = [
                name
                for name in (session, *SESSIONS)
                if {first, last} <= set(decks[name])
                and decks[name].index(first) <= decks[name].index(last)
            ]
            assert of, f"session {session}: no deck goes from {first!r} to {last!r}"
            headings = decks[of[0]]
            shown[of[0]] |= set(headings[headings.index(first) : headings.index(last) + 1])
    for session, headings in decks.items():
        assert set(headings) == shown[session], f"in no plan: {set(headings) - shown[session]}"


def test_the_sums_on_the_board_are_right():
    import numpy as np
    from affnb.metrics import ccc, f1_binary

    assert "CCC = (2 · 2/3) / (2/3 + 2/3 + 1²) = 4/7" in TEACH
    assert ccc(np.array([0.0, 1, 2]), np.array([-1.0, 0, 1])) == pytest.approx(4 / 7)
    active = np.arange(10) < 3
    assert "F1 = 2 · 2 / (2 · 2 + 1 + 1) = 2/3" in TEACH
    found = np.isin(np.arange(10), [0, 1, 9])
    assert f1_binary(found, active) == pytest.approx(2 / 3)
    assert "F1 = 2 · 3 / (2 · 3 + 7) = 6/13" in TEACH
    assert f1_binary(np.ones(10, bool), active) == pytest.approx(6 / 13)
    share = 0.3
    assert "this is 2p / (1 + p)" in TEACH
    assert 2 * share / (1 + share) == pytest.approx(6 / 13)


def test_the_model_sentences_are_right():
    "Of exercises 1 and 2 of Metrics: they agree with what the solutions compute."
    import numpy as np

    given = {"np": np}
    for cell in read(NBS["03_metrics"]).cells:
        if tagged(cell, "solution") and cell.source.startswith(("# answer_1", "# answer_2")):
            functions = [n for n in ast.parse(cell.source).body if isinstance(n, ast.FunctionDef)]
            exec(compile(ast.Module(functions, []), "solutions", "exec"), given)
    assert "reach a CCC of 4/5" in TEACH
    assert given["answer_1"](1) == pytest.approx(4 / 5)
    assert "A coin scores p / (p + 1/2)" in TEACH
    shares = np.linspace(0.01, 0.99, 50)
    coin = np.array([given["answer_2"](p) for p in shares])
    assert coin == pytest.approx(shares / (shares + 1 / 2))
    assert (coin < 2 * shares / (1 + shares)).all()
    assert (np.diff(coin) > 0).all(), "the rarer the unit, the lower"


def test_what_the_page_says_is_asked_in_a_page_is_asked_there():
    kept = read_json(ROOT / "data" / "example" / "answers.json")
    said = re.findall(
        r"exercise (\d) of \[[^]]+\]\(\.\./nbs/([\w/]+)\.ipynb\) is asked in the page", TEACH
    )
    assert len(said) >= 3
    assert [place for place in said if place[0] not in kept[place[1]]["answers"]] == []


def test_what_a_machine_needs_is_what_the_readme_says():
    needed = "Linux, macOS or WSL, Python 3.11 to 3.14, `make`, and 6 GB of disk"
    assert needed in (ROOT / "README.md").read_text()
    assert needed in TEACH


def test_copies_are_handed_out_by_the_commands_of_the_page(tmp_path, within):
    "From one clone into another: what the archive unpacks is the folder that was packed."
    commands = [
        shlex.split(line)[1:]
        for line in re.findall(r"^\.venv/bin/python .*zipfile.*$", TEACH, re.M)
    ]
    assert len(commands) == 2
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    theirs.mkdir()
    write_course(mine / "course", ["engine/watch"])
    subprocess.run([sys.executable, *commands[0]], cwd=mine, check=True)
    (mine / "student.zip").rename(theirs / "student.zip")
    subprocess.run([sys.executable, *commands[1]], cwd=theirs, check=True)
    given = theirs / "course" / "student" / "engine" / "watch.ipynb"
    assert given.read_bytes() == (mine / given.relative_to(theirs)).read_bytes()


@pytest.mark.parametrize(
    "words, leads_to",
    [
        ([], "/lab/tree/nbs"),
        (["AT=docs"], "/lab/tree/docs"),
        (["AT=nbs/lab.ipynb"], "/lab/tree/nbs/lab.ipynb"),
        (["AT=course/studnet"], None),
    ],
)
def test_make_lab_opens_jupyterlab_where_it_is_told(words, leads_to, tmp_path):
    "With a program in JupyterLab's place, which says what it was asked for."
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "jupyter"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    (tmp_path / ".ready").touch()
    done = subprocess.run(
        ["make", "--silent", "lab", f"VENV={tmp_path}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if leads_to is None:
        assert done.returncode != 0 and "AT=course/studnet: no such folder" in done.stderr
        assert "default_url" not in done.stdout
    else:
        assert f"--LabApp.default_url={leads_to}\n" in done.stdout


def test_watch_does_not_answer_its_own_first_exercise():
    text = next(cell.source for cell in read(NBS["engine/watch"]).cells if "$2p_u/" in cell.source)
    assert not re.search(r"\.8[56]|three frames of four|AU25", text)
