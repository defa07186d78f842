"""Several processes that train as one: the same losses as one process, stages that launch
themselves, errors in one line (see nbs/engine/parallel.ipynb).
"""

import json
import multiprocessing
import multiprocessing.connection
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from affnb.benchmark import Knobs
from affnb.engine.rendering import BenchmarkSize, write_benchmark
from affnb.engine.core import AffnbError, load_config
from affnb.engine.data import pack
from affnb.model import make_autoencoder, make_encoder
from affnb.engine.weights import save_weights
from affnb.engine.parallel import launch
from affnb.engine.runs import open_run, write_plan

# nothing is left to chance, and rounding (1e-7 a step) is not blown up:
pytestmark = pytest.mark.slow

STILL = ["dropout=0", "drop_path=0", "augment=none", "lr=5e-4", "weight_decay=0"]
# at higher rates Adam turns differences in gradients that are zero but for rounding into steps, in
# one process with other threads as well
# shares of a batch differ, and a last batch is short
ODD = ["epochs=5", "epoch_frames=300", "batch_frames=31", "head_epochs=3", "head_batch_frames=25"]


def plan(folder, packed, faces, *settings):
    write_plan(folder, load_config("tiny", settings), packed, faces)
    (folder / "sources").mkdir(exist_ok=True)
    return folder


def save_start(run):
    "An autoencoder that was not trained, for a joint model to start from."
    torch.manual_seed(0)
    config = open_run(run).config
    mae = make_autoencoder(config, make_encoder(config))
    save_weights(mae, run / "seed0" / "mae" / "model.safetensors")


def one_of_many(number, processes, port, program, words):
    "In a process of its own: what torchrun would start it with, and the program."
    if processes > 1:
        os.environ |= dict(
            RANK=str(number),
            LOCAL_RANK=str(number),
            WORLD_SIZE=str(processes),
            LOCAL_WORLD_SIZE=str(processes),
            MASTER_ADDR="localhost",
            MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID="test",
        )
    torch.set_num_threads(1)
    sys.argv = [str(program), *map(str, words)]
    runpy.run_path(str(program), run_name="__main__")


class Failed(Exception):
    "One of several processes has ended with an error."


@pytest.fixture(scope="module")
def train_in():
    """Runs a program in several processes that train as one, as torchrun does, but forked from one
    that has imported torch already (torchrun itself: the stages below).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["affnb.heads", "affnb.joint", "timm", "torch._dynamo"])

    def run(processes, program, *words):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        started = [
            context.Process(target=one_of_many, args=(k, processes, port, program, words))
            for k in range(processes)
        ]
        for process in started:
            process.start()
        waiting = set(started)
        while waiting:
            multiprocessing.connection.wait([process.sentinel for process in waiting])
            ended = {process for process in waiting if process.exitcode is not None}
            waiting -= ended
            if any(process.exitcode for process in ended):
                for process in waiting:
                    process.kill()
                    process.join()
                raise Failed

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = tmp_path_factory.mktemp("data")
    write_benchmark(
        made / "faces",
        BenchmarkSize(
            clips=80,
            clip_frames=3,
            long_videos=8,
            long_frames=24,
            validation_videos=4,
            validation_frames=14,
            test_videos=2,
            size=32,
            seed=0,
        ),
        knobs=Knobs(draws=1),
    )
    pack(made / "faces", made / "packed", 32)
    return made / "packed", made / "faces"


PROGRAM = """
"Trains a joint model, then fusion and time, and writes down the loss of every step."
import json, sys
from pathlib import Path
from affnb import heads, joint, train
from affnb.engine.parallel import leave_group, rank
from affnb.engine.runs import start_stage
run = start_stage(sys.argv[1])
losses, make_loss = [], train.make_loss
def recorded(*words):
    loss_of = make_loss(*words)
    def record(model, batch):
        loss, parts = loss_of(model, batch)
        losses.append(loss.item())
        return loss, parts
    return record
train.make_loss = heads.make_loss = recorded
joint.launch_stage = lambda *words, **more: None  # this program is launched by the test
joint.train_arm(run, "joint", 0)
first = len(losses)
joint.train_arm(run, "joint+temporal", 0)
if rank() == 0:
    by_step = dict(encoder=losses[:first], head=losses[first:])
    Path(sys.argv[2]).write_text(json.dumps(by_step))
