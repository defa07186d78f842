"""Tables and figures from records alone: absent tasks, some arms, any seeds, deterministic bytes,
clear refusals, the verdict.
"""

import io
import json
import os
import re
import subprocess
import sys
from urllib.parse import unquote
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import t as student
from affnb.engine.findings import judge
from affnb.engine.core import AU_NAMES, EXPRESSIONS, AffnbError, write_json
from affnb.metrics import score, to_record, video_statistics
from affnb.engine.tables import (
    PAIRS,
    SCORES,
    format_score,
    label_toy,
    record_links,
    warnings_table,
    warnings_text,
)
from affnb.engine.report import FIGURES as DRAWN
from affnb.engine.tables import ARMS, BOUNDS, headline_table, longer_arms, read_records, score_table
from affnb.engine.report import LUCK, accepted_band, dev_score, finding_text, half_width
from affnb.engine.report import headline_text, measure_luck, luck_mismatch, read_luck, renew_luck
from affnb.engine.report import reproduction_verdict, write_report
from errors import assert_error
from in_step import ROOT

NOISE = {
    "scratch": 0.9,
    "separate": 0.6,
    "joint": 0.7,
    "joint+fusion": 0.6,
    "joint+temporal": 0.6,
    "progressive": 0.4,
    "trivial": 5,
    "pixels": 1.0,
    "oracle-1": 0.2,
    "nearest-leaked": 0.3,
}


def make(
    folder,
    arms=NOISE,
    seeds=(0, 1),
    tasks=("AU", "EXPR", "VA"),
    videos=10,
    source="synthetic",
    extras=True,
    noise=NOISE,
):
    "Records in the format of the chain: real metrics, invented predictions."
    folder.mkdir(parents=True, exist_ok=True)
    n = videos * 40
    names = np.repeat([f"video {v:02d}" for v in range(videos)], 40)
    truth = np.random.default_rng(7)
    targets = dict(
        AU=(truth.random((n, 12)) < 0.4).astype(float),
        EXPR=truth.integers(0, 8, n),
        VA=truth.uniform(-1, 1, (n, 2)),
    )
    masks = {task: (truth.random(t.shape) < 0.8) & (task in tasks) for task, t in targets.items()}
    head = dict(
        profile="tiny",
        source=source,
        data=dict(
            hash="abc", name="benchmark" if source == "synthetic" else "faces", source=source
        ),
        config=dict(bootstrap=100, mae_mask_ratio=0.75),
        versions=dict(torch="2"),
        device="CPU (x86_64)",
        commit="0" * 40,
        dirty=False,
        parameters=200_000,
        flops=5_000_000,
        frames_seen=640,
        seconds=1.5,
    )
    for a, arm in enumerate(arms):
        for seed in seeds:
            rng = np.random.default_rng([a, seed])
            guesses = dict(
                AU=np.clip(targets["AU"] + rng.normal(0, noise[arm], (n, 12)), 0, 1),
                EXPR=np.eye(8)[targets["EXPR"]] + rng.gumbel(0, noise[arm], (n, 8)),
                VA=np.clip(targets["VA"] + rng.normal(0, noise[arm], (n, 2)), -1, 1),
            )
            guesses = {task: guesses[task] for task in tasks}
            metrics = score(guesses, targets, masks)
            sums = to_record(video_statistics(guesses, targets, masks, names))
            write_json(
                folder / f"arm-{arm}-seed{seed}.json",
                dict(
                    record="arm",
                    arm=arm,
                    seed=seed,
                    **head,
                    metrics=metrics,
                    statistics=sums,
                    stored_features="+" in arm,
                ),
            )
            if arm in (*BOUNDS, "separate") or not extras:
                continue
            history = [
                dict(
                    epoch=e + 1,
                    score=0.1 * e,
                    loss=1 / (e + 1),
                    losses=dict.fromkeys(tasks, 0.3),
                    lr=1e-3,
                    frames=64,
                    seconds=0.2,
                    dev=metrics,
                )
                for e in range(2)
            ]
            write_json(
                folder / f"train-{arm}-seed{seed}.json",
                dict(record="train", name=arm, stage=arm, seed=seed, **head, history=history),
            )
    if not extras:
        return folder
    for seed in seeds:
        history = [
            dict(
                epoch=e + 1,
                score=-1 / (e + 1),
                loss=1 / (e + 1),
                losses={},
                lr=1e-3,
                frames=64,
                seconds=0.2,
                dev=dict(loss=1.1 / (e + 1)),
            )
            for e in range(2)
        ]
        write_json(
            folder / f"train-mae-seed{seed}.json",
            dict(record="train", name="mae", stage="mae", seed=seed, **head, history=history),
        )
        np.savez_compressed(
            folder / f"mae-seed{seed}.npz",
            **{
                k: truth.integers(0, 255, (3, 3, 16, 16), dtype=np.uint8)
                for k in ("original", "masked", "reconstructed")
            },
        )
        frames = pd.DataFrame({"image": [f"v/{i}.jpg" for i in range(30)], "position": range(30)})
        for who in ("truth", "joint", "progressive"):

            def here(task):
                return who == "truth" and task not in tasks

            for name in ("valence", "arousal"):
                frames[f"{who}:{name}"] = np.nan if here("VA") else np.sin(np.arange(30) / 5)
            for name in AU_NAMES:
                frames[f"{who}:{name}"] = (
                    np.nan if here("AU") else (np.arange(30) > 15).astype(float)
                )
            frames[f"{who}:expression"] = np.nan if here("EXPR") else np.arange(30) // 6
        frames.to_csv(folder / f"timeline-seed{seed}.csv", index=False)
    drawn = (
        {f"drawn:{name}": np.cos(np.arange(30) / 5) for name in ("valence", "arousal", *AU_NAMES)}
        if source == "synthetic"
        else {}
    )
    frames.filter(regex="image|position|truth").assign(**drawn).to_csv(
        folder / "video.csv", index=False
    )
    np.savez_compressed(
        folder / "video.npz",
        images=truth.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8),
        positions=[0, 10, 20, 29],
    )
    counts = [
        dict(
            split=s,
            listed=100,
            duplicates=1,
            absent=2,
            undecodable=0,
            frames=97,
            videos=5,
            valence_arousal=90,
            expression=50,
            aus=80,
            all=40,
        )
        for s in ("train", "validation", "test")
    ]

    def some(task, values):
        return values if task in tasks else [None] * len(values)

    write_json(
        folder / "data.json",
        dict(
            record="data",
            name=head["data"]["name"],
            source=source,
            hash="abc",
            counts=counts,
            parts={"train encoder": dict(frames=70, videos=3), "dev": dict(frames=27, videos=2)},
            expression_shares=dict(zip(EXPRESSIONS, some("EXPR", [0.2] + [0.1] * 6 + [0.2]))),
            au_prevalence=dict(
                zip(AU_NAMES, some("AU", [0.1 * i for i in range(1, 10)] + [0.05] * 3))
            ),
            au_cooccurrence=[some("AU", [0.5] * 12) for _ in range(12)],
            va_histogram=dict(
                edges=np.linspace(-1, 1, 5).tolist(),
                counts=[[int("VA" in tasks) * (i + j) for j in range(4)] for i in range(4)],
            ),
        ),
    )
    if source == "synthetic":
        (folder / "calibration.csv").write_text(
            "statistic,group,real,benchmark,reason\nprevalence,AU1,0.21,0.2134567,\nframes a"
            " video,shortest,11,24,one video decides it\n"
        )
        np.savez_compressed(
            folder / "faces.npz",
            images=truth.integers(0, 255, (2, 3, 3, 16, 16), dtype=np.uint8),
            row_names=["a", "b"],
            column_names=["neutral", "AU1", "AU2"],
        )
    return folder


