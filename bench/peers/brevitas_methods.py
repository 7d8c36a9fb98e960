"""AMD's brevitas: its ranges, equalisation, rounding methods and bias correction, in the order of its own examples."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from peers import Job, Prepare, Run

BATCH = 64
EQUALISATIONS = 20
"""Iterations, as in the configurations that its authors publish as their best."""
LEARNED_BATCH = 32
LEARNED_RATE = 1e-3
TRIAL_STEPS = 20
MOST_STEPS = 2000
RESERVED = 0.6
"""Share of the allowed seconds for the steps of learned rounding; the rest goes into everything around them."""


def quantizers(job: Job, ranges: str) -> dict[str, Any]:
    """Weights per channel, activations per tensor. Its MSE scales are parameters, so they can be trained as well."""
    from brevitas import quant

    mse = ranges in ("mse", "affine mse")
    if job.unsigned:
        activations = quant.Uint8ActPerTensorFloatMSE if mse else quant.Uint8ActPerTensorFloat
    else:
        activations = quant.ShiftedUint8ActPerTensorFloatMSE if mse else quant.ShiftedUint8ActPerTensorFloat
    weights = {
        "statistics": quant.Int8WeightPerChannelFloat,
        "mse": quant.Int8WeightPerChannelFloatMSE,  # at 2 bits three values: its range is symmetric
        "mse weights": quant.Int8WeightPerChannelFloatMSE,
        "affine mse": quant.ShiftedUint8WeightPerChannelFloatMSE,
    }
    return {
        "weight_quant": weights[ranges],
        "weight_bit_width": job.weight_bits,
        "input_quant": activations,
        "input_bit_width": job.activation_bits,
        "return_quant_tensor": False,
    }


def fake_quantized(job: Job, ranges: str, equalise: bool = False) -> nn.Module:
    """BatchNorm folded, every convolution and Linear layer on its grids, activations calibrated."""
    import brevitas.nn as qnn
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize

    model = preprocess_for_quantize(
        job.network,
        relu6_to_relu=False,  # it would be another network
        equalize_iters=EQUALISATIONS if equalise else 0,
        equalize_merge_bias=False,
    )
    options = quantizers(job, ranges)
    model = layerwise_quantize(model, {nn.Conv2d: (qnn.QuantConv2d, options), nn.Linear: (qnn.QuantLinear, options)})
    model.eval()
    with torch.no_grad():
        with calibration_mode(model):
            passed(model, job.images)
        model(job.images[:BATCH])  # the weights' scales are made in a pass that is not calibrating
    return model


def passed(model: Callable[[Tensor], object], images: Tensor) -> None:
    for batch in images.split(BATCH):
        model(batch)


def layer_after_layer(mode: Any, images: Tensor) -> None:
    with mode as rounding:
        for _ in range(rounding.num_layers):
            passed(rounding.model, images)
            rounding.update()


def gptq(model: nn.Module, job: Job) -> None:
    from brevitas.graph.gptq import gptq_mode

    layer_after_layer(gptq_mode(model, use_quant_activations=True, act_order=True), job.images)


def gpfq(model: nn.Module, job: Job) -> None:
    from brevitas.graph.gpfq import gpfq_mode

    layer_after_layer(gpfq_mode(model, act_order=True), job.images)


def qronos(model: nn.Module, job: Job) -> None:
    from brevitas.graph.gpfq import gpfq_mode
    from brevitas.graph.qronos import Qronos

    implementation = functools.partial(Qronos, alpha=1e-6)
    layer_after_layer(gpfq_mode(model, act_order=True, algorithm_impl=implementation), job.images)


def learned_round(model: nn.Module, job: Job) -> None:
    """AdaRound as its examples have it, layer after layer, with as many steps as fit into the allowed seconds."""
    from brevitas_examples.common.learned_round import learned_round_args as given
    from brevitas_examples.common.learned_round.learned_round_method import LearnedRoundArgs
    from brevitas_examples.common.learned_round.learned_round_trainer import LearnedRoundTrainer, get_blocks
    from brevitas_examples.imagenet_classification.ptq import learned_round_utils as vision

    def trained(steps: int, network: nn.Module) -> None:
        training = given.TrainingArgs(
            optimizers_args=[
                given.OptimizerArgs(
                    target_params="learned_round", optimizer_cls="Adam", lr=LEARNED_RATE, optimizer_kwargs={}
                )
            ],
            batch_size=LEARNED_BATCH,
            iters=steps,
            losses_args=[
                given.LossArgs(cls="round_reg", kwargs={"max_count": steps}),
                given.LossArgs(cls="mse", kwargs={"reduction": "none", "dim": 1}),
            ],
            use_best_model=False,
            use_amp=False,
        )
        settings = LearnedRoundArgs(learned_round_param="hard_sigmoid", learned_round_kwargs=None)
        handlers = [given.HandlerSpec[LearnedRoundArgs](name="learned_round", config=settings)]
        LearnedRoundTrainer(given.TrainerConfig(training_args=training, training_handlers=handlers)).train(
            model=network,
            model_forward=vision.vision_forward,
            block_forward=vision.vision_block_forward,
            data_loader=[(batch, None) for batch in job.images.split(BATCH)],
            cache=vision.CacheVision(),
            get_blocks_fn=functools.partial(get_blocks, block_check_fn=vision.is_layer),
        )

    with torch.enable_grad():
        spare = copy.deepcopy(model)
        seconds = []
        for steps in (1, 1 + TRIAL_STEPS):
            started = time.perf_counter()
            trained(steps, spare)
            seconds.append(time.perf_counter() - started)
        each = max(seconds[1] - seconds[0], 1e-3) / TRIAL_STEPS
        left = RESERVED * job.seconds - sum(seconds) - seconds[0]
        torch.manual_seed(0)
        trained(max(TRIAL_STEPS, min(MOST_STEPS, int(left / each))), model)


def bias_corrected(model: nn.Module, job: Job) -> None:
    from brevitas.graph.calibrate import bias_correction_mode

    with torch.no_grad(), bias_correction_mode(model):
        passed(model, job.images)


def method(ranges: str, steps: Iterable[Callable[[nn.Module, Job], None]] = (), *, equalise: bool = False) -> Prepare:
    """A way through brevitas: ranges, rounding, and always bias correction at the end."""

    def prepare(job: Job) -> Run:
        model = fake_quantized(job, ranges, equalise)
        with torch.no_grad():
            for step in steps:
                step(model, job)
        bias_corrected(model, job)
        return model

    return prepare


METHODS: dict[str, Prepare] = {
    "brevitas, MSE + bias": method("mse"),
    "brevitas, equalised + bias": method("statistics", equalise=True),
    "brevitas, MSE + GPTQ + bias": method("mse", [gptq]),
    "brevitas, equalised + MSE + GPTQ + bias": method("mse", [gptq], equalise=True),
    "brevitas, affine MSE + GPTQ + bias": method("affine mse", [gptq]),
    "brevitas, MSE + GPFQ + bias": method("mse", [gpfq]),
    "brevitas, MSE + Qronos + bias": method("mse", [qronos]),
    "brevitas, MSE + learned round + bias": method("mse", [learned_round]),
}
LARGE: dict[str, Prepare] = {
    "brevitas, MSE weights + bias": method("mse weights"),
    "brevitas, equalised + MSE weights + bias": method("mse weights", equalise=True),
    "brevitas, MSE weights + GPTQ + bias": method("mse weights", [gptq]),
}
"""For a network of fifty layers: its search for the activations' ranges by squared error takes many minutes there."""
