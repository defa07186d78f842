"Verdicts of planted effects, claims that cannot be tested, real faces with few labels, one table alone, sentences, families of comparisons."
import json, re
from pathlib import Path
import numpy as np, pandas as pd, pytest
from affnb.arms import tables_of
from affnb.claims import (CLAIMS, TASK_METRICS, affinity, blind, claim_words, claims_table, claims_text, draw_focus, focus_pairs, focus_table, importances, judge, judge_all, published_table,
                          said, source_of, write_claims)
from affnb.core import AU_NAMES, AffnbError, Config, write_json
from affnb.metrics import COLUMNS, score, video_statistics
from affnb.report import headline_text, write_report
from affnb.tables import read_records

TASKS = ("AU", "EXPR", "VA")
V, F = 24, 20
NAMES = np.repeat([f"video {v:02d}" for v in range(V)], F)
STEPS = ("raw", "+ smooth VA", "+ smooth EXPR and AU", "+ AU thresholds", "+ EXPR bias")

def learned(arm):
    "The tasks that an arm of `table_tasks` learns."
    words = set(re.split(r"[+:]", arm.removeprefix("heads:")))
    if not words <= {*TASKS, "valence", "arousal"}: return set(TASKS)
    return {"VA" if word in ("valence", "arousal") else word for word in words}

def entry(arm, seed, noise=1., tasks=TASKS):
    "An arm's entry: truth and noise, scored by the real metrics; only of tasks that it learned and that have labels."
    truth, rng = np.random.default_rng(3), np.random.default_rng([seed, *arm.encode()])
    n, hard = V*F, np.repeat(np.random.default_rng(4).uniform(.6, 1.4, V), F)[:, None]
    targets = dict(AU=(truth.random((n, 12)) < .4).astype(float), EXPR=truth.integers(0, 8, n), VA=truth.uniform(-1, 1, (n, 2)))
    signal = dict(AU=targets["AU"], EXPR=np.eye(8)[targets["EXPR"]], VA=targets["VA"])
    masks = {task: np.full(np.shape(t), task in tasks) for task, t in targets.items()}
    guesses = {task: signal[task] + rng.normal(0, 1, signal[task].shape)*hard*noise for task in TASKS if task in tasks and task in learned(arm)}
    return dict(arm=arm, change={}, dev=.5, parameters=9, frames_seen=9, seconds=1., best_epoch=1, metrics=score(guesses, targets, masks), statistics=video_statistics(guesses, targets, masks, NAMES).values.tolist())

def head(record, name, seed, source="synthetic", **settings):
    config = dict(bootstrap=200, init_from="AU", temporal="gru", window=30) | settings
    return dict(record=record, name=name, seed=seed, profile="tiny", source=source, data=dict(hash="abc", name="benchmark" if source == "synthetic" else "faces"), config=config, versions=dict(torch="2"), device="CPU", commit="0"*40, dirty=False)

def table_record(folder, name, seed, arms, pairs, noise={}, tasks=TASKS, **settings):
    arms = [entry(arm, seed, noise.get(arm, 1.), tasks) for arm in arms]
    write_json(folder/f"table-{name}-seed{seed}.json", head("table", name, seed, **settings) | dict(names=sorted(set(NAMES)), columns=list(COLUMNS), arms=arms, pairs=[list(p) for p in pairs]))

def search_record(folder, target, seed, tasks=TASKS, source="synthetic"):
    "A search in which the window decides."
    rng, here = np.random.default_rng(seed), target == "P" or target in tasks
    choice = lambda: dict(partners="none", fused=str(rng.choice(["none", "AU"])), temporal="gru", window=int(rng.choice([5, 30])), weight_AU=float(rng.uniform(.1, 2)))
    trials = [dict(sampler=s, number=k, choice=(c := choice()), change={}, dev=.3 + .2*(c["window"] == 30) + rng.normal(0, .005), validation=dict.fromkeys(TASKS + ("P",), .3 if here else None), seconds=1.) for s in ("tpe", "random") for k in range(8)]
    arms = [entry(arm, seed, tasks=tasks) for arm in ("tpe", "random", "progressive")]
    write_json(folder/f"search-{target}-seed{seed}.json", head("search", target, seed, source) | dict(target=target, space={}, names=sorted(set(NAMES)), columns=list(COLUMNS), trials=trials if here else [], arms=arms if here else [],
               pairs=[["tpe", "progressive"], ["tpe", "random"], ["random", "progressive"]] if here else []))

