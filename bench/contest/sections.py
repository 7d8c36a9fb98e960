"""The tables, one function each: what competes in it, on which examples, and with what calibration."""

from __future__ import annotations

import contextlib
import copy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import torch
from peers import Job, Prepare, Run, brevitas_methods, other_methods, training
from torch import Tensor, nn

import workbench as wb
from contest import ours, pictures
from contest.results import Kept, Result
from contest.table import Table, Target
from workbench.task import HELD_OUT

Maker = Callable[[], Result]
SIZE = 512
SEED = 20261124
"""Of the order in which calibration samples are cut from the training images: no method was developed on these."""
PICTURE_SEEDS = (811, 812, 813)
SETTINGS = {(4, 8): Target(-0.2, 5), (4, 4): Target(-0.6, 20), (3, 8): Target(-0.6, 20), (2, 8): Target(-4.5, 60)}
LARGE_SETTINGS = ((8, 8), (6, 8), (4, 8))
LARGE_SECONDS = 60.0
LARGE_PEERS = {**brevitas_methods.LARGE, **other_methods.METHODS}
FINETUNED = Target(-1.5, 120)


@cache
def shuffled() -> Tensor:
    images = wb.zoo.task().training.tensors[0]
    return torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))


def calibration(sample: int) -> Tensor:
    """Disjoint samples of the training images, without labels."""
    return wb.zoo.task().training.tensors[0][shuffled()[sample * SIZE : (sample + 1) * SIZE]]


def seed_bench(images: Tensor) -> wb.Bench:
    given = wb.zoo.task()
    task = wb.Task.classification(
        given.inputs, given.targets, calibration=images, training=given.training, classes=given.classes
    )
    return ours.fresh(wb.zoo.model("seed-cnn"), task)


@torch.no_grad()
def right(run: Run, inputs: Tensor, targets: Tensor, batch: int) -> list[bool]:
    pairs = zip(inputs.split(batch), targets.split(batch), strict=True)
    return torch.cat([run(x).argmax(1) == y for x, y in pairs]).tolist()


@cache
def seed_fp32() -> list[bool]:
    task = wb.zoo.task()
    return right(wb.zoo.model("seed-cnn").eval(), task.inputs.tensors[0], task.targets, 500)