def make_table(folder, name, arms, seeds=(0,), **fields):
    "A table whose arms are those of arm records under other names."
    for seed in seeds:
        entries = []
        for arm, of in arms.items():
            record = json.loads((folder / f"arm-{of}-seed{seed}.json").read_text())
            scored = dict(metrics=record["metrics"], statistics=record["statistics"]["values"])
            cost = dict(parameters=167_000, frames_seen=192_000) | fields.get(arm, {})
            entries.append(dict(arm=arm) | scored | cost)
        own = ("record", "arm", "metrics", "statistics", "stored_features")
        head = {key: value for key, value in record.items() if key not in own}
        sums = {key: record["statistics"][key] for key in ("names", "columns")}
        table = head | sums | dict(record="table", name=name, pairs=[], arms=entries)
        write_json(folder / f"table-{name}-seed{seed}.json", table)


def compared(folder):
    "The pairs of the headline, judged."
    return judge(read_records(folder), "headline").pairs


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made") / "records")


@pytest.fixture(scope="module")
def report(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "figures"
    return folder, write_report(records, folder)


TABLES = [
    f"table_{n}"
    for n in (
        "headline",
        "bounds",
        "calibration",
        "comparisons",
        "data",
        "cost",
        "published",
        "warnings",
    )
]
FIGURES = [f"fig_{n}" for n in ("data", "faces", "mae", "curves", "per_class", "timeline", "video")]


@pytest.mark.slow
def test_every_table_and_figure_with_its_sidecar(report):
    folder, paths = report
    wanted = [f"{t}.{e}" for t in TABLES for e in ("csv", "md", "json")] + [
        f"{f}.{e}" for f in FIGURES for e in ("svg", "png", "json")
    ]
    assert sorted(p.name for p in folder.iterdir()) == sorted(wanted)
    assert sorted(p.name for p in paths) == sorted(wanted)
    for path in folder.glob("*.json"):
        beside = json.loads(path.read_text())
        if beside["source"] == "published":
            assert path.name == "table_published.json"
            assert not beside["records"]
            continue
        assert beside["records"], path.name
        assert beside["commit"] == "0" * 40, path.name
        assert beside["device"], path.name
        assert beside["config"]["bootstrap"] == 100, path.name
        assert beside["versions"], path.name
    assert json.loads((folder / "table_headline.json").read_text())["records"] == sorted(
        f"arm-{a}-seed{s}.json" for a in ARMS for s in (0, 1)
    )


def test_the_headline_can_be_had_alone(records, report, tmp_path):
    """As `affnb reproduce --only table_headline` makes it: that table of the whole report, and the
    differences of its arms.
    """
    paths = write_report(records, tmp_path / "figures", "table_headline")
    assert {path.name for path in paths} == {
        f"table_{name}.{kind}"
        for name in ("headline", "comparisons")
        for kind in ("csv", "md", "json")
    }
    assert (tmp_path / "figures" / "table_headline.csv").read_bytes() == (
        report[0] / "table_headline.csv"
    ).read_bytes()


def test_headline_has_the_contract_s_columns_and_values(records, report):
    table = pd.read_csv(report[0] / "table_headline.csv")
    assert table.columns.tolist() == [
        "arm",
        *(
            f"{s}{e}"
            for s in ("AU", "EXPR", "valence", "arousal", "VA", "P")
            for e in ("", "_lo", "_hi")
        ),
        "n_seeds",
    ]
    assert table.arm.tolist() == list(ARMS)
    assert (table.n_seeds == 2).all()
    assert pd.read_csv(report[0] / "table_bounds.csv").arm.tolist() == [
        arm for arm in BOUNDS if arm in NOISE
    ]
    calibration = pd.read_csv(report[0] / "table_calibration.csv")
    assert calibration.columns.tolist() == ["statistic", "group", "real", "benchmark", "reason"]
    assert calibration.loc[0, "benchmark"] == 0.2134567
    assert "| 0.2135 " in (report[0] / "table_calibration.md").read_text()
    assert "nan" not in (report[0] / "table_calibration.md").read_text()
    for arm in ARMS:
        runs = [json.loads((records / f"arm-{arm}-seed{s}.json").read_text()) for s in (0, 1)]
        row = table.set_index("arm").loc[arm]
        for name, metric in (
            ("AU", "AU"),
            ("EXPR", "EXPR"),
            ("valence", "CCC_valence"),
            ("arousal", "CCC_arousal"),
            ("VA", "VA"),
            ("P", "P"),
        ):
            assert row[name] == pytest.approx(
                np.mean([r["metrics"][metric] for r in runs]), abs=2e-6
            )
            assert row[f"{name}_lo"] <= row[name] <= row[f"{name}_hi"]
            assert row[f"{name}_lo"] < row[f"{name}_hi"]


def test_markdown_says_what_it_is(report):
    words = (report[0] / "table_headline.md").read_text()
    assert "Synthetic" in words
    assert "2 seeds" in words
    assert "10 validation videos" in words
    assert "joint+fusion, joint+temporal" in words
    assert " [." in words
    assert "profile tiny" in words
    assert "progressive leads in P" in words


@pytest.mark.slow
def test_another_processor_gives_the_same_bytes(tmp_path):
    """Matrix products for an older processor add up in another order, which no digit of a table
    must show.
    """
    code = "import sys; from affnb.engine.report import write_report as w; w(*sys.argv[1:])"
    words = [ROOT / "data" / "records" / "smoke", tmp_path, "losses"]
    older = os.environ | dict(OPENBLAS_CORETYPE="Prescott")
    subprocess.run([sys.executable, "-c", code, *words], env=older, check=True)
    for name in ("table_losses.csv", "table_losses_pairs.csv", "table_losses_pairs.md"):
        committed = ROOT / "figures" / "smoke" / name
        made = (tmp_path / name).read_text().split("Records:")[0]
        assert made == committed.read_text().split("Records:")[0], name


@pytest.mark.nightly
def test_same_records_same_bytes_in_another_process(records, report, tmp_path):
    folders = f"{str(records)!r}, {str(tmp_path)!r}"
    code = f"from affnb.engine.report import write_report; write_report({folders})"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "77"}
    )
    for path in report[1]:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_real_faces_with_expressions_only(tmp_path):
    folder = make(tmp_path / "records", tasks=("EXPR",), source="real", seeds=(3,))
    paths = {p.name: p for p in write_report(folder, tmp_path / "figures")}
    assert not {"fig_faces.png", "table_calibration.csv"} & set(paths)
    assert {
        "fig_timeline.png",
        "fig_video.png",
    } <= set(paths)
    lines = paths["table_headline.csv"].read_text().splitlines()
    assert lines[6].startswith("progressive,,,,0."), "empty cells, not zeros or nan"
    assert ",,,,,,,,,,,,1" in lines[6], "empty cells, not zeros or nan"
    words = paths["table_headline.md"].read_text()
    assert "–" in words
    assert "Real results: faces" in words
    assert "1 seed," in words
    assert "leads in EXPR" in words
    assert "Synthetic" not in words
    assert "nan" not in words.lower()
    assert "–" in headline_text(folder)
    assert "nan" not in headline_text(folder)


