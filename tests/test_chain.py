"""The chain as a whole, in a copy of the project: from nothing to the headline, again, after an
edit, after a kill (on real faces: test_real_faces).
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import pandas as pd
import pytest
from chaos import Storm, differences, leftovers
from errors import assert_one_line
from affnb.engine.core import load_config
from affnb.engine.example import MODELS, make_example
from affnb.engine.records import read_record
from affnb.engine.runs import rows_of, start_stage
from affnb.heads import predictions_of
from affnb.metrics import score
from in_step import ROOT
from safetensors import safe_open
from project import Project

pytestmark = pytest.mark.slow

ARMS = ["scratch", "separate", "joint", "joint+fusion", "joint+temporal", "progressive"]
# of a profile with few arms
TABLES = ["pretraining", "training", "tasks", "fusion", "temporal", "losses", "whole"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("chain") / "affnb")
    made.output = made.run("reproduce", "--profile", "tiny", "--cores", "2")
    return made


def test_from_nothing_to_the_headline(project):
    figures = project.root / "figures" / "tiny"
    records = project.root / "data" / "records" / "tiny"
    table = pd.read_csv(figures / "table_headline.csv")
    assert table["arm"].tolist()[: len(ARMS)] == ARMS
    assert table["n_seeds"].eq(1).all()
    for name in ("AU", "EXPR", "valence", "arousal", "VA", "P"):
        assert table[[name, f"{name}_lo", f"{name}_hi"]].notna().all(axis=None)
        assert (table[f"{name}_lo"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_hi"]).all()
    for name in (
        "fig_data",
        "fig_faces",
        "fig_mae",
        "fig_curves",
        "fig_per_class",
        "fig_timeline",
        "fig_video",
    ):
        assert all((figures / f"{name}.{kind}").stat().st_size > 1000 for kind in ("svg", "png"))
        beside = json.loads((figures / f"{name}.json").read_text())
        assert beside["records"]
        assert beside["versions"]
        assert "commit" in beside
        assert "config" in beside
        assert "device" in beside
    for name in ("table_headline", "table_data", "table_cost", "table_bounds", "table_calibration"):
        assert all((figures / f"{name}.{kind}").exists() for kind in ("csv", "md", "json"))
    bounds = pd.read_csv(figures / "table_bounds.csv").set_index("arm")
    assert bounds.loc["oracle-1", "P"] > max(
        bounds.loc[floor, "P"] for floor in ("trivial", "pixels")
    )
    assert {"video-mean", "nearest", "nearest-leaked"} < set(bounds.index)
    assert {f"arm-{arm}-seed0.json" for arm in ARMS} <= {path.name for path in records.iterdir()}
    assert "progressive" in project.output
    assert str(figures) in project.output
    assert "took" in project.output


def test_what_a_score_does_not_tell_is_said(project):
    """Nothing is learned in the tiny profile, and the command says so, as do table, record and
    notebook.
    """
    warnings = pd.read_csv(
        project.root / "figures" / "tiny" / "table_warnings.csv", dtype=str, keep_default_na=False
    )
    assert len(warnings) > 5
    assert {"headline", "fusion", "training, on dev"} <= set(warnings["where"])
    places = re.findall(r"^(\d+) warnings in all: (.+)$", project.output, re.M)
    table = project.root / "figures" / "tiny" / "table_warnings.md"
    assert places == [(str(len(warnings)), str(table))]
    assert any("never" in line for line in warnings["warning"])
    run = project.root / "data" / "runs" / "tiny"
    recorded = json.loads((run / "records" / "train-EXPR-seed0.json").read_text())["warnings"]
    shown = (run / "notebooks" / "07_separate-EXPR-seed0.ipynb").read_text()
    assert recorded
    assert 'role=\\"alert\\"' in shown
    assert recorded[0].split(" (")[0] in shown


def test_every_stage_is_the_real_one(project):
    from affnb.engine.core import TUNING

    records = {
        path.stem: json.loads(path.read_text())
        for path in (project.root / "data" / "records" / "tiny").glob("train-*.json")
    }
    for stage in ("mae", "AU", "EXPR", "VA", "scratch", "joint", "progressive"):
        record = records[f"train-{stage}-seed0"]
        assert record["frames_seen"] > 0
        assert record["parameters"] > 1000
        assert record["flops"] > 1000
        assert record["config"]["profile"] == "tiny"
        assert record["seed"] == 0
        assert {"hash", "content", "name", "source", "origin"} == set(record["data"])
        assert len(record["data"]["content"]) == 12
        assert {"python", "torch", "numpy", "pillow"} < set(record["versions"])
        assert record["device"].startswith("CPU")
        # None in this copy, which is no checkout (of one: test_cli)
        assert {"processor", "instructions", "variables"} < set(record["machine"])
        assert record["machine"]["variables"].keys() <= set(TUNING)
        assert {"commit", "dirty"} < set(record)

    def start(stage, name="model"):
        return dict(
            tensors(
                project.root / "data" / "runs" / "tiny" / "seed0" / stage / f"{name}.safetensors"
            )
        )

    assert any("attn" in key for key in start("joint"))
    assert any(key.startswith("encoder.patch_embed") for key in start("mae"))
    assert any("temporal" in key for key in start("progressive"))
    assert any("fusion" in key for key in start("progressive"))


def tensors(path):
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118  (no dict)
            yield key, file.get_tensor(key)


def test_executed_notebooks_are_kept_and_the_submission_has_its_format(project):
    from affnb.engine.data import read_annotations

    run = project.root / "data" / "runs" / "tiny"
    # 06 to 12
    assert len(list((run / "notebooks").glob("*.ipynb"))) == 1 + 3 + 6 + 1 + len(TABLES) + 1 + 1 + 1
    listed = next((project.root / "data" / "benchmark").glob("*/MTL.txt"))
    submission = read_annotations(run / "seed0" / "submission.txt")
    wanted = read_annotations(listed)
    assert submission["image"].tolist() == wanted["image"].drop_duplicates().tolist()
    assert submission["valence"].notna().all()


def test_the_model_that_is_left_says_what_it_said_in_the_chain(project):
    """Asked about the frames of validation videos, as crops: the predictions that are stored, by
    its temperatures, but for features that were stored in half precision; and the command, about a
    folder.
    """
    import numpy as np
    from affnb.engine.calibration import apply_temperature
    from affnb.engine.core import EXPRESSIONS
    from affnb.engine.predict import UNITS, load_model, predict
    from affnb.engine.runs import open_run, rows_of

    model = load_model(project.root / "data" / "models" / "tiny" / "progressive")
    run = open_run(project.root / "data" / "runs" / "tiny")
    card = (project.root / "data" / "models" / "tiny" / "progressive" / "README.md").read_text()
    assert model.about["arm"] == "progressive"
    assert model.about["data"]["source"] == "synthetic"
    assert "drawn faces only" in card
    assert re.search(r"\.\d\d \[", card)
    assert "expected calibration error" in card
    assert set(model.about["temperature"]) == {"AU", "EXPR"}
    stored = dict(tensors(run.folder / "seed0" / "progressive" / "predictions.safetensors"))
    place = {row: k for k, row in enumerate(stored["rows"].tolist())}
    for _, video in list(rows_of(run, "validation").groupby("video"))[:3]:
        rows = video.sort_values("row")["row"].to_numpy()
        table = predict(model, run.frames[rows], aligned=True)  # a tensor, as the run has it
        at = [place[row] for row in rows]
        for task, columns in (
            ("VA", ["valence", "arousal"]),
            ("EXPR", list(EXPRESSIONS)),
            ("AU", list(UNITS.values())),
        ):
            wanted = stored[task][at].float().numpy()
            if task in model.about["temperature"]:
                wanted = apply_temperature(task, wanted, model.about["temperature"][task])
            assert np.abs(table[columns].to_numpy() - wanted).max() < 0.01, task
    faces = min((project.root / "data" / "benchmark").glob("*/cropped_aligned/*"))
    output = project.run(
        "predict", "data/models/tiny/progressive", str(faces), "--aligned", "-o", "answers.csv"
    )
    assert "drawn faces only" in output
    assert len(pd.read_csv(project.root / "answers.csv")) == len(list(faces.iterdir()))


def test_an_example_run_recalls_what_the_run_has_left(project, tmp_path):
    "From weights alone: the same features and predictions, byte for byte."
    run = project.root / "data" / "runs" / "tiny"
    for name in MODELS:
        target = tmp_path / f"{name}.safetensors"
        shutil.copyfile(run / "seed0" / name / "model.safetensors", target)
    example = project.root / "data" / "runs" / "example"
    make_example(example, load_config("tiny"), tmp_path, run / "records")
    for name in MODELS[1:]:
        for kind in ("features", "predictions"):
            path = f"seed0/{name}/{kind}.safetensors"
            assert (example / path).read_bytes() == (run / path).read_bytes(), path
    shutil.rmtree(example)


@pytest.mark.nightly
def test_the_published_weights_score_what_their_records_say(tmp_path):
    "The example run that chapters are read with, in full: dev scores, to half a percent."
    example = tmp_path / "data" / "runs" / "example"
    records = ROOT / "data" / "records" / "smoke"
    make_example(example, load_config("smoke"), ROOT / "data" / "example", records)
    run = start_stage(example)
    for name in MODELS[1:]:
        answers = predictions_of(run, name, 0)
        dev = rows_of(run, "dev")["row"].to_numpy()
        scores = score({task: values[dev] for task, values in answers.items()}, *run.labels(dev))
        history = json.loads((records / f"train-{name}-seed0.json").read_text())["history"]
        best = max(history, key=lambda entry: entry["score"])["dev"]
        for task in answers:
            assert scores[task] == pytest.approx(best[task], abs=0.005), (name, task)


def test_five_folds_and_their_average(project, tmp_path):
    "A table that profiles with few arms leave out, in a copy of a run that has all that it needs."
    from dataclasses import replace
    from affnb.engine.ablations import run_table
    from affnb.engine.runs import open_run

    shutil.copytree(project.root / "data" / "runs" / "tiny", tmp_path / "tiny")
    run = open_run(tmp_path / "tiny")
    record = run_table(replace(run, config=replace(run.config, ablations="more")), "folds", 0)
    assert [entry["arm"] for entry in record["arms"]] == [
        "progressive",
        *(f"fold-{k}" for k in range(1, 6)),
        "ensemble",
    ]
    stored = read_record(tmp_path / "tiny" / "records" / "table-folds-seed0.json")["arms"]
    assert len({entry["statistics"].tobytes() for entry in stored}) == 7, (
        "seven models that answer differently"
    )


def test_solutions_in_the_stages_are_right(project):
    "Executed by the chain: no exercise is answered wrongly, and in some run each is answered."
    answered = {}
    for path in (project.root / "data" / "runs" / "tiny" / "notebooks").glob("*.ipynb"):
        notebook = json.loads(path.read_text())
        text = "".join(
            "".join(output.get("text", "")) for output in notebook["cells"][-1].get("outputs", [])
        )
        assert "not right yet" not in text and "exercise 1" in text, f"{path.stem}: {text}"
        answered.setdefault(path.stem.partition("-")[0], set()).update(
            re.findall(r"exercise (\d): right", text)
        )
        answered.setdefault(path.stem.partition("-")[0] + " asked", set()).update(
            re.findall(r"exercise (\d):", text)
        )
    assert all(
        right == answered[f"{name} asked"]
        for name, right in answered.items()
        if not name.endswith("asked")
    ), answered


def test_rules_that_do_not_depend_on_each_other_run_side_by_side(project):
    """As many as there are cores, never more; what a stage needs is finished before its kernel
    starts.
    """
    notes = {
        path.stem.removesuffix("-seed0"): json.loads(path.read_text())["metadata"]["papermill"]
        for path in (project.root / "data" / "runs" / "tiny" / "notebooks").glob("*.ipynb")
    }
    starts, ends = (
        {name: note[f"{edge}_time"] for name, note in notes.items()} for edge in ("start", "end")
    )
    assert (
        max(sum(starts[other] <= starts[name] < ends[other] for other in notes) for name in notes)
        == 2
    )
    for first, second in (
        ("06_pretrain-mae", "07_separate-AU"),
        ("07_separate-AU", "09_joint-joint-from-AU"),
        ("09_joint-joint-from-AU", "09_joint-progressive"),
        ("09_joint-joint", "ablations-fusion"),
        ("10_search-P", "ablations-losses"),
        ("09_joint-progressive", "10_search-P"),
        ("07_separate-VA", "focus"),
        ("11_evaluate", "report"),
        ("focus", "report"),
    ):
        assert ends[first] <= starts[second]


def test_a_second_run_does_nothing_and_says_so(project):
    "Nor do outputs in a notebook, from a run in Jupyter, set anything off."
    path = project.root / "nbs" / "07_separate.ipynb"
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
            cell["execution_count"] = 7
    path.write_text(json.dumps(notebook))
    # whoever else is at work does not count
    before = project.times()

    def computed():
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    start = computed()
    output = project.run("reproduce", "--profile", "tiny", "--cores", "2")
    assert "nothing to do" in output
    assert project.times() == before
    assert 1 < computed() - start < 15, f"{computed() - start:.1f} s"


def place_with_faces(project, out):
    "Where other runs may go: the benchmark is rendered and packed there already."
    for folder in ("benchmark", "packed"):
        shutil.copytree(project.root / "data" / folder, out / "data" / folder)
    return out


def planned(output):
    "What a dry run says: rule -> how often."
    return {
        rule: int(times)
        for rule, times in re.findall(r"^([a-z]+(?: all)?) +(\d+)(?:  .*)?$", output, re.M)
    }


def edit(root, name):
    path = root / "nbs" / f"{name}.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][-1]["source"] = "".join(notebook["cells"][-1]["source"]) + "\n# one more line"
    path.write_text(json.dumps(notebook))


def test_editing_a_stage_reruns_it_and_what_depends_on_it_alone(project, tmp_path):
    """As planned (what runs after an edit in fact: `test_a_new_arm`); the edits are taken back, and
    having looked sets nothing off.
    """
    words = ("reproduce", "--profile", "tiny", "--cores", "2")
    counts = {}
    for name in ("09_joint", "11_evaluate", "engine/report"):
        notebook = project.root / "nbs" / f"{name}.ipynb"
        shutil.copy(notebook, tmp_path)
        edit(project.root, name)
        counts[name] = planned(project.run(*words, "--dry-run"))
        shutil.copy(tmp_path / notebook.name, notebook)
    # of the arms `separate` is no joint one, and `joint-from-AU` is one more
    assert counts["09_joint"] == {
        "joint": len(ARMS),
        "table": len(TABLES) - 1,
        "windows": 1,
        "search": 1,
        "evaluate": 1,
        "report": 1,
        "model": 1,
        "in all": len(ARMS) + len(TABLES) + 4,
    }
    assert counts["11_evaluate"] == {"evaluate": 1, "report": 1, "model": 1, "in all": 3}
    assert counts["engine/report"] == {"report": 1, "in all": 1}
    assert "nothing to do" in project.run(*words, "--dry-run")


def entries(folder, table, seed=0):
    "arm -> its entry in a table's record, but for how long it took."
    record = read_record(folder / "records" / f"table-{table}-seed{seed}.json")
    for entry in record["arms"]:
        entry["statistics"] = entry["statistics"].tolist()
    return {
        entry["arm"]: {name: value for name, value in entry.items() if name != "seconds"}
        for entry in record["arms"]
    }


def test_every_table_has_its_records_and_its_files(project):
    run = project.root / "data" / "runs" / "tiny"
    figures = project.root / "figures" / "tiny"
    for table in TABLES:
        arms = entries(run, table)
        assert arms
        assert all(len(entry["statistics"]) == 4 for entry in arms.values())
    for name in (*TABLES, "search", "post", "focus", "claims", "published"):
        assert (figures / f"table_{name}.csv").stat().st_size > 50
        assert (figures / f"table_{name}.md").exists()
        assert (figures / f"table_{name}.json").exists()
    claims = pd.read_csv(figures / "table_claims.csv")
    assert {
        "claim",
        "task",
        "evidence",
        "difference",
        "difference_lo",
        "difference_hi",
        "verdict",
    } <= set(claims)
    assert not claims.duplicated(["claim", "task"]).any()
    # of one seed nothing is said to be shown
    assert set(claims["verdict"]) <= {"one seed", "not tested", "–"}
    headline, fusion = (
        pd.read_csv(figures / f"table_{name}.csv").set_index("arm")
        for name in ("headline", "fusion")
    )
    # the same settings are the same arm, whatever it is called and wherever it is trained
    assert fusion.loc["sum:AU+EXPR+VA", "P"] == headline.loc["joint+fusion", "P"]


@pytest.mark.nightly
def test_an_arm_does_not_depend_on_other_arms_their_order_or_the_cores(project, tmp_path):
    "Arms of a table run backwards and some alone: the same entries. (One core or two: see below.)"
    whole = project.root / "data" / "runs" / "tiny"
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "seed0" / "tables")
    program = """
