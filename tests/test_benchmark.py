"The benchmark: bytes, people, format, what is visible, and label statistics (see nbs/02_benchmark.ipynb)."
import dataclasses, hashlib, time
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from affnb.benchmark import HEADER, LISTS, Knobs, face_grid, hidden_labels, label_process, render, sample_identities, sample_views, write_benchmark
from affnb.core import AU_NAMES, AffnbError, generator

KNOBS = Knobs()
SMALL = dict(clips=40, clip_frames=4, long_videos=2, long_frames=40, validation_videos=6, validation_frames=30, test_videos=2, size=16)

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark")/"made"
    counts = write_benchmark(path, **SMALL, seed=3)
    return path, counts

@pytest.fixture(scope="module")
def labels(): return label_process(300, 400, generator("test", "labels"), KNOBS)

@pytest.fixture(scope="module")
def crowd():
    "64 people without noise: neutral, then each action unit alone; (64, 13, 3, 48, 48)."
    n, aus = 64, torch.cat([torch.zeros(1, 12), torch.eye(12)])
    people, views = sample_identities(n, generator("test", "crowd")), sample_views(n, generator("test", "views"))
    many = lambda values: {name: value.repeat_interleave(13, 0) for name, value in values.items()}
    return render(many(people), aus.repeat(n, 1), torch.tensor([[.1, .3]]).repeat(13*n, 1), many(views), 48).reshape(n, 13, 3, 48, 48)

def digest(path): return {str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(path.rglob("*")) if f.is_file()}
def rows_of(path, split): return [line.split(",") for line in (path/dict(LISTS)[split]).read_text().splitlines()[1:]]
def drawn(n, aus, va, size=48, seed=0):
    return render(sample_identities(n, generator(seed, "p")), aus, va, sample_views(n, generator(seed, "v")), size)

# ---- bytes and people

def test_same_seed_same_bytes_on_any_number_of_workers(folder, tmp_path):
    write_benchmark(tmp_path/"two", **SMALL, seed=3, workers=2)
    assert digest(tmp_path/"two") == digest(folder[0])

def test_another_seed_gives_other_people_and_labels(folder, tmp_path):
    write_benchmark(tmp_path/"other", **SMALL, seed=4)
    mine, other = (set(digest(path).values()) for path in (folder[0], tmp_path/"other"))
    assert not mine & other

def test_people_never_cross_a_split(folder):
    videos = {split: {row[0].split("/")[0] for row in rows_of(folder[0], split)} for split, _ in LISTS}
    assert sum(map(len, videos.values())) == len(set.union(*videos.values())) == 40 + 2 + 6 + 2
    faces = {name: tuple(sample_identities(1, generator(3, "video", name))["skin"][0].tolist()) for part in videos.values() for name in part}
    assert len(set(faces.values())) == len(faces)      # each video's person is drawn for it alone

# ---- the folder

def test_format(folder):
    path, counts = folder
    assert counts["train"] == dict(videos=42, frames=40*4 + 2*40) and counts["validation"] == dict(videos=6, frames=180) and counts["test"]["videos"] == 2
    for split, name in LISTS: assert (path/name).read_text().splitlines()[0] == HEADER
    for row in rows_of(path, "train") + rows_of(path, "validation"):
        assert len(row) == 16
        valence, arousal, expression, *units = row[1:]
        assert all(v == "-5" or -1 <= float(v) <= 1 for v in (valence, arousal)) and -1 <= int(expression) <= 7 and set(units) <= {"0", "1", "-1"}
        assert (units[0] == "-1") == (set(units) == {"-1"}) and (valence == "-5") == (arousal == "-5")
        video, frame = row[0].split("/")
        assert frame == f"{int(frame[:-4]):05d}.jpg"
    assert all(row[1:] == [""] for row in rows_of(path, "test"))
    assert all(row[1] != "-5" and row[4] != "-1" for row in rows_of(path, "validation"))       # in validation only expressions lack
    listed = {row[0] for split, _ in LISTS for row in rows_of(path, split)}
    there = {f"{f.parent.name}/{f.name}" for f in (path/"cropped_aligned").rglob("*.jpg")}
    assert there <= listed and len(listed - there) == counts["absent"]
    assert Image.open(next((path/"cropped_aligned").rglob("*.jpg"))).size == (16, 16)

def test_blemishes_at_their_rates(tmp_path):
    knobs = dataclasses.replace(KNOBS, duplicates=.2, absent=.1)
    counts = write_benchmark(tmp_path/"b", 60, 5, 0, 0, 4, 50, 1, size=8, seed=0, knobs=knobs)
    rows = [row[0] for split in ("train", "validation") for row in rows_of(tmp_path/"b", split)]
    assert .12 < (len(rows) - len(set(rows)))/len(set(rows)) < .28 and .05 < counts["absent"]/len(set(rows)) < .16

