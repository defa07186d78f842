"""Photographs and labels of one's own: what is translated, what is refused, what is left out; and
the page that walks the way.
"""

import os
import re
import shutil
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from affnb.engine.cli import main
from affnb.engine.core import AU_NAMES, EXPRESSIONS, AffnbError, UsageError
from affnb.engine.data import check_folder
from affnb.engine.intake import Cropping, Division, assign_splits
from affnb.engine.lists import NUMBERINGS, expression_code
from affnb.engine.intake import read_folders, read_labels, take_in
from in_step import ROOT
from test_predict import drawn
from errors import assert_error, assert_one_line

REAL = ROOT.parent / "shared" / "real-faces"


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    "Twelve crops of drawn people, in a folder."
    place = tmp_path_factory.mktemp("crops")
    for k, wall in enumerate(drawn(12)):
        Image.fromarray(wall[50:210, 40:200]).save(place / f"{k}.png")
    return place


def labels(place, text, name="labels.csv"):
    (place / name).write_text(text)
    return place / name


def test_each_label_arrives_where_it_belongs(crops, tmp_path):
    units = ",".join(f"AU{int(name[2:]):02d}_c" for name in AU_NAMES)
    table = labels(
        crops,
        f"file,valence,Arousal,emotion,{units},age,subject\n"
        + "".join(
            f"{k}.png,{k / 12:.3f},{-k / 12:.3f},{EXPRESSIONS[k % 8]},"
            f"{','.join(str((k >> u) & 1) for u in range(12))},30,p{k // 2}\n"
            for k in range(12)
        ),
    )
    counts = take_in(table, tmp_path / "mine", cropping=Cropping(aligned=True))
    listed, _ = check_folder(tmp_path / "mine")
    came = pd.read_csv(tmp_path / "mine" / "intake.csv").set_index("image")
    assert counts["train"] + counts["validation"] == 12
    assert counts["ignored"] == ["age"]
    assert counts["people"]
    assert not counts["left_out"]
    for row in listed.itertuples():
        k = int(came.loc[row.image, "source"].removesuffix(".png"))
        assert abs(row.valence - k / 12) < 1e-3
        assert abs(row.arousal + k / 12) < 1e-3
        assert row.expression == k % 8
        assert [getattr(row, name) for name in AU_NAMES] == [(k >> u) & 1 for u in range(12)]
        pixels, own = (
            np.asarray(Image.open(path).resize((112, 112)).convert("RGB")).astype(int)
            for path in (tmp_path / "mine" / "cropped_aligned" / row.image, crops / f"{k}.png")
        )
        assert np.abs(pixels - own).mean() < 6
    assert (
        listed.groupby(listed["image"].map(lambda i: came.loc[i, "person"]))["split"].nunique() == 1
    ).all()


def test_what_is_not_there_is_missing_and_not_zero(crops, tmp_path):
    take_in(
        labels(
            crops, "path,AU12\n" + "".join(f"{k}.png,{'' if k % 3 else 1}\n" for k in range(12))
        ),
        tmp_path / "mine",
        cropping=Cropping(aligned=True),
    )
    listed, counts = check_folder(tmp_path / "mine")
    assert listed[["valence", "arousal", "expression", "AU6"]].isna().all(axis=None)
    assert listed["AU12"].isna().sum() == 8


def test_a_split_that_exists_is_kept_and_test_pictures_have_no_labels(crops, tmp_path):
    take_in(
        labels(
            crops,
            "path,emotion,split\n"
            + "".join(f"{k}.png,fear,{('Train', 'val', 'TEST')[k % 3]}\n" for k in range(12)),
        ),
        tmp_path / "mine",
        cropping=Cropping(aligned=True),
    )
    listed, _ = check_folder(tmp_path / "mine")
    assert listed["split"].value_counts().to_dict() == dict(train=4, validation=4, test=4)
    assert listed.loc[listed["split"] == "test", "expression"].isna().all()


