"""What is said of a model that is no preset and no directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.errors import ConfigError
from glmc.presets.names import require_model


def refused(source: str) -> str:
    with pytest.raises(ConfigError) as error:
        require_model(source)
    return error.value.remedy or ""


@pytest.fixture(autouse=True)
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("models/tiny-moe", "models/tiny-moth"):
        Path(name).mkdir(parents=True)
    Path("models/tiny-moe/config.json").write_text("{}")


@pytest.mark.parametrize("source", ["models/tiny-moo", "./models/tiny-moo"])
def test_a_slip_in_a_path_names_the_checkpoint_beside_it(source: str) -> None:
    assert refused(source) == "did you mean 'models/tiny-moe'?"


def test_a_repository_is_to_be_downloaded() -> None:
    assert "hf download zai-org/other --local-dir other" in refused("zai-org/other")
    near = refused("zai-org/GLM-4-9B-0414")
    assert "did you mean 'glm-4-9b-0414'?" in near
    assert "hf download zai-org/GLM-4-9B-0414 --local-dir GLM-4-9B-0414" in near


@pytest.mark.parametrize("source", ["models/nothing", "./nothing", "/nothing/at", "a/b/c"])
def test_what_is_no_repository_is_not_to_be_downloaded(source: str) -> None:
    assert "hf download" not in refused(source)