def title_of(figures, name):
    return json.loads((figures / f"{name}.json").read_text())["caption"]


@pytest.mark.slow
def test_classes_are_held_against_a_constant_answer(tmp_path):
    "The title counts what is above it, and names what is not; without labels it says so."
    folder = make(tmp_path / "good", ["trivial", "joint", "progressive"], (0, 1), extras=False)
    title = title_of(write_report(folder, tmp_path / "a")[0].parent, "fig_per_class")
    assert title.startswith(
        "progressive is above a constant answer in all 8 expressions and in all 12 action units"
    )
    assert "mean of 2 seeds, compared without a test" in title
    deaf = make(tmp_path / "deaf", ["joint"], (0,), extras=False)
    path = deaf / "arm-joint-seed0.json"
    record = json.loads(path.read_text())
    record["metrics"]["AU_per_unit"][:2] = [0.0, 0.0]
    write_json(path, record)
    title = title_of(write_report(deaf, tmp_path / "b")[0].parent, "fig_per_class")
    assert "10 of 12 action units (not AU1, AU2)" in title
    assert "(one seed, compared without a test)" in title
    bare = make(tmp_path / "bare", ["joint"], (0,), (), 3, extras=False)
    title = title_of(write_report(bare, tmp_path / "c")[0].parent, "fig_per_class")
    assert title == "No expression or action unit is labelled"


