"""Safe to open, and quiet: no pickle, no evaluated text, no shell, no network; parameters arrive as they were written."""
import ast, contextlib, json, os, subprocess, sys, time
from pathlib import Path
import nbformat, psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from affnb.cli import run_notebook

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT/"affnb").glob("*.py"))
FORBIDDEN = {"eval", "exec", "compile", "__import__", "input"}                       # called by name
UNSAFE = {"torch.load", "torch.save", "pickle.load", "pickle.loads", "pd.read_pickle", "joblib.load", "yaml.load", "yaml.unsafe_load", "marshal.loads", "shelve.open", "os.system", "os.popen",
          "torch.hub.load", "urllib.request.urlopen", "requests.get", "dill.load", "np.fromstring"}


def dotted(node):
    parts = []
    while isinstance(node, ast.Attribute): parts.append(node.attr); node = node.value
    return ".".join([node.id, *parts[::-1]]) if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_nothing_that_is_read_can_run(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "dill", "joblib", "shelve", "marshal", "requests", "urllib"} & {name.split(".")[0] for name in names}, ast.unparse(node)
        if not isinstance(node, ast.Call): continue
        assert not (isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN) and dotted(node.func) not in UNSAFE, f"line {node.lineno}: {ast.unparse(node)[:100]}"
        for word in node.keywords:
            assert not (word.arg in ("shell", "allow_pickle", "trust_remote_code") and getattr(word.value, "value", True) is not False), f"line {node.lineno}: {ast.unparse(node)[:100]}"


HOSTILE = ['"; open("touched", "w"); "', "'; import os #", "{run}", "a\nb", "\\", "$(touch touched)", "`touch touched`", "é 顔 😀", "", "%s", "007", "-5", "--", "²", "None", "__import__('os').system('touch touched')"]

def test_parameters_of_a_notebook_are_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nb = new_notebook(cells=[new_code_cell("\n".join(f"p{i} = ''" for i in range(len(HOSTILE))), metadata=dict(tags=["parameters"])),
                             new_code_cell(f"import json; json.dump([{', '.join(f'p{i}' for i in range(len(HOSTILE)))}], open('said.json', 'w'))")])
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(nb, tmp_path/"echo.ipynb")
    run_notebook(tmp_path/"echo.ipynb", tmp_path/"log.ipynb", **{f"p{i}": value for i, value in enumerate(HOSTILE)})
    assert json.loads((tmp_path/"said.json").read_text()) == [int(v) if v in ("007", "-5") else v for v in HOSTILE] and not (tmp_path/"touched").exists()


def test_a_kernel_that_is_killed_is_told_in_one_line(tmp_path):
    nb = new_notebook(cells=[new_code_cell("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")])
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(nb, tmp_path/"dies.ipynb")
    done = subprocess.run([sys.executable, "-m", "affnb.cli", "run-notebook", tmp_path/"dies.ipynb", tmp_path/"log.ipynb"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if line.startswith("affnb: ")]
    assert done.returncode == 1 and len(said) == 1 and "its kernel was killed" in said[0] and "Traceback" not in done.stderr, done.stderr


def test_what_works_for_a_command_ends_with_it(tmp_path):
    "Rendering large pictures, with two processes: all end when the command is killed."
    from affnb.cli import make_plan, plan_text, write_changed
    from affnb.core import load_config
    plan = make_plan(load_config("tiny", ["bench_size=224"]), out=tmp_path)
    write_changed(f"{plan['run']}/plan.json", plan_text(plan))
    leader = subprocess.Popen(["sleep", "100"])
    rule = psutil.Popen([sys.executable, "-m", "affnb.cli", "render", plan["run"], "--workers", "2"], env={**os.environ, "AFFNB_CHAIN": str(leader.pid)}, cwd=ROOT)
    try:
        limit, workers = time.time() + 60, []
        while not list(tmp_path.rglob("*.jpg")) and time.time() < limit: time.sleep(.1)
        workers = rule.children(recursive=True)
        assert rule.is_running() and len(workers) >= 2
        leader.kill()   # not waited for: a zombie is gone, too
        assert rule.wait(10) == 1
        assert not psutil.wait_procs(workers, 10)[1]
    finally:
        for process in (*workers, rule, leader):
            with contextlib.suppress(psutil.NoSuchProcess): process.kill()
        leader.wait()


def test_a_warning_reaches_the_terminal_where_ipykernel_is_only_imported(capsys):
    import ipykernel.kernelapp
    from affnb.watch import shout
    shout("an arm", ["its loss is flat"])
    assert capsys.readouterr().err == "WARNING: an arm: its loss is flat\n"
