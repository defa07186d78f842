"""What people bring, beyond tidy inputs: docs/reads.md, statement by statement, as tables of small
inputs that are made here.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
import zlib
from fractions import Fraction
from pathlib import Path
import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from affnb.engine.cli import main
from affnb.engine.core import AU_NAMES, EXPRESSIONS, AffnbError, git_state
from affnb.engine.data import HEADER, check_folder, open_picture, read_rows
from affnb.engine.intake import Cropping, Division, take_in
from affnb.engine.lists import _MEANINGS, NUMBERINGS, numbering
from affnb.engine.media import MOVING, STILL, UNREAD, film_frames, files_of_folder, find_sources
from affnb.engine.media import read_picture, write_film
from affnb.engine.detect import Face, Tracker
from affnb.engine.predict import load_model, predict
from errors import assert_one_line
from in_step import ROOT
from test_predict import drawn, small_model

PAGE = (ROOT / "docs" / "reads.md").read_text()
CROPS = Cropping(aligned=True)
ZEROS = ",0" * 12


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "Twelve crops of drawn people, f1.png ... f12.png, and a small model."
    place = tmp_path_factory.mktemp("faces")
    for k, wall in enumerate(drawn(12)):
        Image.fromarray(wall[50:210, 40:200]).resize((64, 64)).save(place / f"f{k + 1}.png")
    model, about = small_model(source="real")
    model.save_pretrained(place / "model", config=about)
    return place


def put(place, *names, faces):
    "Pictures under these names, each with a face of its own."
    for k, name in enumerate(names):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(faces / f"f{k % 12 + 1}.png", place / name)


def brought(source, place, **words):
    "The labels of what `affnb import` makes of a source, by picture, in the order of its lists."
    counts = take_in(source, place / "mine", cropping=CROPS, **words)
    listed, _ = check_folder(place / "mine")
    came = pd.read_csv(place / "mine" / "intake.csv").set_index("image")["source"]
    return listed.assign(source=listed["image"].map(came)), counts


# ---------------------------------------------------------------- the page
def test_the_page_lists_what_the_program_knows():
    for title, known in (("## Pictures", STILL), ("## Films", MOVING)):
        part = PAGE.split(title)[1].split("\n## ")[0]
        listed = {word for word in re.findall(r"`(\.\w+)`", part) if word != ".jpg"}
        assert listed | {".jpg"} == known | {".jpg"}
    columns = PAGE.split("- Columns by name")[1].split("\n")[0].lower()
    for words in _MEANINGS.values():
        assert all(f"`{word}`" in columns for word in words.split())
    named = PAGE.split("not read, and named")[1].split("\n\n")[0]
    for ending, kind in UNREAD.items():
        assert kind in named if kind != "raw" else ending[1:].upper() in named, ending
    rows = re.findall(r"^\| `(.+) \|$", PAGE.split("## Codes")[1], re.M)
    table = [[cell.strip(" `") for cell in row.split("|")] for row in rows]
    assert [row[0] for row in table] == list(NUMBERINGS)
    for name, *words in table:
        codes = {k: EXPRESSIONS.index(word) for k, word in enumerate(words) if word}
        assert codes == {k: code for k, code in NUMBERINGS[name].items() if code >= 0}, name


def test_the_commands_for_well_known_sets_do_what_they_say(faces, tmp_path, monkeypatch, capsys):
    "Each set as it is unpacked, on a small scale; then the commands of the page, in its order."
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"\*\*([^*]+)\*\*|```(?:bash|python)\n(.+?)```", PAGE, re.S)
    put(tmp_path, *(f"raf/train/{k}/a{k}.png" for k in range(1, 8)), faces=faces)
    listed = [f"{split}_0000{k}" for split in ("train", "test") for k in range(1, 5)]
    put(tmp_path, *(f"raf/Image/aligned/{name}_aligned.jpg" for name in listed), faces=faces)
    (tmp_path / "raf" / "EmoLabel").mkdir()
    lines = "".join(f"{name}.jpg {name[-1]}\n" for name in listed)
    (tmp_path / "raf" / "EmoLabel" / "list_patition_label.txt").write_text(lines)
    put(tmp_path, *(f"net/Manually_Annotated_Images/1/{k}.jpg" for k in range(4)), faces=faces)
    (tmp_path / "net" / "Manually_Annotated_file_lists").mkdir()
    (tmp_path / "net" / "Manually_Annotated_file_lists" / "training.csv").write_text(
        "subDirectory_filePath,face_x,facial_landmarks,expression,valence,arousal\n"
        + "".join(f"1/{k}.jpg,0,1;2;3,{(1, 3, 9, 7)[k]},{(0.5, 0, -2, 0)[k]},0\n" for k in range(4))
    )
    put(
        tmp_path,
        *(f"fer/train/{w}/{k}.png" for w in ("angry", "happy") for k in range(3)),
        faces=faces,
    )
    for unit, level in (("1", 3), ("9", 1)):
        folder = tmp_path / "disfa" / "ActionUnit_Labels" / "SN001"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"SN001_au{unit}.txt").write_text(f"1,{level}\n2,0\n")
    frames = [f"wild/cropped_aligned/v{k}/0000{f}.jpg" for k in (1, 2) for f in (1, 2)]
    put(tmp_path, *frames, faces=faces)
    for k, split in ((1, "Train_Set"), (2, "Validation_Set")):
        path = tmp_path / "wild" / "VA_Estimation_Challenge" / split / f"v{k}.txt"
        path.parent.mkdir(parents=True)
        path.write_text("valence,arousal\n0.1,0.2\n-5,-5\n")
    places = dict(zip(("RAF", "Aff", "FER", "DIS", "s-A"), ("raf", "net", "fer", "disfa", "wild")))
    places["Aff-Wild2"] = "wild"
    done = []
    for name, text in blocks:
        if name:
            place = places.get(name[:9], places.get(name[:3]))
            continue
        if "SET" not in text and "raf.csv" not in text:
            continue
        text = text.replace("SET", place)
        if text.startswith("import pandas"):
            exec(text, {})
            done.append(pd.read_csv("disfa.csv")[["image", "AU1", "AU9"]].values.tolist())
            continue
        for line in text.strip().splitlines():
            if not line.startswith(".venv/bin/affnb "):
                subprocess.run(line, shell=True, check=True)
                continue
            words = line.removeprefix(".venv/bin/affnb ").split()
            if words[0] != "import":
                continue  # the folder is the format itself: tests/test_data.py
            target = f"made{len(done)}"
            words[words.index("mine")] = target
            aligned = [] if "--aligned" in words else ["--aligned"]  # these are crops
            assert main([*words, *aligned, "--validation", "0.5"]) == 0, capsys.readouterr().err
            listed, _ = check_folder(target)
            came = pd.read_csv(f"{target}/intake.csv").set_index("image")["source"]
            listed["source"] = listed["image"].map(came)
            done.append(listed.set_index("source"))
    table, folders, net, fer, disfa, wild = done
    raf = NUMBERINGS["raf-db"]
    assert all(
        raf[int(Path(name).parent.name)] == code for name, code in folders["expression"].items()
    )
    code_in_name = {name: raf[int(name.removesuffix("_aligned.jpg")[-1])] for name in table.index}
    assert table["expression"].to_dict() == code_in_name
    assert table["split"].value_counts().to_dict() == dict(train=4, validation=4)
    assert net["expression"].astype(object).where(net["expression"].notna(), None).to_dict() == {
        "1/0.jpg": 4, "1/1.jpg": 6, "1/2.jpg": None, "1/3.jpg": 7,
    }  # fmt: skip
    assert np.isnan(net.loc["1/2.jpg", "valence"])
    assert set(fer["expression"]) == {1, 4}
    assert disfa == [["SN001/00001.jpg", 1, 0], ["SN001/00002.jpg", 0, 0]]
    assert wild["valence"].tolist()[::2] == pytest.approx([0.1, 0.1])
    assert wild["valence"].isna().tolist() == [False, True, False, True]
    assert wild["split"].tolist() == ["train"] * 2 + ["validation"] * 2


# ---------------------------------------------------------------- 1: numbers and order
NUMBERED = {  # what stands in the table, with which --codes -> the challenge's codes; None: refused
    "the challenge's": (["4", "0"], None, [4, 0]),
    "with decimals": (["4.00", "0.0"], None, [4, 0]),
    "with a decimal comma": (["4,0", "0,0"], None, [4, 0]),
    "of RAF-DB": (["4", "7"], "raf-db", [4, 0]),
    "of FER2013": (["3", "6"], "fer2013", [4, 0]),
    "of FER+": (["1", "0"], "FERPlus", [4, 0]),
    "pairs of one's own": (["1", "2"], "1=joy, 2=calm", [4, 0]),
    "words beside numbers": (["happy", "7"], "raf-db", [4, 0]),
    "a number that the set does not have": (["8", "7"], "raf-db", None),
    "a set that nobody knows": (["1", "2"], "rafdb", None),
    "a number twice": (["1", "2"], "1=joy,1=calm", None),
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_a_number_means_what_its_set_says(kind, faces, tmp_path, capsys):
    words, codes, wanted = NUMBERED[kind]
    names = [f"{letter}{k}.png" for letter in "ab" for k in range(5)]
    put(tmp_path, *names, faces=faces)
    rows = "".join(f"{name};{words[name[0] == 'b']}\n" for name in names)
    (tmp_path / "labels.csv").write_text(f"image;expression\n{rows}")
    command = ["import", str(tmp_path / "labels.csv"), str(tmp_path / "mine"), "--aligned"]
    code = main([*command, *(("--codes", codes) if codes else ())])
    said = capsys.readouterr()
    if wanted is None:
        assert code
        assert_one_line(said.err.splitlines()[-1])
        assert not (tmp_path / "mine").exists()
        return
    listed, _ = check_folder(tmp_path / "mine")
    came = pd.read_csv(tmp_path / "mine" / "intake.csv").set_index("image")["source"]
    by_name = dict(zip(listed["image"].map(came), listed["expression"]))
    assert [by_name["a0.png"], by_name["b0.png"]] == wanted
    for word, expression in zip(words, wanted):
        assert f"{EXPRESSIONS[expression]} 5 (from {word})" in said.out
    assert main(["check", str(tmp_path / "mine")]) == 0
    checked = capsys.readouterr().out
    for code in wanted:
        counts = re.findall(rf"{code} {EXPRESSIONS[code]} (\d+)", checked)
        assert sum(map(int, counts)) == 5


@pytest.mark.parametrize("name", ["1", "01", "7.0"])
def test_a_folder_called_by_a_number_is_asked_about(name, faces, tmp_path):
    put(tmp_path, f"in/{name}/a.png", f"in/{name}/b.png", faces=faces)
    with pytest.raises(AffnbError, match="--codes"):
        brought(tmp_path / "in", tmp_path)
    listed, _ = brought(tmp_path / "in", tmp_path, codes="raf-db", division=Division(0.5))
    assert set(listed["expression"]) == {NUMBERINGS["raf-db"][int(float(name))]}


ORDERS = {  # names of one person's frames, in the order of time
    "numbers of several lengths": [f"v/frame{k}.png" for k in (1, 2, 9, 10, 11)],
    "two numbers": [f"v/s{s}_t{t}.png" for s in (1, 2) for t in (9, 10)],
    "a number in the folder": [f"part{k}/x.png" for k in (1, 2, 10)],
    "a copy's brackets": [f"v/face ({k}).png" for k in (1, 2, 10)],
}


@pytest.mark.parametrize("kind", ORDERS)
def test_frames_come_in_the_order_of_time(kind, faces, tmp_path):
    names = ORDERS[kind]
    put(tmp_path, *names, "w/other.png", faces=faces)
    rows = [f"{name},ann,{k / 20}\n" for k, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text(
        "image,person,valence\n" + "".join(sorted(rows)) + "w/other.png,ben,1\n"
    )
    listed, _ = brought(tmp_path / "labels.csv", tmp_path)
    times = listed.loc[listed["source"] != "w/other.png", "valence"].tolist()
    assert times == sorted(times)


def test_names_that_tell_no_time_keep_the_order_of_the_table(faces, tmp_path):
    names = ["z.png", "m10.png", "a9.png"]
    put(tmp_path, *names, "other.png", faces=faces)
    rows = "".join(f"{name},ann,{k / 20}\n" for k, name in enumerate(names))
    (tmp_path / "labels.csv").write_text(f"image,person,valence\n{rows}other.png,ben,1\n")
    listed, _ = brought(tmp_path / "labels.csv", tmp_path)
    assert [name for name in listed["source"] if name != "other.png"] == names


# ---------------------------------------------------------------- 2: tables
TRUE = pd.DataFrame(
    [(0.5, -0.25, 4, *[0, 1] * 6), (-0.125, 0.75, 0, *[1, 0] * 6), (0.0, 0.1, 5, *[1] * 12)],
    columns=["valence", "arousal", "expression", *AU_NAMES],
).assign(image=["v/1.jpg", "v/2.jpg", "v/zoé.jpg"])
TABLES = {  # how the same table is written
    "units first, image last": lambda t: t.to_csv(index=False),
    "arousal first": lambda t: t[["image", "arousal", "valence", *t.columns[2:-1]]].to_csv(
        index=False
    ),
    "capitals and leading zeros": lambda t: t.rename(
        columns=lambda c: f"AU{int(c[2:]):02d}_c" if c in AU_NAMES else c.upper()
    ).to_csv(index=False),
    "a French spreadsheet": lambda t: "sep=;\n" + t.to_csv(index=False, sep=";", decimal=","),
    "tabs, in UTF-16": lambda t: t.to_csv(index=False, sep="\t").encode("utf-16"),
    "bars": lambda t: t.to_csv(index=False, sep="|"),
    "every cell in quotes": lambda t: t.to_csv(index=False, quoting=1),
    "spaces around": lambda t: t.to_csv(index=False).replace(",", " , "),
    "a mark and lines of Windows": lambda t: t.to_csv(index=False, lineterminator="\r\n").encode(
        "utf-8-sig"
    ),
    "a typesetter's minus": lambda t: t.to_csv(index=False).replace("-", "\u2212"),
    "words for expressions": lambda t: t.assign(
        expression=[EXPRESSIONS[k] for k in t["expression"]]
    ).to_csv(index=False),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_means_the_same_however_it_is_written(kind, tmp_path):
    text = TABLES[kind](TRUE)
    (tmp_path / "p.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    images, _, values = read_rows(tmp_path / "p.csv")
    assert images == TRUE["image"].tolist()
    assert np.allclose(values, TRUE[TRUE.columns[:-1]].to_numpy(float))


UNCLEAR = {  # a table -> what the refusal says
    "Latin-1": ("image;valence\nzoé.jpg;0,5\n".encode("latin-1"), ["line 2", "UTF-8"]),
    "a workbook": (b"PK\3\4 and so on", ["workbook", "CSV"]),
    "an old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1", ["workbook", "CSV"]),
    "compressed": (b"\x1f\x8b\x08", ["gzip"]),
    "two columns for one label": (b"image,AU1,AU01\na/1.jpg,1,0\n", ["AU1, AU01"]),
    "a column of another model": (b"image,valence,dominance\na/1.jpg,1,0\n", ["dominance"]),
    "a number with two commas": (b'image,valence\na/1.jpg,"1,000,0"\n', ["line 2", "valence"]),
    "a longer row": (b"image,valence\na/1.jpg,0,0,0\n", ["row 2", "4 cells under 2 names"]),
    "a row that was cut off": (b"image,valence,arousal\na/1.jpg,0\n", ["row 2", "2 cells"]),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_a_table_that_may_mean_two_things_is_refused(kind, tmp_path, capsys):
    data, words = UNCLEAR[kind]
    (tmp_path / "p.csv").write_bytes(data)
    assert main(["score", str(tmp_path / "p.csv"), str(tmp_path / "p.csv")]) == 1
    line = capsys.readouterr().err.strip()
    assert_one_line(line, "p.csv", *words)
    assert "defect" not in line


@pytest.mark.parametrize(
    "written, there",
    [
        ("p\\{}.png", "p/{}.png"),
        ("./p/{}.png", "p/{}.png"),
        ("zo\u00e9/{}.png", unicodedata.normalize("NFD", "zo\u00e9/{}.png")),
        (unicodedata.normalize("NFD", "zo\u00e9\\{}.png"), "zo\u00e9/{}.png"),
    ],
)
def test_the_file_that_a_list_means_is_found(written, there, faces, tmp_path):
    put(tmp_path, *(there.format(k) for k in range(3)), faces=faces)
    rows = "".join(f"{written.format(k)},{k / 10}\n" for k in range(3))
    (tmp_path / "labels.csv").write_text(f"image,valence\n{rows}", encoding="utf-8")
    listed, counts = brought(tmp_path / "labels.csv", tmp_path)
    assert len(listed) == 3
    assert not counts["left_out"]


@pytest.mark.parametrize("name", ["v\\1.jpg", unicodedata.normalize("NFD", "zo\u00e9/1.jpg")])
def test_predictions_are_matched_however_names_are_written(name, tmp_path, capsys):
    plain = unicodedata.normalize("NFC", name.replace("\\", "/"))
    for file, image in (("truth", plain), ("made", name)):
        rows = f"{image},0.5,0.5,4{ZEROS}\nv/2.jpg,-0.5,0.1,0{ZEROS}\n"
        (tmp_path / f"{file}.txt").write_text(f"{HEADER}\n{rows}", encoding="utf-8")
    assert main(["score", str(tmp_path / "made.txt"), str(tmp_path / "truth.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["VA"] == pytest.approx(1)


def test_empty_columns_and_blank_lines_mean_nothing(tmp_path):
    (tmp_path / "p.csv").write_text("\n\nimage,valence,,\n\na/1.jpg,0.5,,\n\nb/1.jpg,-0.5,,\n")
    images, lines, values = read_rows(tmp_path / "p.csv")
    assert images == ["a/1.jpg", "b/1.jpg"]
    assert lines == [5, 7]
    assert values[:, 0].tolist() == [0.5, -0.5]


SIDES = {  # lists per task and video -> whether they can be joined
    "one side": (["VA/Train_Set/a", "EXPR/Train_Set/a", "VA/Validation_Set/b"], True),
    "two sides": (["VA/Train_Set/a", "EXPR/Validation_Set/a", "VA/Validation_Set/b"], False),
    "seven expressions, of 2020": (["EXPR7/Training_Set/a", "EXPR7/Validation_Set/b"], True),
    "eight units, of 2020": (["AU8/Train_Set/a", "AU8/Validation_Set/b"], True),
}
LISTS_OF_A_VIDEO = dict(
    VA="valence,arousal\n0.5,0.25\n",
    EXPR=f"{','.join(EXPRESSIONS)}\n4\n",
    EXPR7=f"{','.join(EXPRESSIONS[:7])}\n4\n",
    AU8="AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25\n1,0,0,0,0,0,1,0\n",
)


@pytest.mark.parametrize("kind", SIDES)
def test_lists_per_task_and_video_are_joined(kind, faces, tmp_path):
    names, joined = SIDES[kind]
    put(tmp_path, "wild/a/00001.jpg", "wild/b/00001.jpg", faces=faces)
    for name in names:
        path = tmp_path / "lists" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LISTS_OF_A_VIDEO[name.partition("/")[0]])
    if not joined:
        with pytest.raises(AffnbError, match="one by one"):
            brought(tmp_path / "lists", tmp_path, images=tmp_path / "wild")
        return
    listed, _ = brought(tmp_path / "lists", tmp_path, images=tmp_path / "wild")
    (row,) = listed[listed["split"] == "train"].to_dict("records")
    labels = {name.partition("/")[0] for name in names if "/Train" in name}
    for name, value, givers in (
        ("valence", 0.5, {"VA"}),
        ("expression", 4, {"EXPR", "EXPR7"}),
        ("AU1", 1, {"AU8"}),
    ):
        assert (row[name] == value) is True if labels & givers else pd.isna(row[name]), name


def test_a_file_with_other_capitals_is_named_and_not_taken(faces, tmp_path):
    put(tmp_path, "A.png", "b.png", "c.png", faces=faces)
    (tmp_path / "labels.csv").write_text("image,valence\na.png,0\nb.png,0\nc.png,0\n")
    _, counts = brought(tmp_path / "labels.csv", tmp_path)
    assert "A.png is" in counts["left_out"]


# ---------------------------------------------------------------- 3: pictures
def saved(kind, picture=None, **options):
    made = io.BytesIO()
    (picture or Image.new("RGB", (32, 32), (200, 120, 40))).save(made, kind, **options)
    return made.getvalue()


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def with_chunk(kind, data):
    "A PNG with one more chunk behind its header."
    png = saved("PNG")
    return png[:33] + chunk(kind, data) + png[33:]


def with_damaged_exif():
    return saved("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)


LARGE = b"a\0\0" + zlib.compress(bytes(80_000_000), 9)
SHOWN = {  # pictures that every viewer shows
    "camera's notes that are damaged": with_damaged_exif,
    "a text of 80 MB": lambda: with_chunk(b"zTXt", LARGE),
    "a profile of 80 MB": lambda: with_chunk(b"iCCP", LARGE),
    "a chunk of one's own": lambda: with_chunk(b"prVt", b"x" * 99),
    "a resolution of 0": lambda: saved("JPEG", dpi=(0, 0)),
    "several pictures in one JPEG": lambda: saved(
        "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))]
    ),
    "bytes behind its end": lambda: saved("JPEG") + b"\0" * 999,
}  # fmt: skip


@pytest.mark.parametrize("kind", SHOWN)
def test_a_picture_is_read_whatever_its_notes_are(kind, tmp_path):
    (tmp_path / "a.jpg").write_bytes(SHOWN[kind]())
    pixels = np.asarray(open_picture(tmp_path / "a.jpg")).reshape(-1, 3).mean(0)
    assert np.abs(pixels - (200, 120, 40)).max() < 4


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
NAMED = {  # content under the name a.jpg -> what it is called
    "AVIF": (lambda: saved("AVIF"), "AVIF"),
    "HEIC": (lambda: HEIC, "HEIC"),
    "JPEG XL": (lambda: b"\xff\x0a" + bytes(99), "JPEG XL"),
    "JPEG 2000": (lambda: saved("JPEG2000"), "JPEG 2000"),
    "an icon": (lambda: saved("ICO"), "ICO"),
    "a text": (lambda: b"no picture", "cannot be decoded"),
    "a raw photograph": (lambda: saved("TIFF"), "raw"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_content_that_is_not_what_its_name_says_is_called_what_it_is(kind, tmp_path):
    make, word = NAMED[kind]
    path = tmp_path / ("a.pef" if word == "raw" else "a.jpg")
    path.write_bytes(make())
    picture, problem = read_picture(path)
    assert picture is None
    assert word in problem


def test_a_jpeg_that_is_called_heic_is_read(tmp_path):
    (tmp_path / "a.heic").write_bytes(saved("JPEG"))
    assert read_picture(tmp_path / "a.heic")[0].size == (32, 32)
    assert files_of_folder(tmp_path).pictures == [tmp_path / "a.heic"]


def test_what_a_folder_holds_is_read_or_counted(faces, tmp_path, capsys):
    put(tmp_path, "1.png", "10.png", "2.png", "no_ending", "odd.jpg_large", faces=faces)
    Image.new("RGB", (32, 32)).save(tmp_path / "3.ppm")
    write_film(tmp_path / "film.mp4", [(k / 10, np.zeros((32, 32, 3), np.uint8)) for k in range(3)])
    (tmp_path / "film.mp4").rename(tmp_path / "film.xyz")
    for name in ("._1.png", ".hidden/2.png", "__MACOSX/._2.png", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"of a system")
    (tmp_path / "new.heic").write_bytes(HEIC)
    (tmp_path / "labels.csv").write_text("image\n")
    (tmp_path / "playlist.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nfilm.xyz\n")
    content = files_of_folder(tmp_path)
    assert [path.name for path in content.pictures[:3]] == ["1.png", "2.png", "3.ppm"]
    assert {path.name for path in content.pictures[3:]} == {"10.png", "no_ending", "odd.jpg_large"}
    assert [path.name for path in content.films] == ["film.xyz"]
    assert [path.name for path in content.unread] == ["new.heic"]
    assert content.others_in_words() == "1 .csv, 1 .m3u8"
    table = predict(load_model(faces / "model"), tmp_path, aligned=True)
    assert table["input"].nunique() == 7
    said = capsys.readouterr().err
    assert "1 .csv, 1 .m3u8" in said
    assert "new.heic" in said


def test_import_counts_what_is_no_picture(faces, tmp_path, capsys):
    put(tmp_path, *(f"in/happy/{k}.png" for k in range(4)), "in/sad/x", faces=faces)
    (tmp_path / "in" / "sad" / "notes.txt").touch()
    (tmp_path / "in" / "sad" / "._y.png").touch()
    command = ["import", str(tmp_path / "in"), str(tmp_path / "mine"), "--aligned"]
    assert main([*command, "--validation", ".5"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("5 pictures")
    assert "no pictures, left out: 1 .txt" in said


# ---------------------------------------------------------------- 4: films
def a_film(path, frames=12, rate=10, **words):
    """A film with a white corner, left above: `matrix` (of the display), `start` (of its clock),
    `wider` (pixels), `sound` (seconds of it), `cover` (a picture before the film).
    """
    picture = np.full((48, 64, 3), 40, np.uint8)
    picture[:16, :16] = 255
    kind = words.get("format")
    with av.open(str(path), "w", format=kind) as film:
        if words.get("cover"):
            cover = film.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
        stream = film.add_stream(words.get("codec", "mpeg4"), rate=rate)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = words.get("pix_fmt", "yuv420p")
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        if "wider" in words:
            stream.codec_context.sample_aspect_ratio = words["wider"]
        if "matrix" in words:
            stream.set_display_matrix(words["matrix"])
        voice = film.add_stream("aac", rate=16000) if words.get("sound") else None
        if words.get("cover"):
            white = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255, np.uint8))
            white.pts = 0
            film.mux(cover.encode(white.reformat(format="yuvj420p")))
            film.mux(cover.encode())
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts = k + round(words.get("start", 0) * rate)
            frame.time_base = Fraction(1, rate)
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
        for k in range(int(words.get("sound", 0) * 16000 / 1024)):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate, sound.pts = 16000, k * 1024
            film.mux(voice.encode(sound))
        if voice:
            film.mux(voice.encode())
    return path


def corner_of(picture):
    "Where the white corner is: above or below, left or right."
    height, width = (side // 4 for side in picture.shape[:2])
    parts = {
        "above left": picture[:height, :width],
        "above right": picture[:height, -width:],
        "below left": picture[-height:, :width],
        "below right": picture[-height:, -width:],
    }
    return max(parts, key=lambda name: parts[name].mean())


ONE = 1 << 16
MATRICES = {  # a, b, c, d -> where the corner is shown, and the sides of the picture
    (1, 0, 0, 1): ("above left", (48, 64)),
    (-1, 0, 0, 1): ("above right", (48, 64)),
    (1, 0, 0, -1): ("below left", (48, 64)),
    (-1, 0, 0, -1): ("below right", (48, 64)),
    (0, 1, -1, 0): ("above right", (64, 48)),
    (0, -1, 1, 0): ("below left", (64, 48)),
    (0, 1, 1, 0): ("above left", (64, 48)),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_film_is_turned_and_mirrored_as_a_player_shows_it(matrix, tmp_path):
    a, b, c, d = (ONE * number for number in matrix)
    whole = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    film = a_film(tmp_path / "film.mp4", frames=2, matrix=whole)
    _, _, picture = next(film_frames(film))
    place, sides = MATRICES[matrix]
    assert picture.shape[:2] == sides
    assert corner_of(picture) == place


@pytest.mark.parametrize(
    "wider, sides", [((2, 1), (48, 128)), ((1, 2), (96, 64)), ((16, 11), (48, 93))]
)
def test_pixels_become_square(wider, sides, tmp_path):
    film = a_film(tmp_path / "film.mkv", frames=2, wider=Fraction(*wider))
    _, _, picture = next(film_frames(film))
    assert picture.shape[:2] == sides


WHOLE = {  # films without damage
    "sound that goes on": dict(name="a.mkv", sound=8),
    "sound that goes on, in MP4": dict(name="a.mp4", sound=8),
    "a clock from one hour on": dict(name="a.mkv", start=3600),
    "a broadcast's clock": dict(name="a.ts", start=10),
    "few frames a second": dict(name="a.mp4", rate=1, frames=4),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_film_begins_at_0_and_is_not_called_damaged(kind, tmp_path, capsys):
    words = dict(WHOLE[kind])
    film = a_film(tmp_path / words.pop("name"), **words)
    read = list(film_frames(film))
    assert len(read) == words.get("frames", 12)
    assert abs(read[0][1]) < 0.2
    assert read[-1][1] - read[0][1] == pytest.approx(
        (len(read) - 1) / words.get("rate", 10), abs=0.01
    )
    assert not capsys.readouterr().err


def test_the_cover_is_not_the_film(tmp_path):
    film = a_film(tmp_path / "film.mp4", cover=True)
    read = list(film_frames(film))
    assert len(read) == 12
    assert all(picture.mean() < 100 for *_, picture in read)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["mkv", "avi", "ts"])
def test_a_damaged_stretch_is_said_and_the_film_goes_on(ending, tmp_path, capsys):
    words = dict(codec="mjpeg", pix_fmt="yuvj420p") if ending != "ts" else dict(codec="mpeg2video")
    film = a_film(tmp_path / f"film.{ending}", frames=100, rate=25, **words)
    data = bytearray(film.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 20] = np.random.default_rng(0).bytes(len(data) // 20)
    film.write_bytes(data)
    read = list(film_frames(film))
    said = capsys.readouterr().err
    assert 60 < len(read) <= 100
    assert read[-1][1] > 3.6
    assert "damaged" in said


SOUNDS = {"an MP4 of sound": "voice.mp4", "a song called a film": "song.mkv", "a wave": "wave.avi"}


@pytest.mark.parametrize("kind", SOUNDS)
def test_sound_alone_is_said_to_be_sound(kind, faces, tmp_path, capsys):
    path = tmp_path / SOUNDS[kind]
    with av.open(str(path), "w") as film:
        voice = film.add_stream("aac" if path.suffix == ".mp4" else "mp3", rate=44100)
        for k in range(20):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
            sound.sample_rate, sound.pts = 44100, k * 1152
            film.mux(voice.encode(sound))
        film.mux(voice.encode())
    assert main(["predict", str(faces / "model"), str(path)]) == 1
    assert_one_line(capsys.readouterr().err, path.name, "sound alone")


def test_a_playlist_leads_nowhere(faces, tmp_path, capsys):
    "FFmpeg would open what it names, also in the network."
    a_film(tmp_path / "film.ts")
    (tmp_path / "list.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfilm.ts\n#EXT-X-ENDLIST\n"
    )
    assert main(["predict", str(faces / "model"), str(tmp_path / "list.mp4"), "--aligned"]) == 1
    assert_one_line(capsys.readouterr().err, "list.mp4", "cannot be decoded")


UNEVEN = {
    "two frames close together": [0, 0.1, 0.104, 0.2, 0.3],
    "a picture that stands": [0, 0.1, 7.0, 7.1],
    "a slow beginning": [0, 2.0, 2.04, 2.08],
}


@pytest.mark.parametrize("kind", UNEVEN)
def test_a_copy_keeps_the_time_of_each_frame(kind, faces, tmp_path):
    times = UNEVEN[kind]
    face = np.asarray(Image.open(faces / "f1.png"))
    write_film(tmp_path / "film.mp4", [(seconds, face) for seconds in times])
    predict(load_model(faces / "model"), tmp_path / "film.mp4", aligned=True, draw=tmp_path / "out")
    copy = list(film_frames(tmp_path / "out" / "film.mp4"))
    assert [seconds for _, seconds, _ in copy] == pytest.approx(times, abs=0.002)


def test_rows_are_written_as_they_come(faces, tmp_path, monkeypatch, capsys):
    "A film that breaks off in an error has left the rows that were answered, under another name."
    from affnb.engine import predict as module

    monkeypatch.setattr(module, "_BLOCK", 8)
    face = np.asarray(Image.open(faces / "f1.png"))

    def frames(source, every):
        for k in range(30):
            yield k, k / 10, face
        raise MemoryError

    monkeypatch.setattr(module, "frames_of", frames)
    write_film(tmp_path / "film.mp4", [(0, face)])
    out = tmp_path / "a.csv"
    words = ["predict", str(faces / "model"), str(tmp_path / "film.mp4"), "--aligned"]
    assert main([*words, "-o", str(out)]) == 1
    kept = pd.read_csv(tmp_path / "a.csv.part")
    assert not out.exists()
    assert 20 <= len(kept) < 30
    assert kept["frame"].tolist() == list(range(len(kept)))
    assert f"{len(kept)} rows" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("temporal", ["none", "gru", "tcn", "transformer"])
def test_blocks_change_no_answer(temporal, tmp_path, monkeypatch):
    "Two people, one of whom leaves and another comes; windows overlap."
    from affnb.engine import predict as module

    model, about = small_model(source="real", temporal=temporal, window=5, stride=2)
    model.save_pretrained(tmp_path / "model", config=about)
    model = load_model(tmp_path / "model")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (41, 40, 80, 3), dtype=np.uint8)

    def find(image):
        k = next(counter)
        boxes = [(0.0, 0.0, 40.0, 40.0)] if k < 23 or k > 36 else []
        return [Face(box) for box in [*boxes, (40.0, 0.0, 40.0, 40.0)]]

    monkeypatch.setattr(module.Finder, "find", lambda self, image, moving: find(image))
    # all look alike in noise: who comes back is recognised, and begins a new stretch
    monkeypatch.setattr(module, "likeness_vector", lambda crop: np.eye(108)[0])
    monkeypatch.setattr(module, "Shots", lambda: lambda image: False)
    monkeypatch.setattr(module, "Tracker", lambda: Tracker(patience=5))
    tables = []
    for block in (10_000, 7):
        monkeypatch.setattr(module, "_BLOCK", block)
        counter = iter(range(99))
        tables.append(predict(model, frames))
    whole, in_blocks = tables
    assert whole["face"].nunique() == 2
    numbers = whole.select_dtypes("number").columns
    assert np.allclose(whole[numbers], in_blocks[numbers], atol=1e-5, equal_nan=True)
    assert whole["expression"].equals(in_blocks["expression"])


# ---------------------------------------------------------------- 5: surroundings
def git(place, *words):
    own = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
    subprocess.run(own, cwd=place, check=True, capture_output=True)


def a_copy_in_a_thesis(place):
    (place / "affnb").mkdir()
    (place / "thesis.tex").touch()
    git(place, "init", "-q")
    git(place, "add", "thesis.tex")
    git(place, "commit", "-q", "-m", "thesis")


@pytest.mark.parametrize("how", ["beside it", "tracked with it", "a hook of it"])
def test_the_commit_of_another_repository_is_none_of_ours(how, tmp_path, monkeypatch):
    a_copy_in_a_thesis(tmp_path)
    (tmp_path / "affnb" / "settings.ini").touch()
    if how == "tracked with it":
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "-m", "all")
    if how == "a hook of it":
        monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
        monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "affnb"))
    assert git_state(tmp_path / "affnb") == dict(commit=None, dirty=None)


SURROUNDINGS = {
    "no home": dict(HOME=None),
    "a home that is a file": dict(HOME="/dev/null"),
    "a home that is not there": dict(HOME="/nowhere/at/all"),
    "a style that wants LaTeX": dict(MATPLOTLIBRC="{place}/latex"),
    "a style that is broken": dict(MATPLOTLIBRC="{place}/broken"),
    "a backend that wants a screen": dict(MPLBACKEND="TkAgg"),
    "kernels that begin with code of the user": dict(IPYTHONDIR="{place}/ipython"),
    "a kernel of another Python": dict(JUPYTER_PATH="{place}/jupyter"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SURROUNDINGS)
def test_a_command_settles_wherever_it_is_called(kind, tmp_path):
    "A figure is drawn, a user has a name, and libraries have a place of their own."
    (tmp_path / "latex").write_text("text.usetex: True\n")
    (tmp_path / "broken").write_bytes(b"font.size: \xff\n")
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps(dict(argv=["/bin/false"], display_name="x", language="python")))
    program = """