def test_only_toy_figures_say_that_they_are_toys():
    for source, labels in (("synthetic", 0), ("real", 0), ("toy", 1)):
        figure = Figure(layout="constrained")
        label_toy(figure, source)
        width = figure.get_figwidth()
        label_toy(figure, source)
        assert len(figure.texts) == labels, source
        assert figure.get_figwidth() == width, "said once"
    assert "toy data" in figure.texts[0].get_text()


@pytest.mark.parametrize(
    "arms,tasks,videos",
    [
        (["joint"], ("AU", "EXPR", "VA"), 4),
        (["trivial", "pixels"], ("AU",), 4),
        (["progressive", "joint"], ("VA",), 1),
        (["scratch"], (), 3),
    ],
)
def test_some_arms_some_tasks_few_videos(tmp_path, arms, tasks, videos):
    folder = make(tmp_path / "records", arms, (0,), tasks, videos, extras=False)
    paths = [p.name for p in write_report(folder, tmp_path / "figures")]
    assert "table_headline.csv" in paths
    assert "fig_per_class.png" in paths
    assert "table_data.csv" not in paths
    assert "fig_data.png" not in paths
    assert pd.read_csv(tmp_path / "figures" / "table_headline.csv").arm.tolist() == [
        a for a in ARMS if a in arms
    ]
    assert headline_text(folder)


def test_only_what_is_in_the_records_stays(tmp_path):
    records = make(tmp_path / "records", ["joint"], (0,), extras=False)
    (tmp_path / "fig_old.svg").write_text("x")
    (tmp_path / "table_x.csv").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine").write_text("")
    write_report(records, tmp_path)
    assert (tmp_path / "fig_per_class.svg").exists()
    assert not (tmp_path / "fig_old.svg").exists()
    assert not (tmp_path / "table_x.csv").exists()
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "report" / "mine").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_seeds_that_differ_are_compared_where_both_are(tmp_path):
    folder = make(tmp_path / "records", ["joint", "progressive"], (0, 1, 2), extras=False)
    (folder / "arm-joint-seed1.json").unlink()
    records = read_records(folder)
    assert score_table(records, ARMS).n_seeds.tolist() == [2, 3]
    assert compared(folder).n_seeds.tolist() == [2] * 4
    for seed in (0, 2):
        (folder / f"arm-joint-seed{seed}.json").unlink()
    assert compared(folder).empty
    assert "reaches P" in finding_text(read_records(folder))


def test_the_lead_is_given_without_a_verdict(records, tmp_path):
    "The first two of six were chosen by their results."
    folder = make(tmp_path / "records", ["joint", "progressive"], (0,), extras=False)
    text = (folder / "arm-joint-seed0.json").read_text().replace('"joint"', '"progressive"')
    # the same predictions under another name
    (folder / "arm-progressive-seed0.json").write_text(text)
    said = finding_text(read_records(folder))
    assert "frames seen in its own training), .00 [.00, .00] above progressive" in said
    assert said.endswith("(chosen after looking at two arms, so no verdict)")
    assert "chosen after looking at six arms" in finding_text(read_records(records))
    assert "show" not in finding_text(read_records(records))
    difference = compared(folder).iloc[0]
    assert difference.difference == difference.difference_lo == difference.difference_hi == 0
    assert difference.p == 1


def test_comparisons_are_paired_and_judged_like_every_table(records, report):
    table = compared(records)
    read = read_records(records)
    alone = score_table(read, ARMS).set_index("arm")
    row = table.set_index(["arm", "against", "task"]).loc[("progressive", "joint", "AU")]
    assert row.difference == pytest.approx(alone.AU["progressive"] - alone.AU["joint"], abs=3e-6)
    assert row.difference_lo > 0
    assert row.seeds_agree == "2 of 2"
    named = [pair for pair in PAIRS if {*pair} <= set(read.arms)]
    assert list(zip(table.arm, table.against))[::4] == named
    assert len(table) == 4 * len(named)
    written = pd.read_csv(report[0] / "table_comparisons.csv")
    pd.testing.assert_frame_equal(written, table.reset_index(drop=True))
    assert set(table.verdict) == {"undecided"}, "100 resamples are too few for 28 comparisons"
    assert "none can be shown" in (report[0] / "table_comparisons.md").read_text(), "and it is said"
    words = (report[0] / "table_comparisons.md").read_text()
    assert "Holm's correction for the 28 comparisons" in words
    assert "named beforehand" in words
    assert "over the seeds" in words


def test_captions_name_seeds_where_there_are_several(report):
    assert "and over the seeds" in (report[0] / "table_headline.md").read_text()


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_missing_and_broken_records_are_refused_and_nothing_is_written(
    records, tmp_path, monkeypatch
):
    figures = tmp_path / "figures"
    # the figures of files beside the records: the others take longer to draw
    some = [entry for entry in DRAWN if entry[0] in ("faces", "mae", "timeline", "video")]
    monkeypatch.setattr("affnb.engine.report.FIGURES", some)
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(AffnbError, match="affnb reproduce"):
            write_report(folder, figures)
    broken = make(tmp_path / "records", ["joint"], (0,))
    for name, text in (
        ("arm-joint-seed0.json", "{"),
        ("arm-joint-seed0.json", "[]"),
        ("arm-joint-seed0.json", '{"record": "arm", "arm": "joint"}'),
        ("train-joint-seed0.json", "{}"),
        ("data.json", "nope"),
        ("mae-seed0.npz", "nope"),
        ("faces.npz", ""),
        ("timeline-seed0.csv", ""),
        ("calibration.csv", ""),
        ("video.csv", ""),
        ("video.npz", "nope"),
    ):
        whole = (broken / name).read_bytes()
        (broken / name).write_text(text)
        with pytest.raises(AffnbError) as error:
            write_report(broken, figures)
        assert name in str(error.value) and "\n" not in str(error.value), (name, str(error.value))
        (broken / name).write_bytes(whole)
    assert not [p for p in figures.rglob("*") if p.is_file()] if figures.exists() else True
    write_report(broken, figures)


