"Tables and figures from records alone: absent tasks, some arms, any seeds, deterministic bytes, clear refusals, the verdict."
import json, os, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from affnb.core import AU_NAMES, EXPRESSIONS, AffnbError, write_json
from affnb.metrics import bootstrap, score, to_record, video_statistics
from affnb.tables import PAIRS
from affnb.report import (ARMS, BOUNDS, caption, cell, comparison_table, dev_score, finding, headline_text, read_records, readable, score_table,
                          verdict, write_report)

NOISE = {"scratch": .9, "separate": .6, "joint": .7, "joint+fusion": .6, "joint+temporal": .6, "progressive": .4, "trivial": 5, "pixels": 1., "oracle-1": .2, "nearest-leaked": .3}

def make(folder, arms=NOISE, seeds=(0, 1), tasks=("AU", "EXPR", "VA"), videos=10, source="synthetic", extras=True):
    "Records in the format of the chain: real metrics, invented predictions."
    folder.mkdir(parents=True, exist_ok=True)
    n, names, truth = videos*40, np.repeat([f"video {v:02d}" for v in range(videos)], 40), np.random.default_rng(7)
    targets = dict(AU=(truth.random((n, 12)) < .4).astype(float), EXPR=truth.integers(0, 8, n), VA=truth.uniform(-1, 1, (n, 2)))
    masks = {task: (truth.random(t.shape) < .8) & (task in tasks) for task, t in targets.items()}
    head = dict(profile="tiny", source=source, data=dict(hash="abc", name="benchmark" if source == "synthetic" else "faces", source=source),
                config=dict(bootstrap=100, mae_mask_ratio=.75), versions=dict(torch="2"), device="CPU (x86_64)", commit="0"*40, dirty=False,
                parameters=200_000, flops=5_000_000, frames_seen=640, seconds=1.5)
    for a, arm in enumerate(arms):
        for seed in seeds:
            rng = np.random.default_rng([a, seed])
            guesses = dict(AU=np.clip(targets["AU"] + rng.normal(0, NOISE[arm], (n, 12)), 0, 1), EXPR=np.eye(8)[targets["EXPR"]] + rng.gumbel(0, NOISE[arm], (n, 8)),
                           VA=np.clip(targets["VA"] + rng.normal(0, NOISE[arm], (n, 2)), -1, 1))
            guesses = {task: guesses[task] for task in tasks}
            metrics, sums = score(guesses, targets, masks), to_record(video_statistics(guesses, targets, masks, names))
            write_json(folder/f"arm-{arm}-seed{seed}.json", dict(record="arm", arm=arm, seed=seed, **head, metrics=metrics, statistics=sums, stored_features="+" in arm))
            if arm in (*BOUNDS, "separate") or not extras: continue
            history = [dict(epoch=e + 1, score=.1*e, loss=1/(e + 1), losses={t: .3 for t in tasks}, lr=1e-3, frames=64, seconds=.2, dev=metrics) for e in range(2)]
            write_json(folder/f"train-{arm}-seed{seed}.json", dict(record="train", name=arm, stage=arm, seed=seed, **head, history=history))
    if not extras: return folder
    for seed in seeds:
        history = [dict(epoch=e + 1, score=-1/(e + 1), loss=1/(e + 1), losses={}, lr=1e-3, frames=64, seconds=.2, dev=dict(loss=1.1/(e + 1))) for e in range(2)]
        write_json(folder/f"train-mae-seed{seed}.json", dict(record="train", name="mae", stage="mae", seed=seed, **head, history=history))
        np.savez_compressed(folder/f"mae-seed{seed}.npz", **{k: truth.integers(0, 255, (3, 3, 16, 16), dtype=np.uint8) for k in ("original", "masked", "reconstructed")})
        frames = pd.DataFrame({"image": [f"v/{i}.jpg" for i in range(30)], "position": range(30)})
        for who in ("truth", "joint", "progressive"):
            here = (lambda task: who == "truth" and task not in tasks)
            for name in ("valence", "arousal"): frames[f"{who}:{name}"] = np.nan if here("VA") else np.sin(np.arange(30)/5)
            for name in AU_NAMES: frames[f"{who}:{name}"] = np.nan if here("AU") else (np.arange(30) > 15).astype(float)
            frames[f"{who}:expression"] = np.nan if here("EXPR") else np.arange(30) // 6
        frames.to_csv(folder/f"timeline-seed{seed}.csv", index=False)
    drawn = {f"drawn:{name}": np.cos(np.arange(30)/5) for name in ("valence", "arousal", *AU_NAMES)} if source == "synthetic" else {}
    frames.filter(regex="image|position|truth").assign(**drawn).to_csv(folder/"video.csv", index=False)
    np.savez_compressed(folder/"video.npz", images=truth.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8), positions=[0, 10, 20, 29])
    counts = [dict(split=s, listed=100, duplicates=1, absent=2, undecodable=0, frames=97, videos=5, valence_arousal=90, expression=50, aus=80, all=40) for s in ("train", "validation", "test")]
    some = lambda task, values: values if task in tasks else [None]*len(values)
    write_json(folder/"data.json", dict(record="data", name=head["data"]["name"], source=source, hash="abc", counts=counts, parts={"train encoder": dict(frames=70, videos=3), "dev": dict(frames=27, videos=2)},
               expression_shares=dict(zip(EXPRESSIONS, some("EXPR", [.2] + [.1]*6 + [.2]))), au_prevalence=dict(zip(AU_NAMES, some("AU", [.1*i for i in range(1, 10)] + [.05]*3))),
               au_cooccurrence=[some("AU", [.5]*12) for _ in range(12)], va_histogram=dict(edges=np.linspace(-1, 1, 5).tolist(), counts=[[int("VA" in tasks)*(i + j) for j in range(4)] for i in range(4)])))
    if source == "synthetic":
        (folder/"calibration.csv").write_text("statistic,group,real,benchmark,reason\nprevalence,AU1,0.21,0.2134567,\nframes a video,shortest,11,24,one video decides it\n")
        np.savez_compressed(folder/"faces.npz", images=truth.integers(0, 255, (2, 3, 3, 16, 16), dtype=np.uint8), row_names=["a", "b"], column_names=["neutral", "AU1", "AU2"])
    return folder

