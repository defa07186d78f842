"""Verdicts of planted effects, claims that cannot be tested, real faces with few labels, one table
alone, sentences, families of comparisons.
"""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pandas as pd
import pytest
from affnb.engine.arms import tables_of
from affnb.claims import ADDED, AVERAGED, CLAIMS, TASK_METRICS, Judged, claim_rows, claims_table
from affnb.claims import _doubling_of, _gains_in, _learners, settled
from affnb.compare import MARGIN
from affnb.engine.core import AU_NAMES, AffnbError, Config, write_json
from affnb.engine.findings import (
    GAINS,
    NEUTRAL,
    _design_table,
    _difference_cell,
    claim_tables,
    claim_words,
    claims_summary,
    claims_text,
    findings_text,
    judge,
    judge_all,
    judge_best,
    link_tables,
    post_step,
    resamples_warning,
    results_of,
    source_of,
    windows_of,
)
from affnb.metrics import SUM_COLUMNS, score, video_statistics
from affnb.engine.pictures import affinity, claim_figures, draw_claims, draw_convergence, draw_focus
from affnb.engine.pictures import _claims_title, _outcomes, _search_title, _windows_title
from affnb.engine.pictures import importances
from affnb.engine.report import headline_text, write_report
from affnb.engine.tables import published_table, read_records
from errors import assert_error

pytestmark = pytest.mark.slow

TASKS = ("AU", "EXPR", "VA")
V = 24
F = 20
NAMES = np.repeat([f"video {v:02d}" for v in range(V)], F)
STEPS = ("raw", "+ smooth VA", "+ smooth EXPR and AU", "+ AU thresholds", "+ EXPR bias")


def learned(arm):
    "The tasks that an arm of `table_tasks` learns."
    words = set(re.split(r"[+:]", arm.removeprefix("heads:")))
    if not words <= {*TASKS, "valence", "arousal"}:
        return set(TASKS)
    return {"VA" if word in ("valence", "arousal") else word for word in words}


@cache
def entry(arm, seed, noise=1.0, tasks=TASKS):
    """An arm's entry: truth and noise, scored by the real metrics; only of tasks that it learned
    and that have labels.
    """
    truth = np.random.default_rng(3)
    rng = np.random.default_rng([seed, *arm.encode()])
    n = V * F
    hard = np.repeat(np.random.default_rng(4).uniform(0.6, 1.4, V), F)[:, None]
    targets = dict(
        AU=(truth.random((n, 12)) < 0.4).astype(float),
        EXPR=truth.integers(0, 8, n),
        VA=truth.uniform(-1, 1, (n, 2)),
    )
    signal = dict(AU=targets["AU"], EXPR=np.eye(8)[targets["EXPR"]], VA=targets["VA"])
    masks = {task: np.full(np.shape(t), task in tasks) for task, t in targets.items()}
    guesses = {
        task: signal[task] + rng.normal(0, 1, signal[task].shape) * hard * noise
        for task in TASKS
        if task in tasks and task in learned(arm)
    }
    return dict(
        arm=arm,
        change={},
        dev=0.5,
        parameters=9,
        frames_seen=9,
        seconds=1.0,
        best_epoch=1,
        metrics=score(guesses, targets, masks),
        statistics=video_statistics(guesses, targets, masks, NAMES).values.tolist(),
    )


def head(record, name, seed, source="synthetic", **settings):
    config = dict(bootstrap=200, init_from="AU", temporal="gru", window=30) | settings
    return dict(
        record=record,
        name=name,
        seed=seed,
        profile="tiny",
        source=source,
        data=dict(hash="abc", name="benchmark" if source == "synthetic" else "faces"),
        config=config,
        versions=dict(torch="2"),
        device="CPU",
        commit="0" * 40,
        dirty=False,
    )


def table_record(folder, name, seed, arms, pairs, noise={}, tasks=TASKS, **settings):
    arms = [entry(arm, seed, noise.get(arm, 1.0), tasks) for arm in arms]
    write_json(
        folder / f"table-{name}-seed{seed}.json",
        head("table", name, seed, **settings)
        | dict(
            names=sorted(set(NAMES)),
            columns=list(SUM_COLUMNS),
            arms=arms,
            pairs=[list(p) for p in pairs],
        ),
    )


def search_record(folder, target, seed, tasks=TASKS, source="synthetic"):
    "A search in which the window decides."
    rng = np.random.default_rng(seed)
    here = target == "P" or target in tasks

    def choice():
        return dict(
            partners="none",
            fused=str(rng.choice(["none", "AU"])),
            temporal="gru",
            window=int(rng.choice([5, 30])),
            weight_AU=float(rng.uniform(0.1, 2)),
        )

    trials = [
        dict(
            sampler=s,
            number=k,
            choice=(c := choice()),
            change={},
            dev=0.3 + 0.2 * (c["window"] == 30) + rng.normal(0, 0.005),
            validation=dict.fromkeys(TASKS + ("P",), 0.3 if here else None),
            seconds=1.0,
        )
        for s in ("tpe", "random")
        for k in range(8)
    ]
    arms = [entry(arm, seed, tasks=tasks) for arm in ("tpe", "random", "by hand", "progressive")]
    write_json(
        folder / f"search-{target}-seed{seed}.json",
        head("search", target, seed, source)
        | dict(
            target=target,
            space={},
            names=sorted(set(NAMES)),
            columns=list(SUM_COLUMNS),
            trials=trials if here else [],
            arms=arms if here else [],
            pairs=(
                [
                    ["tpe", "by hand"],
                    ["tpe", "random"],
                    ["random", "by hand"],
                    ["tpe", "progressive"],
                ]
                if here
                else []
            ),
        ),
    )


def post_record(folder, seed, tasks=TASKS, source="synthetic"):
    arms = [
        dict(entry(f"{STEPS[0]}", seed, 1.0, tasks), arm=f"{model} {way}: {step}")
        for model in ("progressive", "joint")
        for way in ("crossfit", "optimistic", "dev")
        for step in STEPS
    ]
    pairs = [
        [f"{m} {w}: {b}", f"{m} {w}: {a}"]
        for m in ("progressive", "joint")
        for w in ("crossfit", "dev")
        for a, b in zip(STEPS, STEPS[1:])
    ]
    pairs += [
        [f"{m} crossfit: {STEPS[-1]}", f"{m} crossfit: raw"] for m in ("progressive", "joint")
    ] + [
        [f"{m} optimistic: {STEPS[-1]}", f"{m} crossfit: {STEPS[-1]}"]
        for m in ("progressive", "joint")
    ]
    write_json(
        folder / f"post-seed{seed}.json",
        head("post", "post", seed, source)
        | dict(
            names=sorted(set(NAMES)), columns=list(SUM_COLUMNS), arms=arms, pairs=pairs, fitted=[]
        ),
    )