def test_statistics_of_another_version_are_refused_by_name(tmp_path):
    folder = make(tmp_path / "records", ["joint"], (0,), extras=False)
    record = json.loads((folder / "arm-joint-seed0.json").read_text())
    record["statistics"]["columns"][0] = "other"
    (folder / "arm-joint-seed0.json").write_text(json.dumps(record))
    with pytest.raises(AffnbError, match="arm-joint-seed0.json"):
        write_report(folder, tmp_path / "figures")


def test_records_of_other_data_are_refused(tmp_path):
    folder = make(tmp_path / "records", ["joint"], (0,))
    record = json.loads((folder / "arm-joint-seed0.json").read_text())
    record["data"]["hash"] = "other"
    (folder / "arm-joint-seed0.json").write_text(json.dumps(record))
    with pytest.raises(AffnbError) as error:
        read_records(folder)
    assert_error(error, remedy=None)
    assert "different data" in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(records, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AffnbError):
        write_report(records, tmp_path / "figures")


def test_a_file_in_the_place_of_the_folder_is_refused(records, tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(AffnbError):
        write_report(records, tmp_path / "figures")


# -- verdict ---------------------------------------------------------------------------------------

PEOPLE = "committed intervals over people (the luck of training was not measured: no luck.json)"
BANDS = "scores lie within the bands of the luck of training"


def test_without_a_measured_luck_the_intervals_decide_and_that_is_said(report):
    path = report[0] / "table_headline.csv"
    committed = path.read_text()
    same = reproduction_verdict(path, committed)
    assert same == f"reproduction: 36 of 36 scores lie within the {PEOPLE}: reproduced"
    table = pd.read_csv(path)
    inside = table.copy()
    outside = table.copy()
    inside["AU"] = inside["AU_hi"]
    outside.loc[5, "VA"] = outside.loc[5, "VA_lo"] - 0.01
    assert reproduction_verdict(inside.to_csv(index=False), path).endswith("reproduced")
    said = reproduction_verdict(outside.to_csv(index=False), path)
    assert "35 of 36" in said
    assert "progressive VA" in said
    assert "reproduced" not in said
    gone = reproduction_verdict(table.iloc[:-1].to_csv(index=False), path)
    assert "30 of 36" in gone
    assert "missing now" in gone
    for wrong in ("a,b\n1,2\n", "/nowhere.csv", report[0] / "fig_data.png"):
        with pytest.raises(AffnbError):
            reproduction_verdict(wrong, path)


def read_made(folder, seeds, **words):
    "Records of the headline's arms alone."
    return read_records(make(folder, ARMS, seeds, extras=False, **words))


def headline_csv(folder, seeds, noise=NOISE):
    "The headline table of made-up records, as text."
    return headline_table(read_made(folder, seeds, noise=noise)).to_csv(index=False)


@pytest.fixture(scope="module")
def luck(tmp_path_factory):
    "Measured over five trainings."
    return measure_luck(read_made(tmp_path_factory.mktemp("luck") / "records", (1, 2, 3, 4, 5)))


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    "The headline of seed 0, as text."
    return headline_csv(tmp_path_factory.mktemp("committed") / "records", (0,))


def test_the_luck_of_training_is_pooled_over_arms(luck, tmp_path):
    of = read_made(tmp_path / "records", (1, 2, 3, 4, 5)).arms
    for name, metric in SCORES.items():
        scores = {arm: [run["metrics"][metric] for run in of[arm]] for arm in ARMS}
        found = luck["scores"][name]
        variances = [np.var(of_arm, ddof=1) for of_arm in scores.values()]
        assert found["sd"] ** 2 == pytest.approx(np.mean(variances))
        assert found["arms"] == pytest.approx({arm: np.std(s, ddof=1) for arm, s in scores.items()})
        assert found["df"] == 6 * 4
    assert luck["record"] == "luck"
    assert luck["seeds"] == [1, 2, 3, 4, 5]
    assert luck["data"]["hash"] == "abc"
    assert luck["profile"] == "tiny"
    assert luck["config"] == {"mae_mask_ratio": 0.75}
    assert all(luck[key] for key in ("commit", "versions", "device", "date"))


def test_a_band_is_as_wide_as_two_trainings_differ():
    "t, the root of two trainings, and the seeds: a factor that is dropped is seen."
    of = dict(scores={"AU": dict(sd=0.02, df=10)})
    t = 3.169273  # of 10 degrees of freedom at .995, from a printed table
    assert half_width(of, "AU", 1, 1) == pytest.approx(t * 0.02 * 2**0.5, rel=1e-6)
    assert half_width(of, "AU", 8, 8) == pytest.approx(t * 0.02 * 0.5, rel=1e-6)
    assert half_width(of, "AU", 1, 4) == pytest.approx(t * 0.02 * 1.25**0.5, rel=1e-6)
    t42 = student.ppf(1 - 0.005 / 42, 10)
    assert half_width(of, "AU", 8, 8, cells=42) == pytest.approx(t42 * 0.02 * 0.5, rel=1e-6)
    row = dict(AU=0.5, AU_lo=0.1, AU_hi=0.9, EXPR=0.3, EXPR_lo=0.2, EXPR_hi=0.4, n_seeds=8)
    assert accepted_band(row, "AU", of, 8) == pytest.approx(
        (0.5 - t * 0.01, 0.5 + t * 0.01), rel=1e-6
    )
    assert accepted_band(row, "EXPR", of, 8) == (0.2, 0.4) == accepted_band(row, "EXPR", None, 8)


def test_bands_hold_as_often_as_they_say():
    "Of pairs of trainings of one model 99 in 100 lie within; fewer without the root of two."
    rng = np.random.default_rng(0)
    for seeds in (1, 5):
        held = narrow = 0
        for _ in range(4000):
            sd = np.sqrt(rng.normal(0, 0.03, (6, 5)).var(axis=1, ddof=1).mean())
            half = half_width(dict(scores=dict(AU=dict(sd=sd, df=24))), "AU", seeds, seeds)
            apart = abs(np.diff(rng.normal(0.5, 0.03 / seeds**0.5, 2))[0])
            held += apart <= half
            narrow += apart <= half / 2**0.5
        assert 0.983 <= held / 4000 <= 0.996
        assert narrow / 4000 < 0.965


def test_another_training_of_the_same_is_reproduced(luck, committed, tmp_path):
    "Other seeds stand for another arithmetic: settings, data and people are the same."
    runs = [headline_csv(tmp_path / f"seed{seed}", (seed,)) for seed in (6, 7, 8, 9)]
    words = []
    for run in runs:
        first, *lines = reproduction_verdict(run, committed, luck, dict(hash="abc")).splitlines()
        within, word = re.fullmatch(rf"reproduction: (\d+) of 36 {BANDS}: (.*)", first).groups()
        assert int(within) == 36 - len(lines) >= 33  # a cell outside has its line
        assert not any("far outside" in line for line in lines)
        assert word == ("reproduced" if int(within) >= 35 else "not reproduced")
        words.append(word)
    assert words.count("reproduced") >= 3  # about nine in ten are: 12 counts them
    same = reproduction_verdict(committed, committed, luck, dict(hash="abc"))
    assert same == f"reproduction: 36 of 36 {BANDS}: reproduced"


def test_a_broken_stage_is_not_reproduced(luck, committed, tmp_path):
    broken = ("joint", "joint+fusion", "joint+temporal")
    worse = headline_csv(tmp_path / "broken", (0,), NOISE | dict.fromkeys(broken, 3))
    first, *lines = reproduction_verdict(worse, committed, luck, dict(hash="abc")).splitlines()
    assert first.endswith(": not reproduced")
    assert int(first.split()[1]) <= 24
    assert {line.split()[0] for line in lines} >= set(broken)
    for line in lines:
        assert re.fullmatch(r"  \S+ \w+: -?\d?\.\d+, committed .*\[.*\]", line), line


def shifted(headline, luck, arms, bands):
    "The lines of the verdict when AU of the first `arms` lies `bands` half bands away."
    table = pd.read_csv(io.StringIO(headline))
    table.loc[: arms - 1, "AU"] += bands * half_width(luck, "AU", 1, 1)
    return reproduction_verdict(table.to_csv(index=False), headline, luck).splitlines()


@pytest.mark.parametrize("outside", [0, 1, 2])
def test_a_run_is_reproduced_with_few_cells_outside_and_not_with_more(luck, committed, outside):
    "35 of 36 are 97 %, 34 are 94 %."
    first, *lines = shifted(committed, luck, outside, 1.2)
    assert first.endswith(": reproduced" if outside < 2 else ": not reproduced")
    assert len(lines) == outside
    assert not any("far" in line for line in (first, *lines))


def test_one_score_far_outside_is_enough(luck, committed):
    """A fault in one loss moves two cells of an arm: the bound on the share forgives it, this does
    not.
    """
    first, line = shifted(committed, luck, 1, -3)
    arm = ARMS[0]
    assert first == f"reproduction: 35 of 36 {BANDS}, and {arm} AU lies far outside: not reproduced"
    assert line.startswith(f"  {arm} AU: ")
    assert "far outside: of all 36 together [" in line
    table = pd.read_csv(io.StringIO(committed))
    table.loc[0, "AU"] += 2 * half_width(luck, "AU", 1, 1)
    table.loc[1, "valence"] -= 4 * half_width(luck, "valence", 1, 1)
    assert f" and {ARMS[1]} valence lies far" in reproduction_verdict(
        table.to_csv(index=False), committed, luck
    )
    table.loc[0, "AU"] = np.nan
    said = reproduction_verdict(table.to_csv(index=False), committed, luck)
    assert f" and {arm} AU lies far" in said
    assert f"{arm} AU: missing now" in said


def test_other_data_are_said_and_not_judged(luck, committed):
    said = reproduction_verdict(committed, committed, luck, dict(hash="def"))
    assert "not compared" in said
    assert "data are other ones" in said
    assert "reproduced" not in said
    assert "hash def, published abc" in said


def test_the_benchmark_is_the_same_on_a_machine_that_rounds_its_pictures_differently(
    luck, committed
):
    "What it was drawn from decides, where both know it; else the hash of lists, names and sizes."
    luck = luck | dict(data=luck["data"] | dict(origin="drawn"))
    assert "36 of 36" in reproduction_verdict(
        committed, committed, luck, dict(hash="def", origin="drawn")
    )
    assert "not compared" in reproduction_verdict(
        committed, committed, luck, dict(hash="abc", origin="drawn otherwise")
    )
    assert "not compared" in reproduction_verdict(committed, committed, luck, dict(hash="def"))


def test_rows_that_only_one_side_has_are_not_compared(luck, committed):
    "A longer training in the committed table and none in the fresh one, or the other way round."
    longer = committed + committed.splitlines()[3].replace("joint", "joint-long", 1) + "\n"
    assert " 36 of 36 " in reproduction_verdict(committed, longer, luck)
    assert " 36 of 36 " in reproduction_verdict(longer, committed, luck)
    assert " 42 of 42 " in reproduction_verdict(longer, longer, luck)


# -- the luck of training, as it is kept -----------------------------------------------------------


def test_luck_needs_three_seeds_of_every_arm(tmp_path):
    folder = make(tmp_path / "records", ARMS, (0, 1), extras=False)
    for _ in range(2):
        with pytest.raises(AffnbError) as error:
            measure_luck(read_records(folder))
        assert_error(error, folder, ("2", "3 or more"), remedy="table_headline")
        make(folder, ["joint"], (2,), extras=False)  # one arm alone has a third


def test_luck_of_what_is_labelled_alone(tmp_path):
    found = measure_luck(read_made(tmp_path / "records", (0, 1, 2), tasks=("EXPR",)))
    assert list(found["scores"]) == ["EXPR"]


def changed(folder, **fields):
    "The same records, of other data or settings."
    for path in folder.glob("arm-*.json"):
        record = json.loads(path.read_text())
        write_json(path, record | {key: record[key] | value for key, value in fields.items()})
    return folder


def test_a_run_of_several_seeds_measures_itself_when_it_is_published(tmp_path):
    folder = make(tmp_path / "records", ARMS, (0, 1, 2), extras=False)

    def kept():
        return json.loads((folder / LUCK).read_text())

    assert renew_luck(folder) == ""
    assert kept()["seeds"] == [0, 1, 2]
    assert list(read_records(folder).arms) == list(ARMS), "it is no record of an arm"
    write_json(folder / LUCK, kept() | dict(date="2026-01-01"))
    before = (folder / LUCK).stat().st_mtime_ns
    assert renew_luck(folder) == ""
    assert (folder / LUCK).stat().st_mtime_ns == before, "the same stays untouched"
    changed(folder, data=dict(hash="def"))
    assert renew_luck(folder) == ""
    assert kept()["data"]["hash"] == "def"


@pytest.mark.parametrize(
    "fields,said",
    [
        (dict(data=dict(hash="def")), "other data"),
        (dict(config=dict(lr=0.5)), "lr = None, not 0.5"),
        (dict(config=dict(seeds=[0], bootstrap=7)), ""),
        ({}, ""),
    ],
)
def test_of_one_seed_the_luck_stays_only_while_data_and_training_do(tmp_path, luck, fields, said):
    folder = changed(make(tmp_path / "records", ARMS, (0,), extras=False), **fields)
    assert renew_luck(folder) == "" and not (folder / LUCK).exists(), "nothing was there"
    write_json(folder / LUCK, luck)
    assert said in luck_mismatch(luck, read_records(folder))
    words = renew_luck(folder)
    assert said in words
    assert bool(words) == bool(said)
    assert (folder / LUCK).exists() == (not said)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "nope", '{"data": {}, "config": {}, "seeds": []}']
)
def test_a_luck_that_is_none_is_named(text):
    with pytest.raises(AffnbError) as error:
        read_luck(text, "x/luck.json")
    assert_error(error, "x/luck.json", remedy="`affnb luck`")


