"""Kills the chain at random moments, with SIGKILL, starts it again, and compares what comes out
with a run that nobody disturbed.

    python tests/chaos.py --profile smoke --kills 30 --seed 1 --out /tmp/chaos

Each stage is hit in turn: its kernel, its rule, Snakemake, the command itself, one of the
processes that render, decode or
train, or all of them at once. After every kill nobody may be left at work; at the end the
tables, figures, records, weights
and predictions must be those of the undisturbed run, byte for byte (times and the checkpoints'
interval aside), no file may be
left half written, and an epoch that a checkpoint held must not have been trained again.
"""

import argparse
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from datetime import datetime
from pathlib import Path
import psutil

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "affnb.engine.cli reproduce": "command",
    "run_snakemake": "Snakemake",
    "affnb.engine.cli run-notebook": "rule",
    "affnb.engine.kernels serve": "server",  # and the kernels that it has forked
    "affnb.engine.kernels": "kernel",  # one that is forked has a stand-in
    "affnb.engine.cli": "worker",
    "multiprocessing": "worker",
    "torch.distributed": "trainer",
    "affnb.": "trainer",
}
TIMES = {"seconds", "checkpoint_seconds", "commit", "dirty"}  # what may differ between two runs
OTHERS = re.compile(r"table_cost\.")  # tables of times


class Storm:
    "A chain that is killed again and again, and started on one core and on two in turn."

    def __init__(
        self,
        words,
        out,
        cwd=ROOT,
        environment=None,
        span: float = 4.0,
        seed: int = 0,
        say=print,
        before=(),
    ):
        self.before = before
        self.words = [*words, "--out", str(out)]
        self.out = Path(out)
        self.cwd = cwd
        self.span = span
        self.random = random.Random(seed)
        self.say = say
        self.mark = uuid.uuid4().hex
        self.environment = {**(environment or os.environ), "AFFNB_STORM": self.mark}
        self.kills = []
        self.starts = []
        self.kept = {}

    def start(self):
        cores = 1 + len(self.starts) % 2
        self.starts.append((time.time(), cores))
        self.log = open(self.out.parent / f"{self.out.name}.log", "a+")
        self.begun = self.log.tell()
        return subprocess.Popen(
            [
                *self.before,
                sys.executable,
                "-m",
                "affnb.engine.cli",
                *self.words,
                "--cores",
                str(cores),
            ],
            cwd=self.cwd,
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def output(self):
        self.log.seek(self.begun)
        return self.log.read()

    def alive(self):
        "Every process of this storm: (process, kind, stage)."
        processes = []
        for process in psutil.process_iter():
            try:
                variables = process.environ()
                if (
                    variables.get("AFFNB_STORM") != self.mark
                    or process.status() == psutil.STATUS_ZOMBIE
                ):
                    continue
                line = " ".join(process.cmdline())
                kind = next((kind for part, kind in KINDS.items() if part in line), "worker")
                job = variables.get("AFFNB_JOB", "")
                step = re.search(r"affnb\.cli (render|pack|describe)\b", line)
                stage = (
                    re.sub(r"(-seed\d+)?\.ipynb$", "", Path(job).name)
                    if job.endswith(".ipynb")
                    else step[1]
                    if step
                    else ""
                )
                processes.append((process, kind, stage))
            except (psutil.Error, OSError):
                continue
        return processes

    def checkpoints(self):
        "What the checkpoints hold: path -> seconds of each epoch that is done."
        from safetensors import safe_open

        seconds_of = {}
        for path in self.out.glob("data/runs/*/seed*/*/last.safetensors"):
            # half a file would not open
            with safe_open(path, "pt") as file:
                state = json.loads(file.metadata()["state"])
            seconds_of[path] = [h["seconds"] for h in state["history"]], state["begun"]["steps"]
        return seconds_of

    def strike(self, stage):
        "Kills one process at random, or all; what kind it was, or None where it was gone already."
        here = self.alive()
        if not here:
            return None
        if self.random.random() < 0.2:
            kind = "all"
            victims = [p for p, _, _ in here]
        else:
            kind = self.random.choice(sorted({k for _, k, _ in here}))
            victims = [
                self.random.choice(
                    [p for p, k, s in here if k == kind and s == stage]
                    or [p for p, k, _ in here if k == kind]
                )
            ]
        hit = 0
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.kill()
                hit += 1
        return kind if hit else None

    def nobody_is_left(self):
        limit = time.time() + 20
        while left := self.alive():
            if time.time() > limit:
                raise AssertionError(
                    f"left at work after {self.kills[-1] if self.kills else 'the end'}:"
                    f" {[(p.pid, k, s, ' '.join(p.cmdline())[:150]) for p, k, s in left]}"
                )
            time.sleep(0.1)

    def wait_for_a_stage(self, process, hits, most):
        """The first stage that was hit less often than `most` times, or None where the command ends
        before.
        """
        while process.poll() is None:
            stages = {re.match(r"\w+", stage)[0] for _, _, stage in self.alive() if stage}
            wanted = [stage for stage in sorted(stages) if hits[stage] < most]
            if wanted:
                return self.random.choice(wanted)
            time.sleep(0.1)
        return None

    def rage(self, kills: int, most: int = 2) -> None:
        """Starts and kills, until there were so many kills or no stage is left to be hit, and lets
        the last try end.
        """
        while True:
            process = self.start()
            struck = 0
            while process.poll() is None and len(self.kills) < kills:
                stage = (
                    "planning"
                    if len(self.starts) in (2, 3) and not struck
                    else self.wait_for_a_stage(
                        process, Counter(stage for stage, _ in self.kills), most
                    )
                )
                if not stage:
                    break
                time.sleep(self.random.uniform(0, self.span))
                if process.poll() is not None:
                    break
                if not (kind := self.strike(stage)):
                    continue
                struck += 1
                self.kills.append((stage, kind))
                for path, (seconds, steps) in self.checkpoints().items():
                    self.kept[path] = max(
                        self.kept.get(path, ([], 0)),
                        (seconds, steps),
                        key=lambda k: (len(k[0]), k[1]),
                    )
                self.say(f"{len(self.kills):3d}  {stage:16s}{kind}", flush=True)
                # it may have hit somebody whose work was done, or others may have to end first
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(3 * self.span)
            code = process.wait()
            output = self.output()
            assert "Traceback" not in output, output
            self.nobody_is_left()
            assert code == 0 or struck, f"nobody killed it, and it failed: {output}"
            # one line, or none where the command itself was killed
            assert (
                len(
                    [
                        line
                        for line in output.splitlines()
                        if line.startswith("affnb: ") and ", seeds " not in line
                    ]
                )
                <= 1
            ), output
            if code == 0:
                return

    def cores_of(self) -> dict:
        "Executed notebook -> on how many cores the chain was when it ended."

        def ended(path):
            return datetime.fromisoformat(
                json.loads(path.read_text())["metadata"]["papermill"]["end_time"]
            ).timestamp()

        return {
            path.stem: max(start for start in self.starts if start[0] < ended(path))[1]
            for path in self.out.glob("data/runs/*/notebooks/*.ipynb")
        }

    def were_epochs_kept(self) -> int:  # how many
        """Epochs that a checkpoint held at a kill have the times that they had then: they were not
        trained again.
        """
        n = 0
        for path, (seconds, _) in self.kept.items():
            record = (
                path.parents[2]
                / "records"
                / f"train-{path.parent.name}-{path.parents[1].name}.json"
            )
            if not record.exists():
                continue  # a search's trial
            assert [h["seconds"] for h in json.loads(record.read_text())["history"]][
                : len(seconds)
            ] == seconds, path
            n += len(seconds)
        return n


def plain(value):
    "JSON without what may differ."
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in TIMES}
    return [plain(v) for v in value] if isinstance(value, list) else value