def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path/"thesis.txt").write_text("precious")
    for target in (tmp_path, tmp_path/"thesis.txt"):
        with pytest.raises(AffnbError, match="no benchmark") as error: write_benchmark(target, 1, 2, 0, 0, 1, 2, 0, size=8, seed=0)
        assert "\n" not in str(error.value)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"] and (tmp_path/"thesis.txt").read_text() == "precious"

def test_an_earlier_benchmark_is_replaced_and_a_failed_one_leaves_nothing(tmp_path):
    for seed in (0, 1): write_benchmark(tmp_path/"b", 2, 2, 0, 0, 1, 2, 0, size=8, seed=seed)
    before = digest(tmp_path/"b")
    with pytest.raises(Exception): write_benchmark(tmp_path/"b", 2, 2, 0, 0, 1, 2, 0, size=8, seed=2, knobs=dataclasses.replace(KNOBS, quality="no such quality"))
    assert digest(tmp_path/"b") == before and [f.name for f in tmp_path.iterdir()] == ["b"]

# ---- what is visible

REGION = {"AU1": (4, 24), "AU2": (4, 24), "AU4": (8, 26), "AU6": (16, 34), "AU7": (12, 28), "AU10": (24, 42), "AU12": (24, 44), "AU15": (28, 48),
          "AU23": (28, 46), "AU24": (28, 46), "AU25": (28, 46), "AU26": (24, 48)}   # image rows at 48 px

@pytest.mark.parametrize("name", AU_NAMES)
def test_every_unit_is_visible_in_its_region_on_everyone(crowd, name):
    change = (crowd[:, 1 + AU_NAMES.index(name)] - crowd[:, 0]).abs().amax(1)              # (64, 48, 48)
    top, bottom = REGION[name]
    assert change[:, top:bottom].flatten(1).amax(1).min() > .12
    assert (change[:, top:bottom].sum((1, 2))/change.sum((1, 2))).min() > .75              # and mostly there
    assert ((change > .06).flatten(1).sum(1)).min() >= 12                                 # on a dozen pixels or more

@pytest.mark.parametrize("one,other", [("AU25", "AU26"), ("AU23", "AU24"), ("AU6", "AU7"), ("AU1", "AU2"), ("AU12", "AU15"), ("AU10", "AU12")])
def test_units_that_are_confused_differ_on_everyone(crowd, one, other):
    a, b = (crowd[:, 1 + AU_NAMES.index(name)] for name in (one, other))
    assert ((a - b).abs().amax(1).flatten(1) > .08).sum(1).min() >= 12

@pytest.mark.parametrize("name", AU_NAMES)
def test_intensity_is_continuous_and_monotone(name):
    steps = torch.linspace(0, 1, 11)
    aus = torch.zeros(11, 12); aus[:, AU_NAMES.index(name)] = steps
    one = lambda values: {key: value.expand(11, *value.shape[1:]) for key, value in values.items()}
    for seed in range(4):
        people, view = sample_identities(1, generator(seed, "mono")), sample_views(1, generator(seed, "mono view"))
        faces = render(one(people), aus, torch.zeros(11, 2), one(view), 64)
        far = (faces - faces[0]).abs().mean((1, 2, 3))
        assert (far.diff() > 0).all() and far.diff().max() < .45*far[-1]

def test_affect_shows_in_a_single_face():
    n, aus = 64, torch.zeros(64, 12)
    low, high, glad = (drawn(n, aus, torch.tensor([pair]).repeat(n, 1)) for pair in ((0., 0.), (0., .8), (.8, 0.)))
    change = lambda a, b: (a - b).abs().amax(1)
    assert (change(low, high)[:, 14:26].flatten(1) > .05).sum(1).min() >= 15       # eyes open
    assert (change(low, glad) > .02).flatten(1).sum(1).min() >= 15

def test_corners_say_nothing():
    n = 200
    aus, va = torch.rand(n, 12, generator=generator(1)), torch.rand(n, 2, generator=generator(2))*2 - 1
    change = (drawn(n, aus, va) - drawn(n, torch.zeros(n, 12), torch.zeros(n, 2))).abs().amax(1)
    for rows in (slice(0, 5), slice(-5, None)):
        for columns in (slice(0, 5), slice(-5, None)): assert change[:, rows, columns].max() < .5/255      # not one grey level
    assert change.max() > .3

