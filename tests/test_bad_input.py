"""Bad input, kind by kind: each gets one line that names file, row and remedy, or is dropped and
counted, or is harmless and read as it should be.

Every kind is made in a small s-Aff-Wild2 folder that is in order but for it, and read as a user
would: `affnb check FOLDER`.
Whatever is found, the folder is left as it was, and nothing outside it is read.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
import numpy as np
import psutil
import pytest
from PIL import Image, ImageDraw
from affnb.engine.cli import main
from affnb.engine.core import AU_NAMES, AffnbError, load_config
from affnb.engine.data import HEADER, decode_image, open_packed, pack
from errors import assert_error, assert_one_line

FULL = "0.25,-0.5,4,1,0,0,0,1,0,0,0,0,0,1,0"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path):
    "Four training videos of three frames, one validation video of three: in order."
    home = tmp_path / "data"
    for video in "abcde":
        (home / "cropped_aligned" / video).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (24, 24), (60 * i, 90, 120)).save(
                home / "cropped_aligned" / video / f"{i}.jpg"
            )

    def rows(videos):
        return HEADER + "\n" + "".join(f"{v}/{i}.jpg,{FULL}\n" for v in videos for i in range(3))

    (home / "training_set_annotations.txt").write_text(rows("abcd"))
    (home / "validation_set_annotations.txt").write_text(rows("e"))
    (tmp_path / "secret.txt").write_text("a secret that is no annotation\n")
    (tmp_path / "outside").mkdir()
    Image.new("RGB", (24, 24)).save(tmp_path / "outside" / "0.jpg")
    return home


def state(folder):
    "Everything below a folder: names, kinds, bytes, times."
    states = {}
    for path in sorted(Path(folder).rglob("*")):
        info = path.lstat()
        states[str(path.relative_to(folder))] = (
            info.st_mode,
            info.st_mtime_ns,
            (
                hashlib.sha256(path.read_bytes()).hexdigest()
                if path.is_file() and info.st_size < 1e7
                else info.st_size
            ),
        )
    return states


def checked(folder, capsys):
    "Exit code, lines of the table, and the error of `affnb check`; the folder stays as it is."
    before = state(folder)
    code = main(["check", str(folder)])
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.strip()]
    assert state(folder) == before
    assert len(errors) == (code != 0), printed.err
    assert "Traceback" not in printed.err, printed.err
    assert "a secret" not in printed.out + printed.err, printed.err
    return code, printed.out, errors[0] if errors else ""


def counted(out):
    "The table that `affnb check` prints: split -> column -> text."
    lines = out.splitlines()
    names = re.split(r"\s{1,}", lines[0].strip().replace("missing ", "missing_"))
    return {row[0]: dict(zip(names, row)) for row in (line.split() for line in lines[1:3])}


def rewrite(change):
    "Does something to the text of the training list."

    def spoil(folder):
        path = folder / "training_set_annotations.txt"
        made = change(path.read_text())
        path.write_bytes(made if isinstance(made, bytes) else made.encode())

    return spoil


def row(text, n=5):  # of the list, from 1; 1 is the header
    "Puts a row in the place of one, which is line 5: b/0.jpg."
    return rewrite(
        lambda text_before: (
            "\n".join(
                text if i == n else line for i, line in enumerate(text_before.splitlines(), 1)
            )
            + "\n"
        )
    )


def field(column, value):  # 0 valence, 1 arousal, 2 expression, 3 AU1, ...
    values = FULL.split(",")
    values[column] = value
    return row("b/0.jpg," + ",".join(values))


def also(*rows):
    return rewrite(lambda text_before: text_before + "".join(f"{r}\n" for r in rows))


def linked(target, name):
    def spoil(folder):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to((folder.parent / target) if not target.startswith("/") else target)

    return spoil


AT = "training_set_annotations.txt, line 5: "
LIST = "training_set_annotations.txt"
REFUSED = {  # kind: (how, words of the line)
    "an empty list": (rewrite(lambda t: ""), [LIST, "empty", HEADER]),
    "blank lines alone": (rewrite(lambda t: "\n \n\n"), [LIST, "empty"]),
    "a header alone": (rewrite(lambda t: HEADER + "\n"), [LIST, "no rows"]),
    "no header": (rewrite(lambda t: t.split("\n", 1)[1]), [LIST, "line 1", "no header", HEADER]),
    "15 columns": (row("b/0.jpg," + FULL[:-2]), [AT, "15 value(s)", "must be 16"]),
    "17 columns": (row("b/0.jpg," + FULL + ",0"), [AT, "17 value(s)", "must be 16"]),
    "a name alone": (row("b/0.jpg"), [AT, "1 value(s)"]),
    "a workbook": (rewrite(lambda t: b"PK\3\4" + t.encode()), [LIST, "workbook", "CSV"]),
    "a column twice": (rewrite(lambda t: t.replace("arousal", "valence", 1)), [LIST, "valence"]),
    "a column that nobody knows": (
        rewrite(lambda t: t.replace("arousal", "dominance", 1)),
        [LIST, "line 1", "dominance"],
    ),
    "UTF-16 without a mark": (
        rewrite(lambda t: t.encode("utf-16-be")),
        [LIST, "line 1", "UTF-8"],
    ),
    "Latin-1": (rewrite(lambda t: t.replace("b/0", "bé/0").encode("latin-1")), [LIST, "not UTF-8"]),
    "a picture for a list": (rewrite(lambda t: b"\x89PNG\r\n\x1a\n\0\0"), [LIST, "not UTF-8"]),
    "a NUL in a value": (field(0, "0.2\0"), [AT, "NUL"]),
    "a NUL in a path": (row(f"b/0\0.jpg,{FULL}"), [AT, "NUL"]),
    "a control character in a path": (row(f"b/0\x1b[31m.jpg,{FULL}"), [AT, "image"]),
    "an empty value": (field(1, ""), [AT, "arousal = ''", "not a number"]),
    "a word": (field(2, "Happiness"), [AT, "expression = 'Happiness'"]),
    "a value of 4,000 letters": (field(2, "x" * 4000), [AT, "4,000 characters"]),
    "NaN": (field(0, "nan"), [AT, "valence = 'nan'"]),
    "infinity": (field(0, "inf"), [AT, "valence = inf", "[-1, 1]", "-5 where missing"]),
    "minus infinity": (field(1, "-inf"), [AT, "arousal = -inf"]),
    "a number too large for a float": (field(1, "1e999"), [AT, "arousal = inf"]),
    "hexadecimal": (field(3, "0x1"), [AT, "AU1 = '0x1'"]),
    "an underscore": (field(3, "1_0"), [AT, "AU1"]),
    "another alphabet's digits": (field(3, "١"), [AT, "AU1"]),
    "valence above 1": (field(0, "1.01"), [AT, "valence = 1.01"]),
    "valence near the code for missing": (field(0, "-4.99"), [AT, "valence = -4.99"]),
    "the other code for missing": (field(0, "-2"), [AT, "valence = -2", "-5 where missing"]),
    "arousal below -1": (field(1, "-1.5"), [AT, "arousal = -1.5"]),
    "expression 8": (field(2, "8"), [AT, "expression = 8", "0 to 7", "-1 where missing"]),
    "expression -5": (field(2, "-5"), [AT, "expression = -5"]),
    "between two expressions": (field(2, "2.5"), [AT, "expression = 2.5"]),
    "half a unit": (field(7, "0.5"), [AT, "AU7 = 0.5", "0 or 1"]),
    "unit 2": (field(14, "2"), [AT, "AU26 = 2"]),
    "unit -5": (field(14, "-5"), [AT, "AU26 = -5"]),
    "an absolute path": (
        row(f"/etc/passwd,{FULL}"),
        [AT, "image = '/etc/passwd'", "below cropped_aligned/"],
    ),
    "a way up": (row(f"b/../../0.jpg,{FULL}"), [AT, "image"]),
    "a way up at the start": (row(f"../../secret.txt,{FULL}"), [AT, "image"]),
    "a dot for a folder": (row(f"./b/0.jpg,{FULL}"), [AT, "image"]),
    "two slashes": (row(f"b//0.jpg,{FULL}"), [AT, "image"]),
    "backslashes": (row(f"b\\0.jpg,{FULL}"), [AT, "image"]),
    "a drive": (row(f"C:/b/0.jpg,{FULL}"), [AT, "image"]),
    "no folder": (row(f"0.jpg,{FULL}"), [AT, "video/frame.jpg"]),
    "an empty name": (row(f",{FULL}"), [AT, "image = ''"]),
    "a name of 4,000 letters without a folder": (
        row("x" * 4000 + f".jpg,{FULL}"),
        [AT, "4,004 characters"],
    ),
    "no list": (lambda f: (f / LIST).unlink(), [LIST, "is missing"]),
    "a folder for a list": (
        lambda f: ((f / LIST).unlink(), (f / LIST).mkdir()),
        [LIST, "is missing"],
    ),
    "a pipe for a list": (
        lambda f: ((f / LIST).unlink(), os.mkfifo(f / LIST)),
        [LIST, "is missing"],
    ),
    "no pictures": (lambda f: shutil.rmtree(f / "cropped_aligned"), ["cropped_aligned"]),
    "no listed picture": (
        lambda f: [p.unlink() for v in "abcd" for p in (f / "cropped_aligned" / v).iterdir()],
        [LIST, "no listed image", "a/0.jpg", "unpack"],
    ),
    "no picture that can be decoded": (
        lambda f: [p.write_bytes(b"no") for p in f.rglob("*.jpg")],
        ["can be decoded", "a/0.jpg"],
    ),
    "a video in both lists": (also(f"e/0.jpg,{FULL}"), ["'e'", "train list"]),
    "no label at all": (
        rewrite(lambda t: t.replace(FULL, "-5,-5,-1" + ",-1" * 12)),
        [LIST, "label"],
    ),
    "too few videos": (
        rewrite(lambda t: "\n".join(line for line in t.splitlines() if line[0] in "ia") + "\n"),
        [LIST, "too few", "at least 3"],
    ),
    "a picture that is a link out": (
        linked("outside/0.jpg", "cropped_aligned/b/0.jpg"),
        ["cropped_aligned/b/0.jpg", "leads to", "outside"],
    ),
    "a video that is a link out": (
        linked("outside", "cropped_aligned/b"),
        ["cropped_aligned/b", "leads to"],
    ),
    "a list that is a link out": (linked("secret.txt", LIST), [LIST, "leads to"]),
    "a list that is a link to a system's file": (linked("/etc/passwd", LIST), [LIST, "leads to"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_named_with_a_remedy(kind, folder, capsys):
    spoil, words = REFUSED[kind]
    spoil(folder)
    code, _, line = checked(folder, capsys)
    assert code == 1
    assert line.startswith("affnb: ")
    assert len(line) < 600
    for word in words:
        assert word in line, line


def bytes_of(picture, kind, **options):
    made = io.BytesIO()
    picture.save(made, kind, **options)
    return made.getvalue()


def picture(mode="RGB", size=(24, 24), colour=None):
    return Image.new(
        mode,
        size,
        (
            colour
            if colour is not None
            else {
                "RGB": (200, 120, 40),
                "L": 200,
                "P": 3,
                "CMYK": (0, 0, 0, 55),
                "RGBA": (200, 120, 40, 255),
                "1": 1,
                "I;16": 200 * 257,
            }[mode]
        ),
    )


def put(made):
    return lambda folder: (folder / "cropped_aligned/b/0.jpg").write_bytes(
        made() if callable(made) else made
    )


def bomb():
    "A PNG of 30,000 x 30,000 pixels in some kilobytes."
    import struct
    import zlib

    def part(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0))
        + part(b"IDAT", zlib.compress(bytes(3751 * 30000)))
        + part(b"IEND", b"")
    )


DROPPED = {  # kind: (how, the column of `affnb check` that counts it)
    "zero bytes": (put(b""), "undecodable"),
    "a cut JPEG": (put(lambda: bytes_of(picture(size=(200, 200)), "JPEG")[:700]), "undecodable"),
    "a cut PNG": (put(lambda: bytes_of(picture(size=(200, 200)), "PNG")[:100]), "undecodable"),
    "text for a picture": (put(b"not a picture"), "undecodable"),
    "HTML for a picture": (
        put(b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        "undecodable",
    ),
    "SVG": (put(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "undecodable"),
    "PostScript, for which another program would be started": (
        put(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\nshowpage\n"),
        "undecodable",
    ),
    "numbers without a range": (
        put(lambda: bytes_of(Image.fromarray(np.full((24, 24), 0.5, np.float32)), "TIFF")),
        "undecodable",
    ),
    "1 x 1": (put(lambda: bytes_of(picture(size=(1, 1)), "JPEG")), "undecodable"),
    "30,000 x 30,000": (put(bomb), "undecodable"),
    "a file that is not there": (lambda f: (f / "cropped_aligned/b/0.jpg").unlink(), "absent"),
    "a folder for a picture": (
        lambda f: (
            (f / "cropped_aligned/b/0.jpg").unlink(),
            (f / "cropped_aligned/b/0.jpg").mkdir(),
        ),
        "absent",
    ),
    "a pipe for a picture": (
        lambda f: (
            (f / "cropped_aligned/b/0.jpg").unlink(),
            os.mkfifo(f / "cropped_aligned/b/0.jpg"),
        ),
        "absent",
    ),
    "a link to itself": (
        linked("data/cropped_aligned/b/0.jpg", "cropped_aligned/b/0.jpg"),
        "absent",
    ),
    "a link to nothing": (
        linked("data/cropped_aligned/b/nothing.jpg", "cropped_aligned/b/0.jpg"),
        "absent",
    ),
    "a name of 4,000 letters": (row("b/" + "x" * 4000 + f".jpg,{FULL}"), "absent"),
    "a video of 4,000 letters": (row("b" * 4000 + f"/0.jpg,{FULL}"), "absent"),
    "a row twice": (also(f"b/0.jpg,{FULL}"), "duplicates"),
    "a row twice with other labels": (
        also(f"b/0.jpg,{FULL.replace('0.25', '0.26')}"),
        "conflicting",
    ),
}


@pytest.mark.parametrize("kind", DROPPED)
def test_what_can_be_done_without_is_dropped_and_counted(kind, folder, tmp_path, capsys):
    spoil, column = DROPPED[kind]
    spoil(folder)
    code, out, _ = checked(folder, capsys)
    counts = counted(out)
    assert code == 0, out
    assert counts["train"][column] == "1", out
    assert counts["validation"][column] == "0", out
    # and it is named
    assert (
        column == "duplicates" or "b" in out.splitlines()[-1] and len(out.splitlines()[-1]) < 5000
    )
    pack(folder, tmp_path / "packed", 16)
    packed = open_packed(tmp_path / "packed")
    assert len(packed.frames) == 15 - (column in ("undecodable", "absent"))
    assert packed.manifest["counts"]["train"][column] == 1


HARMLESS = {  # kind: (how, the grey of b/0.jpg, or None)
    "a byte order mark": (rewrite(lambda t: b"\xef\xbb\xbf" + t.encode()), None),
    "lines of Windows": (rewrite(lambda t: t.replace("\n", "\r\n")), None),
    "lines of old Macs": (rewrite(lambda t: t.replace("\n", "\r")), None),
    "blank lines and spaces": (
        rewrite(lambda t: "\n\n" + t.replace(",", " , ").replace("\n", "\n\n")),
        None,
    ),
    "no newline at the end": (rewrite(str.rstrip), None),
    "arousal before valence": (
        rewrite(lambda t: t.replace("valence,arousal", "arousal,valence")),
        None,
    ),
    "a header with a name a unit": (rewrite(lambda t: t.replace("aus", ",".join(AU_NAMES))), None),
    "semicolons": (rewrite(lambda t: t.replace(",", ";")), None),
    "tabs": (rewrite(lambda t: t.replace(",", "\t")), None),
    "decimal commas": (row('b/0.jpg,"0,25",-0.5,4' + ",0" * 12), None),
    "a path in quotes": (row(f'"b/0.jpg",{FULL}'), None),
    "a value in quotes": (field(0, '"0.25"'), None),
    "UTF-16, as Windows has it": (rewrite(lambda t: t.encode("utf-16")), None),
    "decimals for whole numbers": (rewrite(lambda t: t.replace(",4,1,0", ",4.0,1.0,0e0")), None),
    "a name with spaces": (
        lambda f: (
            (f / "cropped_aligned/b").rename(f / "cropped_aligned/b and c"),
            rewrite(lambda t: t.replace("b/", "b and c/"))(f),
        ),
        None,
    ),
    "letters of all the world": (
        lambda f: (
            (f / "cropped_aligned/b").rename(f / "cropped_aligned/Gesichter-é-顔-😀"),
            rewrite(lambda t: t.replace("b/", "Gesichter-é-顔-😀/"))(f),
        ),
        None,
    ),
    "names that look like commands": (
        lambda f: (
            (f / "cropped_aligned/b").rename(f / "cropped_aligned/$(touch x);'&*?"),
            rewrite(lambda t: t.replace("b/", "$(touch x);'&*?/"))(f),
        ),
        None,
    ),
    "PNG called jpg": (put(lambda: bytes_of(picture(), "PNG")), (200, 120, 40)),
    "WebP called jpg": (put(lambda: bytes_of(picture(), "WEBP", lossless=True)), (200, 120, 40)),
    "CMYK": (put(lambda: bytes_of(picture("CMYK"), "JPEG")), (200, 200, 200)),
    "greyscale": (put(lambda: bytes_of(picture("L"), "JPEG")), (200, 200, 200)),
    "16 bits of grey": (put(lambda: bytes_of(picture("I;16"), "PNG")), (200, 200, 200)),
    "alpha": (put(lambda: bytes_of(picture("RGBA"), "PNG")), (200, 120, 40)),
    "black and white": (put(lambda: bytes_of(picture("1"), "PNG")), (255, 255, 255)),
    "an animation": (
        put(
            lambda: bytes_of(
                picture(), "GIF", save_all=True, append_images=[picture(colour=(0, 0, 0))]
            )
        ),
        (200, 120, 40),
    ),
    "a long and narrow picture": (
        put(lambda: bytes_of(picture(size=(400, 9)), "PNG")),
        (200, 120, 40),
    ),
    "a link within the folder": (
        linked("data/cropped_aligned/c/0.jpg", "cropped_aligned/b/0.jpg"),
        None,
    ),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_is_harmless_is_read_as_it_is_meant(kind, folder, tmp_path, capsys):
    spoil, colour = HARMLESS[kind]
    spoil(folder)
    code, out, _ = checked(folder, capsys)
    assert code == 0, out
    assert all(
        counted(out)["train"][column] == "0"
        for column in ("duplicates", "conflicting", "absent", "undecodable")
    ), out
    pack(folder, tmp_path / "packed", 16)
    packed = open_packed(tmp_path / "packed")
    assert len(packed.frames) == 15
    assert not (Path.cwd() / "x").exists()
    if colour:
        assert abs(packed.frames[3].astype(int) - np.array(colour)).max() <= 4, packed.frames[
            3, 8, 8
        ]


def test_a_picture_taken_on_its_side_is_set_upright(tmp_path):
    side = picture(size=(40, 40), colour=(0, 0, 0))
    # white on the left, as the sensor saw it
    ImageDraw.Draw(side).rectangle((0, 0, 12, 39), fill=(255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    side.save(tmp_path / "side.jpg", exif=exif, quality=95)
    pixels = np.frombuffer(decode_image(tmp_path / "side.jpg", 40), np.uint8).reshape(40, 40, 3)
    # white on top
    assert pixels[:8].mean() > 200
    assert pixels[20:].mean() < 30


def test_at_least_sixty_kinds():
    assert len(REFUSED) + len(DROPPED) + len(HARMLESS) >= 90


# ---------------------------------------------------------------- settings, parameters
SETTINGS = [
    ("lr=inf", "finite"),
    ("lr=nan", "finite"),
    ("lr=-1", "greater than 0"),
    ("lr=1e-5x", "number"),
    ("epochs=2.5", "int"),
    ("epochs=1e3", "int"),
    ("epochs=", "int"),
    ("=3", "unknown setting"),
    ("epochs", "name=value"),
    ("checkpoint_seconds=-1", "or equal to 0"),
    ("bootstrap=0", "or equal to 1"),
    ("fold=6", "or equal to 5"),
    ("profile=smoke", "unknown setting"),
    ("fused=AU,V", "'EXPR'"),
    ("seeds=0,0", "different"),
    ("seeds=-3", "or equal to 0"),
    ("bench_seed=-3", "or equal to 0"),
    ("tasks=", "at least 1 item"),
    ("tasks=AU,FACES", "'EXPR'"),
    ("fused=AU;EXPR", "'EXPR'"),
    ("finetune_encoder=yes please", "bool"),
    ("mae_mask_ratio=1", "less than 1"),
    ("augment=windows", "did you mean `window`"),
    ("stem=cnov", "did you mean `conv`"),
    ("temporal=lsmt", "did you mean `lstm`"),
    ("fusion=gated", "did you mean `gate`"),
    ("device=gpu", "'cpu'"),
    ("encoder=__import__('os').system('touch x')", "encoder"),
    ("encoder=resnet50", "encoder"),
    ("patch_size=5", "patch_size"),
    ("width=7", "width"),
    ("pretrained=/etc/passwd", "pretrained"),
]


@pytest.mark.parametrize("setting, word", SETTINGS, ids=[s for s, _ in SETTINGS])
def test_a_setting_that_makes_no_sense_is_refused(setting, word, tmp_path, capsys):
    code = main(
        [
            "reproduce",
            "--profile",
            "tiny",
            "--set",
            setting,
            "--out",
            str(tmp_path / "out"),
            "--dry-run",
        ]
    )
    assert code in (1, 2)
    assert_one_line(capsys.readouterr().err, word)
    assert not (tmp_path / "out").exists()
    assert not Path("x").exists()


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "unknown profile"),
        ("[tiny]\nepochs = 1\nepochs = 2\n", "cannot be read"),
        ("epochs = 1\n", "cannot be read"),
        ("[tiny]\nepohcs = 1\n", "did you mean `epochs`"),
        ("[tiny]\nepochs = many\n", "int"),
        ("[tiny]\nepochs = %(seeds)s\n", "int"),
        ("\0\0", "cannot be read"),
        ("[smoke]\n", "unknown profile `tiny`"),
    ],
)
def test_a_settings_file_that_makes_no_sense_is_refused(text, word, tmp_path):
    (tmp_path / "settings.ini").write_text(text)
    with pytest.raises(AffnbError) as error:
        load_config("tiny", path=tmp_path / "settings.ini")
    assert_error(error, remedy=None)
    assert word in str(error.value)


@pytest.mark.parametrize("name", ["a{b}c", "a\nb"])
def test_a_folder_that_snakemake_would_misread_is_refused(name, tmp_path, capsys):
    assert main(["reproduce", "--profile", "tiny", "--out", str(tmp_path / name), "--dry-run"]) == 2
    assert_one_line(capsys.readouterr().err, repr(str(tmp_path / name)), "Snakemake")
    assert not (tmp_path / name).exists()


# ---------------------------------------------------------------- checkpoints and weights
WEIGHTS = [
    ("cut", lambda p: p.write_bytes(p.read_bytes()[:-40])),
    ("empty", lambda p: p.write_bytes(b"")),
    ("no safetensors", lambda p: p.write_bytes(b"x" * 200)),
    (
        "a header that promises too much",
        lambda p: p.write_bytes((1 << 60).to_bytes(8, "little") + b"{}"),
    ),
]


def a_pickle(path):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {path.parent / 'run'}",)

    path.write_bytes(pickle.dumps(Evil()))


@pytest.mark.parametrize("how", [*WEIGHTS, ("a pickle", a_pickle)], ids=lambda how: how[0])
def test_a_file_of_weights_that_is_none_is_named(how, tmp_path):
    from torch import nn
    from affnb.engine.weights import load_weights, save_weights
    from affnb.engine.checkpoints import load_checkpoint, save_checkpoint
    from affnb.train import make_optimizer

    model = nn.Linear(4, 3)
    optimizer = make_optimizer(model, 0.1, 0)
    for name, write, read in (
        ("weights", lambda p: save_weights(model, p), lambda p: load_weights(model, p)),
        (
            "last",
            lambda p: save_checkpoint(p, model, optimizer, key="k", history=[]),
            lambda p: load_checkpoint(p, model, optimizer, "k"),
        ),
    ):
        path = tmp_path / f"{name}.safetensors"
        write(path)
        how[1](path)
        with pytest.raises(AffnbError) as error:
            read(path)
        assert_error(error, path)
    assert not (tmp_path / "run").exists()  # nothing in it was carried out


@pytest.mark.parametrize(
    "how", [*WEIGHTS, ("a pickle", a_pickle), ("not there", Path.unlink)], ids=lambda how: how[0]
)
def test_features_and_predictions_that_cannot_be_read_are_named(how, tmp_path):
    from affnb.heads import predictions_of, stored_features
    from toy import toy_run

    run = toy_run(tmp_path)
    features, predictions = (
        tmp_path / "seed0" / "joint" / f"{name}.safetensors" for name in ("features", "predictions")
    )
    shutil.copyfile(features, predictions)  # a safetensors file, too
    for path, read in (
        (features, lambda: stored_features(run, "joint", 0)),
        (predictions, lambda: predictions_of(run, "joint", 0)),
    ):
        how[1](path)
        with pytest.raises(AffnbError) as error:
            read()
        assert_error(error, path)
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.rglob("run"))


@pytest.mark.parametrize(
    "name, value",
    [("optimizer.0.exp_avg", (7, 7)), ("optimizer.x", (1,)), ("optimizer.99.exp_avg", (4, 3))],
)
def test_a_checkpoint_with_moments_that_do_not_fit_is_named(name, value, tmp_path):
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    from torch import nn
    from affnb.engine.checkpoints import load_checkpoint, save_checkpoint
    from affnb.train import make_optimizer

    path = tmp_path / "last.safetensors"
    model = nn.Linear(4, 3)
    optimizer = make_optimizer(model, 0.1, 0)
    model(torch.rand(2, 4)).sum().backward()
    optimizer.step()
    save_checkpoint(path, model, optimizer, key="k", history=[])
    with safe_open(path, "pt") as file:
        state = file.metadata()
    save_file(load_file(path) | {name: torch.zeros(value)}, path, metadata=state)
    with pytest.raises(AffnbError) as error:
        load_checkpoint(path, model, make_optimizer(model, 0.1, 0), "k")
    assert_error(error, path, "checkpoint", remedy="delete")


def test_weights_of_another_shape_are_named(tmp_path):
    from torch import nn
    from affnb.engine.weights import load_weights, save_weights
    from affnb.engine.checkpoints import load_checkpoint, save_checkpoint
    from affnb.train import make_optimizer

    small = nn.Linear(4, 3)
    large = nn.Linear(5, 3)
    save_weights(small, tmp_path / "weights.safetensors")
    save_checkpoint(
        tmp_path / "last.safetensors", small, make_optimizer(small, 0.1, 0), key="k", history=[]
    )
    for read in (
        lambda: load_weights(large, tmp_path / "weights.safetensors"),
        lambda: load_checkpoint(
            tmp_path / "last.safetensors", large, make_optimizer(large, 0.1, 0), "k"
        ),
    ):
        with pytest.raises(AffnbError) as error:
            read()
        for fact in ("`weight`", "(3, 4)", "(3, 5)"):
            assert fact in str(error.value)
    # that of another arm is nobody's business
    assert (
        load_checkpoint(
            tmp_path / "last.safetensors", large, make_optimizer(large, 0.1, 0), "another arm"
        )
        is None
    )


# ---------------------------------------------------------------- disk and memory
def within(script, *words):
    "Runs a shell script with a file system of its own."
    try:
        done = subprocess.run(
            [
                "unshare",
                "--mount",
                "--map-root-user",
                "bash",
                "-euc",
                script,
                "bash",
                *map(str, words),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=300,
        )
    except FileNotFoundError:
        pytest.skip("no `unshare` here: no file system of a few megabytes to fill")
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[:80]}")
    return done


AFFNB = f"{sys.executable} -m affnb.engine.cli"

WHOLE = """
import json, re, sys
from pathlib import Path
from safetensors import safe_open
inside = Path(sys.argv[1]).rglob("*")
files = [path for path in inside if path.is_file() and ".snakemake" not in path.parts]
for path in files:
    if path.suffix in (".json", ".ipynb"): json.loads(path.read_text())
    if path.suffix == ".safetensors": safe_open(path, "numpy")
