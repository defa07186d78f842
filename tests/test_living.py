"""The living pages: what their graphs say against what affnb says, and each explorer driven in a
browser without a network, by mouse and by keyboard.
"""

import base64
import contextlib
import functools
import http.server
import threading
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image
from affnb.engine.core import AU_NAMES, EXPRESSIONS, TASKS, generator, read_json
from affnb.engine.living import FACE_SIZES, SIGHTS, DrawnFace, example_models, page_numbers
from affnb.engine.living import person_rows
from affnb.engine.predict import UNITS, predict_crops
from affnb.faces import sample_identities, sample_views
from in_step import ROOT
from test_site import new_page

EXAMPLE = ROOT / "data" / "example"
MODELS = ("separate", "joint", "progressive")


# ---------------------------------------------------------------- what the repository holds
@pytest.mark.parametrize("size", FACE_SIZES)
def test_the_renderer_as_a_graph_draws_what_render_draws(size):
    chance = generator(0, "test", "living")
    people = person_rows(sample_identities(3, chance))
    views = sample_views(3, chance)
    parts = dict(
        person=people,
        units=torch.rand(3, 12, generator=chance),
        affect=2 * torch.rand(3, 2, generator=chance) - 1,
        view=torch.stack([views[name] for name in SIGHTS], 1),
    )
    graph = onnxruntime.InferenceSession(EXAMPLE / f"face-{size}.onnx")
    drawn = DrawnFace(size)(**parts)
    for row in range(3):
        one = {name: value[row : row + 1].numpy() for name, value in parts.items()}
        face = graph.run(["face"], one)[0]
        assert face.shape == (1, 3, size, size)
        assert np.abs(face[0] - drawn[row].numpy()).max() < 1e-4
    assert (drawn[0] - drawn[1]).abs().mean() > 0.01


def test_the_published_models_are_of_one_run():
    models = loaded_models()
    progressive = models["progressive"]
    assert progressive.about["fused"] == list(TASKS)
    for task, encoder in zip(TASKS, progressive.others):
        own = models[task].encoder.state_dict()
        assert all(torch.equal(value, own[name]) for name, value in encoder.state_dict().items())


def test_the_curves_are_those_of_the_published_record():
    curves = read_json(EXAMPLE / "thresholds.json")
    record = read_json(ROOT / "data" / "records" / "smoke" / "arm-progressive-seed0.json")
    at_half = curves["validation"][curves["thresholds"].index(0.5)]
    assert np.allclose(at_half, record["metrics"]["AU_per_unit"], atol=2e-4)
    assert len(curves["dev"]) == len(curves["validation"]) == len(curves["thresholds"])


def test_a_page_knows_the_same_whenever_it_is_made():
    numbers = page_numbers(2)
    assert numbers == page_numbers(2)
    assert [view["name"] for view in numbers["views"]] == list(SIGHTS)
    assert all(view["low"] <= view["centre"] <= view["high"] for view in numbers["views"])
    clip = numbers["clip"]
    assert np.std(clip["VA"], 0)[0] > 0.2, "something to follow"
    assert len(base64.b64decode(clip["pixels"])) == clip["frames"] * 48 * 48 * 3


# ---------------------------------------------------------------- in a browser
@pytest.fixture(scope="module")
def served(site):
    "The address of the site on this machine."

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def opened(browser, address, **options):
    "A page; afterwards nothing may have gone wrong on it, nor been asked for elsewhere."
    own = (address.split("/docs/living")[0].split("/index")[0], "blob:", "data:")
    page, wrong = new_page(browser, own, **options)
    page.set_default_timeout(90_000)
    page.route(lambda url: not url.startswith(own), lambda route: route.abort())
    page.goto(address)
    yield page
    page.context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def living(browser, served):
    "The page of all explorers, opened once."
    with opened(browser, f"{served}/docs/living.html", color_scheme="dark") as page:
        yield page


def explorer(page, kind):
    "An explorer that has answered."
    element = page.locator(f".living-{kind}").first
    element.scroll_into_view_if_needed()
    element.locator(".living-explorer").wait_for(state="visible")
    return element.locator(".living-explorer")