def post_record(folder, seed, tasks=TASKS, source="synthetic"):
    arms = [dict(entry(f"{STEPS[0]}", seed, 1., tasks), arm=f"{model} {way}: {step}") for model in ("progressive", "joint") for way in ("crossfit", "optimistic", "dev") for step in STEPS]
    pairs = [[f"{m} {w}: {b}", f"{m} {w}: {a}"] for m in ("progressive", "joint") for w in ("crossfit", "optimistic", "dev") for a, b in zip(STEPS, STEPS[1:])]
    pairs += [[f"{m} crossfit: {STEPS[-1]}", f"{m} crossfit: raw"] for m in ("progressive", "joint")] + [[f"{m} optimistic: {STEPS[-1]}", f"{m} crossfit: {STEPS[-1]}"] for m in ("progressive", "joint")]
    write_json(folder/f"post-seed{seed}.json", head("post", "post", seed, source) | dict(names=sorted(set(NAMES)), columns=list(COLUMNS), arms=arms, pairs=pairs, fitted=[]))

def focus_record(folder, seed, tasks=TASKS, source="synthetic", n=2000):
    "AU1 alone looks where it acts; VA looks elsewhere."
    rng, g, units = np.random.default_rng(seed), 6, list(AU_NAMES) if "AU" in tasks else []
    maps, gain = rng.dirichlet(np.full(g*g, 40.), len(tasks) + len(units)).reshape(-1, g, g), np.r_[.2, np.zeros(11)]
    regions = np.zeros((12, g, g), bool); regions[:, 1:3, 1:5] = True
    drawn = source == "synthetic" and units
    aus = [dict(au=u, inside=.2 + v, inside_lo=.1 + v, inside_hi=.3 + v, chance_others=.2, chance_area=.22, chance_untrained=None, gain=v, gain_lo=v - .1, gain_hi=v + .1, videos=V, frames=9) for u, v in zip(units, gain)] if drawn else []
    couples = [(a, b) for i, a in enumerate(tasks) for b in tasks[i+1:]]
    pairs = [dict(a=a, b=b, distance=.1 + .2*(b == "VA"), lo=.1, hi=.3, floor=.1, excess=.2*(b == "VA"), excess_lo=0., excess_hi=.2, videos=V) for a, b in couples]
    write_json(folder/f"focus-seed{seed}.json", head("focus", "focus", seed, source) | dict(aus=aus, pairs=pairs, videos=V))
    np.savez_compressed(folder/f"focus-seed{seed}.npz", names=[*tasks, *units], maps=maps.astype(np.float16), tasks=list(tasks), halves=np.repeat(maps[:len(tasks), None], 2, 1).astype(np.float16), untrained=np.full((len(tasks), g, g), 1/g/g),
                        aus=list(AU_NAMES), regions=regions if drawn else np.zeros((0, g, g), bool), face=np.full((12, 12, 3), 128, np.uint8), gain_resamples=(gain + rng.normal(0, .02, (n, 12))) if drawn else np.zeros((n, 0)),
                        excess_resamples=np.array([.2*(b == "VA") for _, b in couples]) + rng.normal(.03, .01, (n, len(couples))))

def everything(folder, seeds=(0, 1), ablations="all", tasks=TASKS, source="synthetic", headline=True):
    "Records as the chain leaves them, of every kind."
    for seed in seeds:
        for name, table in tables_of(Config(ablations=ablations)).items(): table_record(folder, name, seed, [*table.arms, *(m for m, _ in table.means)], table.pairs, tasks=tasks, source=source)
        for target in (*TASKS, "P"): search_record(folder, target, seed, tasks, source)
        post_record(folder, seed, tasks, source); focus_record(folder, seed, tasks, source)
        for arm in ("scratch", "separate", "joint", "progressive") if headline else ():
            found = entry(arm, seed, tasks=tasks)
            write_json(folder/f"arm-{arm}-seed{seed}.json", head("arm", arm, seed, source) | dict(arm=arm, metrics=found["metrics"], statistics=dict(names=sorted(set(NAMES)), columns=list(COLUMNS), values=found["statistics"])))
    return folder

