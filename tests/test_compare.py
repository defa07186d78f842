"""Planted effects: where joint training helps, hurts or does nothing, the statistics must say so;
false finds; Holm; p and interval.
"""

import gc
import subprocess
import sys
import time
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import ttest_1samp
from torch import nn
from affnb.engine.batches import Batch
from affnb.compare import (
    FINER,
    MARGIN,
    METRICS,
    NEAR,
    VERDICTS,
    compare,
    contrast,
    contrast_rows,
    corrected,
    equivalence_p,
    expected_error,
    holm,
    kept_scores,
    p_value,
    pair_rows,
    pseudo_values_of,
    smallest_found,
    t_p_value,
    variance_parts,
    verdict,
)
from affnb.engine.core import AffnbError, Config, UsageError
from affnb.metrics import (
    interval,
    mean_scores,
    paired_resamples,
    resample_counts,
    resample_seeds,
    seed_scores,
    video_statistics,
)
from affnb.train import make_optimizer, task_losses, total_loss

# -- planted effects: small models, truly trained --------------------------------------------------

VIDEOS = 60
FRAMES = 12
PIXELS = 40
OUT = {"AU": 12, "VA": 2}


def draw(rng, mixing, au, va, videos=VIDEOS):
    """Faces whose causes are half the person's and half the moment's: features (V, T, D), and
    labels that are functions of the causes.
    """
    causes = np.sqrt(0.5) * rng.normal(size=(videos, 1, len(mixing))) + np.sqrt(0.5) * rng.normal(
        size=(videos, FRAMES, len(mixing))
    )
    seen = causes @ mixing + rng.normal(0, 1, (videos, FRAMES, PIXELS))

    def tensor(a):
        return torch.tensor(a, dtype=torch.float32)

    return tensor(seen), {
        "AU": tensor(causes @ au > 0.3),
        "VA": tensor(np.tanh(0.7 * (causes @ va) + rng.normal(0, 0.1, (videos, FRAMES, 2)))),
    }


class Toy(nn.Module):
    "A trunk that all tasks share, and a linear head a task."

    def __init__(self, tasks, width, frozen):
        super().__init__()
        self.trunk = nn.Linear(PIXELS, width)
        self.heads = nn.ModuleDict({task: nn.Linear(width, OUT[task]) for task in tasks})
        self.trunk.requires_grad_(not frozen)

    def forward(self, seen):
        hidden = self.trunk(seen)
        return {
            task: torch.tanh(out) if task == "VA" else out
            for task, out in ((task, head(hidden)) for task, head in self.heads.items())
        }


