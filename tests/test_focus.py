"Where a model looks: planted models are found out, regions lie where muscles are, records have their shapes."
import json, re
from dataclasses import asdict
import numpy as np, pandas as pd
import pytest, torch
from safetensors.torch import save_file
from affnb.benchmark import write_benchmark
from affnb.core import AU_NAMES, TASKS, AffnbError, load_config, write_json
from affnb.data import pack
from affnb.focus import (FRAMES, OUTPUTS, attribute, halves_of, inside_shares, leave_focus, look_at_all, pair_rows, plan_jobs, saliency, smallest_region,
                         spread, sums_by_video, take_faces, unit_changes, unit_rows)
from affnb.metrics import resample_counts
from affnb.model import make_encoder, make_model, save_weights
from affnb.train import open_run, rows_of

CELL = 2


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "A small benchmark; a copy of its packed data passes for real, for it lacks the renderer's note."
    made = tmp_path_factory.mktemp("data")
    write_benchmark(made/"faces", clips=12, clip_frames=3, long_videos=4, long_frames=12, validation_videos=8, validation_frames=10, test_videos=1, size=32, seed=0)
    pack(made/"faces", made/"packed", 32)
    return made


def planned(folder, data, seen_by=TASKS, synthetic=True):
    "A run whose separate models were saved as they began; tasks that are not in `seen_by` had no labels."
    config = load_config("tiny", ["bootstrap=40"])
    write_json(folder/"plan.json", dict(config=asdict(config), packed=str(data/"packed"), folder=str(data/"faces" if synthetic else data), benchmark=synthetic))
    for i, task in enumerate(TASKS):
        torch.manual_seed(i)
        path = folder/"seed0"/task/"model.safetensors"
        path.parent.mkdir(parents=True)
        if task in seen_by: save_weights(make_model(config, (task,), make_encoder(config)), path)
        else: save_file({}, path)
    return open_run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data): return planned(tmp_path_factory.mktemp("run"), data)


@pytest.fixture(scope="module")
def found(run): return look_at_all(run, 0, 10, 3)


@pytest.fixture(scope="module")
def regions(): return np.stack([smallest_region(c) for c in unit_changes(32, CELL)])


def reads(masks):
    "A model whose k-th answer is a bent sum of the pixels under the k-th mask, and of nothing else."
    weight = torch.from_numpy(np.kron(np.asarray(masks, np.float32), np.ones((CELL, CELL), np.float32)))
    weight = weight*torch.rand(weight.shape, generator=torch.Generator().manual_seed(0))   # no two pixels count the same
    return lambda frames: torch.tanh(torch.einsum("bchw,khw->bk", frames, weight)/weight.sum((1, 2)))


def seen_of(answer, run, task="AU"):
    table = rows_of(run, "validation")
    jobs = plan_jobs(table, run.targets, run.masks, (task,), 16, 6)
    maps, gap = saliency(answer, run.frames, jobs, take_faces(run.frames, table["row"]).mean(0), CELL, 8)
    assert gap < .02                                                       # contributions add up to what they should
    names, pick = sorted(set(table["video"])), lambda keep: sums_by_video(maps[keep.to_numpy()], jobs.loc[keep, "video"], names)
    return {task: pick(jobs["common"])} | {name: pick(jobs["active"] & (jobs["name"] == name)) for name in OUTPUTS[task]}


def weights_of(run, n=60):
    videos = rows_of(run, "validation")["video"].nunique()
    return np.concatenate([np.ones((1, videos)), resample_counts(videos, n, 0)])


# ---- planted models

def test_a_model_that_reads_only_a_units_region_is_found_there(run, regions):
    seen, weights = seen_of(reads(regions), run), weights_of(run)
    rows, mean, gains = unit_rows(seen, regions, seen, weights)
    shown = [row for row in rows if row["frames"]]
    assert len(shown) >= 8 and all(row["inside"] > .999 for row in shown)
    assert all(row["inside"] > 3*row["chance_area"] and row["gain"] > .25 for row in shown)
    assert all(row["gain_lo"] > .2 for row in shown if row["videos"] > 1) and mean["gain_lo"] > .3
    assert gains.shape == (60, 12)


def test_a_model_that_reads_everything_is_not(run, regions):
    seen = seen_of(reads(np.ones_like(regions)), run)
    rows, mean, _ = unit_rows(seen, regions, seen, weights_of(run))
    assert all(abs(row["gain"]) < .08 for row in rows if row["frames"]) and abs(mean["gain"]) < .02
    assert sum(row["gain_lo"] > 0 for row in rows if row["gain_lo"] is not None) <= 2


