"""`affnb score` beside other tools and by group: tables with the very columns that py-feat,
OpenFace, LibreFace and `affnb predict` write, scores held against scikit-learn, intervals against
loops.
"""

import json
import re
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from affnb.compare import LEAST_VIDEOS
from affnb.engine.cli import main
from affnb.engine.core import AU_NAMES, EXPRESSIONS, AffnbError
from affnb.engine.data import read_annotations, write_rows
from affnb.engine.lists import LABEL_COLUMNS
from affnb.engine.scoring import (
    group_lines,
    match_files,
    match_pictures,
    read_groups,
    read_tool,
    score_files,
    score_groups,
    tool_meaning,
)
from affnb.metrics import interval, resample_counts, score, score_from_statistics
from affnb.metrics import video_statistics
from errors import assert_error, assert_one_line
from in_step import ROOT

LONDON = ROOT.parent / "shared" / "london-faces"
PEOPLE = [f"{k:03d}" for k in range(16)]
IMAGES = [f"{person}/{k:05d}.jpg" for person in PEOPLE for k in (1, 2, 3)]

# as py-feat's feat/utils and feat/multitask name them
FEAT_UNITS = [1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43]
FEAT_BOX = ["FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"]
FEAT_1 = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
FEAT_2 = ["Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger"]
# as OpenFace's wiki and RecorderCSV.cpp do
FACE_GRADED = [1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45]
FACE_PRESENT = sorted([*FACE_GRADED, 28])
# as LibreFace's README_pypi.rst does
LIBRE_PRESENT = [1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24]
LIBRE_GRADED = [1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26]


@pytest.fixture
def labels():
    "Labels of sixteen people, three pictures each; two expressions and some units are missing."
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.integers(0, 2, (48, 12)), columns=list(AU_NAMES)).astype(float)
    table.insert(0, "expression", rng.permutation(np.arange(48) % 8).astype(float))
    table.insert(0, "arousal", rng.uniform(-1, 1, 48).round(3))
    table.insert(0, "valence", rng.uniform(-1, 1, 48).round(3))
    table.loc[3, "AU1"] = table.loc[7, "expression"] = np.nan
    return table.assign(image=IMAGES)


@pytest.fixture
def truth(labels, tmp_path):
    write_rows(tmp_path / "truth.txt", labels)
    return tmp_path / "truth.txt"


@pytest.fixture
def guesses(labels):
    "Predictions that know something."
    rng = np.random.default_rng(2)
    made = labels.fillna(0)
    for name in AU_NAMES:
        made[name] = np.where(rng.random(48) < 0.8, made[name], 1 - made[name])
    made["expression"] = np.where(rng.random(48) < 0.7, made["expression"], rng.integers(0, 7, 48))
    return made


def unit(row, number, grade=0.0):
    return row.get(f"AU{number}", grade)


def write_py_feat(path, made, emotions=FEAT_1, values=()):
    rows = []
    for number, row in enumerate(made.to_dict("records")):
        name = EXPRESSIONS[int(row["expression"])].lower()
        cells = dict(zip(FEAT_BOX, (10, 10, 80, 90, 0.99))) | {"x_0": 1.5, "Pitch": 2.0, "X": 0.0}
        cells |= {f"AU{n:02d}": unit(row, n) for n in FEAT_UNITS}
        cells |= {word: float(name.startswith(word.lower()[:3])) for word in emotions}
        cells |= {value: row[value] for value in values}
        cells |= dict(input=f"/home/me/crops/{row['image']}", frame=number, Identity_1=0.1)
        rows.append(cells)
    pd.DataFrame(rows).to_csv(path)
    return path


def write_openface(folder, made):
    graded = [f"AU{n:02d}_r" for n in FACE_GRADED]
    present = [f"AU{n:02d}_c" for n in FACE_PRESENT]
    header = ", ".join(["face, confidence, gaze_0_x, x_0, X_0", *graded, *present])
    for row in made.to_dict("records"):
        # of another opinion than presence, as OpenFace's wiki warns
        cells = [0, 0.975, 0.1, 300.5, -3.1, *(5 - 5 * unit(row, n) for n in FACE_GRADED)]
        cells += [unit(row, n) for n in FACE_PRESENT]
        path = folder / row["image"].replace(".jpg", ".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{header}\n{', '.join(map(str, cells))}\n")
    return folder


