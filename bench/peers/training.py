"""Quantization-aware training with a peer's fake quantizers, in one loop for all of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers import Job, Run, brevitas_methods, other_methods

BATCH = 100
TEMPERATURE = 2.0
"""Of the fp32 network's outputs in the loss; batch, temperature and schedule are those of the workbench's training."""
MAKERS: dict[str, Callable[[Job], nn.Module]] = {
    "brevitas, trained": lambda job: brevitas_methods.fake_quantized(job, "mse"),
    "modelopt, trained": lambda job: other_methods.fake_quantized(job, other_methods.FINE),
}
"""brevitas learns its scales beside the weights; modelopt keeps those that it was calibrated with."""


def trained(
    make: Callable[[Job], nn.Module],
    job: Job,
    labels: Tensor,
    images: Tensor,
    *,
    epochs: int,
    learning_rate: float,
    distillation: float,
) -> Run:
    """From the calibrated network: Adam with a rate that rises and falls, labels and fp32 outputs in the loss.

    Args:
        make: Gives the network on its grids.
        job: With the images for calibration; after `Job.seconds` the training ends wherever it is.
        labels: Of `images`.
        images: For training.
        epochs: Passes over them.
        learning_rate: At its highest.
        distillation: Share of the fp32 network's outputs in the loss; the rest are the labels.
    """
    started = time.perf_counter()
    with torch.no_grad():
        wanted = torch.cat([job.network(batch) for batch in images.split(500)])
    model = make(job._replace(network=copy.deepcopy(job.network)))
    model.train()
    parameters = [each.requires_grad_(True) for each in model.parameters()]
    optimizer = torch.optim.Adam(parameters, learning_rate)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(images), generator=generator).split(BATCH):
            if time.perf_counter() - started > job.seconds:
                return model.eval()
            outputs = model(images[index])
            ours, theirs = (F.log_softmax(each / TEMPERATURE, 1) for each in (outputs, wanted[index]))
            soft = F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * TEMPERATURE**2
            loss = distillation * soft + (1 - distillation) * F.cross_entropy(outputs, labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()