unfinished = re.compile(r"[.].+[.][a-z0-9_]{8}")
print("left:", *(path for path in files if any(map(unfinished.fullmatch, path.parts))))
"""


@pytest.mark.nightly
def test_a_full_disk_is_named_and_what_is_there_stays(tmp_path):
    """On a disk that grows, rendering, packing and training run out of room, each in its turn; each
    time the same command goes on, and what an earlier run has published stays.
    """
    run = f'{AFFNB} reproduce --profile tiny --out "$1/out"'
    done = within(
        f"""
mount -t tmpfs -o size=700k none "$1"
mkdir -p "$1/out/figures/tiny" "$1/out/data/records/tiny"
for file in figures/tiny/table_headline.csv data/records/tiny/arm-joint-seed0.json
do echo '"earlier"' > "$1/out/$file"
done
for size in 700k 1500k 2500k; do
    mount -o remount,size=$size "$1"
    {run} || echo "exit $?"
    {sys.executable} -c '{WHOLE}' "$1/out"
done
mount -o remount,size=200m "$1"
{run} > "$1/printed" 2>&1 &
while kill -0 $! && ! grep -q 06_pretrain "$1/printed"; do sleep .2; done
kill -KILL $! || true
cat "$1/printed"
cat "$1"/out/figures/tiny/* "$1"/out/data/records/tiny/*""",
        tmp_path,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("affnb: ")]
    assert done.stdout.count("exit 1") == 3, done.stderr
    assert len(lines) == 3, done.stderr
    assert all("make room" in line for line in lines), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    # nothing half written; no tables of half a run
    assert done.stdout.count("left:\n") == 3, done.stdout
    assert done.stdout.splitlines()[-2:] == ['"earlier"'] * 2, done.stdout
    rules = [
        re.findall(r"\d+ s  (\S+)", part) for part in re.split("left:|affnb: tiny", done.stdout)
    ]
    made = [rule for part in rules for rule in part]
    # with room it went on, and did nothing twice
    assert "06_pretrain-mae-seed0" in made and len(made) == len(set(made)), made


@pytest.mark.nightly
def test_a_folder_that_is_read_only_is_named(tmp_path, folder):
    done = within(
        f'mount -t tmpfs none "$1"; mkdir "$1/kept"; mount -o remount,ro "$1"; {AFFNB} reproduce'
        f' --profile tiny --out "$1/out" || echo "exit $?"; {AFFNB} benchmark "$1/faces" --videos 6'
        f' --size 16 || echo "exit $?"; {AFFNB} check "$2"',
        tmp_path / "outside",
        folder,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("affnb: ")]
    assert done.stdout.count("exit 1") == 2, done.stderr
    assert len(lines) == 2, done.stderr
    assert all(str(tmp_path / "outside") in line and "choose a" in line for line in lines), (
        done.stderr
    )


@pytest.mark.slow
def test_input_on_a_read_only_disk_is_read(tmp_path, folder):
    done = within(
        f'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; {AFFNB} check "$1"', folder
    )
    assert done.returncode == 0 and done.stdout.split()[0] == "split", done.stderr


@pytest.mark.slow
def test_no_memory_for_the_packed_array_is_said(tmp_path, folder):
    pack(folder, tmp_path / "packed", 16)
    program = f"""
import resource, sys
from pathlib import Path
import psutil
from affnb.engine.core import AffnbError
from affnb.engine.data import open_packed
taken = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (taken + {1 << 26}, resource.RLIM_INFINITY))
import numpy as np, os
path = Path(sys.argv[1])/"frames.npy"
with open(path, "r+b") as file:
    header = dict(descr="|u1", fortran_order=False, shape=({1 << 20}, 16, 16, 3))
    np.lib.format.write_array_header_1_0(file, header)
    file.truncate(128 + {1 << 20}*768)
try: open_packed(sys.argv[1])
except AffnbError as error: print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "packed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "memory" in done.stdout, done.stdout + done.stderr
    assert "ulimit" in done.stdout, done.stdout + done.stderr
    assert "delete" not in done.stdout, done.stdout + done.stderr


def test_want_of_memory_in_a_command_is_one_line(monkeypatch, capsys, folder):
    from affnb.engine import cli

    def hungry(folder):
        raise MemoryError("Unable to allocate 99. GiB for an array")

    monkeypatch.setattr(cli, "check_data", hungry)
    assert main(["check", str(folder)]) == 1
    assert_one_line(capsys.readouterr().err, "memory", "99. GiB")


def test_a_defect_of_our_own_is_one_line_too(monkeypatch, capsys):
    from affnb.engine import cli

    monkeypatch.setattr(cli, "check_data", lambda folder: 1 / 0)
    assert main(["check", "x"]) == 1
    assert_one_line(capsys.readouterr().err, "ZeroDivisionError", "--debug")
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "check", "x"])


@pytest.mark.nightly
def test_ten_million_rows_are_read_or_refused(tmp_path):
    "Seventy times the real list: within 12 GB of memory, and the wrong row at its end is named."
    if psutil.virtual_memory().available < 12 << 30:
        pytest.skip("less than 12 GB of memory are free here")
    path = tmp_path / "list.txt"
    with path.open("w") as file:
        file.write(HEADER + "\n")
        for video in range(1000):
            file.write("".join(f"video{video}/{i:05d}.jpg,{FULL}\n" for i in range(10_000)))
        file.write(f"video1000/00000.jpg,{FULL[:-1]}7\n")
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({12 << 30}, {12 << 30}))
from affnb.engine.core import AffnbError
from affnb.engine.data import read_annotations
try: read_annotations(sys.argv[1])
except AffnbError as error: print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True
    )
    facts = ("line 10000002", "AU26 = 7")
    assert all(fact in done.stdout for fact in facts), done.stdout + done.stderr[-500:]
