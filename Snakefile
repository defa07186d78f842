# The chain: which notebook needs what. `affnb reproduce` writes RUN/plan.json and calls this; to
# call it by hand:
#   snakemake --profile profiles/local --config run=data/runs/smoke
# One papermill call per rule. A rule depends on what a notebook or module *says*
# (RUN/sources/NAME.txt, a hash of its source), not on its file's time, so that running a notebook
# in Jupyter, or a fresh checkout, sets nothing off. Checkpoints (best, last) are no declared
# outputs: Snakemake deletes those of a killed rule, and a stage resumes from them.
import json
import re
import shlex
import sys
from pathlib import Path
from affnb.engine.kernels import thread_limits

RUN = str(Path(config.get("run", "data/runs/smoke")).resolve())
try:
    PLAN = json.loads(Path(RUN, "plan.json").read_text())
except FileNotFoundError:
    sys.exit(
        f"{RUN}/plan.json: not there: start the chain with `affnb reproduce`, which plans the run"
    )


def quote(text):
    "For a shell, through Snakemake's own braces."
    return shlex.quote(str(text)).replace("{", "{{").replace("}", "}}")


COMMAND = f"{quote(sys.executable)} -m affnb.engine.cli"
PACKED = PLAN["packed"]
RECORDS = f"{RUN}/records"
NOTEBOOKS = f"{workflow.basedir}/nbs"
TASKS = ["AU", "EXPR", "VA"]
SEEDS = PLAN["seeds"]
GROUPS = {int(seed): group for seed, group in PLAN["groups"].items()}
ARMS, HEADLINE, TABLES, TARGETS = (PLAN[key] for key in ("arms", "headline", "tables", "targets"))
THREADS = PLAN["config"]["threads"]  # of a process
CPUS = THREADS * PLAN["config"]["processes"]  # of a rule that trains an encoder
GPUS = PLAN["gpus"]  # of a rule that trains an encoder
GPU = min(1, GPUS)  # of another rule that computes
# head training fills no GPU: on one machine, several rules share one
SMALL = dict(gpu=GPU) if PLAN["elsewhere"] else dict(share=GPU)


# With a limit of jobs per second, Snakemake 9 looks at all waiting rules once a second for each
# rule that has ended: after a hundred rules, this takes a third of a core.
onstart:
    if not PLAN["elsewhere"]:
        workflow.scheduler.job_rate_limiter = None


def sources(*names):
    return [f"{RUN}/sources/{name}.txt" for name in ("settings", *names)]


def take(gpus, shared=False):
    "How a rule asks for GPUs; on another machine, a job is given GPUs of its own."
    if PLAN["elsewhere"] and gpus:
        return ""
    return f"--gpus {gpus}" + (" --shared" if shared else "")


def needs(files, seed):
    "Files below RUN; {0} stands for the seed, {1} and {2} for the others of its group."
    return [f"{RUN}/{file.format(*GROUPS[int(seed)])}" for file in files]


def notebook(name, gpus=0, shared=False, **parameters):
    "The command that runs a notebook. Threads are those of a process, however few cores there are."
    words = " ".join(f"{key}={value}" for key, value in parameters.items())
    threads = " ".join(f"{name}={value}" for name, value in thread_limits(THREADS).items())
    path = quote(f"{NOTEBOOKS}/{name}.ipynb")
    return (
        f"AFFNB_JOB={{log:q}} {threads} {COMMAND} run-notebook {take(gpus, shared)}"
        f" {path} {{log:q}} run_dir={quote(RUN)} {words}"
    )


def one_of(words):
    return "|".join(re.escape(word) for word in words)


LEARNING = (
    *("core", "lists", "data", "batches", "parallel", "runs", "checkpoints", "watch", "weights"),
    *("model", "train"),
)
HEAD_TRAINING = (*LEARNING, "metrics", "records", "heads")
DRAWING = ("painting", "faces", "statistics", "paths", "benchmark")
READING = ("core", "lists", "data", "batches", "runs", *DRAWING, "metrics", "records", "watch")
# what a training of an encoder or of heads leaves below seedN/
TRAINED = ["model", "features", "predictions"]


wildcard_constraints:
    seed=r"\d+",
    task=one_of(TASKS),
    mae=one_of(PLAN["autoencoders"]),
    arm=one_of(ARMS),
    table=one_of(TABLES),
    target=one_of(TARGETS),


def searches():
    return [
        f"{RECORDS}/search-{target}-seed{seed}.json"
        for target in TARGETS
        for seed in PLAN["seeds_of"][target]
    ]


