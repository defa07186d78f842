# The chain: which notebook needs what. `affnb reproduce` writes RUN/plan.json and calls this; to call it by hand:
#   snakemake --profile profiles/local --config run=data/runs/smoke
# One papermill call a rule. A rule depends on what a notebook or module *says* (RUN/sources/NAME.txt, a hash of its
# source), not on its file's time, so that running a notebook in Jupyter, or a fresh checkout, sets nothing off.
# Checkpoints (best, last) are no declared outputs: Snakemake deletes those of a killed rule, and a stage resumes from them.
import json, sys
from pathlib import Path

RUN = str(Path(config.get("run", "data/runs/smoke")).resolve())
try: PLAN = json.loads(Path(RUN, "plan.json").read_text())
except FileNotFoundError: sys.exit(f"{RUN}/plan.json: not there: start the chain with `affnb reproduce`, which plans the run")
PYTHON, PACKED, RECORDS = sys.executable, PLAN["packed"], f"{RUN}/records"
NOTEBOOKS = f"{workflow.basedir}/nbs"
TASKS, ARMS = ["AU", "EXPR", "VA"], PLAN["arms"]
THREADS, GPUS = PLAN["config"]["threads"], PLAN["gpus"]   # of a process; of a rule that learns
CPUS, GPU = THREADS*PLAN["config"]["processes"], min(1, GPUS)   # of a rule that learns; of one that computes without learning

def said(*names): return [f"{RUN}/sources/{name}.txt" for name in ("settings", *names)]
def take(gpus): return "" if PLAN["elsewhere"] and gpus else f"--gpus {gpus}"   # elsewhere a job is given GPUs of its own
def notebook(name, gpus=0, **parameters):
    words = " ".join(f"{k}={v}" for k, v in parameters.items())
    variables = " ".join(f"{library}_NUM_THREADS={THREADS}" for library in ("OMP", "MKL", "OPENBLAS"))   # of a process, however few cores there are
    return f"AFFNB_JOB='{{log}}' {variables} '{PYTHON}' -m affnb.cli run-notebook {take(gpus)} '{NOTEBOOKS}/{name}.ipynb' '{{log}}' run_dir='{RUN}' {words}"

LEARNING = ("core", "data", "parallel", "model", "train")

wildcard_constraints: seed=r"\d+", task="|".join(TASKS), arm="|".join(a.replace("+", r"\+") for a in ARMS)

rule all:
    input: f"{RUN}/figures/table_headline.csv"

if PLAN["benchmark"]:
    rule render:   # its folder is named by settings and code: what lies there is right
        output: f"{PLAN['folder']}/training_set_annotations.txt"
        threads: workflow.cores
        shell: f"'{PYTHON}' -m affnb.cli render '{RUN}' --workers {{threads}}"

rule pack:
    input: f"{PACKED}.txt", rules.render.output if PLAN["benchmark"] else []   # the first is a hash of what the folder holds
    output: update(f"{PACKED}/manifest.json")   # left in place when the folder has changed: frames that did not are taken over
    threads: workflow.cores
    shell: f"'{PYTHON}' -m affnb.cli pack '{RUN}' --workers {{threads}}"

rule describe:
    input: said("core", "data", "faces", "benchmark", "metrics", "train", "evaluate"), f"{PACKED}/manifest.json"
    output: f"{RECORDS}/data.json"
    resources: gpu=GPU
    shell: f"'{PYTHON}' -m affnb.cli describe {take(GPU)} '{RUN}'"

rule pretrain:
    input: said("06_pretrain", *LEARNING), f"{PACKED}/manifest.json"
    output: f"{RUN}/seed{{seed}}/mae/model.safetensors", f"{RECORDS}/train-mae-seed{{seed}}.json", f"{RECORDS}/mae-seed{{seed}}.npz"
    log: notebook=f"{RUN}/notebooks/06_pretrain-seed{{seed}}.ipynb"
    threads: CPUS
    resources: gpu=GPUS
    priority: 2
    shell: notebook("06_pretrain", GPUS, seed="{wildcards.seed}")

rule separate:
    input: said("07_separate", *LEARNING, "metrics"), f"{RUN}/seed{{seed}}/mae/model.safetensors"
    output: expand(f"{RUN}/seed{{{{seed}}}}/{{{{task}}}}/{{file}}.safetensors", file=["model", "features", "predictions"]),
            f"{RECORDS}/train-{{task}}-seed{{seed}}.json"
    log: notebook=f"{RUN}/notebooks/07_separate-{{task}}-seed{{seed}}.ipynb"
    threads: CPUS
    resources: gpu=GPUS
    priority: 1
    shell: notebook("07_separate", GPUS, seed="{wildcards.seed}", task="{wildcards.task}")

def joint_needs(wildcards):
    seed, needs = f"{RUN}/seed{wildcards.seed}", PLAN["arms"][wildcards.arm]
    return [f"{seed}/{need}" for need in needs]

rule joint:
    input: said("08_joint", *LEARNING, "metrics"), f"{PACKED}/manifest.json", joint_needs
    output: expand(f"{RUN}/seed{{{{seed}}}}/{{{{arm}}}}/{{file}}.safetensors", file=["model", "features", "predictions"]),
            f"{RECORDS}/train-{{arm}}-seed{{seed}}.json"
    log: notebook=f"{RUN}/notebooks/08_joint-{{arm}}-seed{{seed}}.ipynb"
    threads: CPUS
    resources: gpu=GPUS
    shell: notebook("08_joint", GPUS, seed="{wildcards.seed}", arm="{wildcards.arm}")

rule evaluate:
    input: said("11_evaluate", "core", "data", "faces", "benchmark", "metrics", "train"),
           expand(f"{RUN}/seed{{{{seed}}}}/{{model}}/predictions.safetensors", model=[*TASKS, *ARMS]),
           expand(f"{RECORDS}/train-{{model}}-seed{{{{seed}}}}.json", model=[*TASKS, *ARMS])
    output: expand(f"{RECORDS}/arm-{{arm}}-seed{{{{seed}}}}.json", arm=["separate", *ARMS, "trivial", "pixels"]),
            f"{RECORDS}/timeline-seed{{seed}}.csv", f"{RUN}/seed{{seed}}/submission.txt"
    log: notebook=f"{RUN}/notebooks/11_evaluate-seed{{seed}}.ipynb"
    threads: THREADS
    resources: gpu=GPU
    shell: notebook("11_evaluate", GPU, seed="{wildcards.seed}")

rule report:
    input: said("12_report", "core", "metrics"), f"{RECORDS}/data.json",
           expand(f"{RECORDS}/arm-progressive-seed{{seed}}.json", seed=PLAN["seeds"]),
           expand(f"{RECORDS}/train-mae-seed{{seed}}.json", seed=PLAN["seeds"])
    output: f"{RUN}/figures/table_headline.csv"
    log: notebook=f"{RUN}/notebooks/12_report.ipynb"
    shell: notebook("12_report", records_dir=f"'{RECORDS}'", figures_dir=f"'{RUN}/figures'", profile=PLAN["profile"])