@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    everything(folder/"records")
    return folder/"records", {p.name: p for p in write_report(folder/"records", folder/"figures")}

# -- planted effects ----------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    "Three tables in which one arm helps, one hurts and one does nothing."
    folder, many = tmp_path_factory.mktemp("planted"), dict(bootstrap=4000)
    for seed in range(3):
        table_record(folder, "training", seed, ["joint", "joint-from-AU", "joint-long"], [["joint-from-AU", "joint"], ["joint-from-AU", "joint-long"]], {"joint-from-AU": .75, "joint-long": .75}, **many)
        table_record(folder, "fusion", seed, ["fusion-none", "sum:AU+EXPR+VA"], [["sum:AU+EXPR+VA", "fusion-none"]], {"sum:AU+EXPR+VA": 1.35}, **many)
        table_record(folder, "temporal", seed, ["joint+heads", "gru@30"], [["gru@30", "joint+heads"]], **many)
    return read_records(folder)

def test_planted_effects_get_their_verdicts(planted):
    verdicts = claims_table(planted, judge_all(planted)).groupby("claim").verdict.agg(set)
    assert verdicts.to_dict() == {"1": {"shown"}, "1c": {"not shown"}, "2": {"reversed"}, "3": {"not shown"}}
    assert (judge(planted, "training").arms.set_index("arm").loc["joint-from-AU", [f"{t}_verdict" for t in TASK_METRICS]] == "shown").all()

def test_sentences_count_what_the_table_says(planted):
    pairs = judge(planted, "training").pairs
    text = said(pairs, 4000)
    assert text.startswith("Of 8 comparisons (2 pairs of arms), 4 are shown: joint-from-AU - joint in ") and "None is reversed" in text and text.endswith("4 are not shown.")
    assert "1 is shown" in said(pairs.head(1), 4000) and "Nothing" in said(pairs.assign(verdict="–"), 4000)
    lines = claim_words(claims_table(planted, judge_all(planted)))
    assert [re.match(r"Claim (\w+)", line)[1] for line in lines] == ["1", "1c", "2", "3"] and lines[2].endswith(": reversed in AU, EXPR, valence and arousal.") and lines[3].endswith(": not shown in AU, EXPR, valence and arousal.")

def test_too_few_resamples_are_said():
    assert "none can be shown" in blind(30, 1000) and blind(24, 1000) == "" and blind(30, 10_000) == ""

def holm_by_hand(p):
    p, order = np.asarray(p, float), np.argsort(p, kind="stable")
    out = np.empty(len(p)); out[order] = np.minimum(np.maximum.accumulate(p[order]*(len(p) - np.arange(len(p)))), 1)
    return out

def test_the_family_is_the_table(planted, full):
    for table in (judge(planted, "training").pairs, claims_table(planted, judge_all(planted)), pd.read_csv(full[1]["table_temporal_pairs.csv"]), pd.read_csv(full[1]["table_claims.csv"])):
        known = table.p.notna()
        assert known.any() and np.allclose(table.p_holm[known], holm_by_hand(table.p[known]), atol=5e-7*len(table) + 1e-6)

def test_a_row_does_not_depend_on_the_others(planted, tmp_path):
    for seed in range(3): table_record(tmp_path, "training", seed, ["joint-from-AU", "joint"], [["joint-from-AU", "joint"]], {"joint-from-AU": .75}, bootstrap=4000)
    columns = ["arm", "against", "task", "difference", "difference_lo", "difference_hi", "p"]
    pd.testing.assert_frame_equal(judge(read_records(tmp_path), "training").pairs[columns], judge(planted, "training").pairs[columns].head(4))

# -- all records --------------------------------------------------------------------------------------------------------------------

