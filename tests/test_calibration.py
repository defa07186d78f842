"""Temperatures that are planted are found, the calibration error is a plain loop's, no answer
changes; model folders hold temperatures, and predict and ONNX's module apply them.
"""

import json
import math
import re
import shutil
from dataclasses import asdict, replace
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from safetensors.numpy import load_file
from scipy.special import expit, log_softmax, logit, softmax
from affnb.engine.arms import arm_config, encoder_of
from affnb.engine.batches import prepare_frames
from affnb.engine.calibration import COLDEST, HOTTEST, LEAST_FRAMES, apply_temperature
from affnb.engine.calibration import calibration_error, confidence_sums, fit_temperature
from affnb.engine.calibration import temperatures_in
from affnb.engine.cli import main
from affnb.engine.core import EXPRESSIONS, TASKS, AffnbError, load_config, write_json
from affnb.engine.data import pack
from affnb.engine.predict import UNITS, AnswersModule, leave_model, load_model, predict_crops
from affnb.engine.predict import _calibrate as calibrate
from affnb.engine.rendering import BenchmarkSize, write_benchmark
from affnb.engine.runs import open_run, rows_of, store_outputs
from affnb.engine.weights import save_weights
from affnb.evaluate import evaluate
from affnb.metrics import score
from affnb.model import make_encoder, make_model
from errors import assert_error, assert_one_line

PROBABILITIES = dict(AU=expit, EXPR=lambda x: softmax(x, axis=-1))
SIZES = dict(AU=12, EXPR=8)


def drawn(task, n, rng):
    "Logits, and labels that are drawn from the probabilities of these logits."
    logits = rng.normal(0, 1.5, (n, SIZES[task]))
    chance = rng.random(logits.shape)
    if task == "AU":
        return logits, (chance < expit(logits)).astype(np.float32)
    return logits, (softmax(logits, axis=1).cumsum(1) > chance[:, :1]).argmax(1)


@pytest.mark.parametrize("task", SIZES)
@pytest.mark.parametrize("planted", [0.4, 1.0, 2.5])
def test_a_planted_temperature_is_found_whatever_masked_labels_say(task, planted):
    rng = np.random.default_rng(1)
    logits, labels = drawn(task, 6000, rng)
    mask = rng.random(labels.shape) < 0.7
    wrong = np.where(mask, labels, 1 - labels) if task == "AU" else np.where(mask, labels, 7)
    stored = PROBABILITIES[task](planted * logits).astype(np.float32)
    found, why = fit_temperature(task, stored, wrong, mask)
    assert why == ""
    assert abs(found / planted - 1) < 0.05
    assert fit_temperature(task, stored, labels, mask)[0] == found
    assert fit_temperature(task, stored[::-1], wrong[::-1], mask[::-1])[0] == pytest.approx(found)
    # not one whit better a little to the left or right
    losses = [
        -np.log(
            np.where(labels > 0, p, 1 - p)[mask]
            if task == "AU"
            else p[np.arange(len(p)), labels][mask]
        ).mean()
        for factor in (0.97, 1, 1.03)
        for p in [apply_temperature(task, stored, factor * found)]
    ]
    assert losses[1] < min(losses[0], losses[2])


def test_too_few_labels_or_one_class_leave_all_as_it_is_and_say_so():
    rng = np.random.default_rng(0)
    for task in SIZES:
        logits, labels = drawn(task, 4 * LEAST_FRAMES, rng)
        stored = PROBABILITIES[task](3 * logits)
        few = np.zeros(labels.shape, bool)
        few[: LEAST_FRAMES - 1] = True
        assert fit_temperature(task, stored, labels, few) == (
            1.0,
            f"not fitted: {LEAST_FRAMES - 1} labelled frames, fewer than {LEAST_FRAMES}",
        )
        assert fit_temperature(task, stored, labels, few & False)[0] == 1.0
        few[LEAST_FRAMES - 1] = True
        assert fit_temperature(task, stored, labels, few)[0] > 1.5
        same = fit_temperature(task, stored, labels * 0, labels >= 0)
        assert same == (1.0, "not fitted: all labels are the same")
        assert apply_temperature(task, stored, 1.0) is stored