def test_a_model_that_knows_the_face_but_not_the_unit_beats_the_area_and_not_the_other_units(run, regions):
    face = np.repeat(regions.any(0)[None], 12, 0)                          # every answer reads all that any unit moves
    rows, mean, _ = unit_rows(seen_of(reads(face), run), regions, seen_of(reads(face), run), weights_of(run))
    assert mean["inside"] > 1.3*mean["chance_area"] and abs(mean["gain"]) < .02


def test_a_model_that_reads_another_units_region_falls_below_chance(run, regions):
    turned = np.roll(regions, 6, axis=0)                                   # AU1 reads the lips, AU12 the brows
    _, mean, _ = unit_rows(seen_of(reads(turned), run), regions, seen_of(reads(turned), run), weights_of(run))
    assert mean["gain_hi"] < 0


def test_a_unit_without_an_active_face_has_no_row_of_numbers(regions):
    even = np.full((3, *regions.shape[1:]), 1/regions[0].size)
    seen = {name: (even*(name != "AU2"), np.full(3, float(name != "AU2"))) for name in AU_NAMES}
    rows, mean, _ = unit_rows(seen, regions, seen, np.ones((5, 3)))
    assert rows[1]["inside"] is rows[1]["gain"] is rows[1]["gain_lo"] is rows[1]["chance_others"] is None and rows[1]["frames"] == 0
    assert rows[0]["chance_others"] == pytest.approx(regions[0].mean()) and mean["gain"] == pytest.approx(0)


def test_pairs_of_tasks_are_told_apart_only_where_they_differ(run):
    top = np.zeros((12, 16, 16), bool); top[:, :8] = True
    above, below, weights = seen_of(reads(top), run)["AU"], seen_of(reads(~top), run)["AU"], weights_of(run)
    rows, excess = pair_rows(dict(AU=above, EXPR=above, VA=below), weights)
    by = {(row["a"], row["b"]): row for row in rows}
    assert list(by) == [("AU", "EXPR"), ("AU", "VA"), ("EXPR", "VA")] and excess.shape == (60, 3)
    assert by["AU", "EXPR"]["excess"] == pytest.approx(0) and by["AU", "EXPR"]["distance"] > 0
    assert by["AU", "VA"]["distance"] > .99 and by["AU", "VA"]["excess_lo"] > .5


def test_noise_alone_is_no_difference_of_focus():
    rng, wrong = np.random.default_rng(0), 0
    for k in range(20):
        a, b = ((rng.dirichlet(np.ones(25), 20).reshape(20, 5, 5), np.ones(20)) for _ in range(2))
        row = pair_rows(dict(AU=a, VA=b), np.concatenate([np.ones((1, 20)), resample_counts(20, 60, k)]))[0][0]
        assert row["distance"] > .1                                        # two maps do differ,
        wrong += not row["excess_lo"] < 0 < row["excess_hi"]               # by no more than halves of one
    assert wrong <= 2


# ---- the parts

@pytest.fixture(scope="module")
def changes(): return unit_changes(48, 2)


@pytest.mark.parametrize("name", AU_NAMES)
def test_regions_lie_where_the_muscles_are(changes, name):
    change = changes[AU_NAMES.index(name)]
    region, half = smallest_region(change), len(change)//2
    assert .8 <= change[region].sum() < .8 + change.max() and .01 < region.mean() < .2
    if name in ("AU1", "AU2", "AU4"): assert not region[half:].any()
    if name in ("AU12", "AU15", "AU23", "AU24", "AU25", "AU26"): assert region[half:].sum() > .95*region.sum()
    assert abs(region[:, :half].sum() - region[:, half:].sum()) <= .25*region.sum()   # on both sides of the face


def test_attribution_is_complete_on_a_network():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8*64, 5), torch.nn.Tanh()).requires_grad_(False)
    faces, baseline, outputs = torch.randn(6, 3, 16, 16), torch.zeros(3, 16, 16), torch.arange(6) % 5
    due = (net(faces) - net(baseline[None])).gather(1, outputs[:, None])[:, 0]
    gaps = [float((attribute(net, faces, outputs, baseline, 4, steps).sum((1, 2)) - due).abs().mean()/due.abs().mean()) for steps in (2, 64)]
    assert gaps[1] < .02 < gaps[0]


def test_faces_are_spread_over_videos_and_along_them():
    table = pd.DataFrame(dict(video=["long"]*100 + ["short"]*3 + ["mid"]*20, row=range(123)))
    some = spread(table, 30)
    assert some["video"].value_counts().to_dict() == {"long": 10, "mid": 10, "short": 3}
    assert some[some["video"] == "long"]["row"].diff().dropna().between(9, 11).all()
    assert spread(table, 2)["video"].tolist() == ["long", "mid"] and spread(table[:0], 5).empty and spread(table, 0).empty


