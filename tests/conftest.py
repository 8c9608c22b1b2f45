"""Test configuration: eight CPU devices, strict ranks, pinned PRNG settings."""

import atexit
import os
import shutil
import tempfile

# Several workers share the cores: threads of BLAS would wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# What one test has compiled is not compiled by the next, nor by the processes that it
# starts. Each worker has its own folder: entries are not written at once.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="anytime_jax_")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"

import jax

atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], True)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)
jax.config.update("jax_default_prng_impl", "threefry2x32")

# Files with few tests that take long; a worker that began one last would end alone.
_FIRST = ("test_kill", "test_starting", "test_loop", "test_sharding", "test_branches")


def pytest_collection_modifyitems(items):
    """Puts what takes long before everything else."""

    def place(item):
        name = item.path.stem
        return _FIRST.index(name) if name in _FIRST else len(_FIRST)

    items.sort(key=place)
