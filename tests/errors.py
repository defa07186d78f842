"""Errors by their parts, so that a better wording breaks no test: where, the facts of the problem
(a number, a name), and that there is a remedy.
"""


def assert_error(error, where=None, problem=(), remedy=()):
    """Checks an `AffnbError`, or what `pytest.raises` recorded of one: `where` exactly, the other
    parts by the facts in them; `remedy=None` is for an error that needs none.
    """
    error = getattr(error, "value", error)
    assert "\n" not in str(error), "an error is one line"
    if where is not None:
        assert error.where == str(where)
    for fact in [problem] if isinstance(problem, str) else problem:
        assert str(fact) in error.problem, error.problem
    if remedy is not None:
        assert error.remedy, f"no remedy: {error}"
        for fact in [remedy] if isinstance(remedy, str) else remedy:
            assert str(fact) in error.remedy, error.remedy


def assert_one_line(text, *facts):
    "Checks that a command has printed one line to stderr, its error, with these facts in it."
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("affnb: "), text
    for fact in facts:
        assert str(fact) in lines[0], lines[0]
