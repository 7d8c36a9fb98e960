"""NVIDIA modelopt, Hugging Face's optimum-quanto, and hqq."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peers import Job, Prepare, Run

BATCH = 64
HQQ_GROUP = 32
FINE = {"method": "mse", "step_size": 0.025, "start_multiplier": 0.1, "stop_multiplier": 1.2}
"""Its own search by squared error, with finer steps than its default: at 2 bits these decide."""


def fake_quantized(job: Job, algorithm: Any) -> nn.Module:
    import modelopt.torch.quantization as mtq

    activations = {"num_bits": job.activation_bits, "axis": None, "unsigned": job.unsigned}
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": job.weight_bits, "axis": 0}},
            {"quantizer_name": "*input_quantizer", "cfg": activations},
        ],
        "algorithm": algorithm,
    }

    def calibrate(model: nn.Module) -> None:
        for batch in job.images.split(BATCH):
            model(batch)

    return mtq.quantize(job.network, config, calibrate)


def modelopt(algorithm: Any) -> Prepare:
    def prepare(job: Job) -> Run:
        return fake_quantized(job, algorithm)

    return prepare


def quanto(job: Job) -> Run | None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests/workbench/loading"))
    from torchvision_stub import declare_torchvision

    declare_torchvision()  # quanto imports transformers, and that torchvision, which a CPU torch stops
    from optimum.quanto import Calibration, freeze, qint2, qint4, qint8, quantize

    weights = {2: qint2, 4: qint4, 8: qint8}.get(job.weight_bits)
    if weights is None or job.activation_bits != 8:
        return None
    quantize(job.network, weights=weights, activations=qint8)
    with torch.inference_mode(), Calibration():
        for batch in job.images.split(BATCH):
            job.network(batch)
    freeze(job.network)
    return job.network


def hqq(job: Job) -> Run | None:
    """Weights of the Linear layers only: all else, activations too, stays in float32.

    At 2 bits, of which it packs four rows into one, 32 weights share a scale: a layer of ten rows stops it otherwise.
    """
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    if job.activation_bits != 8:
        return None
    for name, layer in list(job.network.named_modules()):
        if isinstance(layer, nn.Linear):
            group = HQQ_GROUP if job.weight_bits == 2 else None
            config = BaseQuantizeConfig(nbits=job.weight_bits, group_size=group, axis=1)
            parent, _, own = name.rpartition(".")
            new = HQQLinear(layer, config, compute_dtype=torch.float32, device="cpu")
            setattr(job.network.get_submodule(parent), own, new)
    return job.network


METHODS: dict[str, Prepare] = {
    "modelopt, max": modelopt("max"),
    "modelopt, MSE": modelopt("mse"),
    "modelopt, MSE in fine steps": modelopt(FINE),
    "modelopt, GPTQ": modelopt("gptq"),
    "optimum-quanto": quanto,
}
LINEAR_ONLY: dict[str, Prepare] = {"hqq": hqq}
