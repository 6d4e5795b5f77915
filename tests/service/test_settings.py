import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings, unknown

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str):
    assert f"| `GPUSQ_{name.upper()}` |" in PAGE


def test_nothing_else_is_documented():
    documented = re.findall(r"^\| `GPUSQ_(\w+)` \|", PAGE, re.MULTILINE)

    assert sorted(documented) == sorted(name.upper() for name in Settings.model_fields)


def test_the_environment_is_read_and_an_argument_wins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GPUSQ_PORT", "9001")
    monkeypatch.setenv("GPUSQ_TOP_K", "3")

    settings = Settings(port=9002)

    assert (settings.port, settings.top_k) == (9002, 3)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong", [{"port": 70_000}, {"deadline_s": 0}, {"deadline_s": 31}, {"top_k": 101}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValidationError):
        Settings(**wrong)


@pytest.mark.parametrize(
    "origins", ["app.example", "https://app.example/", "https://a.example b", "*,https://a.example"]
)
def test_an_origin_that_no_browser_sends_is_refused(origins: str):
    with pytest.raises(ValidationError):
        Settings(cors_origins=origins)


def test_every_setting_is_known_in_any_case():
    names = [f"GPUSQ_{name.upper()}" for name in Settings.model_fields]

    assert unknown([*names, *map(str.lower, names), "PATH", "MY_GPUSQ_PORT"]) == []


def test_a_variable_that_is_no_setting_is_named_with_the_nearest_one():
    assert unknown(["GPUSQ_MAXPIXELS", "gpusq_dead_line"]) == [
        "GPUSQ_MAXPIXELS is no setting and changes nothing. Did you mean GPUSQ_MAX_PIXELS?",
        "gpusq_dead_line is no setting and changes nothing. Did you mean GPUSQ_DEADLINE_S?",
    ]
    assert unknown(["GPUSQ_Q"])[0].endswith("docs/settings.md has them all.")