def focus_record(folder, seed, tasks=TASKS, source="synthetic", g=6):
    """As engine/focus leaves it: AU1 alone looks where it acts, VA looks elsewhere, and every
    training has a taste of its own.
    """
    rng = np.random.default_rng(seed)
    units = list(AU_NAMES) if "AU" in tasks else []
    taste = rng.dirichlet(np.full(g * g, 8.0), len(tasks) + len(units)).reshape(-1, g, g)
    regions = np.zeros((12, g, g), bool)
    regions[:, 1:3, 1:5] = True
    if "VA" in tasks:
        taste[list(tasks).index("VA"), 4:] *= 4
    taste /= taste.sum((1, 2), keepdims=True)
    drawn = source == "synthetic" and bool(units)
    task_sums = np.stack(
        [rng.dirichlet(60 * m.ravel() + 0.01, V).reshape(V, g, g) for m in taste[: len(tasks)]], 1
    )
    active = rng.integers(1, 4, (V, 12 if drawn else 0)).astype(float)
    shares = rng.normal(0.125, 0.02, (V, 12 if drawn else 0, 4))
    if drawn:
        shares[:, 0, 0] += 0.1
    inside = (shares * active[..., None]).sum(0) / active.sum(0)[:, None] if drawn else []
    aus = [
        dict(au=u, inside=own, chance_others=other, gain=own - other)
        for u, (own, other, _, _) in zip(units, np.asarray(inside).tolist())
    ]
    couples = [(a, b) for i, a in enumerate(tasks) for b in tasks[i + 1 :]]
    # of models: the same for all
    pairs = [dict(a=a, b=b, distance=0.35, floor=0.1, excess=0.25) for a, b in couples]
    write_json(
        folder / f"focus-seed{seed}.json",
        head("focus", "focus", seed, source) | dict(aus=aus, pairs=pairs, videos=V),
    )
    np.savez_compressed(
        folder / f"focus-seed{seed}.npz",
        names=[*tasks, *units],
        maps=taste.astype(np.float16),
        tasks=list(tasks),
        untrained=np.full((len(tasks), g, g), 1 / g / g),
        aus=list(AU_NAMES) if drawn else np.zeros(0, "U4"),
        regions=regions if drawn else np.zeros((0, g, g), bool),
        face=np.full((12, 12, 3), 128, np.uint8),
        videos=sorted(set(NAMES)),
        task_sums=task_sums.astype(np.float16),
        task_counts=np.ones((V, len(tasks)), np.float32),
        unit_sums=(shares * active[..., None]).astype(np.float32),
        unit_counts=active.astype(np.float32),
    )


def everything(folder, seeds=(0, 1), ablations="all", tasks=TASKS, source="synthetic"):
    "Records as the chain leaves them, of every kind."
    for seed in seeds:
        for name, table in tables_of(Config(ablations=ablations)).items():
            table_record(
                folder,
                name,
                seed,
                [*table.arms, *(m for m, _ in (*table.means, *table.best))],
                table.pairs,
                tasks=tasks,
                source=source,
            )
        for target in (*TASKS, "P"):
            search_record(folder, target, seed, tasks, source)
        post_record(folder, seed, tasks, source)
        focus_record(folder, seed, tasks, source)
        headline_records(folder, seed, tasks, source)
    return folder


def headline_records(folder, seed, tasks=TASKS, source="synthetic"):
    for arm in ("scratch", "separate", "joint", "progressive"):
        scored = entry(arm, seed, tasks=tasks)
        write_json(
            folder / f"arm-{arm}-seed{seed}.json",
            head("arm", arm, seed, source)
            | dict(
                arm=arm,
                metrics=scored["metrics"],
                statistics=dict(
                    names=sorted(set(NAMES)), columns=list(SUM_COLUMNS), values=scored["statistics"]
                ),
            ),
        )


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    everything(folder / "records")
    return folder / "records", {
        p.name: p for p in write_report(folder / "records", folder / "figures")
    }


# -- planted effects -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    "Three tables in which one arm helps, one hurts and one does nothing."
    folder = tmp_path_factory.mktemp("planted")
    many = dict(bootstrap=4000)
    for seed in range(3):
        table_record(
            folder,
            "training",
            seed,
            ["joint", "joint-from-AU", "joint-twice"],
            [["joint-from-AU", "joint"], ["joint-from-AU", "joint-twice"]],
            {"joint-from-AU": 0.5, "joint-twice": 0.5},
            **many,
        )
        table_record(
            folder,
            "fusion",
            seed,
            ["layers-only", "sum:AU+EXPR+VA"],
            [["sum:AU+EXPR+VA", "layers-only"]],
            {"sum:AU+EXPR+VA": 2.2},
            **many,
        )
        table_record(
            folder, "temporal", seed, ["joint+heads", "gru@30"], [["gru@30", "joint+heads"]], **many
        )
    return read_records(folder)


def test_planted_effects_get_their_verdicts(planted):
    verdicts = claims_table(planted, judge_all(planted)).groupby("claim").verdict.agg(set)
    assert verdicts.to_dict() == {number: {"not tested"} for number, *_ in CLAIMS} | {
        "1": {"shown"},
        "1c": {"undecided"},
        "2": {"reversed"},
        "3": {"undecided"},
    }
    assert (
        judge(planted, "training")
        .arms.set_index("arm")
        .loc["joint-from-AU", [f"{t}_verdict" for t in TASK_METRICS]]
        == "shown"
    ).all()


def test_sentences_count_what_the_table_says(planted):
    pairs = judge(planted, "training").pairs
    text = findings_text(pairs, 4000)
    assert text.startswith(
        "Of 8 comparisons (2 pairs of arms), 4 are shown: joint-from-AU - joint in "
    )
    assert "None is reversed" in text
    assert text.endswith("1 is equivalent (within .03), 3 are undecided.")
    assert "1 is shown" in findings_text(pairs.head(1), 4000)
    assert "Nothing" in findings_text(pairs.assign(verdict="–"), 4000)
    lines = {
        re.match(r"Claim (\w+)", line)[1]: line
        for line in claim_words(claims_table(planted, judge_all(planted)))
    }
    assert list(lines) == [number for number, *_ in CLAIMS]
    assert lines["2"].endswith(": reversed in AU, EXPR, valence and arousal.")
    assert lines["3"].endswith(": undecided in AU, EXPR, valence and arousal.")
    assert lines["5"].endswith(": not tested.")


def test_a_claim_is_said_with_its_controls(planted):
    table = claims_table(planted, judge_all(planted))
    lines = {re.match(r"Claim (\w+)", line)[1]: line for line in claims_summary(table)}
    assert list(lines) == [
        "0",
        "1",
        "1d",
        "2",
        "3",
        "3d",
        "4",
        "5",
        "5b",
    ], "controls have no sentence of their own"
    assert lines["1"].endswith(
        "shown in AU, EXPR, valence and arousal; of these, in none beyond its control (1c): AU (1c"
        " undecided), EXPR (1c undecided), valence (1c undecided) and arousal (1c undecided)."
    )
    assert "beyond" not in lines["2"] + lines["3"]
    assert lines["4"].endswith(": not tested.")

    def of(**verdicts):
        return claims_summary(
            table.assign(
                verdict=[
                    verdicts.get(f"c{c}_{t}", verdicts.get(f"c{c}", v))
                    for c, t, v in zip(table.claim, table.task, table.verdict)
                ]
            )
        )[4]

    assert of(c3="shown", c3a="shown", c3b="shown", c3c="shown").endswith(
        "of these, beyond its controls (3a, 3b, 3c) in AU, EXPR, valence and arousal."
    )
    assert of(
        c3="undecided",
        c3_AU="shown",
        c3_valence="shown",
        c3a="shown",
        c3b="shown",
        c3c="shown",
        c3c_valence="not tested",
    ).endswith(
        "shown in AU and valence; of these, beyond its controls (3a, 3b, 3c) in AU, but not in"
        " valence (3c not tested); undecided in EXPR and arousal."
    )
    assert of(c3="one seed").endswith(
        "helps): not judged (one seed) in AU, EXPR, valence and arousal."
    )


