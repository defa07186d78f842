"""The site and the slides, built from what is committed and looked at in a browser: links,
pictures, tables, contrast, no network.
"""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse
import nbformat
import pytest
from markdown_it import MarkdownIt
from affnb.engine.core import notebooks_below
from in_step import ROOT

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    "Links, anchors and pictures of a page."

    def __init__(self, path):
        super().__init__()
        self.links = []
        self.anchors = set()
        self.pictures = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if given.get("id"):
            self.anchors.add(given["id"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "img":
            self.pictures.append(given)
        for name in ("src", "href"):
            if tag in ("script", "link", "img") and given.get(name):
                self.links.append(given[name])


def pages_of(site) -> dict:  # path -> Page
    return {
        path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts
    }


@pytest.fixture(scope="module")
def pages(site):
    return pages_of(site)


@pytest.fixture(scope="module")
def all_pages(whole_site):
    return pages_of(whole_site)


@pytest.mark.nightly
def test_every_notebook_and_page_is_there(whole_site, all_pages):
    names = {str(path.relative_to(whole_site)) for path in all_pages}
    assert {f"nbs/{name}.html" for name in notebooks_below(ROOT / "nbs")} <= names
    assert {
        f"docs/{path.stem}.html" for path in (ROOT / "docs").glob("*.md") if path.stem != "index"
    } <= names
    modules = {
        ".".join(path.relative_to(ROOT / "affnb").with_suffix("").parts)
        for path in (ROOT / "affnb").rglob("[a-z]*.py")
    }
    assert {f"docs/api/{name}.html" for name in modules} <= names
    assert {
        "index.html",
        "search.html",
        "docs/gallery.html",
        "docs/commands.html",
        "slides/index.html",
    } <= names


def is_a_source(site, target) -> bool:
    "Whether build.py has laid out what a page would be built from."
    page = Path(f"{site}-source") / target.relative_to(site)
    return any(page.with_suffix(end).exists() for end in (".md", ".ipynb"))


def check_links(site, pages, all_are_built):
    for path, page in pages.items():
        here = path.relative_to(site)
        for link in page.links:
            parts = urlparse(link)
            if parts.scheme in ("http", "https", "mailto"):
                fetched = re.search(r"\.(js|css|woff2?|png|svg)($|\?)", parts.path)
                assert not fetched, f"{here}: {link} would be fetched"
                continue
            if parts.scheme == "data":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_relative_to(site), f"{here}: {link} leads out of the site"
            if not target.exists() and not all_are_built:
                assert is_a_source(site, target), f"{here}: {link} leads nowhere"
                continue
            assert target.exists(), f"{here}: {link} leads nowhere"
            if parts.fragment and target in pages and "slides" not in target.parts:
                anchors = pages[target].anchors | {""}
                assert unquote(parts.fragment) in anchors, f"{here}: {link}: no such place"


def test_internal_links_resolve_and_nothing_is_fetched(site, pages):
    check_links(site, pages, all_are_built=False)


def links_in(text):
    "What the links and pictures of a Markdown text lead to."
    for block in MarkdownIt().parse(text):
        for token in block.children or ():
            yield from (token.attrs[name] for name in ("href", "src") if name in token.attrs)


def test_links_in_what_pages_are_made_from_lead_to_files(site):
    "Of all pages, whether they were built or not."
    source = Path(f"{site}-source")
    texts = {path: path.read_text() for path in source.rglob("*.md")}
    for path in source.rglob("*.ipynb"):
        cells = nbformat.read(path, 4).cells
        texts[path] = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    seen = 0
    for path, text in texts.items():
        for link in links_in(text):
            parts = urlparse(link)
            if parts.path and not parts.scheme:
                target = path.parent / unquote(parts.path)
                assert target.exists(), f"{path.relative_to(source)}: {link} leads nowhere"
                seen += 1
    assert seen > 500


@pytest.mark.nightly
def test_links_of_all_pages_resolve_and_nothing_is_fetched(whole_site, all_pages):
    check_links(whole_site, all_pages, all_are_built=True)


def check_pictures(pages, at_least):
    seen = 0
    for path, page in pages.items():
        for picture in page.pictures:
            text = (picture.get("alt") or "").strip()
            assert len(text) > 10, f"{path}: {picture.get('src', '')[:80]}"
            seen += 1
    assert seen > at_least


def test_every_picture_has_a_text_that_stands_for_it(pages):
    check_pictures(pages, at_least=50)


@pytest.mark.nightly
def test_every_picture_of_all_pages_has_a_text_that_stands_for_it(all_pages):
    check_pictures(all_pages, at_least=200)


def test_every_figure_is_in_the_gallery_with_its_notebook_and_command(site):
    text = re.sub(r"<[^>]+>", "", (site / "docs" / "gallery.html").read_text())
    figures = list((ROOT / "figures").glob("*/fig_*.png"))
    assert len(figures) > 20
    assert all(path.stem in text for path in figures)
    assert text.count("data/records/") >= len(figures)
    assert "affnb bench" in text
    assert "affnb reproduce --profile laptop" in text


def test_the_api_says_what_the_docments_say(site):
    text = re.sub(r"<[^>]+>", "", (site / "docs" / "api" / "metrics.html").read_text())
    assert "def ccc(" in text
    assert "def bootstrap(" in text
    assert "affnb.metrics" in text
    assert "a name or a file, as `Finder` takes it" in re.sub(
        r"<[^>]+>", "", (site / "docs" / "api" / "engine.predict.html").read_text()
    ).replace("&#39;", "'")


def test_slides_hold_what_is_marked(site):
    from affnb.engine.course import SESSIONS

    for session, (title, names) in SESSIONS.items():
        text = (site / "slides" / f"{session}.html").read_text()
        marked = [
            cell
            for name in names
            for cell in nbformat.read(ROOT / "nbs" / f"{name}.ipynb", 4).cells
            if cell.metadata.get("slideshow", {}).get("slide_type") == "slide"
        ]
        assert title in text
        assert len(marked) >= 4
        assert text.count("<section") > len(marked)
        assert 'class="notes"' in text, "what the speaker says"


def notes_of(site, session):
    text = (site / "slides" / f"{session}.html").read_text()
    return re.findall(r'<aside class="notes">(.+?)</aside>', text, re.S)


def test_the_system_is_a_picture_of_the_first_deck(site):
    text = (site / "slides" / "1-labels.html").read_text()
    (address,) = re.findall(r'<img [^>]*src="([^"]+/system\.svg)"', text)
    assert (site / "slides" / address).is_file()
    assert "&lt;picture" not in text and "<picture" not in text


def test_speakers_read_paragraphs_items_and_formulas(site):
    from affnb.engine.course import SESSIONS

    formulas = 0
    for session in SESSIONS:
        notes = notes_of(site, session)
        assert len(notes) >= 12
        for note in notes:
            assert re.match(r"\s*<(p|ul|ol|math)\b", note), note[:200]
            assert not re.search(r"\\[a-zA-Z]+|\$", re.sub("<[^>]*>", "", note)), note
            formulas += note.count("<math")
        assert any("<li>" in note for note in notes)
    assert formulas > 50


def test_the_page_for_teachers_leads_to_the_deck_of_each_session(site, pages):
    from affnb.engine.course import SESSIONS

    page = site / "docs" / "teach.html"
    links = [link for link in pages[page].links if "slides/" in link]
    assert [Path(link).stem for link in links] == list(SESSIONS)
    for link, (title, _) in zip(links, SESSIONS.values()):
        deck = page.parent / link
        assert title in deck.read_text()
    committed = (ROOT / "docs" / "teach.md").read_text()
    assert "slides/1-" not in committed, "where no deck was built, no link leads to one"


@pytest.mark.nightly
def test_the_site_is_small_enough_to_carry_and_as_large_as_the_page_for_teachers_says(whole_site):
    text = (ROOT / "docs" / "teach.md").read_text()
    said = int(re.search(r"`_docs/site`, about (\d+) MB", text)[1])
    size = sum(path.stat().st_size for path in whole_site.rglob("*") if path.is_file())
    assert size < 120e6, f"{size / 1e6:.0f} MB"
    assert 0.8 < size / 1e6 / said < 1.2


# ---------------------------------------------------------------- in a browser
def new_page(browser, own=("file:", "data:", "blob:"), **options):
    "A page, and what goes wrong on it: errors on the console, requests for what is not its own."
    page = browser.new_context(**options).new_page()
    wrong = []
    page.on(
        "console", lambda message: wrong.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: wrong.append(request.url) if not request.url.startswith(own) else None,
    )
    return page, wrong


def visit(browser, paths, **options):
    "Page after page in one window, and what went wrong on each."
    page, wrong = new_page(browser, **options)
    for path in paths:
        page.goto(path.as_uri())
        yield page, wrong
    page.context.close()


def opened(browser, path, **options):
    return next(visit(browser, [path], **options))


@pytest.mark.nightly
def test_every_page_opens_without_errors_and_without_a_network(browser, all_pages):
    for page, wrong in visit(browser, all_pages):
        assert not wrong, f"{page.url}: {wrong[:3]}"


KINDS_OF_PAGES = [
    "index.html",
    "figures/laptop/table_headline.html",
    "docs/api/engine.predict.html",
]
MORE_PAGES = [
    "docs/gallery.html",
    "docs/ethics.html",
    "docs/own_faces.html",
    "docs/teach.html",
    "docs/commands.html",
    "nbs/lab.html",
    "nbs/03_metrics.html",
]
LEVELS = ["wcag2a", "wcag2aa"]
COLOURS = ["color-contrast"]


def check_contrast(browser, site, scheme, names):
    """axe finds nothing wrong at the levels A and AA of WCAG; in dark nothing but colours is
    another.
    """
    from axe_playwright_python.sync_playwright import Axe

    rules = COLOURS if scheme == "dark" else LEVELS
    for page, _ in visit(browser, [site / name for name in names], color_scheme=scheme):
        assert page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).every(c =>"
            " c > 127)"
        ) == (scheme == "light")
        violations = (
            Axe()
            .run(page, options=dict(runOnly=rules, resultTypes=["violations"]))
            .response["violations"]
        )
        assert not violations, f"{page.url} ({scheme}): " + "; ".join(
            f"{v['id']}: {v['nodes'][0]['html'][:150]} {v['nodes'][0]['failureSummary'][:200]}"
            for v in violations
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_names_and_roles(browser, site, scheme):
    check_contrast(browser, site, scheme, KINDS_OF_PAGES)


@pytest.mark.nightly
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_names_and_roles_of_more_pages(browser, whole_site, scheme):
    check_contrast(browser, whole_site, scheme, MORE_PAGES)


def test_tables_sort(browser, site):
    page, _ = opened(browser, site / "docs" / "results_laptop.html")
    table = page.locator("table.sortable").first

    def column():
        return [
            float(cell.split()[0])
            for cell in table.locator("tbody tr td:nth-child(7)").all_inner_texts()
        ]

    button = table.locator("thead th:nth-child(7) button")
    button.click()
    assert column() == sorted(column())
    assert len(set(column())) > 2
    assert table.locator("thead th:nth-child(7)").get_attribute("aria-sort") == "ascending"
    button.press("Enter")
    assert column() == sorted(column(), reverse=True)


def test_a_phone_can_read_it(browser, site):
    for page, _ in visit(
        browser,
        [
            site / name
            for name in (
                "index.html",
                "nbs/03_metrics.html",
                "docs/results_laptop.html",
                "docs/gallery.html",
            )
        ],
        viewport=dict(width=390, height=800),
    ):
        assert page.evaluate("document.documentElement.scrollWidth") <= 391, page.url


def test_search_finds(browser, site):
    page, _ = opened(browser, site / "search.html")
    page.goto((site / "search.html").as_uri() + "?q=concordance")
    page.wait_for_selector("#search-results li", timeout=20_000)
    assert "metrics" in page.locator("#search-results").inner_text()


def test_formulas_are_set_and_decks_move(browser, site):
    page, _ = opened(browser, site / "nbs" / "03_metrics.html")
    page.wait_for_selector("mjx-container", timeout=30_000)
    deck, wrong = opened(
        browser, site / "slides" / "1-labels.html", viewport=dict(width=1280, height=800)
    )
    deck.wait_for_selector(".reveal.ready", timeout=20_000)
    before = deck.url
    deck.keyboard.press("Space")
    deck.wait_for_url(lambda url: url != before, timeout=20_000)
    assert not wrong


def test_the_arrow_key_leads_to_every_slide(browser, site):
    from affnb.engine.course import SESSIONS

    paths = [site / "slides" / f"{session}.html" for session in SESSIONS]
    for deck, wrong in visit(browser, paths):
        deck.wait_for_selector(".reveal.ready", timeout=20_000)
        total = deck.evaluate("Reveal.getTotalSlides()")
        for _ in range(total - 1):
            deck.keyboard.press("ArrowRight")
        assert deck.evaluate("Reveal.getSlides().indexOf(Reveal.getCurrentSlide())") == total - 1
        assert not wrong


OVER = """async () => {   // what of a deck does not fit on the screen
  const over = [];
  Reveal.configure({transition: "none"});
  for (const slide of Reveal.getSlides()) {
    const {h, v} = Reveal.getIndices(slide);
    Reveal.slide(h, v);
    await new Promise(done => setTimeout(done, 50));
    const {top, bottom} = slide.getBoundingClientRect();
    const name = slide.innerText.trim().split("\\n")[0];
    if (top < -1 || bottom > innerHeight + 1) over.push([name, top, bottom]);
    for (const code of slide.querySelectorAll("pre, pre code"))
        if (code.scrollWidth > code.clientWidth + 2) over.push([name, "a line is cut off"]);
    for (const image of slide.querySelectorAll("img"))
        if (!image.naturalWidth) over.push([name, "a picture is missing"]);
    if (slide.innerText.includes("<Figure size")) over.push([name, "a figure is only named"]);
  }
  return over;
}"""


@pytest.mark.nightly
def test_nothing_on_a_slide_runs_over_the_edge(browser, whole_site):
    from affnb.engine.course import SESSIONS

    for deck, wrong in visit(
        browser,
        [whole_site / "slides" / f"{session}.html" for session in SESSIONS],
        viewport=dict(width=1300, height=800),
    ):
        deck.wait_for_selector(".reveal.ready", timeout=20_000)
        assert not deck.evaluate(OVER) and not wrong, deck.url


def test_code_is_shown_as_it_is_read_and_pictures_open_in_full(browser, site):
    text = (site / "nbs" / "03_metrics.html").read_text()
    assert "default_exp" not in text
    assert "#| export" not in re.sub(r"<[^>]+>", "", text)
    page, _ = opened(browser, site / "index.html")
    picture = page.locator("article img").first
    wide = picture.evaluate("image => image.clientWidth")
    picture.click()
    assert page.url.endswith(".png")
    assert page.evaluate("document.images[0].naturalWidth") > 1.5 * wide