def write_libreface(folder, made):
    for row in made.to_dict("records"):
        cells = dict(facial_expression=EXPRESSIONS[int(row["expression"])], pitch=1.0)
        cells["facial_expression"] = cells["facial_expression"].replace("Other", "Contempt")
        cells |= dict(yaw=0.5, roll=0.1, lm_mp_0_x=0.5)
        cells |= {f"au_{n}": int(unit(row, n)) for n in LIBRE_PRESENT}
        cells |= {f"au_{n}_intensity": 0.9 + 2 * unit(row, n, 0) for n in LIBRE_GRADED}
        path = folder / row["image"].replace(".jpg", ".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([cells]).to_csv(path, index=False)
    return folder


def f1_of(labels, guesses, units):
    "Mean F1 of units, by scikit-learn."
    each = []
    for name in units:
        known = labels[name].notna()
        each.append(f1_score(labels[name][known], guesses[name][known], zero_division=0))
    return np.mean(each)


def said(notes, *facts):
    line = next(note for note in notes if note.startswith(facts[0]))
    for fact in facts[1:]:
        assert fact in line, line
    return line


def test_columns_are_found_by_their_names():
    header = [*FEAT_BOX, *(f"AU{n:02d}" for n in FEAT_UNITS), *FEAT_1, *FEAT_2, "x_0", "Z_67"]
    meanings = list(map(tool_meaning, header))
    assert set(AU_NAMES) < set(meanings)
    assert set(EXPRESSIONS) - set(meanings) == {"Other"}
    assert meanings[-2:] == [None, None]
    assert tool_meaning(" AU07_r") == tool_meaning("au_7_intensity") == "AU7 intensity"
    assert tool_meaning(" AU07_c") == tool_meaning("au_7") == tool_meaning("AU7 lid tightener")
    assert [tool_meaning(name) for name in ("audio", "au", "AU_x", "au1234")] == [None] * 4


def test_py_feat(labels, guesses, truth, tmp_path):
    "Twelve units, seven expressions: pictures labelled Other are left out, and that is said."
    found = score_files(write_py_feat(tmp_path / "feat.csv", guesses), truth)
    assert found["AU"] == pytest.approx(f1_of(labels, guesses, AU_NAMES))
    kept = labels["expression"].notna() & (labels["expression"] != 7)
    asked = guesses.assign(expression=guesses["expression"].replace(7, 0))  # no column: the first
    each = f1_score(
        labels["expression"][kept], asked["expression"][kept], labels=range(7), average=None
    )
    assert found["EXPR_per_class"][:7] == pytest.approx(each)
    assert found["EXPR_per_class"][7] is None
    assert found["EXPR"] == pytest.approx(each.mean())
    assert found["P"] is None
    lost = int((labels["expression"] == 7).sum())
    said(found["notes"], "EXPR:", "7 of the eight", "without Other", f"left out: {lost}", "not the")
    said(found["notes"], "not scored", "valence, arousal", "not predicted")
    said(found["notes"], "no label for", "AU5, AU9, AU11", "AU43", "7 other columns")
    said(found["notes"], "answered: 48 of 48")


def test_py_feat_2_has_valence_and_arousal(labels, guesses, truth, tmp_path):
    path = write_py_feat(tmp_path / "feat.csv", guesses, FEAT_2, ("valence", "arousal"))
    found = score_files(path, truth)
    assert found["VA"] == pytest.approx(1)
    first = score_files(write_py_feat(tmp_path / "feat1.csv", guesses), truth)
    # with equal probabilities, columns in another order say the same
    assert found["EXPR"] == pytest.approx(first["EXPR"])


def test_openface(labels, guesses, truth, tmp_path):
    "A file per picture and eleven units; where presence and intensity disagree, presence counts."
    found = score_files(write_openface(tmp_path / "openface", guesses), truth)
    units = [name for name in AU_NAMES if name != "AU24"]
    assert found["AU"] == pytest.approx(f1_of(labels, guesses, units))
    assert found["AU_per_unit"][AU_NAMES.index("AU24")] is None
    assert (found["EXPR"], found["VA"], found["P"]) == (None, None, None)
    line = said(found["notes"], "AU: the mean over 11 of the twelve", "not the challenge's score")
    assert re.findall(r"AU\d+", line) == units
    said(found["notes"], "not scored", "expression, AU24")
    said(found["notes"], "no label for", "AU45", "4 other columns")


def test_libreface(labels, guesses, truth, tmp_path):
    "All twelve units, two of them intensities only; contempt is one of the challenge's Other."
    guesses.loc[0, "expression"] = 7
    found = score_files(write_libreface(tmp_path / "libreface", guesses), truth)
    assert found["AU"] == pytest.approx(f1_of(labels, guesses, AU_NAMES))
    known = labels["expression"].notna()
    assert found["EXPR"] == pytest.approx(
        f1_score(labels["expression"][known], guesses["expression"][known], average="macro")
    )
    said(found["notes"], "read from intensities", "AU25, AU26", "present from 1 of 5")
    said(found["notes"], "contempt", "Other")
    older = pd.DataFrame(dict(input_image_path=["x/000/00001.jpg"], au_25_intensity=[0.99]))
    older.to_csv(tmp_path / "older.csv")
    assert read_tool(tmp_path / "older.csv").table["AU25"].tolist() == [0]


def test_no_face_is_no_answer(labels, guesses, truth, tmp_path):
    "Empty cells, `success` 0 and a missing row: counted and named, and the rest is scored."
    path = write_py_feat(tmp_path / "feat.csv", guesses)
    table = pd.read_csv(path)
    table.loc[1, [name for name in table if name.startswith("AU")] + FEAT_1 + FEAT_BOX] = np.nan
    table["success"] = (np.arange(48) != 2).astype(int)
    table[3:].to_csv(path, index=False)
    table.drop(index=0).to_csv(path, index=False)
    found = score_files(path, truth)
    assert found["AU"] == pytest.approx(f1_of(labels[3:], guesses[3:], AU_NAMES))
    said(found["notes"], "answered: 45 of 48", *IMAGES[:3])
    table.assign(success=0).to_csv(path, index=False)
    with pytest.raises(AffnbError) as error:
        score_files(path, truth)
    assert_error(error, path, "no face")


def test_a_model_that_was_switched_off_is_not_predicted(guesses, truth, tmp_path):
    "As with py-feat's emotion_model=None: the columns are there, and empty."
    path = write_py_feat(tmp_path / "feat.csv", guesses)
    pd.read_csv(path).assign(**dict.fromkeys(FEAT_1, np.nan)).to_csv(path, index=False)
    found = score_files(path, truth)
    assert found["EXPR"] is None
    assert found["AU"] is not None


@pytest.mark.parametrize("box", [True, False])
def test_of_several_faces_one_is_scored(labels, guesses, truth, tmp_path, box):
    "The largest, or without a box the surest; how many pictures had several is said."
    path = write_py_feat(tmp_path / "feat.csv", guesses)
    table = pd.read_csv(path)
    passer_by = table[:5].assign(**{f"AU{n:02d}": 1 for n in FEAT_UNITS})
    passer_by = passer_by.assign(FaceRectWidth=20, FaceScore=0.6)
    table = pd.concat([passer_by, table])
    if not box:
        table = table.drop(columns=["FaceRectWidth"])
    table.to_csv(path, index=False)
    found = score_files(path, truth)
    assert found["AU"] == pytest.approx(f1_of(labels, guesses, AU_NAMES))
    said(found["notes"], "pictures of several faces: 5", "largest" if box else "confidence")


def test_units_of_ones_own_may_be_fewer_than_twelve(labels, guesses, truth, tmp_path):
    "A table with the column `image` and some units is no submission, and is not refused."
    columns = ["image", "AU12", "AU6"]
    guesses[columns].to_csv(tmp_path / "mine.csv", index=False)
    found = score_files(tmp_path / "mine.csv", truth)
    assert found["AU"] == pytest.approx(f1_of(labels, guesses, ["AU6", "AU12"]))
    assert found["P"] is None
    said(found["notes"], "AU: the mean over 2 of the twelve units, AU6, AU12")


def test_pictures_are_matched_by_the_end_of_their_path():
    images = ["a/001/1.jpg", "001/1.png", "002/2.jpg"]
    assert match_pictures(["/x/a/001/1", "y/001/1", "z/2"], images, "") == {
        "/x/a/001/1": "a/001/1.jpg",
        "y/001/1": "001/1.png",
    }
    assert match_pictures(["z/2", "other"], images, "") == {"z/2": "002/2.jpg"}
    for pictures, facts in (
        (["out/1"], ["out/1", "a/001/1.jpg", "001/1.png"]),
        (["x/002/2", "y/002/2"], ["x/002/2", "y/002/2", "both"]),
        (["001_neutral"], ["001_neutral"]),
    ):
        with pytest.raises(AffnbError) as error:
            match_pictures(pictures, images, "table.csv")
        assert_error(error, "table.csv", facts)
    with pytest.raises(AffnbError) as error:
        match_pictures(["1"], ["p/1.jpg", "p/1.png"], "table.csv")
    assert_error(error, "table.csv", "p/1.png")


def test_pictures_without_a_label_are_counted(guesses, truth, tmp_path):
    others = guesses.assign(image=["new" + name for name in IMAGES])
    path = write_py_feat(tmp_path / "feat.csv", pd.concat([others[:7], guesses]))
    found = score_files(path, truth)
    assert found["extra"] == 7
    said(found["notes"], "without a label", "7", "new000/00001")


@pytest.mark.parametrize(
    "text, place, facts",
    [
        ("input,AU12\np/1.jpg,3\n", ", row 2", ["AU12", "3", "[0, 1]"]),
        ("input,AU12\np/1.jpg,x\n", ", row 2", ["AU12", "x"]),
        ("input,valence\np/1.jpg,1.2\n", ", row 2", ["valence", "1.2"]),
        ("input,AU12,AU06\np/1.jpg,1,0\np/2.jpg,,1\n", ", row 3", ["AU12", "empty"]),
        ("input,facial_expression\np/1.jpg,Hapy\n", ", row 2", []),
        ("input,AU12,AU12_c\np/1.jpg,1,1\n", "", ["two columns", "AU12", "AU12_c"]),
        ("input,AU12\n,1\n", ", row 2", ["input", "empty"]),
        ("input,frame,AU12\nf.mp4,0,1\nf.mp4,1,1\n", ", row 2", ["f", "2", "film"]),
        ("input,AU45\np/1.jpg,1\n", "", ["nothing"]),
        ("input,happiness\np/1.jpg,1\n", "", ["nothing"]),  # one of eight has no threshold
        ("input,AU12\n", "", ["no face"]),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_with_its_row(tmp_path, text, place, facts):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(AffnbError) as error:
        read_tool(path)
    assert_error(error, problem=facts, remedy=None)
    assert error.value.where.startswith(f"{path}{place}")


def test_a_folder_holds_tables_of_one_tool(guesses, truth, tmp_path):
    folder = write_openface(tmp_path / "openface", guesses[:3])
    (folder / "._000.csv").write_bytes(b"\0\1")  # of a Mac, no table
    (folder / "000_of_details.txt").write_text("Output csv: 000.csv")
    assert len(read_tool(folder).table) == 3
    (folder / "other.csv").write_text("input,AU12\nx.jpg,1\n")
    with pytest.raises(AffnbError) as error:
        score_files(folder, truth)
    assert_error(error, folder / "other.csv", "columns")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AffnbError) as error:
        score_files(tmp_path / "empty", truth)
    assert_error(error, tmp_path / "empty", "no CSV")


def test_what_is_not_labelled_cannot_be_scored(labels, guesses, truth, tmp_path):
    alone = labels.assign(**dict.fromkeys(LABEL_COLUMNS[:2] + AU_NAMES, np.nan))
    write_rows(truth, alone)
    folder = write_openface(tmp_path / "openface", guesses[:6])
    with pytest.raises(AffnbError) as error:
        score_files(folder, truth)
    assert_error(error, folder, "AU1", "expression")
    # two of eight expressions are labelled: the highest EXPR that there can be is said
    write_rows(truth, alone.assign(expression=np.where(np.arange(48) % 3, 0, 4)))
    found = score_files(write_libreface(tmp_path / "libreface", guesses[:6]), truth)
    said(found["notes"], "EXPR: at most 0.2500", "6 of these")


@pytest.mark.slow
def test_the_table_of_affnb_predict(labels, truth, tmp_path, capsys):
    "A model's own answers to pictures, read from the file that `affnb predict` writes."
    from test_predict import small_model

    model, about = small_model()
    model.save_pretrained(tmp_path / "model", config=about)
    for number, image in enumerate(IMAGES[:12]):
        path = tmp_path / "crops" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * number, 90, 60)).save(path)
    words = ["predict", tmp_path / "model", tmp_path / "crops", "--aligned"]
    assert main([*map(str, words), "-o", str(tmp_path / "answers.csv")]) == 0
    capsys.readouterr()
    assert main(["score", str(tmp_path / "answers.csv"), str(truth), "--json"]) == 0
    printed = capsys.readouterr()
    assert "answered: 12 of 48" in printed.err
    scores = json.loads(printed.out)
    table = pd.read_csv(tmp_path / "answers.csv")
    units = [column for column in table if column.startswith("AU")]
    made = pd.DataFrame((table[units] >= 0.5).to_numpy(), columns=list(AU_NAMES))
    assert scores["AU"] == pytest.approx(f1_of(labels[:12], made, AU_NAMES))
    assert all(isinstance(scores[name], float) for name in ("P", "VA", "EXPR"))