def state(part):
    "What the explorer answered last, once it rests."
    return part.evaluate(
        """async element => {
            let count = -1;
            while (element.affnb?.count !== count) {
                count = element.affnb?.count;
                await new Promise(done => setTimeout(done, 600));
            }
            const {picture, pictures, ...rest} = element.affnb;
            const bytes = one => btoa(String.fromCharCode(...one.data));
            return {...rest, pixels: (pictures ?? [picture]).map(bytes)};
        }"""
    )


def crops_of(answered) -> list:  # of (48, 48, 3) uint8
    return [
        np.frombuffer(base64.b64decode(text), np.uint8).reshape(48, 48, 4)[..., :3].copy()
        for text in answered["pixels"]
    ]


def predicted(model, crops) -> dict:  # task -> (frames, answers)
    rows = pd.DataFrame(dict(input="a film", face=0, frame=range(len(crops))))
    table = predict_crops(model, rows, crops)
    columns = dict(AU=list(UNITS.values()), EXPR=list(EXPRESSIONS), VA=["valence", "arousal"])
    return {task: table[names].to_numpy() for task, names in columns.items() if names[0] in table}


loaded_models = functools.cache(example_models)


def assert_as_predicted(answers, crops):
    "The page's answers of one picture are within 1e-4 of `predict` on the same pixels."
    models = loaded_models()
    separate = {task: predicted(models[task], crops)[task] for task in TASKS}
    wanted = dict(separate=separate, joint=predicted(models["joint"], crops))
    wanted["progressive"] = predicted(models["progressive"], crops)
    for model in MODELS:
        for task in TASKS:
            assert np.abs(np.array(answers[model][task]) - wanted[model][task][0]).max() < 1e-4


def slider(part, label):
    return part.get_by_label(label, exact=False).first


@pytest.mark.slow
@pytest.mark.parametrize("way", ["keyboard", "mouse"])
def test_a_smile_is_seen_as_it_is_drawn(living, way):
    page = living
    part = explorer(page, "face")
    part.get_by_role("button", name="neutral").click()
    before = state(part)
    lip_corners = slider(part, "AU12 lip corner puller")
    if way == "keyboard":
        lip_corners.focus()
        page.keyboard.press("End")
    else:
        box = lip_corners.bounding_box()
        page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
    after = state(part)
    shown = part.locator("tr", has_text="AU12").locator("td").all_inner_texts()
    said = part.locator(".living-said").inner_text()
    smile = AU_NAMES.index("AU12")
    for model in MODELS:
        answers = [answered["answers"][model]["AU"][smile] for answered in (before, after)]
        assert answers[1] > answers[0] + 0.3, model
    (old,), (new,) = crops_of(before), crops_of(after)
    changed = np.abs(new.astype(int) - old).sum(-1)
    assert changed[24:44, 8:40].mean() > 4 * changed[:20].mean(), "the mouth, not the brows"
    assert shown[0] == "1.00"
    assert shown[3] == f"{after['answers']['progressive']['AU'][smile]:.2f}"
    assert "The progressive model says" in said
    assert_as_predicted(after["answers"], [new])


@pytest.mark.slow
def test_a_covered_mouth_changes_what_is_said_of_it(living):
    page = living
    part = explorer(page, "occlusion")
    at_first = state(part)
    part.locator("canvas").first.hover(position=dict(x=120, y=24))
    forehead = state(part)
    slider(part, "size of the square").focus()
    page.keyboard.press("End")
    slider(part, "from above").focus()
    page.keyboard.press("End")
    mouth = state(part)
    assert forehead["pixels"] != at_first["pixels"]
    crop = crops_of(mouth)[0]
    assert (crop[24:, 18:42] == 128).all()
    lips = [AU_NAMES.index(name) for name in ("AU10", "AU12", "AU25")]
    change = [
        np.abs(np.subtract(*(np.array(one[part]["joint"]["AU"]) for part in ("answers", "whole"))))
        for one in (forehead, mouth)
    ]
    assert change[1][lips].max() > change[0][lips].max()
    assert_as_predicted(mouth["answers"], [crop])