def test_the_titles_of_figures_say_what_is_shown():
    "Of claims: how many are shown, and beyond which controls; of windows and searches: the tasks."
    table = pd.DataFrame(claim_rows(dict(init_from="AU", temporal="gru", window=30)))
    table = table.assign(verdict="undecided")

    def title(**verdicts):
        words = [verdicts.get(f"c{r.claim}_{r.task}", r.verdict) for r in table.itertuples()]
        return _claims_title(table.assign(verdict=words))

    summed = {line.split()[1] for line in claims_summary(table.assign(difference=0.1))}
    assert set(_outcomes(table)) == summed, "controls are those of the claims' list"
    assert title().startswith("None of 9 claims is shown in any task\n0 shown")
    alone = title(c2_AU="shown")
    assert "1 of 9 claims is shown in some task (2);\nof those with controls (2), none" in alone
    both = title(c2_AU="shown", c2_EXPR="shown", c2c_AU="shown")
    assert "beyond all its controls: 2 in AU\n" in both
    assert "controls" not in title(c3d_AU="shown"), "3d has none"
    once = _claims_title(table.assign(verdict="one seed"))
    assert once.startswith("Claims and their controls: one seed, so none can be shown")

    rows = pd.DataFrame(dict(task=list(TASK_METRICS), arm="gru@30", shuffled=False))
    config = dict(temporal="gru", window=30)
    words = _windows_title(rows.assign(verdict=["equivalent", *["shown"] * 3]), "gru", config)
    assert words.startswith(
        "A GRU over 30 frames beats one frame at a time in EXPR, valence and arousal"
    )
    words = _windows_title(rows.assign(verdict="one seed"), "gru", config)
    assert "one seed, so nothing is judged" in words

    rows = pd.DataFrame(dict(task=["AU", "AU"], rival=["random", "by hand"]))
    for verdicts, said in (
        (["undecided", "equivalent"], "is not shown to beat random search or the choice by hand"),
        (["shown", "undecided"], "beat random search in AU and the choice by hand in no task"),
        (["reversed", "shown"], "no task (and is below it in AU) and the choice by hand in AU"),
        (["one seed"] * 2, "One seed: whether a search beats random search or the choice by hand"),
    ):
        assert said in _search_title(rows.assign(verdict=verdicts)), verdicts


def test_too_few_resamples_are_said():
    assert "none can be shown" in resamples_warning(30, 1000)
    assert "hang on single resamples" in resamples_warning(24, 1000)
    assert resamples_warning(12, 1000) == ""
    assert resamples_warning(30, 10_000) == ""


def test_one_seed_is_never_shown(tmp_path):
    table_record(
        tmp_path / "records",
        "training",
        0,
        ["joint", "joint-from-AU", "joint-twice"],
        [["joint-from-AU", "joint"], ["joint-twice", "joint"]],
        {"joint-from-AU": 0.4},
        bootstrap=4000,
    )
    headline_records(tmp_path / "records", 0)
    write_report(tmp_path / "records", tmp_path / "figures")
    for name in ("training_pairs", "claims", "comparisons"):
        table = pd.read_csv(
            tmp_path / "figures" / f"table_{name}.csv", keep_default_na=False, na_values=[""]
        )
        words = (tmp_path / "figures" / f"table_{name}.md").read_text()
        assert set(table.verdict) <= {"one seed", "not tested"}, name
        assert (table.verdict == "one seed").any(), name
        assert table.difference_lo[table.verdict == "one seed"].notna().all(), name
        assert "luck of a training cannot be told from an effect" in words, name
        assert "**" not in words, name
        assert "] one seed" in words, name
    assert set(pd.read_csv(tmp_path / "figures" / "table_training_pairs.csv").seeds_agree) <= {
        "1 of 1"
    }
    assert "one seed" in (tmp_path / "figures" / "table_training.md").read_text()
    assert (
        "of one seed, not judged"
        in json.loads((tmp_path / "figures" / "fig_claims.json").read_text())["caption"]
    )


def holm_by_hand(p):
    p, order = np.asarray(p, float), np.argsort(p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))), 1)
    return out


def test_the_family_is_the_table(planted, full):
    for table in (
        judge(planted, "training").pairs,
        pd.read_csv(full[1]["table_temporal_pairs.csv"]),
        pd.read_csv(full[1]["table_comparisons.csv"]),
    ):
        compared = table.p.notna()
        assert compared.any()
        assert np.allclose(
            table.p_holm[compared], holm_by_hand(table.p[compared]), atol=5e-9 * len(table) + 1e-6
        )
    # of the claims it is the list, tested or not
    for table in (
        claims_table(planted, judge_all(planted)),
        pd.read_csv(full[1]["table_claims.csv"]),
    ):
        assert np.allclose(table.p_holm.fillna(1), holm_by_hand(table.p.fillna(1)), atol=1e-6)
        assert len(table) == 4 * len(CLAIMS)
    few = claims_table(planted, {"training": judge(planted, "training")})
    assert np.allclose(few.p_holm.min(), 4 * len(CLAIMS) * few.p.min(), atol=1e-6), (
        "whoever tests less does not pay less"
    )


def test_captions_name_both_families_and_what_few_seeds_cannot_tell(full):
    for name in ("fusion_pairs", "temporal_pairs", "comparisons", "claims"):
        words = full[1][f"table_{name}.md"].read_text()
        assert "Holm" in words, name
        assert f"{4 * len(CLAIMS)}" in words, name
        assert "all 2 seeds agree in sign 50 % of the time" in words, name
    assert "tested or not" in words
    assert "the table of each claim corrects the same differences for its own rows" in words
    assert "The arms of 0, 1c, 2, 2c, 3, 3b and 3c differ in one thing" in words
    assert "five seeds hold two independent sets" in words


def test_a_row_does_not_depend_on_the_others(planted, tmp_path):
    for seed in range(3):
        table_record(
            tmp_path,
            "training",
            seed,
            ["joint-from-AU", "joint"],
            [["joint-from-AU", "joint"]],
            {"joint-from-AU": 0.5},
            bootstrap=4000,
        )
    columns = [
        "arm",
        "against",
        "task",
        "difference",
        "difference_lo",
        "difference_hi",
        "p",
        "seeds_agree",
    ]
    pd.testing.assert_frame_equal(
        judge(read_records(tmp_path), "training").pairs[columns],
        judge(planted, "training").pairs[columns].head(4),
    )


def test_a_verdict_that_a_t_test_does_not_share_says_so(tmp_path):
    "Where seeds agree by luck, and each is nearly the same for all people."
    noise = {"joint-from-AU": 0.9}
    for seed in range(3):
        arms = ["joint", "joint-from-AU"]
        table_record(tmp_path, "training", seed, arms, [arms[::-1]], noise, bootstrap=4000)
    records = read_records(tmp_path)
    judged = {"training": judge(records, "training")}
    claims = claims_table(records, judged)
    designs = _design_table(records, judged, claims)
    own = designs[designs.claim == "1"].set_index("task")
    assert own.share_of_training.between(0, 1).all()
    assert (own.p_t_holm >= own.p_t).all()
    row = claims[(claims.claim == "1") & (claims.task == "AU")].iloc[0]
    told = row.to_dict() | dict(verdict="shown")
    assert "t: " not in _difference_cell(SimpleNamespace(**told, p_t_holm=0.04))
    assert _difference_cell(SimpleNamespace(**told, p_t_holm=0.39)).endswith("; t: .39)")


