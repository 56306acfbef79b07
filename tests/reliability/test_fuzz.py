"""Every reader of JSON and of text: whatever it is given, it returns something whole or says in words what is wrong."""

from __future__ import annotations

import copy
import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from cardiac_autoseg.annotation.sources import parse_gt
from cardiac_autoseg.cli.train import parse_override
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import parse_json, read_json
from cardiac_autoseg.inference.model_store import default_bundle
from cardiac_autoseg.training.recipe import Recipe, with_overrides
from cardiac_autoseg.workspace import Workspace

from .fuzz_documents import Document, dataset, documents

AREA = "Fuzzing"
SECONDS = 20
"""No reader takes longer, on however slow a machine."""
MORE_MB = 500
PLACES = [
    *("index", "status", "fingerprint", "fingerprint table", "plan of a U-Net", "plan of an ENet", "folds", "bundle"),
    *("trust", "run", "log", "test set of a run", "case", "case done", "evaluation", "margins", "margins to declare"),
    *("speeds", "profile", "store", "hashes of files", "labels.json", "nnU-Net", "any JSON"),
]
NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**400), 0.5, 1e308, -1e308, float("nan"), float("inf")),
    *("", "x", "a/../../b", "\0", "<script>", "\ud800", "é\n\x1b[2J", "=1+1", "data:,x", "y" * 10_000, "1" * 5000, "٣"),
    *([], {}, [[]], [None], [0] * 5000, {"": None}, {"format_version": 1}, ["x", "y"], [1, 2], [[1, 2], [3, 4]], {"a": 1}),
]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
junk = st.sampled_from([*NASTY, nested(90), nested(150)]).map(copy.deepcopy) | anything


def containers(value: Any) -> Iterator[Any]:
    """All objects and lists of a document that have anything in them."""
    if isinstance(value, dict | list) and value:
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


@st.composite
def changed(draw: st.DrawFn, valid: Any) -> Any:
    """A document with one to three things another value, gone, or added."""
    values = [copy.deepcopy(valid)]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(containers(values))))
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        action = draw(st.sampled_from(("replace", "replace", "remove", "add")))
        if action == "remove" and place is not values:
            del place[key]
        elif action == "add" and place is not values:
            other = draw(junk)
            place.append(other) if isinstance(place, list) else place.update({draw(st.text(max_size=5)): other})
        else:
            place[key] = draw(junk)
    return values[0]