def test_every_table_and_figure_of_a_full_run(full):
    names = {f"table_{n}.{e}" for n in ("pretraining", "training", "tasks", "fusion", "temporal", "losses", "folds", "crossfit", "search", "post") for n in (n, f"{n}_pairs") for e in ("csv", "md", "json")}
    names |= {f"table_{n}.{e}" for n in ("claims", "published", "focus", "focus_pairs", "strategies", "headline") for e in ("csv", "md", "json")}
    names |= {f"fig_{n}.{e}" for n in ("affinity", "fusion", "windows", "search", "focus", "post", "claims") for e in ("svg", "png", "json")}
    assert names <= set(full[1])
    for name in names:
        if name.endswith(".json"):
            beside = json.loads(full[1][name].read_text())
            assert beside["caption"] and (beside["records"] or "published" in name), name
            if "published" not in name and "headline" not in name: assert beside["notebook"] == "nbs/11b_claims.ipynb" and beside["config"]["bootstrap"] == 200 and beside["seeds"] == [0, 1], name
        if name.endswith(".md"): assert "nan" not in full[1][name].read_text().lower(), name

def test_columns_of_the_csv_files(full):
    arms, pairs, claims = (pd.read_csv(full[1][f"table_{n}.csv"]) for n in ("fusion", "fusion_pairs", "claims"))
    assert arms.columns.tolist() == ["arm", "against", *(f"{s}{e}" for s in ("AU", "EXPR", "valence", "arousal", "VA", "P") for e in ("", "_lo", "_hi")), "n_seeds", *(f"{t}_verdict" for t in TASK_METRICS)]
    assert pairs.columns.tolist() == ["arm", "against", "task", "difference", "difference_lo", "difference_hi", "p", "p_holm", "verdict", "n_seeds"]
    assert claims.columns.tolist() == ["claim", "statement", "task", "evidence", "n_seeds", "difference", "difference_lo", "difference_hi", "p", "p_holm", "verdict"]
    assert len(claims) == 4*len(CLAIMS) and set(claims.verdict) <= {"shown", "reversed", "not shown"} and (claims.n_seeds == 2).all()
    assert claims.set_index(["claim", "task"]).evidence["2c"].tolist() == [f"sum:AU+EXPR+VA - same-{t}" for t in ("AU", "EXPR", "VA", "VA")]
    assert claims.set_index(["claim", "task"]).evidence["4"].tolist() == [f"{t}: tpe - {t}: progressive" for t in ("AU", "EXPR", "VA", "VA")]
    assert (arms.AU_lo <= arms.AU).all() and len(pairs) == 4*len(tables_of(Config(ablations="all"))["fusion"].pairs)

def test_differences_are_those_of_the_means(full):
    arms, pairs = pd.read_csv(full[1]["table_temporal.csv"]).set_index("arm"), pd.read_csv(full[1]["table_temporal_pairs.csv"])
    for row in pairs.itertuples(): assert row.difference == pytest.approx(arms.loc[row.arm, row.task] - arms.loc[row.against, row.task], abs=3e-6)

def test_a_search_is_judged_by_its_target_and_a_step_by_what_it_touches(full):
    searched = pd.read_csv(full[1]["table_search_pairs.csv"])
    assert searched.groupby("arm").task.agg(set)["VA: tpe"] == {"valence", "arousal"} and set(searched.task[searched.arm == "AU: tpe"]) == {"AU"} and set(searched.task[searched.arm == "P: tpe"]) == set(TASK_METRICS)
    post = pd.read_csv(full[1]["table_post_pairs.csv"]).groupby(["arm", "against"], sort=False).task.agg(list)
    assert post["joint dev: + smooth VA", "joint dev: raw"] == ["valence", "arousal"] and post["joint crossfit: + smooth EXPR and AU", "joint crossfit: + smooth VA"] == ["AU", "EXPR"]
    assert post["joint crossfit: + EXPR bias", "joint crossfit: + AU thresholds"] == ["EXPR"] and len(post["joint crossfit: + EXPR bias", "joint crossfit: raw"]) == 4

def test_importances_find_the_setting_that_decides(full):
    found = importances(read_records(full[0]).searches["AU"])
    assert max(found, key=found.get) == "window" and found["window"] > .8 and importances([]) == {}
    strategies = pd.read_csv(full[1]["table_strategies.csv"])
    assert len(strategies) == 4*2*2 and strategies.strategy.str.contains("window=30").all()