def test_the_same_answers_under_two_names_are_identical(tmp_path):
    for seed in range(3):
        table_record(tmp_path, "training", seed, ["joint", "joint-from-AU"], [], bootstrap=500)
        path = next(tmp_path.glob(f"*seed{seed}.json"))
        record = json.loads(path.read_text())
        same = record["arms"][0] | dict(arm="joint-from-AU")
        record |= dict(arms=[record["arms"][0], same], pairs=[["joint-from-AU", "joint"]])
        path.write_text(json.dumps(record))
    records = read_records(tmp_path)
    pairs = judge(records, "training").pairs
    assert set(pairs.verdict) == {"identical"}
    assert "4 are identical (both arms have the same scores)" in findings_text(pairs, 500)
    table = claims_table(records, judge_all(records))
    assert set(table.verdict[table.claim == "1"]) == {"identical"}
    assert "without any difference" in claims_summary(table)[1]
    assert pairs.smallest.notna().all()


# -- all records -----------------------------------------------------------------------------------


def test_every_table_and_figure_of_a_full_run(full):
    names = {
        f"table_{n}.{e}"
        for n in (
            "pretraining",
            "encoder",
            "training",
            "starts",
            "tasks",
            "fusion",
            "temporal",
            "losses",
            "whole",
            "convergence",
            "folds",
            "crossfit",
            "search",
            "post",
        )
        for n in (n, f"{n}_pairs")
        for e in ("csv", "md", "json")
    }
    names |= {
        f"table_{n}.{e}"
        for n in (
            "claims",
            "design",
            "published",
            "focus",
            "focus_pairs",
            "strategies",
            "headline",
            "comparisons",
            "best",
        )
        for e in ("csv", "md", "json")
    }
    names |= {
        f"fig_{n}.{e}"
        for n in (
            "affinity",
            "fusion",
            "windows",
            "search",
            "focus",
            "post",
            "convergence",
            "claims",
        )
        for e in ("svg", "png", "json")
    }
    assert names <= set(full[1])
    for name in names:
        if name.endswith(".json"):
            beside = json.loads(full[1][name].read_text())
            assert beside["caption"] and (beside["records"] or "published" in name), name
            if "published" not in name and "headline" not in name:
                assert (
                    beside["notebook"]
                    == f"nbs/engine/{'pictures' if name.startswith('fig') else 'findings'}.ipynb"
                ), name
                assert beside["config"]["bootstrap"] == 200, name
                assert beside["seeds"] == [0, 1], name
        if name.endswith(".md"):
            assert "nan" not in full[1][name].read_text().lower(), name


