"""The commands as a user meets them when something is wrong: one line (what, where, what to do), the exit code of the contract, nothing half-written."""
import json, subprocess, sys
from pathlib import Path
import pytest
from affnb.cli import main, make_plan, reap, write_changed, write_sources
from affnb.core import AffnbError, load_config

ROOT = Path(__file__).resolve().parent.parent
HEADER = "image,valence,arousal,expression,aus\n"


@pytest.fixture
def folder(tmp_path):
    "A small s-Aff-Wild2 folder that is in order."
    from PIL import Image
    for video, n in (("a", 3), ("b", 3), ("c", 3), ("d", 2)):
        (tmp_path/"data"/"cropped_aligned"/video).mkdir(parents=True)
        for i in range(n): Image.new("RGB", (16, 16), (40 * i, 90, 60)).save(tmp_path/"data"/"cropped_aligned"/video/f"{i:05d}.jpg")
    row = lambda video, i: f"{video}/{i:05d}.jpg,0.1,0.2,{i}," + ",".join(["0"] * 12) + "\n"
    (tmp_path/"data"/"training_set_annotations.txt").write_text(HEADER + "".join(row(v, i) for v in "abc" for i in range(3)))
    (tmp_path/"data"/"validation_set_annotations.txt").write_text(HEADER + "".join(row("d", i) for i in range(2)))
    return tmp_path/"data"


WRONG = [
    (["reproduce", "--profile", "smoek"], 2, ["smoek", "did you mean `smoke`"]),
    (["reproduce", "--set", "epoch=3"], 2, ["`epoch`", "did you mean `epochs`"]),
    (["reproduce", "--set", "epochs=three"], 2, ["epochs", "three", "int"]),
    (["reproduce", "--set", "epochs"], 2, ["epochs", "name=value"]),
    (["reproduce", "--set", "temporal=gruu"], 2, ["temporal", "did you mean `gru`"]),
    (["reproduce", "--set", "dev_share=1.5"], 2, ["dev_share", "[0, 1)"]),
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
    (["reproduce", "--data", "/nowhere/at/all"], 1, ["/nowhere/at/all"]),
    (["reprodcue"], 2, ["reprodcue", "--help"]),
    (["reproduce", "--profil", "smoke", "--nonsense"], 2, ["--nonsense"]),
    ([], 2, ["--help"]),
    (["check", "/nowhere/at/all"], 1, ["/nowhere/at/all"]),
    (["report", "--profile", "smoek"], 1, ["smoek"]),
    (["score", "/nowhere/a.txt", "/nowhere/b.txt"], 1, ["/nowhere/", "cannot be read"]),
]


@pytest.mark.parametrize("words, code, told", WRONG, ids=[" ".join(w) or "nothing" for w, _, _ in WRONG])
def test_wrong_words_are_met_with_one_line(words, code, told, capsys, tmp_path):
    out = ["--out", str(tmp_path/"out")] if words[:1] == ["reproduce"] else []
    assert main(words + out) == code
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("affnb: "), printed.err
    for word in told: assert word in lines[0]
    assert not (tmp_path/"out").exists()   # nothing half-written


def test_a_gpu_that_is_asked_for_and_absent_is_refused(capsys):
    import torch
    if torch.cuda.is_available(): pytest.skip("this machine has a GPU")
    assert main(["reproduce", "--set", "device=cuda"]) == 1 and "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("spoil, told", [
    (lambda f: (f/"training_set_annotations.txt").unlink(), ["training_set_annotations.txt"]),
    (lambda f: (f/"training_set_annotations.txt").write_text(""), ["training_set_annotations.txt"]),
    (lambda f: (f/"validation_set_annotations.txt").write_text(HEADER), ["validation_set_annotations.txt"]),
    (lambda f: (f/"training_set_annotations.txt").write_text((f/"training_set_annotations.txt").read_text().replace("b/00001.jpg,0.1", "b/00001.jpg,1.1")), ["training_set_annotations.txt", "6", "1.1"]),
    (lambda f: (f/"training_set_annotations.txt").write_text((f/"training_set_annotations.txt").read_text().replace("c/00002.jpg,0.1,0.2,2,0", "c/00002.jpg,0.1,0.2,2,3")), ["training_set_annotations.txt", "10", "3"]),
    (lambda f: __import__("shutil").rmtree(f/"cropped_aligned"), ["cropped_aligned"]),
    (lambda f: [path.write_bytes(b"") for path in f.rglob("*.jpg")], ["decoded"]),
], ids=["no list", "empty list", "header only", "valence out of range", "unit out of range", "no images", "all undecodable"])
def test_a_folder_that_cannot_be_used_is_refused_with_file_and_row(folder, spoil, told, capsys, tmp_path):
    spoil(folder)
    code = main(["reproduce", "--profile", "tiny", "--data", str(folder), "--out", str(tmp_path/"out")])
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("affnb: ")]
    assert code == 1 and len(lines) == 1, lines
    for word in told: assert word in lines[0]
    assert not list((tmp_path/"out").rglob("labels.parquet"))