def test_folders_named_by_expression(crops, tmp_path):
    for k, path in enumerate(sorted(crops.glob("*.png"))):
        (tmp_path / "in" / ("Happy", "neutral", "7")[k % 3] / "deeper").mkdir(
            parents=True, exist_ok=True
        )
        shutil.copy(path, tmp_path / "in" / ("Happy", "neutral", "7")[k % 3] / "deeper")
    counts = take_in(
        tmp_path / "in",
        tmp_path / "mine",
        cropping=Cropping(aligned=True),
        division=Division(0.5),
        codes="aff-wild2",
    )
    listed, _ = check_folder(tmp_path / "mine")
    assert listed["expression"].value_counts().to_dict() == {4: 4, 0: 4, 7: 4}
    assert counts["validation"] == 6
    assert not counts["people"]
    (tmp_path / "in" / "hapy").mkdir()
    with pytest.raises(AffnbError) as error:
        read_folders(tmp_path / "in", NUMBERINGS["aff-wild2"])
    assert "hapy" in str(error.value)
    assert "`happy`" in str(error.value)


WRONG = {
    "no header": ("1.png,happy\n2.png,sad\n", "no column names the pictures"),
    "header only": ("path,emotion\n", "a header and no rows"),
    "empty": ("", "cannot be read as CSV"),
    "no labels": ("path,age\n0.png,3\n", "no column with labels"),
    "two columns of pictures": ("path,file,emotion\n0.png,0.png,sad\n", "two columns mean image"),
    "two columns of a unit": ("path,AU1,AU01\n0.png,1,1\n", "two columns mean AU1"),
    "unknown expression": ("path,emotion\n0.png,sad\n1.png,gald\n", "row 3: expression 'gald'"),
    "code 8": ("path,emotion\n0.png,8\n", "row 2: expression '8'"),
    "valence as a rating": ("path,valence\n0.png,7\n", "row 2: valence = 7"),
    "valence as a word": ("path,valence\n0.png,high\n", "row 2: valence = high"),
    "intensity": ("path,AU12\n0.png,0\n1.png,2.5\n", "row 3: AU12 = 2.5"),
    "unknown split": ("path,emotion,split\n0.png,sad,dev\n", "row 2: split = dev"),
    "a person on both sides": (
        "path,emotion,person,split\n0.png,sad,ann,train\n1.png,sad,ann,val\n",
        "ann: ",
    ),
    "a picture without a name": ("path,emotion\n,sad\n", "row 2: "),
    "one picture": ("path,emotion\n0.png,sad\n", "nobody is left for train"),
    "pictures that are not there": (
        "path,emotion\nx.png,sad\ny.png,sad\n",
        "x.png",
    ),
    "None, which some mean neutral by": (
        "path,emotion\n0.png,None\n",
        "row 2: expression 'None'",
    ),
    "a person in two spellings": (
        "path,emotion,person\n0.png,sad,Ann\n1.png,sad,ann\n",
        "row 3: person = ann: ",
    ),
    "a person in two codings": (
        "path,emotion,person\n0.png,sad,Jos\u00e9\n1.png,sad,Jose\u0301\n",
        "row 3: person = Jos",
    ),
    "a person with two spaces": (
        "path,emotion,person\n0.png,sad,Bob Lee\n1.png,sad,Bob  Lee\n",
        "Bob Lee",
    ),
    "people who may be missing": (
        "path,emotion,person\n0.png,sad,ann\n1.png,sad,NA\n",
        "row 3: person = NA: ",
    ),
    "a NUL in a name": ("path,emotion\n0\0.png,sad\n", "line 2: NUL"),
    "a picture of two people": (
        "path,emotion,person\n0.png,sad,ann\n./0.png,sad,ben\n",
        "row 3: ./0.png: ",
    ),
    "a picture with two labels": (
        "path,emotion\n0.png,sad\n1.png,sad\n0.png,happy\n",
        "row 4: 0.png: ",
    ),
    "a column twice": ("path,valence,valence\n0.png,.5,.1\n", "valence"),
    "a wrong value below blank lines": (
        "path,valence\n\n0.png,.5\n\n\n1.png,7\n",
        "row 6: valence = 7",
    ),
    "ragged": ("path,emotion\n0.png,sad,5,6\n1.png,sad\n", None),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_unclear_is_refused_and_nothing_is_written(case, crops, tmp_path, capsys):
    text, fact = WRONG[case]
    code = main(["import", str(labels(crops, text)), str(tmp_path / "mine"), "--aligned"])
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if line.startswith("affnb: ")]
    assert code == 1, lines
    assert_one_line("\n".join(lines), fact or "")
    assert "defect" not in lines[0], lines
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../private/p.png", "{private}/p.png", "away.png", "far/p.png"])
def test_no_picture_is_taken_from_outside(name, crops, tmp_path, capsys):
    """A way up, an absolute path, a link, a folder that is a link; with --images a folder that
    holds them all, each is taken.
    """
    for folder in ("in", "private"):
        (tmp_path / folder).mkdir()
    for k in range(8):
        shutil.copyfile(crops / f"{k}.png", tmp_path / "in" / f"{k}.png")
    shutil.copyfile(crops / "8.png", tmp_path / "private" / "p.png")
    (tmp_path / "in" / "away.png").symlink_to(tmp_path / "private" / "p.png")
    (tmp_path / "in" / "far").symlink_to(tmp_path / "private")
    name = name.format(private=tmp_path / "private")

    def text(place):
        return (
            "path,emotion\n"
            + "".join(f"{place}{k}.png,sad\n" for k in range(8))
            + f"{name if name.startswith('/') else place + name},sad\n"
        )

    table = labels(tmp_path / "in", text(""))
    assert main(["import", str(table), str(tmp_path / "mine"), "--aligned"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("affnb: ")]
    assert_one_line(line, f"{table}, row 10: {name}: ", "outside", "--images")
    assert not (tmp_path / "mine").exists()
    labels(tmp_path / "in", text("in/"))
    assert (
        main(["import", str(table), str(tmp_path / "mine"), "--aligned", "--images", str(tmp_path)])
        == 0
    )
    assert "9 pictures" in capsys.readouterr().out


def test_a_folder_with_a_link_out_is_refused(crops, tmp_path, capsys):
    for k, word in enumerate(("sad", "sad", "happy", "happy")):
        (tmp_path / "in" / word).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(crops / f"{k}.png", tmp_path / "in" / word / f"{k}.png")
    (tmp_path / "in" / "sad" / "away.png").symlink_to(crops / "9.png")
    assert main(["import", str(tmp_path / "in"), str(tmp_path / "mine"), "--aligned"]) == 1
    assert_one_line(capsys.readouterr().err, "sad/away.png")
    assert not (tmp_path / "mine").exists()


def test_words_that_make_no_sense_are_refused(crops, tmp_path, capsys):
    table = labels(crops, "path,emotion\n" + "".join(f"{k}.png,sad\n" for k in range(12)))
    (tmp_path / "there").mkdir()
    for words, code, fact in (
        ([table, tmp_path / "there"], 1, tmp_path / "there"),
        ([table, tmp_path / "new", "--validation", "1"], 2, "--validation"),
        ([tmp_path / "none", tmp_path / "new"], 1, tmp_path / "none"),
        ([crops, tmp_path / "new", "--images", crops], 2, "--images"),
        ([tmp_path / "there", tmp_path / "new"], 1, tmp_path / "there"),
        ([table, tmp_path / "new", "--aligned", "--detector", "x"], 2, "--detector"),
    ):
        assert main(["import", *map(str, words)]) == code
        assert_one_line(capsys.readouterr().err, fact)
    (tmp_path / "there" / "cropped_aligned").mkdir()
    with pytest.raises(UsageError) as error:
        read_folders(tmp_path / "there")
    assert_error(error, tmp_path / "there", "s-Aff-Wild2")
    assert not (tmp_path / "new").exists()


def test_what_is_left_out_is_counted_and_listed(crops, tmp_path):
    (crops / "torn.jpg").write_bytes(b"no picture")
    Image.new("RGB", (99, 99)).save(crops / "black.png")
    counts = take_in(
        labels(
            crops,
            "path,emotion\ntorn.jpg,sad\nblack.png,sad\ngone.png,sad\n"
            + "".join(f"{k}.png,sad\n" for k in range(12)),
        ),
        tmp_path / "mine",
    )
    came = pd.read_csv(tmp_path / "mine" / "intake.csv").set_index("source")
    assert counts["pictures"] == 15
    assert came.loc["torn.jpg", "remark"] == "cannot be decoded as a picture"
    assert came.loc["gone.png", "remark"] == "is not there"
    assert came.loc["black.png", "remark"] == "no face found"
    assert came.loc[["torn.jpg", "gone.png", "black.png"], "image"].isna().all()
    assert came["image"].notna().sum() == counts["train"] + counts["validation"] >= 8


def test_the_same_table_gives_the_same_folder(crops, tmp_path):
    table = labels(crops, "path,emotion\n" + "".join(f"{k}.png,sad\n" for k in range(12)))
    for name in "ab":
        take_in(table, tmp_path / name, cropping=Cropping(aligned=True))
    files = sorted(
        path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()
    )
    assert len(files) == 15
    assert all(
        (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        for name in files
    )


def test_who_validates_hardly_depends_on_who_else_there_is():
    people = np.repeat([f"p{k}" for k in range(10)], 4)
    table = pd.DataFrame(dict(image="", person=people, split=None))
    fewer = table[table["person"] != "p3"]
    sides = pd.Series(assign_splits(table))
    assert (sides[fewer.index] == assign_splits(fewer)).mean() > 0.7


def test_a_picture_that_is_listed_twice_alike_is_taken_once(crops, tmp_path):
    table = labels(
        crops,
        "path,emotion,person\n"
        + "".join(f"{k}.png,sad,p{k}\n" for k in range(12))
        + "3.png,sad,p3\n./3.png,sad, p3 \n",
    )
    assert take_in(table, tmp_path / "mine", cropping=Cropping(aligned=True))["pictures"] == 12


def test_na_is_a_missing_label_and_spaces_are_no_part_of_a_name(crops, tmp_path):
    table, _ = read_labels(
        labels(crops, "path,valence,person\n0.png,NA,Nat\n1.png,.5, Ann\n2.png,nan,Ann \n")
    )
    assert table["person"].tolist() == ["Nat", "Ann", "Ann"]
    assert table["valence"].tolist() == [
        -5,
        0.5,
        -5,
    ]


def test_what_a_folder_holds_besides_is_told(crops, tmp_path, capsys):
    """A kind of picture that is not read and a name that is too long are counted; a name that is no
    UTF-8 and a picture beside the folders are refused.
    """
    for k, word in enumerate(("sad", "sad", "happy", "happy", "happy")):
        (tmp_path / "in" / word).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(crops / f"{k}.png", tmp_path / "in" / word / f"{k}.png")
    (tmp_path / "in" / "sad" / "IMG_1.HEIC").write_bytes(b"ftypheic")
    strange = Path(os.fsdecode(os.fsencode(tmp_path / "in" / "happy") + b"/Gr\xfc\xdfe.png"))
    shutil.copyfile(crops / "9.png", strange)
    assert main(["import", str(tmp_path / "in"), str(tmp_path / "mine"), "--aligned"]) == 1
    assert_one_line(capsys.readouterr().err, "happy/Gr\\xfc\\xdfe.png", "UTF-8")
    strange.unlink()
    assert main(["import", str(tmp_path / "in"), str(tmp_path / "mine"), "--aligned"]) == 0
    output = capsys.readouterr().out
    assert "sad/IMG_1.HEIC" in output
    assert "JPEG or PNG" in output
    assert len(pd.read_csv(tmp_path / "mine" / "intake.csv")) == 6
    shutil.copyfile(crops / "9.png", tmp_path / "in" / "9.png")
    assert main(["import", str(tmp_path / "in"), str(tmp_path / "other"), "--aligned"]) == 1
    assert_one_line(capsys.readouterr().err, "9.png")
    table = labels(
        crops,
        "path,emotion\n" + "".join(f"{k}.png,sad\n" for k in range(12)) + "x" * 300 + ".png,sad\n",
    )
    assert take_in(table, tmp_path / "long", cropping=Cropping(aligned=True))[
        "left_out"
    ].startswith("1 is not there (first: xxx")


@pytest.mark.parametrize("place", ["new/..", "new/../..", "."])
def test_a_folder_that_is_there_by_another_name_is_not_replaced(
    place, crops, tmp_path, monkeypatch, capsys
):
    (tmp_path / "home" / "deep").mkdir(parents=True)
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(tmp_path / "home" / "deep")
    table = labels(crops, "path,emotion\n" + "".join(f"{k}.png,sad\n" for k in range(12)))
    monkeypatch.setattr("affnb.engine.course.project_root", lambda: ROOT)
    (tmp_path / "home" / "deep" / "notes.txt").touch()
    for words in (
        ["import", str(table), place, "--aligned"],
        ["benchmark", place, "--videos", "6", "--size", "16"],
        ["course", place, "engine/watch"],
    ):
        assert main(words) == 1
        assert_one_line(capsys.readouterr().err, tmp_path / "home")
    assert sorted(path.name for path in (tmp_path / "home").rglob("*")) == [
        "deep",
        "notes.txt",
        "thesis.txt",
    ]


def test_words_for_expressions():
    assert [expression_code(name) for name in EXPRESSIONS] == list(range(8))
    assert expression_code(" HAPPY ") == 4
    assert expression_code(None) == -1


@pytest.mark.skipif(
    not REAL.exists(), reason=f"{REAL} is not there: the page is not walked on photographs"
)
@pytest.mark.nightly
def test_the_page_from_photographs_to_a_table(tmp_path, monkeypatch, capsys):
    """Every command of docs/own_faces.md, on photographs; the training itself is test_real_faces',
    so that here it is planned only, and test_scoring runs those beside other tools.
    """
    from test_predict import small_model

    names = pd.read_csv(
        REAL / "training_set_annotations.txt", skiprows=1, header=None, usecols=[0, 3]
    ).iloc[::30]
    (tmp_path / "photos").mkdir()
    rows = []
    for image, code in names.itertuples(index=False):
        person, frame = image.split("/")
        shutil.copy(REAL / "cropped_aligned" / image, tmp_path / "photos" / f"{person}_{frame}")
        rows.append(f"photos/{person}_{frame},{EXPRESSIONS[code]},{person}\n")
    labels(tmp_path, "path,emotion,person\n" + "".join(rows))
    model, about = small_model()
    model.save_pretrained(tmp_path / "data" / "models" / "smoke" / "progressive", config=about)
    page = (ROOT / "docs" / "own_faces.md").read_text().split("## Beside other tools")[0]
    commands = [
        line.removeprefix(".venv/bin/affnb ")
        for block in re.findall(r"```bash\n(.+?)```", page, re.S)
        for line in block.splitlines()
    ]
    assert [command.split()[0] for command in commands] == [
        "predict",
        "import",
        "check",
        "reproduce",
        "reproduce",
    ]
    monkeypatch.chdir(tmp_path)
    ask, fetch = re.findall(r"```python\n(.+?)```", page, re.S)
    exec(fetch.replace("pretrained=True", "pretrained=False"))  # there is no network here
    commands[-1] = commands[-1].replace("pretrained=", f"pretrained={tmp_path}/")
    for command in commands:
        assert (
            main(command.split() + (["--dry-run"] if command.startswith("reproduce") else [])) == 0
        ), capsys.readouterr().err
    said = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "answers.csv")
    assert table["input"].nunique() > 0.9 * len(rows)
    assert {"valence", "expression", "Happiness"} <= set(table.columns)
    assert any(column.startswith("AU12 ") for column in table.columns)
    listed, _ = check_folder(tmp_path / "mine")
    assert len(listed) > 0.9 * len(rows)
    assert "pretrain" in said
    exec(ask, python := {})
    assert len(python["table"]) > 20