@pytest.fixture(scope="module")
def records(tmp_path_factory): return make(tmp_path_factory.mktemp("made")/"records")

@pytest.fixture(scope="module")
def report(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")/"figures"
    return folder, write_report(records, folder)

TABLES = [f"table_{n}" for n in ("headline", "bounds", "calibration", "comparisons", "data", "cost", "published", "warnings")]
FIGURES = [f"fig_{n}" for n in ("data", "faces", "mae", "curves", "per_class", "timeline", "video")]

def test_every_table_and_figure_with_its_sidecar(report):
    folder, paths = report
    wanted = [f"{t}.{e}" for t in TABLES for e in ("csv", "md", "json")] + [f"{f}.{e}" for f in FIGURES for e in ("svg", "png", "json")]
    assert sorted(p.name for p in folder.iterdir()) == sorted(wanted) and sorted(p.name for p in paths) == sorted(wanted)
    for path in folder.glob("*.json"):
        beside = json.loads(path.read_text())
        if beside["source"] == "published": assert path.name == "table_published.json" and not beside["records"]; continue
        assert beside["records"] and beside["commit"] == "0"*40 and beside["device"] and beside["config"]["bootstrap"] == 100 and beside["versions"], path.name
    assert json.loads((folder/"table_headline.json").read_text())["records"] == sorted(f"arm-{a}-seed{s}.json" for a in ARMS for s in (0, 1))

def test_headline_has_the_contract_s_columns_and_values(records, report):
    table = pd.read_csv(report[0]/"table_headline.csv")
    assert table.columns.tolist() == ["arm", *(f"{s}{e}" for s in ("AU", "EXPR", "valence", "arousal", "VA", "P") for e in ("", "_lo", "_hi")), "n_seeds"]
    assert table.arm.tolist() == list(ARMS) and (table.n_seeds == 2).all()
    assert pd.read_csv(report[0]/"table_bounds.csv").arm.tolist() == [arm for arm in BOUNDS if arm in NOISE]
    calibration = pd.read_csv(report[0]/"table_calibration.csv")
    assert calibration.columns.tolist() == ["statistic", "group", "real", "benchmark", "reason"] and calibration.loc[0, "benchmark"] == .2134567
    assert "| 0.2135 " in (report[0]/"table_calibration.md").read_text() and "nan" not in (report[0]/"table_calibration.md").read_text()
    for arm in ARMS:
        runs = [json.loads((records/f"arm-{arm}-seed{s}.json").read_text()) for s in (0, 1)]
        row = table.set_index("arm").loc[arm]
        for name, metric in (("AU", "AU"), ("EXPR", "EXPR"), ("valence", "CCC_valence"), ("arousal", "CCC_arousal"), ("VA", "VA"), ("P", "P")):
            assert row[name] == pytest.approx(np.mean([r["metrics"][metric] for r in runs]), abs=2e-6)
            assert row[f"{name}_lo"] <= row[name] <= row[f"{name}_hi"] and row[f"{name}_lo"] < row[f"{name}_hi"]

def test_markdown_says_what_it_is(report):
    words = (report[0]/"table_headline.md").read_text()
    assert "Synthetic" in words and "2 seeds" in words and "10 validation videos" in words and "joint+fusion, joint+temporal" in words and " [." in words
    assert "profile tiny" in words and "progressive leads in P" in words

def test_same_records_same_bytes_in_another_process(records, report, tmp_path):
    code = f"from affnb.report import write_report; write_report({str(records)!r}, {str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "77"})
    for path in report[1]: assert (tmp_path/path.name).read_bytes() == path.read_bytes(), path.name

def test_real_faces_with_expressions_only(tmp_path):
    folder = make(tmp_path/"records", tasks=("EXPR",), source="real", seeds=(3,))
    paths = {p.name: p for p in write_report(folder, tmp_path/"figures")}
    assert not {"fig_faces.png", "table_calibration.csv"} & set(paths) and {"fig_timeline.png", "fig_video.png"} <= set(paths)
    lines = paths["table_headline.csv"].read_text().splitlines()
    assert lines[6].startswith("progressive,,,,0.") and ",,,,,,,,,,,,1" in lines[6], "empty cells, not zeros or nan"
    words = paths["table_headline.md"].read_text()
    assert "–" in words and "Real results: faces" in words and "1 seed," in words and "leads in EXPR" in words and "Synthetic" not in words
    assert "nan" not in words.lower() and "–" in headline_text(folder) and "nan" not in headline_text(folder)

@pytest.mark.parametrize("arms,tasks,videos", [(["joint"], ("AU", "EXPR", "VA"), 4), (["trivial", "pixels"], ("AU",), 4), (["progressive", "joint"], ("VA",), 1), (["scratch"], (), 3)])
def test_some_arms_some_tasks_few_videos(tmp_path, arms, tasks, videos):
    folder = make(tmp_path/"records", arms, (0,), tasks, videos, extras=False)
    paths = [p.name for p in write_report(folder, tmp_path/"figures")]
    assert "table_headline.csv" in paths and "fig_per_class.png" in paths and "table_data.csv" not in paths and "fig_data.png" not in paths
    assert pd.read_csv(tmp_path/"figures"/"table_headline.csv").arm.tolist() == [a for a in ARMS if a in arms]
    assert headline_text(folder)

def test_only_what_is_in_the_records_stays(tmp_path):
    records = make(tmp_path/"records", ["joint"], (0,), extras=False)
    (tmp_path/"fig_old.svg").write_text("x"); (tmp_path/"table_x.csv").write_text("x"); (tmp_path/"notes.txt").write_text("mine"); (tmp_path/"report").mkdir(); (tmp_path/"report"/"mine").write_text("")
    write_report(records, tmp_path)
    assert (tmp_path/"fig_per_class.svg").exists() and not (tmp_path/"fig_old.svg").exists() and not (tmp_path/"table_x.csv").exists() and (tmp_path/"notes.txt").exists() and (tmp_path/"report"/"mine").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]