def trained(tasks, width, frozen, seed, data, labelled, weight, steps=200):
    """A model of some tasks, with the losses of the chain; every model has a start and an order of
    its own.
    """
    torch.manual_seed(1000 * seed + sum(map(ord, "".join(tasks))))
    seen, targets = data
    model = Toy(tasks, width, frozen)
    masks = {task: torch.zeros_like(t, dtype=torch.bool) for task, t in targets.items()}
    for task, mask in masks.items():
        mask[: labelled[task]] = True
    optimizer = make_optimizer(model, 0.02, 0.01)
    config = Config(weight_valence=weight, weight_arousal=weight)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        rows = torch.cat([torch.randint(n, (8,)) for n in labelled.values()])
        batch = Batch(
            None,
            {t: v[rows] for t, v in targets.items()},
            {t: v[rows] for t, v in masks.items()},
            None,
            None,
            None,
        )
        loss = total_loss(task_losses(model(seen[rows]), batch, {"AU": torch.ones(12)}), config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def arms_of(mixing, au, va, width, labelled, frozen=False, weight=1.0, seeds=3, world=0):
    "joint and separate: {seed: Statistics} on new people."
    rng = np.random.default_rng(world)
    data = draw(rng, mixing, au, va, max(labelled.values()))
    seen, targets = draw(rng, mixing, au, va)
    flat = {task: t.flatten(0, 1).numpy() for task, t in targets.items()}
    names = np.repeat([f"{v:03d}" for v in range(VIDEOS)], FRAMES)
    everywhere = {task: np.ones(t.shape, bool) for task, t in flat.items()}
    arms = {"joint": {}, "separate": {}}
    for seed in range(seeds):
        for arm, groups in (("joint", [("AU", "VA")]), ("separate", [("AU",), ("VA",)])):
            outputs = {
                t: o.detach().flatten(0, 1)
                for tasks in groups
                for t, o in trained(tasks, width, frozen, seed, data, labelled, weight)(
                    seen
                ).items()
            }
            predictions = {"AU": torch.sigmoid(outputs["AU"]).numpy(), "VA": outputs["VA"].numpy()}
            arms[arm][seed] = video_statistics(predictions, flat, everywhere, names)
    return arms


def verdicts(arms):
    table = compare([("joint", "separate")], arms, ("AU", "CCC_valence", "CCC_arousal"), 4000)
    print(table.round(3).to_string())
    return table.set_index("metric").verdict.to_dict()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def matrices(rng, causes):
    """What causes look like, and what they mean for action units and for affect: directions of
    length 1, so that no label is louder than another.
    """
    mixing = rng.normal(0, 0.6 / np.sqrt(causes), (causes, PIXELS))
    au = rng.normal(0, 1, (causes, 12))
    va = rng.normal(0, 1, (causes, 2))
    return mixing, au / np.linalg.norm(au, axis=0), va / np.linalg.norm(va, axis=0)


@pytest.mark.slow
def test_where_joint_helps_it_is_shown():
    """Both tasks look at the same three causes; valence and arousal are labelled in three videos,
    action units in sixty.
    """
    mixing, au, va = matrices(np.random.default_rng(1), 3)
    words = verdicts(arms_of(mixing, au, va, 3, {"AU": 60, "VA": 3}, weight=0.1))
    assert words["CCC_valence"] == words["CCC_arousal"] == "shown"


@pytest.mark.slow
def test_where_joint_hurts_it_is_reversed():
    """Action units and affect have causes of their own, and the trunk has room for two of the four
    only.
    """
    mixing, au, va = matrices(np.random.default_rng(2), 4)
    # two causes are for affect, two for the units
    au[:2] = 0
    va[2:] = 0
    words = verdicts(arms_of(mixing, au, va, 2, {"AU": 60, "VA": 60}))
    assert "reversed" in words.values()
    assert "shown" not in words.values()


@pytest.mark.nightly
def test_where_joint_does_nothing_nothing_is_shown():
    """A trunk that does not learn: the tasks cannot touch each other, only the luck of start and
    order is left.
    """
    mixing, au, va = matrices(np.random.default_rng(3), 4)
    for world in range(2):
        words = verdicts(
            arms_of(mixing, au, va, 64, {"AU": 60, "VA": 60}, frozen=True, world=world)
        )
        assert set(words.values()) <= {"undecided", "equivalent"}


# -- false finds: nothing is there, with luck of people and of training ----------------------------


def equals(rng, seeds=3, people=0.1, luck=0.2, both=0.2, videos=40, frames=10):
    """Two arms that are equally good, {seed: Statistics} each; a training's luck is how much of the
    mood it sees.
    """

    def noise(size, *shape):
        return size * rng.normal(size=shape)

    mood = noise(0.35, videos, 1) + noise(0.2, videos, frames)
    hard = noise(0.25, videos, 1)
    names = np.repeat([f"{v:02d}" for v in range(videos)], frames)
    everywhere = {"VA": np.ones((videos * frames, 2), bool)}

    def two(a):
        return {"VA": np.stack([a.ravel()] * 2, 1)}

    def arm():
        of_arm = noise(people, videos, 1)
        guesses = [
            mood * (1 + luck * rng.normal())
            + hard
            + of_arm
            + noise(both, videos, 1)
            + noise(0.1, videos, frames)
            for _ in range(seeds)
        ]
        return {
            s: video_statistics(two(g), two(mood), everywhere, names) for s, g in enumerate(guesses)
        }

    return arm(), arm()


@pytest.mark.slow
def test_false_finds_are_rare_with_seeds_drawn_and_many_without():
    rng = np.random.default_rng(0)
    repeats = 200
    of = {}
    for i in range(repeats):
        of[f"a{i}"], of[f"b{i}"] = equals(rng)
    drawn = compare([(f"a{i}", f"b{i}") for i in range(repeats)], of, ["CCC_valence"], 1000)
    counts = resample_counts(40, 1000, 0)
    alone = []
    for i in range(repeats):
        a, b = (
            mean_scores(list(of[f"{name}{i}"].values()), counts)["CCC_valence"] for name in "ab"
        )
        alone.append(p_value(drawn.difference[i], a - b))
    rate = (drawn.p < 0.05).mean()
    rate_alone = (np.array(alone) < 0.05).mean()
    print(f"false finds: videos and seeds {rate:.3f}, videos alone {rate_alone:.3f}")
    assert rate <= 0.05
    assert rate_alone > 0.12
    assert ((drawn.lo > 0) | (drawn.hi < 0)).mean() == pytest.approx(rate, abs=0.01)


# -- p values, Holm, verdicts ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["normal", "skewed", "biased", "steps"])
def test_p_agrees_with_the_interval(shape):
    rng = np.random.default_rng(0)
    agreed = 0
    near = 0
    for _ in range(300):
        value = rng.normal(0, 0.02)
        noise = {
            "normal": rng.normal(0, 0.01, 2000),
            "skewed": rng.exponential(0.01, 2000) - 0.01,
            "biased": rng.normal(0.003, 0.01, 2000),
            "steps": np.round(rng.normal(0, 0.01, 2000), 2),
        }[shape]
        value = round(value, 2) if shape == "steps" else value
        lo, hi = interval(value, value + noise)
        p = p_value(value, value + noise)
        near += abs(p - 0.05) < 0.002
        agreed += ((lo > 0 or hi < 0) == (p < 0.05)) or abs(p - 0.05) < 0.002
        assert 2 / 2001 <= p <= 1
    assert agreed == 300
    assert near < 30


def test_p_where_there_is_nothing_to_say():
    assert p_value(0.0, np.zeros(50)) == 1
    assert p_value(0.0, np.random.default_rng(0).normal(size=50)) == 1
    assert np.isnan(p_value(np.array([np.nan, 0.1]), np.full((20, 2), np.nan))).all()
    assert p_value(0.5, np.full(99, 0.5)) == pytest.approx(0.02)
    # 999 resamples cannot say less than 2/1000
    assert p_value(0.5, np.random.default_rng(0).normal(0.5, 0.01, 999)) == 0.002
    # a normal cloud, 1.5 standard errors above 0
    cloud = np.random.default_rng(0).normal(0.03, 0.02, 100_000)
    assert p_value(0.03, cloud) == pytest.approx(2 * ndtr(-1.5), abs=0.005)
    both = np.random.default_rng(0).normal(0.01, 0.01, 4000)
    assert p_value(0.01, both) == pytest.approx(p_value(-0.01, -both), abs=1e-3), (
        "the sign of the difference does not matter"
    )


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, np.nan, 0.9, 0.02]), [1, np.nan, 1, 0.06])
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert holm([]).shape == (0,)
    assert holm([0.2]) == 0.2
    given = np.array([0.01, np.nan])
    holm(given)
    assert given[0] == 0.01 and np.isnan(given[1]), "what was given is left alone"
    np.testing.assert_allclose(
        holm([0.005, np.nan, 0.01], family=10),
        [0.05, np.nan, 0.09],
        err_msg="what was planned and not made counts",
    )
    np.testing.assert_allclose(
        holm([0.005, 0.01], family=1),
        holm([0.005, 0.01]),
        err_msg="a family is never smaller than what was compared",
    )


