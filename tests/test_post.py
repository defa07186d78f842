"""Post-processing on planted cases: it finds what is there, it leaves what is not, and nothing of
the reported half enters its parameters.
"""

from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
from affnb.engine.describe import post_arms, post_pairs
from affnb.evaluate import (
    POST_STEPS,
    THRESHOLDS,
    SplitPredictions,
    best_bias,
    best_thresholds,
    best_window,
    post_process,
    split_videos,
    select_frames,
    shift_classes,
    shift_units,
    smooth,
    task_score,
    three_ways,
)
from affnb.metrics import SUM_COLUMNS, score_from_statistics
from in_step import ROOT


def answers(found, targets, videos, numbers=None, masks=None):
    masks = masks or {task: np.ones(np.shape(t), bool) for task, t in targets.items()}
    return SplitPredictions(
        found,
        targets,
        masks,
        np.asarray(videos, str),
        np.arange(len(videos)) if numbers is None else numbers,
    )


def people(n_videos, frames, seed, informed=1.0):
    "Videos with all labels and predictions that know something of them (or nothing: informed=0)."
    rng = np.random.default_rng(seed)
    n = n_videos * frames
    videos = np.repeat([f"v{i:03d}" for i in range(n_videos)], frames)

    def slow(k):
        return np.repeat(rng.normal(0, 1, (n_videos, k)), frames, 0) + 0.3 * rng.normal(
            0, 1, (n, k)
        )

    mood = slow(2)
    units = slow(12)
    kind = slow(8).argmax(1)
    targets = dict(VA=np.tanh(mood), AU=(units > 0.8).astype(float), EXPR=kind)
    masks = {task: rng.random(t.shape) < 0.8 for task, t in targets.items()}
    expression = np.exp(
        informed * 1.5 * np.eye(8)[kind] + rng.normal(0, 1, (n, 8)) - np.linspace(0, 1, 8)
    )
    found = dict(
        VA=np.tanh(informed * mood + rng.normal(0, 0.8, (n, 2))),
        AU=1 / (1 + np.exp(2 - informed * units - rng.normal(0, 1, (n, 12)))),
        EXPR=expression / expression.sum(1, keepdims=True),
    )
    return answers(found, targets, videos, np.tile(np.arange(frames), n_videos), masks)


def test_smoothing_recovers_a_slow_signal_and_leaves_a_fast_one():
    rng = np.random.default_rng(0)
    steps = np.arange(600)
    truth = np.stack([np.sin(steps / 30), np.cos(steps / 40)], 1)
    videos = np.repeat(["a", "b", "c"], 200)
    slow = answers({"VA": truth + rng.normal(0, 0.7, truth.shape)}, {"VA": truth}, videos)
    window = best_window(slow, "VA")
    assert window >= 9
    assert (
        task_score(replace(slow, predictions={"VA": smooth(slow, "VA", window)}), "VA")
        > task_score(slow, "VA") + 0.1
    )
    flicker = rng.choice([-1.0, 1.0], truth.shape)
    fast = answers({"VA": flicker + rng.normal(0, 0.3, truth.shape)}, {"VA": flicker}, videos)
    assert best_window(fast, "VA") == 1
    assert smooth(fast, "VA", 1) is fast.predictions["VA"]


