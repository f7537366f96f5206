from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from bench.words import names_of, numbers, sizes, some_of


def test_names_keep_their_order_and_no_text_stands_for_none() -> None:
    assert names_of("moe,dense,moe") == ["moe", "dense", "moe"]
    assert names_of("") == [] and numbers("") == sizes("") == ()


@pytest.mark.parametrize("parse", [names_of, numbers, some_of(("moe",))])
def test_nothing_between_two_commas_is_refused(parse: Callable[[str], object]) -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match="nothing between two commas of 'moe,,moe'"
    ):
        parse("moe,,moe")


def test_numbers_keep_their_order_where_sizes_are_sorted_and_once() -> None:
    assert numbers("16,1,16") == (16, 1, 16)
    assert sizes("16,1,16") == (1, 16)


def test_a_word_that_is_not_known_is_named() -> None:
    parse = some_of(("eager", "glmc"))
    assert parse("glmc,eager") == ["glmc", "eager"]
    with pytest.raises(argparse.ArgumentTypeError, match="'gmlc' is none of eager, glmc"):
        parse("glmc,gmlc")
    with pytest.raises(argparse.ArgumentTypeError, match="'' is none of eager, glmc"):
        parse("")


def test_what_is_no_number_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=numbers, default="1,4")
    assert parser.parse_args([]).batches == (1, 4)
    with pytest.raises(SystemExit):
        parser.parse_args(["--batches", "1,four"])
    assert "invalid numbers value: '1,four'" in capsys.readouterr().err