def test_verdict_of_a_corrected_p():
    assert [
        verdict(0.1, 0.049),
        verdict(-0.1, 0.049),
        verdict(0.1, 0.05),
        verdict(0.0, 0.01),
        verdict(np.nan, np.nan),
        verdict(0.1, np.nan),
    ] == ["shown", "reversed", "undecided", "undecided", "–", "–"]


def test_equivalent_comes_before_shown_and_after_nothing():
    assert verdict(0.02, 0.001, 0.049) == "equivalent" == verdict(-0.02, 0.9, 0.049)
    assert verdict(0.02, 0.001, 0.05) == "shown"
    assert verdict(0.02, 0.001, 0.001, seeds=1) == "one seed"
    assert verdict(np.nan, np.nan, 0.001) == "–"
    assert [verdict(0.02, 0.001, np.nan), verdict(0.02, 0.9, np.nan)] == ["shown", "undecided"]


@pytest.mark.parametrize("shape", ["normal", "skewed", "biased", "wide"])
def test_equivalence_agrees_with_the_90_percent_interval(shape):
    rng = np.random.default_rng(0)
    agreed = 0
    near = 0
    equivalent = 0
    for _ in range(300):
        value = rng.normal(0, 0.02)
        size = 0.03 if shape == "wide" else 0.008
        noise = {
            "normal": rng.normal(0, size, 2000),
            "skewed": rng.exponential(size, 2000) - size,
            "biased": rng.normal(0.3 * size, size, 2000),
            "wide": rng.normal(0, size, 2000),
        }[shape]
        lo, hi = interval(value, value + noise, 0.9)
        p = equivalence_p(value, value + noise)
        close = abs(p - 0.05) < 0.003
        near = near + close
        equivalent += p < 0.05
        agreed += ((lo > -MARGIN and hi < MARGIN) == (p < 0.05)) or close
        assert 1 / 2001 <= p <= 1
        assert equivalence_p(-value, -(value + noise)) == pytest.approx(p, abs=2e-3), (
            "the sign of the difference does not matter"
        )
    assert agreed == 300
    assert near < 30
    assert equivalent == 0 if shape == "wide" else equivalent > 60