# -- rows below the headline, and the best of all arms ---------------------------------------------


@pytest.fixture
def longer(tmp_path):
    "Records of a headline whose tables have longer trainings."
    folder = make(tmp_path / "records", ARMS, (0, 1), extras=False)
    changed(folder, config=dict(init_from="AU"))
    trained = {"separate": "separate", "joint-long": "joint+fusion"}
    trained |= {"joint-from-AU": "joint+temporal", "joint-from-EXPR": "scratch"}
    make_table(folder, "training", trained, (0, 1))
    make_table(folder, "convergence", {"joint-twice": "scratch", "joint-long": "scratch"}, (0,))
    best = {"best single": dict(chosen="joint-four")}
    make_table(folder, "whole", {"best single": "separate"}, (0, 1), **best)
    return folder


def test_longer_training_stands_below_the_headline(longer):
    records = read_records(longer)
    table = headline_table(records).set_index("arm")
    below = ["joint-twice", "joint-long", "joint-from-AU", "best single"]
    assert table.index.tolist() == [*ARMS, *below]
    assert longer_arms(records)["joint-long"][0] == "training", "the table with more seeds"
    assert table.n_seeds[below].tolist() == [1, 2, 2, 2]
    for name, of in (("joint-long", "joint+fusion"), ("best single", "separate")):
        assert table.loc[name].tolist() == table.loc[of].tolist()


