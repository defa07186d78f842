"""The replication report: no number in its prose, every source named, one changed record, the same
bytes, a run of one's own, and clear refusals.
"""

import json
import re
import shutil
import sys
import time
import pytest
import typst
from affnb.claims import CLAIMS, CONTROLS
from affnb.engine.cli import main
from affnb.engine.core import AffnbError, UsageError, read_json, write_json
from affnb.engine.paper import check_published, largest_published, paper_content, rerun_command
from affnb.engine.paper import set_paper, write_paper
from affnb.engine.report import write_report
from affnb.engine.tables import own_arms, read_records, toy_labels, write_toy_table
from errors import assert_error, assert_one_line
from in_step import ROOT
from test_report import NOISE, make

TEMPLATE = ROOT / "affnb" / "engine" / "paper.typ"
NUMBER_WORDS = r"""three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen
|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety
|hundreds?|thousands?|millions?|dozens?|percent|twice|thrice""".replace("\n", "")


def typed_numbers(template: str) -> list:
    """Numbers that the prose of a template says itself. The prose begins at the line `// prose`.
    In a formula the digits 0, 1 and 2 may stand, as constants and indices; elsewhere a digit may
    only follow a letter, as in the name ABAW7 or in the key of a reference. Words for numbers
    above two are numbers.
    """
    _, line, prose = template.partition("\n// prose\n")
    assert line, "no prose"
    formulas = re.findall(r"\$[^$]*\$", prose)
    found = [f for f in formulas if re.search(r"[3-9]|\d[\d.,]*\d|\.\d", f)]
    plain = re.sub(r"\$[^$]*\$", " ", prose)
    found += re.findall(r"(?<![A-Za-z\d])\d.{,20}", plain)
    return found + re.findall(rf"\b(?:{NUMBER_WORDS})\b", plain, re.IGNORECASE)


def test_no_number_is_typed_by_hand():
    assert typed_numbers(TEMPLATE.read_text()) == []


@pytest.mark.parametrize(
    "words",
    [
        "The score is .53.",
        "It reaches 2.06 in P.",
        "Seven claims are shown.",
        "a gain of 5 %",
        "$d = .03$",
        "over $12$ units",
        "$d = 0.5$",
        '#text(size: 9pt)[x] and #said("outcome") 4',
    ],
)
def test_a_number_typed_by_hand_is_found(words):
    assert typed_numbers(f"{TEMPLATE.read_text()}\n{words}\n")


@pytest.fixture(scope="module")
def published():
    "Records, figures and content of the largest published profile."
    records, figures = largest_published(ROOT)
    read = read_records(records)
    return read, figures, paper_content(read, figures, ROOT / "_docs")


@pytest.mark.slow
def test_the_published_report_has_eight_to_twelve_pages_within_a_minute(tmp_path):
    start = time.perf_counter()
    folder, pages = write_paper(tmp_path / "paper.pdf")
    assert time.perf_counter() - start < 60
    assert folder.name == "laptop"
    assert 8 <= pages <= 12
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert [path.name for path in tmp_path.iterdir()] == ["paper.pdf"]


def test_the_template_asks_for_nothing_that_is_not_there(published):
    _, _, content = published
    text = TEMPLATE.read_text()
    for call, held in {
        "said": content["said"],
        "n": content["numbers"],
        "setting": content["settings"],
        "part": content["parts"],
        "stage": content["claims"]["findings"],
        "picture": content["figures"],
        "listing": content["tables"],
    }.items():
        asked = set(re.findall(rf'\b{call}\("([^"]+)"', text))
        assert asked, call
        assert asked <= set(held), call
    assert set(content["figures"]) == set(re.findall(r'picture\("(\w+)"', text))
    assert set(content["tables"]) == set(re.findall(r'listing\("(\w+)"', text))


def sources(content):
    "Of every table and figure of a report, its name and where it is from."
    for kind in ("tables", "figures"):
        yield from ((name, item["source"]) for name, item in content[kind].items())
    yield "claims", content["claims"]["source"]


