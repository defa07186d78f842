"""What the examples of engine/data and engine/batches cannot show: hostile input, interrupted
packing, determinism, and the defects of the released code.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from affnb.engine import data
from affnb.engine.batches import (
    Augmentation,
    Batches,
    assign_parts,
    augment_frames,
    make_windows,
    merge_windows,
    prepare_frames,
    targets_of,
)
from affnb.engine.core import AU_NAMES, AffnbError, UsageError, generator, read_json
from affnb.engine.data import HEADER, check_folder, decode_all, find_lists, open_packed, pack
from affnb.engine.data import read_annotations
from affnb.engine.lists import LABEL_COLUMNS

REAL = Path(__file__).resolve().parents[2] / "shared/real-faces"
FULL = "0.25,-0.5,4,1,0,0,0,1,0,0,0,0,0,1,0"
NONE = "-5,-5,-1" + ",-1" * 12


def write_folder(folder, train, validation, test=None, size=16):
    """An s-Aff-Wild2 folder: {video: [(frame, labels)]} for each list; each picture's brightness
    tells its place.
    """
    for file, videos in (
        ("training_set_annotations.txt", train),
        ("validation_set_annotations.txt", validation),
        ("MTL.txt", test),
    ):
        if videos is None:
            continue
        rows = [HEADER]
        for video, frames in videos.items():
            (folder / "cropped_aligned" / video).mkdir(parents=True, exist_ok=True)
            for i, (frame, labels) in enumerate(frames):
                Image.new("RGB", (size, size), (10 * i % 256, 0, 100)).save(
                    folder / "cropped_aligned" / video / f"{frame}.jpg", quality=95
                )
                rows.append(f"{video}/{frame}.jpg,{labels}")
        (folder / file).write_text("\n".join(rows) + "\n")
    return folder


def clip(n, labels=FULL):
    return [(f"{i:05d}", labels) for i in range(1, n + 1)]


def error(f, *args, kind=AffnbError, **kwargs):
    with pytest.raises(kind) as caught:
        f(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600, "an error is one line"
    return message


def table_of(videos, labels=True):
    "A table as after packing: {video: [frame names]}, with labels that tell the row."
    rows = [(v, f) for v, frames in videos.items() for f in frames]
    table = pd.DataFrame(rows, columns=["video", "frame"])
    table["row"] = np.arange(len(table))
    table["split"] = "train"
    table["image"] = table.video + "/" + table.frame + ".jpg"
    ramp = np.linspace(-1, 1, len(table)).astype(np.float32)
    table["valence"] = ramp
    table["arousal"] = np.abs(ramp)
    table["expression"] = pd.array(np.arange(len(table)) % 8, dtype="Int8")
    for a, name in enumerate(AU_NAMES):
        table[name] = pd.array((np.arange(len(table)) >> (a % 8)) % 2, dtype="Int8")
    return table


# Reading


@pytest.fixture
def listing(tmp_path):
    def write(*rows, header=HEADER, data=None):
        path = tmp_path / "list.txt"
        path.write_bytes(data if data is not None else ("\n".join([header, *rows]) + "\n").encode())
        return path

    return write


def test_values_land_in_their_columns(listing):
    table = read_annotations(
        listing("140-30-632x360/00017.jpg," + FULL, "a_b-c/frame_0002.jpg," + NONE)
    )
    first = table.iloc[0]
    second = table.iloc[1]
    assert (first.image, first.video, first.frame, first.line) == (
        "140-30-632x360/00017.jpg",
        "140-30-632x360",
        "00017",
        2,
    )
    assert (first.valence, first.arousal, first.expression) == (0.25, -0.5, 4)
    assert [first[a] for a in AU_NAMES] == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]
    assert second[list(LABEL_COLUMNS)].isna().all()
    assert second.frame == "frame_0002"
    assert str(table.expression.dtype) == str(table.AU26.dtype) == "Int8"
    assert table.valence.dtype == table.arousal.dtype == np.float32


def test_each_missing_value_is_missing_alone(listing):
    fields = FULL.split(",")
    for c, name in enumerate(LABEL_COLUMNS):
        one = fields[:c] + ["-5" if c < 2 else "-1"] + fields[c + 1 :]
        row = read_annotations(listing("v/1.jpg," + ",".join(one))).iloc[0]
        assert row[list(LABEL_COLUMNS)].isna().sum() == 1
        assert pd.isna(row[name])


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + f"{HEADER}\nv/1.jpg,{FULL}\nv/2.jpg,{NONE}\n".encode(),  # byte order mark
        f"{HEADER}\r\nv/1.jpg,{FULL}\r\nv/2.jpg,{NONE}\r\n".encode(),  # CRLF
        f"\n{HEADER}\n\nv/1.jpg,{FULL}\n   \nv/2.jpg,{NONE}\n\n\n".encode(),  # blank lines
        f"{HEADER}\nv/1.jpg,{FULL}\nv/2.jpg,{NONE}".encode(),  # no newline at the end
        f"{HEADER}\nv/1.jpg, {FULL.replace(',', ' , ')}\n v/2.jpg ,{NONE}\n".encode(),  # spaces
        f"{HEADER}\nv/1.jpg,{FULL.replace(',1,', ',1.0,')}\nv/2.jpg,{NONE}\n".encode(),
    ],
)  # whole numbers written as decimals
def test_harmless_oddities_change_nothing(listing, data):
    table = read_annotations(listing(data=data))
    plain = read_annotations(listing(f"v/1.jpg,{FULL}", f"v/2.jpg,{NONE}"))
    pd.testing.assert_frame_equal(table.drop(columns="line"), plain.drop(columns="line"))


@pytest.mark.parametrize(
    "rows,header",
    [
        (["video45_1/00001.jpg,", "video45_1/00002.jpg,"], HEADER),
        (["video45_1/00001.jpg", "video45_1/00002.jpg"], "image"),
        (["video45_1/00001.jpg,", "video45_1/00002.jpg"], "image,valence"),
    ],
)
def test_list_of_images_alone(listing, rows, header):
    table = read_annotations(listing(*rows, header=header))
    assert len(table) == 2
    assert table[list(LABEL_COLUMNS)].isna().all(axis=None)
    assert list(table.columns) == ["image", "video", "frame", "line", *LABEL_COLUMNS]


def changed(column, word):
    fields = FULL.split(",")
    fields[column] = word
    return ",".join(fields)


@pytest.mark.parametrize(
    "row,words",
    [
        ("v/2.jpg," + FULL[:-2], ["15 value(s)", "16"]),
        ("v/2.jpg," + FULL + ",0", ["17 value(s)"]),
        ("v/2.jpg,", ["2 value(s)"]),
        ("v/2.jpg", ["1 value(s)"]),
        ("v/2.jpg," + changed(0, "high"), ["valence = 'high'"]),
        ("v/2.jpg," + changed(7, ""), ["AU7 = ''"]),
        ("v/2.jpg," + changed(0, "1.01"), ["valence = 1.01", "[-1, 1]", "-5"]),
        ("v/2.jpg," + changed(1, "-1.5"), ["arousal = -1.5"]),
        ("v/2.jpg," + changed(0, "nan"), ["valence = 'nan'"]),
        ("v/2.jpg," + changed(1, "inf"), ["arousal = inf"]),
        ("v/2.jpg," + changed(2, "8"), ["expression = 8", "0 to 7"]),
        ("v/2.jpg," + changed(2, "-5"), ["expression = -5"]),
        ("v/2.jpg," + changed(2, "2.5"), ["expression = 2.5"]),
        ("v/2.jpg," + changed(14, "2"), ["AU26 = 2", "0 or 1"]),
        ("v/2.jpg," + changed(3, "0.5"), ["AU1 = 0.5"]),
        ("v/2.jpg," + changed(3, "-5"), ["AU1 = -5"]),
        ("/v/2.jpg," + FULL, ["image = '/v/2.jpg'"]),
        ("v/../../2.jpg," + FULL, ["image"]),
        ("../2.jpg," + FULL, ["image"]),
        ("v/..," + FULL, ["image"]),
        ("2.jpg," + FULL, ["video/frame.jpg"]),
        ("v\\2.jpg," + FULL, ["image"]),
        ("v/2\0.jpg," + FULL, ["NUL"]),
        ("," + FULL, ["image = ''"]),
        ("C:/v/2.jpg," + FULL, ["image"]),
    ],
)
def test_a_wrong_row_is_named(listing, row, words):
    path = listing("v/1.jpg," + FULL, row, "v/3.jpg," + changed(2, "9"))
    message = error(read_annotations, path)
    assert f"{path}, line 3: " in message and all(w in message for w in words), message


def test_names_with_dots_are_no_way_out(listing):
    assert list(read_annotations(listing("..a/b..c.jpg," + FULL, "x.y/1.2.jpg," + FULL)).frame) == [
        "b..c",
        "1.2",
    ]


@pytest.mark.parametrize(
    "data,words",
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (HEADER.encode(), "no rows"),
        (f"v/1.jpg,{FULL}\n".encode(), "line 1: no header"),
        (b"\xff\xfe\x00x", "no header"),
        (b"\x89PNG\r\n\x1a\n\x00", "UTF-8"),
    ],
)
def test_a_file_that_is_no_list(listing, data, words):
    assert words in error(read_annotations, listing(data=data))


def test_a_file_that_is_absent(tmp_path):
    assert "nowhere.txt" in error(read_annotations, tmp_path / "nowhere.txt")
    assert str(tmp_path) in error(read_annotations, tmp_path)


@pytest.mark.slow
def test_the_real_lists_size_is_read_in_about_a_second(listing):
    rng = np.random.default_rng(0)
    n = 142_382
    values = np.char.mod("%d", rng.integers(-1, 2, (n, 12)))
    path = listing(
        *(
            f"video{i // 370}/{i:05d}.jpg,{v:.3f},-5,{e},{','.join(a)}"
            for i, v, e, a in zip(range(n), rng.uniform(-1, 1, n), rng.integers(-1, 8, n), values)
        )
    )
    start = time.process_time()
    table = read_annotations(path)
    seconds = time.process_time() - start
    # 0.3 s here; a row at a time with pandas takes half a minute
    assert len(table) == n
    assert seconds < 3


# Folders


def test_counts_and_what_is_dropped(tmp_path):
    folder = write_folder(
        tmp_path,
        {"a": clip(3), "b": clip(2, NONE)},
        {"c": clip(2) + [("00009", "0,-5,-1" + ",-1" * 11 + ",1")]},
        {"t": clip(2, "")},
    )
    with (folder / "training_set_annotations.txt").open("a") as f:
        f.write(f"a/00002.jpg,{FULL}\na/00077.jpg,{FULL}\nnobody/00001.jpg,{FULL}\n")
    table, counts = check_folder(folder)
    assert counts["train"] == dict(
        listed=8,
        duplicates=1,
        conflicting=0,
        conflicting_names=[],
        absent=2,
        absent_names=["a/00077.jpg", "nobody/00001.jpg"],
        frames=5,
        videos=2,
        missing=dict(valence_arousal=2, expression=2, aus=2),
        all=3,
    )
    assert counts["validation"]["missing"] == dict(valence_arousal=1, expression=1, aus=1)
    assert counts["test"]["frames"] == 2
    assert table.groupby("split").size().to_dict() == {
        "train": 5,
        "validation": 3,
        "test": 2,
    }
    assert table.index.tolist() == list(range(10))


def test_a_folder_without_test_list_is_whole(tmp_path):
    assert list(find_lists(write_folder(tmp_path, {"a": clip(2)}, {"b": clip(2)}))) == [
        "train",
        "validation",
    ]


@pytest.mark.parametrize(
    "train,validation,test,words",
    [
        ({"a": clip(2), "b": clip(2)}, {"b": clip(2)}, None, "'b'"),
        ({"a": clip(2)}, {"b": clip(2)}, {"a": clip(2, "")}, "'a'"),
        ({"a": clip(2, NONE)}, {"b": clip(2)}, None, "label"),
    ],
)
def test_what_cannot_be_mended(tmp_path, train, validation, test, words):
    assert words in error(check_folder, write_folder(tmp_path, train, validation, test))


def test_a_video_whose_name_begins_another_is_no_overlap(tmp_path):
    check_folder(write_folder(tmp_path, {"140": clip(2)}, {"140-30-632x360": clip(2)}))


def test_missing_pieces_are_named(tmp_path):
    assert "nowhere" in error(check_folder, tmp_path / "nowhere")
    folder = write_folder(tmp_path / "f", {"a": clip(2)}, {"b": clip(2)})
    shutil.move(folder / "validation_set_annotations.txt", tmp_path / "away")
    assert "validation_set_annotations.txt" in error(check_folder, folder)
    shutil.move(tmp_path / "away", folder / "validation_set_annotations.txt")
    shutil.rmtree(folder / "cropped_aligned/b")
    assert "no listed image" in error(check_folder, folder)
    shutil.rmtree(folder / "cropped_aligned")
    assert "cropped_aligned" in error(check_folder, folder)


# Packing


def test_packed_frames_are_the_pictures_in_order(tmp_path):
    folder = write_folder(tmp_path / "f", {"a": clip(20), "b": clip(3)}, {"c": clip(4)})
    pack(folder, tmp_path / "p", 16, workers=2)
    packed = open_packed(tmp_path / "p")
    for _, r in packed.table.iterrows():
        original = np.asarray(
            Image.open(folder / "cropped_aligned" / r.image).convert("RGB")
        ).astype(int)
        assert abs(packed.frames[r.row].astype(int) - original).max() <= 1
    assert packed.manifest["frames"] == 27
    assert packed.manifest["counts"]["train"]["undecodable"] == 0


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((112, 112, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "s.png")
    decode_all(tmp_path / "a.npy", [tmp_path / "s.png"], 28, 1)
    small = np.load(tmp_path / "a.npy")
    # taking every fourth pixel would give 0 or 255
    assert abs(small.astype(int) - 127).max() < 20


def test_grey_and_transparent_pictures_become_rgb(tmp_path):
    for mode, colour in (("L", 200), ("RGBA", (200, 200, 200, 255)), ("P", 3)):
        Image.new(mode, (20, 30), colour).save(tmp_path / f"{mode}.png")
    assert (
        decode_all(tmp_path / "a.npy", [tmp_path / f"{m}.png" for m in ("L", "RGBA", "P")], 8, 1)
        == []
    )
    assert np.load(tmp_path / "a.npy")[:2].tolist() == np.full((2, 8, 8, 3), 200).tolist()


def test_undecodable_files_are_dropped_named_and_leave_no_gap(tmp_path):
    folder = write_folder(tmp_path / "f", {"a": clip(9)}, {"b": clip(3)})
    for name, content in (
        ("a/00002", b""),
        ("a/00005", b"\xff\xd8\xff\xe0junk"),
        ("b/00003", b"GIF89a"),
    ):
        (folder / f"cropped_aligned/{name}.jpg").write_bytes(content)
    pack(folder, tmp_path / "p", 16)
    packed = open_packed(tmp_path / "p")
    assert packed.manifest["undecodable"] == ["a/00002.jpg", "a/00005.jpg", "b/00003.jpg"]
    assert len(packed.frames) == 9
    assert packed.manifest["counts"]["train"]["undecodable"] == 2
    assert packed.manifest["counts"]["train"]["frames"] == 7
    assert packed.manifest["counts"]["validation"]["frames"] == 2
    places = [int(f) - 1 for f in packed.table.frame]
    assert np.allclose(packed.frames[:, 8, 8, 0], np.array(places) * 10, atol=3)
    assert packed.table.row.tolist() == list(range(9))
    for f in (folder / "cropped_aligned/b").iterdir():
        f.write_bytes(b"no")
    assert "can be decoded" in error(pack, folder, tmp_path / "q", 16)
    assert not (tmp_path / "q").exists()


def test_packing_is_done_again_only_when_something_changed(tmp_path):
    folder = write_folder(tmp_path / "f", {"a": clip(3)}, {"b": clip(3)})

    def stamp(size=16, source=folder):
        pack(source, tmp_path / "p", size)
        return (tmp_path / "p").stat().st_ino, read_json(tmp_path / "p/manifest.json")["source"]

    first = stamp()
    assert stamp() == first
    # a copy is the same data
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert stamp(source=tmp_path / "elsewhere") == first
    assert stamp(size=12)[1] == first[1]
    assert open_packed(tmp_path / "p").frames.shape[1] == 12
    picture = folder / "cropped_aligned/a/00001.jpg"
    Image.new("RGB", (40, 40), (1, 2, 200)).save(picture)
    second = stamp(size=12)
    assert second[1] != first[1]
    text = (folder / "training_set_annotations.txt").read_text()
    (folder / "training_set_annotations.txt").write_text(text.replace("0.25", "0.26", 1))
    third = stamp(size=12)
    assert third[1] != second[1]
    assert open_packed(tmp_path / "p").table.valence[0] == np.float32(0.26)
    # an incomplete pack is no pack
    (tmp_path / "p/frames.npy").unlink()
    stamp(size=12)
    open_packed(tmp_path / "p")


def contents(pack):
    return {p.name: p.read_bytes() for p in pack.iterdir()}


def killed(f):
    "Runs f in a process of its own, to be killed there."
    pid = os.fork()
    if pid == 0:
        try:
            f()
        finally:
            os._exit(3)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9


def junk(path):
    "Spoils a file so that its name, size and time do not tell."
    was = path.stat()
    path.write_bytes(b"x" * was.st_size)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.fixture
def decoded(monkeypatch):
    "The images that this process decodes."
    seen = []
    decode = data.decode_image
    monkeypatch.setattr(
        data,
        "decode_image",
        lambda path, size: (seen.append("/".join(Path(path).parts[-2:])), decode(path, size))[1],
    )
    return seen


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_packing_goes_on_from_what_it_had_finished(tmp_path, monkeypatch, workers):
    folder = write_folder(tmp_path / "f", {"a": clip(700)}, {"b": clip(3)})
    (folder / "cropped_aligned/a/00070.jpg").write_bytes(b"no")
    pack(folder, tmp_path / "whole", 16)
    decode = data.decode_image

    def packs():
        packing = os.getpid()
        count = iter(range(10**6))

        def fatal(path, size):
            (tmp_path / f"worker{os.getpid()}").touch()
            time.sleep(0.002)
            if next(count) == 200:
                os.kill(packing, 9)
            return decode(path, size)

        monkeypatch.setattr(data, "decode_image", fatal)
        pack(folder, tmp_path / "p", 16, workers)

    assert killed(packs)
    assert not (tmp_path / "p").exists()

    def alive():
        return [w for w in tmp_path.glob("worker*") if Path(f"/proc/{w.name[6:]}").exists()]

    for _ in range(50):
        if not alive():
            break
        time.sleep(0.1)
    # nobody is left who might write
    assert not alive()
    assert len(list(tmp_path.glob("worker*"))) == workers
    marks = np.fromfile(tmp_path / ".p-unfinished/marks", np.uint8)
    done = np.flatnonzero(marks == data.DONE)
    assert 190 < len(done) < 690
    # whoever decodes them again must fail
    for image in check_folder(folder)[0].image[done]:
        junk(folder / "cropped_aligned" / image)
    pack(folder, tmp_path / "p", 16, workers)
    assert contents(tmp_path / "p") == contents(tmp_path / "whole")
    assert not (tmp_path / ".p-unfinished").exists()


@pytest.mark.nightly
def test_a_packing_may_be_killed_at_any_step(tmp_path, monkeypatch, decoded):
    """At each write, half of it done, and before each renaming and removal: what is there is whole,
    and the next packing gives what it should.
    """
    folder = write_folder(tmp_path / "f", {"a": clip(6)}, {"b": clip(3)})
    pack(folder, tmp_path / "p", 16)
    old = contents(tmp_path / "p")
    for i in (2, 3):
        (folder / f"cropped_aligned/a/0000{i}.jpg").write_bytes(b"no")
    for i in (1, 5):
        Image.new("RGB", (20, 20), (0, 9 * i, 5)).save(folder / f"cropped_aligned/a/0000{i}.jpg")
    pack(folder, tmp_path / "whole", 16)
    whole = contents(tmp_path / "whole")
    steps = 0

    def dying(f, halve):
        def step(*args, **kwargs):
            nonlocal left
            left -= 1
            if left:
                return f(*args, **kwargs)
            if halve:
                args[0].seek(args[1])
                args[0].write(args[2][: len(args[2]) // 2])
                args[0].flush()
            os.kill(os.getpid(), 9)

        return step

    while True:
        steps += 1
        left = steps
        shutil.rmtree(tmp_path / "q", ignore_errors=True)
        shutil.copytree(tmp_path / "p", tmp_path / "q")

        def packs():
            for where, name in (
                (data, "write_at"),
                (data, "set_length"),
                (os, "rename"),
                (os, "replace"),
                (shutil, "rmtree"),
            ):
                monkeypatch.setattr(where, name, dying(getattr(where, name), name == "write_at"))
            pack(folder, tmp_path / "q", 16)
            os._exit(7)

        if not killed(packs):
            break
        if (tmp_path / "q").exists():
            assert contents(tmp_path / "q") in (old, whole)
        decoded.clear()
        pack(folder, tmp_path / "q", 16)
        assert contents(tmp_path / "q") == whole
        assert sorted(os.listdir(tmp_path)) == ["f", "p", "q", "whole"]
        assert set(decoded) <= {f"a/0000{i}.jpg" for i in (1, 2, 3, 5)}
    assert steps > 40


def test_what_a_killed_packing_of_other_data_left_is_thrown_away(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "f", {"a": clip(30)}, {"b": clip(3)})
    decode = data.decode_image

    def packs(count=iter(range(99))):
        monkeypatch.setattr(
            data,
            "decode_image",
            lambda *a: decode(*a) if next(count) < 20 else os.kill(os.getpid(), 9),
        )
        pack(folder, tmp_path / "p", 16)

    assert killed(packs)
    assert (tmp_path / ".p-unfinished").exists()
    picture = folder / "cropped_aligned/a/00002.jpg"
    was = picture.stat()
    Image.new("RGB", (16, 16), (1, 2, 200)).save(picture, quality=95)
    os.utime(picture, ns=(was.st_atime_ns, was.st_mtime_ns + 1))
    pack(folder, tmp_path / "p", 16)
    assert abs(open_packed(tmp_path / "p").frames[1, 0, 0].astype(int) - (1, 2, 200)).max() < 9
    assert not (tmp_path / ".p-unfinished").exists()


@pytest.mark.slow
def test_two_packings_at_once_wait_for_each_other(tmp_path):
    folder = write_folder(tmp_path / "f", {"a": clip(300)}, {"b": clip(3)})
    pack(folder, tmp_path / "whole", 16)
    code = "import sys; from affnb.engine.data import pack; pack(sys.argv[1], sys.argv[2], 16, 2)"
    both = [
        subprocess.Popen([sys.executable, "-c", code, folder, tmp_path / "p"]) for _ in range(2)
    ]
    assert [p.wait() for p in both] == [0, 0]
    assert contents(tmp_path / "p") == contents(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path)) == ["f", "p", "whole"]


def test_only_what_changed_is_decoded(tmp_path, decoded):
    folder = write_folder(tmp_path / "f", {"a": clip(20), "c": clip(5)}, {"b": clip(5)})
    images = folder / "cropped_aligned"

    def again(size=16):
        decoded.clear()
        pack(folder, tmp_path / "p", size)
        found = sorted(decoded)
        pack(folder, tmp_path / "fresh", size)
        assert contents(tmp_path / "p") == contents(tmp_path / "fresh")
        shutil.rmtree(tmp_path / "fresh")
        return found

    def edit(file, f):
        (folder / file).write_text(f((folder / file).read_text()))

    assert len(again()) == 30
    edit("training_set_annotations.txt", lambda t: t.replace("0.25", "0.26", 1))
    assert again() == []
    assert open_packed(tmp_path / "p").table.valence[0] == np.float32(0.26)
    # another order
    edit("training_set_annotations.txt", lambda t: "\n".join([HEADER, *reversed(t.split()[1:])]))
    assert again() == []
    (images / "a/00007.jpg").unlink()
    shutil.rmtree(images / "c")
    assert again() == []  # fewer
    Image.new("RGB", (16, 16), (200, 0, 9)).save(images / "a/00099.jpg")
    edit("training_set_annotations.txt", lambda t: f"{t}\na/00099.jpg,{FULL}\n")
    assert again() == ["a/00099.jpg"]
    Image.new("RGB", (30, 30), (0, 200, 9)).save(images / "a/00002.jpg")
    (images / "b/00003.jpg").write_bytes(b"no")
    assert again() == ["a/00002.jpg", "b/00003.jpg"]
    # what failed is tried again
    (images / "a/00011.jpg").write_bytes(b"")
    assert again() == ["a/00011.jpg", "b/00003.jpg"]
    was = (images / "a/00012.jpg").stat()
    (images / "a/00012.jpg").write_bytes(
        (images / "a/00013.jpg").read_bytes().ljust(was.st_size, b"\0")[: was.st_size]
    )
    os.utime(images / "a/00012.jpg", ns=(0, was.st_mtime_ns + 1))
    assert again() == ["a/00011.jpg", "a/00012.jpg", "b/00003.jpg"]  # same size, another time
    assert len(again(12)) == 30 - 1 - 5 + 1  # another size is another pack


def test_a_pack_that_cannot_be_trusted_is_not_copied_from(tmp_path, decoded):
    folder = write_folder(tmp_path / "f", {"a": clip(4)}, {"b": clip(2)})
    for spoil in (
        lambda p: p.unlink(),
        lambda p: p.write_text(p.read_text().replace("Pillow", "Willow")),
        lambda p: p.write_text(p.read_text().replace('"version": 4', '"version": 3')),
    ):
        pack(folder, tmp_path / "p", 16)
        spoil(tmp_path / "p/manifest.json")
        decoded.clear()
        pack(folder, tmp_path / "p", 16)
        assert len(decoded) == 6


MEMORY = """
import os, re, sys
from pathlib import Path
from affnb.engine import data
def megabytes(kind):
    status = Path("/proc/self/status").read_text()
    return int(re.search(kind + r":\\s+(\\d+)", status)[1])/1024