@pytest.mark.slow
def test_the_caption_says_when_the_further_rows_came(longer, tmp_path):
    write_report(longer, tmp_path / "figures")
    path = tmp_path / "figures" / "table_headline.csv"
    table = headline_table(read_records(longer))
    pd.testing.assert_frame_equal(pd.read_csv(path), table)
    words = path.with_suffix(".md").read_text()
    assert "added after the first results were seen" in words
    assert "| joint-long" in words
    assert "three times the training" in words
    named = set(json.loads(path.with_suffix(".json").read_text())["records"])
    assert {f"table-{name}-seed0.json" for name in ("training", "whole", "convergence")} < named
    text = headline_text(longer)
    assert "added after the first results" in text
    assert sum(line.startswith("---") for line in text.splitlines()) == 2


def test_the_sentence_names_the_best_of_all_arms_and_what_it_cost(tmp_path):
    folder = make(tmp_path / "records", ["joint", "separate", "progressive"], (0, 1), extras=False)
    good = ("gate:AU", "mean of all", "best single")
    arms = dict.fromkeys(good, "progressive") | {"joint": "joint", "joint+temporal": "separate"}
    fields = {"mean of all": dict(parameters=0), "best single": dict(chosen="gate:AU")}
    make_table(folder, "fusion", arms, (0, 1), **fields)  # nobody trained an average or a choice
    for path in folder.glob("arm-progressive-*"):
        path.unlink()
    said = finding_text(read_records(folder))
    first, second = said.split("; of the headline's, ")
    cost = r"\(167 k parameters of its own, 192 k frames seen in its own training\)"
    best = rf"gate:AU has the highest P of all four arms, \d\.\d\d {cost}"
    assert re.fullmatch(best, first), first
    cost = r"\(200 k parameters, 640 frames seen in its own training\)"
    ahead = r"\.\d\d \[.*\] above joint \(chosen after looking at four arms, so no verdict\)"
    assert re.fullmatch(rf"separate leads in P with \d\.\d\d {cost}, {ahead}", second), second


