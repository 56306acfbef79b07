"""Margins: declared once, never overwritten, and a later change is seen."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.comparison.margins import DEFAULT, Margins, declare, load, margin_for, redeclare
from cardiac_autoseg.errors import UserError


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_declared_margins_are_read_back(tmp_path: Path) -> None:
    declared = declare(tmp_path / "margins.json")
    assert declared == load(tmp_path / "margins.json")
    assert declared.values == DEFAULT
    assert not declared.edited
    assert abs((datetime.fromisoformat(declared.declared) - datetime.now(UTC)).total_seconds()) < 60


def test_declare_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "margins.json"
    first = declare(path, {"dice": 0.05})
    before = path.read_bytes()
    assert declare(path) == first
    assert path.read_bytes() == before


def test_the_hash_is_of_the_margins_alone(tmp_path: Path) -> None:
    first = declare(tmp_path / "a.json", {"dice": 0.02, "LV_EF": 3})
    second = declare(tmp_path / "b.json", {"LV_EF": 3.0, "dice": 0.02})
    assert first.hash == second.hash
    assert declare(tmp_path / "c.json", {"dice": 0.021, "LV_EF": 3}).hash != first.hash


def test_an_edit_by_hand_is_seen_and_used(tmp_path: Path) -> None:
    path = tmp_path / "margins.json"
    first = declare(path)
    edit(path, margins=dict(DEFAULT) | {"dice": 0.1})
    edited = load(path)
    assert edited.edited
    assert edited.hash != first.hash
    assert margin_for(edited, "dice LV ED") == 0.1


def test_a_new_declaration_keeps_the_old_ones(tmp_path: Path) -> None:
    path, file = tmp_path / "margins.json", tmp_path / "mine.json"
    first = declare(path)
    file.write_text('{"margins": {"dice": 0.03}}')
    second = redeclare(path, file)
    assert second == redeclare(path, file) == load(path)  # the same again: no new entry
    assert [entry["hash"] for entry in second.history] == [first.hash]
    assert second.history[0]["declared"] == first.declared
    assert not second.edited
    file.write_text('{"dice": 0.04}')
    assert [entry["hash"] for entry in redeclare(path, file).history] == [first.hash, second.hash]


def test_a_new_declaration_may_be_the_first(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"LV_EF": 2}')
    assert redeclare(tmp_path / "margins.json", tmp_path / "mine.json").history == ()


@pytest.mark.parametrize("value", [0, -1, "3", None, True, float("nan"), float("inf"), [3]])
def test_bad_values_are_refused_by_name(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "margins.json"
    declare(path)
    edit(path, margins={"dice": 0.02, "LV_EF": value})
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*LV_EF"):
        load(path)
    with pytest.raises(UserError, match="LV_EF"):
        declare(tmp_path / "other.json", {"LV_EF": value})
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"margins": {"Dice": 0.02}}, "'Dice'"),
        ({"margins": {}}, "margins"),
        ({"margins": [1]}, "margins"),
        ({"format_version": 2}, "format version"),
        ({"declared": None}, "declared"),
        ({"declared": "yesterday"}, "declared"),
        ({"declared": "2024-01-01T00:00:00"}, "zone"),
        ({"history": 3}, "history"),
    ],
)
def test_bad_files_are_refused_by_field(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = tmp_path / "margins.json"
    declare(path)
    edit(path, **changes)
    with pytest.raises(UserError, match=named):
        load(path)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_broken_files_are_user_errors(tmp_path: Path, text: str) -> None:
    path = tmp_path / "margins.json"
    path.write_text(text)
    for call in (lambda: load(path), lambda: declare(path), lambda: redeclare(tmp_path / "new.json", path)):
        with pytest.raises(UserError, match=re.escape(str(path))):
            call()
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "absent.json")


def test_one_dice_margin_for_all_structures_and_none_where_none_is_declared() -> None:
    margins = Margins({"dice": 0.02, "LV_EF": 3.0}, "", "")
    assert margin_for(margins, "dice LV ED") == margin_for(margins, "dice RV ES") == 0.02
    assert margin_for(margins, "LV_EF") == 3.0
    assert margin_for(margins, "LV_SV") is None
