"""The speaker's notes of the slides as HTML: paragraphs, items of lists, and formulas as MathML,
which the speaker's window sets without a script. sphinx_revealjs writes notes as plain text.
"""

import html
import re
from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util.docutils import SphinxDirective

# LaTeX that docutils does not read, in words that it does
SYNONYMS = {
    r"\\tfrac": r"\\frac",
    r"\\frac(\d)(\d)": r"\\frac{\1}{\2}",
    r"\\dots(?![a-z])": r"\\ldots",
    r"\\(?:textstyle|[bB]igg?[lr]?)(?![a-zA-Z])": "",
}


class Notes(nodes.General, nodes.Element):
    "What the speaker reads beside a slide."


class NotesDirective(SphinxDirective):
    has_content = True

    def run(self):
        node = Notes()
        self.state.nested_parse(self.content, self.content_offset, node)
        return [node]


def formula(node) -> str:  # HTML
    "A formula as MathML, or as it was written where docutils cannot read it."
    text = node.astext()
    for pattern, same in SYNONYMS.items():
        text = re.sub(pattern, same, text)
    try:
        return latex2mathml.tex2mathml(text, as_block=isinstance(node, nodes.math_block))
    except MathError:
        return f"<code>{html.escape(text)}</code>"


def visit_notes(translator, node):
    for kind in (nodes.math, nodes.math_block):
        for found in list(node.findall(kind)):
            found.replace_self(nodes.raw("", formula(found), format="html"))
    translator.body.append('<aside class="notes">\n')


def depart_notes(translator, node):
    translator.body.append("</aside>\n")


def setup(app):
    app.add_node(Notes, revealjs=(visit_notes, depart_notes))
    app.add_directive("revealjs-notes", NotesDirective, override=True)
    return dict(version="1", parallel_read_safe=True)