def test_every_table_and_figure_names_notebook_records_and_command(published):
    records, _, content = published
    listed = dict(sources(content))
    assert len(listed) >= 12
    for name, source in listed.items():
        assert (ROOT / "_docs" / source["notebook"]["link"]).resolve().is_file(), name
        if name != "system":
            first = source["first"]
            assert (ROOT / "_docs" / first["link"].replace("%2B", "+")).resolve().is_file(), name
            assert (records.folder / first["words"]).is_file(), name
            assert int(source["number"].split()[0].replace(",", "")) > 0
            assert source["place"]["words"] == "data/records/laptop"
            assert source["command"].startswith(("affnb reproduce --profile laptop", "affnb luck"))


def test_the_first_page_has_the_verdicts_and_all_claims_have_a_row(published, tmp_path):
    from affnb.engine.paper import _lay_out

    _, figures, content = published
    rows = content["claims"]["rows"]
    assert sorted(row["number"] for row in rows) == sorted(number for number, *_ in CLAIMS)
    assert {row["number"] for row in rows if row["control"]} == set(sum(CONTROLS.values(), ()))
    template = _lay_out(content, figures, tmp_path)
    compiler = typst.Compiler(str(template), root=str(tmp_path), ignore_system_fonts=True)
    _, warnings = compiler.compile_with_warnings(format="pdf")
    assert [str(warning) for warning in warnings] == []
    asked = compiler.query("<verdict-pages>", field="value", one=True)
    assert re.sub(r"\s", "", asked) == "[1]"


def test_the_command_names_what_a_run_changed():
    record = read_json(ROOT / "data" / "records" / "smoke" / "arm-joint-seed0.json")
    changes = dict(temporal="lstm", seeds=[3, 4], device="cuda", fused=["AU"])
    config = record["config"] | changes
    assert rerun_command(record | dict(config=config)) == (
        "affnb reproduce --profile smoke --set fused=AU --set temporal=lstm --seeds 3,4"
    )
    assert rerun_command(record | dict(source="real"), "fusion_pairs").endswith(
        "--data DIR --only table_fusion"
    )


def own_table(folder, *names):
    "Records of tables of one's own, in each an arm `mine` beside one that is published."
    folder.mkdir()
    for name in names:
        noises = {"mine": 0.8, "progressive": 1.0}
        pairs = [["mine", "progressive"]]
        write_toy_table(folder, name, noises, pairs, labels=toy_labels(12), seeds=1)
        path = folder / f"table-{name}-seed0.json"
        record = read_json(path)
        record["arms"][0]["change"] = dict(fusion="gate", fused=[], window=15)
        write_json(path, record)
    return folder


def commands_in(content):
    "Every command by which a report says that something of it is made again."
    origins = [item["source"] for item in (*content["compared"], *content["tables"].values())]
    return {source["command"] for source in [*origins, content["settings_source"]]}


def test_the_report_of_one_table_says_how_to_make_this_table(tmp_path):
    content = content_of(own_table(tmp_path / "records", "mine"), tmp_path / "figures")
    command = "affnb reproduce --profile toy --only table_mine"
    assert [table["name"] for table in content["compared"]] == ["mine_pairs"]
    assert commands_in(content) == {command}
    assert content["commands"][0]["command"] == command


def test_the_report_of_two_tables_makes_each_of_them(tmp_path):
    content = content_of(own_table(tmp_path / "records", "mine", "other"), tmp_path / "figures")
    one, other = (
        f"affnb reproduce --profile toy --only table_{name}" for name in ("mine", "other")
    )
    assert commands_in(content) == {one, other, f"{one} && {other}"}
    assert [line["command"] for line in content["commands"][:2]] == [one, other]


def words_of(value) -> str:
    "The words in what typst says of its content."
    if isinstance(value, list):
        return "".join(map(words_of, value))
    if isinstance(value, dict):
        kept = ("text", "body", "children", "child")
        inner = "".join(words_of(value[key]) for key in kept if key in value)
        return " " if value["func"] == "space" else inner
    return value


