"""The chain on a real Slurm, its tables beside those of a local run. Run by hand (it installs
packages and starts daemons; pytest does not):

    sudo .venv/bin/python tests/slurm.py                  the smoke profile, about a quarter of
    an hour on two cores
    sudo .venv/bin/python tests/slurm.py --profile tiny   a few minutes

On Debian or Ubuntu, as root. Installs slurm-wlm and munge, makes a cluster of this machine
alone, runs the profile through
`affnb reproduce --on slurm` and through `affnb reproduce` in a copy of the project, and ends
what it started. Exit code 0:
the tables are the same, byte for byte, but for those that tell times.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
import psutil
from in_step import copy_tree

CONF = Path("/etc/slurm/slurm.conf")
MARK = "# written by affnb's tests/slurm.py"
TIMES = {"table_cost", "table_bench"}
MEGABYTES = int(psutil.virtual_memory().total / 2**20 * 0.95)
WORDS = f"""{MARK}
ClusterName=affnb
SlurmctldHost={socket.gethostname()}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
StateSaveLocation=/var/spool/affnb-slurm/state
SlurmdSpoolDir=/var/spool/affnb-slurm/node
SlurmctldLogFile=/var/log/affnb-slurmctld.log
SlurmdLogFile=/var/log/affnb-slurmd.log
NodeName={socket.gethostname()} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={MEGABYTES}
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def install():
    """Slurm, munge and Snakemake's plugin, where they are not there yet; refuses a machine that
    belongs to a cluster.
    """
    if CONF.exists() and not CONF.read_text().startswith(MARK):
        sys.exit(
            f"{CONF}: this machine has a Slurm of its own: try `affnb reproduce --on slurm` there,"
            " and this script elsewhere"
        )
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        sys.exit(
            "Snakemake's plugin is missing: .venv/bin/uv sync --locked --inexact --extra slurm"
        )
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))):
        quiet = dict(
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        subprocess.run(["apt-get", "update"], **quiet)
        subprocess.run(
            ["apt-get", "install", "--yes", "--no-install-recommends", "slurm-wlm", "munge"],
            **quiet,
        )
    CONF.parent.mkdir(parents=True, exist_ok=True)
    CONF.write_text(WORDS)
    # what it remembers of another time
    shutil.rmtree("/var/spool/affnb-slurm", ignore_errors=True)
    for folder in ("state", "node"):
        Path("/var/spool/affnb-slurm", folder).mkdir(parents=True)
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")


@contextlib.contextmanager
def cluster():
    "A Slurm of one node, which is this machine; its daemons are ended with the block."
    daemons = []

    def start(*words, ready, **options):
        daemons.append(
            subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        )
        limit = time.time() + 60
        while subprocess.run(ready, shell=True, capture_output=True).returncode:
            if daemons[-1].poll() is not None or time.time() > limit:
                sys.exit(
                    f"{words[0]}: does not start: see /var/log/affnb-slurm*.log, /var/log/munge"
                )
            time.sleep(0.5)

    try:
        if subprocess.run("munge -n", shell=True, capture_output=True).returncode:
            start(
                "munged", "--foreground", "--force", ready="munge -n", user="munge", group="munge"
            )
        start("slurmctld", "-D", ready="scontrol ping | grep UP")
        start("slurmd", "-D", ready="sinfo --noheader --format=%t | grep -w idle")
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)
        CONF.unlink()


def reproduce(root, out, *words):
    "Runs the chain in a copy of the project; the seconds it took."
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "affnb.engine.cli", "reproduce", "--out", out, *words],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
    )
    return time.perf_counter() - start


def tables(folder):
    "The bytes of a run's tables by name, and what their sidecars say, but for the commit."
    found = {
        path.name: path.read_bytes()
        for kind in ("csv", "md")
        for path in sorted(folder.glob(f"table_*.{kind}"))
        if path.stem not in TIMES
    }
    for path in sorted(folder.glob("table_*.json")):
        if path.stem not in TIMES:
            found[path.name] = {
                key: value
                for key, value in json.loads(path.read_text()).items()
                if key not in ("commit", "dirty")
            }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="smoke")
    profile = parser.parse_args().profile
    if os.getuid():
        sys.exit("run this as root: it installs Slurm and starts it")
    install()
    with tempfile.TemporaryDirectory(prefix="affnb-slurm-") as place:
        root = Path(place) / "affnb"
        outs = {on: Path(place) / on for on in ("slurm", "local")}
        copy_tree(root)
        cores = ["--profile", profile, "--cores", str(os.cpu_count())]
        with cluster():
            seconds = {"slurm": reproduce(root, outs["slurm"], "--on", "slurm", *cores)}
        seconds["local"] = reproduce(root, outs["local"], *cores)
        ours, theirs = (tables(out / "figures" / profile) for out in outs.values())
    different = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    print(
        f"{profile}: Slurm {seconds['slurm']:.0f} s, local {seconds['local']:.0f} s; {len(ours)}"
        " tables and sidecars,"
        f" {'all the same' if not different else 'different: ' + ', '.join(different)}"
    )
    return bool(different) or not ours


if __name__ == "__main__":
    sys.exit(main())