decode, before, workers = data.decode_into, {}, Path(sys.argv[4])
def decode_into(*args):
    before.setdefault(os.getpid(), megabytes("VmRSS")); result = decode(*args)
    (workers/str(os.getpid())).write_text(str(megabytes("VmHWM") - before[os.getpid()]))
    return result
data.decode_into = decode_into
start = megabytes("VmHWM"); data.pack(*sys.argv[1:3], 256, int(sys.argv[3]))
print(megabytes("VmHWM") - start, *(path.read_text() for path in workers.iterdir()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.nightly), 2])
@pytest.mark.slow
def test_memory_does_not_grow_with_the_frames(tmp_path, workers):
    "Decoding, closing a gap, and copying 236 MB of frames in 60 MB, and 30 MB a worker."
    folder = write_folder(tmp_path / "f", {"a": clip(1)}, {"b": clip(2)}, size=8)
    images = folder / "cropped_aligned"
    (tmp_path / "w").mkdir()
    for i in range(1000, 2200):
        os.link(images / "a/00001.jpg", images / f"a/{i}.jpg")
    (images / "a/1000.jpg").unlink()
    (images / "a/1000.jpg").write_bytes(b"no")
    with (folder / "training_set_annotations.txt").open("a") as f:
        f.writelines(f"a/{i}.jpg,{FULL}\n" for i in range(1000, 2200))
    for victim in ("b/00001.jpg", "a/00001.jpg"):  # from nothing; then from the first
        words = subprocess.run(
            [sys.executable, "-c", MEMORY, folder, tmp_path / "p", str(workers), tmp_path / "w"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert (tmp_path / "p/frames.npy").stat().st_size > 235e6, words
        assert float(words[0]) < 60, words
        assert max(map(float, words[1:])) < 30, words
        (images / victim).unlink()


def test_a_disk_that_fills_up_and_a_worker_that_dies_are_named(tmp_path, monkeypatch, decoded):
    folder = write_folder(tmp_path / "f", {"a": clip(30)}, {"b": clip(3)})
    really_write = data.write_at
    decode = data.decode_image

    def full(file, place, pixels):
        if place > 10_000:
            raise OSError(28, "No space left on device")
        really_write(file, place, pixels)

    monkeypatch.setattr(data, "write_at", full)
    assert "No space left on device" in error(pack, folder, tmp_path / "p", 16)
    monkeypatch.setattr(data, "write_at", really_write)
    monkeypatch.setattr(data, "decode_image", lambda path, size: os._exit(1))
    assert "decoding process died" in error(pack, folder, tmp_path / "p", 16, workers=2)
    # the rest
    monkeypatch.setattr(data, "decode_image", decode)
    decoded.clear()
    pack(folder, tmp_path / "p", 16)
    assert len(decoded) == 20


def test_a_failed_packing_keeps_the_old_one(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "f", {"a": clip(3)}, {"b": clip(3)})
    pack(folder, tmp_path / "p", 16)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    assert "are free" in error(pack, folder, tmp_path / "p", 32)
    assert open_packed(tmp_path / "p").frames.shape[1] == 16
    assert sorted(os.listdir(tmp_path)) == ["f", "p"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path):
    folder = write_folder(tmp_path / "f", {"a": clip(2)}, {"b": clip(2)})
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for out in ("home", "file"):
        assert "overwritten" in error(pack, folder, tmp_path / out, 16)
    assert (tmp_path / "home/thesis.tex").read_text() == "x"
    assert "overwritten" in error(pack, folder, folder, 16)


@pytest.mark.parametrize("file", ["frames.npy", "labels.parquet", "manifest.json"])
def test_a_damaged_pack_is_refused(tmp_path, file):
    pack(write_folder(tmp_path / "f", {"a": clip(30)}, {"b": clip(3)}), tmp_path / "p", 16)
    path = tmp_path / "p" / file
    path.write_bytes(path.read_bytes()[:-600] if file == "frames.npy" else path.read_bytes()[:40])
    error(open_packed, tmp_path / "p")
    path.unlink()
    error(open_packed, tmp_path / "p")
    assert "p" in error(open_packed, tmp_path / "p")


def test_packed_frames_cannot_be_written_through(tmp_path):
    pack(write_folder(tmp_path / "f", {"a": clip(2)}, {"b": clip(2)}), tmp_path / "p", 16)
    open_packed(tmp_path / "p").frames[:] = 0
    assert open_packed(tmp_path / "p").frames.any()


# Targets: -1 trained on, masks of rows, valence and arousal swapped


def partly_labelled(listing):
    rng = np.random.default_rng(0)
    aus = rng.integers(-1, 2, (40, 12))
    table = read_annotations(
        listing(
            *(
                f"v/{i:05d}.jpg,{0.01 * i},{-5 if i % 3 else -0.5},{i % 9 - 1},"
                + ",".join(map(str, a))
                for i, a in enumerate(aus)
            )
        )
    )
    return table, aus


def test_codes_never_come_out(listing):
    table, aus = partly_labelled(listing)
    targets, masks = targets_of(table)
    assert ((targets["AU"] == 0) | (targets["AU"] == 1)).all()
    assert targets["EXPR"].min() == 0
    assert targets["VA"].min() == -0.5
    assert np.array_equal(masks["AU"], aus >= 0)
    assert masks["EXPR"].sum() == 40 - 5
    assert all((targets[t][~masks[t]] == 0).all() for t in targets)
    assert [targets[t].dtype for t in ("AU", "EXPR", "VA")] == [np.float32, np.int64, np.float32]


def masked_loss(targets, masks):
    return F.binary_cross_entropy(
        torch.full((40, 12), 0.3), torch.as_tensor(targets), reduction="none"
    )[torch.as_tensor(masks)].mean()


def test_an_element_that_is_missing_cannot_move_the_loss(listing):
    table, _ = partly_labelled(listing)
    targets, masks = targets_of(table)
    other = np.where(masks["AU"], targets["AU"], 1)
    assert torch.equal(masked_loss(targets["AU"], masks["AU"]), masked_loss(other, masks["AU"]))
    # the released code's mask: a row with any unit counts whole
    rows = np.repeat(masks["AU"].any(axis=1, keepdims=True), 12, axis=1)
    assert not torch.equal(masked_loss(targets["AU"], rows), masked_loss(other, rows))


def test_valence_is_first(listing):
    targets, masks = targets_of(read_annotations(listing("v/1.jpg,0.75,-5,-1" + ",-1" * 12)))
    assert targets["VA"].tolist() == [[0.75, 0]]
    assert masks["VA"].tolist() == [[True, False]]


# Windows: startswith, text order, padding


def visits(table, length, stride):
    index, valid = make_windows(table, length, stride)
    return np.bincount(index[valid], minlength=len(table))


def test_windows_do_not_mix_videos_whose_names_begin_alike():
    table = table_of(
        {
            "140": [f"{i:05d}" for i in range(50)],
            "140-30-632x360": [f"{i:05d}" for i in range(70)],
            "1": ["00001"],
        }
    )
    index, valid = make_windows(table, 8, 8)
    videos = table.video.to_numpy()[index]
    assert (videos == videos[:, :1]).all()
    assert visits(table, 8, 8).tolist() == [1] * 121

    def released(video):
        return (table.video.str.startswith(video)).sum()  # the defect visits frames more than once

    assert sum(released(v) for v in table.video.unique()) == 50 + 70 + 70 + 121 > len(table)


@pytest.mark.parametrize(
    "length,stride", [(1, 1), (2, 1), (5, 5), (5, 3), (8, 1), (30, 15), (200, 7)]
)
def test_every_frame_is_covered_and_no_window_is_idle(length, stride):
    table = table_of(
        {f"v{n}": [f"{i:05d}" for i in range(n)] for n in (1, 2, 4, 5, 6, 29, 30, 31, 61)}
    ).sample(frac=1, random_state=0)
    index, valid = make_windows(table, length, stride)
    row_of = table.set_index("row")
    seen = {}
    windows = {}
    for rows, real in zip(index, valid):  # the definition, one window at a time
        video = row_of.video[rows[0]]
        numbers = row_of.frame[rows].astype(int).to_numpy()
        n = (table.video == video).sum()
        start = windows.get(video, 0) * stride
        windows[video] = windows.get(video, 0) + 1
        assert numbers.tolist() == np.minimum(np.arange(start, start + length), n - 1).tolist()
        assert real.tolist() == (np.arange(start, start + length) < n).tolist()
        assert set(rows[real]) - seen.get(video, set()), "a window of frames already covered"
        seen.setdefault(video, set()).update(rows[real])
    assert set().union(*seen.values()) == set(table.row)
    assert index.dtype == np.int64
    assert valid.dtype == bool


def test_frames_are_in_order_of_number_not_of_text():
    table = table_of({"v": [str(i) for i in (100, 99, 9, 10, 1)], "w": ["frame_10", "frame_9"]})
    index, _ = make_windows(table, 5, 5)
    assert table.frame.to_numpy()[index].tolist() == [
        ["1", "9", "10", "99", "100"],
        ["frame_9", "frame_10", "frame_10", "frame_10", "frame_10"],
    ]


def test_an_empty_part_has_no_windows():
    index, valid = make_windows(table_of({"v": ["1"]}).iloc[:0], 4, 2)
    assert index.shape == valid.shape == (0, 4)
    assert index.dtype == np.int64


def test_windows_give_values_of_row_not_positions():
    table = table_of({"v": ["1", "2", "3"]})
    table["row"] = [70, 80, 90]
    assert make_windows(table, 2, 1)[0].tolist() == [[70, 80], [80, 90]]


@pytest.mark.parametrize("length,stride", [(3, 4), (3, 0), (0, 0), (3, -1)])
def test_a_stride_that_leaves_frames_out_is_refused(length, stride):
    assert "stride" in error(make_windows, table_of({"v": ["1"]}), length, stride, kind=UsageError)


def test_merging_is_the_mean_over_windows_by_loops():
    table = table_of({f"v{n}": [str(i) for i in range(n)] for n in (3, 11, 20)})
    index, valid = make_windows(table, 6, 2)
    values = np.random.default_rng(0).normal(size=(*index.shape, 3))
    merged = merge_windows(values, index, valid, len(table) + 2)
    for r in range(len(table)):
        assert np.allclose(
            merged[r],
            np.mean([values[w, t] for w, t in zip(*np.nonzero((index == r) & valid))], axis=0),
        )
    assert np.isnan(merged[-2:]).all()
    assert np.isfinite(merged[:-2]).all()


# Parts


def bench_like():
    return table_of(
        {f"clip{i}": [str(j) for j in range(7)] for i in range(200)}
        | {f"long{i}": [str(j) for j in range(120)] for i in range(10)}
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_video_is_in_two_parts_and_shares_are_met(seed):
    table = bench_like()
    validation = table_of({f"val{i}": ["1", "2"] for i in range(3)}).assign(split="validation")
    table = pd.concat([table, validation], ignore_index=True)
    parts = assign_parts(table, 0.15, 0.2, 60, seed)
    assert parts.groupby("video")[["part", "role"]].nunique().max(axis=None) == 1
    pd.testing.assert_frame_equal(parts[table.columns], table)
    by_video = parts.drop_duplicates("video")
    dev = by_video[by_video.part == "dev"].video
    train = parts[parts.part == "train"]
    # both kinds, each with its share
    assert dev.str.startswith("clip").sum() == 30
    assert dev.str.startswith("long").sum() == 2
    assert set(train[train.role == "head"].video.str[:4]) == {"long"}
    assert 0.2 <= (train.role == "head").mean() < 0.2 + 120 / len(train)
    assert (parts[parts.split == "validation"].part == "validation").all()
    assert (parts[parts.part != "train"].role == "").all()


def test_parts_follow_the_seed_and_nothing_else():
    table = bench_like()

    def home(t, s):
        return (
            assign_parts(t, 0.15, 0.2, 60, s)
            .drop_duplicates("video")
            .set_index("video")[["part", "role"]]
            .sort_index()
        )

    torch.manual_seed(5)
    first = home(table, 0)
    torch.manual_seed(6)
    pd.testing.assert_frame_equal(first, home(table.sample(frac=1, random_state=1), 0))
    assert not first.equals(home(table, 1))


def test_short_videos_serve_where_none_is_long_and_too_few_are_refused():
    short = assign_parts(
        table_of({f"v{i}": ["1", "2"] for i in range(10)}), 0.2, 0.3, 60, 0
    ).drop_duplicates("video")
    assert (short.part == "dev").sum() == 2
    assert (short.role == "head").sum() == 3
    least = assign_parts(
        table_of({v: ["1", "2"] for v in "abc"}), 0.15, 0.2, 60, 0
    ).drop_duplicates("video")
    assert sorted(least.part + least.role) == ["dev", "trainencoder", "trainhead"]
    shared = assign_parts(table_of({v: ["1", "2"] for v in "abc"}), 0.15, 0, 60, 0).drop_duplicates(
        "video"
    )
    assert sorted(shared.part + shared.role) == ["dev", "trainboth", "trainboth"]
    for n in (1, 2):
        assert "at least 3" in error(
            assign_parts, table_of({v: ["1"] for v in "abc"[:n]}), 0.15, 0.2, 60, 0
        )


# Augmentation


def pictures(B=3, T=4, size=24):
    return torch.rand(B, T, 3, size, size, generator=torch.Generator().manual_seed(0))


STILL = dict(flip=0.0, scale=(1, 1), rotation=0, shift=0, zoom=(1, 1), jitter=(0, 0, 0, 0))


@pytest.mark.parametrize("per", ["window", "frame"])
def test_nothing_drawn_changes_nothing_and_a_flip_is_a_flip(per):
    x = pictures()
    assert torch.allclose(augment_frames(x, generator(0), Augmentation(per, **STILL)), x, atol=1e-5)
    assert torch.allclose(
        augment_frames(x, generator(0), Augmentation(per, **STILL | dict(flip=1.0))),
        x.flip(-1),
        atol=1e-5,
    )


def test_known_shift_zoom_and_turn():
    x = torch.zeros(1, 1, 3, 41, 41)
    x[..., 20, 30] = 1  # a point to the right of the centre
    turned = augment_frames(
        x.expand(200, 1, 3, 41, 41), generator(1), Augmentation(**STILL | dict(rotation=10))
    )[:, 0, 0]
    angle = torch.tensor(
        [torch.atan2(20.0 - p.argmax() // 41, p.argmax() % 41 - 20.0).rad2deg() for p in turned]
    )
    assert 6 < angle.max() <= 13
    assert -13 <= angle.min() < -6
    assert turned.flatten(1).argmax(1).remainder(41).min() >= 29
    shifted = (
        augment_frames(
            x.expand(200, 1, 3, 41, 41), generator(2), Augmentation(**STILL | dict(shift=0.1))
        )[:, 0, 0]
        .flatten(1)
        .argmax(1)
    )
    assert 3 <= (shifted % 41 - 30).abs().max() <= 5
    assert 3 <= (shifted // 41 - 20).abs().max() <= 5
    zoomed = augment_frames(x, generator(3), Augmentation(**STILL | dict(zoom=(1.5, 1.5))))[0, 0, 0]
    assert zoomed.argmax() % 41 == 35
    assert zoomed.argmax() // 41 == 20


def test_colour_changes_are_what_their_names_say():
    x = pictures(20, 1)

    def draw(*jitter):
        return augment_frames(
            x * 0.5 + 0.2, generator(4), Augmentation(**STILL | dict(jitter=jitter))
        )

    y = x * 0.5 + 0.2

    def grey(v):
        return (v * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2)

    ratio = draw(0.2, 0, 0, 0) / y
    assert torch.allclose(ratio, ratio[..., :1, :1, :1].expand_as(ratio), atol=1e-3)
    assert ratio.std() > 0.05
    assert (ratio - 1).abs().max() <= 0.2 + 1e-3
    contrast = draw(0, 0.2, 0, 0)
    assert torch.allclose(grey(contrast).mean((1, 2, 3)), grey(y).mean((1, 2, 3)), atol=1e-3)
    assert not torch.allclose(contrast, y, atol=0.01)
    assert torch.allclose(grey(draw(0, 0, 0.2, 0)), grey(y), atol=1e-4)
    assert torch.allclose(draw(0, 0, 0, 0.1).sum(2), y.sum(2), atol=1e-4)
    assert not torch.allclose(draw(0, 0, 0, 0.1), y, atol=0.05)
    assert not torch.allclose(draw(0, 0, 0.2, 0), y, atol=0.01)
    flat = torch.full((5, 1, 3, 8, 8), 0.4)
    assert torch.allclose(
        augment_frames(flat, generator(5), Augmentation(**STILL | dict(jitter=(0, 0.2, 0.2, 0.1)))),
        flat,
        atol=1e-5,
    )


def test_drawn_once_a_window_or_for_each_frame():
    still = pictures(5, 1).expand(5, 6, 3, 24, 24)

    def spread(v):
        return (v - v[:, :1]).abs().amax((1, 2, 3, 4))

    # the released loader's way fails here
    assert spread(augment_frames(still, generator(0), Augmentation("window"))).max() == 0
    assert spread(augment_frames(still, generator(0), Augmentation("frame"))).min() > 0.05
    # windows differ from each other
    assert not torch.allclose(
        *augment_frames(still[:1].expand(2, 6, 3, 24, 24), generator(0), Augmentation("window")),
        atol=0.05,
    )


@pytest.mark.parametrize("per", ["window", "frame"])
def test_augmentation_touches_no_global_chance_and_no_input(per):
    x = pictures()
    before = x.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment_frames(x, generator(9), Augmentation(per))
    torch.rand(7)
    torch.manual_seed(2)
    assert torch.equal(first, augment_frames(x, generator(9), Augmentation(per)))
    assert torch.equal(x, before)
    assert first.min() >= 0
    assert first.max() <= 1
    torch.manual_seed(1)
    augment_frames(x, generator(9), Augmentation(per))
    assert torch.equal(state, torch.get_rng_state())


def test_unknown_words_are_refused_with_the_nearest():
    assert "did you mean `window`" in error(
        augment_frames, pictures(), generator(0), Augmentation("windows"), kind=UsageError
    )
    table = table_of({"v": ["1", "2"]})
    index, valid = make_windows(table, 1, 1)
    assert "did you mean `frame`" in error(
        Batches, None, table, index, valid, 2, augment="frames", kind=UsageError
    )


def test_augmentation_works_on_whole_batches():
    x = torch.rand(64, 1, 3, 48, 48)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def seconds(parts):
        for part in parts:
            augment_frames(part, generator(0))
        start = time.process_time()
        for _ in range(5):
            [augment_frames(part, generator(0)) for part in parts]
        return time.process_time() - start

    # a loop over frames takes about ten times as long
    try:
        assert seconds([x]) < seconds(x.split(1)) / 3
    finally:
        torch.set_num_threads(threads)


# Batches


@pytest.fixture(scope="module")
def stock():
    table = table_of({f"v{i}": [str(j) for j in range(5 + i)] for i in range(6)})
    frames = np.random.default_rng(0).integers(0, 256, (len(table), 12, 12, 3), dtype=np.uint8)
    return frames, table, *make_windows(table, 4, 3)


def gather(batches):
    return torch.cat([b.rows for b in batches])


def same(a, b):
    return (
        torch.equal(a.frames, b.frames)
        and torch.equal(a.rows, b.rows)
        and all(torch.equal(a.targets[t], b.targets[t]) for t in a.targets)
    )


@pytest.mark.parametrize("augment", ["none", "window", "frame"])
def test_an_epoch_follows_seed_and_number_alone(stock, augment):
    def make(seed=3):
        return Batches(*stock, 4, augment=augment, seed=seed)

    torch.manual_seed(0)
    np.random.seed(0)
    first = list(make().epoch(2))
    torch.manual_seed(99)
    np.random.seed(9)
    used = make()
    list(used.epoch(0))
    list(used.ordered())
    assert all(map(same, first, used.epoch(2)))
    assert not torch.equal(gather(first), gather(make().epoch(3)))
    assert not torch.equal(gather(first), gather(make(4).epoch(2)))
    late = used.epoch(2)
    next(late)
    torch.rand(3)
    assert same(first[1], next(late))


def test_each_epoch_and_each_batch_is_augmented_anew(stock):
    frames, table, index, valid = stock
    twice = index[[0, 0]], valid[[0, 0]]
    batches = Batches(frames, table, *twice, 1, augment="window")
    (a, b), (c, _) = (list(batches.epoch(e)) for e in (0, 1))
    assert torch.equal(a.rows, b.rows)
    assert not torch.allclose(a.frames, b.frames, atol=0.05)
    assert not torch.allclose(a.frames, c.frames, atol=0.05)
    plain = Batches(frames, table, *twice, 1)
    assert same(*plain.ordered())
    assert same(next(plain.epoch(0)), next(batches.ordered()))


def test_labels_belong_to_their_frames(stock):
    frames, table, index, valid = stock
    targets, masks = targets_of(table)
    for b in Batches(frames, table.sample(frac=1, random_state=0), index, valid, 4, seed=1).epoch(
        0
    ):
        r = b.rows.numpy()
        assert np.allclose(
            (b.frames * 0.25 + 0.5).movedim(2, -1).numpy() * 255, frames[r], atol=1e-3
        )
        for t in targets:
            assert np.array_equal(b.targets[t], targets[t][r])
            assert b.masks[t].shape == b.targets[t].shape
            assert np.array_equal(
                b.masks[t].numpy(),
                masks[t][r] & (b.valid.numpy() if t == "EXPR" else b.valid.numpy()[..., None]),
            )
    assert b.frames.shape[1:] == (4, 3, 12, 12)
    assert b.features is None


def test_padding_is_never_a_label(stock):
    frames, table, index, valid = stock
    assert not valid.all()
    batch = next(Batches(frames, table, index, valid, 1000).ordered())
    assert all(not m[~batch.valid].any() and m[batch.valid].all() for m in batch.masks.values())


def test_each_window_once_or_as_many_frames_as_asked(stock):
    frames, table, index, valid = stock
    W = len(index)

    def firsts(b):
        return sorted(tuple(r.tolist()) for r in gather(b))

    assert (
        firsts(Batches(*stock, 4).epoch(0))
        == sorted(map(tuple, index.tolist()))
        == firsts(Batches(*stock, 4).ordered())
    )
    assert W % 4 != 1
    for wanted in (4, 12, 4 * W, 4 * (2 * W + 2)):
        batches = (
            Batches(*stock, 4, frames_per_epoch=wanted)
            if wanted > 4
            else Batches(*stock, 1, frames_per_epoch=wanted)
        )
        rows = gather(batches.epoch(0))
        assert rows.numel() == wanted
        assert len(list(batches.epoch(0))) == len(batches)
    # evenly, not by luck
    counts = np.unique(rows[:, 0].numpy(), return_counts=True)[1]
    assert counts.min() >= 2
    assert counts.max() <= 3


def test_a_last_batch_of_one_window_is_left_out(stock):
    frames, table, index, valid = stock
    for n, size, sizes in (
        (9, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
        (3, 8, [3]),
    ):
        batches = Batches(frames, table, index[:n], valid[:n], size)
        assert [len(b.valid) for b in batches.epoch(0)] == sizes
        assert len(batches) == len(sizes)
        assert gather(batches.ordered()).shape[0] == n


def test_stored_features_alone(stock):
    _, table, index, valid = stock
    features = np.random.default_rng(0).normal(size=(len(table), 3, 5)).astype(np.float16)
    for b in Batches(None, table, index, valid, 4, features=features).epoch(0):
        assert b.frames is None
        assert b.features.dtype == torch.float32
        assert np.array_equal(b.features.numpy(), features[b.rows.numpy()].astype(np.float32))


def test_a_part_sees_its_own_rows_only(stock):
    frames, table, _, _ = stock
    part = table[table.video == "v3"]
    index, valid = make_windows(part, 4, 3)
    assert set(gather(Batches(frames, part, index, valid, 4).ordered()).flatten().tolist()) == set(
        part.row
    )
    assert "belong together" in error(Batches, frames, table[table.video == "v1"], index, valid, 4)
    assert "empty" in error(Batches, frames, part, index[:0], valid[:0], 4)


def test_prepared_frames_are_normalised():
    white, black = (
        prepare_frames(torch.full((1, 1, 4, 4, 3), v, dtype=torch.uint8)) for v in (255, 0)
    )
    assert (white == 2).all()
    assert (black == -2).all()
    assert white.shape == (1, 1, 3, 4, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("augment", ["none", "window", "frame"])
def test_the_gpu_sees_the_same_batches(stock, augment):
    for a, b in zip(
        Batches(*stock, 4, augment=augment).epoch(1),
        Batches(*stock, 4, device="cuda", augment=augment).epoch(1),
    ):
        assert b.frames.is_cuda
        assert b.masks["AU"].is_cuda
        assert torch.equal(a.rows, b.rows.cpu())
        assert torch.allclose(a.frames, b.frames.cpu(), atol=1e-3)


# Real photographs


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/real-faces beside this checkout")
def test_real_photographs_from_list_to_batch(tmp_path):
    table, counts = check_folder(REAL)
    assert (
        counts["train"]["listed"]
        == counts["train"]["frames"] + counts["train"]["duplicates"] + counts["train"]["absent"]
    )
    assert counts["train"]["missing"]["aus"] == counts["train"]["frames"]
    assert counts["train"]["missing"]["expression"] == 0
    pack(REAL, tmp_path / "p", 48, workers=2)
    packed = open_packed(tmp_path / "p")
    assert len(packed.frames) == len(table)
    assert packed.manifest["undecodable"] == []
    assert packed.frames.std() > 30
    parts = assign_parts(packed.table, 0.15, 0.2, 16, 0)
    train = parts[parts.role == "encoder"]
    batch = next(
        Batches(packed.frames, train, *make_windows(train, 8, 4), 16, augment="window").epoch(0)
    )
    assert batch.frames.isfinite().all()
    assert batch.masks["EXPR"].equal(batch.valid)
    assert not batch.masks["AU"].any()
    assert not batch.masks["VA"].any()


def test_head_role_takes_short_videos_where_the_long_ones_do_not_suffice():
    """One person with many photographs among hundreds with few must not be the only one that fusion
    and time learn from.
    """
    table = pd.concat(
        [pd.DataFrame(dict(video="many", split="train", row=range(71)))]
        + [pd.DataFrame(dict(video=f"p{i}", split="train", row=range(2))) for i in range(300)]
        + [pd.DataFrame(dict(video="v", split="validation", row=range(5)))],
        ignore_index=True,
    )
    parts = assign_parts(table, 0.15, 0.25, 60, 0)
    train = parts[parts.part == "train"]
    head = train[train.role == "head"]
    assert "many" in set(head.video)
    assert head.video.nunique() > 20
    assert 0.25 <= len(head) / len(train) < 0.26
    assert not set(head.video) & set(train[train.role == "encoder"].video)
