"Settings of Sphinx for the site and the slides; build.py lays the pages out, and says where."

project = "affnb"
author = "the affnb authors"
copyright = "the affnb authors"
language = "en"
slides = tags.has("slides")  # noqa: F821  (Sphinx defines it)
extensions = [
    "myst_nb",
    "sphinx-mathjax-offline",
    *(["sphinx_revealjs", "speaker_notes"] if slides else ["sphinx_copybutton", "sphinx_design"]),
]
exclude_patterns = ["conf.py"]
nb_execution_mode = "off"  # pages show what is committed
nb_mime_priority_overrides = [
    ("revealjs", mime, 10 * k)
    for k, mime in enumerate(
        ("image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown", "text/plain")
    )
]
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type", "config.cache"]

html_theme = "sphinx_book_theme"
html_title = "affnb"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css", "living.css", "quiz.css"]
html_js_files = ["site.js", "living.js", "quiz.js"]
html_theme_options = dict(
    use_download_button=False,
    use_fullscreen_button=False,
    show_navbar_depth=1,
    show_toc_level=2,
    navbar_persistent=[],
    home_page_in_toc=True,
    pygments_light_style="a11y-high-contrast-light",
    pygments_dark_style="a11y-high-contrast-dark",
)
html_context = dict(default_mode="auto")
html_copy_source = html_show_sourcelink = False

revealjs_style_theme = "white"
revealjs_static_path = ["_static"]
revealjs_css_files = ["slides.css"]
revealjs_js_files = ["slides.js"]
revealjs_script_plugins = [dict(name="RevealNotes", src="revealjs/plugin/notes/notes.js")]
# "linear": the arrow keys lead to every slide, also to those below another
revealjs_script_conf = dict(
    hash=True, slideNumber="c/t", navigationMode="linear", width=1280, height=800
)