def of_seeds(kind, seeds=SEEDS):
    return [f"{RECORDS}/{kind}-seed{seed}.json" for seed in seeds]


RECORDED = {  # what `--only table_NAME` can ask for: the records that it is drawn from
    "headline": of_seeds("arm-progressive"),
    **{name: of_seeds(f"table-{name}", PLAN["seeds_of"][name]) for name in TABLES},
    "search": searches(),
    "focus": of_seeds("focus"),
    "post": of_seeds("post"),
}


rule all:
    input:
        RECORDED[PLAN["only"]]
        if PLAN["only"]
        else [f"{RUN}/figures/table_headline.csv", f"{RUN}/model/README.md"],


if PLAN["benchmark"]:

    rule render:  # its folder is named by settings and code: what lies there is right
        output:
            f"{PLAN['folder']}/training_set_annotations.txt",
        threads: workflow.cores
        shell:
            f"{COMMAND} render {quote(RUN)} --workers {{threads}}"


rule pack:
    input:
        f"{PACKED}.txt",  # a hash of what the folder holds
        rules.render.output if PLAN["benchmark"] else [],
    output:
        # left in place when the folder has changed: frames that did not are taken over
        update(f"{PACKED}/manifest.json"),
    threads: workflow.cores
    shell:
        f"{COMMAND} pack {quote(RUN)} --workers {{threads}}"


rule describe:
    input:
        sources(*READING, "rendering", "weights", "train", "heads", "evaluate", "describe"),
        f"{PACKED}/manifest.json",
    output:
        f"{RECORDS}/data.json",
    priority: 2  # the report waits for it
    resources:
        gpu=GPU,
    shell:
        f"{COMMAND} describe {take(GPU)} {quote(RUN)}"


rule pretrain:
    input:
        sources("06_pretrain", *LEARNING),
        f"{RUN}/sources/arm-{{mae}}.txt",
        f"{PACKED}/manifest.json",
    output:
        f"{RUN}/seed{{seed}}/{{mae}}/model.safetensors",
        f"{RECORDS}/train-{{mae}}-seed{{seed}}.json",
        f"{RECORDS}/{{mae}}-seed{{seed}}.npz",
    log:
        notebook=f"{RUN}/notebooks/06_pretrain-{{mae}}-seed{{seed}}.ipynb",
    threads: CPUS
    resources:
        gpu=GPUS,
    priority: 4
    shell:
        notebook("06_pretrain", GPUS, seed="{wildcards.seed}", arm="{wildcards.mae}")


rule separate:
    input:
        sources("07_separate", *LEARNING, "metrics"),
        f"{RUN}/sources/arm-{{task}}.txt",
        f"{RUN}/seed{{seed}}/mae/model.safetensors",
    output:
        expand(f"{RUN}/seed{{{{seed}}}}/{{{{task}}}}/{{file}}.safetensors", file=TRAINED),
        f"{RECORDS}/train-{{task}}-seed{{seed}}.json",
    log:
        notebook=f"{RUN}/notebooks/07_separate-{{task}}-seed{{seed}}.ipynb",
    threads: CPUS
    resources:
        gpu=GPUS,
    priority: 3
    shell:
        notebook("07_separate", GPUS, seed="{wildcards.seed}", task="{wildcards.task}")


rule joint:  # an encoder for several tasks, or a head arm of the headline
    input:
        sources("09_joint", *LEARNING, "metrics"),
        f"{RUN}/sources/arm-{{arm}}.txt",
        f"{PACKED}/manifest.json",
        lambda w: sources("heads") if w.arm in PLAN["steps"] else [],
        lambda w: needs(ARMS[w.arm], w.seed),
    output:
        expand(f"{RUN}/seed{{{{seed}}}}/{{{{arm}}}}/{{file}}.safetensors", file=TRAINED),
        f"{RECORDS}/train-{{arm}}-seed{{seed}}.json",
    log:
        notebook=f"{RUN}/notebooks/09_joint-{{arm}}-seed{{seed}}.ipynb",
    threads: CPUS
    resources:
        gpu=GPUS,
    priority: 2
    shell:
        notebook("09_joint", GPUS, seed="{wildcards.seed}", arm="{wildcards.arm}")