@contextmanager
def bounded() -> Iterator[None]:
    """No hang, and no memory without bounds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not read in {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MORE_MB * 1000


def examples(strategy: st.SearchStrategy[Any], count: int, try_one: Callable[[Any], None], full: bool) -> int:
    """Try ``count`` examples of a strategy, the same each time; how many there were."""
    made = 0

    @seed(0)
    @settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=full
    )
    @given(strategy)
    def one(example: Any) -> None:
        nonlocal made
        made += 1
        try_one(example)

    one()
    return made


@pytest.fixture(scope="module")
def every() -> dict[str, Document]:
    default = default_bundle()
    assert default is not None
    return documents(default / "bundle.json", default / "quality.json")


def write(workspace: Workspace, document: Document, values: Any) -> Path:
    path = workspace.root / document.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if document.lines and isinstance(values, list):
        path.write_text("\n".join(dumps(line) for line in values), encoding="utf-8")
    else:
        path.write_text(dumps(values), encoding="utf-8")
    return path


def dumps(values: Any) -> str:
    return json.dumps(values)


def test_every_document_is_listed_and_valid(every: dict[str, Document], tmp_path: Path) -> None:
    assert list(every) == PLACES
    for number, document in enumerate(every.values()):
        workspace = Workspace(tmp_path / str(number))
        write(workspace, document, document.valid)
        document.read(workspace)


@pytest.mark.tries(AREA, "JSON documents with parts of another type, gone, added, huge or deeply nested")
@pytest.mark.parametrize("name", PLACES)
def test_changed_documents(name: str, every: dict[str, Document], tmp_path: Path, full: bool, tries: Any) -> None:
    document = every[name]

    def one(values: Any) -> None:
        shutil.rmtree(tmp_path)
        workspace = Workspace(tmp_path / "w")
        write(workspace, document, values)
        with bounded():
            try:
                document.read(workspace)
            except UserError as error:
                text = str(error)
                assert len(text) < 20_000
                assert str(tmp_path) in text or name == "trust" or "the bundle '" in text, text

    tries.count = examples(changed(document.valid) | anything, 1500 if full else 60, one, full)


@pytest.mark.tries(AREA, "bytes that are hardly JSON")
def test_bytes(tmp_path: Path, full: bool, tries: Any) -> None:
    path = tmp_path / "x.json"
    pieces = [
        b"[",
        b"{",
        b'"a":',
        b"1",
        b",",
        b"}",
        b"]",
        b"1e999",
        b"-",
        b"NaN",
        b'"\\ud800"',
        b"\xff",
        b"\xef\xbb\xbf",
        b"\0",
    ]
    pieces += [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b'{"a":1,"a":2}',
        b'"' + b"x" * 100_000 + b'"',
        b"\xfe\xff\0[",
    ]

    def one(content: bytes) -> None:
        path.write_bytes(content)
        with bounded():
            try:
                read_json(path)
            except UserError as error:
                said = str(error)
            else:
                return
        assert str(path) in said

    strategy = st.binary(max_size=60) | st.lists(st.sampled_from(pieces), max_size=6).map(b"".join)
    tries.count = examples(strategy, 5000 if full else 150, one, full)


@pytest.mark.tries(AREA, "files that are no JSON, at the limits")
def test_limits_of_json(tmp_path: Path, tries: Any) -> None:
    for text in ('{"a": 1, "a": 2}', "[" * 101 + "]" * 101, "1" * 5000, "{", '{"a" 1}', "\ufeff\ufeff1", "[1] 2"):
        tries.count += 1
        with pytest.raises(ValueError, match=r"twice|nested|64 bits|delimiter|property|BOM|value|Extra"):
            parse_json(text)
    assert parse_json(b'\xef\xbb\xbf{"a": [1]}') == {"a": [1]}
    assert parse_json("[" * 100 + "]" * 100)
    with (tmp_path / "large.json").open("wb") as stream:
        stream.truncate(3 << 30)
    with bounded(), pytest.raises(UserError, match="larger than 256 MB"):
        read_json(tmp_path / "large.json")
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match="is not a file"):
            read_json(path)


@pytest.mark.tries(AREA, "names of label sources, --gt")
def test_names_of_sources(full: bool, tries: Any) -> None:
    pieces = ["all", ":", "+", "@", "expert", "novice", "20", "0", "-1", "³", "\0", "", "/", "all:expert+novice"]

    def one(text: str) -> None:
        with bounded():
            try:
                found = parse_gt(text, dataset())
            except UserError:
                return
            assert set(found.sources) <= set(dataset().sources)

    strategy = st.text(max_size=20) | st.lists(st.sampled_from(pieces), max_size=8).map("".join)
    tries.count = examples(strategy, 3000 if full else 100, one, full)


@pytest.mark.tries(AREA, "numbers of the recipe, --set")
def test_overrides(full: bool, tries: Any) -> None:
    names = st.sampled_from(
        ["ema", "clip", "rotation", "warmup", "annotator_start", "mirror_probability", "policy", "x", ""]
    )

    def one(pair: tuple[str, Any]) -> None:
        with bounded():
            try:
                name, value = parse_override(f"{pair[0]}={pair[1] if isinstance(pair[1], str) else dumps(pair[1])}")
                with_overrides(Recipe(), {name: value})
            except UserError:
                pass

    tries.count = examples(st.tuples(names, junk), 3000 if full else 150, one, full)