import getpass, os, sys
from affnb.engine import cli
cli._settle(os.environ)
from matplotlib.figure import Figure
import matplotlib
figure = Figure()
figure.suptitle("$x$")
figure.savefig(sys.argv[1])
assert getpass.getuser()
assert "MPLBACKEND" not in os.environ
assert not os.path.exists(os.environ["IPYTHONDIR"])
assert os.access(matplotlib.get_configdir(), os.W_OK)
assert os.path.isabs(os.path.expanduser("~"))
from affnb.engine.kernels import kernel_command
assert kernel_command("file", [])[0] == sys.executable
"""
    changes = {
        name: value and value.format(place=tmp_path) for name, value in SURROUNDINGS[kind].items()
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    environment = {name: value for name, value in environment.items() if value is not None}
    environment.pop("AFFNB_CHAIN", None)  # of an earlier test in this process
    figure = str(tmp_path / "figure.png")
    done = subprocess.run(
        [sys.executable, "-c", program, figure],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(figure).exists()


def test_modules_keep_their_first_names():
    "The cards of earlier models name them."
    import affnb.core
    from affnb.predict import predict as by_its_first_name

    assert affnb.core is sys.modules["affnb.engine.core"]
    assert by_its_first_name is predict
    with pytest.raises(ModuleNotFoundError, match=r"affnb\.nothing"):
        import affnb.nothing  # noqa: F401


# ---------------------------------------------------------------- 6: the shape of tables
@pytest.mark.parametrize("tasks", [("AU", "EXPR", "VA"), ("EXPR",), ("AU", "VA")])
def test_a_table_without_faces_has_the_columns_of_one_with(tasks, faces, tmp_path):
    model, about = small_model(source="real", tasks=tasks)
    model.save_pretrained(tmp_path / "model", config=about)
    model = load_model(tmp_path / "model")
    some = predict(model, faces / "f1.png", aligned=True)
    none = predict(model, np.full((64, 64, 3), 90, np.uint8))
    assert len(some) == 1
    assert none.empty
    assert none.dtypes.to_dict() == some.dtypes.to_dict()
    Image.new("RGB", (64, 64)).save(tmp_path / "blank.png")
    for ending in ("csv", "parquet"):
        path = tmp_path / f"a.{ending}"
        words = ["predict", str(tmp_path / "model"), str(tmp_path / "blank.png"), "-o", str(path)]
        assert main(words) == 0
        read = pd.read_csv(path) if ending == "csv" else pd.read_parquet(path)
        assert list(read) == list(some)
        if ending == "parquet":
            assert read.dtypes.to_dict() == some.dtypes.to_dict()


NEWER = {  # what a later version may have put into config.json
    "a setting": lambda about: about["settings"].update(rotary_embedding=True),
    "a setting, and its version": lambda about: about.update(
        affnb="9.9", settings=about["settings"] | dict(rotary_embedding=True)
    ),
    "two settings": lambda about: about["settings"].update(rotary_embedding=True, experts=8),
}


@pytest.mark.parametrize("kind", NEWER)
def test_a_model_of_a_newer_version_is_told_as_such(kind, faces, tmp_path, capsys):
    shutil.copytree(faces / "model", tmp_path / "model")
    about = json.loads((tmp_path / "model" / "config.json").read_text())
    NEWER[kind](about)
    (tmp_path / "model" / "config.json").write_text(json.dumps(about))
    assert main(["predict", str(tmp_path / "model"), str(faces / "f1.png")]) == 1
    version = about.get("affnb", "another version")
    assert_one_line(capsys.readouterr().err, f"made by affnb {version}", "rotary_embedding")


def test_the_kinds_are_many():
    "Three relatives or more for each root."
    for table in (NUMBERED, ORDERS, TABLES, UNCLEAR, SHOWN, NAMED, MATRICES, WHOLE, UNEVEN):
        assert len(table) >= 3
    assert numbering("raf-db") == NUMBERINGS["raf-db"]
    assert HEADER.startswith("image,")
    assert find_sources([np.zeros((8, 8, 3), np.uint8)])[1] == []