def differences(
    one, two, folders=("figures", "data/records", "data/runs")
) -> list:  # paths, and why
    "What two `--out` folders (or a project and one) of the same run do not have in common."
    different = []

    def files(root):
        kept = {}
        for folder in folders:
            for path in (Path(root) / folder).rglob("*"):
                name = path.relative_to(root)
                if not path.is_file() or ".snakemake" in name.parts or OTHERS.search(path.name):
                    continue
                if (
                    folder == "data/runs"
                    and path.suffix not in (".safetensors", ".txt")
                    or path.name in ("last.safetensors", "told.txt", "settings.txt")
                    or "sources" in name.parts
                    or "search" in name.parts
                ):
                    continue
                kept[str(name)] = path
        return kept

    mine = files(one)
    others = files(two)
    for name in sorted(set(mine) | set(others)):
        if name not in mine or name not in others:
            different.append(f"{name}: only in {'the second' if name not in mine else 'the first'}")
            continue
        a = mine[name]
        b = others[name]
        same = (
            plain(json.loads(a.read_text())) == plain(json.loads(b.read_text()))
            if name.endswith(".json")
            else a.read_bytes() == b.read_bytes()
        )
        if not same:
            different.append(f"{name}: differs")
    return different


def leftovers(out) -> list:
    "What killed writers have left."
    return [
        str(path)
        for path in Path(out).rglob(".*")
        if ".snakemake" not in path.parts
        and (re.fullmatch(r"\..+\.[a-z0-9_]{8}", path.name) or path.name.endswith("-unfinished"))
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=2, help="hits of one stage")
    parser.add_argument(
        "--span", type=float, default=4.0, help="seconds within which a stage is hit"
    )
    parser.add_argument("--out", default="/tmp/chaos")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    out = Path(given.out)
    words = ["reproduce", "--profile", given.profile, *(w for s in given.set for w in ("--set", s))]
    out.mkdir(parents=True, exist_ok=True)
    start = time.time()
    subprocess.run(
        [sys.executable, "-m", "affnb.engine.cli", *words, "--out", str(out / "straight")],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    straight = time.time() - start
    storm = Storm(words, out / "killed", span=given.span, seed=given.seed)
    storm.rage(given.kills, given.most)
    kept = storm.were_epochs_kept()
    different = differences(out / "straight", out / "killed")
    left = leftovers(out / "killed")
    print(
        f"{len(storm.kills)} kills in {len(storm.starts)} starts: "
        + ", ".join(
            f"{n} {kind}" for kind, n in Counter(kind for _, kind in storm.kills).most_common()
        )
    )
    print(
        f"undisturbed {straight:.0f} s, with kills {time.time() - start - straight:.0f} s; {kept}"
        f" epochs taken up from checkpoints; {len(different)} files differ, {len(left)} left half"
        " written"
    )
    print(*different[:20], *left[:20], sep="\n")
    sys.exit(bool(different or left))


if __name__ == "__main__":
    main()