def test_seeds_that_differ_are_compared_where_both_are(tmp_path):
    folder = make(tmp_path/"records", ["joint", "progressive"], (0, 1, 2), extras=False)
    (folder/"arm-joint-seed1.json").unlink()
    records = read_records(folder)
    assert score_table(records, ARMS).n_seeds.tolist() == [2, 3] and comparison_table(records).n_seeds.tolist() == [2]*4
    for seed in (0, 2): (folder/f"arm-joint-seed{seed}.json").unlink()
    assert comparison_table(read_records(folder)).empty and "reaches P" in finding(read_records(folder))

def test_the_lead_is_given_without_a_verdict(records, tmp_path):
    "The first two of six were chosen by their results."
    folder = make(tmp_path/"records", ["joint", "progressive"], (0,), extras=False)
    text = (folder/"arm-joint-seed0.json").read_text().replace('"joint"', '"progressive"')
    (folder/"arm-progressive-seed0.json").write_text(text)   # the same predictions under another name
    assert finding(read_records(folder)).endswith("leads in P, .00 [.00, .00] above progressive (chosen after looking at two arms, so no verdict)")
    assert "chosen after looking at six arms" in finding(read_records(records)) and "show" not in finding(read_records(records))
    difference = comparison_table(read_records(folder)).iloc[0]
    assert difference.difference == difference.difference_lo == difference.difference_hi == 0 and difference.p == 1

