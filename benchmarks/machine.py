"""What the benchmarks print about the machine."""

import os
import pathlib
import platform

import jax


def describe() -> str:
    """Returns one line: processor, cores, devices, versions."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    names = [platform.processor() or platform.machine()]
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores; "
        f"devices {devices}; jax {jax.__version__}, Python {platform.python_version()}"
    )