def prose_of(content, figures, place) -> str:
    "The paragraphs of a report, one on each line."
    from affnb.engine.paper import _lay_out

    place.mkdir()
    template = _lay_out(content, figures, place)
    compiler = typst.Compiler(str(template), root=str(place), ignore_system_fonts=True)
    compiler.compile(format="pdf")
    return "\n".join(words_of(part) for part in json.loads(compiler.query("par")))


def test_a_report_without_claims_says_so_from_the_abstract_on(published, tmp_path):
    content = content_of(own_table(tmp_path / "records", "mine"), tmp_path / "figures")
    prose = prose_of(content, tmp_path / "figures", tmp_path / "set")
    assert "tests each claim" not in prose
    assert "It tests no claim" in prose
    assert "no claim is tested here" in prose
    _, figures, content = published
    prose = prose_of(content, figures, tmp_path / "whole")
    assert "tests each claim" in prose
    assert "tests no claim" not in prose
    assert "too few arms" not in prose


def with_settings(folder, **settings):
    "Records of one table, made with other settings."
    own_table(folder, "mine")
    path = folder / "table-mine-seed0.json"
    record = read_json(path)
    write_json(path, record | dict(config=record["config"] | settings))
    return folder


def test_a_zero_that_is_no_amount_is_said_in_words(tmp_path):
    zeros = dict(mae_epochs=0, epoch_frames=0, head_epoch_frames=0, width=0, patch_size=0)
    settings = zeros | dict(epochs=20, head_epochs=1, depth=-1, head_share=0.0)
    content = content_of(with_settings(tmp_path / "records", **settings), tmp_path / "figures")
    prose = prose_of(content, tmp_path / "figures", tmp_path / "set")
    assert not re.search(r"\b0 (epochs?|frames?|pixels)|width of 0|depth of -1", prose)
    for words in (
        "Encoders train for 20 epochs of all frames that they may learn from",
        "the autoencoder not at all: its weights are used as they come",
        "heads for 1 epoch of as many frames as they may learn from",
        "patch, width and depth as this name says",
        "this run sets none aside",
    ):
        assert words in prose, words
    assert "no person is in two groups" not in prose


def test_an_amount_is_said_as_a_number(tmp_path):
    settings = dict(mae_epochs=2, epochs=4, epoch_frames=8000, head_epochs=6, head_share=0.2)
    settings |= dict(head_epoch_frames=9000, patch_size=8, width=96, depth=0)
    content = content_of(with_settings(tmp_path / "records", **settings), tmp_path / "figures")
    prose = prose_of(content, tmp_path / "figures", tmp_path / "set")
    for words in (
        "Encoders train for 4 epochs of 8,000 frames, the autoencoder for 2 epochs, heads for"
        " 6 epochs of 9,000 frames.",
        "patches of 8 pixels, a width of 96 and a depth of 0 (its stem alone)",
        "no person is in two groups",
    ):
        assert words in prose, words


def test_the_arms_of_one_table_are_explained_below_it(tmp_path):
    (tmp_path / "records").mkdir()
    noises = {"joint+heads": 1.0, "gru@5": 0.9, "gru@5 shuffled": 0.9}
    pairs = [["gru@5", "joint+heads"], ["gru@5", "gru@5 shuffled"]]
    write_toy_table(tmp_path / "records", "temporal", noises, pairs, labels=toy_labels(12))
    content = content_of(tmp_path / "records", tmp_path / "figures")
    (table,) = content["compared"]
    assert "shuffled: the same window without its order." in table["arms"]
    assert "@1" not in table["arms"], "no arm of this table"
    assert "#of.arms" in TEMPLATE.read_text()
    assert "joint+heads" in TEMPLATE.read_text().partition("// prose")[2]


def test_a_report_names_no_folder_of_its_author(tmp_path, monkeypatch):
    folder = own_table(tmp_path / "records", "mine")
    content = content_of(folder, tmp_path / "figures")
    last = f"…/{tmp_path.parent.name}/{tmp_path.name}/records"
    assert content["records"]["place"]["words"] == last
    assert str(tmp_path) not in json.dumps(content)
    monkeypatch.chdir(tmp_path)
    content = paper_content(read_records(folder), tmp_path / "figures", folder)
    assert content["records"]["place"]["words"] == "records"
    assert content["commands"][-1]["command"] == "affnb paper --records records"


