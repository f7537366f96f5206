"""docs/glossary.md: each term once, in order, with its meaning and its place."""

from __future__ import annotations

import pytest

from tests.docs.markdown import ROOT, section, table_rows

PAGE = ROOT / "docs" / "glossary.md"
TITLES = ("Compiling", "Kernels", "Running", "Models")


@pytest.mark.parametrize("title", TITLES)
def test_terms_are_in_order_and_whole(title: str) -> None:
    rows = table_rows(section(PAGE, title))
    terms = [row[0].strip("`").lower() for row in rows]
    assert terms and terms == sorted(terms)
    assert all(len(row) == 4 and row[1].endswith(".") for row in rows), rows


def test_a_term_has_one_meaning() -> None:
    rows = [row for title in TITLES for row in table_rows(section(PAGE, title))]
    terms = [term.strip("` ") for row in rows for term in row[0].split(",")]
    assert sorted(terms) == sorted(set(terms))