def test_equivalence_where_there_is_nothing_to_say():
    assert np.isnan(equivalence_p(np.nan, np.zeros(9)))
    assert np.isnan(equivalence_p(0.0, np.full(9, np.nan)))
    assert equivalence_p(MARGIN, np.full(99, MARGIN)) == 1 == equivalence_p(-0.5, np.full(99, -0.5))
    assert (
        equivalence_p(0.0, np.zeros(99)) == 0.01 == equivalence_p(0.0, np.r_[np.zeros(99), np.nan])
    )


# -- planted effects of known size: each word comes at its rate ------------------------------------


def planted(rng, effect, rows=8, people=300, seeds=5, luck=0.006, noise=0.09):
    """A table of differences with this true effect: rows as `contrast_rows` has them, from videos
    and seeds that are drawn.
    """
    d = (
        effect
        + luck * rng.normal(size=(seeds, rows, 1))
        + noise * rng.normal(size=(1, rows, people))
        + noise * rng.normal(size=(seeds, rows, people))
    )
    counts = resample_counts(people, 1000, 0)
    weights = resample_seeds(seeds, 1000, 0)
    columns = sum(w[:, None] * (counts @ one.T / people) for w, one in zip(weights.T, d))
    estimates = d.mean((0, 2))
    return [
        dict(
            arm=f"a{k}",
            against="b",
            metric="AU",
            difference=v,
            lo=np.nan,
            hi=np.nan,
            error=column.std(),
            p=float(p_value(v, column)),
            p_equivalent=equivalence_p(v, column),
            n_seeds=seeds,
            seeds_agree="",
        )
        for k, (v, column) in enumerate(zip(estimates, columns.T))
    ]