def test_comparisons_are_paired_and_judged_like_every_table(records, report):
    table, read = comparison_table(read_records(records)), read_records(records)
    alone = score_table(read, ARMS).set_index("arm")
    row = table.set_index(["arm", "against", "task"]).loc[("progressive", "joint", "AU")]
    assert row.difference == pytest.approx(alone.AU["progressive"] - alone.AU["joint"], abs=3e-6) and row.difference_lo > 0 and row.seeds_agree == "2 of 2"
    named = [pair for pair in PAIRS if {*pair} <= set(read.arms)]
    assert list(zip(table.arm, table.against))[::4] == named and len(table) == 4*len(named)
    written = pd.read_csv(report[0]/"table_comparisons.csv")
    pd.testing.assert_frame_equal(written, table.reset_index(drop=True))
    assert set(table.verdict) == {"not shown"} and "none can be shown" in (report[0]/"table_comparisons.md").read_text(), "100 resamples are too few for 28 comparisons, and the caption says so"
    words = (report[0]/"table_comparisons.md").read_text()
    assert "Holm's correction for the 28 comparisons" in words and "named beforehand" in words and "over the seeds" in words

def test_captions_name_seeds_where_there_are_several(report): assert "and over the seeds" in (report[0]/"table_headline.md").read_text()

# -- refusals -----------------------------------------------------------------------------------------------------------------------

def test_missing_and_broken_records_are_refused_and_nothing_is_written(records, tmp_path):
    figures = tmp_path/"figures"
    for folder in (tmp_path/"none", tmp_path):
        with pytest.raises(AffnbError, match="affnb reproduce"): write_report(folder, figures)
    broken = make(tmp_path/"records", ["joint"], (0,))
    for name, text in (("arm-joint-seed0.json", "{"), ("arm-joint-seed0.json", "[]"), ("arm-joint-seed0.json", '{"record": "arm", "arm": "joint"}'),
                       ("train-joint-seed0.json", "{}"), ("data.json", "nope"), ("mae-seed0.npz", "nope"), ("faces.npz", ""), ("timeline-seed0.csv", ""), ("calibration.csv", ""), ("video.csv", ""), ("video.npz", "nope")):
        whole = (broken/name).read_bytes()
        (broken/name).write_text(text)
        with pytest.raises(AffnbError) as error: write_report(broken, figures)
        assert name in str(error.value) and "\n" not in str(error.value), (name, str(error.value))
        (broken/name).write_bytes(whole)
    assert not [p for p in figures.rglob("*") if p.is_file()] if figures.exists() else True
    write_report(broken, figures)