def test_an_arm_of_ones_own_is_defined_by_what_it_changes(tmp_path):
    content = content_of(own_table(tmp_path / "records", "mine"), tmp_path / "figures")
    words = "(fusion=gate, fused=nothing, window=15)"
    assert f"mine {words}" in content["own_arms"]
    assert "progressive" not in content["own_arms"]
    assert "#paper.own_arms" in TEMPLATE.read_text()
    for name in ("table_mine", "table_mine_pairs"):
        assert f"`mine` {words}" in read_json(tmp_path / f"figures/{name}.json")["caption"]
        assert "`progressive`" not in read_json(tmp_path / f"figures/{name}.json")["caption"]


@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_arms_that_are_published_are_explained_elsewhere(profile):
    records = read_records(ROOT / "data" / "records" / profile)
    assert own_arms(records, records.tables) == ""
    assert rerun_command(records.first, "", records) == f"affnb reproduce --profile {profile}"
    assert records.alone == [], "a whole run"


# ---------------------------------------------------------------- one changed record
ARMS = ("scratch", "separate", "joint", "progressive", "trivial", "pixels")


def content_of(folder, place):
    "What a report of these records says, with tables and figures made anew."
    write_report(folder, place)
    return paper_content(read_records(folder), place, folder)


def leaves(value, path=()):
    "Every number, text and flag of nested dictionaries and lists, by its place."
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def differing(one, other):
    "The places at which two reports differ."
    before = dict(leaves(one))
    after = dict(leaves(other))
    return {path for path in before | after if before.get(path) != after.get(path)}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "Records of a small run, and what its report says."
    folder = tmp_path_factory.mktemp("small") / "records"
    make(folder, ARMS, (0, 1))
    return folder, content_of(folder, folder.parent / "figures")


@pytest.mark.slow
def test_a_changed_record_changes_what_depends_on_it(small, tmp_path):
    folder, before = small
    records = tmp_path / "records"
    shutil.copytree(folder, records)
    path = records / "train-joint-seed0.json"
    write_json(path, read_json(path) | dict(seconds=4000.0))
    moved = paper_content(read_records(folder), folder.parent / "figures", records)
    after = content_of(records, tmp_path / "figures")
    changed = differing(before, after) - differing(before, moved)
    changed = {path for path in changed if "source" not in path and "link" not in path}
    changed -= {path for path in changed if path[0] in ("records", "commands", "settings_source")}
    row = [row[0] for row in before["tables"]["cost"]["rows"]].index("joint")
    column = before["tables"]["cost"]["columns"].index("seconds")
    assert changed == {("tables", "cost", "rows", row, column), ("said", "cost")}


def test_another_score_changes_its_row_and_no_other_arm(small, tmp_path):
    folder, before = small
    records = tmp_path / "records"
    make(records, ARMS, (0, 1), noise=NOISE | dict(scratch=0.85), extras=False)
    after = content_of(records, tmp_path / "figures")
    rows = [{r[0]: r for r in c["tables"]["headline"]["rows"]} for c in (before, after)]
    assert rows[0]["scratch"] != rows[1]["scratch"]
    for arm in ("separate", "joint", "progressive"):
        assert rows[0][arm] == rows[1][arm]
    for name in ("numbers", "settings", "title", "kind", "versions"):
        assert before[name] == after[name], name
    pairs = [
        {(r[0], r[1]): r for c in content["compared"] for r in c["rows"]}
        for content in (before, after)
    ]
    assert pairs[0]["joint", "scratch"] != pairs[1]["joint", "scratch"]
    assert pairs[0]["separate", "joint"][2]["words"] == pairs[1]["separate", "joint"][2]["words"]


