"""Kernels that are forked from a server: what a notebook finds is what it finds in a kernel of its
own, and whoever is killed, nobody is left at work.
"""

import ast
import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from affnb.engine.cli import run_notebook
from affnb.engine.core import AffnbError
from affnb.engine.kernels import kernel_server
from errors import assert_error

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
VICTIMS = ("stand-in", "kernel")  # tried each night
# `colorsys` stands for what takes long to import
IMPORTED = ("ipykernel.ipkernel", "matplotlib.figure", "colorsys")


@pytest.fixture
def server(tmp_path, monkeypatch):
    "A server that answers, at an address that rules know."
    with (
        open(tmp_path / "server.log", "w") as log,
        kernel_server(IMPORTED, dict(os.environ), log) as variables,
    ):
        if not variables:
            pytest.skip("kernels are forked on Linux only")
        monkeypatch.setenv("AFFNB_KERNELS", variables["AFFNB_KERNELS"])
        wait_until(Path(variables["AFFNB_KERNELS"]).exists)
        (process,) = those_that_serve(variables["AFFNB_KERNELS"])
        yield process
    assert not (tmp_path / "server.log").read_text()


def wait_until(happened, seconds=30):
    limit = time.time() + seconds
    while not happened():
        assert time.time() < limit, "waited in vain"
        time.sleep(0.05)


def those_that_serve(address):
    "The server, its keepers and their kernels: they share a command line."
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if address in (process.info["cmdline"] or []) and process.status() != psutil.STATUS_ZOMBIE
    ]


def write(path, *cells):
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(notebook, path)
    return path


def values(path):
    "The value of each cell of an executed notebook."
    cells = nbformat.read(path, 4).cells
    return [ast.literal_eval(cell.outputs[0].data["text/plain"]) for cell in cells]


ASKED = (
    "import os, sys, random\n'colorsys' in sys.modules, 'affnb.engine.core' in sys.modules",
    "os.getcwd(), os.environ['AFFNB_CHAIN'], os.environ.get('ONLY_HERE'), sys.argv[0] != '-m'",
    "import matplotlib\nmatplotlib.get_backend()",
    "import builtins\nseen = hasattr(builtins, 'visited')\nbuiltins.visited = True\nseen",
    "random.random()",
)


def test_a_forked_kernel_finds_what_one_of_its_own_finds(server, tmp_path, monkeypatch):
    asked = write(tmp_path / "asked.ipynb", *ASKED)
    monkeypatch.setenv("ONLY_HERE", "é")  # set after the server was started
    run_notebook(asked, tmp_path / "first.ipynb")
    run_notebook(asked, tmp_path / "second.ipynb")
    monkeypatch.delenv("AFFNB_KERNELS")
    run_notebook(asked, tmp_path / "alone.ipynb")
    first, second, alone = (
        values(tmp_path / f"{name}.ipynb") for name in ("first", "second", "alone")
    )
    assert first[0] == second[0] == (True, False), (
        "it was forked, and no module of affnb came along"
    )
    assert alone[0] == (False, False)
    assert first[1:4] == second[1:4] == alone[1:4]
    assert alone[1] == (str(tmp_path), str(os.getpid()), "é", True)
    assert alone[3] is False, "nothing is left of the kernel before"
    assert len({first[4], second[4], alone[4]}) == 3, "random numbers are not those of a neighbour"


def test_a_figure_is_drawn_into_the_notebook(server, tmp_path):
    drawn = write(tmp_path / "drawn.ipynb", "import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    run_notebook(drawn, tmp_path / "log.ipynb")
    (output,) = nbformat.read(tmp_path / "log.ipynb", 4).cells[0].outputs
    assert "image/png" in output.data


def test_a_forked_kernel_that_is_killed_is_told_in_one_line(server, tmp_path):
    dies = write(tmp_path / "dies.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(AffnbError) as refused:
        run_notebook(dies, tmp_path / "log.ipynb")
    assert_error(refused, where="log", problem="killed")


def test_without_its_server_a_kernel_starts_alone(server, tmp_path):
    server.kill()
    server.wait()
    run_notebook(write(tmp_path / "asked.ipynb", ASKED[0]), tmp_path / "log.ipynb")
    assert values(tmp_path / "log.ipynb") == [(False, False)]


def test_a_kernel_that_was_handed_over_is_not_begun_again(tmp_path):
    "Where its keeper is gone, cells have run; one that knows nothing of them must not go on."
    address = str(tmp_path / "kernels")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        words = [
            sys.executable,
            "-m",
            "affnb.engine.kernels",
            "-f",
            str(tmp_path / "connection.json"),
        ]
        stand_in = subprocess.Popen(words, env=os.environ | dict(AFFNB_KERNELS=address))
        connection, _ = listener.accept()
        connection.recv(1)  # the streams come with it
        wait_until(lambda: connection.recv(1 << 16, socket.MSG_PEEK).endswith(b"\n"))
        connection.close()  # what was not read resets the connection
    assert stand_in.wait(10) == 1
    assert not (tmp_path / "connection.json").exists()


@pytest.mark.parametrize(
    "victim",
    ["rule", "keeper", *(pytest.param(name, marks=pytest.mark.nightly) for name in VICTIMS)],
)
def test_whoever_is_killed_nobody_is_left(victim, server, tmp_path):
    there = tmp_path / "there"
    sleeps = write(
        tmp_path / "sleeps.ipynb", f"open({str(there)!r}, 'w')\nimport time", "time.sleep(60)"
    )
    words = [
        sys.executable,
        "-m",
        "affnb.engine.cli",
        "run-notebook",
        sleeps,
        tmp_path / "log.ipynb",
    ]
    rule = psutil.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_until(there.exists)
        (stand_in,) = rule.children()
        (keeper,) = server.children()
        (kernel,) = keeper.children()
        at_work = {"rule": rule, "stand-in": stand_in, "keeper": keeper, "kernel": kernel}
        at_work[victim].kill()
        assert not psutil.wait_procs(at_work.values(), 10)[1]
        assert server.is_running()
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            rule.kill()
        rule.wait()


def test_a_server_ends_with_its_command(tmp_path):
    code = (
        "import os, time\n"
        "from affnb.engine.kernels import kernel_server\n"
        "with kernel_server([], dict(os.environ)) as variables:\n"
        "    print(variables['AFFNB_KERNELS'], flush=True)\n"
        "    time.sleep(60)\n"
    )
    if not hasattr(os, "pidfd_open"):
        pytest.skip("kernels are forked on Linux only")
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    address = command.stdout.readline().strip()
    wait_until(lambda: those_that_serve(address))
    command.kill()
    command.wait()
    wait_until(lambda: not those_that_serve(address))
