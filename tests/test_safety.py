"""Safe to open, and quiet: no pickle, no evaluated text, no shell, no network; parameters arrive as
they were written.
"""

import ast
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from affnb.engine.cli import run_notebook
from affnb.engine.core import notebooks_below
from errors import assert_one_line

ROOT = Path(__file__).resolve().parent.parent
# engine/course runs the cells of notebooks: that is what it shows
SOURCES = [
    *sorted((ROOT / "affnb").rglob("*.py")),
    *(path for name, path in notebooks_below(ROOT / "nbs").items() if name != "engine/course"),
]
FORBIDDEN = {"eval", "exec", "compile", "__import__", "input"}  # called by name
UNSAFE = {
    "torch.load",
    "torch.save",
    "torch.serialization.load",
    "pickle.load",
    "pickle.loads",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "urllib.request.urlopen",
    "numpy.fromstring",
}
STRANGERS = {"pickle", "dill", "joblib", "shelve", "marshal", "requests", "urllib"}
HARMLESS = {"urllib.parse"}  # text alone: it opens nothing


def tree_of(path):
    "The code of a module, or of a notebook's cells."
    return ast.parse(
        path.read_text()
        if path.suffix == ".py"
        else "\n".join(
            cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"
        )
    )


def unsafe(tree):
    "Calls that could run what is read, by whatever name they were imported."
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {
                alias.asname or alias.name.split(".")[0]: (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                for alias in node.names
            }
        if isinstance(node, ast.ImportFrom):
            modules |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    dangers = [
        f"import of {name}"
        for name in modules.values()
        if name.split(".")[0] in STRANGERS and name.rpartition(".")[0] not in HARMLESS
    ]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            first, _, rest = ast.unparse(node).partition(".")
            # handed over counts as called
            if f"{modules.get(first, first)}.{rest}".rstrip(".") in UNSAFE:
                dangers.append(f"line {node.lineno}: {ast.unparse(node)}")
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN:
            dangers.append(f"line {node.lineno}: {ast.unparse(node)[:100]}")
        dangers += [
            f"line {node.lineno}: {word.arg}"
            for word in node.keywords
            if word.arg in ("shell", "allow_pickle", "trust_remote_code")
            and getattr(word.value, "value", True) is not False
        ]
    return dangers


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_nothing_that_is_read_can_run(path):
    assert not unsafe(tree_of(path))


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load('x')",
        "from torch import load as read; read('x')",
        "import torch as t; t.load('x', weights_only=True)",
        "import pandas as pd; map(pd.read_pickle, 'x')",
        "from yaml import load; load('x')",
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "import subprocess; subprocess.run('x', shell=True)",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "from torch.hub import load_state_dict_from_url as get; get('x')",
        "import urllib.parse",
        "from urllib.request import urlopen",
        "from urllib import request",
    ],
)
def test_what_could_run_is_seen(line):
    assert unsafe(ast.parse(line))


@pytest.mark.parametrize("line", ["from urllib.parse import quote; quote('a b')"])
def test_what_only_changes_text_is_let_through(line):
    assert not unsafe(ast.parse(line))


HOSTILE = [
    '"; open("touched", "w"); "',
    "'; import os #",
    "{run}",
    "a\nb",
    "\\",
    "$(touch touched)",
    "`touch touched`",
    "é 顔 😀",
    "",
    "%s",
    "007",
    "-5",
    "--",
    "²",
    "None",
    "__import__('os').system('touch touched')",
]


def test_parameters_of_a_notebook_are_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nb = new_notebook(
        cells=[
            new_code_cell(
                "\n".join(f"p{i} = ''" for i in range(len(HOSTILE))),
                metadata=dict(tags=["parameters"]),
            ),
            new_code_cell(
                f"import json; json.dump([{', '.join(f'p{i}' for i in range(len(HOSTILE)))}],"
                " open('values.json', 'w'))"
            ),
        ]
    )
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(nb, tmp_path / "echo.ipynb")
    run_notebook(
        tmp_path / "echo.ipynb",
        tmp_path / "log.ipynb",
        **{f"p{i}": value for i, value in enumerate(HOSTILE)},
    )
    assert json.loads((tmp_path / "values.json").read_text()) == [
        int(v) if v in ("007", "-5") else v for v in HOSTILE
    ]
    assert not (tmp_path / "touched").exists()


