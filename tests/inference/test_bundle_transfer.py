"""Bundles in half the size, checked, passed on and taken in; what is foreign or made to do harm stays outside."""

from __future__ import annotations

import dataclasses
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cardiac_autoseg.bundle import Bundle, amend_bundle, file_names, load_bundle, read_bundle, read_quality, save_bundle
from cardiac_autoseg.bundle_transfer import damage, export_bundle, import_bundle, verify_bundle
from cardiac_autoseg.errors import UserError

Ensemble = tuple[Bundle, list[nn.Module]]


def save(path: Path, ensemble: Ensemble, **how: object) -> Path:
    bundle, networks = ensemble
    save_bundle(path, bundle, [network.state_dict() for network in networks], **how)  # type: ignore[arg-type]
    return path


def test_half_the_size_and_nearly_the_same_probabilities(tmp_path: Path, ensemble: Ensemble) -> None:
    whole, half = save(tmp_path / "whole", ensemble), save(tmp_path / "half", ensemble, half=True)
    for member in read_bundle(whole).members:
        before, after = (load_file(path / member.file) for path in (whole, half))
        for name, value in before.items():
            halved = value.ndim > 1
            assert after[name].dtype == (torch.float16 if halved else value.dtype), name
        assert (half / member.file).stat().st_size < (whole / member.file).stat().st_size
    image = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    for original, network in zip(ensemble[1], load_bundle(half)[1], strict=True):
        for name, value in network.state_dict().items():
            exact = original.state_dict()[name]
            assert value.dtype == exact.dtype
            if value.ndim < 2:
                assert torch.equal(value, exact), "biases and statistics stay exact"
            else:
                torch.testing.assert_close(value, exact, rtol=2**-11, atol=2**-25)
        with torch.inference_mode():
            expected, found = (torch.softmax(each(image), 1) for each in (original, network))
        # Random networks swing far more than trained ones.
        assert 0 < float((expected - found).abs().mean()) < 0.01
    assert verify_bundle(half) == []


def test_weights_beyond_float16_are_refused(tmp_path: Path, ensemble: Ensemble) -> None:
    weights = [network.state_dict() for network in ensemble[1]]
    name = next(key for key, value in weights[1].items() if value.ndim > 1)
    weights[1][name] = weights[1][name] * 0 + 7e4
    with pytest.raises(UserError, match=f"{name} has values up to 70000"):
        save_bundle(tmp_path / "half", ensemble[0], weights, half=True)
    assert list(tmp_path.iterdir()) == []


def test_bundle_of_an_earlier_release_is_read(tmp_path: Path, ensemble: Ensemble) -> None:
    path = save(tmp_path / "old", ensemble)
    record = json.loads((path / "bundle.json").read_text())
    for name in ("card", "files"):
        del record[name]
    (path / "bundle.json").write_text(json.dumps(record))
    for name in ("MODEL_CARD.md", "LICENSE"):
        (path / name).unlink()
    assert len(load_bundle(path)[1]) == 3
    assert verify_bundle(path) == []
    assert read_quality(path) is None
    amend_bundle(path, card={"quality": {"n": 1}})
    assert (path / "MODEL_CARD.md").is_file()


def test_quality_is_kept_checked_and_added_later(tmp_path: Path, ensemble: Ensemble) -> None:
    quality = {"coefficients": [0.5, float("nan")], "of": "anything"}
    path = save(tmp_path / "best", ensemble, quality=quality)
    assert read_quality(path) == {"coefficients": [0.5, None], "of": "anything"}
    amend_bundle(path, card={"quality": {"cases": 7}})
    assert read_quality(path) is not None
    later = amend_bundle(path, quality={"of": "more"})
    assert read_quality(path) == {"of": "more"}
    assert later.card == {"quality": {"cases": 7}} and read_bundle(path) == later
    assert verify_bundle(path) == []
    (path / "quality.json").write_text("{}")
    with pytest.raises(UserError, match=r"quality\.json .*checksum"):
        read_quality(path)


def test_everything_that_is_wrong_is_named(tmp_path: Path, ensemble: Ensemble) -> None:
    path = save(tmp_path / "best", (dataclasses.replace(ensemble[0], licence=""), ensemble[1]), quality={"a": 1})
    (problem,) = verify_bundle(path)
    assert "licence" in problem and damage(path) == []
    first, second, third = (member.file for member in read_bundle(path).members)
    (path / first).unlink()
    (path / second).write_bytes((path / second).read_bytes() + b" ")
    (path / "quality.json").write_text("[]")
    (path / "run_me.py").write_text("")
    (path / "evaluation.json").write_text("{}")
    problems = "\n".join(verify_bundle(path))
    for name in (first, second, "quality.json", "run_me.py"):
        assert name in problems
    assert third not in problems and "evaluation.json" not in problems
    assert verify_bundle(tmp_path / "nowhere") == [
        f"there is no bundle at {tmp_path / 'nowhere'}: name a folder or .zip made by cas_ensemble"
    ]