def test_the_same_records_give_the_same_bytes(small, tmp_path):
    folder, content = small
    for name in ("one", "other"):
        set_paper(content, folder.parent / "figures", tmp_path / name / "paper.pdf")
    assert (tmp_path / "one/paper.pdf").read_bytes() == (tmp_path / "other/paper.pdf").read_bytes()
    set_paper(content | dict(author="A. Student"), folder.parent / "figures", tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes() != (tmp_path / "one/paper.pdf").read_bytes()


def test_tables_that_are_not_those_of_the_records_are_refused(small, tmp_path):
    folder, _ = small
    check_published(read_records(folder), folder.parent / "figures")
    make(tmp_path / "records", ARMS, (0, 1), noise=NOISE | dict(joint=0.69), extras=False)
    with pytest.raises(AffnbError) as caught:
        check_published(read_records(tmp_path / "records"), folder.parent / "figures")
    table = folder.parent / "figures" / "table_headline.csv"
    assert_error(caught, table, ["joint", "AU"], "affnb report")


# ---------------------------------------------------------------- a run of one's own
def a_task(folder):
    return make(folder, ARMS, (0,), tasks=("EXPR",), extras=False)


def real_faces(folder):
    return make(folder, ARMS, (0, 1), source="real", extras=False)


def a_table(folder):
    noises = {"layers-only": 1.0, "sum:AU+EXPR+VA": 0.8}
    pairs = [["sum:AU+EXPR+VA", "layers-only"]]
    folder.mkdir()
    write_toy_table(folder, "fusion", noises, pairs, labels=toy_labels(12))
    return folder


@pytest.mark.parametrize("run", [a_task, real_faces, a_table], ids=lambda run: run.__name__)
def test_a_run_of_ones_own_has_a_report(run, tmp_path, capsys):
    records = run(tmp_path / "records")
    out = tmp_path / "report.pdf"
    assert main(["paper", str(out), "--records", str(records), "--author", "A. Student"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"report\.pdf: \d+ pages", said)
    assert out.read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "report.pdf"]


def test_no_face_of_a_person_is_in_a_report(tmp_path):
    made = content_of(real_faces(tmp_path / "records"), tmp_path / "figures")
    assert "video" not in made["figures"]
    assert made["tables"]["headline"]["source"]["command"].count("--data DIR") == 1


@pytest.mark.nightly
def test_the_records_of_smoke_have_a_report(tmp_path):
    folder, pages = write_paper(tmp_path / "paper.pdf", ROOT / "data" / "records" / "smoke")
    assert folder.name == "smoke"
    assert 8 <= pages <= 12


# ---------------------------------------------------------------- refusals
def test_what_cannot_be_done_is_one_line(small, tmp_path, capsys, monkeypatch):
    folder, _ = small
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.pdf").mkdir()
    out = tmp_path / "paper.pdf"
    for words, code, facts in [
        ([out, "--records", tmp_path / "nowhere"], 1, ["nowhere", "affnb reproduce"]),
        ([out, "--records", tmp_path / "empty"], 1, ["empty", "affnb reproduce"]),
        ([tmp_path / "paper.docx", "--records", folder], 2, ["paper.docx", ".pdf"]),
        ([tmp_path / "folder.pdf", "--records", folder], 1, ["folder.pdf"]),
        ([tmp_path / "file" / "paper.pdf", "--records", folder], 1, ["file", "cannot be"]),
        ([out, "--recrods", folder], 2, ["--recrods"]),
    ]:
        assert main(["paper", *map(str, words)]) == code, words
        assert_one_line(capsys.readouterr().err, *facts)
    monkeypatch.setitem(sys.modules, "typst", None)
    assert main(["paper", str(out), "--records", str(folder)]) == 1
    assert_one_line(capsys.readouterr().err, "typst", 'pip install -e ".[paper]" in the clone')
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "folder.pdf"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_is_no_pdf_is_refused_before_the_work(tmp_path):
    with pytest.raises(UsageError) as caught:
        write_paper(tmp_path / "paper", tmp_path / "nowhere")
    assert_error(caught, tmp_path / "paper", "PDF", ".pdf")
