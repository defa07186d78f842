"""The score against scikit-learn and a plain double loop; intervals; files; the defects of the
released code that belong here.
"""

import json
import subprocess
import sys
import time
import numpy as np
import pytest
from sklearn.metrics import f1_score
from affnb.engine.core import AU_NAMES, EXPRESSIONS, AffnbError
from affnb.metrics import (
    SUM_COLUMNS,
    Statistics,
    bootstrap,
    ccc,
    f1_macro,
    from_record,
    interval,
    paired_bootstrap,
    score,
    score_from_statistics,
    share_below,
    to_record,
    triples,
    video_statistics,
)
from affnb.engine.records import read_record, write_record
from affnb.engine.scoring import read_predictions, score_files
from errors import assert_error

HEADER = "image,valence,arousal,expression,aus\n"


def make(n, seed, present=0.6, classes=8):
    rng = np.random.default_rng(seed)
    targets = dict(
        AU=(rng.random((n, 12)) < rng.uniform(0.02, 0.8, 12)).astype("float32"),
        EXPR=rng.integers(0, classes, n),
        VA=rng.uniform(-1, 1, (n, 2)).astype("float32"),
    )
    masks = {task: rng.random(t.shape) < present for task, t in targets.items()}
    for task in targets:
        targets[task] = np.where(masks[task], targets[task], 0)
    predictions = dict(
        AU=rng.random((n, 12)),
        EXPR=rng.dirichlet(np.ones(8), n),
        VA=np.tanh(targets["VA"] + rng.normal(0, 1, (n, 2))),
    )
    return predictions, targets, masks


def by_double_loop(predictions, targets, masks):
    "The score written with loops over frames and nothing else."
    n = len(targets["EXPR"])
    out = {}
    for i, name in enumerate(("valence", "arousal")):
        rows = [
            (float(predictions["VA"][r][i]), float(targets["VA"][r][i]))
            for r in range(n)
            if masks["VA"][r][i]
        ]
        mx = sum(x for x, _ in rows) / len(rows)
        my = sum(y for _, y in rows) / len(rows)
        vx = 0.0
        vy = 0.0
        c = 0.0
        for x, y in rows:
            vx += (x - mx) ** 2
            vy += (y - my) ** 2
            c += (x - mx) * (y - my)
        out[f"CCC_{name}"] = 2 * c / len(rows) / (vx / len(rows) + vy / len(rows) + (mx - my) ** 2)

    def f1(pairs):
        tp = fp = fn = 0
        for p, t in pairs:
            tp += p and t
            fp += p and not t
            fn += t and not p
        return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0

    best = [max(range(8), key=lambda c: predictions["EXPR"][r][c]) for r in range(n)]
    out["EXPR_per_class"] = [
        f1([(best[r] == c, int(targets["EXPR"][r]) == c) for r in range(n) if masks["EXPR"][r]])
        for c in range(8)
    ]
    out["AU_per_unit"] = [
        f1(
            [
                (predictions["AU"][r][u] >= 0.5, targets["AU"][r][u] == 1)
                for r in range(n)
                if masks["AU"][r][u]
            ]
        )
        for u in range(12)
    ]
    out["VA"] = (out["CCC_valence"] + out["CCC_arousal"]) / 2
    out["EXPR"], out["AU"] = sum(out["EXPR_per_class"]) / 8, sum(out["AU_per_unit"]) / 12
    return out | {"P": out["VA"] + out["EXPR"] + out["AU"]}


