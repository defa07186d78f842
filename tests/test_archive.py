"""The archive for ten years: what is in it, how it is described, that it can be checked without
affnb, and that its tables can be rebuilt with its own code and without a network.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import unquote
import pandas as pd
import pytest
from rocrate.rocrate import ROCrate
from affnb.engine.archive import MANIFEST, METADATA, check_sums, find_published, find_run
from affnb.engine.archive import read_author, rebuild, write_archive
from affnb.engine.cli import main
from affnb.engine.core import AffnbError, UsageError, read_json, write_json
from affnb.engine.records import read_record, write_record
from errors import assert_error, assert_one_line
from in_step import ROOT

NAMES = ("settings.ini", "Snakefile", "Makefile", "pyproject.toml", "uv.lock", "CITATION.cff")
DATE = "2026-11-26T12:00:00+01:00"
ALONE = ["unshare", "--map-root-user", "--net"]
# runs the words that follow, unless a server at a port of this machine ($0) can be reached
CUT_OFF = '(exec 3<>"/dev/tcp/127.0.0.1/$0") 2>/dev/null && exit 99; exec "$@"'


def git(folder, *words):
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    own |= dict(GIT_AUTHOR_DATE=DATE, GIT_COMMITTER_DATE=DATE)
    settings = ("-c", "user.name=somebody", "-c", "user.email=nobody@localhost")
    settings += ("-c", "core.excludesFile=/dev/null", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *settings, *words], cwd=folder, env=own, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def make_project(root, figures="table_*"):
    "A small project with the published results of smoke, at a commit of its own."
    shutil.copytree(ROOT / "affnb", root / "affnb", ignore=shutil.ignore_patterns("__pycache__"))
    for name in NAMES:
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "data/records/smoke", root / "data/records/smoke")
    (root / "figures/smoke").mkdir(parents=True)
    for path in (ROOT / "figures/smoke").glob(figures):
        shutil.copy(path, root / "figures/smoke" / path.name)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "all of it")
    return root


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "Its tables without the figures, which are large."
    return make_project(tmp_path_factory.mktemp("project") / "affnb")


@pytest.fixture
def inside(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


def archive(project, target, out=None, profile="smoke"):
    "What the archive says of itself."
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        return write_archive(target, find_published(profile, out))


@pytest.fixture(scope="module")
def made(project, tmp_path_factory):
    "An archive, and the lines that were said of it."
    target = tmp_path_factory.mktemp("made") / "crate"
    return target, archive(project, target)


@pytest.fixture(scope="module")
def crate(made):
    return made[0]


def files_in(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def sums_of(folder):
    "Name -> SHA-256, by the program that most readers have."
    words = ["sha256sum", *sorted(files_in(folder))]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    return {line.split("  ", 1)[1]: line.split()[0] for line in done.stdout.splitlines()}


def copied_project(project, target):
    shutil.copytree(project, target)
    return target


# -- what is in it ---------------------------------------------------------------------------------


def test_every_file_is_described_and_every_description_is_true(crate):
    "Read with the library: sizes and hashes hold, and no file is beside the description."
    described = ROCrate(crate)
    sums = sums_of(crate)
    folders = []
    names = {METADATA}
    for entity in described.data_entities:
        name = unquote(entity.id)
        if "Dataset" in entity.type:
            assert (crate / name).is_dir(), name
            folders.append(name)
            continue
        names.add(name)
        assert (crate / name).is_file(), name
        if name != MANIFEST:  # which cannot hold its own
            assert entity["sha256"] == sums[name], name
            assert int(entity["contentSize"]) == (crate / name).stat().st_size, name
        assert "/" in entity["encodingFormat"]
    assert sorted(folders) == ["code/", "figures/", "records/"]
    beside = set(files_in(crate)) - names
    assert beside, "the files of the code are described together"
    assert all(name.startswith("code/") for name in beside), beside
    assert {"README.md", "Containerfile", "rebuild.py", "uv.lock"} < names
    assert "figures/table_claims.md" in names
    assert "records/arm-joint+temporal-seed0.npz" in names
    headline = described.get("figures/table_headline.csv")
    assert headline["description"].startswith("Synthetic results")


def test_the_description_says_who_when_and_how(crate, project):
    described = ROCrate(crate)
    root = described.root_dataset
    assert "smoke" in root["name"]
    assert root["license"].id == "https://spdx.org/licenses/Apache-2.0"
    assert [who["name"] for who in root["author"]] == ["The affnb authors"]
    assert root["author"][0].type == "Organization"
    assert root["citation"][0].id == "https://arxiv.org/abs/2407.16945"
    assert root["datePublished"] == DATE
    assert root["conformsTo"].id.startswith("https://w3id.org/ro/wfrun/process/")
    training, report = root["mentions"]
    assert training.type == report.type == "CreateAction"
    code = described.get("code/")
    assert report["instrument"] == code
    assert report["object"].id == "records/"
    assert report["result"].id == "figures/"
    assert [made.id for made in training["result"]] == ["records/"]
    assert [used.id for used in training["object"]] == ["code/settings.ini", "#data"]
    # trained by an earlier commit than this small project has
    trained = read_json(project / "data/records/smoke/arm-joint-seed0.json")["commit"]
    assert training["instrument"]["version"] == trained
    assert code["version"] == git(project, "rev-parse", "HEAD")


def test_the_code_is_that_of_its_commit(crate, project, tmp_path):
    "Git's own hash of the archived files is the one that the description gives (its SWHID)."
    shutil.copytree(crate / "code", tmp_path / "code")
    git(tmp_path / "code", "init", "--quiet")
    git(tmp_path / "code", "add", "--all", "--force")
    tree = git(tmp_path / "code", "write-tree")
    assert tree == git(project, "rev-parse", "HEAD^{tree}")
    assert f"swh:1:dir:{tree}" in ROCrate(crate).get("code/")["identifier"]


def test_results_are_those_that_are_published(crate, project):
    for name, place in (("records", "data/records/smoke"), ("figures", "figures/smoke")):
        ours, theirs = files_in(crate / name), files_in(project / place)
        assert ours.keys() == theirs.keys()
        for key in ours:
            text = theirs[key].read_bytes()
            if key.endswith(".md"):
                text = text.replace(b"](../../data/records/smoke/", b"](../records/")
            assert ours[key].read_bytes() == text, key


def linked(table):
    "The files that a table's Markdown leads to, as they are written in it."
    return re.findall(r"\]\(([^)]*)\)", table.read_text().splitlines()[-1])


def test_the_links_of_archived_tables_lead_to_archived_records(crate):
    for name in ("table_headline", "table_claims"):
        links = linked(crate / f"figures/{name}.md")
        assert links
        assert all((crate / "figures" / unquote(link)).is_file() for link in links)


def test_packages_are_locked_with_hashes(crate, made):
    assert (crate / "uv.lock").read_bytes() == (ROOT / "uv.lock").read_bytes()
    container = (crate / "Containerfile").read_text()
    python = read_json(ROOT / "data/records/smoke/arm-joint-seed0.json")["versions"]["python"]
    assert f"FROM docker.io/library/python:{python}-slim" in container
    pinned = container.split("pip install ")[1].split()[0]
    assert pinned.startswith("uv==")
    assert pinned in (ROOT / "Makefile").read_text()
    if not (crate / "pylock.toml").exists():
        assert any("pylock.toml: left out" in line for line in made[1])
        pytest.skip("no uv here")
    lock = tomllib.loads((crate / "pylock.toml").read_text())
    versions = {package["name"]: package.get("version") for package in lock["packages"]}
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    assert versions["pandas"] in [p["version"] for p in packages if p["name"] == "pandas"]
    assert "affnb" not in versions
    for package in lock["packages"]:
        for file in package.get("wheels", []) + [package.get("sdist")] * ("sdist" in package):
            assert len(file["hashes"]["sha256"]) == 64


def test_models_are_archived_where_a_run_has_left_them(project, made, tmp_path):
    assert any(line.startswith("models: none in") for line in made[1])
    out = tmp_path / "out"
    for name in ("data/records/smoke", "figures/smoke"):
        shutil.copytree(project / name, out / name)
    (out / "data/models/smoke/progressive").mkdir(parents=True)
    (out / "data/models/smoke/progressive/config.json").write_text("{}")
    (out / "figures/smoke/.table_x.csv.abcdefgh").write_text("what a killed writer left")
    lines = archive(project, tmp_path / "crate", out)
    assert not any("models: none" in line for line in lines)
    described = ROCrate(tmp_path / "crate")
    assert described.get("models/progressive/config.json")["contentSize"] == "2"
    training = described.root_dataset["mentions"][0]
    assert [entity.id for entity in training["result"]] == ["records/", "models/"]
    assert not list((tmp_path / "crate").rglob("*.abcdefgh"))


# -- checked, the same again, rebuilt --------------------------------------------------------------


def test_sums_are_checked_without_affnb(crate, tmp_path):
    "`sha256sum --check` knows every file but the manifest itself, and finds a changed one."
    check = ["sha256sum", "--check", "--strict", MANIFEST]
    done = subprocess.run(check, cwd=crate, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == len(files_in(crate)) - 1 == check_sums(crate)
    shutil.copytree(crate, tmp_path / "changed")
    with open(tmp_path / "changed/records/arm-joint-seed0.json", "a") as file:
        file.write(" ")
    assert subprocess.run(check, cwd=tmp_path / "changed", capture_output=True).returncode == 1
    with pytest.raises(AffnbError) as error:
        rebuild(tmp_path / "changed", tmp_path / "out")
    assert_error(error, tmp_path / "changed/records/arm-joint-seed0.json", "changed")
    (tmp_path / "changed/records/arm-joint-seed0.json").unlink()
    with pytest.raises(AffnbError) as error:
        check_sums(tmp_path / "changed")
    assert_error(error, tmp_path / "changed/records/arm-joint-seed0.json", "missing")
    assert not (tmp_path / "out").exists()


def test_the_same_run_gives_the_same_archive(project, crate, tmp_path):
    archive(project, tmp_path / "again")
    for name in (METADATA, MANIFEST):  # and with it every other file
        assert (tmp_path / "again" / name).read_bytes() == (crate / name).read_bytes()


def run_rebuild(crate, folder, *words):
    """What `rebuild.py` says in a folder, cut off from the network, on all cores; the clone is
    offered to it as another affnb.
    """
    if not shutil.which("unshare") or subprocess.run([*ALONE, "true"]).returncode:
        pytest.skip("the network cannot be cut here")
    names = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        watched = ["bash", "-c", CUT_OFF, str(server.getsockname()[1])]
        assert subprocess.run([*watched, "true"]).returncode == 99, "with a network it is reached"
        done = subprocess.run(
            [*ALONE, *watched, sys.executable, crate / "rebuild.py", *words],
            cwd=folder,
            env=names | dict(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_table_is_rebuilt_without_a_network_by_the_code_of_the_archive(crate, tmp_path):
    before = files_in(crate).keys()
    said = run_rebuild(crate, ROOT, tmp_path / "out", "--only", "table_headline")
    assert said.splitlines()[0] == f"code: {crate / 'code' / 'affnb'}"
    rebuilt = (tmp_path / "out" / "table_headline.csv").read_bytes()
    assert rebuilt == (ROOT / "figures/smoke/table_headline.csv").read_bytes()
    assert files_in(crate).keys() == before, "rebuilding leaves the archive as it is"


@pytest.mark.nightly
def test_the_whole_report_is_rebuilt_byte_for_byte(tmp_path):
    archive(make_project(tmp_path / "affnb", "*"), tmp_path / "crate")
    said = run_rebuild(tmp_path / "crate", tmp_path)  # into `rebuilt`
    ours, theirs = files_in(tmp_path / "rebuilt"), files_in(tmp_path / "crate/figures")
    assert f"{len(theirs)} files in rebuilt" in said
    assert theirs.keys() == files_in(ROOT / "figures/smoke").keys()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].read_bytes() == theirs[name].read_bytes() for name in ours)


def shifted(table):
    return table.assign(AU=table["AU"] + 0.002).to_csv(index=False)


def renamed(table):
    return table.to_csv(index=False).replace("progressive", "regressive")


@pytest.mark.parametrize("change,how", [(shifted, "by at most 0.002"), (renamed, "words")])
def test_a_table_that_comes_out_otherwise_is_named(crate, tmp_path, change, how):
    "A table that the records do not give, with a manifest that was made to fit."
    shutil.copytree(crate, tmp_path / "crate")
    table = tmp_path / "crate/figures/table_headline.csv"
    whole = pd.read_csv(table)
    table.write_text(change(whole))
    sums = sums_of(tmp_path / "crate")
    del sums[MANIFEST]
    lines = [f"{digest}  {name}\n" for name, digest in sums.items()]
    (tmp_path / "crate" / MANIFEST).write_text("".join(lines))
    with pytest.raises(AffnbError) as error:
        rebuild(tmp_path / "crate", tmp_path / "out", "table_headline")
    assert_error(error, tmp_path / "out", ["1 of 6", "table_headline.csv", how], "uv.lock")


# -- other ways to it ------------------------------------------------------------------------------


def test_the_command_says_how_large_it_is(inside, tmp_path, capsys):
    target = tmp_path / "crate.zip"
    assert main(["archive", str(target)]) == 0
    said = capsys.readouterr().out
    size = next(line for line in said.splitlines() if line.startswith("size: "))
    with zipfile.ZipFile(target) as file:
        infos = [info for info in file.infolist() if not info.is_dir()]
    whole = sum(info.file_size for info in infos)
    assert f"size: {whole / 1e6:.1f} MB in {len(infos):,} files" in size
    assert "records" in size
    assert f"zip: {target.stat().st_size / 1e6:.1f} MB" in said
    assert "smoke" in ROCrate(target).root_dataset["name"]


def test_without_git_the_sources_are_copied_and_that_is_said(project, crate, tmp_path):
    bare = copied_project(project, tmp_path / "bare")
    shutil.rmtree(bare / ".git")
    lines = archive(bare, tmp_path / "crate")
    assert any("no git" in line for line in lines)
    modules = files_in(crate / "code/affnb")
    assert files_in(tmp_path / "crate/code/affnb").keys() == modules.keys()
    described = ROCrate(tmp_path / "crate")
    assert "identifier" not in described.get("code/")
    assert described.root_dataset["datePublished"]
    archive(bare, tmp_path / "again")
    first, second = (tmp_path / name / METADATA for name in ("crate", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_patch_leads_to_the_code_that_trained(project, tmp_path):
    "Where git knows the commit of the records, applying the patch gives its files."
    later = copied_project(project, tmp_path / "later")
    trained = git(later, "rev-parse", "HEAD")
    for path in (later / "data/records/smoke").glob("*.json"):
        record = read_json(path)
        if "commit" in record:
            write_json(path, record | dict(commit=trained))
    old = (later / "affnb/claims.py").read_text()
    (later / "affnb/claims.py").write_text(old + "\n# one more line\n")
    git(later, "commit", "--all", "--quiet", "--message", "later")
    lines = archive(later, tmp_path / "crate")
    patch = f"code-of-{trained[:12]}.patch"
    assert any(patch in line for line in lines)
    assert ROCrate(tmp_path / "crate").get(patch)["encodingFormat"] == "text/x-diff"
    code = tmp_path / "crate/code"
    assert (code / "affnb/claims.py").read_text() != old
    git(code, "init", "--quiet")
    git(code, "apply", f"../{patch}")
    assert (code / "affnb/claims.py").read_text() == old


# -- a run of one table ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_table(project, tmp_path_factory):
    "The folder in which `affnb reproduce --only table_mine --set lr=0.004 --out OUT` leaves a run."
    run = tmp_path_factory.mktemp("out") / "data/runs/smoke-123"
    record = read_record(project / "data/records/smoke/table-fusion-seed0.json")
    config = record["config"] | dict(lr=0.004, bootstrap=100)
    arms = [arm | dict(arm=f"mine {k}") for k, arm in enumerate(record["arms"])]
    mine = dict(name="mine", arms=arms, pairs=[["mine 1", "mine 0"]], config=config)
    write_record(run / "records/table-mine-seed0.json", record | mine)
    return run


AUTHORS = ("A. Student <https://orcid.org/0000-0002-1825-0097>", "B. Teacher")


@pytest.fixture(scope="module")
def alone(project, one_table, tmp_path_factory):
    "An archive of this run, made by two people, and the lines that were said of it."
    target = tmp_path_factory.mktemp("alone") / "crate"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        makers = tuple(map(read_author, AUTHORS))
        return target, write_archive(target, find_run(one_table / "records"), makers)


def test_a_run_of_one_table_is_archived_as_such(alone, one_table):
    crate, lines = alone
    command = "affnb reproduce --profile smoke --set lr=0.004 --set bootstrap=100"
    command += " --only table_mine"
    assert lines[0] == f"archived: table_mine alone (profile smoke), from {one_table / 'records'}"
    readme = (crate / "README.md").read_text()
    assert readme.startswith("# affnb: table_mine alone (profile smoke)\n")
    assert f"\n    {command}\n" in readme
    assert "tests no claim" in readme
    assert "rebuilt --only table_mine\n" in readme
    described = ROCrate(crate)
    root = described.root_dataset
    assert root["name"] == "affnb: table_mine alone (profile smoke)"
    assert f"`{command}`" in root["description"]
    assert command in root["mentions"][0]["description"]
    assert [path.name for path in (crate / "records").iterdir()] == [
        "table-mine-seed0.json",
        "table-mine-seed0.npz",
    ]
    tables = {path.stem for path in (crate / "figures").glob("table_*.csv")}
    assert tables == {"table_mine", "table_mine_pairs", "table_warnings"}
    links = linked(crate / "figures/table_mine.md")
    assert [(crate / "figures" / link).resolve().name for link in links] == [
        path.name for path in sorted((crate / "records").iterdir())
    ]


def test_who_made_the_run_stands_first_and_the_authors_of_the_software_stay(alone):
    crate, lines = alone
    assert "author: A. Student, B. Teacher, The affnb authors" in lines
    described = ROCrate(crate)
    makers = ["https://orcid.org/0000-0002-1825-0097", "#B.%20Teacher"]
    root = described.root_dataset
    assert [who.id for who in root["author"]] == [*makers, "#The%20affnb%20authors"]
    assert root["author"][0]["name"] == "A. Student"
    assert root["author"][0].type == "Person"
    assert [who.id for who in root["mentions"][0]["agent"]] == makers
    assert [who["name"] for who in described.get("code/")["author"]] == ["The affnb authors"]
    tree = described.get("code/")["identifier"][1]
    assert tree.startswith("swh:1:dir:")
    assert tree in (crate / "README.md").read_text(), "what to cite"


def test_a_run_of_one_table_is_rebuilt_as_it_was_archived(alone, tmp_path):
    crate, _ = alone
    assert check_sums(crate) == len(files_in(crate)) - 1
    made = rebuild(crate, tmp_path / "out")
    assert {path.name for path in made} == files_in(crate / "figures").keys()


def test_whose_run_it_is_is_asked_for_where_it_is_not_the_projects(inside, one_table, tmp_path):
    lines = write_archive(tmp_path / "crate", find_run(one_table / "records"))
    assert "author: The affnb authors; --author says who made the run" in lines
    assert "agent" not in ROCrate(tmp_path / "crate").root_dataset["mentions"][0]


def test_an_author_is_a_name_that_may_have_a_link():
    assert read_author(" Ada  Lovelace ") == {"family-names": "Ada  Lovelace"}
    assert read_author("Ada <https://a.org/1>") == {
        "family-names": "Ada",
        "orcid": "https://a.org/1",
    }


# -- refused ---------------------------------------------------------------------------------------


def test_code_that_is_of_no_commit_is_refused_and_results_are_not(project, tmp_path):
    changed = copied_project(project, tmp_path / "changed")
    record = changed / "data/records/smoke/focus-seed0.json"
    write_json(record, read_json(record) | dict(frames=1))
    (changed / "notes.txt").write_text("no code")
    archive(changed, tmp_path / "crate")
    assert json.loads((tmp_path / "crate/records/focus-seed0.json").read_text())["frames"] == 1
    (changed / "affnb/mine.py").write_text("new = True\n")
    with pytest.raises(AffnbError) as error:
        archive(changed, tmp_path / "refused")
    assert_error(error, changed.resolve(), "affnb/mine.py", "commit")
    (changed / "affnb/mine.py").unlink()
    with open(changed / "settings.ini", "a") as file:
        file.write("\n")
    with pytest.raises(AffnbError) as error:
        archive(changed, tmp_path / "refused")
    assert_error(error, changed.resolve(), "settings.ini", "commit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed", "crate"]


@pytest.mark.parametrize(
    "words,facts",
    [
        (["used"], ["used", "there already"]),
        (["new", "--profile", "smoky"], ["smoky", "did you mean `smoke`"]),
        (["new", "--profile", "full"], ["data/records/full", "no records", "affnb reproduce"]),
        (["new", "--out", "elsewhere"], ["elsewhere/data/records/smoke", "no records"]),
        (["new", "--out", "half"], ["half/figures/smoke", "no tables"]),
        (["new", "--out", "OUT"], ["data/records/smoke", "--records", "smoke-123/records"]),
        (["new", "--records", "OUT/data/runs/smoke-123"], ["holds a run", "smoke-123/records"]),
        (["new", "--records", "elsewhere"], ["elsewhere", "no such folder"]),
        (["new", "--records", "used"], ["used", "no record"]),
        (["new", "--records", "used", "--profile", "smoke"], ["--records", "--profile"]),
        (["new", "--author", "<https://orcid.org/1>"], ["--author", "no name"]),
        (["new", "--author", "A. Student <me>"], ["--author", "A. Student <me>"]),
    ],
)
def test_what_cannot_be_archived_is_named_in_one_line(
    inside, one_table, tmp_path, capsys, words, facts
):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/thesis.txt").write_text("all of it")
    shutil.copytree(inside / "data/records/smoke", tmp_path / "half/data/records/smoke")
    places = ("used", "new", "elsewhere", "half")
    words = [str(tmp_path / word) if word in places else word for word in words]
    words = [word.replace("OUT", str(one_table.parent.parent.parent)) for word in words]
    assert main(["archive", *words]) in (1, 2)
    assert_one_line(capsys.readouterr().err, *facts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "used"]
    assert (tmp_path / "used/thesis.txt").read_text() == "all of it"


def test_without_rocrate_one_line_says_how_to_get_it(inside, tmp_path, capsys, monkeypatch):
    from affnb.engine import archive as room

    monkeypatch.setattr(room, "find_spec", lambda name: None)
    assert main(["archive", str(tmp_path / "crate")]) == 1
    assert_one_line(capsys.readouterr().err, "rocrate is not installed", "pip install")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_rebuilt_is_named(crate, tmp_path):
    with pytest.raises(AffnbError) as error:
        rebuild(tmp_path)
    assert_error(error, tmp_path, MANIFEST)
    with pytest.raises(UsageError) as error:
        rebuild(crate, tmp_path / "out", "table_hedline")
    assert_error(error, "--only table_hedline", "table_headline")
    with pytest.raises(UsageError) as error:
        rebuild(crate, Path(crate) / "figures", "table_headline")
    assert_error(error, f"OUT = {crate / 'figures'}", "archive itself")


def test_records_without_an_origin_or_a_project_without_an_author_are_refused(project, tmp_path):
    poor = copied_project(project, tmp_path / "poor")
    shutil.rmtree(poor / ".git")
    (poor / "CITATION.cff").write_text("title: a title\nlicense: MIT\n")
    with pytest.raises(AffnbError) as error:
        archive(poor, tmp_path / "crate")
    assert_error(error, "CITATION.cff", "authors")
    for path in (poor / "data/records/smoke").glob("*.json"):
        write_json(path, dict(record="luck"))
    with pytest.raises(AffnbError) as error:
        archive(poor, tmp_path / "crate")
    assert_error(error, poor.resolve() / "data/records/smoke", "no record")
    assert [path.name for path in tmp_path.iterdir()] == ["poor"]
