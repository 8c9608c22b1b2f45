"""Accelerators: memory, bandwidth and peak arithmetic, as their vendors have them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One device as JAX counts them: a GPU, or a TPU chip.

    Attributes:
      memory: bytes.
      bandwidth: of the memory, bytes per second.
      flops: peak bfloat16 matrix products without sparsity, per second.
    """

    memory: float
    bandwidth: float
    flops: float


# Where a vendor says GB, 10^9 bytes are taken, the least that it can mean.
HARDWARE = {
    # NVIDIA A100 Tensor Core GPU data sheet, column A100 80GB SXM.
    "a100": Hardware(memory=80e9, bandwidth=2039e9, flops=312e12),
    # NVIDIA H100 Tensor Core GPU data sheet, column H100 SXM: 1,979 TFLOPS "with
    # sparsity", of which half are without.
    "h100": Hardware(memory=80e9, bandwidth=3350e9, flops=989e12),
    # cloud.google.com/tpu/docs/v4: 32 GiB, 1200 GBps, 275 teraflops a chip, whose two
    # cores are one device.
    "v4": Hardware(memory=32 * 2**30, bandwidth=1200e9, flops=275e12),
    # cloud.google.com/tpu/docs/v5e: 16 GB, 819 GBps, 197 TFLOPs.
    "v5e": Hardware(memory=16e9, bandwidth=819e9, flops=197e12),
    # cloud.google.com/tpu/docs/v5p: 95 GB, 2765 GBps, 459 TFLOPs.
    "v5p": Hardware(memory=95e9, bandwidth=2765e9, flops=459e12),
    # cloud.google.com/tpu/docs/v6e: 32 GB, 1638 GBps, 918 TFLOPs.
    "v6e": Hardware(memory=32e9, bandwidth=1638e9, flops=918e12),
}