def test_statistics_of_another_version_are_refused_by_name(tmp_path):
    folder = make(tmp_path/"records", ["joint"], (0,), extras=False)
    record = json.loads((folder/"arm-joint-seed0.json").read_text())
    record["statistics"]["columns"][0] = "other"
    (folder/"arm-joint-seed0.json").write_text(json.dumps(record))
    with pytest.raises(AffnbError, match="arm-joint-seed0.json"): write_report(folder, tmp_path/"figures")

def test_records_of_other_data_are_refused(tmp_path):
    folder = make(tmp_path/"records", ["joint"], (0,))
    record = json.loads((folder/"arm-joint-seed0.json").read_text())
    record["data"]["hash"] = "other"
    (folder/"arm-joint-seed0.json").write_text(json.dumps(record))
    with pytest.raises(AffnbError, match="different data"): read_records(folder)

@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(records, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AffnbError): write_report(records, tmp_path/"figures")

def test_a_file_in_the_place_of_the_folder_is_refused(records, tmp_path):
    (tmp_path/"figures").write_text("")
    with pytest.raises(AffnbError): write_report(records, tmp_path/"figures")

# -- verdict ------------------------------------------------------------------------------------------------------------------------

def test_verdict(report):
    path = report[0]/"table_headline.csv"
    committed = path.read_text()
    assert verdict(path, committed) == "reproduction: 36 of 36 scores lie within the committed intervals: reproduced"
    table = pd.read_csv(path)
    inside, outside, gone = table.copy(), table.copy(), table.iloc[:-1]
    inside["AU"] = inside["AU_hi"]; outside.loc[5, "VA"] = outside.loc[5, "VA_lo"] - .01
    assert verdict(inside.to_csv(index=False), path).endswith("reproduced")
    said = verdict(outside.to_csv(index=False), path)
    assert "35 of 36" in said and "progressive VA" in said and "reproduced" not in said
    assert "30 of 36" in verdict(gone.to_csv(index=False), path) and "missing now" in verdict(gone.to_csv(index=False), path)
    for wrong in ("a,b\n1,2\n", "/nowhere.csv", report[0]/"fig_data.png"):
        with pytest.raises(AffnbError): verdict(wrong, path)

def test_verdict_leaves_out_what_was_never_scored(tmp_path):
    folder = make(tmp_path/"records", ["joint"], (0,), ("EXPR",), extras=False)
    write_report(folder, tmp_path/"f")
    assert verdict(tmp_path/"f"/"table_headline.csv", tmp_path/"f"/"table_headline.csv").startswith("reproduction: 1 of 1 ")

@pytest.mark.parametrize("values,words", [((.534, .5, .561), ".53 [.50, .56]"), ((-.004, np.nan, np.nan), ".00"), ((1.234, 1.2, 1.26), "1.23 [1.20, 1.26]"),
                                          ((-.1, -.2, .05), "-.10 [-.20, .05]"), ((np.nan, np.nan, np.nan), "–"), ((.999, .99, 1.), "1.00 [.99, 1.00]"), ((0., 0., 0.), ".00 [.00, .00]")])
def test_cells(values, words): assert cell(*values) == words

def test_dev_score():
    assert dev_score({"dev": {"loss": .5}}, "mae") == .5 and dev_score({"dev": {"VA": .4, "AU": .3}}, "VA") == .4
    assert np.isnan(dev_score({"dev": {}}, "joint")) and np.isnan(dev_score({}, "AU")) and dev_score({"dev": {"EXPR": .2, "AU": None}}, "joint") == .2
