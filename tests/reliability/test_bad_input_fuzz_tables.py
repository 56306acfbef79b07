"""Made-up tables, names and meanings of labels: each parser gives what plain code gives, or a UserError."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardiac_autoseg.data.acdc import read_info
from cardiac_autoseg.data.folder import import_folder
from cardiac_autoseg.data.index import LABELS, Case
from cardiac_autoseg.data.mnms import import_mnms
from cardiac_autoseg.data.parsing import (
    class_values,
    match_labels,
    parse_name,
    positive,
    read_table,
    table_columns,
    values_beside,
    whole,
)
from cardiac_autoseg.delivery.inputs import MOST_BYTES, safe_name
from cardiac_autoseg.delivery.people import LIMITS, read_people
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace

from .fuzz_settings import EXAMPLES, NUMBERS, TEXTS, check_names
from .hostile_nifti import nifti, picture

AREA = "Fuzzing"
IMAGE = nifti(picture()[:2, :9, :7])


@pytest.mark.tries(AREA, "tables of any bytes: rows, or refused")
@EXAMPLES
@given(
    content=st.binary(max_size=300)
    | st.lists(st.lists(NUMBERS, max_size=6).map(",".join)).map(lambda rows: "\n".join(rows).encode())
)
def test_tables(tmp_path: Path, counted: Callable[[], None], content: bytes) -> None:
    counted()
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    for parser in (read_table, read_info, read_people):
        try:
            parser(path)
        except UserError as error:
            check_names(error, path)
    assert all(isinstance(name, str) for name in table_columns(path))


@pytest.mark.tries(AREA, "tables of people: every number is one that can be true, or the line is named")
@EXAMPLES
@given(rows=st.lists(st.tuples(TEXTS, *[NUMBERS] * 7), max_size=3))
def test_people(tmp_path: Path, counted: Callable[[], None], rows: list[tuple[str, ...]]) -> None:
    counted()
    path, text = tmp_path / "people.csv", io.StringIO(newline="")
    csv.writer(text).writerows([("case", "sex", "age", "height_cm", "weight_kg", "heart_rate", "ed", "es"), *rows])
    path.write_bytes(text.getvalue().encode())
    try:
        people = read_people(path)
    except UserError as error:
        check_names(error, path)
        return
    for known in people.values():
        for name, value in {**vars(known.person), "heart_rate": known.heart_rate}.items():
            assert value is None or name == "sex" or LIMITS[name][0] <= value <= LIMITS[name][1]
        assert known.person.sex in (None, "M", "F")


@pytest.mark.tries(AREA, "tables of M&Ms and cases.csv of any cells: cases, each left out by name, or refused")
@EXAMPLES
@given(
    cells=st.lists(st.tuples(*[NUMBERS] * 5), min_size=1, max_size=3),
    column=st.sampled_from(["External code", "SUBJECT_CODE"]),
)
def test_case_tables(tmp_path: Path, counted: Callable[[], None], cells: list[tuple[str, ...]], column: str) -> None:
    counted()
    (tmp_path / "images").mkdir(exist_ok=True)
    for name in ("a_sa.nii", "images/a.nii", "b_SA_ED.nii", "b_SA_ES.nii"):
        if not (tmp_path / name).is_file():
            (tmp_path / name).write_bytes(IMAGE)
    workspace, left_out = Workspace(tmp_path / "workspace"), list[str]()
    for name, heads, layout in (
        ("info.csv", (column, "ED", "ES", "Height", "Weight"), import_mnms),
        ("cases.csv", ("case", "frame", "phase", "height_cm", "weight_kg"), import_folder),
    ):
        text = io.StringIO(newline="")
        codes = ("a", "b", "c")
        csv.writer(text).writerows([heads, *((code, *row[1:]) for code, row in zip(codes, cells, strict=False))])
        (tmp_path / name).write_bytes(text.getvalue().encode())
        try:
            found = layout(tmp_path, workspace, skip=left_out.append)
        except UserError as error:
            check_names(error, tmp_path)
            continue
        for case in found.cases:
            assert case.image_frame is None or case.image_frame >= 0
            assert case.height_cm is None or 0 < case.height_cm < float("inf")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.tries(AREA, "what label values mean, any JSON: each class one value, or refused by the file's name")
@EXAMPLES
@given(
    values=st.dictionaries(
        TEXTS | st.sampled_from(["RV", "LV", "1", "2", "background"]), JSON | st.sampled_from(["RV", 1]), max_size=5
    )
)
def test_meanings(tmp_path: Path, counted: Callable[[], None], values: dict[str, Any]) -> None:
    counted()
    try:
        found = class_values(values, tmp_path / "labels.json")
    except UserError as error:
        check_names(error, "labels.json")
    else:
        assert found[0] == "background"
        assert len(set(found.values())) == len(found) > 1
        assert set(found.values()) <= set(LABELS)
    (tmp_path / "labels.json").write_text(json.dumps(values))
    try:
        assert values_beside([tmp_path]) == found
    except UserError as error:
        check_names(error, "labels.json")


@pytest.mark.tries(AREA, "names and numbers of any text: parsed as plain code says, never an error")
@EXAMPLES
@given(text=st.text(max_size=400), number=NUMBERS)
def test_names_and_numbers(counted: Callable[[], None], text: str, number: str) -> None:
    counted()
    name = safe_name(text)
    assert safe_name(name) == name or len(name.encode()) > MOST_BYTES
    assert len(os.fsencode(name)) <= MOST_BYTES + 7
    assert name.isprintable() or not set(name) & set(map(chr, range(32)))
    subject, phase, frame = parse_name(text)
    assert text.startswith(subject)
    assert phase in (None, "ED", "ES")
    assert frame is None or frame >= 0
    assert (value := positive(number)) is None or 0 < value < float("inf")
    assert (count := whole(number)) is None or 0 <= count <= 1e6
    cases = [Case("a", "a", "a.nii"), Case(text, "b", "b.nii")]
    match_labels([Path("a_gt.nii"), Path("c.nii")], cases)
