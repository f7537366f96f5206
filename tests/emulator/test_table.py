"""The compiler's table of vendor functions and the emulated signatures must say the same."""

from __future__ import annotations

import inspect

import pytest

from glmc_kunlun_emulator import load

table = pytest.importorskip("glmc.backends.kunlun.table", reason="needs the compiler installed")


@pytest.mark.parametrize("profile", ["P-A", "P-B", "P-C"])
def test_keywords_order_and_defaults(profile: str) -> None:
    kunlun_ops = load(profile).kunlun_ops
    functions = table.PROFILES[profile].functions
    names = table.PROFILES[profile].names
    assert names
    for name in names:
        keywords = functions[name].variants[profile].keywords
        parameters = inspect.signature(getattr(kunlun_ops, name)).parameters
        for keyword, parameter in zip(keywords, parameters.values(), strict=False):
            assert keyword.name == parameter.name, (name, keyword.name, list(parameters))
            if not keyword.required:
                assert keyword.default == parameter.default, (name, keyword.name)
        missing = [keyword.name for keyword in keywords if keyword.name not in parameters]
        assert not missing, (name, missing)
