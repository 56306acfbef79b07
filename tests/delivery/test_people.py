"""What the user knows of a case and its file does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardiac_autoseg.data.scan import Person
from cardiac_autoseg.delivery.people import Given, given_for, read_people
from cardiac_autoseg.errors import UserError


def test_table(tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("\ufeffcase,sex,height_cm,weight_kg,ed,es\na,female,165,61.5,1,9\nb,,,,,\n", encoding="utf-8")
    people = read_people(table)
    assert people["a"] == Given(1, 9, None, Person("F", None, 165, 61.5))
    assert people["b"] == Given()
    assert given_for(["a", "b", "c"], str(table), {}) == people


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,sex\na,M\n", "no column 'case'|unknown column 'name'"),
        ("case,sex\na,x\n", "line 2: sex 'x'"),
        ("case,height_cm\na,1.75\n", "height_cm 1.75 is not between 20 and 250"),
        ("case,weight_kg\na,heavy\n", "weight_kg 'heavy' is not a number"),
        ("case,ed\na,0\n", "ed 0 is not between"),
        ("case,ed\na,1.5\n", "ed '1.5' is not a number"),
        ("case,sex\na,M\na,F\n", "line 3: each case has one line"),
        ("case,shoe size\na,44\n", "unknown column 'shoe size'"),
        ("", "no column 'case'"),
    ],
)
def test_bad_tables_are_refused_in_words(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "people.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_people(table)


def test_missing_table_and_unknown_case(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_people(tmp_path / "none.csv")
    table = tmp_path / "people.csv"
    table.write_text("case,sex\nz,M\n", encoding="utf-8")
    with pytest.raises(UserError, match="names 'z', which is none of the cases: a"):
        given_for(["a"], str(table), {})


def test_options_are_for_a_single_case() -> None:
    assert given_for(["a"], None, {"es": "7", "heart_rate": "61"}) == {"a": Given(None, 7, 61.0)}
    with pytest.raises(UserError, match="use a table"):
        given_for(["a", "b"], None, {"es": "7"})
    with pytest.raises(UserError, match="sex 'x'"):
        given_for(["a"], None, {"sex": "x"})