def test_columns_of_the_csv_files(full):
    arms, pairs, claims = (
        pd.read_csv(full[1][f"table_{n}.csv"]) for n in ("fusion", "fusion_pairs", "claims")
    )
    assert arms.columns.tolist() == [
        "arm",
        "against",
        *(
            f"{s}{e}"
            for s in ("AU", "EXPR", "valence", "arousal", "VA", "P")
            for e in ("", "_lo", "_hi")
        ),
        "n_seeds",
        *(f"{t}_verdict" for t in TASK_METRICS),
    ]
    assert pairs.columns.tolist() == [
        "arm",
        "against",
        "task",
        "difference",
        "difference_lo",
        "difference_hi",
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
    assert claims.columns.tolist() == [
        "claim",
        "statement",
        "task",
        "evidence",
        "n_seeds",
        "seeds_agree",
        "difference",
        "difference_lo",
        "difference_hi",
        "error",
        "smallest",
        "p",
        "p_holm",
        "p_equivalent",
        "p_equivalent_holm",
        "doubling",
        "doubling_lo",
        "doubling_hi",
        "doubling_seeds",
        "verdict",
        "share_of_training",
        "p_t_holm",
    ]
    assert len(claims) == 4 * len(CLAIMS)
    assert set(claims.verdict) <= {"shown", "reversed", "equivalent", "undecided", "unsettled"}
    assert (claims.n_seeds == 2).all()
    assert claims.seeds_agree.str.fullmatch("[012] of 2").all()
    assert claims.set_index(["claim", "task"]).evidence["2c"].tolist() == [
        f"concat:AU+EXPR+VA - same-{t}" for t in ("AU", "EXPR", "VA", "VA")
    ]
    assert claims.set_index(["claim", "task"]).evidence["4"].tolist() == [
        f"{t}: tpe - {t}: by hand" for t in ("AU", "EXPR", "VA", "VA")
    ]
    assert (arms.AU_lo <= arms.AU).all()
    assert len(pairs) == 4 * len(tables_of(Config(ablations="all"))["fusion"].pairs)
    findings = json.loads(full[1]["table_claims.json"].read_text())["findings"]
    assert findings == claims_summary(claims.assign(verdict=claims.verdict))
    assert len(findings) == 9
    assert all(line in full[1]["table_claims.md"].read_text() for line in findings)


def test_every_claim_is_a_pair_that_was_named_beforehand():
    "The list of claims and the tables of arms agree."
    config = Config(ablations="all")
    pairs = (
        {(name, *pair) for name, table in tables_of(config).items() for pair in table.pairs}
        | {("search", f"{t}: tpe", f"{t}: {o}") for t in TASKS for o in ("by hand", "random")}
        | {("best", "own choice", "the others' choices")}
        | {("post", f"{config.temporal}@{config.window}", AVERAGED)}
    )
    for row in claim_rows(
        dict(init_from=config.init_from, temporal=config.temporal, window=config.window)
    ):
        assert (row["table"], row["arm"], row["against"]) in pairs, row
    # the last two are of large profiles
    assert NEUTRAL - {tuple(GAINS)} <= {pair[1:] for pair in pairs} | {
        ("joint-mae-half", "joint"),
        ("joint-mae-double", "joint"),
    }


def test_the_moving_average_is_a_control_that_was_added(full):
    "The module is compared with the averaged answers of single frames, in every task."
    assert "3a" in ADDED
    pairs = pd.read_csv(full[1]["table_post_pairs.csv"])
    (module,) = pairs.arm[pairs.arm.str.fullmatch(r"\w+@\d+")].unique()
    last = pairs[(pairs.arm == module) & (pairs.against == AVERAGED)].set_index("task").difference
    claims = pd.read_csv(full[1]["table_claims.csv"], dtype=dict(claim=str))
    own = claims[claims.claim == "3a"].set_index("task").difference
    assert own.to_dict() == last.to_dict()
    assert len(own) == 4
    claims = json.loads(full[1]["table_claims.json"].read_text())["records"]
    table = json.loads(full[1]["table_post.json"].read_text())["records"]
    for records in (claims, table):
        assert {"post-seed0.json", "table-temporal-seed0.json"} <= {Path(r).name for r in records}


def test_a_search_without_a_learned_trial_is_not_tested(full):
    "TPE draws its first two trials at random: of two, or of none beyond these, nothing is claimed."
    records = read_records(full[0])
    judged = judge_all(records, "search")

    def words(trials):
        first = records.first | dict(config=records.first["config"] | dict(search_trials=trials))
        arms = {name: [first] for name in records.arms}
        table = claims_table(replace(records, arms=arms), judged)
        return set(table.verdict[table.claim.isin(["4", "4c"])])

    assert words(2) == {"not tested"}
    assert "not tested" not in words(3)


def test_differences_are_those_of_the_means(full):
    arms = pd.read_csv(full[1]["table_temporal.csv"]).set_index("arm")
    pairs = pd.read_csv(full[1]["table_temporal_pairs.csv"])
    for row in pairs.itertuples():
        assert row.seeds_agree in ("1 of 2", "2 of 2")
        assert row.difference == pytest.approx(
            arms.loc[row.arm, row.task] - arms.loc[row.against, row.task], abs=3e-6
        )


def test_a_search_is_judged_by_its_target_and_a_step_by_what_it_touches(full):
    searched = pd.read_csv(full[1]["table_search_pairs.csv"])
    assert searched.groupby("arm").task.agg(set)["VA: tpe"] == {"valence", "arousal"}
    assert set(searched.task[searched.arm == "AU: tpe"]) == {"AU"}
    assert set(searched.task[searched.arm == "P: tpe"]) == set(TASK_METRICS)
    post = (
        pd.read_csv(full[1]["table_post_pairs.csv"])
        .groupby(["arm", "against"], sort=False)
        .task.agg(list)
    )
    assert post["joint dev: + smooth VA", "joint dev: raw"] == ["valence", "arousal"]
    assert post["joint crossfit: + smooth EXPR and AU", "joint crossfit: + smooth VA"] == [
        "AU",
        "EXPR",
    ]
    assert post["joint crossfit: + EXPR bias", "joint crossfit: + AU thresholds"] == ["EXPR"]
    assert len(post["joint crossfit: + EXPR bias", "joint crossfit: raw"]) == 4
    assert not [
        arm for arm, against in post.index if "optimistic" in arm and "optimistic" in against
    ]
    assert ("joint optimistic: + EXPR bias", "joint crossfit: + EXPR bias") in post.index


def test_tuning_where_one_reports_is_optimism_and_no_find(tmp_path):
    for seed in range(3):
        arms = [
            dict(entry("x", seed, noise), arm=arm)
            for arm, noise in (
                ("joint crossfit: raw", 1.0),
                ("joint crossfit: + EXPR bias", 1.0),
                ("joint optimistic: raw", 1.0),
                ("joint optimistic: + EXPR bias", 0.6),
            )
        ]
        write_json(
            tmp_path / f"post-seed{seed}.json",
            head("post", "post", seed, bootstrap=2000)
            | dict(
                names=sorted(set(NAMES)),
                columns=list(SUM_COLUMNS),
                arms=arms,
                fitted=[],
                pairs=[
                    ["joint crossfit: + EXPR bias", "joint crossfit: raw"],
                    ["joint optimistic: + EXPR bias", "joint crossfit: + EXPR bias"],
                ],
            ),
        )
    pairs = judge(read_records(tmp_path), "post").pairs
    assert set(pairs.verdict[pairs.arm.str.contains("optimistic")]) == {"optimism"}
    assert "none is shown" in findings_text(pairs, 2000)
    assert "are optimism (tuned where they are reported, which is no find): " in findings_text(
        pairs, 2000
    )


def test_pairs_that_claim_nothing_are_higher_or_lower(tmp_path):
    for seed in range(3):
        table_record(
            tmp_path,
            "training",
            seed,
            ["joint", "joint-long", "joint-twice"],
            [["joint-long", "joint"], ["joint-twice", "joint"]],
            {"joint-long": 0.6, "joint-twice": 1.5},
            bootstrap=2000,
        )
    judged = judge(read_records(tmp_path), "training")
    assert judged.pairs.groupby("arm").verdict.agg(set).to_dict() == {
        "joint-long": {"higher"},
        "joint-twice": {"lower"},
    }
    text = findings_text(judged.pairs, 2000)
    assert "none is shown. None is reversed." in text
    assert "4 are higher (where nothing is claimed): joint-long - joint in" in text
    assert "4 are lower (where nothing is claimed): " in text


def test_the_gain_of_time_is_compared_with_the_gain_of_time(tmp_path):
    """Time helps on features of people whom the encoder was not fitted to, and does nothing on the
    others: neither gain alone says that they differ.
    """
    arms = {
        "joint+heads": 1.0,
        "joint+temporal": 0.4,
        "joint-seen+heads": 1.0,
        "joint-seen+temporal": 1.0,
    }
    for seed in range(3):
        table_record(
            tmp_path / "records",
            "crossfit",
            seed,
            list(arms),
            [["joint+temporal", "joint+heads"], ["joint-seen+temporal", "joint-seen+heads"]],
            arms,
            bootstrap=2000,
        )
    judged = judge(read_records(tmp_path / "records"), "crossfit")
    rows = judged.pairs.set_index(["arm", "task"])
    assert judged.pairs.arm.tolist()[-4:] == ["joint-seen: time"] * 4
    assert (rows.loc["joint-seen: time"].verdict == "lower").all()
    for task in TASK_METRICS:
        assert rows.difference["joint-seen: time", task] == pytest.approx(
            rows.difference["joint-seen+temporal", task] - rows.difference["joint+temporal", task],
            abs=3e-6,
        )
    assert "joint-seen: time" not in judged.arms.arm.values
    assert "joint-seen: time" in [
        a for a, *_ in source_of(read_records(tmp_path / "records"), "crossfit")[1]
    ]
    write_report(tmp_path / "records", tmp_path / "figures", only="crossfit")
    assert (
        "Gain of time on features of people that the encoder was fitted to, less that on features"
        " of others: AU -." in (tmp_path / "figures" / "table_crossfit_pairs.md").read_text()
    )
    for seed in range(3):
        table_record(
            tmp_path / "three",
            "crossfit",
            seed,
            list(arms)[:3],
            [["joint+temporal", "joint+heads"]],
            bootstrap=200,
        )
    assert set(judge(read_records(tmp_path / "three"), "crossfit").pairs.arm) == {
        "joint+temporal"
    }, "without the fourth arm there is no such row"


def test_the_best_window_is_tested_on_others_than_it_was_chosen_on(tmp_path):
    own = {f"gru@{w}": 1.0 for w in (5, 10, 30)}
    one = {"gru@5": 1.0, "gru@10": 0.6, "gru@30": 1.0}

    def best(name, noises, tasks=TASKS):
        for seed in range(3):
            arms = [entry(arm, seed, level) for arm, level in noises.items()]
            write_json(
                tmp_path / name / f"table-temporal-seed{seed}.json",
                head("table", "temporal", seed, bootstrap=2000)
                | dict(names=sorted(set(NAMES)), columns=list(SUM_COLUMNS), arms=arms, pairs=[]),
            )
        return judge_best(judge(read_records(tmp_path / name), "temporal"), 2000)

    luck = best("luck", own)
    assert set(luck.pairs.verdict) <= {
        "undecided",
        "equivalent",
    }, "the highest of three equals is no find"
    assert luck.pairs.p.notna().all(), "the highest of three equals is no find"
    same = best("same", one)
    assert (same.arms[["first_half", "second_half"]] == "gru@10").all(axis=None)
    assert (same.pairs.difference == 0).all()
    assert (same.pairs.p == 1).all()
    assert judge_best(judge(read_records(tmp_path / "luck"), "temporal"), 2000).pairs.equals(
        luck.pairs
    )
    lone = Judged({"gru@5": luck.statistics[next(iter(luck.statistics))]}, None, None, None)
    assert judge_best(lone, 10) is None, "nothing to choose from"


def test_importances_find_the_setting_that_decides(full):
    shares = importances(read_records(full[0]).searches["AU"])
    assert max(shares, key=shares.get) == "window"
    assert shares["window"] > 0.8
    assert importances([]) == {}
    strategies = pd.read_csv(full[1]["table_strategies.csv"])
    assert len(strategies) == 4 * 2 * 2
    assert strategies.strategy.str.contains("window=30").all()


def test_affinity_reads_partners_from_pairs(full):
    pairs = pd.read_csv(full[1]["table_tasks_pairs.csv"])
    for prefix, columns in (
        ("", ["AU", "EXPR", "VA", "all others"]),
        ("heads:", ["AU", "EXPR", "valence", "arousal", "all others"]),
    ):
        gain, _ = affinity(pairs, prefix)
        assert gain.columns.tolist() == columns
        assert np.isnan(gain.loc["AU", "AU"])
        assert gain.notna().sum().sum() == {"": 4 * 3, "heads:": 4 * 4}[prefix]
    row = pairs[(pairs.arm == "EXPR+VA") & (pairs.against == "EXPR") & (pairs.task == "EXPR")].iloc[
        0
    ]
    assert affinity(pairs)[0].loc["EXPR", "VA"] == row.difference


def test_focus(full, tmp_path):
    """Of two seeds units are judged and tasks are not; of three, both: VA looks elsewhere than two
    trainings of one task do.
    """
    focus = results_of(read_records(full[0]), "focus").focus
    units = focus.units
    pairs = focus.pairs
    assert units.au[0] == "mean"
    assert units.p[1] == units.p[1:].min() < 0.02
    assert (units.verdict[2:] == "undecided").all()
    assert (units.n_seeds == 2).all()
    assert units.gain[1] == pytest.approx(0.1, abs=0.02)
    assert (units.gain_lo <= units.gain).all()
    assert set(pairs.verdict) == {"two seeds"}
    assert pairs.p.isna().all()
    assert pairs.across_seeds.notna().all()
    for seed in range(3):
        search_record(tmp_path, "AU", seed)
        focus_record(tmp_path, seed)
    results = results_of(read_records(tmp_path), "focus")
    # models differ in every pair
    assert results.focus.pairs.verdict.tolist() == ["undecided", "shown", "shown"]
    assert (results.focus.pairs.excess == 0.25).all()
    assert (
        "2 of 3 pairs of tasks look at places further apart than two trainings"
        in draw_focus(results).get_suptitle()
    )


def test_same_records_same_bytes(tmp_path):
    for seed in range(2):
        search_record(tmp_path, "AU", seed)
        focus_record(tmp_path, seed)
    for name in ("a", "b"):
        write_report(tmp_path, tmp_path / name)
    made = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert "fig_search.svg" in made
    assert made == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in made:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


# -- is the baseline still learning? ---------------------------------------------------------------


def taught(folder, gains, noise, seeds=3, twins=2):
    """Records in which `joint-from-AU` and `progressive` are compared, and twins that are better by
    so much less noise; fewer seeds of these.
    """
    pairs = [["joint-from-AU", "joint"], ["joint-from-AU", "joint-twice"]]
    for seed in range(seeds):
        table_record(
            folder,
            "training",
            seed,
            ["joint", "joint-from-AU", "joint-twice"],
            pairs,
            noise,
            bootstrap=2000,
        )
        table_record(
            folder,
            "whole",
            seed,
            ["progressive", "joint-long"],
            [["progressive", "joint-long"]],
            noise,
            bootstrap=2000,
        )
    arms = dict.fromkeys(
        ["joint", "joint-twice", "joint-four", "joint-from-AU", "joint-from-AU-twice"]
    )
    twin_pairs = [
        ["joint-twice", "joint"],
        ["joint-four", "joint-twice"],
        ["joint-from-AU-twice", "joint-from-AU"],
    ]
    for seed in range(twins):
        table_record(
            folder, "convergence", seed, list(arms), twin_pairs, noise | gains, bootstrap=2000
        )
        path = folder / f"table-convergence-seed{seed}.json"
        record = json.loads(path.read_text())
        entries = {made["arm"]: made for made in record["arms"]}
        for twin, arm in twin_pairs:
            if gains.get(twin, 1.0) == gains.get(arm, 1.0):  # it gains nothing: the same answers
                entries[twin] = entries[arm] | dict(arm=twin)
        path.write_text(json.dumps(record | dict(arms=list(entries.values()))))
    return read_records(folder)


def verdicts_of_claims(records):
    table = claims_table(records, judge_all(records))
    return table, table[table.verdict != "not tested"].groupby("claim").verdict.agg(set).to_dict()


def test_a_claim_against_an_arm_that_still_learns_is_unsettled(tmp_path):
    better = {"joint-from-AU": 0.5, "progressive": 0.5}
    table, words = verdicts_of_claims(
        taught(tmp_path / "still", {"joint-twice": 0.6, "joint-four": 0.6}, better)
    )
    assert words["1"] == {"unsettled"}, "joint gains; joint-twice gains nothing more"
    assert words["1c"] == {"shown"}, "joint gains; joint-twice gains nothing more"
    assert (table.doubling[table.claim == "1"] > MARGIN).all()
    assert table.doubling[table.claim == "0"].isna().all()
    lines = claims_summary(table)
    assert (
        "unsettled (the baseline may still be learning) in AU, EXPR, valence and arousal."
        in lines[1]
    )
    _, words = verdicts_of_claims(taught(tmp_path / "done", {}, better, twins=3))
    assert words["1"] == {"shown"}


def test_the_gain_is_that_of_the_table_with_most_seeds(tmp_path):
    "Three trainings of joint-twice are in `training`, and only two in `convergence`."
    records = taught(tmp_path, {"joint-twice": 0.6}, {"joint-from-AU": 0.3})
    runs = records.tables["training"]
    more = [run | dict(pairs=[*run["pairs"], ["joint-twice", "joint"]]) for run in runs]
    records = replace(records, tables=records.tables | dict(training=more))
    judged = judge_all(records)
    table = claims_table(records, judged).set_index(["claim", "task"])
    gains = judged["training"].pairs.query("arm == 'joint-twice'").set_index("task")
    for task, gain in gains.iterrows():
        row = table.loc[("1", task)]
        assert row.doubling_seeds == gain.n_seeds == 3
        assert row.doubling == gain.difference != judged["convergence"].pairs.difference[0]
        assert row.doubling_lo < row.doubling < row.doubling_hi


def test_the_gain_of_joint_twice_stands_for_joint_long(tmp_path):
    records = taught(tmp_path, {"joint-four": 0.5}, {"progressive": 0.5})
    table, words = verdicts_of_claims(records)
    assert words["5e"] == {"unsettled"}
    gains = (
        judge(records, "convergence")
        .pairs.query("against == 'joint-twice'")
        .set_index("task")
        .difference
    )
    assert table[table.claim == "5e"].set_index("task").doubling.to_dict() == gains.to_dict()


def test_a_gain_that_is_not_surely_small_unsettles():
    "The upper end of the gain's interval counts, not its mean."
    assert settled("shown", 0.031) == "unsettled"
    rows = [dict(arm="joint-twice", against="joint", task="AU", n_seeds=2)]
    rows[0] |= dict(difference=0.01, difference_lo=-0.02, difference_hi=0.04)
    gains = Judged({}, None, pd.DataFrame(), pd.DataFrame(rows))
    found = _doubling_of(
        _gains_in(dict(convergence=gains)),
        SimpleNamespace(
            table="training", difference=0.1, arm="joint-from-AU", against="joint", task="AU"
        ),
        "joint-from-AU",
    )
    assert found == (0.01, -0.02, 0.04, 2)


def test_where_encoders_are_compared_theirs_may_learn_more():
    "Heads that have learned what they can stand on an encoder that has not."

    def learners(arm, against, difference, table="whole"):
        row = SimpleNamespace(table=table, arm=arm, against=against, difference=difference)
        return _learners(row, "joint-from-AU")

    assert learners("progressive", "joint+heads", 0.1) == ["joint+heads", "joint"]
    assert learners("progressive", "joint-long", -0.1) == ["progressive", "joint-from-AU"]
    assert learners("progressive", "joint-from-AU", -0.1) == ["progressive"], "one encoder"
    assert learners("gru@30", "joint+heads", 0.1, "temporal") == ["joint+heads"]
    assert learners("progressive", "joint-seen", 0.1) == ["joint"]
    assert learners("progressive", "best single", 0.1) == ["joint-twice"]


def test_what_is_reversed_is_unsettled_where_the_claims_own_arm_still_learns(tmp_path):
    table, words = verdicts_of_claims(
        taught(tmp_path, {"joint-from-AU-twice": 0.5}, {"joint-from-AU": 3.0})
    )
    assert words["1"] == {"unsettled"}
    assert (table.difference[table.claim == "1"] < 0).all()
    assert (
        "unsettled (below its baseline, and may still be learning itself) in AU, EXPR, valence and"
        " arousal." in claims_summary(table)[1]
    )


def test_only_shown_and_reversed_can_be_unsettled():
    assert [
        settled(word, 0.5) for word in ("equivalent", "undecided", "one seed", "–", "not tested")
    ] == ["equivalent", "undecided", "one seed", "–", "not tested"]
    assert settled("shown", MARGIN) == "shown" == settled("shown", float("nan"))
    assert settled("reversed", -0.5) == "reversed"


def test_without_twins_the_words_stand(planted):
    table = claims_table(planted, judge_all(planted))
    assert table.doubling.isna().all()
    assert "unsettled" not in set(table.verdict)
    assert draw_convergence(results_of(planted)) is None


def test_pairs_of_twins_and_of_parts_claim_nothing(tmp_path):
    for seed in range(3):
        table_record(
            tmp_path,
            "convergence",
            seed,
            ["scratch", "scratch-twice"],
            [["scratch-twice", "scratch"]],
            {"scratch-twice": 0.5},
            bootstrap=2000,
        )
        table_record(
            tmp_path,
            "encoder",
            seed,
            ["scratch", "scratch-mean"],
            [["scratch", "scratch-mean"]],
            {"scratch-mean": 1.8},
            bootstrap=2000,
        )
    records = read_records(tmp_path)
    for name in ("convergence", "encoder"):
        assert set(judge(records, name).pairs.verdict) == {"higher"}, name
    title = draw_convergence(results_of(records)).get_suptitle()
    assert (
        title == "Twice the training: 1 of 1 arms may still gain more than .03 in some task"
        " (mean of 3 seeds)"
    )


def test_what_was_added_later_says_so(full):
    claims = full[1]["table_claims.md"].read_text()
    assert "3a, 5e, 5f and 5g were added after the first results had been seen" in claims
    assert "The gain of joint-twice stands for joint-long and best single" in claims
    assert "| smallest" in claims
    assert "| doubling" in claims
    assert "| smallest" in full[1]["table_fusion_pairs.md"].read_text()
    for name in ("encoder", "convergence", "whole"):
        assert (
            "added after the first results had been seen"
            in full[1][f"table_{name}.md"].read_text().lower()
        ), name


def test_a_sentence_leads_to_its_table_and_the_table_to_its_records(full):
    folder = full[1]["table_claims.md"].parent
    for sentence in json.loads(full[1]["table_claims.json"].read_text())["findings"]:
        links = re.findall(r"\]\(([^)]+)\)", link_tables(sentence, folder))
        assert links and link_tables(sentence, folder).startswith(sentence), sentence
        assert all(
            Path(link).exists() and "Records: [" in Path(link).read_text() for link in links
        ), sentence
    assert (
        link_tables("Claim 1 (x): shown in AU.", folder / "nowhere") == "Claim 1 (x): shown in AU."
    )


def test_a_design_of_more_people_and_seeds_has_a_smaller_error(full):
    designs = pd.read_csv(full[1]["table_design.csv"])
    assert (designs.filter(like="sd_") >= 0).all(axis=None)
    assert set(designs.claim) <= {number for number, *_ in CLAIMS}
    assert (designs["1000 people, 5 seeds"] <= designs["300 people, 5 seeds"]).all()
    assert (designs["300 people, 5 seeds"] <= designs["100 people, 3 seeds"]).all()


# -- less than all ---------------------------------------------------------------------------------


def test_one_table_alone(tmp_path):
    for seed in (0, 1):
        table_record(
            tmp_path / "records",
            "fusion",
            seed,
            ["layers-only", "sum:AU+EXPR+VA", "same-AU"],
            [["sum:AU+EXPR+VA", "layers-only"], ["sum:AU+EXPR+VA", "same-AU"]],
        )
    names = {
        p.name
        for p in write_report(tmp_path / "records", tmp_path / "figures")
        if p.suffix in (".csv", ".png")
    }
    assert names == {
        "table_fusion.csv",
        "table_fusion_pairs.csv",
        "table_warnings.csv",
        "fig_fusion.png",
    }, "a claim is judged among all, not in a run of one table"
    text = headline_text(tmp_path / "records")
    assert "Synthetic" in text
    assert "fusion: Of 8 comparisons" in text
    assert "Claim" not in text
    assert text == claims_text(results_of(read_records(tmp_path / "records")))


def stems(full, folder, only):
    return {p.stem for p in write_report(full[0], folder / only, only=f"table_{only}")}


def test_only_writes_one_table_and_leaves_the_others(full, tmp_path):
    (tmp_path / "table_headline.csv").write_text("mine")
    (tmp_path / "fig_old.svg").write_text("mine")
    (tmp_path / "table_fusion.csv").write_text("old")
    made = {p.name for p in write_report(full[0], tmp_path, only="fusion")}
    assert made == {
        f"table_{n}.{e}" for n in ("fusion", "fusion_pairs") for e in ("csv", "md", "json")
    } | {f"fig_fusion.{e}" for e in ("svg", "png", "json")}
    assert {p.name for p in tmp_path.iterdir()} == made | {
        "table_headline.csv",
        "fig_old.svg",
    }
    assert (tmp_path / "table_headline.csv").read_text() == "mine"
    for name in made:
        assert (tmp_path / name).read_bytes() == full[1][name].read_bytes(), name

    assert stems(full, tmp_path, "whole") == {"table_whole", "table_whole_pairs"}
    assert stems(full, tmp_path, "focus") == {"table_focus", "table_focus_pairs", "fig_focus"}


@pytest.mark.nightly
def test_only_writes_what_belongs_to_a_table(full, tmp_path):
    assert stems(full, tmp_path, "temporal") == {
        "table_temporal",
        "table_temporal_pairs",
        "table_best",
        "fig_windows",
    }
    assert stems(full, tmp_path, "search") == {
        "table_search",
        "table_search_pairs",
        "table_strategies",
        "fig_search",
    }


def test_a_table_that_cannot_be_made_is_there_and_says_so(tmp_path):
    search_record(tmp_path / "records", "AU", 0, tasks=("EXPR",), source="real")
    focus_record(tmp_path / "records", 0, ("EXPR",), "real")
    for only in ("search", "focus", "crossfit"):
        made = {p.name for p in write_report(tmp_path / "records", tmp_path / "figures", only=only)}
        words = (tmp_path / "figures" / f"table_{only}.md").read_text()
        assert {f"table_{only}.{e}" for e in ("csv", "md", "json")} <= made
        assert "Real results: faces" in words
        assert "Nothing to report" in words


def test_few_arms_are_said_to_be_not_tested(tmp_path, monkeypatch):
    monkeypatch.setattr("affnb.engine.report._report_figures", lambda results: [])  # tables alone
    everything(tmp_path / "records", (0,), "few")
    paths = {p.name: p for p in write_report(tmp_path / "records", tmp_path / "figures")}
    claims = pd.read_csv(paths["table_claims.csv"])
    assert len(claims) == 4 * len(CLAIMS)
    missing = claims[claims.verdict == "not tested"]
    assert {"1c", "1d", "2c", "5d"} <= set(missing.claim)
    assert not set(missing.claim) & {"0", "1", "2", "5", "5b", "5c"}
    assert missing[["difference", "p"]].isna().all(axis=None)
    assert (missing.n_seeds == 0).all()
    assert "not tested" in paths["table_claims.md"].read_text()
    assert "nan" not in paths["table_claims.md"].read_text()
    assert "Claim 1c (... and not only through more training): not tested." in claims_text(
        results_of(read_records(tmp_path / "records"))
    )
    assert "table_crossfit.csv" not in paths
    assert set(claims.verdict) == {"one seed", "not tested"}


@pytest.mark.nightly
def test_real_faces_with_expressions_only(tmp_path):
    everything(tmp_path / "records", (5,), tasks=("EXPR",), source="real")
    paths = {p.name: p for p in write_report(tmp_path / "records", tmp_path / "figures")}
    claims = pd.read_csv(paths["table_claims.csv"], keep_default_na=False, na_values=[""])
    assert (claims.verdict[claims.task != "EXPR"].isin(["–", "not tested"])).all()
    assert set(claims.verdict[claims.task == "EXPR"]) == {"one seed", "not tested"}
    assert set(claims.claim[(claims.task == "EXPR") & (claims.verdict == "not tested")]) == {"3d"}
    assert {"fig_claims.png", "fig_fusion.png", "fig_windows.png", "fig_focus.png"} <= set(paths)
    assert "table_focus.csv" not in paths
    assert "table_focus_pairs.csv" not in paths
    assert pd.read_csv(paths["table_fusion.csv"]).AU.isna().all()
    assert "table_strategies.csv" in paths
    for name in (
        "table_claims.md",
        "table_fusion.md",
        "table_temporal_pairs.md",
        "table_search.md",
    ):
        words = paths[name].read_text()
        assert "Real results: faces" in words, name
        assert "Synthetic" not in words, name
        assert "nan" not in words, name


def test_seeds_that_not_all_arms_have(tmp_path):
    table_record(
        tmp_path,
        "losses",
        0,
        ["equal", "released"],
        [["equal", "released"], ["searched", "released"]],
    )
    table_record(
        tmp_path,
        "losses",
        1,
        ["equal", "released", "searched"],
        [["equal", "released"], ["searched", "released"]],
    )
    table_record(tmp_path, "losses", 2, ["equal"], [["equal", "released"]])
    judged = judge(read_records(tmp_path), "losses")
    assert judged.arms.set_index("arm").n_seeds.to_dict() == dict(equal=3, released=2, searched=1)
    assert judged.pairs.drop_duplicates("arm").set_index("arm").n_seeds.to_dict() == dict(
        equal=2, searched=1
    )
    assert set(judged.pairs.verdict[judged.pairs.arm == "searched"]) == {"one seed"}
    assert "4 are of one seed and not judged." in findings_text(judged.pairs, 200)


def test_nothing_to_say(tmp_path):
    search_record(tmp_path, "AU", 0, tasks=("EXPR",))
    results = results_of(read_records(tmp_path))
    assert not list(claim_tables(results))
    assert not list(claim_figures(results))
    assert draw_claims(results) is None
    assert source_of(results.records, "fusion") == ({}, [])


def test_names_of_windows_and_steps_are_taken_apart_in_one_place():
    names = ["gru@30", "joint+heads", "transformer@1 shuffled", "gru@30-twice", "same-AU"]
    windows = windows_of(names)
    assert windows.arm.tolist() == ["gru@30", "transformer@1 shuffled"]
    assert windows.module.tolist() == ["gru", "transformer"]
    assert windows.window.tolist() == [30, 1]
    assert windows.shuffled.tolist() == [False, True]
    assert windows_of([]).empty
    assert post_step("joint dev: + smooth EXPR and AU") == ("joint", "dev", "+ smooth EXPR and AU")


def test_records_of_another_version_are_refused_by_name(tmp_path):
    table_record(tmp_path, "fusion", 0, ["layers-only"], [])
    record = json.loads((tmp_path / "table-fusion-seed0.json").read_text())
    write_json(tmp_path / "table-fusion-seed0.json", record | dict(columns=["other"]))
    with pytest.raises(AffnbError) as error:
        write_report(tmp_path, tmp_path / "figures")
    for fact in ("fusion", "seed 0", "layers-only"):
        assert fact in error.value.where
    write_json(
        tmp_path / "table-fusion-seed0.json", {k: v for k, v in record.items() if k != "pairs"}
    )
    with pytest.raises(AffnbError) as error:
        read_records(tmp_path)
    assert_error(error, tmp_path / "table-fusion-seed0.json", "pairs", remedy=None)


# -- published -------------------------------------------------------------------------------------


def test_published_numbers_are_those_of_their_source():
    field = Path(__file__).resolve().parents[2] / "shared" / "FIELD.md"
    if not field.exists():
        pytest.skip("FIELD.md lies beside the checkout only where the project is built")
    text = field.read_text().split("## Published MTL scores")[1].split("\n\n")[0]
    theirs = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ][1:]
    ours = published_table()
    for system, *parts, P, split, source in theirs:
        rows = ours[ours.source == source].loc[
            lambda t: t.system.map(
                lambda s: (
                    s in system or system.startswith(s) or s.split(",")[0] == system.split(",")[0]
                )
            )
        ]
        if "HSEmotion" in system:
            rows = rows[rows.system == system]
        numbers = [float(v) for v in re.findall(r"(?<![\w.])\d*\.\d+", P)]
        assert rows.P.tolist() == numbers, system
        assert {w.strip() for w in split.split("/")} == set(rows.split), system
        for name, value in zip(("VA", "EXPR", "AU"), parts):
            assert (
                (rows[name].dropna().tolist() == [float(value)])
                if value
                else rows[name].isna().all()
            ), (system, name)
    assert len(ours) == sum(len(re.findall(r"\d*\.\d+", P)) for *_, P, _, _ in theirs)
