from __future__ import annotations

import argparse

import pytest

from bench.words import names, numbers, sizes, some_of


def test_names_keep_their_order_and_nothing_between_commas_is_left_out() -> None:
    assert names("moe,dense,,moe") == ["moe", "dense", "moe"]


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