def test_active_faces_are_active_and_tasks_are_compared_on_the_same_ones(run):
    jobs = plan_jobs(rows_of(run, "validation"), run.targets, run.masks, TASKS)
    for k, name in enumerate(AU_NAMES):
        rows = jobs.query("name == @name and active")["row"]
        assert (run.targets["AU"][rows, k] == 1).all() and run.masks["AU"][rows, k].all()
    common = jobs[jobs["common"]].groupby("name")["row"].apply(set)
    assert len(common) == 22 and all(rows == common.iloc[0] for rows in common) and len(common.iloc[0]) <= FRAMES


def test_labels_that_are_missing_make_no_face_active(run):
    hidden = {task: np.zeros_like(mask) for task, mask in run.masks.items()}
    jobs = plan_jobs(rows_of(run, "validation"), run.targets, hidden, ("AU", "EXPR"))
    assert not jobs["active"].any() and jobs["common"].all()


def test_halves_are_halves():
    for videos in (4, 5, 60):
        halves = halves_of(videos)
        assert (halves.sum(1) == (videos + 1)//2).all() and (halves == halves_of(videos)).all() and len({h.tobytes() for h in halves}) > 2


# ---- a run

def test_record_and_arrays(run, found):
    record, arrays = leave_focus(run, 0, found)
    text = (run.folder/"records"/"focus-seed0.json").read_text()
    stored, kept = json.loads(text), np.load(run.folder/"records"/"focus-seed0.npz")
    assert stored["record"] == stored["name"] == "focus" and stored["source"] == "synthetic" and not re.search("NaN|Infinity", text)
    assert [row["au"] for row in stored["aus"]] == list(AU_NAMES) and {"inside", "inside_lo", "inside_hi", "chance_others", "chance_area", "videos", "frames"} <= set(stored["aus"][0])
    assert [(p["a"], p["b"]) for p in stored["pairs"]] == [("AU", "EXPR"), ("AU", "VA"), ("EXPR", "VA")] and {"distance", "lo", "hi", "floor", "excess"} <= set(stored["pairs"][0])
    assert kept["names"].tolist() == [name for task in TASKS for name in (task, *OUTPUTS[task])] and kept["maps"].shape == (25, 16, 16) and kept["maps"].dtype == np.float16
    assert kept["regions"].shape == (12, 16, 16) and kept["regions"].dtype == bool and kept["face"].shape == (32, 32, 3) and kept["face"].dtype == np.uint8
    assert kept["halves"].shape == (3, 2, 16, 16) and kept["gain_resamples"].shape == (40, 12) and kept["excess_resamples"].shape == (40, 3)
    assert np.allclose(kept["maps"][kept["names"] == "VA"].astype(float).sum(), 1, atol=5e-3)


def test_the_same_faces_give_the_same_numbers_and_bytes(run, found):
    first, _ = leave_focus(run, 0, found)
    before = (run.folder/"records"/"focus-seed0.npz").read_bytes()
    again, _ = leave_focus(run, 0, look_at_all(run, 0, 10, 3))
    assert again["aus"] == first["aus"] and again["pairs"] == first["pairs"] and (run.folder/"records"/"focus-seed0.npz").read_bytes() == before


def test_real_data_have_no_regions_and_a_task_without_labels_drops_out(tmp_path, data):
    run = planned(tmp_path, data, ("AU", "VA"), synthetic=False)
    record, arrays = leave_focus(run, 0, look_at_all(run, 0, 10, 3))
    assert record["source"] == "real" and record["aus"] == [] and record["aus_mean"] is None and len(arrays["regions"]) == len(arrays["aus"]) == 0
    assert [(p["a"], p["b"]) for p in record["pairs"]] == [("AU", "VA")] and [row["task"] for row in record["sanity"]] == ["AU", "VA"]


def test_no_model_at_all_says_so(tmp_path, data):
    with pytest.raises(AffnbError, match="no separate model"): look_at_all(planned(tmp_path, data, ()), 0)


def test_inside_shares_follow_the_weights_of_videos(regions):
    one, other = np.zeros(regions.shape[1:]), np.zeros(regions.shape[1:])
    one[regions[0]] = 1/regions[0].sum(); other[-1, 0] = 1.
    seen = {name: (np.stack([one, other]), np.ones(2)) for name in AU_NAMES}
    inside = inside_shares(seen, regions, np.array([[1., 1.], [2., 0.], [0., 2.], [1., 3.]]))[0][:, 0]
    assert inside.tolist() == pytest.approx([.5, 1, 0, .25])
