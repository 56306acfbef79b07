"""What all commands share: mistakes end in a message and exit code 2, never in a traceback."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

import pytest

from cardiac_autoseg.cli import common, plan_and_preprocess, train


def test_a_place_that_cannot_be_written_is_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a file"
    file.write_text("")

    def work(_: argparse.Namespace) -> int:
        (file / "folder").mkdir()
        return common.OK

    assert common.run(argparse.ArgumentParser(prog="cas_x"), work, []) == common.USER_ERROR
    message = capsys.readouterr().err
    assert message.startswith("cas_x: ")
    assert str(file) in message


@pytest.mark.parametrize(
    ("parser", "arguments"),
    [
        (train.build_parser(), ["unet", "0", "--seed", "-1"]),
        (train.build_parser(), ["unet", "0", "--threads", "0"]),
        (train.build_parser(), ["unet", "0", "--steps", "0"]),
        (plan_and_preprocess.build_parser(), ["--workers", "-1"]),
    ],
)
def test_numbers_out_of_range_are_refused(
    parser: argparse.ArgumentParser, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parser.parse_args(arguments)
    assert end.value.code == common.USER_ERROR
    assert "must be at least" in capsys.readouterr().err


def test_loading_leaves_the_collector_at_work() -> None:
    def interrupted() -> None:
        with common.loading():
            assert not gc.isenabled()
            raise KeyError

    thresholds = gc.get_threshold()
    try:
        with pytest.raises(KeyError):
            interrupted()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
