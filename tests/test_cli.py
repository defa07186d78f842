"""The commands as a user meets them when something is wrong: one line (what, where, what to do),
the exit code of the contract, nothing half-written.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import unquote
from types import SimpleNamespace
import numpy as np
import pandas as pd
import psutil
import pytest
from affnb.engine.cli import (
    lock_run,
    cancel,
    failure_reason,
    find_profile,
    main,
    make_plan,
    pack_data,
    publish,
    read_events,
    reap,
    reset_future_times,
    take_gpus,
    write_changed,
    write_sources,
)
from affnb.engine.core import AffnbError, UsageError, git_state, load_config, write_json
from errors import assert_error, assert_one_line

ROOT = Path(__file__).resolve().parent.parent
HEADER = "image,valence,arousal,expression,aus\n"


@pytest.fixture
def folder(tmp_path):
    "A small s-Aff-Wild2 folder that is in order."
    from PIL import Image

    for video, n in (("a", 3), ("b", 3), ("c", 3), ("d", 2)):
        (tmp_path / "data" / "cropped_aligned" / video).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (16, 16), (40 * i, 90, 60)).save(
                tmp_path / "data" / "cropped_aligned" / video / f"{i:05d}.jpg"
            )

    def row(video, i):
        return f"{video}/{i:05d}.jpg,0.1,0.2,{i}," + ",".join(["0"] * 12) + "\n"

    (tmp_path / "data" / "training_set_annotations.txt").write_text(
        HEADER + "".join(row(v, i) for v in "abc" for i in range(3))
    )
    (tmp_path / "data" / "validation_set_annotations.txt").write_text(
        HEADER + "".join(row("d", i) for i in range(2))
    )
    return tmp_path / "data"


WRONG = [
    (["reproduce", "--profile", "smoek"], 2, ["smoek", "did you mean `smoke`"]),
    (["reproduce", "--set", "epoch=3"], 2, ["`epoch`", "did you mean `epochs`"]),
    (["reproduce", "--set", "epochs=three"], 2, ["epochs", "three", "int"]),
    (["reproduce", "--set", "epochs"], 2, ["epochs", "name=value"]),
    (["reproduce", "--set", "temporal=gruu"], 2, ["temporal", "did you mean `gru`"]),
    (["reproduce", "--set", "dev_share=1.5"], 2, ["dev_share", "less than 1"]),
    (["reproduce", "--set", "stride=99"], 2, ["stride", "window"]),
    (["reproduce", "--set", "encoder=vit_hughe"], 2, ["encoder", "timm"]),
    (["reproduce", "--set", "patch_size=7"], 2, ["patch_size"]),
    (["reproduce", "--set", "mae_start=nowhere.safetensors"], 1, ["mae_start", "no such file"]),
    (["reproduce", "--seeds", "one"], 2, ["seeds", "one"]),
    (["reproduce", "--seeds=-1"], 2, ["seeds", "-1"]),
    (["reproduce", "--set", "weight_AU=nan"], 2, ["weight_AU"]),
    (["reproduce", "--set", "temporal_heads=5"], 2, ["temporal_heads", "5"]),
    (["reproduce", "--set", "mae_decoder_width=0"], 2, ["mae_decoder_width"]),
    (["reproduce", "--set", "profile=foo"], 2, ["profile"]),
    (["reproduce", "--cores", "0"], 2, ["--cores"]),
    (["reproduce", "--cores", "two"], 2, ["--cores", "two"]),
    (["reproduce", "--on", "slrum"], 2, ["--on slrum", "did you mean `slurm`", "local"]),
    (["reproduce", "--on", "/nowhere"], 2, ["/nowhere", "config.yaml"]),
    # what holds everywhere is no place
    (
        ["reproduce", "--on", "default"],
        2,
        ["default", "local"],
    ),
    (["reproduce", "--set", "processes=0"], 2, ["processes"]),
    (["reproduce", "--data", "/nowhere/at/all"], 1, ["/nowhere/at/all"]),
    (["reprodcue"], 2, ["reprodcue", "--help"]),
    (["reproduce", "--profil", "smoke", "--nonsense"], 2, ["--nonsense"]),
    ([], 2, ["--help"]),
    (["check", "/nowhere/at/all"], 1, ["/nowhere/at/all"]),
    (["report", "--profile", "smoek"], 1, ["smoek"]),
    (["luck", "/nowhere", "--profile", "smoek"], 1, ["data/records/smoek", "did you mean `smoke`"]),
    (["luck", "/nowhere"], 1, ["/nowhere", "affnb reproduce"]),
    (["luck", str(ROOT / "docs")], 1, [ROOT / "docs", "no record", "affnb reproduce"]),
    (["reproduce", "--only", "table_fusoin"], 2, ["table_fusoin", "did you mean `fusion`"]),
    (["luck"], 2, ["RECORDS", "--help"]),
    (["score", "/nowhere/a.txt", "/nowhere/b.txt"], 1, ["/nowhere/", "cannot be read"]),
]


@pytest.mark.parametrize(
    "words, code, facts", WRONG, ids=[" ".join(w) or "nothing" for w, _, _ in WRONG]
)
def test_wrong_words_are_met_with_one_line(words, code, facts, capsys, tmp_path):
    out = ["--out", str(tmp_path / "out")] if words[:1] == ["reproduce"] else []
    assert main(words + out) == code
    assert_one_line(capsys.readouterr().err, *facts)
    assert not (tmp_path / "out").exists()  # nothing half-written


def test_own_faces_have_a_profile_of_their_own(folder, tmp_path, capsys):
    "Unless another is named; without them it is smoke."
    data = ["--data", str(folder)]
    for words, profile in (([], "smoke"), (data, "faces"), ([*data, "--profile", "tiny"], "tiny")):
        assert main(["reproduce", *words, "--only", "nothing", "--out", str(tmp_path / "out")]) == 2
        assert f"the profile {profile} has" in capsys.readouterr().err


def test_a_gpu_that_is_asked_for_and_absent_is_refused(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert main(["reproduce", "--set", "device=cuda"]) == 1
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil, facts",
    [
        (lambda f: (f / "training_set_annotations.txt").unlink(), ["training_set_annotations.txt"]),
        (
            lambda f: (f / "training_set_annotations.txt").write_text(""),
            ["training_set_annotations.txt"],
        ),
        (
            lambda f: (f / "validation_set_annotations.txt").write_text(HEADER),
            ["validation_set_annotations.txt"],
        ),
        (
            lambda f: (f / "training_set_annotations.txt").write_text(
                (f / "training_set_annotations.txt")
                .read_text()
                .replace("b/00001.jpg,0.1", "b/00001.jpg,1.1")
            ),
            ["training_set_annotations.txt", "6", "1.1"],
        ),
        (
            lambda f: (f / "training_set_annotations.txt").write_text(
                (f / "training_set_annotations.txt")
                .read_text()
                .replace("c/00002.jpg,0.1,0.2,2,0", "c/00002.jpg,0.1,0.2,2,3")
            ),
            ["training_set_annotations.txt", "10", "3"],
        ),
        (lambda f: __import__("shutil").rmtree(f / "cropped_aligned"), ["cropped_aligned"]),
        (lambda f: [path.write_bytes(b"") for path in f.rglob("*.jpg")], ["decoded"]),
    ],
    ids=[
        "no list",
        "empty list",
        "header only",
        "valence out of range",
        "unit out of range",
        "no images",
        "all undecodable",
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_with_file_and_row(
    folder, spoil, facts, capsys, tmp_path
):
    spoil(folder)
    code = main(
        ["reproduce", "--profile", "tiny", "--data", str(folder), "--out", str(tmp_path / "out")]
    )
    assert code == 1
    assert_one_line(capsys.readouterr().err, *facts)
    assert not list((tmp_path / "out").rglob("labels.parquet"))


@pytest.mark.slow
def test_a_profile_that_cannot_be_used_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    from affnb.engine import cli

    (tmp_path / "config.yaml").write_text("executor: local\ncores: [")
    assert main(["reproduce", "--on", str(tmp_path)]) == 1
    assert_one_line(capsys.readouterr().err, tmp_path / "config.yaml", "YAML")
    (tmp_path / "config.yaml").write_text("colours: 2\ncores: 1\n")
    assert (
        main(
            [
                "reproduce",
                "--profile",
                "tiny",
                "--on",
                str(tmp_path),
                "--out",
                str(tmp_path),
                "--dry-run",
            ]
        )
        == 1
    )
    assert_one_line(capsys.readouterr().err, "--colours", "snakemake.log")
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    with pytest.raises(AffnbError) as error:
        find_profile("slurm")
    assert_error(error, "--on slurm", "slurm", remedy="pip install snakemake-executor-plugin-slurm")


PLUGIN = importlib.util.find_spec("snakemake_executor_plugin_slurm")


@pytest.mark.slow
@pytest.mark.parametrize(
    "on, settings, learns",
    [
        ("local", [], "resources: tmpdir=/tmp, gpu=0"),
        pytest.param("local", ["threads=2"], "threads: 2", marks=pytest.mark.nightly),
        ("gpus", ["processes=2"], "threads: 2"),
        pytest.param(
            "slurm",
            ["threads=2", "processes=3", "device=cuda"],
            "threads: 6",
            marks=pytest.mark.skipif(
                not PLUGIN, reason="Snakemake's plugin for Slurm is not installed"
            ),
        ),
    ],
    ids=lambda value: str(value),
)
def test_each_profile_is_one_that_snakemake_takes(
    on, settings, learns, tmp_path, monkeypatch, capsys
):
    """A dry run, whose log shows what each rule asks for; the threads of a rule that learns do not
    depend on how many cores there are.
    """
    monkeypatch.setenv("TMPDIR", "/tmp")
    run = Path(
        make_plan(load_config("tiny", settings), out=tmp_path, elsewhere=on == "slurm")["run"]
    )
    run.mkdir(parents=True)  # a folder that is there already stays, with the log
    assert (
        main(
            [
                "reproduce",
                "--profile",
                "tiny",
                "--on",
                on,
                "--out",
                str(tmp_path),
                "--dry-run",
                *(word for setting in settings for word in ("--set", setting)),
            ]
        )
        == 0
    ), capsys.readouterr().err
    rules = dict(
        re.findall(r"^rule (\w+):\n((?: .*\n)+)", (run / "snakemake.log").read_text(), re.M)
    )
    for rule in ("pretrain", "separate", "joint"):
        assert learns in rules[rule], rules[rule]
    assert "gpu" not in rules["report"]
    assert ("threads" in rules["evaluate"]) == ("threads=2" in settings)
    if on == "slurm":
        assert "gpu=3" in rules["separate"]
        assert "gpu=1" in rules["evaluate"]
        assert "runtime=1440" in rules["joint"]
        assert "mem_mb=8000" in rules["report"]
        assert "threads: 8" in rules["pack"]
    else:
        assert (
            f"threads: {len(os.sched_getaffinity(0))}" in rules["pack"]
            or len(os.sched_getaffinity(0)) == 1
        )


def test_profiles_say_how_many_gpus_rules_may_hold_at_a_time(monkeypatch):
    import torch
    from snakemake.profiles import ProfileConfigFileParser

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    profiles = {}
    for name in ("local", "gpus", "slurm"):
        with open(ROOT / "profiles" / name / "config.yaml") as file:
            profiles[name] = ProfileConfigFileParser().parse(file)
    # Slurm counts its own
    assert profiles["local"]["resources"] == ["gpu=1", "share=4"]
    assert profiles["gpus"]["resources"] == ["gpu=4", "share=16"]
    assert "resources" not in profiles["slurm"]


def test_gpus_are_planned_where_they_are(monkeypatch):
    """Of this machine those that torch finds; of others, of which nothing is known here, those that
    the settings ask for.
    """
    import torch

    def here(*words):
        return make_plan(load_config("tiny", words))["gpus"]

    def there(*words):
        return make_plan(load_config("tiny", words), elsewhere=True)["gpus"]

    # a driver is installed
    monkeypatch.setattr("affnb.engine.cli.ctypes", SimpleNamespace(CDLL=lambda name: None))
    for gpus in (0, 2):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        assert here("device=cpu") == there("device=cpu") == there() == 0
        assert there("device=cuda") == 1
        assert there("device=cuda", "processes=4") == 4
        assert here() == min(1, gpus)
        assert here("device=cpu", "processes=4") == 0
    assert here("processes=2") == here("processes=2", "device=cuda") == 2
    with pytest.raises(UsageError) as error:
        here("processes=3")
    assert_error(error, "setting `processes` = 3", "2 GPU")


def test_without_a_driver_torch_is_not_asked_for_a_gpu():
    program = (
        "import sys; from affnb.engine import cli;"
        " cli.ctypes.CDLL = lambda name: open('/no driver');"
        " print(cli.finds_gpu(), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"


def hold(code, **variables):
    "A process that runs this code, says that it has, and stays."
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print('held', flush=True); import time; time.sleep(60)"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.slow
def test_a_gpu_is_given_to_one_rule_at_a_time_and_freed_by_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5/0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    holders = [
        hold("from affnb.engine.cli import take_gpus; taken = take_gpus(1)", TMPDIR=str(tmp_path))
        for _ in range(2)
    ]
    third = subprocess.Popen(
        [sys.executable, "-c", "from affnb.engine.cli import take_gpus; print(*take_gpus(1))"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            third.wait(3)  # it waits: both are taken
        # a small rule does not wait
        assert set(take_gpus(1, shared=True)) <= {"3", "GPU-5/0"}
        assert take_gpus(0, shared=True) == {}
        holders[1].kill()
        assert third.communicate(timeout=20)[0] == "GPU-5/0\n"
        holders[0].kill()
        holders[0].wait()
        both = take_gpus(2)
        assert list(both) == ["3", "GPU-5/0"]
        for lock in both.values():
            lock.release()
        with pytest.raises(AffnbError) as error:
            take_gpus(3)
        assert re.findall(r"\d", error.value.where) == ["3", "2"]  # asked for, and seen
    finally:
        for process in (*holders, third):
            process.kill()
            process.wait()


def test_one_command_at_a_time_works_on_a_run(tmp_path, capsys):
    run = Path(make_plan(load_config("tiny"), out=tmp_path)["run"])
    other = hold(
        f"from affnb.engine.cli import lock_run; lock = lock_run({str(run)!r}); lock.__enter__()"
    )
    try:
        assert main(["reproduce", "--profile", "tiny", "--out", str(tmp_path), "--dry-run"]) == 1
        assert f"process {other.pid} on " in capsys.readouterr().err
        assert not (run / "plan.json").exists()
    finally:
        other.kill()
        other.wait()
    with lock_run(run):
        pass


@pytest.mark.slow
def test_runs_with_other_settings_publish_one_after_the_other(tmp_path):
    """While another process publishes to a place, this one waits; then all that is there is of one
    run.
    """
    one, two = (make_plan(load_config("tiny", [f"epochs={n}"]), out=tmp_path) for n in (1, 2))
    assert one["run"] != two["run"]
    assert one["publish"] == two["publish"]
    names = dict(records="arm-{}-seed0.json", figures="table_{}.csv", model="{}")
    for n, plan in enumerate((one, two), 1):
        for kind, name in names.items():
            (Path(plan["run"]) / kind).mkdir(parents=True)
            for what in ("of" + str(n), "both") if kind != "model" else ("config.json",):
                (Path(plan["run"]) / kind / name.format(what)).write_text(str(n))

    def there():
        return [
            (path.name, path.read_text())
            for folder in one["publish"]
            for path in sorted(Path(folder).iterdir())
        ]

    publish(one)
    before = there()
    other = hold(
        "from pathlib import Path; from affnb.engine.data import lock_folder;"
        f" lock = lock_folder(Path({str(Path(two['run']).parent)!r})/'.publishing')"
    )
    waiting = threading.Thread(target=publish, args=(two,))
    try:
        waiting.start()
        waiting.join(1)
        assert waiting.is_alive()
        assert (
            there()
            == before
            == [
                ("arm-both-seed0.json", "1"),
                ("arm-of1-seed0.json", "1"),
                ("table_both.csv", "1"),
                ("table_of1.csv", "1"),
                ("config.json", "1"),
            ]
        )
    finally:
        other.kill()
        other.wait()
        waiting.join(20)
    assert there() == [
        ("arm-both-seed0.json", "2"),
        ("arm-of2-seed0.json", "2"),
        ("table_both.csv", "2"),
        ("table_of2.csv", "2"),
        ("config.json", "2"),
    ]


@pytest.fixture
def published(tmp_path, monkeypatch):
    "A project whose smoke records are of seed 0, and a run of the seeds 1 to 3 beside it."
    from affnb.engine import cli
    from test_report import ARMS, make

    monkeypatch.setattr(cli, "project_root", lambda: tmp_path)
    make(tmp_path / "data" / "records" / "smoke", ARMS, (0,), extras=False)
    return (
        make(tmp_path / "run", ARMS, (1, 2, 3), extras=False),
        tmp_path / "data" / "records" / "smoke",
    )


def test_the_luck_of_training_is_measured_and_kept_with_the_published_records(published, capsys):
    from affnb.engine.report import half_width

    run, kept = published
    assert main(["luck", str(run)]) == 0
    luck = json.loads((kept / "luck.json").read_text())
    output = capsys.readouterr().out
    assert luck["seeds"] == [1, 2, 3]
    assert luck["scores"]["AU"]["df"] == 12
    assert {"commit", "versions", "device", "date", "machine"} < set(luck)
    assert f"a rerun may lie {half_width(luck, 'P', 1, 1):.4f} away" in output
    assert output.splitlines()[-1] == f"kept in {kept / 'luck.json'}"


@pytest.mark.parametrize(
    "fields, facts",
    [
        (dict(data=dict(hash="def")), ["hash def", "abc"]),
        (dict(config=dict(lr=0.5)), ["lr = 0.5", "None"]),
        ({}, ["2", "3 or more"]),
    ],
    ids=["data", "settings", "seeds"],
)
def test_the_luck_of_another_run_is_refused_in_one_line(published, fields, facts, capsys):
    from test_report import changed

    run, kept = published
    changed(run, **fields)
    if not fields:
        for path in run.glob("*-seed3.json"):
            path.unlink()
    assert main(["luck", str(run)]) == 1
    assert not (kept / "luck.json").exists()
    assert_one_line(capsys.readouterr().err, run, *facts)


def test_publishing_keeps_the_luck_while_it_is_true(tmp_path):
    "Of three seeds it is measured; of one, kept for the same data and training, else removed."
    from test_report import ARMS, changed, make

    plan = make_plan(load_config("tiny"), out=tmp_path)
    run = Path(plan["run"]) / "records"
    luck = Path(plan["publish"][0]) / "luck.json"
    for kind in ("figures", "model"):
        (Path(plan["run"]) / kind).mkdir(parents=True)
    make(run, ARMS, (0, 1, 2), extras=False)
    assert publish(plan) == ""
    assert json.loads(luck.read_text())["seeds"] == [0, 1, 2]
    for path in run.glob("*-seed[12].json"):
        path.unlink()
    measured = luck.read_bytes()
    assert publish(plan) == ""
    assert luck.read_bytes() == measured
    assert len(list(luck.parent.glob("arm-*"))) == len(ARMS)
    changed(run, config=dict(lr=0.5))
    reason = publish(plan)
    assert str(luck) in reason
    assert "lr = None, not 0.5" in reason
    assert not luck.exists()


def test_a_run_is_compared_with_what_is_committed(tmp_path):
    "By the committed luck, unless the data are other ones; without it, by the intervals."
    from affnb.engine.cli import reproduced
    from affnb.engine.report import measure_luck, write_report
    from affnb.engine.tables import read_records
    from test_report import ARMS, BANDS, make

    run = make(tmp_path / "records", ARMS, (0,), extras=False)
    write_report(run, tmp_path / "figures")
    headline = (tmp_path / "figures" / "table_headline.csv").read_text()
    luck = measure_luck(read_records(make(tmp_path / "several", ARMS, (1, 2, 3), extras=False)))

    def verdict(text):
        return reproduced(dict(run=str(tmp_path)), headline, text)

    by_luck = verdict(json.dumps(luck))
    assert f"36 of 36 {BANDS}" in by_luck
    assert by_luck.endswith(": reproduced")
    assert BANDS not in verdict(json.dumps(luck | dict(data=dict(hash="def"))))
    assert "intervals over people" in verdict(None)
    with pytest.raises(AffnbError) as error:
        verdict("{}")
    assert_error(error, "the committed luck.json")


@pytest.mark.parametrize(
    "settings,compared",
    [
        ([], True),
        (["threads=2", "device=cpu"], True),
        (["seeds=7,8"], True),  # other roundings, other luck
        (["lr=0.5"], False),
        (["bench_seed=3"], False),
    ],
)  # another training, other data
def test_the_same_training_is_compared_on_any_machine(settings, compared, tmp_path):
    from affnb.engine.cli import committed

    plan = make_plan(load_config("smoke", settings), out=tmp_path)
    assert bool(committed(plan, "figures/{}/table_headline.csv")) == compared
    assert not committed(plan | dict(benchmark=False), "figures/{}/table_headline.csv")


def test_what_lies_beside_published_files_is_left_alone(tmp_path):
    """What an earlier run has left goes; notes, folders and pictures of one's own stay. A table
    alone publishes nothing.
    """
    plan = make_plan(load_config("tiny"), out=tmp_path)
    assert make_plan(load_config("tiny"), out=tmp_path, only="table_pretraining")["publish"] is None
    for kind, name in (
        ("records", "arm-joint-seed0.json"),
        ("figures", "table_headline.csv"),
        ("model", "config.json"),
    ):
        (Path(plan["run"]) / kind).mkdir(parents=True)
        (Path(plan["run"]) / kind / name).write_text("{}")
    for target, old in zip(
        plan["publish"], ("arm-joint-seed7.json", "fig_old.png", "model.safetensors")
    ):
        (Path(target) / "for-my-paper").mkdir(parents=True)
        for name in ("notes.txt", "for-my-paper/fig_1.png", "figure.png", "table.csv", old):
            (Path(target) / name).write_text("mine")
        publish(plan)
        assert not (Path(target) / old).exists()
        assert sorted(
            path.name
            for path in Path(target).rglob("*")
            if path.is_file() and path.read_text() == "mine"
        ) == ["fig_1.png", "figure.png", "notes.txt", "table.csv"]


def test_published_tables_link_to_published_records(tmp_path):
    from affnb.engine.report import write_report
    from test_report import ARMS, make

    plan = make_plan(load_config("tiny"), out=tmp_path)
    run = Path(plan["run"])
    write_report(make(run / "records", ARMS, (0,), extras=False), run / "figures")
    (run / "model").mkdir()
    publish(plan)
    for figures in (run / "figures", tmp_path / "figures/tiny"):
        last = (figures / "table_headline.md").read_text().splitlines()[-1]
        first = last.partition("](")[2].partition(")")[0]
        assert (figures / unquote(first)).is_file(), first
    before = (tmp_path / "figures/tiny/table_headline.md").stat().st_mtime_ns
    publish(plan)
    assert (tmp_path / "figures/tiny/table_headline.md").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "only,pairs", [("mine", "table_mine_pairs"), ("headline", "table_comparisons")]
)
def test_a_table_alone_is_printed_with_its_differences(only, pairs, tmp_path):
    from affnb.engine.cli import _finish
    from affnb.engine.tables import write_toy_table
    from test_report import ARMS, make

    if only == "headline":
        make(tmp_path / "records", ARMS, (0,), extras=False)
    else:
        (tmp_path / "records").mkdir()
        write_toy_table(tmp_path / "records", only, dict(a=1.0, b=0.8), [["b", "a"]])
    said = _finish(dict(run=str(tmp_path), only=only, publish=None))
    table = (tmp_path / f"figures/table_{only}.md").read_text()
    differences = (tmp_path / f"figures/{pairs}.md").read_text().split("\n\n")[0]
    assert said.startswith(table)
    assert f"\nDifferences ({pairs}.md says how to read them):\n\n{differences}\n" in said
    assert said.index(differences) < said.index("tables and figures: ")


def test_a_table_without_pairs_is_printed_alone(tmp_path):
    from affnb.engine.cli import _finish
    from affnb.engine.tables import write_toy_table

    (tmp_path / "records").mkdir()
    write_toy_table(tmp_path / "records", "mine", dict(a=1.0, b=0.8), [])
    said = _finish(dict(run=str(tmp_path), only="mine", publish=None))
    assert "Differences" not in said


def test_a_table_alone_is_printed_with_its_warnings(tmp_path):
    from affnb.engine.cli import _finish
    from affnb.engine.tables import write_toy_table

    (tmp_path / "records").mkdir()
    write_toy_table(tmp_path / "records", "mine", dict(good=0.5, blind=50.0), [])
    write_toy_table(tmp_path / "records", "other", dict(blind=50.0), [])
    said = _finish(dict(run=str(tmp_path), only="mine", publish=None))
    file = tmp_path / "figures/table_mine_warnings.csv"
    lines = [line for line in said.splitlines() if line.startswith("WARNING: ")]
    assert 1 <= len(lines) <= 9
    assert "WARNING: AU: not above a constant answer: in 1 arm (blind)" in lines
    assert said.index("WARNING") < said.index(f" in all: {file}") < said.index("tables and fig")
    table = pd.read_csv(file)
    assert set(table["where"]) == {"mine"}
    assert set(table["arm"]) == {"blind"}


def test_a_table_without_warnings_says_nothing_of_them(tmp_path):
    from affnb.engine.cli import _finish
    from affnb.engine.tables import write_toy_table

    (tmp_path / "records").mkdir()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/table_mine_warnings.csv").write_text("of an earlier run")
    write_toy_table(tmp_path / "records", "mine", dict(good=0.5), [])
    said = _finish(dict(run=str(tmp_path), only="mine", publish=None))
    assert "WARNING" not in said and " in all: " not in said
    assert not list((tmp_path / "figures").glob("*warnings*"))


def test_pictures_that_took_the_places_of_others_are_read(folder, tmp_path, monkeypatch):
    "Of the same size, and newer: the plan's hash is another, and so is the packed data's."
    from PIL import Image
    from affnb.engine import cli
    from affnb.engine.data import open_packed, pack

    for path in folder.rglob("*.jpg"):
        Image.new("RGB", (16, 16), (10, 200, 30)).save(path, "BMP")
    seen = []
    monkeypatch.setattr(
        cli,
        "run_chain",
        lambda plan, *_: (
            seen.append(plan["source"])
            or pack(plan["folder"], plan["packed"], 16)
            or seen.append(open_packed(plan["packed"]).manifest["content"])
        ),
    )
    for colour in ((10, 200, 30), (200, 10, 30)):
        for path in folder.rglob("*.jpg"):
            if colour[0] == 200:
                Image.new("RGB", (16, 16), colour).save(path, "BMP")
        assert (
            main(
                [
                    "reproduce",
                    "--profile",
                    "tiny",
                    "--data",
                    str(folder),
                    "--out",
                    str(tmp_path / "out"),
                    "--dry-run",
                ]
            )
            == 0
        )
    assert len(set(seen)) == 4, seen


def test_a_clock_that_was_ahead_does_not_hide_a_change(folder, tmp_path):
    plan = make_plan(load_config("tiny"), folder, tmp_path / "out", "one")
    write_sources(plan)
    ahead = time.time() + 7200
    (Path(plan["run"]) / "records").mkdir()
    Path(plan["packed"]).mkdir(parents=True)
    results = [Path(plan["run"]) / "records" / "data.json", Path(plan["packed"]) / "manifest.json"]
    for path in results:
        path.touch()
        os.utime(path, (ahead, ahead))
    reset_future_times(plan)
    changed = write_sources(plan | dict(source="two"))
    assert "settings" in changed
    assert all(
        path.stat().st_mtime < Path(f"{plan['packed']}.txt").stat().st_mtime for path in results
    )


@pytest.mark.parametrize(
    "words",
    [
        ["reproduce", "--out", ""],
        ["reproduce", "--data", ""],
        ["check", ""],
        ["predict", "x", "y", "-o", ""],
        ["predict", "x", ""],
        ["bench", "--out", ""],
    ],
)
def test_an_empty_word_is_no_folder(words, capsys):
    assert main(words) == 2
    assert_one_line(capsys.readouterr().err, "empty")


def test_an_encoder_that_there_is_not_is_refused_before_the_chain(capsys):
    assert main(["reproduce", "--profile", "tiny", "--set", "encoder_of=jiont", "--dry-run"]) == 2
    assert "did you mean `joint`" in capsys.readouterr().err
    assert main(["run-notebook", "x.ipynb", "y.ipynb", "foo"]) == 2
    assert_one_line(capsys.readouterr().err, "foo", "name=value")


@pytest.mark.nightly
def test_who_is_asked_to_end_clears_away_what_is_half_done(tmp_path):
    words = ["benchmark", str(tmp_path / "faces"), "--size", "112", "--videos", "60"]
    process = subprocess.Popen(
        [sys.executable, "-m", "affnb.engine.cli", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.time() + 120
    while not list(tmp_path.rglob("*.jpg")) and time.time() < limit:
        time.sleep(0.1)
    process.terminate()
    assert process.wait(30) == 1
    assert_one_line(process.stderr.read(), "SIGTERM")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_reader_who_has_gone_is_one_line(folder):
    done = subprocess.run(
        f"{sys.executable} -m affnb.engine.cli check {folder} | true",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert_one_line(done.stderr, "closed pipe")


def test_what_cannot_be_scored_is_said(folder, capsys):
    path = folder / "validation_set_annotations.txt"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(
            [
                lines[0],
                *(f"{line.split(',')[0]},-5,-5,-1," + ",".join(["-1"] * 12) for line in lines[1:]),
            ]
        )
        + "\n"
    )
    assert main(["check", str(folder)]) == 0
    output = capsys.readouterr().out
    assert re.search("validation: .*label", output)
    assert output.strip().splitlines()[-1].count("1 to mend") == 1


def test_a_truth_that_contradicts_itself_is_said(folder, tmp_path, capsys):
    truth = folder / "training_set_annotations.txt"
    predictions = tmp_path / "predictions.txt"
    predictions.write_text(truth.read_text())
    truth.write_text(
        truth.read_text() + truth.read_text().splitlines()[1].replace("0.1", "0.9") + "\n"
    )
    assert main(["score", str(predictions), str(truth)]) == 0
    assert f"WARNING: {truth}: 1 " in capsys.readouterr().err


def test_a_record_names_its_commit_and_whether_files_differ(tmp_path):
    def git(*words):
        return subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e", *words],
            cwd=tmp_path / "code",
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("1")
    assert git_state(tmp_path / "code") == dict(commit=None, dirty=None)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    assert git_state(tmp_path / "code") == dict(commit=git("rev-parse", "HEAD"), dirty=False)
    (tmp_path / "code" / "a.py").write_text("2")
    assert git_state(tmp_path / "code")["dirty"] is True


def test_slurm_jobs_of_a_killed_command_are_cancelled(tmp_path, monkeypatch):
    "With a Slurm of two small scripts: jobs in this run's folder go, others stay."
    jobs = tmp_path / "jobs"
    jobs.write_text(f"7 {tmp_path}/run\n8 {tmp_path}/run2\n9 {tmp_path}/run\n")
    for name, words in dict(
        squeue=f"cat {jobs}", scancel=f'for job in "$@"; do sed -i "/^$job /d" {jobs}; done'
    ).items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{words}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert cancel(tmp_path / "run") == 2
    assert jobs.read_text() == f"8 {tmp_path}/run2\n"
    assert cancel(tmp_path / "run") == 0


def test_a_place_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert main(["reproduce", "--profile", "tiny", "--out", str(tmp_path / "file")]) == 1
    assert_one_line(capsys.readouterr().err, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize(
    "module,renders",
    [
        *((name, True) for name in ("painting", "faces", "statistics", "paths", "benchmark")),
        *((name, True) for name in ("rendering", "core")),
        *((name, False) for name in ("report", "model")),
    ],
)
def test_what_is_rendered_is_named_by_the_code_that_draws_it(monkeypatch, module, renders):
    "Edit a module: a new folder for faces where it draws them, the old one where it does not."
    from affnb.engine import cli

    config = load_config("tiny")
    before = make_plan(config)
    real = cli.file_hash
    monkeypatch.setattr(
        cli, "file_hash", lambda path: "edited" if Path(path).stem == module else real(path)
    )
    assert (
        (make_plan(config)["folder"] != before["folder"])
        == renders
        == (make_plan(config)["packed"] != before["packed"])
    )


@pytest.mark.nightly
def test_a_changed_folder_is_packed_again_in_the_same_place_and_only_what_changed(folder, tmp_path):
    """Snakemake has `pack` run when the folder's hash is new, leaves what is there for it, and has
    the stages run after it.
    """
    from affnb.engine.data import check_folder, open_packed, source_hash
    from PIL import Image

    def planned():
        plan = make_plan(
            load_config("tiny"),
            folder,
            tmp_path / "out",
            source_hash(folder, check_folder(folder)[0]),
        )
        write_json(Path(plan["run"]) / "plan.json", plan)
        return plan, write_sources(plan)

    def snakemake(*words):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "snakemake",
                *words,
                "--snakefile",
                str(ROOT / "Snakefile"),
                "--profile",
                str(ROOT / "profiles" / "local"),
                "--config",
                f"run={plan['run']}",
            ],
            cwd=plan["run"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    plan, _ = planned()
    snakemake("pack")
    before = open_packed(plan["packed"])
    assert not planned()[1]
    assert "Nothing to be done" in snakemake("pack", "--dry-run")
    same, new = (folder / "cropped_aligned" / name for name in ("a/00000.jpg", "b/00001.jpg"))
    times = os.stat(same)
    length = same.stat().st_size
    # would fail if it were decoded again
    same.write_bytes(b"?" * length)
    os.utime(same, ns=(times.st_atime_ns, times.st_mtime_ns))
    Image.new("RGB", (40, 40), (250, 0, 0)).save(new)
    again, changed = planned()
    assert again["packed"] == plan["packed"]
    assert again["run"] == plan["run"]
    assert changed == ["settings"]
    snakemake("pack")
    after = open_packed(plan["packed"])
    row = after.table.set_index("image").row
    assert after.manifest["source"] == again["source"] != before.manifest["source"]
    assert not after.manifest["undecodable"]
    assert [
        image
        for image in row.index
        if not np.array_equal(
            after.frames[row[image]], before.frames[before.table.set_index("image").row[image]]
        )
    ] == ["b/00001.jpg"]
    assert "Nothing to be done" in snakemake("pack", "--dry-run")


def test_a_new_trial_does_not_find_shared_packed_data_old(folder, tmp_path):
    """Its own sources are newer than the packed frames of another run, which it takes as they are;
    and packing twice sets nothing off.
    """
    first, trial = (
        make_plan(load_config("tiny", words), folder, tmp_path / "out", "a hash")
        for words in ([], ["epochs=3"])
    )
    for plan in (first, trial):
        write_json(Path(plan["run"]) / "plan.json", plan)
    write_sources(first)
    pack_data(first["run"])
    manifest = Path(first["packed"]) / "manifest.json"
    written = Path(f"{first['packed']}.txt")
    times = manifest.stat().st_mtime_ns
    write_sources(trial)
    assert first["packed"] == trial["packed"]
    assert written.stat().st_mtime_ns <= times == manifest.stat().st_mtime_ns
    # nothing left to do, and yet newer than the hash
    write_sources(trial | dict(source="another hash"))
    pack_data(trial["run"])
    assert times < written.stat().st_mtime_ns <= manifest.stat().st_mtime_ns


def test_check_refuses_what_the_chain_would(folder, capsys):
    for path in (folder / "cropped_aligned" / "d").glob("*.jpg"):
        path.write_bytes(b"")
    assert main(["check", str(folder)]) == 1
    printed = capsys.readouterr()
    assert "d/00000.jpg" in printed.out
    assert_one_line(printed.err, folder, "d/00000.jpg")


def test_a_trial_shares_data_and_leaves_the_finished_run_alone(tmp_path):
    plain, trial = (
        make_plan(load_config("tiny", words), out=tmp_path) for words in ([], ["epochs=3"])
    )
    assert plain["packed"] == trial["packed"]
    assert plain["folder"] == trial["folder"]
    assert plain["run"] != trial["run"]
    assert (
        make_plan(load_config("tiny", ["bench_seed=1"]), out=tmp_path)["packed"] != plain["packed"]
    )
    # `--out .` is no way around
    assert make_plan(load_config("tiny", ["epochs=3"]), out=ROOT)["publish"] is None


def test_check_counts_what_is_there(folder, capsys):
    (folder / "training_set_annotations.txt").write_text(
        (folder / "training_set_annotations.txt").read_text()
        + "a/00000.jpg,0.1,0.2,0,"
        + ",".join(["0"] * 12)
        + "\nz/1.jpg,0,0,-1,"
        + ",".join(["-1"] * 12)
        + "\n"
    )
    assert main(["check", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "train" in printed
    assert "z/1.jpg" in printed
    assert "duplicates" in printed
    last = printed.splitlines()[-1]
    assert last.startswith(f"{folder}: can be used: ")
    assert re.findall(r"\d+", last.removeprefix(str(folder))) == ["9", "2", "1"]


@pytest.mark.slow
def test_a_dry_run_leaves_nothing_behind_and_says_what_would_be_done(tmp_path, capsys):
    assert (
        main(
            [
                "reproduce",
                "--profile",
                "tiny",
                "--out",
                str(tmp_path / "new" / "place"),
                "--dry-run",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out.splitlines()
    assert list(tmp_path.iterdir()) == []
    assert re.fullmatch(
        r"separate +3  .*EXPR-seed0.*",
        next(line for line in printed if line.startswith("separate")),
    )
    assert re.fullmatch(r"in all +\d+", printed[-1])


def test_score_json_has_the_keys_of_the_contract(folder, capsys):
    truth = folder / "validation_set_annotations.txt"
    assert main(["score", str(truth), str(truth), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert list(scores) == [
        "P",
        "VA",
        "CCC_valence",
        "CCC_arousal",
        "EXPR",
        "EXPR_per_class",
        "AU",
        "AU_per_unit",
    ]
    # two classes occur, absent ones count 0
    assert scores["EXPR"] == pytest.approx(2 / 8)
    assert len(scores["AU_per_unit"]) == 12


def test_commands_run_as_a_program():
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "affnb.engine.cli", *words], capture_output=True, text=True
        )

    wrong = run("reproduce", "--profile", "nothing")
    helped = run("--help")
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert not wrong.stdout
    assert helped.returncode == 0
    assert all(
        name in helped.stdout for name in ("reproduce", "benchmark", "check", "score", "report")
    )


def test_debug_shows_the_traceback():
    with pytest.raises(AffnbError):
        main(["--debug", "check", "/nowhere/at/all"])


def test_a_run_of_other_settings_or_data_gets_another_folder(tmp_path, folder):
    plain = make_plan(load_config("tiny"), out=tmp_path)
    changed = make_plan(load_config("tiny", ["lr=0.5"]), out=tmp_path)
    real = make_plan(load_config("tiny"), folder, tmp_path)
    assert len({plan["run"] for plan in (plain, changed, real)}) == 3
    # a trial never touches what is committed
    assert make_plan(load_config("tiny", ["lr=0.5"]))["publish"] is None
    assert make_plan(load_config("tiny"), folder)["publish"] is None


def test_sources_change_with_what_a_notebook_says_only(tmp_path):
    plan = make_plan(load_config("tiny"), out=tmp_path)
    assert len(write_sources(plan)) > 15
    assert write_sources(plan) == []
    assert write_changed(tmp_path / "a.txt", "x")
    assert not write_changed(tmp_path / "a.txt", "x")
    assert write_changed(tmp_path / "a.txt", "y")


def test_processes_of_an_earlier_try_are_ended(tmp_path):
    "Grandchildren whose parents are gone too, as torchrun's workers are after a kill; nobody else."
    job = str(tmp_path / "log.ipynb")
    code = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time;"
        " time.sleep(60)'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid, flush=True)"
    )
    launcher = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AFFNB_JOB": job},
        capture_output=True,
        text=True,
    )
    left = psutil.Process(int(launcher.stdout))
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, "AFFNB_JOB": "another"},
    )
    try:
        assert left.is_running()
        assert reap(job) == 1
        assert not psutil.pid_exists(left.pid)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


EVENTS = [
    dict(event="error", msg="RuleException:\nCommand 'x' died"),
    dict(event="job_error", rule_name="joint", rule_msg=None),
]


@pytest.mark.parametrize(
    "lines, events, log, facts",
    [
        ("  12 s  render\naffnb: the loss is nan\naffnb: another", EVENTS, "", ["the loss is nan"]),
        ("  12 s  render\n", EVENTS, "", ["rule joint: "]),
        ("", EVENTS[:1], "", ["RuleException:", "Command 'x' died"]),
        ("", [], "usage:\nsnakemake: error: --colours\n", ["snakemake: error: --colours"]),
        ("", [dict(event="run_info", stats={})], "resources: tmpdir=/tmp", ["Snakemake ended"]),
        ("", [], "", ["Snakemake ended"]),
    ],
    ids=["a rule", "a killed rule", "Snakemake", "its words", "Snakemake killed", "nobody"],
)
def test_a_chain_fails_with_the_first_reason_that_somebody_gave(lines, events, log, facts):
    reason = failure_reason(lines, events, log)
    assert "\n" not in reason
    assert "another" not in reason
    for fact in facts:
        assert fact in reason


@pytest.mark.slow
def test_snakemake_reports_its_jobs_and_what_failed(tmp_path):
    "The real one, with two rules, one of which is killed: first as a dry run, then in earnest."
    (tmp_path / "Snakefile").write_text(
        'rule all:\n    input: "a-1.txt"\n'
        'rule b:\n    output: "b-{seed}.txt"\n    shell: "touch {output}"\n'
        'rule a:\n    input: "b-{seed}.txt"\n    output: "a-{seed}.txt"\n    shell: "kill -9 $$"\n'
    )
    program = "from affnb.engine.cli import run_snakemake; run_snakemake()"

    def events(*words):
        (tmp_path / "events.jsonl").write_text("")
        done = subprocess.run(
            [sys.executable, "-c", program, "--cores", "1", *words],
            cwd=tmp_path,
            capture_output=True,
        )
        return done.returncode, read_events(tmp_path / "events.jsonl")

    code, planned = events("--dry-run")
    assert code == 0
    assert planned[0]["stats"] == dict(a=1, b=1, all=1, total=3)
    jobs = [(e["rule_name"], e["wildcards"]) for e in planned if e["event"] == "job_info"]
    assert jobs == [("b", dict(seed="1")), ("a", dict(seed="1")), ("all", {})]
    code, done = events()
    assert code == 1
    assert "rule a" in failure_reason("", done, "")
    assert events("b-1.txt") == (0, [])  # nothing to do


def test_records_that_the_settings_no_longer_name_are_removed(tmp_path):
    from affnb.engine.cli import _drop_stale

    records = Path(make_plan(load_config("tiny"), out=tmp_path)["run"]) / "records"
    records.mkdir(parents=True)
    kept = {"table-fusion-seed0.json", "train-AU-seed2.json", "mae-seed0.npz", "data.json"}
    kept |= {"arm-joint-seed0.json", "train-joint+fusion-seed0.json", "search-P-seed0.json"}
    stale = {"table-fusion-seed1.json", "table-crossfit-seed0.json", "arm-joint-seed2.json"}
    stale |= {"search-AU-seed0.json"}
    for name in kept | stale:
        (records / name).touch()
    _drop_stale(make_plan(load_config("tiny"), out=tmp_path))
    assert {path.name for path in records.iterdir()} == kept


def test_a_dry_run_leaves_plan_and_hashes_as_they_were(tmp_path):
    from affnb.engine.cli import _put_back

    plan = make_plan(load_config("tiny"), out=tmp_path)
    path = Path(plan["run"]) / "plan.json"
    write_changed(path, "old")
    before = path.stat().st_mtime_ns
    with _put_back(plan, []):
        write_changed(path, "new")
    assert path.read_text() == "old"
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("profile", ["tiny", "smoke", "laptop", "full", "paper", "faces"])
def test_what_shapes_a_model_is_known_without_making_one(profile):
    "A setting that `_SHAPE` left out could ask for a model that cannot be, and be found out late."
    import torch
    from affnb.engine.cli import _SHAPE
    from affnb.model import build_encoder, make_autoencoder, make_model

    read = set()

    class Watched:
        config = load_config(profile)

        def __getattr__(self, name):
            read.add(name)
            return getattr(Watched.config, name)

    watched = Watched()
    with torch.device("meta"):
        encoder = build_encoder(watched)
        make_autoencoder(watched, encoder)
        make_model(watched, encoder=encoder.embed_dim, fusion=True, temporal=True)
    assert "encoder" in read
    assert read <= set(_SHAPE)