@pytest.mark.parametrize(
    "seed,present,classes", [(0, 1.0, 8), (1, 0.6, 8), (2, 0.3, 5), (3, 0.05, 3), (4, 0.6, 1)]
)
def test_score_is_the_double_loops(seed, present, classes):
    sample = make(400, seed, present, classes)
    ours = score(*sample)
    reference = by_double_loop(*sample)
    assert set(ours) == set(reference)
    for name in reference:
        np.testing.assert_allclose(ours[name], reference[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed,present,classes", [(5, 0.6, 8), (6, 0.2, 4)])
def test_score_is_scikit_learns(seed, present, classes):
    predictions, targets, masks = make(3000, seed, present, classes)
    ours = score(predictions, targets, masks)
    m = masks["EXPR"]
    known = dict(labels=range(8), zero_division=0)
    assert (
        abs(
            ours["EXPR"]
            - f1_score(
                targets["EXPR"][m], predictions["EXPR"].argmax(1)[m], average="macro", **known
            )
        )
        < 1e-9
    )
    np.testing.assert_allclose(
        ours["EXPR_per_class"],
        f1_score(targets["EXPR"][m], predictions["EXPR"].argmax(1)[m], average=None, **known),
        atol=1e-9,
    )
    units = [
        f1_score(targets["AU"][k, u], predictions["AU"][k, u] >= 0.5, zero_division=0)
        for u, k in enumerate(masks["AU"].T)
    ]
    np.testing.assert_allclose(ours["AU_per_unit"], units, atol=1e-9)
    assert abs(ours["AU"] - np.mean(units)) < 1e-9


@pytest.mark.parametrize("seed,offset", [(0, 0), (1, 0.9), (2, -0.9)])
def test_statistics_give_the_same_score_however_videos_are_cut(seed, offset):
    predictions, targets, masks = make(2000, seed)
    # little spread, far from 0
    targets["VA"] = targets["VA"] * 1e-3 + offset
    predictions["VA"] = predictions["VA"] * 1e-3 + offset
    direct = score(predictions, targets, masks)
    for videos in (np.zeros(2000), np.arange(2000) % 7, np.arange(2000)):
        statistics = video_statistics(predictions, targets, masks, videos)
        summed = score_from_statistics(statistics.values.sum(0))
        for name in direct:
            np.testing.assert_allclose(summed[name], direct[name], rtol=0, atol=1e-9, err_msg=name)


def test_many_sums_at_once_are_each_alone():
    values = video_statistics(*make(500, 3), np.arange(500) % 5).values
    together = score_from_statistics(values)
    for v, row in enumerate(values):
        alone = score_from_statistics(row)
        for name in alone:
            np.testing.assert_allclose(together[name][v], alone[name], rtol=0, atol=1e-12)


def test_threshold_is_at_one_half_and_ties_take_the_first_class():
    targets = dict(AU=np.ones((2, 12)), EXPR=np.array([0, 3]))
    masks = dict(AU=np.ones((2, 12), bool), EXPR=np.ones(2, bool))
    result = score(dict(AU=np.full((2, 12), 0.5), EXPR=np.full((2, 8), 0.125)), targets, masks)
    assert result["AU"] == 1
    assert result["EXPR_per_class"][0] == pytest.approx(2 / 3)
    assert result["EXPR_per_class"][3] == 0


def test_what_cannot_be_had_is_none():
    predictions, targets, masks = make(100, 0)
    nothing = {task: np.zeros_like(m) for task, m in masks.items()}
    assert all(v is None for v in score(predictions, targets, nothing).values())
    assert all(v is None for v in score({}, targets, masks).values())
    only = score({"EXPR": predictions["EXPR"]}, targets, masks)
    assert only["EXPR"] is not None
    assert only["P"] is None
    assert only["AU"] is None
    assert only["CCC_valence"] is None
    half = {**masks, "VA": masks["VA"] & [True, False]}
    result = score(predictions, targets, half)
    assert result["CCC_valence"] is not None
    assert result["CCC_arousal"] is None
    assert result["VA"] is None
    assert result["P"] is None
    assert (
        score_from_statistics(
            video_statistics(predictions, targets, half, np.zeros(100)).values.sum(0)
        )["CCC_arousal"]
        is None
    )
    json.dumps(result, allow_nan=False)


def test_constants_score_nothing():
    rng = np.random.default_rng(0)
    true = rng.uniform(-1, 1, 5000)
    for constant in (0, 0.1, -1, true.mean()):
        assert abs(ccc(np.full(5000, constant), true)) < 1e-12
    assert ccc(np.full(5000, 0.1), np.full(5000, 0.1)) == 0
    assert ccc(true, true) == pytest.approx(1)


@pytest.mark.parametrize(
    "task,change",
    [
        ("VA", lambda p: p[:, :1]),
        ("AU", lambda p: p[:, :11]),
        ("EXPR", lambda p: p.argmax(1)),
        ("EXPR", lambda p: p[:50]),
        ("VA", lambda p: np.where(np.arange(200).reshape(100, 2) == 7, np.nan, p)),
    ],
)
def test_wrong_shapes_and_nan_are_refused(task, change):
    predictions, targets, masks = make(100, 0, present=1.0)
    with pytest.raises(AffnbError):
        score(predictions | {task: change(predictions[task])}, targets, masks)
    with pytest.raises(AffnbError):
        score({"valence": predictions["VA"]}, targets, masks)
    with pytest.raises(AffnbError):
        ccc([], [])


# -- defects of the released code ------------------------------------------------------------------


def test_defect_macro_f1_over_the_classes_present_only():
    truth = np.array([0, 0, 4, 4])
    guess = np.array([0, 0, 4, 4])
    assert f1_score(truth, guess, average="macro") == 1  # what the released code reports
    assert f1_macro(guess, truth) == 2 / 8
    targets = {"EXPR": truth}
    masks = {"EXPR": np.ones(4, bool)}
    assert score({"EXPR": np.eye(8)[guess]}, targets, masks)["EXPR"] == 2 / 8


def test_defect_mask_selects_elements_not_rows():
    targets = {"AU": np.zeros((4, 12))}
    predictions = {"AU": np.zeros((4, 12))}
    targets["AU"][:, 6] = predictions["AU"][:, 6] = 1  # AU12 right everywhere
    predictions["AU"][:, 2] = 1  # AU4 claimed everywhere, labelled nowhere
    mask = np.ones((4, 12), bool)
    mask[:, 2] = False
    assert score(predictions, targets, {"AU": mask})["AU_per_unit"][6] == 1, (
        "rows with an unknown AU4 still have their AU12 judged"
    )
    mask[1:, 2] = True
    targets["AU"][2, 2] = 1
    assert score(predictions, targets, {"AU": mask})["AU_per_unit"][2] == pytest.approx(0.5), (
        "3 labelled rows: one hit, two false alarms"
    )


def test_defect_valence_and_arousal_stay_apart():
    predictions, targets, masks = make(300, 1, present=1.0)
    predictions["VA"][:, 0] = targets["VA"][:, 0]
    predictions["VA"][:, 1] = 0
    result = score(predictions, targets, masks)
    assert result["CCC_valence"] > 0.999
    assert abs(result["CCC_arousal"]) < 1e-9
    summed = score_from_statistics(
        video_statistics(predictions, targets, masks, np.zeros(300)).values.sum(0)
    )
    assert summed["CCC_valence"] > 0.999
    assert abs(summed["CCC_arousal"]) < 1e-9


def test_defect_a_video_is_its_exact_name():
    predictions, targets, masks = make(30, 0)
    statistics = video_statistics(
        predictions, targets, masks, np.repeat(["140", "140-30-632x360", "14"], 10)
    )
    assert statistics.names == ["14", "140", "140-30-632x360"]
    first = score_from_statistics(statistics.values[1])
    direct = score(
        *({task: v[:10] for task, v in d.items()} for d in (predictions, targets, masks))
    )
    for name in ("CCC_valence", "EXPR", "AU"):
        assert first[name] == pytest.approx(direct[name], abs=1e-9)


# -- intervals -------------------------------------------------------------------------------------


def test_interval_is_that_of_explicit_resampling():
    """Counts times statistics is the same as stacking the frames of the drawn videos and scoring
    them.
    """
    from affnb.metrics import resample_counts

    predictions, targets, masks = make(600, 2)
    videos = np.arange(600) // 50
    counts = resample_counts(12, 20, 0)
    fast = score_from_statistics(
        counts @ video_statistics(predictions, targets, masks, [f"{v:02d}" for v in videos]).values
    )
    for r, row in enumerate(counts.astype(int)):
        frames = np.concatenate(
            [np.flatnonzero(videos == v) for v in range(12) for _ in range(row[v])]
        )
        slow = score(
            *({task: a[frames] for task, a in d.items()} for d in (predictions, targets, masks))
        )
        for name in slow:
            np.testing.assert_allclose(fast[name][r], slow[name], rtol=0, atol=1e-9)


def test_interval_covers_and_frames_do_not():
    rng = np.random.default_rng(0)
    covered = {"videos": 0, "frames": 0}
    population = 2 * (0.35**2 + 0.2**2) / (2 * (0.35**2 + 0.2**2) + 0.3**2 + 0.1**2)
    for _ in range(100):
        mood = rng.normal(0, 0.35, (40, 1)) + rng.normal(0, 0.2, (40, 15))
        offset = rng.normal(0, 0.3, (40, 1))
        guess = mood + offset + rng.normal(0, 0.1, mood.shape)
        arrays = (
            {"VA": np.stack([guess.ravel()] * 2, 1)},
            {"VA": np.stack([mood.ravel()] * 2, 1)},
            {"VA": np.ones((600, 2), bool)},
        )
        for unit, names in (("videos", np.repeat(np.arange(40), 15)), ("frames", np.arange(600))):
            _, lo, hi = bootstrap([video_statistics(*arrays, names)], 200)["CCC_valence"]
            covered[unit] += lo <= population <= hi
    assert 85 <= covered["videos"] <= 99
    assert covered["frames"] < 70


def test_interval_always_holds_the_estimate():
    rng = np.random.default_rng(0)
    for shift in (-9, -1, 0, 1, 9):
        lo, hi = interval(
            np.array([shift, np.nan]), np.stack([rng.normal(size=100), np.full(100, np.nan)], 1)
        )
        assert lo[0] <= shift <= hi[0]
        assert np.isnan(lo[1])
        assert np.isnan(hi[1])
    sample = make(80, 4, present=0.5)  # four short videos, as in the tiny profile
    for value in bootstrap([video_statistics(*sample, np.arange(80) // 20)], 50).values():
        for mean, lo, hi in value if isinstance(value, list) else [value]:
            assert lo <= mean <= hi


def test_triples_are_estimates_with_their_intervals():
    cloud = np.random.default_rng(0).normal(0.5, 0.05, 400)
    lo, hi = interval(0.5, cloud)
    assert triples({"AU": np.array([0.5])}, {"AU": cloud})["AU"] == (0.5, lo, hi)
    each = triples({"x": np.array([[0.5, np.nan]])}, {"x": np.stack([cloud, cloud], 1)})["x"]
    assert each == [(0.5, lo, hi), (None, None, None)]


def test_bootstrap_is_reproducible_and_averages_seeds():
    runs = [
        video_statistics(*make(400, seed=s), [f"v{i // 20}" for i in range(400)]) for s in (0, 1)
    ]
    assert (
        bootstrap(runs, 200, seed=1) == bootstrap(runs, 200, seed=1) != bootstrap(runs, 200, seed=2)
    )
    for metric in ("P", "VA", "EXPR", "AU"):
        assert bootstrap(runs, 50)[metric][0] == pytest.approx(
            np.mean([bootstrap([r], 50)[metric][0] for r in runs])
        )
    one = bootstrap([video_statistics(*make(50, 0), np.zeros(50))])
    assert one["P"][0] is not None, "one video says nothing about other videos"
    assert one["P"][1:] == (None, None), "one video says nothing about other videos"
    absent = bootstrap([video_statistics({}, *make(50, 0)[1:], np.arange(50) // 5)], 20)
    assert absent["P"] == (None, None, None)


def test_seeds_are_drawn_beside_videos():
    """Owen's pigeonhole bootstrap, written with loops; few seeds are stretched to the spread of
    their mean.
    """
    from affnb.metrics import mean_scores, resample_counts, resample_seeds, seed_scores

    runs = [video_statistics(*make(240, seed=s), np.arange(240) // 20) for s in range(3)]
    counts = resample_counts(12, 30, 5)
    weights = resample_seeds(3, 30, 5)
    fast = mean_scores(runs, counts, weights)
    for metric in ("P", "CCC_valence", "AU_per_unit"):
        each = [seed_scores(s, counts)[metric] for s in runs]
        for r in range(30):
            np.testing.assert_allclose(
                fast[metric][r], sum(weights[r, s] * each[s][r] for s in range(3)), atol=1e-12
            )
    for seeds in (2, 3, 10):
        luck = np.random.default_rng(seeds).normal(size=seeds)
        weights = resample_seeds(seeds, 100_000, 0)
        np.testing.assert_allclose(weights.sum(1), 1)
        assert (weights @ luck).std() == pytest.approx(luck.std(ddof=1) / np.sqrt(seeds), rel=0.02)
    assert (
        abs(
            np.corrcoef(resample_seeds(3, 100_000, 0)[:, 0], resample_counts(12, 100_000, 0)[:, 0])[
                0, 1
            ]
        )
        < 0.02
    ), "two draws, not one"


def test_unlike_seeds_widen_the_interval_and_one_seed_changes_nothing():
    predictions, targets, masks = make(1000, 0)
    names = np.arange(1000) // 25
    runs = [
        video_statistics(
            predictions | {"VA": predictions["VA"] * (1 - k) + targets["VA"] * k},
            targets,
            masks,
            names,
        )
        for k in (0, 0.2, 0.4)
    ]

    def width(runs):
        return np.diff(bootstrap(runs, 500)["VA"][1:])[0]

    assert width(runs) > 1.5 * width(runs[1:2])
    assert width([runs[1]] * 3) == pytest.approx(width(runs[1:2]))
    from affnb.metrics import resample_counts, resample_seeds

    assert (resample_seeds(1, 9, 0) == 1).all()
    counts = resample_counts(40, 200, 0)
    plain = score_from_statistics(counts @ runs[0].values)["P"]
    lo, hi = interval(score_from_statistics(np.ones((1, 40)) @ runs[0].values)["P"][0], plain)
    assert bootstrap(runs[:1], 200)["P"][1:] == (
        lo,
        hi,
    ), "bit for bit the interval over videos alone"
    # shared between comparisons, so not to be written on
    with pytest.raises(ValueError):
        counts[0] = 0


def test_other_videos_or_seeds_are_not_compared():
    a, b = (
        video_statistics(*make(40, 0), names) for names in (np.arange(40) // 10, np.arange(40) // 8)
    )
    for wrong in (
        lambda: bootstrap([a, b]),
        lambda: paired_bootstrap([a], [b]),
        lambda: paired_bootstrap([a, a], [a]),
        lambda: bootstrap([]),
    ):
        with pytest.raises(AffnbError):
            wrong()


def test_paired_difference():
    predictions, targets, masks = make(2000, 0)
    names = np.arange(2000) // 50
    a = video_statistics(predictions, targets, masks, names)
    better = predictions | {"VA": predictions["VA"] * 0.3 + targets["VA"] * 0.7}
    b = video_statistics(better, targets, masks, names)
    same = paired_bootstrap([a], [a], 100)
    difference = paired_bootstrap([b], [a], 100)
    assert same["P"] == (0, 0, 0)
    assert difference["VA"][1] > 0
    assert difference["AU"] == (0, 0, 0)
    assert difference["VA"][0] == pytest.approx(
        score(better, targets, masks)["VA"] - score(predictions, targets, masks)["VA"]
    )


def test_statistics_survive_a_record():
    statistics = video_statistics(*make(100, 0), np.arange(100) // 10)
    copy = from_record(json.loads(json.dumps(to_record(statistics))))
    assert copy.names == statistics.names
    assert (copy.values == statistics.values).all()
    assert isinstance(copy, Statistics)
    with pytest.raises(AffnbError):
        from_record({"names": [], "columns": ["x"], "values": []})
    with pytest.raises(AffnbError):
        from_record(None)


def many(arms, columns, seed=0):
    "A record of several arms, on the same people."
    truth = make(400, seed)[1:]
    sums = [
        video_statistics(make(400, seed + k)[0], *truth, np.arange(400) // 10) for k in range(arms)
    ]
    return dict(
        record="table",
        names=[str(k) for k in range(40)],
        columns=columns,
        arms=[
            dict(arm=f"arm {k}", change={}, statistics=s.values.tolist())
            for k, s in enumerate(sums)
        ],
    )


def test_sums_beside_a_record_say_the_same_in_a_fifth_of_the_place(tmp_path):
    record = many(12, list(SUM_COLUMNS))
    before = json.dumps(record)
    write_record(tmp_path / "table-a-seed0.json", record)
    assert json.dumps(record) == before, "what is in memory stays as it was"
    again = read_record(tmp_path / "table-a-seed0.json")
    assert again["names"] == record["names"]
    assert [arm["arm"] for arm in again["arms"]] == [arm["arm"] for arm in record["arms"]]
    counted = np.isin([column.split(":")[1] for column in SUM_COLUMNS], ("n", "tp", "fp", "fn"))
    for old, new in zip(record["arms"], again["arms"]):
        old = np.array(old["statistics"])
        new = new["statistics"]
        assert (old[:, counted] == new[:, counted]).all()
        assert np.allclose(old, new, rtol=1e-6, atol=1e-6)
        assert score_from_statistics(new.sum(0))["P"] == pytest.approx(
            score_from_statistics(old.sum(0))["P"], abs=1e-6
        )
    there = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert there < len(before) / 5, (
        "and more where videos are long, for then JSON has more digits to write"
    )
    first = (tmp_path / "table-a-seed0.npz").read_bytes()
    write_record(tmp_path / "table-a-seed0.json", again)
    assert (tmp_path / "table-a-seed0.npz").read_bytes() == first, (
        "what was read is written as it was"
    )


@pytest.mark.parametrize("videos", [0, 1])
@pytest.mark.parametrize("arms", [0, 1])
def test_records_of_nobody_and_of_no_arm(arms, videos, tmp_path):
    # more frames than 16 bits can count
    values = np.full((videos, len(SUM_COLUMNS)), 70_000.0).tolist()
    record = dict(
        names=["a"][:videos],
        columns=list(SUM_COLUMNS),
        arms=[dict(arm="x", statistics=values)][:arms],
    )
    write_record(tmp_path / "table-a-seed0.json", record)
    found = read_record(tmp_path / "table-a-seed0.json")["arms"]
    assert len(found) == arms
    assert all(arm["statistics"].tolist() == values for arm in found)


@pytest.mark.parametrize("harm", ["gone", "cut", "empty", "another's", "of two arms"])
def test_sums_that_are_not_the_records_are_named(harm, tmp_path):
    path = tmp_path / "table-a-seed0.json"
    beside = tmp_path / "table-a-seed0.npz"
    write_record(path, many(3, list(SUM_COLUMNS)))
    whole = beside.read_bytes()
    if harm == "gone":
        beside.unlink()
    elif harm == "cut":
        beside.write_bytes(whole[: len(whole) // 2])
    elif harm == "empty":
        beside.write_bytes(b"")
    elif harm == "another's":
        np.savez(beside, maps=np.zeros(3))
    else:
        write_record(tmp_path / "table-b-seed0.json", many(2, list(SUM_COLUMNS)))
        (tmp_path / "table-b-seed0.npz").replace(beside)
    with pytest.raises(AffnbError) as error:
        read_record(path)
    assert_error(error, beside, remedy=("delete", "affnb reproduce"))


def test_speed():
    sample = make(160_000, 0)
    videos = np.arange(160_000) // 400

    def fastest(f):
        return min(
            (lambda t: (f(), time.perf_counter() - t)[1])(time.perf_counter()) for _ in range(3)
        )

    assert fastest(lambda: score(*sample)) < 1, "160,000 frames in well under a second"
    runs = [video_statistics(*sample, videos)]
    assert fastest(lambda: bootstrap(runs, 1000)) < 1, "1,000 resamples in under a second"


# -- files -----------------------------------------------------------------------------------------


def write(path, rows):
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


def row(image, v="0.1", a="0.2", e="4", aus="0," * 11 + "1"):
    return f"{image},{v},{a},{e},{aus}"


def test_files_are_matched_by_image(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        row(
            f"{v}/{i:05d}.jpg",
            f"{rng.uniform(-1, 1):.3f}",
            f"{rng.uniform(-1, 1):.3f}",
            str(rng.integers(0, 8)),
            ",".join(map(str, rng.integers(0, 2, 12))),
        )
        for v in ("140", "140-30-632x360")
        for i in range(50)
    ]
    truth = write(tmp_path / "truth.txt", rows)
    shuffled = write(
        tmp_path / "mine.txt", [rows[i] for i in rng.permutation(100)] + [row("other/00001.jpg")]
    )
    found = score_files(shuffled, truth)
    assert found["P"] == pytest.approx(3)
    assert (
        found["frames"],
        found["extra"],
        found["duplicates"],
    ) == (100, 1, 0)
    with pytest.raises(AffnbError) as error:
        score_files(write(tmp_path / "mine.txt", rows[1:]), truth)
    assert "140/00000.jpg" in str(error.value)
    with pytest.raises(AffnbError) as error:
        score_files(shuffled, write(tmp_path / "list.txt", ["140/00000.jpg,"]))
    assert "label" in str(error.value)


def test_missing_truth_is_masked_element_by_element(tmp_path):
    truth = write(
        tmp_path / "truth.txt",
        [
            row("a/1.jpg", "-5", "0.5", "-1", "1,-1,0,0,0,0,0,0,0,0,0,0"),
            row("a/2.jpg", "0.3", "-0.5", "2", "0,1,0,0,0,0,0,0,0,0,0,0"),
            row("a/3.jpg", "0.1", "-5", "3", "0,1,0,0,0,0,0,0,0,0,0,0"),
        ],
    )
    mine = write(
        tmp_path / "mine.txt",
        [
            row("a/1.jpg", "-.9", "0.5", "7", ".5,1,0,0,0,0,0,0,0,0,0,0"),
            row("a/2.jpg", "0.3", "-0.5", "2", ".4,.6,0,0,0,0,0,0,0,0,0,0"),
            row("a/3.jpg", "0.1", "1", "3", "0,1,0,0,0,0,0,0,0,0,0,0"),
        ],
    )
    found = score_files(mine, truth)
    assert found["CCC_valence"] == pytest.approx(1)
    assert found["CCC_arousal"] == pytest.approx(1)
    assert found["EXPR"] == pytest.approx(2 / 8)
    assert found["AU_per_unit"][:2] == [1, 1]


def test_a_task_that_is_not_predicted_has_no_score(tmp_path):
    truth = write(tmp_path / "truth.txt", [row("a/1.jpg"), row("a/2.jpg", "0.3")])
    found = score_files(
        write(tmp_path / "mine.txt", [row("a/1.jpg", "-5", e="-1"), row("a/2.jpg", "-5", e="-1")]),
        truth,
    )
    assert found["EXPR"] is None
    assert found["P"] is None
    assert found["CCC_valence"] is None
    assert found["CCC_arousal"] is not None
    assert found["AU"] is not None


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "header"),
        (HEADER, "no row"),
        ("a/1.jpg,0,0\n", "line 1"),
        (HEADER + "a/1.jpg,0.1,0.2,4\n", "line 2: 4 value"),
        (HEADER + row("a/1.jpg") + "\n\n" + row("a/2.jpg", v="x"), "line 4: valence = 'x'"),
        (HEADER + row("a/1.jpg", v="nan"), "valence"),
        (HEADER + row("a/1.jpg", a="1.5"), "line 2: arousal = 1.5"),
        (HEADER + row("a/1.jpg", e="8"), "expression = 8"),
        (HEADER + row("a/1.jpg", e="2.5"), "expression = 2.5"),
        (HEADER + row("a/1.jpg", aus="0," * 11 + "2"), "AU26 = 2"),
        (HEADER + row("a/1.jpg") + "\n" + row("a/2.jpg", e="-1"), "line 3: expression is missing"),
        (HEADER + row("a/1.jpg", aus="-1," + "0," * 10 + "1"), "all twelve"),
        (HEADER + row("a/1.jpg") + "\n" + row("a/1.jpg", v="0.9"), "line 3: a/1.jpg has two"),
    ],
)
def test_a_bad_prediction_file_is_refused_with_its_line(tmp_path, text, words):
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(AffnbError) as error:
        read_predictions(tmp_path / "mine.txt")
    assert_error(error, remedy=None)
    assert words in str(error.value)
    assert "mine.txt" in error.value.where


def test_an_absent_or_binary_file_is_refused(tmp_path):
    with pytest.raises(AffnbError):
        read_predictions(tmp_path / "none.txt")
    with pytest.raises(AffnbError):
        read_predictions(tmp_path)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AffnbError):
        read_predictions(tmp_path / "b.txt")


def test_bom_crlf_blank_lines_and_equal_repeats_are_read(tmp_path):
    (tmp_path / "mine.txt").write_bytes(
        ("\ufeff" + HEADER + row("a/1.jpg") + "\n\n" + row("a/1.jpg") + "\n")
        .replace("\n", "\r\n")
        .encode()
    )
    assert len(read_predictions(tmp_path / "mine.txt")) == 1


def test_columns_are_what_records_hold():
    assert len(SUM_COLUMNS) == 74
    assert SUM_COLUMNS[0] == "valence:n"
    assert f"{AU_NAMES[-1]}:fn" == SUM_COLUMNS[-1]
    assert f"{EXPRESSIONS[0]}:tp" in SUM_COLUMNS


def test_truth_is_read_in_double_precision(tmp_path):
    "Read in single precision, a score is off by some billionths."
    rng = np.random.default_rng(0)
    true = rng.uniform(-1, 1, 400)
    guessed = np.clip(true + rng.normal(0, 0.3, 400), -1, 1)
    for name, values in (("truth.txt", true), ("mine.txt", guessed)):
        rows = [f"v/{i}.jpg,{float(v)!r},-5,-1{',-1' * 12}" for i, v in enumerate(values)]
        (tmp_path / name).write_text(HEADER + "\n".join(rows) + "\n")
    x = guessed - guessed.mean()
    y = true - true.mean()
    spread = x.var() + y.var() + (guessed.mean() - true.mean()) ** 2
    found = score_files(tmp_path / "mine.txt", tmp_path / "truth.txt")
    assert abs(found["CCC_valence"] - 2 * (x * y).mean() / spread) < 1e-12


@pytest.mark.slow
def test_who_scores_or_reports_does_not_wait_for_torch():
    "It takes seconds to import; neither labels nor records need it."
    modules = "affnb.metrics, affnb.engine.scoring, affnb.engine.report"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_resample_that_equals_the_whole_counts_half_whatever_the_order_of_its_sum():
    "Of eight people, some draws take each once: their score may differ in the last bit."
    column = np.array([0.1, 0.3, 0.5])
    assert share_below(column, 0.1 + 0.2) == share_below(column, 0.3) == 0.5
