from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from workbench.distillation.teacher import TeacherLogits, fingerprint, teacher_logits
from workbench.errors import Cancelled, TaskError, WorkbenchError

INPUTS = torch.randn(23, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 5))


def test_logits_are_the_teachers_in_evaluation_mode_whatever_the_batch() -> None:
    teacher = network().train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    known = teacher_logits(teacher, INPUTS, batch=7)
    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    torch.testing.assert_close(known.logits, teacher.eval()(INPUTS).detach())
    assert not known.logits.is_inference()
    known.require(INPUTS)


def test_the_memory_format_does_not_matter_and_the_order_does() -> None:
    known = teacher_logits(network().eval(), INPUTS)
    known.require(INPUTS.contiguous(memory_format=torch.channels_last))
    swapped = INPUTS.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    changed = INPUTS.clone()
    changed[22, 2, 3, 3] += 1e-3
    for other in (swapped, changed, INPUTS.flip(0)):
        with pytest.raises(TaskError, match="other inputs"):
            known.require(other)
    with pytest.raises(TaskError, match="one row per training input"):
        known.require(INPUTS[:-1])


def test_a_fingerprint_knows_shape_and_type() -> None:
    zeros = torch.zeros(4, 6)
    assert len({fingerprint(x) for x in (zeros, zeros.view(6, 4), zeros.double(), zeros[:3], zeros.int())}) == 5
    assert fingerprint(zeros) == fingerprint(zeros.clone())


def test_what_a_teacher_cannot_teach_with_is_refused() -> None:
    with pytest.raises(TaskError, match="input 5 hold NaN"):
        broken = INPUTS.clone()
        broken[5, 0, 0, 0] = float("nan")
        teacher_logits(network().eval(), broken)
    with pytest.raises(TaskError, match="at least one input"):
        teacher_logits(network(), INPUTS[:0])
    with pytest.raises(WorkbenchError, match=r"returns \(23, 3, 4, 4\) for 23 inputs"):
        teacher_logits(nn.Identity(), INPUTS)
    with pytest.raises(TaskError, match="hold NaN"):
        TeacherLogits(torch.full((23, 5), torch.inf), fingerprint(INPUTS)).require(INPUTS)


def test_a_cancelled_teacher_stops() -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        teacher_logits(network(), INPUTS, cancel=cancel)