# -- groups ----------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path):
    table = pd.DataFrame(dict(person=PEOPLE, age=range(20, 36), gender=["female", "male"] * 8))
    table.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


@pytest.fixture
def answers(guesses, truth, tmp_path):
    write_rows(tmp_path / "submission.txt", guesses.assign(valence=guesses["valence"] / 2))
    answers = match_files(tmp_path / "submission.txt", truth)
    assert answers.notes == (), "of a submission there is nothing to be said"
    return answers


def part_of(answers, chosen):
    "The rows of some people, one after the other, as `score` takes them."
    rows = np.concatenate([np.flatnonzero(np.array(answers.people) == p) for p in chosen])
    parts = (answers.guesses, answers.targets, answers.masks)
    return [{task: values[rows] for task, values in part.items()} for part in parts]


def test_scores_and_intervals_of_groups_are_those_of_their_people(answers, people):
    "Each score is that of the group's rows alone; each interval that of stacking who was drawn."
    groups = read_groups(f"{people}:gender")
    found = score_groups(answers, groups)
    for seed, group in enumerate(("female", "male")):
        own = sorted(groups.index[groups == group])
        alone = score(*part_of(answers, own))
        drawn = [
            score(*part_of(answers, np.repeat(own, row)))
            for row in resample_counts(8, 2000, seed)[:200].astype(int)
        ]
        sums = video_statistics(answers.guesses, answers.targets, answers.masks, answers.people)
        sums = pd.DataFrame(sums.values, sums.names).loc[own].to_numpy()
        fast = score_from_statistics(resample_counts(8, 2000, seed).astype(float) @ sums)
        rows = {row["metric"]: row for row in found.rows if row["group"] == group}
        assert set(rows) == {"P", "VA", "CCC_valence", "CCC_arousal", "EXPR", "AU"}
        for metric, row in rows.items():
            assert row["score"] == pytest.approx(alone[metric], abs=1e-6)
            assert fast[metric][:200] == pytest.approx([one[metric] for one in drawn], abs=1e-9)
            ends = interval(alone[metric], fast[metric])
            assert (row["low"], row["high"]) == pytest.approx(ends, abs=1e-9)
            assert row["people"] == 8