@pytest.mark.slow
def test_a_window_is_that_of_predict(living):
    page = living
    part = explorer(page, "time")
    thirty = state(part)
    slider(part, "window, in frames").focus()
    page.keyboard.press("Home")
    one = state(part)
    lines = part.locator("svg path").count()
    crops = crops_of(thirty)
    assert len(crops) == 40 and (thirty["window"], one["window"], lines) == (30, 1, 3)
    progressive = example_models()["progressive"]
    for window, answered in ((30, thirty), (1, one)):
        progressive.about["settings"] |= dict(window=window, stride=min(10, window))
        wanted = predicted(progressive, crops)
        for task in TASKS:
            assert np.abs(np.array(answered["answers"][task]) - wanted[task]).max() < 1e-4
    assert np.abs(np.subtract(thirty["answers"]["VA"], one["answers"]["VA"])).max() > 0.02


@pytest.mark.slow
def test_a_threshold_is_best_where_it_was_chosen(living):
    curves = read_json(EXAMPLE / "thresholds.json")
    page = living
    part = explorer(page, "threshold")
    for unit in (0, 8):
        part.get_by_label("action unit").select_option(index=unit)
        part.get_by_role("button", name="the best on dev").press("Enter")
        rows = part.locator("tbody tr").all()
        scores = [row.locator("td").first.inner_text() for row in rows]
        best = int(np.argmax([row[unit] for row in curves["dev"]]))
        wanted = [f"{curves[name][best][unit]:.3f}" for name in ("dev", "validation")]
        assert scores == wanted


@pytest.mark.slow
def test_a_photograph_is_answered_in_the_page(living, tmp_path):
    face = (np.random.default_rng(0).random((48, 48, 3)) * 255).astype(np.uint8)
    Image.fromarray(face).save(tmp_path / "face.png")
    (tmp_path / "words.txt").write_text("no picture")
    page = living
    part = explorer(page, "photo")
    part.locator("input[type=file]").set_input_files(tmp_path / "words.txt")
    page.wait_for_timeout(600)
    assert "no picture that the browser can read" in part.locator(".living-said").inner_text()
    part.locator("input[type=file]").set_input_files(tmp_path / "face.png")
    slider(part, "zoom").focus()
    page.keyboard.press("Home")
    answered = state(part)
    assert (crops_of(answered)[0] == face).all()
    assert_as_predicted(answered["answers"], [face])


@pytest.mark.slow
def test_the_first_page_answers_from_a_file_and_on_a_phone(browser, site):
    address = (site / "index.html").as_uri()
    with opened(browser, address, viewport=dict(width=400, height=800)) as page:
        part = explorer(page, "face")
        assert state(part)["answers"]["progressive"]["EXPR"][EXPRESSIONS.index("Happiness")] > 0.5
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert part.locator("input[type=range]").count() == 6


@pytest.mark.slow
def test_a_picture_stands_where_nothing_can_run(browser, served):
    with opened(browser, f"{served}/index.html", java_script_enabled=False) as page:
        assert page.locator(".living img").is_visible()
        assert "sliders stand here" in page.locator(".living").inner_text()
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("delete window.WebAssembly")
    page.goto(f"{served}/index.html")
    page.locator(".living-failed").wait_for()
    assert "cannot run the models" in page.locator(".living-said").first.inner_text()
    assert page.locator(".living img").is_visible()
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
def test_who_does_not_see_can_use_them(living, scheme):
    from axe_playwright_python.sync_playwright import Axe

    for kind in ("face", "occlusion", "time", "threshold", "photo"):
        explorer(living, kind)
    living.evaluate(f"document.documentElement.dataset.theme = '{scheme}'")
    living.wait_for_timeout(600)
    rules = dict(runOnly=["wcag2a", "wcag2aa"], preload=False)
    found = Axe().run(living, context=".living", options=rules).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []


@pytest.mark.slow
def test_the_words_come_before_the_models(browser, served):
    with opened(browser, f"{served}/index.html") as page:
        explorer(page, "face")
        seen = page.evaluate(
            """() => {
                const end = performance.getEntriesByType("navigation")[0].loadEventStart;
                const files = performance.getEntriesByType("resource");
                return files.filter(file => file.name.includes("/living/"))
                    .map(file => [file.name, file.startTime - end]);
            }"""
        )
    assert len(seen) > 5
    assert min(wait for _, wait in seen) >= 0, seen