def timed(prepare: Callable[[], Run | None], judge: Callable[[Run], list[bool]]) -> Result:
    """A peer's work; what it refuses or cannot do is a result as well."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # peers are talkative
            started = time.perf_counter()
            run = prepare()
            spent = time.perf_counter() - started
            return Result(None, spent) if run is None else Result(judge(run), spent)
    except ImportError as error:
        return Result(None, 0.0, f"cannot be imported ({error})")
    except Exception as error:  # a peer's refusal
        return Result(None, 0.0, f"failed ({type(error).__name__}: {str(error)[:60]})")


class Rival:
    """A peer on one network; its imports and first calls are made before it is timed."""

    def __init__(
        self, network: nn.Module, prepare: Prepare, judge: Callable[[Run], list[bool]], unsigned: bool
    ) -> None:
        self._network, self._prepare, self._judge, self._unsigned = network, prepare, judge, unsigned
        self._warm = False

    def result(self, images: Tensor, bits: tuple[int, int], seconds: float) -> Result:
        """What it makes of some calibration images."""
        if not self._warm:
            self._warm = True
            with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                self._prepare(self._job(images[:8], (8, 8), 1.0))
        return timed(lambda: self._prepare(self._job(images, bits, seconds)), self._judge)

    def _job(self, images: Tensor, bits: tuple[int, int], seconds: float) -> Job:
        return Job(copy.deepcopy(self._network).eval(), images, *bits, self._unsigned, seconds)


def rivals(
    methods: Mapping[str, Prepare], network: nn.Module, judge: Callable[[Run], list[bool]], unsigned: bool
) -> dict[str, Rival]:
    return {name: Rival(network, prepare, judge, unsigned) for name, prepare in methods.items()}


def seed_judge(run: Run) -> list[bool]:
    task = wb.zoo.task()
    return right(run, task.inputs.tensors[0], task.targets, 500)


def post_training(kept: Kept, samples: int) -> Table:
    """seed-cnn at four settings, weights and activations of all layers."""
    names = {bits: "W{}A{}".format(*bits) for bits in SETTINGS}
    title = "seed-cnn, all layers, after training: 10,000 test images, calibration 512 training images without labels"
    table = Table(title, list(names.values()), seed_fp32(), ours.RECOMMENDED, targets=list(SETTINGS.values()))
    peers = rivals({**brevitas_methods.METHODS, **other_methods.METHODS}, wb.zoo.model("seed-cnn"), seed_judge, True)
    for sample in range(samples):
        images = calibration(sample)
        for bits, target in SETTINGS.items():
            q = wb.Quantization(weight_bits=bits[0], activation_bits=bits[1])
            makers: dict[str, Maker] = {
                name: partial(ours.fixed, seed_bench, images, q.replace(**fields))
                for name, fields in ours.METHODS.items()
            }
            makers[ours.AUTO] = partial(ours.automatic, seed_bench, images, q, target.seconds)
            theirs: dict[str, Maker] = {
                name: partial(peer.result, images, bits, target.seconds) for name, peer in peers.items()
            }
            add(table, kept, "post-training", names[bits], sample, makers, theirs)
    return table


def linear_only(kept: Kept, samples: int) -> Table:
    """What hqq can do: weights of the Linear layers alone, everything else in fp32."""
    title = "seed-cnn, weights of the two Linear layers alone (hqq quantizes no others), everything else in fp32"
    recommended = "quantease + hessian + bias"
    table = Table(title, ["W4", "W3", "W2"], seed_fp32(), [recommended])
    peers = rivals(other_methods.LINEAR_ONLY, wb.zoo.model("seed-cnn"), seed_judge, True)
    for sample in range(samples):
        images = calibration(sample)
        for bits in (4, 3, 2):
            q = wb.Quantization(layers={"fc*": {"weight_bits": bits}})
            makers: dict[str, Maker] = {
                name: partial(ours.fixed, seed_bench, images, q.replace(**ours.METHODS[name]))
                for name in ("nearest", recommended)
            }
            theirs: dict[str, Maker] = {n: partial(p.result, images, (bits, 8), 20.0) for n, p in peers.items()}
            add(table, kept, "linear", f"W{bits}", sample, makers, theirs)
    return table


def finetuned(kept: Kept, samples: int) -> Table:
    """W2A8, trained on with 20,000 labelled images."""
    images, labels = wb.zoo.task().training.tensors
    learned = len(images) - HELD_OUT  # the rest tells ours which epoch was best; peers do not need it
    title = (
        f"seed-cnn, W2A8 trained on: {learned:,} of {len(images):,} training images with labels, {HELD_OUT:,} held out"
    )
    table = Table(title, ["W2A8"], seed_fp32(), ["fine-tuned"], targets=[FINETUNED])
    images, labels = images[:learned], labels[:learned]
    settings = wb.Finetuning(images=learned)

    def own(sample: int) -> Result:
        bench = seed_bench(calibration(sample))
        q = wb.Quantization(weight_bits=2, activation_bits=8, **ours.GOOD)
        return ours.measured(bench, wb.Recipe(quantization=q, finetuning=settings.replace(seed=sample)))

    def peer(name: str, sample: int) -> Result:
        network = copy.deepcopy(wb.zoo.model("seed-cnn")).eval()
        job = Job(network, calibration(sample), 2, 8, True, FINETUNED.seconds)
        budget = settings.model_dump(include={"epochs", "learning_rate", "distillation"})
        return timed(lambda: training.trained(training.MAKERS[name], job, labels, images, **budget), seed_judge)

    for sample in range(samples):
        theirs = {name: partial(peer, name, sample) for name in training.MAKERS}
        add(table, kept, "fine-tuned", "W2A8", sample, {"fine-tuned": partial(own, sample)}, theirs)
    return table


def add(
    table: Table,
    kept: Kept,
    section: str,
    setting: str,
    sample: int,
    makers: Mapping[str, Maker],
    theirs: Mapping[str, Maker],
) -> None:
    for name, make in {**makers, **theirs}.items():
        result = kept.made(f"{section} | {name} | {setting} | sample {sample + 1}", make)
        table.add(name, setting, result, peer=name in theirs)


def large(kept: Kept, samples: int) -> Table:
    """EfficientNet-Lite0: agreement with its own fp32 output."""
    network = wb.zoo.model("efficientnet-lite0")
    inputs, groups = pictures.evaluation()
    with torch.no_grad():
        wanted = torch.cat([network(batch).argmax(1) for batch in inputs.split(16)])
    title = (
        f"EfficientNet-Lite0, top-1 agreement with fp32 on {len(inputs)} pictures: {len(groups.unique())} photographs "
        f"and {pictures.EVALUATED} augmentations of each;\ncalibration {pictures.CALIBRATED} other augmentations of "
        "the same photographs, so agreement on photographs that were never seen may be lower;\n"
        "intervals over photographs, of which augmentations are no independent examples"
    )
    names = {bits: "W{}A{}".format(*bits) for bits in LARGE_SETTINGS}
    table = Table(title, list(names.values()), [True] * len(inputs), ours.RECOMMENDED, groups=groups)
    judge = partial(right, inputs=inputs, targets=wanted, batch=16)
    peers = rivals(LARGE_PEERS, network, judge, False)

    def bench(images: Tensor) -> wb.Bench:
        return ours.fresh(network, wb.Task.fidelity(inputs, calibration=images))

    for sample in range(samples):
        images = pictures.calibration(PICTURE_SEEDS[sample])
        for bits in LARGE_SETTINGS:
            q = wb.Quantization(weight_bits=bits[0], activation_bits=bits[1])
            fixed: Sequence[str] = ("nearest", "quantease + hessian + bias")
            makers: dict[str, Maker] = {
                n: partial(ours.fixed, bench, images, q.replace(**ours.METHODS[n])) for n in fixed
            }
            makers[ours.AUTO] = partial(ours.automatic, bench, images, q, LARGE_SECONDS)
            theirs: dict[str, Maker] = {n: partial(p.result, images, bits, LARGE_SECONDS) for n, p in peers.items()}
            add(table, kept, "large", names[bits], sample, makers, theirs)
    return table