# -- warnings, and links ---------------------------------------------------------------------------


def test_an_arm_below_the_pixels_or_a_constant_is_said_first(tmp_path):
    noise = NOISE | {"joint": 4, "pixels": 0.45, "scratch": 1.2}
    arms = ["scratch", "joint", "progressive", "pixels"]
    table = warnings_table(read_records(make(tmp_path / "records", arms, (0, 1), noise=noise)))
    assert list(table) == ["kind", "where", "arm", "warning", "seeds"]
    pixels = table[table.kind == "not above linear pixels"]
    assert set(pixels.arm) == {"scratch", "joint"}
    assert set(pixels["where"]) == {"headline"}
    assert set(pixels.warning.str.split(":").str[0]) == {"AU", "EXPR"}
    lines = warnings_text(table, "t.md").splitlines()
    loud = [line.startswith("WARNING: headline: ") for line in lines]
    assert any(loud)
    assert loud == sorted(loud, reverse=True)
    assert "not above linear pixels: in 2 arms (scratch, joint)" in "".join(lines)
    assert lines[-1] == f"{len(table)} warnings in all: t.md"


def test_links_lead_from_a_table_to_its_records(report):
    place = "](../records/"
    words = (report[0] / "table_headline.md").read_text().splitlines()[-1]
    first = f"[arm-joint+fusion-seed0.json{place}arm-joint%2Bfusion-seed0.json)"
    assert words.startswith(f"Records: {first}, ")
    assert words.count(place) == 12
    assert "Records" not in (report[0] / "table_published.md").read_text()
    many = record_links(dict(records=[f"a{n}.json" for n in range(43)]), "../records")
    assert many == "Records: [a0.json](../records/a0.json) and 42 more, 43 in all"
    assert record_links(dict(records=[]), "../records") == ""


@pytest.mark.parametrize("place", ["data/records/my run", "data/runs/tiny/records", "mine"])
def test_links_lead_to_records_wherever_they_lie(place, tmp_path):
    "Published ones have their tables in figures/NAME, others in a folder beside them."
    records = make(tmp_path / place, ["joint"], (0,), extras=False)
    beside = records.parent / "figures"
    figures = tmp_path / "figures/my run" if place.startswith("data/records") else beside
    write_report(records, figures)
    last = (figures / "table_headline.md").read_text().splitlines()[-1]
    links = re.findall(r"\]\(([^)]*)\)", last)
    assert links
    assert all((figures / unquote(link)).resolve().parent == records for link in links)


def test_verdict_leaves_out_what_was_never_scored(tmp_path):
    folder = make(tmp_path / "records", ["joint"], (0,), ("EXPR",), extras=False)
    write_report(folder, tmp_path / "f")
    assert reproduction_verdict(
        tmp_path / "f" / "table_headline.csv", tmp_path / "f" / "table_headline.csv"
    ).startswith("reproduction: 1 of 1 ")


@pytest.mark.parametrize(
    "values,words",
    [
        ((0.534, 0.5, 0.561), ".53 [.50, .56]"),
        ((-0.004, np.nan, np.nan), ".00"),
        ((1.234, 1.2, 1.26), "1.23 [1.20, 1.26]"),
        ((-0.1, -0.2, 0.05), "-.10 [-.20, .05]"),
        ((np.nan, np.nan, np.nan), "–"),
        ((0.999, 0.99, 1.0), "1.00 [.99, 1.00]"),
        ((0.0, 0.0, 0.0), ".00 [.00, .00]"),
    ],
)
def test_cells(values, words):
    assert format_score(*values) == words


def test_dev_score():
    assert dev_score({"dev": {"loss": 0.5}}, "mae") == 0.5
    assert dev_score({"dev": {"VA": 0.4, "AU": 0.3}}, "VA") == 0.4
    assert np.isnan(dev_score({"dev": {}}, "joint"))
    assert np.isnan(dev_score({}, "AU"))
    assert dev_score({"dev": {"EXPR": 0.2, "AU": None}}, "joint") == 0.2