def test_a_model_that_is_always_right_or_knows_nothing_stays_within_bounds():
    rng = np.random.default_rng(0)
    for task in SIZES:
        logits, labels = drawn(task, 500, rng)
        right = np.eye(8)[labels] if task == "EXPR" else labels
        for stored, end in ((0.8 * right + 0.1, COLDEST), (rng.permutation(right), HOTTEST)):
            stored = stored / stored.sum(1, keepdims=True) if task == "EXPR" else stored
            found, why = fit_temperature(task, stored, labels, labels >= 0)
            assert not why
            assert COLDEST <= found <= HOTTEST
            assert abs(math.log(found / end)) < 0.5
            assert np.isfinite(apply_temperature(task, stored, found)).all()


probability = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (3, 8), elements=probability), st.floats(COLDEST, HOTTEST))
def test_no_answer_changes(numbers, temperature):
    "The most probable expression, and the side of one half of each unit, to the last bit."
    units = apply_temperature("AU", numbers, temperature)
    assert ((units > 0.5) == (numbers > 0.5)).all()
    assert ((units >= 0.5) == (numbers >= 0.5)).all()
    assert ((units >= 0) & (units <= 1)).all()
    expressions = numbers + np.float32(1e-3)
    expressions = expressions / expressions.sum(1, keepdims=True)
    calibrated = apply_temperature("EXPR", expressions, temperature)
    assert (calibrated.argmax(1) == expressions.argmax(1)).all()
    assert np.allclose(calibrated.sum(1), 1)


def plain_error(stated, right):
    "Bin by bin and statement by statement."
    total = 0.0
    edges = np.linspace(0, 1, 16)
    for k in range(15):
        inside = [
            (p, y)
            for p, y in zip(stated, right)
            if edges[k] < p <= edges[k + 1] or (k == 0 and p == 0)
        ]
        if inside:
            total += abs(sum(y for _, y in inside) - sum(p for p, _ in inside))
    return total / len(stated)


@pytest.mark.parametrize("task", SIZES)
def test_the_calibration_error_is_that_of_a_plain_loop(task):
    rng = np.random.default_rng(2)
    logits, labels = drawn(task, 300, rng)
    stored = PROBABILITIES[task](1.7 * logits)
    stored[:9] = np.round(stored[:9] * 15) / 15  # on the edges of bins
    mask = rng.random(labels.shape) < 0.6
    videos = rng.integers(0, 9, 300).astype(str)
    stated, right = [], []
    for n in range(300):
        if task == "EXPR":
            if mask[n]:
                stated.append(max(stored[n]))
                right.append(list(stored[n]).index(max(stored[n])) == labels[n])
            continue
        for unit in range(12):
            if mask[n, unit]:
                stated.append(stored[n, unit])
                right.append(labels[n, unit])
    sums = confidence_sums(task, stored, labels, mask, videos)
    assert sums.shape == (9, 15, 3)
    assert calibration_error(sums.sum(0)) == pytest.approx(plain_error(stated, right))
    assert sums.sum(0)[:, 0].sum() == len(stated)
    alone = videos == "4"
    one = confidence_sums(task, stored[alone], labels[alone], mask[alone], videos[alone])
    assert np.allclose(one[0], sums[4])
    both = calibration_error(np.stack([sums.sum(0), sums[4]]))
    assert both[1] == pytest.approx(calibration_error(one[0]))
    nothing = confidence_sums(task, stored, labels, mask & False, videos)
    assert np.isnan(calibration_error(nothing.sum(0)))


# ---------------------------------------------------------------- model folders
PLANTED = dict(AU=0.6, EXPR=1.8)


