from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from bench.words import names_of, numbers, numbers_or_none, sizes, some_of


def test_names_keep_their_order() -> None:
    assert names_of("moe,dense,moe") == ["moe", "dense", "moe"]


@pytest.mark.parametrize("parse", [names_of, numbers, sizes, some_of(("moe",))])
@pytest.mark.parametrize("text", ["", "moe,,moe"])
def test_an_empty_word_is_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"a word is empty in '{text}'"):
        parse(text)


def test_no_numbers_where_there_may_be_none() -> None:
    assert numbers_or_none("") == () and numbers_or_none("4,1") == (4, 1)


def test_numbers_keep_their_order_where_sizes_are_sorted_and_once() -> None:
    assert numbers("16,1,16") == (16, 1, 16)
    assert sizes("16,1,16") == (1, 16)


def test_a_word_that_is_not_known_is_named() -> None:
    parse = some_of(("eager", "glmc"))
    assert parse("glmc,eager") == ["glmc", "eager"]
    with pytest.raises(argparse.ArgumentTypeError, match="'gmlc' is none of eager, glmc"):
        parse("glmc,gmlc")


def test_what_is_no_number_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=numbers, default="1,4")
    assert parser.parse_args([]).batches == (1, 4)
    with pytest.raises(SystemExit):
        parser.parse_args(["--batches", "1,four"])
    assert "invalid numbers value: '1,four'" in capsys.readouterr().err