def words_of(effect, tables=20, **design):
    gc.freeze()  # statsmodels collects garbage at each call: let it find little
    rng = np.random.default_rng(int(1000 * abs(effect)) + len(design))
    try:
        verdicts = [
            corrected(planted(rng, effect, **design)).verdict.tolist() for _ in range(tables)
        ]
    finally:
        gc.unfreeze()
    rates = {word: np.mean([v == word for t in verdicts for v in t]) for word in VERDICTS}
    print(effect, design, rates)
    return (
        rates,
        np.mean([any(v in ("shown", "reversed") for v in t) for t in verdicts]),
        np.mean(["equivalent" in t for t in verdicts]),
    )


def test_nothing_is_called_equivalent_by_a_design_that_can_tell():
    rates, with_a_find, _ = words_of(0.0)
    assert rates["equivalent"] > 0.8
    assert with_a_find <= 0.1


def test_nothing_is_undecided_by_a_design_that_cannot_tell():
    rates, with_a_find, alike = words_of(0.0, people=40, seeds=3, luck=0.02)
    assert rates["undecided"] > 0.9
    assert with_a_find <= 0.12
    assert alike <= 0.1


def test_an_effect_as_large_as_the_margin_is_never_called_equivalent():
    for effect in (MARGIN, -MARGIN):
        assert words_of(effect)[2] <= 0.1


def test_a_small_effect_is_no_find_and_a_large_one_is():
    small, _, _ = words_of(0.015, people=80, seeds=3)
    assert small["undecided"] > 0.7
    assert small["reversed"] <= 0.01
    large, _, _ = words_of(0.08)
    assert large["shown"] > 0.95
    assert large["reversed"] == 0
    turned, _, _ = words_of(-0.08)
    assert turned["reversed"] > 0.95
    assert turned["shown"] == 0


def test_the_smallest_difference_is_found_four_times_out_of_five():
    rng = np.random.default_rng(7)
    error = np.median([row["error"] for row in planted(rng, 0.0)])
    effect = float(smallest_found(error, 8))
    rates, _, _ = words_of(effect, tables=30)
    assert 0.65 < rates["shown"] <= 0.97
    assert smallest_found(0.01, 1) == pytest.approx(0.028, abs=0.0005)
    assert np.isnan(smallest_found(np.nan, 3))
    assert smallest_found(0.01, 0) == smallest_found(0.01, 1)


# -- people and trainings --------------------------------------------------------------------------


def test_the_parts_of_the_variance_are_what_went_in():
    rng = np.random.default_rng(0)
    truth = dict(people=0.09, seeds=0.0004, both=0.04)

    def draw():
        return (
            0.02 * rng.normal(size=(4, 1))
            + 0.3 * rng.normal(size=(1, 50))
            + 0.2 * rng.normal(size=(4, 50))
        )

    guesses = pd.DataFrame([variance_parts(draw()) for _ in range(2000)])
    assert (guesses >= 0).all(axis=None)
    # those below 0 are cut off
    for name, value in truth.items():
        assert guesses[name].mean() == pytest.approx(value, rel=0.5 if name == "seeds" else 0.05), (
            name
        )
    spread = np.std([draw().mean() for _ in range(4000)])
    assert expected_error(truth, 50, 4) == pytest.approx(spread, rel=0.05)
    assert expected_error(truth, 10**9, 4) == pytest.approx(0.01, rel=1e-3)
    assert expected_error(truth, 50, 10**9) == pytest.approx(np.sqrt(0.09 / 50), rel=1e-3)


def test_pseudo_values_are_those_of_leaving_each_video_out():
    of = arms()
    values = pseudo_values_of({"b": 1, "a": -1}, of, "EXPR")
    assert values.shape == (3, 20)
    for seed in range(3):

        def score(arm, keep):
            return float(seed_scores(of[arm][seed], keep[None].astype(float))["EXPR"][0])

        everyone = np.ones(20)
        for video in (0, 7, 19):
            without = everyone - np.eye(20)[video]
            by_hand = 20 * (score("b", everyone) - score("a", everyone)) - 19 * (
                score("b", without) - score("a", without)
            )
            assert values[seed, video] == pytest.approx(by_hand, abs=1e-9)