def test_groups_are_drawn_apart_and_the_gap_has_an_interval(labels, guesses, truth, tmp_path):
    "Two groups of equal answers: the gap is 0, and its interval is not (it would be, drawn alike)."
    again = [labels[:24], labels[:24].assign(image=IMAGES[24:])]
    write_rows(truth, pd.concat(again))
    made = [guesses[:24], guesses[:24].assign(image=IMAGES[24:])]
    write_rows(tmp_path / "mine.txt", pd.concat(made))
    halves = pd.DataFrame(dict(subject=PEOPLE, half=["first"] * 8 + ["second"] * 8))
    halves.to_csv(tmp_path / "halves.csv", index=False)
    answers = match_files(tmp_path / "mine.txt", truth)
    found = score_groups(answers, read_groups(f"{tmp_path}/halves.csv:half"))
    gaps = [row for row in found.gaps if row["metric"] in ("EXPR", "AU")]
    assert len(gaps) == 2
    for row in gaps:
        assert row["gap"] == pytest.approx(0, abs=1e-6)
        assert row["low"] < -0.01 < 0.01 < row["high"]
        assert row["level"] == 0.95


def test_a_gap_that_was_picked_is_corrected_for_it(answers, tmp_path, people):
    thirds = pd.DataFrame(dict(person=PEOPLE, third=[*"aaaaaa", *"bbbbb", *"ccccc"]))
    thirds.to_csv(people, index=False)
    found = score_groups(answers, read_groups(f"{people}:third"))
    assert not found.gaps, "one group of six alone"
    bare = [row for row in found.rows if row["low"] is None]
    assert {row["group"] for row in bare} == {"b", "c"}
    assert all(row["people"] < LEAST_VIDEOS and row["score"] is not None for row in bare)
    lines = group_lines(found, "third")
    assert any(line.startswith("no interval") for line in lines)
    # three groups that are large enough
    rng = np.random.default_rng(5)
    images = [f"{k:03d}/1.jpg" for k in range(24)]
    true = pd.DataFrame(-1.0, range(24), list(LABEL_COLUMNS)).assign(image=images, arousal=-5)
    true["valence"] = rng.uniform(-1, 1, 24)
    write_rows(tmp_path / "truth.txt", true)
    write_rows(tmp_path / "mine.txt", true.assign(valence=rng.uniform(-1, 1, 24)))
    pd.DataFrame(dict(person=[f"{k:03d}" for k in range(24)], age=range(24))).to_csv(
        people, index=False
    )
    answers = match_files(tmp_path / "mine.txt", tmp_path / "truth.txt")
    of_three = score_groups(answers, read_groups(f"{people}:age:8,16"))
    (gap,) = of_three.gaps
    assert gap["level"] == pytest.approx(1 - 0.05 / 3)
    values = {row["group"]: row["score"] for row in of_three.rows}
    assert list(values) == ["below 8", "8 to below 16", "16 and above"]
    assert {row["people"] for row in of_three.rows} == {8}, "an edge begins the upper group"
    assert gap["gap"] == pytest.approx(max(values.values()) - min(values.values()), abs=1e-6)
    assert "98.3%" in group_lines(of_three, "age")[-1]