def test_affinity_reads_partners_from_pairs(full):
    pairs = pd.read_csv(full[1]["table_tasks_pairs.csv"])
    for prefix, columns in (("", ["AU", "EXPR", "VA", "all others"]), ("heads:", ["AU", "EXPR", "valence", "arousal", "all others"])):
        gain, _ = affinity(pairs, prefix)
        assert gain.columns.tolist() == columns and np.isnan(gain.loc["AU", "AU"]) and gain.notna().sum().sum() == {"": 4*3, "heads:": 4*4}[prefix]
    row = pairs[(pairs.arm == "EXPR+VA") & (pairs.against == "EXPR") & (pairs.task == "EXPR")].iloc[0]
    assert affinity(pairs)[0].loc["EXPR", "VA"] == row.difference

def test_focus(full):
    records = read_records(full[0])
    units, pairs = focus_table(records), focus_pairs(records)
    assert units.verdict.tolist() == ["shown"] + ["not shown"]*11 and pairs.verdict.tolist() == ["not shown", "shown", "shown"] and (units.n_seeds == 2).all()
    assert units.gain[0] == pytest.approx(.2) and (units.gain_lo <= units.gain).all() and pairs.across_seeds.notna().all()
    assert "2 of 3 pairs of tasks look at different places; 1 of 12 units" in draw_focus(records, {}).get_suptitle()

def test_same_records_same_bytes(tmp_path):
    for seed in range(2): search_record(tmp_path, "AU", seed); focus_record(tmp_path, seed)
    for name in ("a", "b"): (tmp_path/name).mkdir(); write_claims(read_records(tmp_path), tmp_path/name)
    made = sorted(p.name for p in (tmp_path/"a").iterdir())
    assert "fig_search.svg" in made and made == sorted(p.name for p in (tmp_path/"b").iterdir())
    for name in made: assert (tmp_path/"a"/name).read_bytes() == (tmp_path/"b"/name).read_bytes(), name

# -- less than all ------------------------------------------------------------------------------------------------------------------

def test_one_table_alone(tmp_path):
    for seed in (0, 1): table_record(tmp_path/"records", "fusion", seed, ["fusion-none", "sum:AU+EXPR+VA", "same-AU"], [["sum:AU+EXPR+VA", "fusion-none"], ["sum:AU+EXPR+VA", "same-AU"]])
    names = {p.name for p in write_report(tmp_path/"records", tmp_path/"figures") if p.suffix in (".csv", ".png")}
    assert names == {"table_fusion.csv", "table_fusion_pairs.csv", "table_claims.csv", "fig_fusion.png", "fig_claims.png"}
    claims = pd.read_csv(tmp_path/"figures"/"table_claims.csv")
    assert claims[["claim", "task"]].values.tolist() == [*(["2", t] for t in TASK_METRICS), ["2c", "AU"]], "claims that the run cannot speak of are left out"
    text = headline_text(tmp_path/"records")
    assert "Synthetic" in text and "fusion: Of 8 comparisons" in text and text == claims_text(read_records(tmp_path/"records"))

def test_few_arms_are_said_to_be_not_tested(tmp_path):
    everything(tmp_path/"records", (0,), "few")
    paths = {p.name: p for p in write_report(tmp_path/"records", tmp_path/"figures")}
    claims = pd.read_csv(paths["table_claims.csv"])
    assert len(claims) == 4*len(CLAIMS)
    missing = claims[claims.verdict == "not tested"]
    assert set(missing.claim) == {"1c", "2c", "3b", "3c"} and missing[["difference", "p"]].isna().all(axis=None) and (missing.n_seeds == 0).all()
    assert "not tested" in paths["table_claims.md"].read_text() and "nan" not in paths["table_claims.md"].read_text() and "Claim 1c (... and not only through more training): not tested." in claims_text(read_records(tmp_path/"records"))
    assert "none can be shown" in paths["table_tasks_pairs.md"].read_text() and "table_crossfit.csv" not in paths