def test_a_kernel_sees_the_gpus_that_its_rule_has_taken(tmp_path, monkeypatch):
    "Names are enough: no GPU is needed."
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "a,b")
    nb = new_notebook(cells=[new_code_cell("import os\nos.environ['CUDA_VISIBLE_DEVICES']")])
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(nb, tmp_path / "gpus.ipynb")
    run_notebook(tmp_path / "gpus.ipynb", tmp_path / "log.ipynb", gpus=1)
    (output,) = nbformat.read(tmp_path / "log.ipynb", 4).cells[0].outputs
    assert output.data["text/plain"] == "'a'"


def test_a_long_name_for_temporary_files_keeps_no_kernel_from_starting(tmp_path, monkeypatch):
    import tempfile

    (tmp_path / ("t" * 100)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 100)))
    nb = new_notebook(cells=[new_code_cell("1 + 1")])
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(nb, tmp_path / "sum.ipynb")
    run_notebook(tmp_path / "sum.ipynb", tmp_path / "log.ipynb")
    assert nbformat.read(tmp_path / "log.ipynb", 4).cells[0].outputs[0].data["text/plain"] == "2"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["at work", "before it has said a word"])
def test_a_kernel_that_is_killed_is_told_in_one_line(when, tmp_path):
    if when != "at work":
        (tmp_path / "sitecustomize.py").write_text(
            "import os, signal, sys\n"
            "if 'affnb.engine.kernels' in sys.orig_argv:\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
    nb = new_notebook(
        cells=[new_code_cell("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")]
    )
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(nb, tmp_path / "dies.ipynb")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "affnb.engine.cli",
            "run-notebook",
            tmp_path / "dies.ipynb",
            tmp_path / "log.ipynb",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("affnb: ")]
    assert done.returncode == 1, done.stderr
    remedy = "goes on" if when == "at work" else "-m ipykernel"
    assert_one_line("\n".join(errors), "kernel", "killed", remedy, tmp_path / "log.ipynb")
    assert "Traceback" not in done.stderr, done.stderr


def test_a_kernel_follows_its_rule(tmp_path, monkeypatch):
    """Not only the command: a kernel that outlived its rule could write files that Snakemake has
    taken away.
    """
    monkeypatch.setenv("AFFNB_CHAIN", "1")  # that of the command, as a rule is given it
    nb = new_notebook(cells=[new_code_cell("import os\n(os.environ['AFFNB_CHAIN'], os.getppid())")])
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(nb, tmp_path / "who.ipynb")
    run_notebook(tmp_path / "who.ipynb", tmp_path / "log.ipynb")
    followed, parent = ast.literal_eval(
        nbformat.read(tmp_path / "log.ipynb", 4).cells[0].outputs[0].data["text/plain"]
    )
    assert followed == str(parent) == str(os.getpid())


@pytest.mark.slow
def test_what_works_for_a_command_ends_with_it(tmp_path):
    "Rendering large pictures, with two processes: all end when the command is killed."
    from affnb.engine.cli import make_plan, plan_text, write_changed
    from affnb.engine.core import load_config

    plan = make_plan(load_config("tiny", ["bench_size=224"]), out=tmp_path)
    write_changed(f"{plan['run']}/plan.json", plan_text(plan))
    leader = subprocess.Popen(["sleep", "100"])
    rule = psutil.Popen(
        [sys.executable, "-m", "affnb.engine.cli", "render", plan["run"], "--workers", "2"],
        env={**os.environ, "AFFNB_CHAIN": str(leader.pid)},
        cwd=ROOT,
    )
    try:
        limit = time.time() + 60
        workers = []
        while not list(tmp_path.rglob("*.jpg")) and time.time() < limit:
            time.sleep(0.1)
        workers = rule.children(recursive=True)
        assert rule.is_running()
        assert len(workers) >= 2
        leader.kill()  # not waited for: a zombie is gone, too
        assert rule.wait(10) == 1
        assert not psutil.wait_procs(workers, 10)[1]
    finally:
        for process in (*workers, rule, leader):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        leader.wait()


def test_a_warning_reaches_the_terminal_where_ipykernel_is_only_imported(capsys):
    from affnb.engine.watch import show_warnings

    show_warnings("an arm", ["its loss is flat"])
    assert capsys.readouterr().err == "WARNING: an arm: its loss is flat\n"