@pytest.mark.parametrize("window", [3, 9, 41])
def test_a_frame_is_averaged_within_its_video_in_frame_order_whatever_the_order_of_rows(window):
    rng = np.random.default_rng(window)
    sizes = [1, 2, 30, 70]
    # names that begin with one another
    videos = np.repeat(["140", "140-30-632x360", "9", "14"], sizes)
    numbers = np.concatenate([np.sort(rng.choice(500, size, replace=False)) for size in sizes])
    values = rng.normal(0, 1, (sum(sizes), 2))
    wanted = np.array(
        [
            [values[same][max(0, at - window // 2) : at + window // 2 + 1].mean(0)]
            for same in (np.flatnonzero(videos == v) for v in dict.fromkeys(videos))
            for at in range(len(same))
        ]
    )[:, 0]
    shuffle = rng.permutation(len(videos))
    for order in (np.arange(len(videos)), shuffle):
        given = answers({"VA": values[order]}, {"VA": values[order]}, videos[order], numbers[order])
        assert np.allclose(smooth(given, "VA", window), wanted[order], rtol=0, atol=1e-12)


def test_thresholds_recover_shifted_probabilities():
    rng = np.random.default_rng(1)
    true = rng.random((5000, 12)) < 0.3
    planted = np.linspace(0.15, 0.85, 12)
    # each unit is told apart exactly at its threshold
    shifted = np.where(
        true, rng.uniform(planted, 1, true.shape), rng.uniform(0, planted, true.shape)
    )
    given = answers({"AU": shifted}, {"AU": true}, ["a"] * 5000)
    chosen = best_thresholds(given, "AU")
    assert np.abs(chosen - planted).max() <= 0.026
    moved = replace(given, predictions={"AU": shift_units(given, "AU", chosen)})
    assert task_score(moved, "AU") > 0.95 > 0.9 > task_score(given, "AU")


def test_the_map_of_a_threshold_is_monotone_and_calls_at_one_half_what_the_threshold_calls():
    p = np.sort(
        np.concatenate(
            [
                np.linspace(0, 1, 501),
                THRESHOLDS,
                np.nextafter(THRESHOLDS, 0),
                np.nextafter(THRESHOLDS, 1),
            ]
        )
    )
    given = answers({"AU": np.tile(p[:, None], 12)}, {"AU": np.zeros((len(p), 12))}, ["a"] * len(p))
    for t in THRESHOLDS:
        moved = shift_units(given, "AU", [t] * 12)[:, 0]
        assert ((moved >= 0.5) == (p >= t)).all()
        assert (np.diff(moved) >= 0).all()
        assert moved[0] == 0
        assert moved[-1] == 1
        assert moved[p == t][0] == 0.5


def test_bias_recovers_a_suppressed_class():
    rng = np.random.default_rng(2)
    kind = rng.integers(0, 8, 4000)
    fair = np.exp(2 * np.eye(8)[kind] + rng.normal(0, 1, (4000, 8)))
    shy = fair * np.exp(-2 * np.eye(8)[5])

    def of(p):
        return answers({"EXPR": p / p.sum(1, keepdims=True)}, {"EXPR": kind}, ["a"] * 4000)

    bias = np.array(best_bias(of(shy), "EXPR"))
    assert bias.argmax() == 5
    assert 1.25 <= bias[5] - np.delete(bias, 5).mean() <= 2.75
    moved = shift_classes(of(shy), "EXPR", bias)
    assert np.allclose(moved.sum(1), 1)
    assert (
        task_score(of(moved), "EXPR")
        > task_score(of(fair), "EXPR") - 0.01
        > task_score(of(shy), "EXPR") + 0.03
    )
    assert best_bias(of(np.eye(8)[kind]), "EXPR") == [0.0] * 8  # nothing to mend


def test_nothing_of_the_reported_half_enters_its_parameters():
    validation = people(24, 20, 3)
    dev = people(10, 20, 4)
    half = split_videos(validation.videos, "test")
    rng = np.random.default_rng(5)
    other = {
        task: np.where((half if t.ndim == 1 else half[:, None]), t, rng.permutation(t))
        for task, t in validation.targets.items()
    }
    unseen = {
        task: np.where((half if m.ndim == 1 else half[:, None]), m, ~m)
        for task, m in validation.masks.items()
    }
    ways, fitted = three_ways(validation, dev, half)
    # other labels in half B, and on other frames
    again, refitted = three_ways(replace(validation, targets=other, masks=unseen), dev, half)

    def of(values, name):
        return [value for value in values if value["half"] == name]

    assert of(fitted, "A") == of(refitted, "A")
    assert of(fitted, "dev") == of(refitted, "dev")
    # where they should matter, they do
    assert of(fitted, "B") != of(refitted, "B")
    assert of(fitted, "validation") != of(refitted, "validation")
    for step in ("raw", *POST_STEPS):
        for task in validation.predictions:
            first = ways["crossfit"][step][task]
            second = again["crossfit"][step][task]
            assert np.array_equal(first[~half], second[~half])  # what is reported of half B
            assert np.array_equal(ways["dev"][step][task], again["dev"][step][task])
    last = list(POST_STEPS)[-1]
    assert any(
        not np.array_equal(ways["crossfit"][last][task][half], again["crossfit"][last][task][half])
        for task in validation.predictions
    )


def test_halves_are_the_same_for_every_order_balanced_in_frames_and_whole_videos():
    rng = np.random.default_rng(6)
    sizes = rng.integers(11, 400, 41)
    videos = np.repeat([f"v{i}" for i in range(41)], sizes)
    half = split_videos(videos, "data")
    order = rng.permutation(len(videos))
    assert not set(videos[half]) & set(videos[~half])
    assert abs(half.sum() - (~half).sum()) < 20
    assert np.array_equal(half[order], split_videos(videos[order], "data"))
    assert any(not np.array_equal(half, split_videos(videos, k)) for k in range(5))


def test_tuned_where_reported_is_above_cross_fitted_on_pure_noise():
    gains = {"optimistic": [], "crossfit": []}
    for seed in range(6):
        noise = people(16, 15, seed, informed=0.0)
        ways, _ = three_ways(noise, noise, split_videos(noise.videos, seed))
        for way, rows in gains.items():

            def total(step):
                return sum(
                    task_score(replace(noise, predictions=ways[way][step]), task)
                    for task in ("AU", "EXPR", "VA")
                )

            rows.append(total("+ EXPR bias") - total("raw"))
    assert min(gains["optimistic"]) > 0
    assert np.mean(gains["optimistic"]) > np.mean(gains["crossfit"]) + 0.03
    assert all(o > c for o, c in zip(*gains.values()))


def test_optimistic_never_falls_where_it_is_fitted_and_crossfit_helps_where_there_is_something():
    given = people(40, 30, 7)
    dev = people(20, 30, 8)
    ways, _ = three_ways(given, dev, split_videos(given.videos, 0))

    def at(way, step, task):
        return task_score(replace(given, predictions=ways[way][step]), task)

    for before, (step, (tasks, *_)) in zip(["raw", *POST_STEPS], POST_STEPS.items()):
        for task in ("AU", "EXPR", "VA"):
            if task in tasks:
                assert at("optimistic", step, task) >= at("optimistic", before, task)
            # and leaves the others
            else:
                assert at("optimistic", step, task) == at("optimistic", before, task)
    last = list(POST_STEPS)[-1]
    for way in ("crossfit", "dev"):
        assert all(
            at(way, last, task) > at(way, "raw", task) + 0.05 for task in ("AU", "EXPR", "VA")
        )


def test_arms_hold_sums_from_which_their_scores_follow_and_pairs_name_arms():
    given = people(12, 20, 9)
    arms, fitted = post_arms("joint", given, people(6, 20, 10), split_videos(given.videos, 0))
    names = [arm["arm"] for arm in arms]
    assert len(set(names)) == len(names) == 15
    assert names[0] == "joint crossfit: raw"
    pairs = post_pairs("joint")
    compared = {name for pair in pairs for name in pair}
    assert compared < set(names), "a step tuned where it is reported can only gain: no test"
    assert len(pairs) == 10, "a step tuned where it is reported can only gain: no test"
    assert set(names) - compared == {
        f"joint optimistic: {step}" for step in ("raw", *POST_STEPS)
    } - {"joint optimistic: + EXPR bias"}, (
        "a step tuned where it is reported can only gain: no test"
    )
    assert ["joint optimistic: + EXPR bias", "joint crossfit: + EXPR bias"] in pairs
    assert [
        "joint crossfit: + EXPR bias",
        "joint crossfit: raw",
    ] in pairs
    for arm in arms:
        assert np.shape(arm["statistics"]) == (12, len(SUM_COLUMNS))
        found = score_from_statistics(np.sum(arm["statistics"], 0))
        assert all(
            found[metric] == pytest.approx(arm["metrics"][metric], abs=1e-6)
            for metric in ("AU", "EXPR", "CCC_valence", "CCC_arousal", "P")
        )
    raw = [arm["statistics"] for arm in arms if arm["step"] == "raw"]
    assert raw[0] == raw[1] == raw[2]
    assert {(f["half"], f["step"], f["task"]) for f in fitted} == {
        (half, step, task)
        for half in ("A", "B", "validation", "dev")
        for step, (tasks, *_) in POST_STEPS.items()
        for task in tasks
    }


def published_gain(profile, model, way, step, before) -> float:
    "What a step of post-processing adds to P, in published results."
    table = pd.read_csv(ROOT / "figures" / profile / "table_post.csv").set_index("arm")["P"]
    return table[f"{model} {way}: {step}"] - table[f"{model} {way}: {before}"]


def test_what_the_chapter_says_of_published_results_is_so():
    text = (ROOT / "nbs" / "11_evaluate.ipynb").read_text()
    smoothing = ("crossfit", "+ smooth EXPR and AU", "+ smooth VA")
    assert "profile `smoke` ([table_post]" in text
    assert "smoothing expressions and action units lowers the cross-fitted score" in text
    assert published_gain("smoke", "progressive", *smoothing) < 0
    assert "the same smoothing raises the cross-fitted score of both models" in text
    for model in ("progressive", "joint"):
        assert published_gain("laptop", model, *smoothing) > 0
    assert "gains little for `progressive` and nothing for `joint`" in text
    dev = ("dev", "+ EXPR bias", "raw")
    assert 0 < published_gain("smoke", "progressive", *dev) < 0.03
    assert published_gain("smoke", "joint", *dev) <= 0


def test_what_is_absent_drops_out_and_what_has_no_label_is_left_alone():
    given = people(8, 15, 11)
    dev = people(4, 15, 12)
    blind = replace(dev, masks=dev.masks | {"EXPR": np.zeros_like(dev.masks["EXPR"])})
    stages, fitted = post_process(blind, given)
    assert {f["value"] for f in fitted if f["task"] == "EXPR"} == {None}
    assert all(np.array_equal(found["EXPR"], given.predictions["EXPR"]) for _, found in stages)
    units = replace(given, predictions={"AU": given.predictions["AU"]})
    arms, fitted = post_arms("joint", units, dev, split_videos(given.videos, 0))
    assert all(arm["metrics"]["EXPR"] is None and arm["metrics"]["AU"] is not None for arm in arms)
    assert {f["task"] for f in fitted} == {"AU"}
    alone = select_frames(
        given, given.videos == given.videos[0]
    )  # a single video leaves one half empty
    arms, fitted = post_arms("joint", alone, dev, split_videos(alone.videos, 0))
    assert len(arms) == 15
    assert all(f["value"] is None for f in fitted if f["half"] == "B")
