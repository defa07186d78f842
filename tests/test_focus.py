"""Where a model looks: planted models are found out, regions lie where muscles are, records have
their shapes.
"""

import json
import re
from dataclasses import asdict
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from affnb.engine.rendering import BenchmarkSize, write_benchmark
from affnb.compare import LEAST_VIDEOS, halves_of, mean_and_each
from affnb.engine.core import AU_NAMES, TASKS, AffnbError, load_config, write_json
from affnb.engine.data import pack
from affnb.engine.focus import (
    FACES_PER_TASK,
    OUTPUTS,
    SHARES,
    attribute,
    save_focus,
    all_focus_maps,
    own_and_others,
    map_pair_rows,
    plan_faces,
    saliency,
    smallest_region,
    evenly_spaced,
    sums_of_maps,
    take_faces,
    unit_changes,
    unit_rows,
    unit_sums,
)
from affnb.metrics import resample_counts
from affnb.model import make_encoder, make_model
from affnb.engine.weights import save_weights
from affnb.engine.runs import open_run, rows_of

CELL = 2


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small benchmark; a copy of its packed data passes for real, for it lacks the renderer's
    note.
    """
    made = tmp_path_factory.mktemp("data")
    write_benchmark(
        made / "faces",
        BenchmarkSize(
            clips=12,
            clip_frames=3,
            long_videos=4,
            long_frames=12,
            validation_videos=8,
            validation_frames=10,
            test_videos=1,
            size=32,
            seed=0,
        ),
    )
    pack(made / "faces", made / "packed", 32)
    return made


def planned(folder, data, seen_by=TASKS, synthetic=True):
    """A run whose separate models were saved as they began; tasks that are not in `seen_by` had no
    labels.
    """
    config = load_config("tiny", ["bootstrap=40"])
    write_json(
        folder / "plan.json",
        dict(
            config=asdict(config),
            packed=str(data / "packed"),
            folder=str(data / "faces" if synthetic else data),
            benchmark=synthetic,
        ),
    )
    for i, task in enumerate(TASKS):
        torch.manual_seed(i)
        path = folder / "seed0" / task / "model.safetensors"
        path.parent.mkdir(parents=True)
        if task in seen_by:
            save_weights(make_model(config, (task,), make_encoder(config)), path)
        else:
            save_file({}, path)
    return open_run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    return planned(tmp_path_factory.mktemp("run"), data)


@pytest.fixture(scope="module")
def found(run):
    return all_focus_maps(run, 0, 10, 3)


@pytest.fixture(scope="module")
def regions():
    return np.stack([smallest_region(c) for c in unit_changes(32, CELL)])


def reads(masks, seed=0):
    """A model whose k-th answer is a bent sum of the pixels under the k-th mask, and of nothing
    else.
    """
    weight = torch.from_numpy(
        np.kron(np.asarray(masks, np.float32), np.ones((CELL, CELL), np.float32))
    )
    # no two pixels count the same
    weight = weight * torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed))
    return lambda frames: torch.tanh(
        torch.einsum("bchw,khw->bk", frames, weight) / weight.sum((1, 2))
    )


def seen_of(answer, run, frames=None):
    "Maps of a planted model of the action units, and the faces that were looked at."
    frames = run.frames if frames is None else frames
    table = rows_of(run, "validation")
    faces, there = plan_faces(table, run.targets, run.masks, "AU", 16, 10)
    maps, gap = saliency(
        answer, frames, faces["row"].to_numpy(), take_faces(frames, table["row"]).mean(0), CELL, 8
    )
    assert gap < 0.02  # contributions add up to what they should
    return maps, faces, there


def units_of(answer, run, regions, frames=None):
    """Rows of the units and of their mean, for a planted model; as untrained stands one that reads
    everything.
    """
    (maps, faces, there), (blank, _, _) = (
        seen_of(reader, run, frames) for reader in (answer, reads(np.ones_like(regions), 1))
    )
    names = sorted(set(faces["video"]))
    return unit_rows(
        *unit_sums(maps, blank, regions, there, faces["video"], names),
        regions,
        np.concatenate([np.ones((1, len(names))), resample_counts(len(names), 60, 0)]),
    )


# ---- planted models


@pytest.mark.slow
def test_a_model_that_reads_only_a_units_region_is_found_there(run, regions):
    rows, mean = units_of(reads(regions), run, regions)
    shown = [row for row in rows if row["frames"]]
    assert len(shown) >= 8
    assert all(row["inside"] > 0.999 for row in shown)
    assert all(row["inside"] > 3 * row["chance_area"] and row["gain"] > 0.25 for row in shown)
    sure = [row for row in shown if row["videos"] >= LEAST_VIDEOS]
    assert len(sure) >= 4
    assert all(row["gain_lo"] > 0.2 and row["inside_lo"] > 0.999 for row in sure)
    assert mean["gain_lo"] > 0.3
    assert abs(mean["gain_untrained"]) < 0.02
    assert mean["chance_untrained"] < 0.5 * mean["inside"]


def test_a_model_that_reads_everything_is_not(run, regions):
    rows, mean = units_of(reads(np.ones_like(regions)), run, regions)
    assert all(abs(row["gain"]) < 0.08 for row in rows if row["frames"])
    assert abs(mean["gain"]) < 0.02
    assert sum(row["gain_lo"] > 0 for row in rows if row["gain_lo"] is not None) <= 2


def test_a_model_that_knows_the_face_but_not_the_unit_beats_the_area_and_not_the_other_units(
    run, regions
):
    # every answer reads all that any unit moves
    _, mean = units_of(reads(np.repeat(regions.any(0)[None], 12, 0)), run, regions)
    assert mean["inside"] > 1.3 * mean["chance_area"]
    assert abs(mean["gain"]) < 0.02


def test_maps_that_move_with_active_faces_are_no_gain(run, regions):
    """Faces on which a unit is active differ in its region, strongly; the model reads every place
    alike, whatever it is asked.
    """
    frames = run.frames.clone()
    _, faces, there = seen_of(reads(np.ones_like(regions)), run)
    bright = torch.from_numpy(np.kron(regions, np.ones((CELL, CELL))).astype(bool))
    for row, active in zip(faces["row"], there):
        for k in np.flatnonzero(active):
            frames[row][bright[k]] = 255 - frames[row][bright[k]] // 4
    reader = reads(np.ones_like(regions))
    rows, mean = units_of(reader, run, regions, frames)
    own, others = own_and_others(seen_of(reader, run, frames)[0], regions)
    elsewhere = [
        np.mean(
            [
                own[there[:, k], k].mean() - own[~there[:, k], k].mean()
                for k in range(12)
                if 0 < there[:, k].sum() < len(there)
            ]
        ),
        np.mean(
            [
                others[there[:, k], k].mean() - others[~there[:, k], k].mean()
                for k in range(12)
                if 0 < there[:, k].sum() < len(there)
            ]
        ),
    ]
    # the maps of *all* outputs move into the region: across faces it would pass for a focus
    assert min(elsewhere) > 0.05
    assert abs(mean["gain"]) < 0.01
    assert all(abs(row["gain"]) < 0.08 for row in rows if row["frames"])
    # an untrained model is moved as far
    assert abs(mean["inside"] - mean["chance_untrained"]) < 0.02


def test_a_model_that_reads_another_units_region_falls_below_chance(run, regions):
    # AU1 reads the lips, AU12 the brows
    _, mean = units_of(reads(np.roll(regions, 6, axis=0)), run, regions)
    assert mean["gain_hi"] < 0


def test_all_shares_of_a_unit_come_from_faces_where_it_is_active(regions):
    rng = np.random.default_rng(0)
    maps, blank = (
        rng.dirichlet(np.ones(regions[0].size), (8, 12)).reshape(8, 12, *regions.shape[1:])
        for _ in range(2)
    )
    there = rng.random((8, 12)) < 0.5
    video = np.array(list("aabbccdd"))
    sums, counts = unit_sums(maps, blank, regions, there, video, list("abcd"))
    assert sums.shape == (4, 12, len(SHARES))
    assert (counts.sum(0) == there.sum(0)).all()
    means = mean_and_each(sums, counts, np.ones((1, 4)))[0, 1:]
    k = int(there.sum(0).argmax())
    faces = there[:, k]
    assert means[k, 0] == pytest.approx(maps[faces, k][:, regions[k]].sum(1).mean())
    assert means[k, 1] == pytest.approx(np.delete(maps[faces], k, 1)[..., regions[k]].sum(2).mean())
    assert means[k, 2] == pytest.approx(blank[faces, k][:, regions[k]].sum(1).mean())
    assert mean_and_each(sums, counts, np.array([[2.0, 0, 1, 0]]))[0, 1 + k, 0] == pytest.approx(
        (2 * sums[0, k, 0] + sums[2, k, 0]) / (2 * counts[0, k] + counts[2, k])
    )


def test_a_unit_without_an_active_face_has_no_row_of_numbers(regions):
    even = np.full((3, 12, *regions.shape[1:]), 1 / regions[0].size)
    there = np.ones((3, 12), bool)
    there[:, 1] = False
    rows, mean = unit_rows(
        *unit_sums(even, even, regions, there, [0, 1, 2], [0, 1, 2]), regions, np.ones((5, 3))
    )
    assert (
        rows[1]["inside"]
        is rows[1]["gain"]
        is rows[1]["gain_lo"]
        is rows[1]["chance_others"]
        is rows[1]["gain_untrained"]
        is None
    )
    assert rows[1]["frames"] == 0
    assert rows[0]["chance_others"] == pytest.approx(regions[0].mean())
    assert mean["gain"] == pytest.approx(0)
    # from three videos, no interval
    assert rows[0]["gain"] == pytest.approx(0)
    assert rows[0]["gain_lo"] is None


def test_pairs_of_tasks_are_told_apart_only_where_they_differ(run):
    top = np.zeros((12, 16, 16), bool)
    top[:, :8] = True
    names = sorted(set(rows_of(run, "validation")["video"]))
    above, below = (
        sums_of_maps("AU", *seen_of(reads(mask), run), names)["AU"] for mask in (top, ~top)
    )
    rows = map_pair_rows(
        dict(AU=above, EXPR=above, VA=below),
        np.concatenate([np.ones((1, len(names))), resample_counts(len(names), 60, 0)]),
    )
    by = {(row["a"], row["b"]): row for row in rows}
    assert list(by) == [("AU", "EXPR"), ("AU", "VA"), ("EXPR", "VA")]
    assert by["AU", "EXPR"]["excess"] == pytest.approx(0)
    assert by["AU", "EXPR"]["distance"] > 0
    assert by["AU", "VA"]["distance"] > 0.99
    assert by["AU", "VA"]["excess_lo"] > 0.5


def test_noise_alone_is_no_difference_of_focus():
    rng = np.random.default_rng(0)
    wrong = 0
    for k in range(20):
        a, b = ((rng.dirichlet(np.ones(25), 20).reshape(20, 5, 5), np.ones(20)) for _ in range(2))
        row = map_pair_rows(
            dict(AU=a, VA=b), np.concatenate([np.ones((1, 20)), resample_counts(20, 60, k)])
        )[0]
        assert row["distance"] > 0.1  # two maps do differ,
        wrong += not row["excess_lo"] < 0 < row["excess_hi"]  # by no more than halves of one
    assert wrong <= 2


# ---- the parts


@pytest.fixture(scope="module")
def changes():
    return unit_changes(48, 2)


@pytest.mark.parametrize("name", AU_NAMES)
def test_regions_lie_where_the_muscles_are(changes, name):
    change = changes[AU_NAMES.index(name)]
    region = smallest_region(change)
    half = len(change) // 2
    assert 0.8 <= change[region].sum() < 0.8 + change.max()
    assert 0.01 < region.mean() < 0.2
    if name in ("AU1", "AU2", "AU4"):
        assert not region[half:].any()
    if name in ("AU12", "AU15", "AU23", "AU24", "AU25", "AU26"):
        assert region[half:].sum() > 0.95 * region.sum()
    # on both sides of the face
    assert abs(region[:, :half].sum() - region[:, half:].sum()) <= 0.25 * region.sum()


def test_attribution_is_complete_on_a_network_and_agrees_with_captum():
    from captum.attr import IntegratedGradients

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 64, 5),
        torch.nn.Tanh(),
    ).requires_grad_(False)
    faces = torch.randn(6, 3, 16, 16)
    baseline = torch.randn(3, 16, 16) / 9
    due = net(faces) - net(baseline[None])
    gaps = [
        float(
            (attribute(net, faces, baseline, 4, steps).sum((2, 3)) - due).abs().mean()
            / due.abs().mean()
        )
        for steps in (2, 64)
    ]
    assert gaps[1] < 0.02 < gaps[0]
    theirs = torch.stack(
        [
            IntegratedGradients(net).attribute(faces, baseline[None], target=k, n_steps=7).sum(1)
            for k in range(5)
        ],
        1,
    )
    assert torch.allclose(attribute(net, faces, baseline, 1, 7), theirs.float(), atol=1e-5)


def test_faces_are_spread_over_videos_and_along_them():
    table = pd.DataFrame(dict(video=["long"] * 100 + ["short"] * 3 + ["mid"] * 20, row=range(123)))
    some = evenly_spaced(table, 30)
    assert some["video"].value_counts().to_dict() == {"long": 10, "mid": 10, "short": 3}
    assert some[some["video"] == "long"]["row"].diff().dropna().between(9, 11).all()
    assert evenly_spaced(table, 2)["video"].tolist() == ["long", "mid"]
    assert evenly_spaced(table[:0], 5).empty
    assert evenly_spaced(table, 0).empty


def test_active_faces_are_active_and_tasks_are_compared_on_the_same_ones(run):
    table = rows_of(run, "validation")
    plans = {task: plan_faces(table, run.targets, run.masks, task, 16, 10) for task in TASKS}
    assert len({tuple(faces.query("common")["row"]) for faces, _ in plans.values()}) == 1
    faces, there = plans["AU"]
    for k in range(12):
        every = run.masks["AU"][table["row"], k] & (run.targets["AU"][table["row"], k] == 1)
        assert (there[:, k] == (run.targets["AU"][faces["row"], k] == 1)).all()
        # often enough, or in every video that has it
        assert there[:, k].sum() >= min(10, every.sum()) or set(faces["video"][there[:, k]]) == set(
            table["video"][every]
        )
    assert there[~faces["common"].to_numpy()].any(1).all()
    assert faces["row"].is_unique
    assert plans["VA"][0]["common"].all()
    assert len(plan_faces(table, run.targets, run.masks, "AU")[0].query("common")) <= FACES_PER_TASK


def test_labels_that_are_missing_make_no_face_active(run):
    hidden = {task: np.zeros_like(mask) for task, mask in run.masks.items()}
    for task in ("AU", "EXPR"):
        faces, there = plan_faces(rows_of(run, "validation"), run.targets, hidden, task)
        assert not there.any()
        assert faces["common"].all()


def test_halves_are_halves():
    for videos in (4, 5, 60):
        halves = halves_of(videos, 16)
        assert (halves.sum(1) == (videos + 1) // 2).all()
        assert (halves == halves_of(videos, 16)).all()
        assert len({h.tobytes() for h in halves}) > 2


# ---- a run


@pytest.mark.slow
def test_record_and_arrays(run, found):
    record, arrays = save_focus(run, 0, found)
    text = (run.folder / "records" / "focus-seed0.json").read_text()
    stored = json.loads(text)
    kept = np.load(run.folder / "records" / "focus-seed0.npz")
    assert stored["record"] == stored["name"] == "focus"
    assert stored["source"] == "synthetic"
    assert not re.search("NaN|Infinity", text)
    assert [row["au"] for row in stored["aus"]] == list(AU_NAMES)
    assert {
        "inside",
        "inside_lo",
        "inside_hi",
        "chance_others",
        "chance_area",
        "chance_untrained",
        "gain",
        "gain_untrained",
        "videos",
        "frames",
    } <= set(stored["aus"][0])
    assert [(p["a"], p["b"]) for p in stored["pairs"]] == [
        ("AU", "EXPR"),
        ("AU", "VA"),
        ("EXPR", "VA"),
    ]
    assert {"distance", "lo", "hi", "floor", "excess"} <= set(stored["pairs"][0])
    assert kept["names"].tolist() == [name for task in TASKS for name in (task, *OUTPUTS[task])]
    assert kept["maps"].shape == (25, 16, 16)
    assert kept["maps"].dtype == np.float16
    assert kept["regions"].shape == (12, 16, 16)
    assert kept["regions"].dtype == bool
    assert kept["face"].shape == (32, 32, 3)
    assert kept["face"].dtype == np.uint8
    videos = len(kept["videos"])
    assert kept["task_sums"].shape == (videos, 3, 16, 16)
    assert kept["task_counts"].shape == (videos, 3)
    assert kept["unit_sums"].shape == (videos, 12, len(SHARES))
    assert kept["unit_counts"].shape == (videos, 12)
    # a face, a vote
    assert np.allclose(kept["task_sums"].astype(float).sum((2, 3)), kept["task_counts"], rtol=0.01)
    # a report needs no more
    from_sums = mean_and_each(kept["unit_sums"], kept["unit_counts"], np.ones((1, videos)))[0]
    # shares are float32
    assert from_sums[0, 0] == pytest.approx(stored["aus_mean"]["inside"])
    assert from_sums[0, 0] - from_sums[0, 1] == pytest.approx(stored["aus_mean"]["gain"], abs=1e-7)
    assert np.allclose(kept["maps"][kept["names"] == "VA"].astype(float).sum(), 1, atol=5e-3)


@pytest.mark.slow
def test_the_same_faces_give_the_same_numbers_and_bytes(run, found):
    first, _ = save_focus(run, 0, found)
    before = (run.folder / "records" / "focus-seed0.npz").read_bytes()
    again, _ = save_focus(run, 0, all_focus_maps(run, 0, 10, 3))
    assert again["aus"] == first["aus"]
    assert again["pairs"] == first["pairs"]
    assert (run.folder / "records" / "focus-seed0.npz").read_bytes() == before


def test_real_data_have_no_regions_and_a_task_without_labels_drops_out(tmp_path, data):
    run = planned(tmp_path, data, ("AU", "VA"), synthetic=False)
    record, arrays = save_focus(run, 0, all_focus_maps(run, 0, 10, 3))
    assert record["source"] == "real"
    assert record["aus"] == []
    assert record["aus_mean"] is None
    assert len(arrays["regions"]) == len(arrays["aus"]) == 0
    assert arrays["unit_sums"].shape[1] == arrays["unit_counts"].shape[1] == 0
    assert arrays["task_sums"].shape[1] == 2
    assert [(p["a"], p["b"]) for p in record["pairs"]] == [("AU", "VA")]
    assert [row["task"] for row in record["sanity"]] == ["AU", "VA"]


def test_no_model_at_all_says_so(tmp_path, data):
    with pytest.raises(AffnbError, match="no separate model"):
        all_focus_maps(planned(tmp_path, data, ()), 0)
