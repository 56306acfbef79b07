"""Parts of a run, what counts as a setback, and that a batch in pieces is the batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cardiac_autoseg.errors import UserError, is_out_of_memory
from cardiac_autoseg.training import loop
from cardiac_autoseg.training.environment import differences, environment
from cardiac_autoseg.training.log import checksum
from cardiac_autoseg.training.parts import Part, go_on, part_at, parts_of, to_json
from cardiac_autoseg.training.ready import Options, make_ready
from cardiac_autoseg.training.record import Record
from cardiac_autoseg.training.runner import make_run
from cardiac_autoseg.training.setbacks import Setback, after, all_finite, loss_limit
from cardiac_autoseg.training.state import ANCHOR, STATE, anchor_every, held
from cardiac_autoseg.workspace import RunKey, Workspace

HERE: dict[str, Any] = {"threads": 1, "host": "here"}
THERE: dict[str, Any] = {"threads": 2, "host": "there"}
WHOLE = Part(0, 8, 1.0, HERE)


def test_parts_are_cut_where_the_run_goes_back() -> None:
    parts = go_on([WHOLE], Part(300, 8, 1.0, THERE))
    assert [part_at(parts, step).step for step in (0, 299, 300, 900)] == [0, 0, 300, 300]
    assert go_on([WHOLE], Part(300, 8, 1.0, HERE)) == [WHOLE]
    back = go_on(parts, Part(100, 8, 0.5, THERE))
    assert back == [WHOLE, Part(100, 8, 0.5, THERE)]
    assert go_on(back, Part(0, 4, 0.5, THERE)) == [Part(0, 4, 0.5, THERE)]
    assert parts_of({"parts": to_json(back)}, 8) == back


def test_records_without_parts_and_damaged_ones() -> None:
    assert parts_of({"hardware": HERE}, 8) == [WHOLE]
    values = to_json([WHOLE])[0]
    for broken in ([values | {"step": 3}], [values | {"rate": 0}], [{"step": 0}], [values | {"more": 1}], [3]):
        with pytest.raises(ValueError):
            parts_of({"parts": broken}, 8)


def test_what_is_done_after_a_setback() -> None:
    loss, memory = Setback("the loss became nan", 120), Setback("memory ran out", 120, memory=True)
    parts, told = after(loss, [WHOLE], [], 100)
    assert parts == [WHOLE, Part(100, 8, 0.5, HERE)] and "goes on from step 100 with half of the learning rate" in told
    parts, told = after(loss, parts, [{"memory": False}], 100)
    assert parts[-1].rate == 0.25 and "1/4 of the learning rate" in told
    parts, told = after(memory, parts, [], 0)
    assert parts == [Part(0, 4, 0.25, HERE)] and "begins anew with batches in pieces of 4" in told
    with pytest.raises(UserError, match="after 3 attempts"):
        after(loss, parts, [{"memory": False}] * 3 + [{"memory": True}], 0)
    with pytest.raises(UserError, match="one slice at a time"):
        after(memory, [Part(0, 1, 1.0, HERE)], [], 0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_what_counts_as_diverging() -> None:
    assert loss_limit(None, []) == loss_limit(-0.1, []) == math.inf
    assert loss_limit(2.0, [{"loss": 1.9}]) == 6.0
    assert loss_limit(2.0, [{"loss": 0.3}, {"loss": 1.5}]) == 2.0


def test_all_finite_and_checksum() -> None:
    network = torch.nn.BatchNorm2d(3)
    before, mean = checksum(network), network.state_dict()["running_mean"]
    assert all_finite(network.state_dict()) and checksum(torch.nn.BatchNorm2d(3)) == before
    mean[1] = torch.finfo(torch.float32).tiny
    assert checksum(network) != before
    mean[1] = math.inf
    assert not all_finite(network.state_dict())


def test_anchors_are_at_lines_of_the_log() -> None:
    assert [anchor_every(steps, 50) for steps in (1, 60, 1000, 11250)] == [50, 50, 50, 550]


def test_states_of_a_failed_attempt_do_not_hold(tmp_path: Path) -> None:
    from cardiac_autoseg.training.checkpoints import write_tensors

    def write(name: str, step: int, setbacks: int) -> None:
        write_tensors(tmp_path / name, {"x": torch.zeros(1)}, {"step": step, "setbacks": setbacks})

    write(STATE, 120, 0)
    write(ANCHOR, 100, 0)
    assert held(tmp_path, []) == {STATE: 120, ANCHOR: 100}
    assert held(tmp_path, [{"back_to": 100}]) == {ANCHOR: 100}
    assert held(tmp_path, [{"back_to": 0}]) == {}
    write(STATE, 110, 1)
    assert held(tmp_path, [{"back_to": 100}]) == {STATE: 110, ANCHOR: 100}


def test_environment_names_what_decides_the_last_digits() -> None:
    now = environment(torch.device("cpu"))
    assert {"torch", "numpy", "threads", "cpu_capability", "bfloat16", "host", "python", "cardiac_autoseg"} <= now.keys()
    assert differences({**now, "torch": "1", "cores": 99, "gone": 1}, now) == [f"torch: 1 then, {now['torch']} now"]


def test_a_batch_in_pieces_has_the_gradients_of_the_batch(
    prepared_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a loss that is a mean over pixels, and batch norm that does not look at the batch."""
    monkeypatch.setattr(loop, "uses_bfloat16", lambda _: False)
    key = RunKey("enet", "expert", "ce", "0", 0)
    ready = make_ready(Workspace(prepared_workspace), key, Options(steps=10), lambda _: None)
    gradients, sums = [], []
    for size in (ready.plan.batch, 3, 1):
        parts = [Part(0, size, 1.0, {})]
        run = make_run(tmp_path, key, ready, torch.device("cpu"), Record(tmp_path), parts, Options(), lambda _: None)
        state = run.start()
        state.network.train()
        for module in state.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout2d):
                module.eval()
        sums.append(run.step(state))
        gradients.append([parameter.grad for parameter in state.network.parameters() if parameter.grad is not None])
    for other in (1, 2):
        torch.testing.assert_close(sums[other], sums[0], rtol=1e-4, atol=1e-3)
        for one, two in zip(gradients[0], gradients[other], strict=True):
            assert float((two - one).norm()) <= 1e-2 * float(one.norm()) + 1e-5