def test_a_place_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path/"file").write_text("not a folder")
    assert main(["reproduce", "--profile", "tiny", "--out", str(tmp_path/"file")]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path/"file") in error and len(error.strip().splitlines()) == 1 and (tmp_path/"file").read_text() == "not a folder"


@pytest.mark.parametrize("module,renders", [("faces", True), ("benchmark", True), ("core", True), ("report", False), ("model", False)])
def test_what_is_rendered_is_named_by_the_code_that_draws_it(monkeypatch, module, renders):
    "Edit a module: a new folder for faces where it draws them, the old one where it does not."
    from affnb import cli
    config = load_config("tiny")
    before, real = make_plan(config), cli.file_hash
    monkeypatch.setattr(cli, "file_hash", lambda path: "edited" if Path(path).stem == module else real(path))
    assert (make_plan(config)["folder"] != before["folder"]) == renders == (make_plan(config)["packed"] != before["packed"])


def test_check_refuses_what_the_chain_would(folder, capsys):
    for path in (folder/"cropped_aligned"/"d").glob("*.jpg"): path.write_bytes(b"")
    assert main(["check", str(folder)]) == 1
    printed = capsys.readouterr()
    assert "d/00000.jpg: cannot be decoded" in printed.out and "decoded" in printed.err


def test_a_trial_shares_data_and_leaves_the_finished_run_alone(tmp_path):
    plain, trial = (make_plan(load_config("tiny", words), out=tmp_path) for words in ([], ["epochs=3"]))
    assert plain["packed"] == trial["packed"] and plain["folder"] == trial["folder"] and plain["run"] != trial["run"]
    assert make_plan(load_config("tiny", ["bench_seed=1"]), out=tmp_path)["packed"] != plain["packed"]
    assert make_plan(load_config("tiny", ["epochs=3"]), out=ROOT)["publish"] is None   # `--out .` is no way around


def test_check_counts_what_is_there(folder, capsys):
    (folder/"training_set_annotations.txt").write_text((folder/"training_set_annotations.txt").read_text() + "a/00000.jpg,0.1,0.2,0," + ",".join(["0"] * 12) + "\nz/1.jpg,0,0,-1," + ",".join(["-1"] * 12) + "\n")
    assert main(["check", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "train" in printed and "z/1.jpg" in printed and "duplicates" in printed


def test_score_json_has_the_keys_of_the_contract(folder, capsys):
    truth = folder/"validation_set_annotations.txt"
    assert main(["score", str(truth), str(truth), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["P", "VA", "CCC_valence", "CCC_arousal", "EXPR", "EXPR_per_class", "AU", "AU_per_unit"]
    assert found["EXPR"] == pytest.approx(2 / 8) and len(found["AU_per_unit"]) == 12   # two classes occur, absent ones count 0


def test_commands_run_as_a_program():
    run = lambda *words: subprocess.run([sys.executable, "-m", "affnb.cli", *words], capture_output=True, text=True)
    wrong, helped = run("reproduce", "--profile", "nothing"), run("--help")
    assert wrong.returncode == 2 and len(wrong.stderr.strip().splitlines()) == 1 and not wrong.stdout
    assert helped.returncode == 0 and all(name in helped.stdout for name in ("reproduce", "benchmark", "check", "score", "report"))


def test_debug_shows_the_traceback():
    with pytest.raises(AffnbError): main(["--debug", "check", "/nowhere/at/all"])


def test_a_run_of_other_settings_or_data_gets_another_folder(tmp_path, folder):
    plain, changed = make_plan(load_config("tiny"), out=tmp_path), make_plan(load_config("tiny", ["lr=0.5"]), out=tmp_path)
    real = make_plan(load_config("tiny"), folder, tmp_path)
    assert len({plan["run"] for plan in (plain, changed, real)}) == 3
    assert make_plan(load_config("tiny", ["lr=0.5"]))["publish"] is None   # a trial never touches what is committed
    assert make_plan(load_config("tiny"), folder)["publish"] is None


def test_sources_change_with_what_a_notebook_says_only(tmp_path):
    plan = make_plan(load_config("tiny"), out=tmp_path)
    assert len(write_sources(plan)) > 15 and write_sources(plan) == []
    assert write_changed(tmp_path/"a.txt", "x") and not write_changed(tmp_path/"a.txt", "x") and write_changed(tmp_path/"a.txt", "y")


def test_processes_of_an_earlier_try_are_ended(tmp_path):
    import os, psutil
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, "AFFNB_JOB": str(tmp_path/"log.ipynb")})
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, "AFFNB_JOB": "another"})
    try: assert reap(str(tmp_path/"log.ipynb")) == 1 and not psutil.pid_exists(left.pid) and other.poll() is None
    finally: other.kill(); other.wait()