def test_real_faces_with_expressions_only(tmp_path):
    everything(tmp_path/"records", (5,), tasks=("EXPR",), source="real")
    paths = {p.name: p for p in write_report(tmp_path/"records", tmp_path/"figures")}
    claims = pd.read_csv(paths["table_claims.csv"], keep_default_na=False, na_values=[""])
    assert (claims.verdict[claims.task != "EXPR"].isin(["–", "not tested"])).all() and (claims.verdict[(claims.task == "EXPR") & (claims.claim != "2c")] != "–").all()
    assert {"fig_claims.png", "fig_fusion.png", "fig_windows.png", "fig_focus.png"} <= set(paths) and "table_focus.csv" not in paths and "table_focus_pairs.csv" not in paths
    assert pd.read_csv(paths["table_fusion.csv"]).AU.isna().all() and "table_strategies.csv" in paths
    for name in ("table_claims.md", "table_fusion.md", "table_temporal_pairs.md", "table_search.md"):
        words = paths[name].read_text()
        assert "Real results: faces" in words and "Synthetic" not in words and "nan" not in words, name

def test_seeds_that_not_all_arms_have(tmp_path):
    table_record(tmp_path, "losses", 0, ["equal", "released"], [["equal", "released"], ["searched", "released"]])
    table_record(tmp_path, "losses", 1, ["equal", "released", "searched"], [["equal", "released"], ["searched", "released"]])
    table_record(tmp_path, "losses", 2, ["equal"], [["equal", "released"]])
    judged = judge(read_records(tmp_path), "losses")
    assert judged.arms.set_index("arm").n_seeds.to_dict() == dict(equal=3, released=2, searched=1)
    assert judged.pairs.drop_duplicates("arm").set_index("arm").n_seeds.to_dict() == dict(equal=2, searched=1)

def test_nothing_to_say(tmp_path):
    for target in ("AU",): search_record(tmp_path, target, 0, tasks=("EXPR",))
    assert write_claims(read_records(tmp_path), tmp_path) == [] and not list(tmp_path.glob("table_*")) and not list(tmp_path.glob("fig_*"))
    assert source_of(read_records(tmp_path), "fusion") == ({}, [])

def test_records_of_another_version_are_refused_by_name(tmp_path):
    table_record(tmp_path, "fusion", 0, ["fusion-none"], [])
    record = json.loads((tmp_path/"table-fusion-seed0.json").read_text())
    write_json(tmp_path/"table-fusion-seed0.json", record | dict(columns=["other"]))
    with pytest.raises(AffnbError, match="table record fusion, seed 0, arm fusion-none"): write_report(tmp_path, tmp_path/"figures")
    write_json(tmp_path/"table-fusion-seed0.json", {k: v for k, v in record.items() if k != "pairs"})
    with pytest.raises(AffnbError, match="table-fusion-seed0.json.*pairs missing"): read_records(tmp_path)

# -- published ----------------------------------------------------------------------------------------------------------------------

def test_published_numbers_are_those_of_their_source():
    field = Path(__file__).resolve().parents[2]/"shared"/"FIELD.md"
    if not field.exists(): pytest.skip("FIELD.md lies beside the checkout only where the project is built")
    text = field.read_text().split("## Published MTL scores")[1].split("\n\n")[0]
    theirs = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")][1:]
    ours = published_table()
    for system, *parts, P, split, source in theirs:
        rows = ours[ours.source == source].loc[lambda t: t.system.map(lambda s: s in system or system.startswith(s) or s.split(",")[0] == system.split(",")[0])]
        if "HSEmotion" in system: rows = rows[rows.system == system]
        numbers = [float(v) for v in re.findall(r"(?<![\w.])\d*\.\d+", P)]
        assert rows.P.tolist() == numbers, system
        assert {w.strip() for w in split.split("/")} == set(rows.split), system
        for name, value in zip(("VA", "EXPR", "AU"), parts): assert (rows[name].dropna().tolist() == [float(value)]) if value else rows[name].isna().all(), (system, name)
    assert len(ours) == sum(len(re.findall(r"\d*\.\d+", P)) for *_, P, _, _ in theirs)