def test_what_groups_do_not_share_is_said(answers, people):
    "Without a label of an expression its F1 counts 0, whatever the system does."
    missing = np.isin(answers.people, PEOPLE[::2]) & (answers.targets["EXPR"] == 3)
    answers.masks["EXPR"][missing] = False
    found = score_groups(answers, read_groups(f"{people}:gender"))
    said(found.notes, "female: no label of Fear", "counts 0 there")


def test_who_is_in_no_group_is_named(answers, people):
    table = pd.read_csv(people, dtype=str)
    table.loc[2, "gender"] = "NA"
    table[1:].to_csv(people, index=False)
    found = score_groups(answers, read_groups(f"{people}:GENDER"))
    assert {row["people"] for row in found.rows} == {6, 8}
    said(found.notes, "in no group", PEOPLE[0], PEOPLE[2])


@pytest.mark.parametrize(
    "by, text, facts",
    [
        ("", "", ["column"]),
        (":gendre", "person,gender\n1,f\n", ["gendre", "gender"]),
        (":gender", "who,gender\n1,f\n", ["who is who"]),
        (":gender", "person,gender\n1,f\n2,m\n1,m\n", ["1", "another gender"]),
        (":age:30,20", "person,age\n1,30\n", ["30,20"]),
        (":age:3x", "person,age\n1,30\n", ["3x"]),
        (":age:30", "person,age\n1,old\n", ["age", "1", "old"]),
        (":age", "person,age\n" + "".join(f"{k},{k}\n" for k in range(11)), ["11"]),
        (":gender", "person,gender\nann,f\n", ["ann", "000"]),
    ],
)
def test_groups_that_make_no_sense_are_one_line(labels, tmp_path, capsys, by, text, facts):
    truth = tmp_path / "truth.txt"
    write_rows(truth, labels.fillna(0))
    people = tmp_path / "who.csv"
    people.write_text(text)
    assert main(["score", str(truth), str(truth), "--by", f"{people}{by}"]) in (1, 2)
    assert_one_line(capsys.readouterr().err, *facts)


