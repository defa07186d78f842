"""Faces that are found, followed and asked about; model folders; answers as files; what happens
otherwise.
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from affnb.engine.cli import main
from affnb.engine.core import EXPRESSIONS, TASKS, UsageError, generator, load_config
from affnb.faces import FaceKnobs, render, sample_identities
from affnb.model import AffectModel, make_encoder, make_model
from affnb.engine.detect import cascade
from affnb.engine.predict import ANSWER_COLUMNS, UNITS, draw_faces
from affnb.engine.predict import load_model, predict, write_answers
from affnb.engine.media import film_frames, find_sources, write_video
from in_step import ROOT
from errors import assert_one_line

REAL = ROOT.parent / "shared" / "real-faces"


def drawn(n, seed=3, side=160):
    "(n, 240, 240, 3) uint8: drawn people, each on a wall."
    views = {name: torch.full((n,), float(centre)) for name, centre, _ in FaceKnobs().views} | dict(
        occlusion=torch.full((n,), -1.0)
    )
    faces = (
        (
            render(
                sample_identities(n, generator(seed, "wall"), FaceKnobs()),
                torch.zeros(n, 12),
                torch.zeros(n, 2),
                views,
                side,
            )
            * 255
        )
        .byte()
        .permute(0, 2, 3, 1)
        .numpy()
    )
    walls = np.full((n, 240, 240, 3), 150, np.uint8)
    walls[:, 50 : 50 + side, 40 : 40 + side] = faces
    return walls


def small_model(source="synthetic", tasks=TASKS, **changes):
    config = load_config(
        "tiny", [f"{k}={v}" for k, v in (dict(window=4, stride=2) | changes).items()]
    )
    torch.manual_seed(0)
    model = make_model(
        config,
        tasks,
        make_encoder(config),
        fusion=True,
        temporal=True,
        others=[make_encoder(config) for _ in config.fused],
    ).eval()
    return model, dict(
        settings=asdict(config),
        tasks=list(tasks),
        fused=list(config.fused),
        arm="untrained",
        seed=0,
        data=dict(source=source, hash="0", name="x"),
        profile="tiny",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("predict")
    model, about = small_model()
    model.save_pretrained(place / "model", config=about)
    (place / "photos" / "holiday").mkdir(parents=True)
    for k, wall in enumerate(drawn(8)):
        Image.fromarray(wall).save(place / "photos" / "holiday" / f"{k}.png")
    wall = next(wall for wall in drawn(8) if len(cascade()(wall)) == 1)
    Image.fromarray(wall).save(place / "one.jpg", quality=95)
    write_video(
        place / "walk.mp4",
        [np.roll(np.pad(wall, ((0, 0), (0, 80), (0, 0)), "edge"), k, 1) for k in range(12)],
        10,
    )
    return place


@pytest.fixture(scope="module")
def model(folder):
    return AffectModel.from_pretrained(folder / "model")


# ---------------------------------------------------------------- asking
@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there: no real faces are looked for")
def test_real_faces_are_found_and_asked_about(model, tmp_path, capsys):
    paths = sorted(REAL.glob("cropped_aligned/*/*.jpg"))[::20]
    table = predict(model, *paths)
    assert table["input"].nunique() > 0.9 * len(paths)
    assert "drawn faces only" in capsys.readouterr().err
    assert np.allclose(table[list(EXPRESSIONS)].sum(axis=1), 1, atol=1e-4)
    assert table["valence"].between(-1, 1).all()
    assert len(predict(model, *paths, aligned=True)) == len(paths)


def test_columns_say_what_they_hold(model, folder):
    table = predict(model, folder / "one.jpg")
    assert list(table.columns) == [
        *ANSWER_COLUMNS,
        "valence",
        "arousal",
        "expression",
        *EXPRESSIONS,
        *UNITS.values(),
    ]
    assert len(table) == 1
    row = table.iloc[0]
    assert row["expression"] == max(EXPRESSIONS, key=lambda name: row[name])
    assert "AU12 " in " ".join(UNITS.values())
    assert row["AU12 " + UNITS["AU12"].removeprefix("AU12 ")] == row[UNITS["AU12"]]
    assert table[list(UNITS.values())].ge(0).all(axis=None)
    assert table[list(UNITS.values())].le(1).all(axis=None)


def test_a_model_of_one_task_answers_that_task_alone(tmp_path, folder):
    model, about = small_model(tasks=("EXPR",))
    model.save_pretrained(tmp_path / "m", config=about)
    table = predict(load_model(tmp_path / "m"), folder / "one.jpg")
    assert list(table.columns) == [*ANSWER_COLUMNS, "expression", *EXPRESSIONS]


def test_a_model_of_grey_pictures_is_asked_about_grey_ones(tmp_path):
    model, about = small_model(source="real")
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))
    answers = {}
    for learned_from_grey in (False, True):
        folder = tmp_path / f"{learned_from_grey}"
        model.save_pretrained(folder, config=about | dict(grey=learned_from_grey))
        ask = load_model(folder)
        answers[learned_from_grey] = [
            predict(ask, given, aligned=True)[list(EXPRESSIONS)].to_numpy()
            for given in (picture, grey)
        ]
    assert not np.allclose(*answers[False], atol=1e-6)
    assert np.array_equal(*answers[True])
    assert np.allclose(answers[True][0], answers[False][1])


def test_a_video_is_followed_and_asked_along_time(model, folder):
    table = predict(model, folder / "walk.mp4")
    assert table["frame"].tolist() == sorted(table["frame"])
    assert table["face"].nunique() <= 2
    assert len(table) >= 8
    assert np.allclose(table["seconds"], table["frame"] / 10, atol=1e-3)
    frames = np.stack([frame for _, _, frame in film_frames(folder / "walk.mp4")])
    array = predict(model, frames)
    assert np.allclose(array["valence"], table["valence"], atol=1e-5)
    assert (array["input"] == "array 0").all()
    assert predict(model, folder / "walk.mp4", every=3)["frame"].isin([0, 3, 6, 9]).all()


def test_answers_do_not_depend_on_what_else_is_asked(model, folder):
    alone = predict(model, folder / "one.jpg")
    together = predict(model, folder / "photos", folder / "walk.mp4", folder / "one.jpg")
    same = together[together["input"] == str(folder / "one.jpg")].reset_index(drop=True)
    assert np.allclose(alone["valence"], same["valence"], atol=1e-5)
    assert np.allclose(alone[list(EXPRESSIONS)], same[list(EXPRESSIONS)], atol=1e-5)


def test_a_model_of_drawn_faces_warns_and_one_of_real_faces_does_not(folder, tmp_path, capsys):
    predict(load_model(folder / "model"), folder / "one.jpg")
    assert "drawn faces only" in capsys.readouterr().err
    model, about = small_model(source="real")
    model.save_pretrained(tmp_path / "real", config=about)
    predict(load_model(tmp_path / "real"), folder / "one.jpg")
    assert "drawn faces" not in capsys.readouterr().err


def test_pictures_turned_by_their_camera_are_upright(model, folder, tmp_path):
    image = Image.open(folder / "one.jpg")
    exif = Image.Exif()
    exif[274] = 6  # turned by 270 degrees when shown
    image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    assert len(predict(model, tmp_path / "turned.png")) == 1


# ---------------------------------------------------------------- files
def test_answers_as_csv_and_parquet(model, folder, tmp_path):
    table = predict(model, folder / "photos")
    types = table.dtypes.to_dict()
    for ending in ("csv", "parquet"):
        write_answers([table[:3], table[3:]], tmp_path / f"a.{ending}", types)
    assert not list(tmp_path.glob("*.part"))
    csv = pd.read_csv(tmp_path / "a.csv")
    parquet = pd.read_parquet(tmp_path / "a.parquet")
    assert list(csv.columns) == list(parquet.columns) == list(table.columns)
    assert np.allclose(csv["valence"], parquet["valence"], atol=1e-5)
    assert len(csv) == len(table)
    with pytest.raises(UsageError) as error:
        write_answers([table], tmp_path / "a.xls", types)
    assert "a.xls" in error.value.where
    assert ".csv or .parquet" in str(error.value)


def test_what_is_drawn_covers_no_face(model):
    wall = np.repeat(np.repeat(drawn(1)[0], 2, 0), 2, 1)  # high enough: nothing is enlarged
    rows = pd.DataFrame(
        [
            dict(
                face=k,
                x=40.0 + 200 * k,
                y=140.0,
                width=180.0,
                height=180.0,
                expression="Fear",
                Fear=0.91,
                valence=-0.2,
                arousal=0.4,
            )
            for k in range(2)
        ]
    )
    shown = draw_faces(wall, rows)
    wider = draw_faces(wall, rows, 5)
    assert shown.shape[0] == wall.shape[0]
    assert wider.shape[1] > shown.shape[1] > wall.shape[1]
    for k in range(2):  # within the box, below its number
        inside = (slice(165, 314), slice(46 + 200 * k, 214 + 200 * k))
        assert np.array_equal(shown[inside], wall[inside])
    written = (shown[:, wall.shape[1] :] < 128).any(-1)
    assert written.sum() > 500, "a caption is cut off"
    assert not written[:, -6:].any(), "a caption is cut off"
    assert not written[-6:].any(), "a caption is cut off"


def test_a_small_crop_is_enlarged_and_its_caption_stands_beside_it():
    crop = drawn(1)[0][50:162, 40:152]
    rows = pd.DataFrame(
        [
            dict(
                face=0,
                x=0.0,
                y=0.0,
                width=112.0,
                height=112.0,
                expression="Happiness",
                Happiness=0.91,
                valence=-0.2,
                arousal=0.4,
            )
            | dict.fromkeys(UNITS.values(), 0.9)
        ]
    )
    shown = draw_faces(crop, rows)
    assert shown.shape[0] == 480
    assert np.array_equal(
        shown[30:470, 10:470],
        np.asarray(Image.fromarray(crop).resize((480, 480), Image.Resampling.BICUBIC))[
            30:470, 10:470
        ],
    )
    written = (shown[:, 480:] < 128).any(-1)
    assert written.any(1).sum() > 100, "a caption is cut off"
    assert not written[:, -6:].any(), "a caption is cut off"
    assert not written[-6:].any(), "a caption is cut off"


def test_copies_never_take_the_places_of_what_is_read(folder, tmp_path, capsys):
    "Into the folder of the inputs, below it, beside a video: refused before anything is done."
    shutil.copytree(folder / "photos", tmp_path / "photos")
    shutil.copyfile(folder / "walk.mp4", tmp_path / "photos" / "walk.mp4")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.png").symlink_to(tmp_path / "photos" / "holiday" / "1.png")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "0.png").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words in (
        [tmp_path / "links" / "a.png", "--draw", tmp_path / "links"],
        [tmp_path / "photos" / "holiday" / "0.png", "--draw", tmp_path / "full"],
        [tmp_path / "photos", "--draw", tmp_path / "photos"],
        [tmp_path / "photos", "--draw", tmp_path / "photos" / "drawn"],
        [tmp_path / "photos" / "walk.mp4", "--draw", tmp_path / "photos"],
        [
            tmp_path / "photos" / "holiday" / "0.png",
            "--draw",
            tmp_path / "photos" / "holiday" / ".." / "holiday",
        ],
    ):
        assert main(["predict", str(folder / "model"), *map(str, words), "--aligned"]) == 2
        # the first model of drawn faces has a warning, too
        assert_one_line(capsys.readouterr().err.splitlines()[-1], words[-1].resolve())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_file_is_read_once_however_often_it_is_named(model, folder):
    inside = folder / "photos" / "holiday"
    alone = predict(model, inside / "3.png", aligned=True)
    again = predict(
        model,
        inside / "3.png",
        inside / ".." / "holiday" / "3.png",
        str(inside / "3.png"),
        aligned=True,
    )
    assert len(again) == 1
    assert again.equals(alone)
    assert [
        Path(name).name for name in predict(model, inside / "5.png", inside, aligned=True)["input"]
    ] == ["5.png", *(f"{k}.png" for k in range(8) if k != 5)]


def test_a_name_that_is_no_utf_8_loses_nothing(folder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in (b"Gr\xfc\xdfe.png", b"Gr\xfc\xdf.png"):
        shutil.copyfile(
            folder / "photos" / "holiday" / "0.png",
            Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)),
        )
    for ending in ("csv", "parquet"):
        assert (
            main(
                [
                    "predict",
                    str(folder / "model"),
                    str(tmp_path / "in"),
                    "--aligned",
                    "-o",
                    str(tmp_path / f"answers.{ending}"),
                    "--draw",
                    str(tmp_path / f"drawn.{ending}"),
                ]
            )
            == 0
        ), capsys.readouterr().err
    names = pd.read_csv(tmp_path / "answers.csv")["input"]
    assert names.is_unique
    assert names.str.contains("Gr", regex=False).all()
    assert pd.read_parquet(tmp_path / "answers.parquet")["input"].equals(names)
    assert len(list((tmp_path / "drawn.csv").iterdir())) == 2


@pytest.mark.parametrize(
    "ending, said",
    [("avi", "{n} frames of 40"), ("mkv", "{n} frames, {seconds:.1f} of 4.0 seconds")],
)
def test_a_video_that_is_cut_short_is_said(ending, said, folder, tmp_path, capsys):
    whole = tmp_path / f"whole.{ending}"
    import av

    with av.open(str(whole), "w") as film:
        stream = film.add_stream("mjpeg", rate=10)
        stream.width = 64
        stream.height = 48
        stream.pix_fmt = "yuvj420p"
        for k in range(40):
            [
                film.mux(packet)
                for packet in stream.encode(
                    av.VideoFrame.from_ndarray(
                        np.random.default_rng(k).integers(0, 255, (48, 64, 3), dtype=np.uint8),
                        "rgb24",
                    )
                )
            ]
        for packet in stream.encode():
            film.mux(packet)
    assert len(list(film_frames(whole))) == 40
    assert not capsys.readouterr().err
    half = tmp_path / f"half.{ending}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    n = len(list(film_frames(half)))
    assert 0 < n < 40
    assert (
        f"{half.name}: {said.format(n=n, seconds=(n - 1) / 10)} could be decoded"
        in capsys.readouterr().err
    )


def test_what_cannot_be_written_is_refused_before_the_work(folder, tmp_path, capsys, monkeypatch):
    from affnb.engine import cli, predict as module

    monkeypatch.setattr(module, "predict_parts", lambda *_, **__: pytest.fail("the work was begun"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    for words, fact in (
        (["-o", tmp_path / "folder.csv"], "folder"),
        (["-o", tmp_path / "file" / "x.csv"], "file"),
        (["--draw", tmp_path / "file"], "file"),
        (["--draw", tmp_path / "file" / "deep"], "file"),
    ):
        assert (
            cli.main(["predict", str(folder / "model"), str(folder / "one.jpg"), *map(str, words)])
            == 1
        ), words
        assert_one_line(capsys.readouterr().err, tmp_path, fact)


def test_pictures_of_kinds_that_are_not_read_are_named(model, folder, tmp_path, capsys):
    shutil.copyfile(folder / "one.jpg", tmp_path / "a.jpg")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"ftypheic")
    (tmp_path / "notes.txt").touch()
    assert len(predict(model, tmp_path, aligned=True)) == 1
    warnings = capsys.readouterr().err
    assert "IMG_1.HEIC" in warnings
    assert "JPEG or PNG" in warnings
    assert "notes.txt" not in warnings


def test_a_drawn_video_has_its_length_and_rate(model, folder, tmp_path):
    predict(model, folder / "walk.mp4", folder / "one.jpg", draw=tmp_path / "drawn")
    frames = list(film_frames(tmp_path / "drawn" / "walk.mp4"))
    assert len(frames) == 12
    assert abs(frames[10][1] - 1) < 0.01
    assert (tmp_path / "drawn" / "one.png").exists()


def test_a_model_folder_is_plain_and_whole(folder):
    names = {path.name for path in (folder / "model").iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert not any(name.endswith((".bin", ".pkl", ".pt")) for name in names)
    about = json.loads((folder / "model" / "config.json").read_text())
    assert about["tasks"] == list(TASKS)
    assert about["settings"]["window"] == 4
    assert about["data"]["source"] == "synthetic"
    plain = small_model()[0].state_dict()
    again = load_model(folder / "model").state_dict()
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.nightly
def test_what_is_exported_as_onnx_says_the_same(folder, tmp_path):
    "Of a model with temperatures: test_calibration holds AnswersModule against `predict`."
    import onnxruntime
    from affnb.engine.predict import AnswersModule

    shutil.copytree(folder / "model", tmp_path / "model")
    about = json.loads((folder / "model" / "config.json").read_text())
    about["temperature"] = dict(AU=0.6, EXPR=1.8)
    (tmp_path / "model" / "config.json").write_text(json.dumps(about))
    model = load_model(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "model.onnx")]) == 0
    frames = torch.randn(5, 4, 3, 32, 32)
    valid = torch.rand(5, 4) > 0.3
    valid[:, 0] = True
    theirs = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(
        None, dict(frames=frames.numpy(), valid=valid.numpy())
    )
    with torch.inference_mode():
        ours = AnswersModule(model)(frames, valid)
        plain = AnswersModule(load_model(folder / "model"))(frames, valid)
    assert len(theirs) == 3
    assert all(np.abs(a.numpy() - b)[valid.numpy()].max() < 1e-4 for a, b in zip(ours, theirs))
    assert all(np.abs(plain[k].numpy() - theirs[k]).max() > 0.001 for k in (0, 1))


# ---------------------------------------------------------------- what happens otherwise
WRONG = {
    "no such input": (["MODEL", "nowhere.jpg"], 1, "no such file or folder"),
    "no such model": (["nowhere", "one.jpg"], 1, "no such model folder"),
    "a file as a model": (["one.jpg", "one.jpg"], 1, "no such model folder"),
    "an empty folder": (["MODEL", "empty"], 1, "no picture and no video"),
    "nothing that can be read": (["MODEL", "torn.jpg"], 1, "cannot be decoded as a picture"),
    "a film that is none": (["MODEL", "torn.mp4"], 1, "cannot be decoded as a video"),
    "no such detector": (
        ["MODEL", "one.jpg", "--detector", "none.onnx"],
        1,
        "no such file: fetch face_detection_yunet",
    ),
    "a detector that is none": (
        ["MODEL", "one.jpg", "--detector", "torn.jpg"],
        1,
        "cannot read it as YuNet",
    ),
    "crops and a detector": (
        ["MODEL", "one.jpg", "--detector", "torn.jpg", "--aligned"],
        2,
        "leave one of them out",
    ),
    "every none": (["MODEL", "one.jpg", "--every", "0"], 2, "--every 0"),
    "a spreadsheet": (["MODEL", "one.jpg", "-o", "a.xlsx"], 2, ".csv or .parquet"),
    "a model without its settings": (["hollow", "one.jpg"], 1, "hollow"),
    "a model of another shape": (["bent", "one.jpg"], 1, "bent"),
    "a pickle in the place of weights": (["pickle", "one.jpg"], 1, "pickle"),
}


@pytest.fixture(scope="module")
def wrong(folder, tmp_path_factory):
    import pickle
    import shutil

    place = tmp_path_factory.mktemp("wrong")
    shutil.copytree(folder / "model", place / "MODEL")
    shutil.copy(folder / "one.jpg", place)
    (place / "empty").mkdir()
    for name in ("torn.jpg", "torn.mp4"):
        (place / name).write_bytes(b"no picture")
    for name in ("hollow", "bent", "pickle"):
        shutil.copytree(folder / "model", place / name)
    (place / "hollow" / "config.json").write_text("{}")
    about = json.loads((place / "bent" / "config.json").read_text())
    about["settings"]["width"] *= 2
    (place / "bent" / "config.json").write_text(json.dumps(about))
    (place / "pickle" / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    return place


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_done_is_one_line(case, wrong, monkeypatch, capsys):
    words, code, fact = WRONG[case]
    monkeypatch.chdir(wrong)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["predict", *words]) == code
    lines = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith("WARNING")
    ]
    assert_one_line("\n".join(lines), fact)
    assert "defect" not in lines[0], lines
    assert not list(wrong.glob("a.*"))


def test_what_is_left_out_is_said_and_the_rest_is_answered(model, folder, wrong, capsys):
    table = predict(
        model, folder / "one.jpg", wrong / "torn.jpg", np.full((64, 64, 3), 90, np.uint8)
    )
    warnings = capsys.readouterr().err
    assert len(table) == 1
    assert "torn.jpg" in warnings
    assert "array 2" in warnings
    for k in range(9):
        Image.new("RGB", (32, 32)).save(wrong / "empty" / f"{k}.png")
    assert predict(model, wrong / "empty").empty
    assert "and 4 more" in capsys.readouterr().err


def test_arrays_that_are_no_frames_are_refused():
    for array in (np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((2, 4, 4, 4), np.uint8)):
        with pytest.raises(UsageError, match="must be uint8"):
            find_sources([array])


@pytest.mark.slow
def test_the_command_writes_the_table(folder, tmp_path, capsys):
    assert (
        main(
            [
                "predict",
                str(folder / "model"),
                str(folder / "photos"),
                str(folder / "one.jpg"),
                "-o",
                str(tmp_path / "out.csv"),
                "--draw",
                str(tmp_path / "drawn"),
            ]
        )
        == 0
    )
    table = pd.read_csv(tmp_path / "out.csv")
    assert f"{len(table)} faces in {table['input'].nunique()} inputs" in capsys.readouterr().out
    assert len(list((tmp_path / "drawn").iterdir())) == table["input"].nunique()
    assert main(["predict", str(folder / "model"), str(folder / "one.jpg")]) == 0
    assert capsys.readouterr().out.startswith("input,frame,seconds,face,")
