"""Profiles: JSON in and out, and what is wrong in a file is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cardiac_autoseg.annotation.profile import BUILT_IN, Profile, load_profile
from cardiac_autoseg.errors import UserError


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_profiles_load_and_survive_json(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile != Profile(name=name, description=profile.description)
    path = tmp_path / "copy.json"
    path.write_text(json.dumps(profile.to_json()))
    assert load_profile(str(path)) == profile


def test_fields_left_out_are_zero_and_the_name_is_the_files(tmp_path: Path) -> None:
    path = tmp_path / "thick.json"
    path.write_text('{"epicardium_mm": 2}')
    assert load_profile(str(path)) == Profile(name="thick", epicardium_mm=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"epicardum_mm": 2}', "epicardum_mm"),
        ('{"rv_mm": "2"}', "rv_mm"),
        ('{"rv_mm": true}', "rv_mm"),
        ('{"rv_mm": null}', "rv_mm"),
        ('{"rv_mm": NaN}', "rv_mm"),
        ('{"name": 3}', "name"),
        ('{"drop_basal": 1.2}', "drop_basal"),
        ('{"drop_basal": 0.6, "add_basal": 0.6}', "add_basal"),
        ('{"papillary_share": -0.1}', "papillary_share"),
        ('{"jitter_sd_mm": -1}', "jitter_sd_mm"),
        ('{"polygon_vertices": 2}', "polygon_vertices"),
        ('{"polygon_vertices": 8.5}', "polygon_vertices"),
        ("[1]", "not a profile"),
        ("{", "JSON"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_profile(str(path))
    assert str(path) in str(caught.value)


def test_unknown_profile_lists_the_known() -> None:
    with pytest.raises(UserError, match="novice, trained"):
        load_profile("expertt")


def test_hash_tells_what_a_profile_does() -> None:
    novice = load_profile("novice")
    assert dataclasses.replace(novice, description="other words").hash == novice.hash
    assert dataclasses.replace(novice, slip_mm=novice.slip_mm + 1).hash != novice.hash