def test_the_command_prints_a_table_and_json(labels, people, guesses, truth, tmp_path, capsys):
    write_rows(tmp_path / "submission.txt", guesses)
    words = ["score", str(tmp_path / "submission.txt"), str(truth), "--by", f"{people}:gender"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert re.search(r"^female +8 +0\.\d{4} +-?\d\.\d{4} to +\d\.\d{4}$", printed, re.M)
    assert re.search(r"^gap +\d\.\d{4} .*\((female - male|male - female)\)$", printed, re.M)
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["by"]
    assert {row["group"] for row in found["rows"]} == {"female", "male"}
    assert {row["metric"] for row in found["gaps"]} == {row["metric"] for row in found["rows"]}


@pytest.mark.skipif(not LONDON.exists(), reason=f"{LONDON} is not there: no photographs by gender")
def test_smiles_of_londoners_by_gender(tmp_path, capsys):
    "A linear model on the pixels of seventy people says of thirty-two others whether they smile."

    def pixels(table):
        paths = [LONDON / "cropped_aligned" / image for image in table["image"]]
        grey = (Image.open(path).convert("L").resize((28, 28)) for path in paths)
        return np.stack([np.asarray(picture).ravel() / 255 for picture in grey])

    train, rest = (
        read_annotations(LONDON / f"{name}_set_annotations.txt")
        for name in ("training", "validation")
    )
    model = LogisticRegression(C=0.01, max_iter=1000)
    model.fit(pixels(train), train["expression"].astype(int) == 4)
    likely = model.predict_proba(pixels(rest))
    made = pd.DataFrame(dict(input=rest["image"], neutral=likely[:, 0], happiness=likely[:, 1]))
    made.to_csv(tmp_path / "smiles.csv", index=False)
    truth = LONDON / "validation_set_annotations.txt"
    words = ["score", str(tmp_path / "smiles.csv"), str(truth), "--json"]
    assert main([*words, "--by", f"{LONDON}/people.csv:gender"]) == 0
    found = json.loads(capsys.readouterr().out)
    right = (likely[:, 1] >= 0.5) == (rest["expression"] == 4)
    assert found["EXPR"] > 0.8, "the mean over the two expressions that it can name"
    assert right.mean() > 0.8
    assert {row["group"]: row["people"] for row in found["by"]["rows"]} == dict(female=15, male=17)
    assert found["by"]["gaps"][0]["low"] < found["by"]["gaps"][0]["high"]


def test_the_commands_of_the_page(labels, guesses, truth, people, tmp_path, monkeypatch, capsys):
    """Every command of docs/own_faces.md from "Beside other tools" on, with tables of each tool;
    what writes them (a model, other tools) has run before.
    """
    page = (ROOT / "docs" / "own_faces.md").read_text()
    _, page = page.split("## Beside other tools")
    commands = re.findall(r"^\.venv/bin/affnb (.+)$", page, re.M)
    (tmp_path / "mine").mkdir()
    truth.rename(tmp_path / "mine" / "validation_set_annotations.txt")
    write_py_feat(tmp_path / "py_feat.csv", guesses)
    write_py_feat(tmp_path / "answers.csv", guesses)
    write_openface(tmp_path / "openface", guesses[:6])
    write_libreface(tmp_path / "libreface", guesses[:6])
    monkeypatch.chdir(tmp_path)
    asked = [command for command in commands if command.startswith("score")]
    assert {command.split()[1] for command in asked} == {
        *("answers.csv", "py_feat.csv", "openface", "libreface")
    }
    assert len(commands) - len(asked) == 1, "`affnb predict`, which test_predict runs"
    for command in asked:
        assert main(command.split()) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "by gender" in printed
    assert "below 30" in printed
