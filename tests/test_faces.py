"Drawn faces: what is visible on whom, what is not, and what it costs (see nbs/01_faces.ipynb)."

import dataclasses
import time
import pytest
import torch
from affnb.engine.core import AU_NAMES, generator
from affnb.engine.painting import Sheet, face_sheet, head_shape, pixels
from affnb.faces import FaceKnobs, face_grid, render, sample_identities, sample_views

KNOBS = FaceKnobs()
REST = torch.tensor([[0.1, 0.2]])  # valence and arousal at which a face is neutral


def unit(*names):
    return sum(torch.eye(12)[AU_NAMES.index(name)] for name in names)


def many(values, n):
    return {name: value.repeat_interleave(n, 0) for name, value in values.items()}


def unhidden(views):
    return views | {"occlusion": torch.full_like(views["occlusion"], -1)}


def centred(n):
    return {name: torch.full((n,), float(centre)) for name, centre, _ in KNOBS.views}


def crowd_of(n, size, aus, views=None, seed="test"):
    """n people, nothing in front of them, each once with every row of `aus`, without noise; (n,
    rows, 3, size, size).
    """
    people = sample_identities(n, generator(seed, "crowd"))
    views = unhidden(sample_views(n, generator(seed, "views"))) if views is None else views
    k = len(aus)
    return render(
        many(people, k), aus.repeat(n, 1), REST.repeat(k * n, 1), many(views, k), size
    ).reshape(n, k, 3, size, size)


