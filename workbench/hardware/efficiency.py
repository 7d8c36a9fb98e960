"""Which share of a peak an operator reaches: bounds by operator class, with their origin.

They were measured with ``bench/devices.py --calibrate``: MobileNetV1 and V2, EfficientNet-Lite0, ResNet-8 and
ResNet-18, a text encoder of six layers at 16 and 128 tokens, and LSTMs of 128 and 512, in fp32 and int8 (QDQ), at
batch 1, by onnxruntime 1.32 on one core of a server processor (AVX-512 with VNNI). All times of a class in a network,
by onnxruntime's own profile, are set against that class's roofline under the best GEMM (512 x 512: 174 to 215 GFLOP/s
in fp32, 680 to 770 GOP/s in int8) and the best copy (15 GB/s) of the same core. The least and the most over networks,
both precisions and two runs are the bounds: which kernels a device's library has tuned is not known, so the well
tuned (fp32 here) and the less well tuned (int8) both have to lie inside. No published latency of another device went
into them.
"""

from __future__ import annotations

from typing import NamedTuple

from workbench.hardware.counts import OperatorClass


class Efficiency(NamedTuple):
    """Shares of a device's peaks, from the least to the most that is expected."""

    compute: tuple[float, float]
    """Of the operations per second."""
    memory: tuple[float, float]
    """Of the bytes per second."""


EFFICIENCY: dict[OperatorClass, Efficiency] = {
    # fp32 0.66 (ResNet-8) to 0.93 (ResNet-18), int8 0.12 (ResNet-8) to 0.67 (MobileNetV1)
    OperatorClass.CONVOLUTION: Efficiency((0.12, 0.93), (0.5, 1.0)),
    # fp32 0.17 to 0.24, int8 0.05 to 0.06; what is lower yet is memory's doing
    OperatorClass.DEPTHWISE: Efficiency((0.05, 0.25), (0.5, 1.0)),
    # the encoder: fp32 0.63 to 0.93, int8 0.19 to 0.35; a large square one is the peak. The memory's share is that of
    # classifiers of a thousand classes: 0.50 at least, and more where the weights stay in a cache
    OperatorClass.GEMM: Efficiency((0.19, 1.0), (0.5, 1.0)),
    # 0.28 to 0.35 where the weights stay in the nearest caches, 0.12 where not
    OperatorClass.RECURRENT: Efficiency((0.12, 0.35), (0.5, 1.0)),
    # single operators of 0.07 to 13 MB:
    # normalisation 0.41 to 0.93, softmax 0.73 to 1.6, pooling 0.58 to 1.3, additions 1.9 to 2.4, the latter in caches
    OperatorClass.MEMORY: Efficiency((1.0, 1.0), (0.41, 1.0)),
}
"""What the operators of a class reach, whatever the device."""

CACHED = 4.0
"""As many times faster than from memory may come what fits in the last cache: additions of 0.8 MB reached 2.4 times
the copy's bandwidth, ReLU 3.4, the weights of an LSTM of 128 that every step reads again 4.8."""

LINK = (0.6, 1.0)
"""Share of a link's rate that data reach: of USB 3's 500 MB/s about 300
(applied-ee.github.io, Embedded, Coral Edge TPU)."""

RESIDUAL = 2.5
"""What is left of a range after one latency was measured on the device, to either side: of 20 pairs of the networks
above in the same precision, one foretells the efficiency of the other's convolutions within that factor in 19."""