def test_the_parts_foretell_the_error_of_the_bootstrap():
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(12):
        a, b = equals(rng, seeds=5, videos=60)
        of = {"a": a, "b": b}
        error = compare([("b", "a")], of, ["CCC_valence"], 500).error.item()
        ratios.append(
            expected_error(
                variance_parts(pseudo_values_of({"b": 1, "a": -1}, of, "CCC_valence")), 60, 5
            )
            / error
        )
    # the bootstrap of videos and seeds counts what belongs to both twice: it errs on the safe side
    assert 0.7 < np.median(ratios) < 1.2, ratios


def test_one_seed_gets_no_verdict():
    assert [
        verdict(d, p, 1.0, 1) for d, p in ((0.1, 0.0001), (-0.1, 0.0001), (0.1, 0.5), (np.nan, 0.1))
    ] == ["one seed"] * 3 + ["–"]
    of = arms(seeds=1, gain=dict(b=0.9))
    table = compare([("b", "a"), ("c", "a")], of, n=500)
    assert set(table.verdict) == {"one seed"}
    assert table[["difference", "lo", "hi", "p"]].notna().all(axis=None)
    assert (table.p[:4] < 0.01).all()
    assert (table.n_seeds == 1).all()


# -- the table -------------------------------------------------------------------------------------


def arms(names=("a", "b", "c"), seeds=3, videos=20, tasks=("AU", "EXPR", "VA"), gain=dict(b=0.5)):
    rng = np.random.default_rng(0)
    n = videos * 15
    targets = dict(
        AU=(rng.random((n, 12)) < 0.3).astype(float),
        EXPR=rng.integers(0, 8, n),
        VA=rng.uniform(-1, 1, (n, 2)),
    )
    masks = {t: np.ones(v.shape, bool) for t, v in targets.items()}
    of = {}
    for name in names:
        noise = 1 - gain.get(name, 0)

        def guess():
            return dict(
                AU=np.clip(targets["AU"] + rng.normal(0, noise, (n, 12)), 0, 1),
                EXPR=np.eye(8)[targets["EXPR"]] + rng.gumbel(0, noise, (n, 8)),
                VA=targets["VA"] + rng.normal(0, noise, (n, 2)),
            )

        of[name] = {
            s: video_statistics(
                {t: v for t, v in guess().items() if t in tasks}, targets, masks, np.arange(n) // 15
            )
            for s in range(seeds)
        }
    return of


def test_a_row_does_not_know_its_company():
    of = arms(("a", "b", "c", "d"))
    full = compare([("b", "a"), ("c", "a"), ("d", "b")], of, n=1000)
    turned = compare(
        [("d", "b"), ("c", "a"), ("b", "a")], dict(reversed(of.items())), METRICS[::-1], n=1000
    )
    alone = compare([("b", "a")], {name: of[name] for name in "ba"}, ["EXPR"], n=1000)
    assert full.arm.tolist() == ["b"] * 4 + ["c"] * 4 + ["d"] * 4
    assert full.metric.tolist() == list(METRICS) * 3
    key = ["arm", "against", "metric"]
    columns = ["difference", "lo", "hi", "p", "n_seeds"]
    one = full.set_index(key)[columns]
    other = turned.set_index(key)[columns]
    pd.testing.assert_frame_equal(one, other.loc[one.index], check_exact=True)
    pd.testing.assert_frame_equal(
        alone.set_index(key)[columns], one.loc[[("b", "a", "EXPR")]], check_exact=True
    )
    np.testing.assert_allclose(full.p_holm, holm(full.p))
    assert (full.verdict[:4] == "shown").all()
    assert (full.verdict[8:] == "reversed").all()
    assert full.verdict[4:8].isin(["undecided", "equivalent"]).all()


