"""The built-in corpus: the Python source text of the packages we depend on.

Every machine that can run anytime_jax has these files already, so a first run needs no
network. Versions are pinned in `constraints.txt`; the size and the hash of what was
found are kept in the data set's metadata and end up in a run's config.json.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from anytime_jax.data import cache as cache_lib

# Distributions that setup.cfg requires, hence installed wherever this package is.
PACKAGES = (
    "absl-py",
    "clu",
    "flax",
    "grain",
    "jax",
    "matplotlib",
    "ml-collections",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "scipy",
    "tensorboardX",
    "tensorflow-datasets",
    "tqdm",
)


def files(package: str) -> list[importlib.metadata.PackagePath]:
    """Returns the .py files of an installed distribution, sorted by path.

    Scripts outside the site-packages folder are left out: their first line holds the
    path of the environment, so they differ between machines.

    Raises:
      ValueError: the distribution is not installed or has no list of its files.
    """
    try:
        listed = importlib.metadata.distribution(package).files
    except importlib.metadata.PackageNotFoundError:
        listed = None
    if listed is None:
        raise ValueError(
            f"data.source='corpus' needs the package {package!r} with its list of "
            "files, and it is not installed that way; reinstall it with pip"
        )
    python = (path for path in listed if path.suffix == ".py")
    return sorted(path for path in python if ".." not in path.parts)


def distributions(packages: Sequence[str] = PACKAGES) -> list[str]:
    """Returns "name==version" of each package, sorted."""
    return sorted(f"{name}=={importlib.metadata.version(name)}" for name in packages)


def fingerprint(packages: Sequence[str] = PACKAGES) -> str:
    """Returns 32 digits that change when a version or a listed file hash changes."""
    listed = [
        (path.as_posix(), path.hash.value if path.hash else None)
        for package in sorted(packages)
        for path in files(package)
    ]
    version = str(PythonSource.VERSION)
    return cache_lib.digest([version, distributions(packages), listed])


class PythonSource(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder of one `train` split with features `path` and `text`.

    Files that are empty, that are not UTF-8 or that repeat an earlier file are dropped.
    `info.metadata` holds the number of documents, their bytes, and the SHA-256 of the
    SHA-256 digests of the documents in the order of their paths.
    """

    name = "python_source"
    VERSION = tfds.core.Version("1.0.0")
    # TFDS would look for checksums of downloads next to this file, with a package
    # (importlib_resources) that it does not require.
    code_path = None

    def __init__(self, *, packages: Sequence[str] = PACKAGES, **kwargs: Any):
        self._packages = tuple(packages)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"path": text, "text": text}),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # There is nothing to download.
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, str]]]:
        paths = sorted(path for package in self._packages for path in files(package))
        seen, total, digests = set(), 0, hashlib.sha256()
        for path in paths:
            try:
                content = path.locate().read_bytes()
                text = content.decode("utf-8")
            except (FileNotFoundError, UnicodeDecodeError):
                continue
            digest = hashlib.sha256(content).digest()
            if not content or digest in seen:
                continue
            seen.add(digest)
            digests.update(digest)
            total += len(content)
            yield path.as_posix(), {"path": path.as_posix(), "text": text}
        self.info.metadata.update(
            documents=len(seen), bytes=total, sha256=digests.hexdigest()
        )


def prepare(
    cache: pathlib.Path, packages: Sequence[str] = PACKAGES
) -> tfds.core.DatasetBuilder:
    """Returns a read-only builder of the corpus, which is written if it is not there.

    Several processes may prepare the same corpus at the same time.

    Args:
      cache: the cache folder; the corpus goes to `cache / "corpus" / fingerprint`.
      packages: names of installed distributions.

    Returns:
      A TFDS builder for `as_data_source("train")`; its `info.metadata` has `documents`,
      `bytes` and `sha256`.
    """
    folder = cache / "corpus" / fingerprint(packages)
    if not folder.is_dir():
        start = time.monotonic()
        print(
            f"Preparing the Python source of {len(packages)} packages in {folder}",
            file=sys.stderr,
        )
        with cache_lib.complete_folder(folder) as temporary:
            builder = PythonSource(
                packages=packages, data_dir=temporary, file_format="array_record"
            )
            # TFDS would announce a download, and there is none.
            quiet = io.StringIO()
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                builder.download_and_prepare(download_dir=temporary / "downloads")
            shutil.rmtree(temporary / "downloads")
        metadata = builder.info.metadata
        print(
            f"Prepared {metadata['documents']} documents, "
            f"{metadata['bytes'] / 1e6:.1f} MB, in {time.monotonic() - start:.1f} s",
            file=sys.stderr,
        )
    version = folder / PythonSource.name / str(PythonSource.VERSION)
    return tfds.builder_from_directory(version)