leave_group()
"""


@pytest.fixture(scope="module")
def trained_by(data, train_in, tmp_path_factory):
    "Losses of the same training in one process and in two."
    folder = tmp_path_factory.mktemp("runs")
    runs = {}
    program = folder / "program.py"
    program.write_text(PROGRAM)
    for processes in (1, 2):
        run = plan(folder / f"run{processes}", *data, *STILL, *ODD)
        save_start(run)
        out = folder / f"{processes}.json"
        train_in(processes, program, run, out)
        runs[processes] = json.loads(out.read_text()) | dict(run=run)
    return runs


def test_two_processes_have_the_losses_of_one(trained_by):
    "Masks, concordance, batch norms and clipping included, with shares of 15 and 16 frames."
    one, two = (trained_by[n]["encoder"] for n in (1, 2))
    # it learns: equal losses are no triviality
    assert len(one) == len(two) >= 50
    assert np.mean(one[:10]) > 1.1 * np.mean(one[40:50])
    apart = np.abs(np.array(one[:50]) - two[:50]).max()
    print(f"largest difference in the first 50 steps: {apart:.1e}")
    assert apart < 1e-5


def test_fusion_and_time_too(trained_by):
    one, two = (trained_by[n]["head"] for n in (1, 2))
    # on features that are stored in half precision
    assert len(one) == len(two) >= 10
    assert np.abs(np.array(one[:10]) - two[:10]).max() < 1e-4


def test_what_they_leave_is_that_of_one(trained_by):
    for arm in ("joint", "joint+temporal"):
        one, two = (
            load_file(trained_by[n]["run"] / "seed0" / arm / "predictions.safetensors")
            for n in (1, 2)
        )
        assert one.keys() == two.keys()
        assert torch.equal(one["rows"], two["rows"])
        for task in ("AU", "EXPR", "VA"):
            assert torch.allclose(one[task], two[task], atol=2e-3, equal_nan=True), task
    records = [
        json.loads((trained_by[n]["run"] / "records" / "train-joint-seed0.json").read_text())
        for n in (1, 2)
    ]
    assert records[0]["frames_seen"] == records[1]["frames_seen"] == 5 * 300


CUT = """
"Trains a joint model with all that chance brings; process 1 dies after so many steps."
import os, sys
from affnb import joint, train
from affnb.engine.parallel import leave_group, rank
from affnb.engine.runs import start_stage
run, limit, steps, make_loss = start_stage(sys.argv[1]), int(sys.argv[2]), [], train.make_loss
def counted(*words):
    loss_of = make_loss(*words)
    def count(model, batch):
        steps.append(1)
        if rank() == 1 and len(steps) > limit: os._exit(9)
        return loss_of(model, batch)
    return count
train.make_loss = counted
joint.launch_stage = lambda *words, **more: None
joint.train_arm(run, "joint", 0)
if rank() == 0: (run.folder/"steps.txt").write_text(str(len(steps)))
leave_group()
"""


@pytest.mark.nightly
def test_processes_that_are_killed_within_an_epoch_go_on(data, train_in, tmp_path):
    """Two processes, dropout and augmentation on; checkpoints every 25 steps: the weights are those
    of two that nobody killed.
    """
    program = tmp_path / "cut.py"
    program.write_text(CUT)

    def trained(name, limit):
        run = plan(
            tmp_path / name,
            *data,
            "epochs=1",
            "epoch_frames=280",
            "batch_frames=8",
            "checkpoint_seconds=0",
            "drop_path=.1",
        )
        if not (run / "seed0").exists():
            save_start(run)
        train_in(2, program, run, limit)
        return load_file(run / "seed0" / "joint" / "model.safetensors"), int(
            (run / "steps.txt").read_text()
        )

    straight, steps = trained("straight", 999)
    with pytest.raises(Failed):
        trained("killed", 30)
    assert not (tmp_path / "killed" / "seed0" / "joint" / "model.safetensors").exists()
    again, left = trained("killed", 999)
    assert steps == 35
    assert left == 10
    assert again.keys() == straight.keys()
    assert all(torch.equal(again[name], straight[name]) for name in straight)


@pytest.mark.nightly
def test_a_stage_launches_itself_and_takes_up_what_was_left(data, tmp_path, monkeypatch):
    from affnb import separate, train

    run = open_run(plan(tmp_path, *data, "processes=2"))
    save_start(run.folder)
    steps = []
    one_epoch = train.train_epoch
    monkeypatch.setattr(
        train, "train_epoch", lambda *words, **more: steps.append(1) or one_epoch(*words, **more)
    )
    model, history, features, predictions = separate.train_task(run, "AU", 0)
    # trained elsewhere, by two
    assert not steps
    assert len(history) == 2
    assert features.shape == (len(run.table), 32)
    left = load_file(tmp_path / "seed0" / "AU" / "predictions.safetensors")
    assert torch.allclose(
        left["AU"], torch.from_numpy(predictions["AU"][left["rows"].numpy()]).float(), atol=1e-4
    )


@pytest.mark.nightly
def test_several_processes_fail_in_one_line(data, tmp_path):
    run = plan(tmp_path, *data)
    # no autoencoder to start from
    with pytest.raises(AffnbError) as error:
        launch("affnb.joint", 2, run, "--arm", "joint")
    assert "\n" not in str(error.value)
    assert "mae/model.safetensors" in str(error.value)
    assert "2 processes" in str(error.value)


@pytest.mark.nightly  # a stage that launches itself is started by torchrun, too
def test_a_stage_runs_under_torchrun_by_hand(data, tmp_path):
    run = plan(tmp_path, *data)
    torchrun = Path(sys.executable).with_name("torchrun")
    arm = ("--arm", "mae", "--seed", "0")
    done = subprocess.run(
        [torchrun, "--standalone", "--nproc-per-node=2", "-m", "affnb.pretrain", run, *arm],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert (run / "seed0" / "mae" / "model.safetensors").exists()
    record = json.loads((run / "records" / "train-mae-seed0.json").read_text())
    assert record["frames_seen"] == 2 * 64
    assert np.isfinite(record["history"][-1]["dev"]["loss"])
