"""A distillation step as one would write it by hand: what the instrument's throughput is held against."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import workbench as wb
from workbench.distillation.learner import BATCH, LEARNING_RATE, WEIGHT_DECAY, Examples, Learner
from workbench.distillation.objective import Lesson, Teaching
from workbench.distillation.students import make_student
from workbench.distillation.teacher import outputs_of

WARM_UP = 20


def step_seconds(settings: wb.Distillation, steps: int) -> tuple[list[float], list[float]]:
    """What one step of student and control takes: in the trainer, and by hand, in turns.

    Both do the same arithmetic on the same examples with the same optimizer, in batches whose teacher's outputs are
    known already.

    Args:
        settings: With ``kd`` as the loss.
        steps: How often each is timed.
    """
    inputs, targets = (part[: settings.images].contiguous() for part in wb.zoo.task().training.tensors)
    logits = outputs_of(wb.zoo.model(settings.teacher), inputs)
    made = make_student(wb.zoo.model("seed-cnn"), inputs[:2], settings, {}).module
    labelled = torch.zeros(settings.images, dtype=torch.bool)
    labelled[torch.randperm(settings.images)[: settings.labels]] = True
    everything = Examples(inputs, targets, logits, labelled, torch.arange(settings.images))
    told = Examples(*(part[labelled] for part in everything))
    total = WARM_UP + steps
    learners = [
        Learner(copy.deepcopy(made), Teaching(settings, None, classes=True), everything, total, 0),
        Learner(copy.deepcopy(made), Lesson(classes=True), told, total, 0),
    ]
    by_hand = _by_hand(made, everything, told, settings, total)
    ours, theirs = [], []
    for number in range(total):
        begun = time.perf_counter()
        for learner in learners:
            learner.step()
        between = time.perf_counter()
        by_hand(number)
        ours.append(between - begun)
        theirs.append(time.perf_counter() - between)
    return ours[WARM_UP:], theirs[WARM_UP:]


def _by_hand(
    made: torch.nn.Module, everything: Examples, told: Examples, settings: wb.Distillation, total: int
) -> Callable[[int], None]:
    networks = [copy.deepcopy(made).to(memory_format=torch.channels_last).train() for _ in range(2)]
    optimizers = [
        torch.optim.AdamW(each.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
        for each in networks
    ]
    schedules = [torch.optim.lr_scheduler.OneCycleLR(each, LEARNING_RATE, total_steps=total) for each in optimizers]
    orders = [torch.randint(0, len(each.inputs), (total, BATCH)) for each in (everything, told)]

    def step(number: int) -> None:
        for which, data in enumerate((everything, told)):
            index = orders[which][number]
            x, y = data.inputs[index].contiguous(memory_format=torch.channels_last), data.targets[index]
            outputs = networks[which](x)
            if which == 0:
                loss = _kd(outputs, y, data.logits[index], data.labelled[index], settings)
            else:
                loss = F.cross_entropy(outputs, y)
            optimizers[which].zero_grad()
            loss.backward()
            optimizers[which].step()
            schedules[which].step()
            loss.item()

    return step


def _kd(outputs: Tensor, targets: Tensor, teacher: Tensor, labelled: Tensor, settings: wb.Distillation) -> Tensor:
    t = settings.temperature
    logs = (F.log_softmax(each / t, 1) for each in (outputs, teacher))
    soft = F.kl_div(*logs, reduction="none", log_target=True).sum(1) * t * t
    hard = F.cross_entropy(outputs, targets.where(labelled, 0), reduction="none")
    return torch.where(labelled, settings.weight * soft + (1 - settings.weight) * hard, soft).mean()