import sys
from affnb.engine import ablations, arms
from affnb.engine.runs import start_stage
all_tables = arms.tables_of

def tables_of(config):
    tables = all_tables(config)
    return {
        "fusion": arms.Table(tables["fusion"].arms[:0:-2], ()),
        "temporal": arms.Table(tables["temporal"].arms[::-1], ()),
    }

ablations.tables_of = tables_of
run = start_stage(sys.argv[1])
for table in ("temporal", "fusion"):
    ablations.run_table(run, table, 0)
"""
    subprocess.run(
        [sys.executable, "-c", program, str(copy)],
        cwd=project.root,
        env=project.environment,
        check=True,
    )
    for table in ("fusion", "temporal"):
        before = entries(whole, table)
        after = entries(copy, table)
        assert list(after) != list(before)
        assert after == {arm: before[arm] for arm in after}
    # what it needs, and no more
    output = project.run(
        "reproduce",
        "--profile",
        "tiny",
        "--only",
        "table_fusion",
        "--out",
        str(tmp_path / "alone"),
        "--dry-run",
    )
    jobs = planned(output)
    assert jobs["table"] == 1, output
    assert jobs["separate"] == 3, output
    assert jobs["joint"] == 1, output
    assert not {"search", "focus", "evaluate", "report"} & set(jobs), output


def test_an_unknown_table_is_refused(project):
    process = project.start("reproduce", "--profile", "tiny", "--only", "table_fusoin")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert_one_line(output, "table_fusoin", "`fusion`")


@pytest.mark.nightly
def test_three_kills_change_no_weight(project, tmp_path):
    """SIGKILLs while an autoencoder and two encoders are trained, and while the next try plans:
    weights and predictions are those of the run that nobody disturbed (`make nightly` kills every
    stage).
    """
    words = ["reproduce", "--profile", "tiny", "--set", "checkpoint_seconds=0"]
    storm = Storm(
        [*words, "--only", "table_pretraining"],
        place_with_faces(project, tmp_path / "killed"),
        cwd=project.root,
        environment=project.environment,
        span=2.0,
        seed=6,
    )
    storm.rage(3)
    assert len(storm.kills) == 3, storm.kills
    assert {stage for stage, _ in storm.kills} & {"06_pretrain", "09_joint"}, storm.kills
    (killed,) = storm.out.glob("data/runs/*")
    undisturbed = project.root / "data" / "runs" / "tiny"
    for model in ("mae", "scratch", "joint"):
        for kind in ("model", "features", "predictions"):
            path = f"seed0/{model}/{kind}.safetensors"
            assert (killed / path).read_bytes() == (undisturbed / path).read_bytes(), path
    storm.were_epochs_kept()


def test_a_second_command_on_a_run_at_work_says_so_and_leaves(project, tmp_path):
    words = ("reproduce", "--profile", "tiny", "--out", str(tmp_path))
    first = project.start(*words)
    try:
        limit = time.time() + 60
        while not list(tmp_path.glob("data/runs/*/plan.json")) and time.time() < limit:
            time.sleep(0.1)
        first.send_signal(signal.SIGSTOP)  # it keeps the run, and gets no further
        second = project.start(*words)
        output, _ = second.communicate(timeout=60)
        assert second.returncode == 1, output
        assert_one_line(output, f"process {first.pid} on ", "--out")
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()


def test_a_failing_stage_is_told_in_one_line(project, tmp_path):
    failing = project.start(
        "reproduce",
        "--profile",
        "tiny",
        "--only",
        "table_pretraining",
        "--set",
        "mae_lr=1e30",
        "--cores",
        "1",
        "--out",
        str(place_with_faces(project, tmp_path / "failing")),
    )
    output, _ = failing.communicate(timeout=300)
    lines = [
        line
        for line in output.splitlines()
        if line.startswith("affnb: ") and "synthetic" not in line
    ]
    assert failing.returncode == 1
    assert "Traceback" not in output
    assert_one_line("\n".join(lines), "mae: ", "loss", "step", "rows", ".ipynb")
    assert not (tmp_path / "failing" / "figures").exists()


@pytest.mark.nightly
def test_a_storm_of_kills_changes_nothing(project, tmp_path):
    """A run that is killed again and again, on one core and two in turn, cut off from the network,
    in a folder with a strange name: at least twenty SIGKILLs over the stages, of kernels, rules,
    workers, Snakemake, the command, all at once. The undisturbed run had two cores, the place an
    ordinary name, and a network.
    """
    alone = ["unshare", "--map-root-user", "--net"]
    can_be_cut = shutil.which("unshare") and not subprocess.run([*alone, "true"]).returncode
    storm = Storm(
        ["reproduce", "--profile", "tiny", "--set", "checkpoint_seconds=0"],
        tmp_path / 'it\'s "a trial" $(touch x) é',
        cwd=project.root,
        environment=project.environment,
        span=2.0,
        seed=6,
        before=alone if can_be_cut else [],
    )
    storm.rage(22)  # two hits of each of twelve stages, as far as they reach; some miss
    assert len(storm.kills) >= 20, storm.kills
    assert len({stage for stage, _ in storm.kills}) >= 10, storm.kills
    assert len({kind for _, kind in storm.kills}) >= 5, storm.kills
    different = differences(project.root, storm.out, ("figures/tiny", "data/records/tiny"))
    assert not different
    assert not leftovers(storm.out)
    assert set(storm.cores_of().values()) == {1, 2}, "what ended on one core gave what two gave"
    assert storm.were_epochs_kept()
    assert not (project.root / "x").exists()
    assert can_be_cut or not shutil.which("unshare"), "the network was not cut"


@pytest.mark.nightly
def test_a_new_arm_is_two_lines_and_only_it_is_trained(project):
    "The lines that docs/rerun.md shows: an arm, and its name behind a table's list."
    run = project.root / "data" / "runs" / "tiny"
    arms = project.root / "affnb" / "engine" / "arms.py"

    def kept():
        return {
            path: path.stat().st_mtime_ns
            for path in (run / "seed0" / "tables" / "fusion" / "kept").glob("*.json")
        }

    before = kept()
    models = project.times()
    arm, _, listed = re.search(
        r"```python\n(.*?)```", (project.root / "docs" / "rerun.md").read_text(), re.S
    )[1].splitlines()
    marked = (
        arms.read_text()
        .replace('        "equal": _weighted(', arm + '\n        "equal": _weighted(')
        .replace("    same = []", listed + "\n    same = []")
    )
    assert marked.count('"mine"') == 2
    assert len(marked.splitlines()) == len(arms.read_text().splitlines()) + 2
    arms.write_text(marked)
    output = project.run("reproduce", "--profile", "tiny", "--cores", "2", "--only", "table_fusion")
    assert re.findall(r"\d+ s  (\S+)", output) == ["ablations-fusion-seed0"], output
    assert re.search(r"^\| mine ", output, re.M), output
    after = kept()
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()
    assert project.times() == models