def drawn(n, aus, va, size=48, seed=0):
    return render(
        sample_identities(n, generator(seed, "p")),
        aus,
        va,
        sample_views(n, generator(seed, "v")),
        size,
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    "Pictures this small gain nothing from more threads, and lose much where cores are shared."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def crowd():
    return crowd_of(64, 48, torch.cat([torch.zeros(1, 12), torch.eye(12)]))


@pytest.fixture(scope="module")
def large():
    return crowd_of(
        64,
        112,
        torch.stack([0 * unit("AU1"), *(unit(name) for name in ("AU23", "AU24", "AU25", "AU26"))]),
    )


# ---- what is visible

# image rows at 48 px
REGION = {
    "AU1": (4, 24),
    "AU2": (4, 24),
    "AU4": (8, 26),
    "AU6": (16, 34),
    "AU7": (12, 28),
    "AU10": (24, 42),
    "AU12": (24, 44),
    "AU15": (28, 48),
    "AU23": (28, 46),
    "AU24": (28, 46),
    "AU25": (28, 46),
    "AU26": (24, 48),
}


@pytest.mark.parametrize("name", AU_NAMES)
def test_every_unit_is_visible_in_its_region_on_everyone(crowd, name):
    change = (crowd[:, 1 + AU_NAMES.index(name)] - crowd[:, 0]).abs().amax(1)  # (64, 48, 48)
    top, bottom = REGION[name]
    assert change[:, top:bottom].flatten(1).amax(1).min() > 0.12
    assert (change[:, top:bottom].sum((1, 2)) / change.sum((1, 2))).min() > 0.75  # and mostly there
    assert ((change > 0.06).flatten(1).sum(1)).min() >= 12  # on a dozen pixels or more


@pytest.mark.parametrize(
    "one,other",
    [
        ("AU25", "AU26"),
        ("AU23", "AU24"),
        ("AU6", "AU7"),
        ("AU1", "AU2"),
        ("AU12", "AU15"),
        ("AU10", "AU12"),
        ("AU10", "AU15"),
    ],
)
def test_units_that_are_confused_differ_on_everyone(crowd, one, other):
    a, b = (crowd[:, 1 + AU_NAMES.index(name)] for name in (one, other))
    assert ((a - b).abs().amax(1).flatten(1) > 0.08).sum(1).min() >= 12


@pytest.mark.parametrize(
    "one,other,pixels_that_differ", [(1, 2, 120), (3, 4, 400)], ids=["AU23-AU24", "AU25-AU26"]
)
def test_twins_differ_clearly_at_112_pixels(large, one, other, pixels_that_differ):
    difference = (large[:, one] - large[:, other]).abs().amax(1).flatten(1)
    assert (difference > 0.10).sum(1).min() >= pixels_that_differ
    assert difference.amax(1).min() > 0.25
    for face in (one, other):  # and neither is at rest
        assert ((large[:, face] - large[:, 0]).abs().amax(1).flatten(1) > 0.10).sum(1).min() >= 60


def test_a_jaw_that_drops_moves_the_chin_and_parted_lips_do_not():
    n = 16
    sheet = face_sheet(centred(16), 64)
    people = pixels(sample_identities(n, generator("jaw")))

    def outline(jaw):
        return (head_shape(sheet, people, pixels({"AU26": torch.full((n,), jaw)}))[2] < 1).sum(
            (1, 2)
        )

    assert (outline(1.0) > 1.04 * outline(0.0)).all()
    rest, parted, dropped = crowd_of(
        n, 64, torch.stack([0 * unit("AU1"), unit("AU25"), unit("AU26")]), centred(n)
    ).unbind(1)

    def chin(face):
        return ((face - rest).abs().amax(1)[:, -9:] > 0.05).flatten(1).sum(1)

    assert (chin(dropped) >= 20).all()
    assert (chin(parted) == 0).all()


@pytest.mark.parametrize("name", AU_NAMES)
def test_intensity_is_continuous_and_monotone(name):
    steps = torch.linspace(0, 1, 11)
    aus = torch.zeros(11, 12)
    aus[:, AU_NAMES.index(name)] = steps

    def one(values):
        return {key: value.expand(11, *value.shape[1:]) for key, value in values.items()}

    for seed in range(4):
        people = sample_identities(1, generator(seed, "mono"))
        view = sample_views(1, generator(seed, "mono view"))
        faces = render(one(people), aus, torch.zeros(11, 2), one(view), 64)
        far = (faces - faces[0]).abs().mean((1, 2, 3))
        assert (far.diff() > 0).all()
        assert far.diff().max() < 0.45 * far[-1]


def test_affect_shows_in_a_single_face():
    n = 64
    aus = torch.zeros(64, 12)
    low, high, glad = (
        drawn(n, aus, torch.tensor([pair]).repeat(n, 1))
        for pair in ((0.0, 0.0), (0.0, 0.8), (0.8, 0.0))
    )

    def change(a, b):
        return (a - b).abs().amax(1)

    assert (change(low, high)[:, 14:26].flatten(1) > 0.05).sum(1).min() >= 15  # eyes open
    assert (change(low, glad) > 0.02).flatten(1).sum(1).min() >= 15


# ---- what is not


def test_affect_is_weaker_than_the_units_it_resembles():
    n = 32
    people = sample_identities(32, generator("weak"))
    views = centred(32)

    # mouth and chin
    def face(aus, va):
        return render(people, aus.expand(n, 12), torch.tensor([va]).expand(n, 2), views, 64)[
            :, :, 42:
        ]

    rest = face(torch.zeros(12), (0.0, 0.2))

    def far(image):
        return (image - rest).abs().mean((1, 2, 3))

    assert (
        far(face(torch.zeros(12), (0.5, 0.2))) < 0.5 * far(face(unit("AU12"), (0.0, 0.2)))
    ).all()
    assert (
        far(face(torch.zeros(12), (-0.5, 0.2))) < 0.5 * far(face(unit("AU15"), (0.0, 0.2)))
    ).all()


@pytest.mark.slow
def test_a_face_at_rest_has_level_brows_and_a_level_mouth():
    n = 48
    size = 192
    people = sample_identities(n, generator("rest"))
    views = centred(n)
    people |= {
        name: torch.zeros(n)
        for name in ("beard", "moustache", "glasses", "fringe", "scarf", "freckles", "mole", "age")
    } | {"lips": torch.tensor([[0.9, 0.1, 0.1]]).repeat(n, 1)}
    even = many(people, 2) | {
        "hair": torch.tensor([[0.02, 0.02, 0.02]]).repeat(2 * n, 1),
        "skin": torch.tensor([[0.9, 0.8, 0.7]]).repeat(2 * n, 1),
    }
    faces = render(
        even,
        torch.stack([0 * unit("AU1"), unit("AU12")]).repeat(n, 1),
        REST.repeat(2 * n, 1),
        many(views, 2),
        size,
    ).reshape(n, 2, 3, size, size)
    x = (torch.arange(size) + 0.5) / size * 2 - 1
    red = ((faces[:, :, 0] - faces[:, :, 1]) > 0.35).float() * (x[:, None] > 0.3)

    def height(part):
        return (part * x[:, None]).sum((2, 3)) / part.sum((2, 3))

    middle = height(red * (x.abs() < 0.06))
    corners = height(red * ((x.abs() > 0.17) & (x.abs() < 0.22)))
    bend = corners - middle  # downwards is positive
    assert bend[:, 0].abs().max() < 0.035
    assert (bend[:, 1] < bend[:, 0] - 0.02).all()
    dark = (faces[:, 0].amax(1) < 0.30).float() * ((x > -0.62) & (x < -0.30))[:, None]

    def column(low, high):
        return (dark * ((x.abs() > low) & (x.abs() < high)) * x[:, None]).sum((1, 2)) / (
            dark * ((x.abs() > low) & (x.abs() < high))
        ).sum((1, 2))

    # neither the inner nor the outer end is up
    assert (column(0.16, 0.22) - column(0.38, 0.44)).abs().max() < 0.05


@pytest.mark.parametrize("size", [48, 112])
def test_corners_say_nothing(size):
    "Before compression; 02's tests read the files."
    n = 100
    aus = torch.rand(n, 12, generator=generator(1))
    va = torch.rand(n, 2, generator=generator(2)) * 2 - 1
    change = (
        (drawn(n, aus, va, size) - drawn(n, torch.zeros(n, 12), torch.zeros(n, 2), size))
        .abs()
        .amax(1)
    )
    for rows in (slice(0, 5), slice(-5, None)):
        # not one grey level
        for columns in (slice(0, 5), slice(-5, None)):
            assert change[:, rows, columns].max() < 0.5 / 255
    assert change.max() > 0.3


def test_windows_leave_no_trace(monkeypatch):
    aus = torch.rand(24, 12, generator=generator(1))
    va = torch.rand(24, 2, generator=generator(2)) * 2 - 1
    cropped = drawn(24, aus, va)
    monkeypatch.setattr(
        Sheet, "crop", lambda self, *window: ((slice(None), slice(None), slice(None)), self)
    )
    # each part fades out within the window it is drawn in
    assert (drawn(24, aus, va) - cropped).abs().max() < 0.03


# ---- people and views


def test_left_and_right_differ_a_little():
    n = 24
    people = sample_identities(24, generator("sides"))

    def uneven(lean, name):
        return (lambda f: (f[0] - f[1]).abs().mean((1, 2, 3)))(
            [
                render(
                    people | {"lean": lean * side},
                    unit(name).expand(n, 12),
                    REST.expand(n, 2),
                    centred(n),
                    64,
                )
                for side in (1, 0)
            ]
        )

    for name in AU_NAMES:
        # these are even: the lips narrow, press and part as one
        if name in ("AU23", "AU24", "AU25"):
            continue
        whole = (
            (
                render(people, unit(name).expand(n, 12), REST.expand(n, 2), centred(n), 64)
                - render(people, torch.zeros(n, 12), REST.expand(n, 2), centred(n), 64)
            )
            .abs()
            .mean((1, 2, 3))
        )
        difference = uneven(people["lean"], name)
        assert (difference > 0).all(), name
        assert (difference < 0.5 * whole).all(), name
        assert difference.mean() > 0.02 * whole.mean(), name
    assert people["lean"].abs().max() <= 2.5 * KNOBS.lean + 1e-6
    assert people["lean"].unique().numel() > 250


def test_people_of_different_seeds_differ_and_of_one_seed_do_not():
    one, again, other = (sample_identities(50, generator(seed, "people")) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert all(not torch.equal(one[name], other[name]) for name, *_ in KNOBS.traits)
    assert not torch.equal(one["skin"], other["skin"])
    faces = render(one, torch.zeros(50, 12), REST.repeat(50, 1), centred(50), 32).flatten(1)
    assert torch.cdist(faces, faces).add(100 * torch.eye(50)).min() > 2  # no two people look alike


def test_the_same_seed_gives_the_same_picture():
    pictures = [
        render(
            sample_identities(4, generator(7)),
            torch.zeros(4, 12),
            REST.repeat(4, 1),
            sample_views(4, generator(8)),
            48,
            generator(9),
        )
        for _ in range(2)
    ]
    assert torch.equal(*pictures)


@pytest.mark.slow
def test_occlusion_is_rare_slides_and_hides_little():
    views = sample_views(4000, generator("hands"))
    there = views["occlusion"] > 0
    assert abs(there.float().mean() - 0.159) < 0.025
    sheet = face_sheet(views, 24)
    n = 4000
    people = sample_identities(n, generator("hidden"))
    face = head_shape(sheet, pixels(people), pixels({"AU26": torch.zeros(n)}))[2] < 1
    zeros = torch.zeros(n, 12)
    hidden = (
        (
            render(people, zeros, REST.repeat(n, 1), views, 24)
            - render(people, zeros, REST.repeat(n, 1), unhidden(views), 24)
        )
        .abs()
        .amax(1)
        > 0.04
    ) & face
    share = hidden.sum((1, 2)) / face.sum((1, 2))
    assert share[~there].max() == 0
    assert share.max() < 0.20
    assert (share[there] > 0.01).float().mean() > 0.4
    video = sample_views(300, generator("video"), gaps=torch.full((300,), 3.0))
    assert video["occlusion"].diff().abs().mean() < 0.5 * views["occlusion"].diff().abs().mean()


def test_a_view_at_its_centre_hides_nothing():
    people = sample_identities(8, generator(0))
    zeros = torch.zeros(8, 12)
    assert torch.equal(
        *(
            render(people, zeros, REST.repeat(8, 1), views, 48)
            for views in (centred(8), unhidden(centred(8)))
        )
    )


def test_knobs_change_what_they_name():
    bearded = dataclasses.replace(
        KNOBS, extras=tuple((name, 1.0 if name == "beard" else 0.0) for name, _ in KNOBS.extras)
    )
    people = sample_identities(20, generator(0), bearded)
    assert people["beard"].min() == 1
    assert people["glasses"].max() == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        KNOBS.lean = 0


# ---- batches, devices, cost


def test_a_batch_is_drawn_as_its_faces_alone():
    people = sample_identities(6, generator(0))
    views = sample_views(6, generator(1))
    views["occlusion"][:2] = 0.4
    aus = torch.rand(6, 12, generator=generator(2))
    va = torch.rand(6, 2, generator=generator(3))
    together = render(people, aus, va, views, 32)
    for i in range(6):
        alone = render(
            {k: v[i : i + 1] for k, v in people.items()},
            aus[i : i + 1],
            va[i : i + 1],
            {k: v[i : i + 1] for k, v in views.items()},
            32,
        )
        assert torch.allclose(alone[0], together[i], atol=1e-5)


def test_grid_has_people_and_columns():
    images, people, columns = face_grid(3, 32, extra=(("Smile", unit("AU6", "AU12"), (0.7, 0.3)),))
    assert images.shape == (3, 14, 3, 32, 32)
    assert len(people) == 3
    assert columns == ["Neutral", *AU_NAMES, "Smile"]
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_draws_the_same_faces():
    people = sample_identities(8, generator(0))
    views = sample_views(8, generator(1))
    aus = torch.rand(8, 12, generator=generator(2))
    va = torch.zeros(8, 2)
    views["occlusion"][:2] = 0.4

    def to(values):
        return {name: value.cuda() for name, value in values.items()}

    there = render(to(people), aus.cuda(), va.cuda(), to(views), 64)
    assert there.is_cuda
    assert (there.cpu() - render(people, aus, va, views, 64)).abs().max() < 0.02


def test_a_face_costs_less_to_draw_than_to_learn_from_in_three_epochs():
    """In turns with smoke's own training step, for machines differ and are busy: what is drawn once
    is learned from in four epochs of every arm.
    """
    from affnb.engine.core import load_config
    from affnb.model import make_encoder

    config = load_config("smoke")
    n_faces = 32
    size = config.image_size
    encoder = make_encoder(config)
    faces = torch.rand(n_faces, 3, size, size)
    people = sample_identities(n_faces, generator(0))
    views = sample_views(n_faces, generator(1))
    aus = torch.rand(n_faces, 12)
    va = torch.rand(n_faces, 2)
    spent = {"draw": [], "learn": []}
    for _ in range(6):
        start = time.process_time()
        render(people, aus, va, views, size, generator(2))
        drawn = time.process_time()
        encoder(faces).sum().backward()
        spent["draw"].append(drawn - start)
        spent["learn"].append(time.process_time() - drawn)
    assert torch.get_num_threads() == 1 and min(spent["draw"]) < 3 * min(spent["learn"]), spent


# ---- the explorer


def test_every_slider_of_the_explorer_moves_the_face():
    from affnb.faces import face_explorer

    explorer = face_explorer(48)
    picture, who, *affect = explorer.children[0].children
    units = explorer.children[1].children
    assert [slider.description.split()[0] for slider in units] == list(AU_NAMES)
    assert [slider.description for slider in affect] == ["valence", "arousal"]
    for slider, value in ((who, 5), *((slider, 1.0) for slider in (*affect, *units))):
        before = picture.value
        start = slider.value
        slider.value = value
        assert picture.value != before, slider.description
        slider.value = start
        assert picture.value == before, slider.description  # and back