def test_a_row_is_the_paired_bootstrap():
    of = arms()
    row = compare([("c", "a")], of, ["P"], n=500, seed=3).iloc[0]
    assert row.p > NEAR * 2 / 501, "far from the smallest p: no further draws"
    estimate, resamples = paired_resamples(list(of["c"].values()), list(of["a"].values()), 500, 3)
    assert row.difference == estimate["P"][0]
    assert (row.lo, row.hi) == tuple(map(float, interval(estimate["P"][0], resamples["P"])))
    assert row.p == p_value(estimate["P"][0], resamples["P"])
    assert list(row.index) == [
        "arm",
        "against",
        "metric",
        "difference",
        "lo",
        "hi",
        "error",
        "smallest",
        "p",
        "p_holm",
        "p_equivalent",
        "p_equivalent_holm",
        "verdict",
        "n_seeds",
        "seeds_agree",
    ]
    assert row.error == pytest.approx(resamples["P"].std())
    assert row.p_equivalent == equivalence_p(row.difference, resamples["P"])


def test_small_p_values_come_from_more_resamples_and_agree_with_their_interval():
    of = arms()
    coarse = pair_rows(("b", "a"), of, ["P"], 300, 3, kept_scores(["P"]))[0]
    fine = compare([("b", "a")], of, ["P"], n=300, seed=3).iloc[0]
    assert coarse["p"] == 2 / 301
    assert 2 / (FINER * 300 + 1) <= fine.p < coarse["p"]
    assert fine.difference == coarse["difference"]
    draws_of = [
        paired_resamples(list(of["b"].values()), list(of["a"].values()), 300, 3 + 1000 * k)
        for k in range(FINER)
    ]
    column = np.concatenate([resamples["P"] for _, resamples in draws_of])
    assert (fine.lo, fine.hi) == tuple(map(float, interval(coarse["difference"], column)))
    assert fine.p == p_value(coarse["difference"], column)


def test_a_contrast_of_four_arms_is_the_difference_of_two_differences():
    of = arms(("a", "b", "c", "d"), gain=dict(b=0.4, d=0.2))
    terms = {"b": 1, "a": -1, "d": -1, "c": 1}
    scores = kept_scores(["P"])
    each, mean, resamples = contrast(terms, of, 200, 0, scores)
    for part, of_pair in (
        (mean, lambda x, y: contrast({x: 1, y: -1}, of, 200, 0, scores)[1]["P"]),
        (resamples, lambda x, y: contrast({x: 1, y: -1}, of, 200, 0, scores)[2]["P"]),
    ):
        np.testing.assert_allclose(part["P"], of_pair("b", "a") - of_pair("d", "c"), atol=1e-12)
    row = contrast_rows([(dict(arm="x"), terms, ["P"])], of, 200, 0, scores)[0]
    assert row["arm"] == "x"
    assert row["difference"] == pytest.approx(each["P"].mean())
    assert row["seeds_agree"] == "3 of 3"


def test_seeds_agree_counts_signs():
    of = arms(gain={})
    of["b"] = {0: arms(gain=dict(b=0.5))["b"][0], 1: of["b"][1], 2: arms(gain=dict(b=-0.5))["b"][0]}
    row = compare([("b", "a")], of, ["VA"], n=50).iloc[0]
    each = contrast({"b": 1, "a": -1}, of, 50, 0, kept_scores(["VA"]))[0]["VA"]
    assert row.seeds_agree == f"{(np.sign(each) == np.sign(each.mean())).sum()} of 3"
    assert row.seeds_agree != "3 of 3"
    assert compare([("a", "a")], of, ["VA"], n=50).seeds_agree.item() == "0 of 3"
    assert compare([("a", "missing")], of, ["VA"], n=50).seeds_agree.item() == ""


def test_only_seeds_that_both_have_are_paired():
    of = arms()
    fewer = of | {"a": {s: of["a"][s] for s in (2, 0)}}
    table = compare([("b", "a")], fewer, n=300)
    same = compare(
        [("b", "a")],
        {"a": {s: of["a"][s] for s in (0, 2)}, "b": {s: of["b"][s] for s in (0, 2)}},
        n=300,
    )
    assert (table.n_seeds == 2).all()
    pd.testing.assert_frame_equal(table, same)