def test_weights_that_are_not_finite_are_found(tmp_path: Path, ensemble: Ensemble) -> None:
    with torch.no_grad():
        next(ensemble[1][0].parameters()).fill_(float("nan"))
    (problem,) = verify_bundle(save(tmp_path / "best", ensemble))
    assert "NaN" in problem


def test_exported_zip_is_the_bundle_and_always_the_same(tmp_path: Path, ensemble: Ensemble) -> None:
    path = save(tmp_path / "best", ensemble, quality={"a": 1})
    (path / "evaluation.json").write_text("{}")
    one, other = tmp_path / "one" / "m.zip", tmp_path / "other" / "m.zip"
    for archive in (one, other):
        assert export_bundle(path, archive) == read_bundle(path)
    assert one.read_bytes() == other.read_bytes()
    assert verify_bundle(one) == [] and len(load_bundle(one)[1]) == 3
    with zipfile.ZipFile(one) as archive:
        assert sorted(archive.namelist()) == sorted(f"m/{name}" for name in file_names(read_bundle(path)))
    again = tmp_path / "again.zip"
    export_bundle(one, again)
    assert verify_bundle(again) == []
    with pytest.raises(UserError, match="there already"):
        export_bundle(path, one)
    with pytest.raises(UserError, match=r"not named \.zip"):
        export_bundle(path, tmp_path / "m.tar")
    (path / "MODEL_CARD.md").write_text("rewritten")
    with pytest.raises(UserError, match=r"MODEL_CARD\.md"):
        export_bundle(path, tmp_path / "damaged.zip")
    assert not (tmp_path / "damaged.zip").exists()


def test_imported_bundle_is_the_exported_one(tmp_path: Path, ensemble: Ensemble) -> None:
    archive = save(tmp_path / "m.zip", ensemble, quality={"a": 1}, half=True)
    path = import_bundle(archive, tmp_path / "models")
    assert path == tmp_path / "models" / "test"
    assert read_bundle(path) == read_bundle(archive) and verify_bundle(path) == []
    assert sorted(item.name for item in path.iterdir()) == sorted(file_names(read_bundle(path)))
    assert import_bundle(archive, tmp_path / "models", "mine").name == "mine"
    assert sorted(item.name for item in (tmp_path / "models").iterdir()) == ["mine", "test"], "no scratch stays"
    for name, words in ((None, "there already"), ("../x", "cannot be the name"), (".x", "cannot be the name")):
        with pytest.raises(UserError, match=words):
            import_bundle(archive, tmp_path / "models", name)
    with pytest.raises(UserError, match="not a file"):
        import_bundle(path, tmp_path / "models", "folder")


def add(name: str, content: bytes = b"x", mode: int = 0o644, times: int = 1) -> Callable[[zipfile.ZipFile], None]:
    def change(archive: zipfile.ZipFile) -> None:
        for _ in range(times):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)

    return change


HARM: dict[str, tuple[Callable[[zipfile.ZipFile], None], str]] = {
    "path upwards": (add("../evil.safetensors"), "leads out"),
    "path upwards inside": (add("m/../../evil.json"), "leads out"),
    "absolute path": (add("/tmp/evil.json"), "leads out"),
    "drive": (add("C:/evil.json"), "leads out"),
    "backslash": (add("m\\..\\evil.json"), "leads out"),
    "link": (add("m/quality.json", b"/etc/passwd", stat.S_IFLNK | 0o777), "is a link"),
    "foreign file": (add("m/run.py"), "run.py' does not belong|run.py does not belong"),
    "second folder": (add("n/bundle.json"), "more than one folder"),
    "twice": (add("m/bundle.json", times=2), "bundle.json' is in it 3 times"),
    "bomb": (add("m/MODEL_CARD.md", bytes(100_000_000)), "unpack"),
    "many files": (lambda archive: [add(f"m/{n}.txt")(archive) for n in range(1500)] and None, "files that unpack"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", HARM)
def test_harmful_zips_stay_outside(tmp_path: Path, ensemble: Ensemble, case: str) -> None:
    change, words = HARM[case]
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = save(inside / "m.zip", ensemble)
    with zipfile.ZipFile(archive, "a") as opened:
        change(opened)
    with pytest.raises(UserError, match=words):
        import_bundle(archive, tmp_path / "models")
    assert verify_bundle(archive) != []
    assert not (tmp_path / "models").exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["inside"]


def test_encrypted_and_cut_zips_stay_outside(tmp_path: Path, ensemble: Ensemble) -> None:
    archive = save(tmp_path / "m.zip", ensemble)
    content = bytearray(archive.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 8] |= 1  # the flag of encryption, in the directory of the zip
    archive.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        import_bundle(archive, tmp_path / "models")
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not a whole zip"):
        import_bundle(archive, tmp_path / "models")


def test_record_that_names_other_files_is_refused(tmp_path: Path, ensemble: Ensemble) -> None:
    path = save(tmp_path / "best", ensemble)
    record = json.loads((path / "bundle.json").read_text())
    record["files"]["../../setup.py"] = "0" * 64
    (path / "bundle.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="further files that no bundle has"):
        read_bundle(path)