rule search:
    input:
        sources("10_search", *HEAD_TRAINING),
        f"{RUN}/sources/space.txt",
        lambda w: needs(PLAN["search"], w.seed),
    output:
        multiext(f"{RECORDS}/search-{{target}}-seed{{seed}}", ".json", ".npz"),
        f"{RUN}/seed{{seed}}/search/{{target}}.json",
    log:
        notebook=f"{RUN}/notebooks/10_search-{{target}}-seed{{seed}}.ipynb",
    threads: THREADS
    resources:
        **SMALL,
    priority: 2  # the table of loss weights waits for it
    shell:
        notebook("10_search", GPU, True, seed="{wildcards.seed}", target="{wildcards.target}")


rule table:
    input:
        sources("engine/ablations", *HEAD_TRAINING),
        f"{RUN}/sources/table-{{table}}.txt",
        lambda w: needs(TABLES[w.table], w.seed),
    output:
        multiext(f"{RECORDS}/table-{{table}}-seed{{seed}}", ".json", ".npz"),
    log:
        notebook=f"{RUN}/notebooks/ablations-{{table}}-seed{{seed}}.ipynb",
    threads: THREADS
    resources:
        **SMALL,
    priority: 1
    shell:
        notebook("engine/ablations", GPU, True, seed="{wildcards.seed}", table="{wildcards.table}")


# by far the longest table: not left for the end, when nothing else is to do
use rule table as windows with:
    wildcard_constraints:
        table="temporal",
    priority: 2


ruleorder: windows > table


rule focus:
    input:
        sources("engine/focus", *READING, "weights", "model"),
        expand(f"{RUN}/seed{{{{seed}}}}/{{task}}/model.safetensors", task=TASKS),
    output:
        multiext(f"{RECORDS}/focus-seed{{seed}}", ".json", ".npz"),
    log:
        notebook=f"{RUN}/notebooks/focus-seed{{seed}}.ipynb",
    priority: 2  # long, and needed by the report alone: not left for the end
    threads: THREADS
    resources:
        **SMALL,
    shell:
        notebook("engine/focus", GPU, True, seed="{wildcards.seed}")


rule evaluate:
    input:
        sources("11_evaluate", *READING, "weights", "train", "heads", "describe"),
        expand(
            f"{RUN}/seed{{{{seed}}}}/{{model}}/predictions.safetensors", model=[*TASKS, *HEADLINE]
        ),
        expand(f"{RECORDS}/train-{{model}}-seed{{{{seed}}}}.json", model=[*TASKS, *HEADLINE]),
    output:
        expand(
            f"{RECORDS}/arm-{{arm}}-seed{{{{seed}}}}.{{end}}",
            arm=["separate", *HEADLINE, "trivial", "pixels"],
            end=["json", "npz"],
        ),
        multiext(f"{RECORDS}/post-seed{{seed}}", ".json", ".npz"),
        f"{RECORDS}/timeline-seed{{seed}}.csv",
        f"{RUN}/seed{{seed}}/submission.txt",
    log:
        notebook=f"{RUN}/notebooks/11_evaluate-seed{{seed}}.ipynb",
    priority: 2  # the report waits for it
    threads: THREADS
    resources:
        **SMALL,
    shell:
        notebook("11_evaluate", GPU, True, seed="{wildcards.seed}")


# A folder that `affnb predict` takes: the headline's last arm, of the first seed, with the encoders
# that it needs.
rule model:
    input:
        sources("core", "weights", "model", "arms", "heads", "metrics", "records", "tables"),
        sources("calibration", "predict"),
        needs(ARMS["progressive"], SEEDS[0]),
        RECORDED["headline"],
        expand(
            f"{RUN}/seed{SEEDS[0]}/{{model}}/model.safetensors", model=[*TASKS, "progressive"]
        ),
        f"{RUN}/seed{SEEDS[0]}/progressive/predictions.safetensors",
    output:
        f"{RUN}/model/README.md",
    shell:
        f"{COMMAND} leave-model {quote(RUN)} {quote(f'{RUN}/model')}"


rule report:
    input:
        sources("engine/report", "core", "metrics", "records", "compare", "watch", "tables"),
        sources("claims", "findings", "pictures", "results"),
        f"{RECORDS}/data.json",
        *RECORDED.values(),
        of_seeds("train-mae"),
    output:
        f"{RUN}/figures/table_headline.csv",
    log:
        notebook=f"{RUN}/notebooks/report.ipynb",
    threads: workflow.cores  # tables are judged side by side
    shell:
        notebook(
            "engine/report",
            records_dir=quote(RECORDS),
            figures_dir=quote(f"{RUN}/figures"),
            profile=PLAN["profile"],
        )