def test_a_dash_where_nothing_can_be_compared():
    of = arms(tasks=("AU", "VA")) | {"alien": {9: arms()["a"][0]}}
    table = compare([("b", "a"), ("b", "alien"), ("b", "missing")], of, n=300).set_index(
        ["against", "metric"]
    )
    assert table.verdict["a", "EXPR"] == "–"
    assert table.loc["a"].drop("EXPR").p.notna().all()
    assert (table.verdict[["alien", "missing"]] == "–").all()
    assert (
        table.loc[
            "missing",
            [
                "difference",
                "lo",
                "hi",
                "error",
                "smallest",
                "p",
                "p_holm",
                "p_equivalent",
                "p_equivalent_holm",
            ],
        ]
        .isna()
        .all()
        .all()
    )
    assert (table.n_seeds[["alien", "missing"]] == 0).all()
    single = compare([("b", "a")], arms(videos=1), n=50)
    assert single.difference.notna().all(), "one video says nothing about other videos"
    assert single.p.isna().all(), "one video says nothing about other videos"
    assert (single.verdict == "–").all(), "one video says nothing about other videos"
    assert compare([], of).empty


def test_wrong_tables_are_refused():
    of = arms()
    with pytest.raises(UsageError, match="CCC_valence"):
        compare([("b", "a")], of, ["valence"])
    with pytest.raises(UsageError):
        compare([("b", "a")], of, ["AU_per_unit"])
    with pytest.raises(AffnbError, match="different videos"):
        compare([("b", "a")], of | {"a": arms(videos=12)["a"]}, n=50)


def another(statistics, rng):
    """The same videos, some counted a little more than others: another training, as far as time is
    concerned.
    """
    return type(statistics)(
        statistics.names,
        statistics.columns,
        statistics.values * rng.uniform(0.9, 1.1, (len(statistics.names), 1)),
    )


def test_a_large_table_takes_seconds():
    rng = np.random.default_rng(0)
    of = arms(videos=80)
    many = {f"arm{i}": {s: another(of["a"][s], rng) for s in range(3)} for i in range(30)}
    start = time.process_time()
    table = compare(
        [(f"arm{i}", "arm0") for i in range(1, 30)] + [(f"arm{i}", "arm1") for i in range(2, 30)],
        many,
    )
    assert time.process_time() - start < 10, "57 pairs of 3 seeds, 10,000 resamples"
    assert len(table) == 57 * 4, "57 pairs of 3 seeds, 10,000 resamples"
    assert ((table.lo <= table.difference) & (table.difference <= table.hi)).all()


@pytest.mark.slow
def test_statsmodels_is_imported_when_it_is_needed():
    code = (
        "import sys, affnb.compare as c; assert 'statsmodels' not in sys.modules; c.holm([.1]);"
        " assert 'statsmodels' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("axis", [0, 1])
def test_the_t_test_is_students_where_one_kind_of_luck_is_all(axis):
    "Seeds that differ alike for all people, or people who differ alike for all seeds."
    rng = np.random.default_rng(axis)
    each = rng.normal(0.3, 1, 5 if axis == 0 else 40)
    values = np.broadcast_to(each[:, None] if axis == 0 else each, (5, 40))
    p = t_p_value(values.mean(), variance_parts(values), 40, 5)
    assert p == pytest.approx(ttest_1samp(each, 0).pvalue, rel=1e-9)


def test_the_t_test_holds_its_level_where_resampling_five_seeds_does_not():
    "Five seeds, and nearly all chance is the luck of training; nothing is there."
    rng = np.random.default_rng(0)
    finds = []
    for _ in range(400):
        values = rng.normal(0, 1, (5, 1)) + rng.normal(0, 2, (5, 60))
        finds.append(t_p_value(values.mean(), variance_parts(values), 60, 5) < 0.05)
    assert np.mean(finds) < 0.08


def test_without_any_variance_there_is_no_p():
    nothing = dict(people=0.0, seeds=0.0, both=0.0)
    assert np.isnan(t_p_value(0.1, nothing, 40, 5))