def test_a_batch_is_drawn_as_its_faces_alone():
    people, views = sample_identities(6, generator(0)), sample_views(6, generator(1))
    aus, va = torch.rand(6, 12, generator=generator(2)), torch.rand(6, 2, generator=generator(3))
    together = render(people, aus, va, views, 32)
    for i in range(6):
        alone = render({k: v[i:i+1] for k, v in people.items()}, aus[i:i+1], va[i:i+1], {k: v[i:i+1] for k, v in views.items()}, 32)
        assert torch.allclose(alone[0], together[i], atol=1e-5)

def test_grid_has_people_and_columns():
    images, people, columns = face_grid(3, 32)
    assert images.shape == (3, 19, 3, 32, 32) and len(people) == 3 and columns[1:13] == list(AU_NAMES) and 0 <= images.min() and images.max() <= 1

def test_cost():
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    try:
        spent = []
        for _ in range(6):
            people, views, aus, va = sample_identities(32, generator(0)), sample_views(32, generator(1)), torch.rand(32, 12), torch.rand(32, 2)
            start = time.process_time(); render(people, aus, va, views, 64, generator(2)); spent.append((time.process_time() - start)/32)
    finally: torch.set_num_threads(threads)
    assert min(spent) < .002

# ---- labels: the numbers of s-Aff-Wild2's validation labels

def test_expressions_and_units_have_the_real_statistics(labels):
    expression = labels.expression.flatten()
    shares = torch.bincount(expression, minlength=8)/len(expression)
    assert (shares - torch.tensor(KNOBS.shares)).abs().max() < .05
    given = torch.stack([labels.aus.flatten(0, 1)[expression == e].float().mean(0) for e in range(8)], 1)
    assert (given - torch.tensor(KNOBS.units)).abs().max() < .05
    assert abs((labels.expression.diff(dim=1) == 0).float().mean() - .99) < .01
    same = (labels.aus[:, 1:] == labels.aus[:, :-1]).float().mean((0, 1))
    for name, real in (("AU12", .95), ("AU25", .90), ("AU4", .97)): assert abs(same[AU_NAMES.index(name)] - real) < .02

@pytest.mark.parametrize("d,means,sds,lags", [(0, KNOBS.valence, KNOBS.valence_sd, (.99, .91, .70, .57)), (1, KNOBS.arousal, KNOBS.arousal_sd, (.98, .81, .51, .37))])
def test_affect_has_the_real_statistics(labels, d, means, sds, lags):
    va, expression = labels.va[..., d], labels.expression
    assert va.abs().max() <= 1
    for e in range(8):
        here = va[expression == e]
        assert abs(here.mean() - means[e]) < .12 and abs(here.std() - sds[e]) < .12
    centred = va - va.mean()
    for lag, real in zip((1, 5, 20, 50), lags):
        assert abs((centred[:, :-lag]*centred[:, lag:]).mean()/centred.var() - real) < .12
    between = centred.mean(1).var()/centred.var()
    assert abs(between - (.41, .31)[d]) < .10

def test_gaps_are_irregular_as_in_the_real_set(labels):
    gaps = labels.frame.diff(dim=1).flatten().float().numpy()
    assert np.quantile(gaps, [.1, .5]).tolist() == [1, 4] and abs(np.quantile(gaps, .9) - 17) <= 2 and abs(np.quantile(gaps, .99) - 79) <= 12

def test_clips_show_several_episodes():
    clips = label_process(500, 7, generator("clips"), KNOBS)
    assert np.mean([len(set(row.tolist())) for row in clips.expression]) > 2.3 and clips.frame.max() < 100_000

@pytest.mark.parametrize("shares,rates", [(KNOBS.hidden_train, dict(AU=.27, EXPR=.42, VA=.03)), (KNOBS.hidden_validation, dict(AU=0, EXPR=.42, VA=0))])
def test_labels_are_missing_at_the_real_rates(shares, rates):
    hidden = hidden_labels(300_000, shares, KNOBS.hidden_rows, generator("hidden"))
    for kind, rate in rates.items(): assert abs(np.mean([kind in h for h in hidden]) - rate) < .02
    if shares is KNOBS.hidden_train: assert abs(np.mean([h == "" for h in hidden]) - .37) < .02
    changes = np.mean([a != b for a, b in zip(hidden[1:], hidden[:-1])])
    assert changes < 1.2/KNOBS.hidden_rows                        # in stretches, not row by row

def test_what_a_face_shows_is_bounded_and_its_labels_follow(labels):
    assert labels.intensity.min() >= 0 and labels.intensity.max() <= 1 and labels.shown.abs().max() <= 1
    assert labels.intensity[labels.aus].mean() > labels.intensity[~labels.aus].mean() + .35
    assert labels.intensity[labels.aus].min() >= KNOBS.unit_threshold*KNOBS.expressivity[0] - 1e-6
    departure = labels.shown - labels.va
    assert .2 < departure.std() < .4

def test_knobs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError): KNOBS.slip = 0