def stated_of(task, targets, masks, rng):
    "Probabilities that know something of the labels, and whose logits are PLANTED times too large."
    if task == "VA":
        return rng.uniform(-1, 1, targets.shape)
    if task == "EXPR":
        share = np.bincount(targets[masks], minlength=8) / masks.sum()
        seen = 1.5 * np.eye(8)[targets] + rng.normal(0, 1, (len(targets), 8))
        # Bayes: of what is seen, given each expression
        return softmax(PLANTED[task] * log_softmax(1.5 * seen + np.log(share + 1e-3), 1), axis=1)
    share = targets[masks].mean()
    seen = 1.5 * targets + rng.normal(0, 1, targets.shape)
    return expit(PLANTED[task] * (1.5 * seen - 1.5**2 / 2 + logit(share)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small benchmark, and models as they began in the places where the chain leaves them; what
    is stored of `progressive` has planted temperatures.
    """
    place = tmp_path_factory.mktemp("calibration")
    size = BenchmarkSize(
        clips=50,
        clip_frames=4,
        long_videos=2,
        long_frames=12,
        validation_videos=12,
        validation_frames=12,
        test_videos=1,
        size=32,
        seed=0,
    )
    write_benchmark(place / "faces", size)
    pack(place / "faces", place / "packed", 32)
    config = load_config("tiny", ["dev_share=0.6", "bootstrap=200"])
    plan = dict(config=asdict(config), packed=str(place / "packed"), folder=str(place / "faces"))
    write_json(place / "run" / "plan.json", plan | dict(benchmark=True))
    run = open_run(place / "run")
    torch.manual_seed(0)
    arm = arm_config(config, "progressive")
    head = make_model(arm, TASKS, make_encoder(arm).embed_dim, fusion=True, temporal=True)
    models = {name: make_model(config, TASKS, make_encoder(config)) for name in arm.fused}
    models |= {encoder_of(arm): make_model(config, TASKS, make_encoder(config))}
    for name, model in (models | dict(progressive=head)).items():
        (run.folder / "seed0" / name).mkdir(parents=True)
        save_weights(model, run.folder / "seed0" / name / "model.safetensors")
    rng = np.random.default_rng(0)
    stored = {task: stated_of(task, run.targets[task], run.masks[task], rng) for task in TASKS}
    store_outputs(run, run.folder / "seed0" / "progressive", None, stored)
    evaluate(run, "progressive", stored, 0)
    return run


@pytest.fixture(scope="module")
def folder(run):
    leave_model(run.folder, run.folder / "model")
    return run.folder / "model"


def known(run, part, task):
    "Stored predictions, labels and mask of a part, and the videos; read anew."
    table = rows_of(run, part)
    rows = table["row"].to_numpy()
    stored = load_file(run.folder / "seed0" / "progressive" / "predictions.safetensors")
    place = {row: k for k, row in enumerate(stored["rows"].tolist())}
    values = stored[task][[place[row] for row in rows]]
    return values, run.targets[task][rows], run.masks[task][rows], table["video"].to_numpy()


def test_a_model_folder_holds_the_temperatures_of_dev_and_its_card_the_error(run, folder):
    about = json.loads((folder / "config.json").read_text())
    card = (folder / "README.md").read_text()
    assert list(about["temperature"]) == list(PLANTED)
    for task, planted in PLANTED.items():
        dev = known(run, "dev", task)[:3]
        assert about["temperature"][task] == round(fit_temperature(task, *dev)[0], 4)
        assert abs(math.log(about["temperature"][task] / planted)) < 0.25
        stored, *labels = known(run, "validation", task)
        [row] = re.findall(rf"^\| {task} .*$", card, re.M)
        _, shown, *errors = (cell.strip() for cell in row.strip("|").split("|"))
        assert shown == f"{about['temperature'][task]:.2f}"
        for said, temperature in zip(errors, (1, about["temperature"][task])):
            calibrated = apply_temperature(task, stored, temperature)
            value, low, high = (float(f"0{end}") for end in re.findall(r"\.\d{3}", said))
            sums = confidence_sums(task, calibrated, *labels).sum(0)
            assert value == pytest.approx(float(calibration_error(sums)), abs=0.0005)
            assert low <= value <= high
            assert low < high
        before, after = (float(re.search(r"\.\d{3}", said)[0]) for said in errors)
        assert after < before
        assert score({task: calibrated}, {task: labels[0]}, {task: labels[1]}) == score(
            {task: stored}, {task: labels[0]}, {task: labels[1]}
        )
    assert "fitted on the dev people" in card


@pytest.fixture
def older(folder, tmp_path):
    "The same folder, as a version without calibration left it."
    shutil.copytree(folder, tmp_path / "older")
    about = json.loads((folder / "config.json").read_text())
    del about["temperature"]
    (tmp_path / "older" / "config.json").write_text(json.dumps(about))
    return tmp_path / "older"


def test_predict_applies_them_and_reads_older_folders_as_before(run, folder, older):
    video = next(iter(rows_of(run, "validation").groupby("video")))[1]
    crops = [run.frames[row].numpy() for row in video["row"]]
    rows = pd.DataFrame(dict(input="video", face=0, frame=np.arange(len(crops))))
    model = load_model(folder)
    assert len(crops) > model.about["settings"]["window"]
    calibrated, plain = (predict_crops(load_model(place), rows, crops) for place in (folder, older))
    for task, columns in (("EXPR", list(EXPRESSIONS)), ("AU", list(UNITS.values()))):
        wanted = apply_temperature(task, plain[columns], model.about["temperature"][task])
        assert np.allclose(calibrated[columns], wanted, atol=1e-6)
        assert np.abs(calibrated[columns] - plain[columns]).to_numpy().max() > 0.01
    same = ["valence", "arousal", "expression"]
    assert calibrated[same].equals(plain[same])
    assert calibrated.dtypes["Fear"] == np.float64


def test_what_is_exported_is_what_predict_says(run, folder):
    "Of a single window; a test of test_predict holds the file against this module."
    model = load_model(folder)
    length = model.about["settings"]["window"]
    frames = run.frames[:length]
    rows = pd.DataFrame(dict(input="clip", face=0, frame=np.arange(length)))
    said = predict_crops(model, rows, list(frames.numpy()))
    with torch.inference_mode():
        windows = prepare_frames(frames[None], None, "none", 1)
        units, expressions, _ = AnswersModule(model)(windows, torch.ones(1, length, dtype=bool))
    assert np.allclose(units[0], said[list(UNITS.values())], atol=1e-5)
    assert np.allclose(expressions[0], said[list(EXPRESSIONS)], atol=1e-5)


def test_what_cannot_be_fitted_or_measured_is_said(run):
    about = dict(arm="progressive", seed=0, tasks=["AU", "EXPR", "VA"])
    dev = rows_of(run, "dev")["row"].to_numpy()
    validation = rows_of(run, "validation")["row"].to_numpy()
    masks = {task: mask.copy() for task, mask in run.masks.items()}
    masks["EXPR"][dev[LEAST_FRAMES // 2 :]] = False
    masks["AU"][validation] = False
    left = int(masks["EXPR"][dev].sum())
    temperatures, words = calibrate(replace(run, masks=masks), about)
    assert temperatures["EXPR"] == 1.0
    assert f"1.00 (not fitted: {left} labelled frames, fewer than {LEAST_FRAMES})" in words
    assert abs(math.log(temperatures["AU"] / PLANTED["AU"])) < 0.25
    assert re.search(r"^\| AU .*\| – +\| – +\|$", words, re.M)
    assert calibrate(run, about | dict(tasks=["VA"])) == ({}, "It states no probabilities.")
    alone = run.table.copy()
    others = alone["video"] != rows_of(run, "validation")["video"].iloc[0]
    alone.loc[others & (alone["part"] == "validation"), "part"] = "test"
    assert "[" not in calibrate(replace(run, table=alone), about)[1]


@pytest.mark.parametrize("entry", [dict(EXPR=0), dict(AU=-1.5), dict(VA=1), dict(AU="warm"), 2.0])
def test_temperatures_that_make_no_sense_are_refused(entry, older, tmp_path, capsys):
    about = json.loads((older / "config.json").read_text()) | dict(temperature=entry)
    with pytest.raises(AffnbError) as error:
        temperatures_in(about)
    assert_error(error, "config.json", "temperature", "0.05 to 20")
    (older / "config.json").write_text(json.dumps(about))
    Image.new("RGB", (32, 32)).save(tmp_path / "face.png")
    assert main(["predict", str(older), str(tmp_path / "face.png"), "--aligned"]) == 1
    assert_one_line(capsys.readouterr().err, older / "config.json", "temperature")
