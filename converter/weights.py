"""Where weights come from: `WEIGHTS=` imagenet, keras, package, random, or a .pth, .npz, .h5 or .keras file."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from converter.npz import read_npz
from converter.torch_file import read_torch
from signatures.errors import CapabilityError, InputError, UsageError

NETWORK_TIMEOUT_S = 10.0
TORCH_SUFFIXES = (".pth", ".pt")
KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")

Convention = Literal["torch", "keras"]
"""Who trained the weights: decides padding, BatchNorm's epsilon and the preprocessing of a network."""


KerasTensors = Callable[[str, int], Mapping[str, NDArray[Any]]]
"""See `WeightSources`."""


@dataclass(frozen=True)
class PackagedFile:
    """A weight file inside an installable package, found without importing the package."""

    package: str
    path: str
    sha256: str
    install: str


@dataclass(frozen=True)
class WeightSources:
    """What a network of the zoo knows about published weights.

    `keras_tensors(weights, image)` takes "imagenet" (download, or Keras' cache) or the path of a Keras file, and
    returns the values under Keras' names ("layer/variable"); `image` is the size of the images in pixels, where there
    are weights for several. `torch_file` holds a state dict with torch's names; None: no package carries one.
    """

    keras_tensors: KerasTensors
    torch_file: PackagedFile | None = None


@dataclass(frozen=True)
class WeightSet:
    """Named values as the source has them: torch's names and layouts (OIHW), or Keras' names and layouts (HWIO).

    `origin` names the source in a few words, `sha256` is the digest of its file where there is one.
    """

    convention: Convention
    tensors: Mapping[str, NDArray[Any]]
    origin: str
    sha256: str | None

    @property
    def provenance(self) -> str:
        """Where the values come from, in words, with the digest of the file."""
        return f"{self.origin} (sha256 {self.sha256})" if self.sha256 else self.origin


def read_weights(spec: str, sources: WeightSources, image: int) -> WeightSet:
    """Read the weights that `spec` asks for ("random" is not read: see converter.keras_tensors.randomise).

    Raises UsageError for a spec that is neither a known word nor a file name of a known kind, InputError for a file
    that is missing or damaged, CapabilityError where a download or an installed package would be needed.
    """
    match spec:
        case "imagenet":
            return _imagenet(sources, image)
        case "keras":
            return _downloaded(sources, image)
        case "package" | "torchvision":
            return _packaged(sources.torch_file)
    path = Path(spec).expanduser()
    if path.suffix not in (*TORCH_SUFFIXES, *KERAS_SUFFIXES, ".npz"):
        raise UsageError(
            f"WEIGHTS={spec}: expected imagenet, keras, package (or torchvision), random, or a file "
            f"({', '.join((*TORCH_SUFFIXES, '.npz', *KERAS_SUFFIXES))})"
        )
    if not path.is_file():
        raise InputError(f"WEIGHTS={spec}: there is no such file")
    if path.suffix in KERAS_SUFFIXES:
        return WeightSet("keras", sources.keras_tensors(str(path), image), path.name, _sha256(path))
    tensors = read_npz(path) if path.suffix == ".npz" else read_torch(path)
    # "block1_conv1/kernel" is a name of Keras', "features.0.weight" one of torch's.
    convention: Convention = "keras" if any("/" in name for name in tensors) else "torch"
    return WeightSet(convention, tensors, path.name, _sha256(path))


def _imagenet(sources: WeightSources, image: int) -> WeightSet:
    try:
        return _downloaded(sources, image)
    except CapabilityError as no_download:
        try:
            return _packaged(sources.torch_file)
        except CapabilityError as no_package:
            raise CapabilityError(f"no ImageNet weights: {no_download}; {no_package}; or pass WEIGHTS=<file>") from None


def _downloaded(sources: WeightSources, image: int) -> WeightSet:
    try:
        with _impatient_network(), contextlib.redirect_stdout(sys.stderr):
            tensors = sources.keras_tensors("imagenet", image)
    except CapabilityError:
        raise
    # get_file raises a bare Exception when a fetch fails; whatever else goes wrong, these weights are not to be had.
    except Exception as error:
        raise CapabilityError(f"Keras could not fetch its weights ({error})") from error
    return WeightSet("keras", tensors, "Keras applications, ImageNet", None)


def _packaged(file: PackagedFile | None) -> WeightSet:
    if file is None:
        raise CapabilityError("no package is known that carries these weights")
    found = importlib.util.find_spec(file.package)
    folders = (found.submodule_search_locations or []) if found else []
    path = next((p for folder in folders if (p := Path(folder) / file.path).is_file()), None)
    if path is None:
        raise CapabilityError(f"the package {file.package} is not installed ({file.install})")
    if (found_sha256 := _sha256(path)) != file.sha256:
        raise InputError(f"{path}: not the published file: sha256 {found_sha256}, expected {file.sha256}")
    origin = f"ImageNet: {path.name} of the package {file.package}"
    return WeightSet("torch", read_torch(path), origin, file.sha256)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _impatient_network() -> Iterator[None]:
    """Give up on a silent network: Keras downloads without a timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
