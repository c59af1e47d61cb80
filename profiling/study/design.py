"""The design of a study: networks, data, policies and the grid, read from a TOML file and checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tomllib

from ondevice.selection import check_rho
from profiling.study.policies import POLICIES
from signatures.errors import InputError


@dataclass(frozen=True)
class NetworkDesign:
    """One network, and what it is studied on."""

    name: str
    model: str
    """What `converter export` takes."""
    image: int
    """Side of the images in pixels."""
    data: tuple[str, ...]
    """Names of datasets: digits, those that the command line gives, and each of these with -bad-camera behind it."""
    rhos: tuple[float, ...]
    train: int
    """Images to train on; `validation` more choose the learning rate, and at most `test` measure. Each class in
    proportion; fewer where the dataset has fewer."""
    validation: int
    test: int
    epochs: int


@dataclass(frozen=True)
class Design:
    """Everything that is measured."""

    policies: tuple[str, ...]
    rates: tuple[float, ...]
    """Learning rates, of which the validation images choose one for each policy, ρ, network and dataset."""
    seeds: tuple[int, ...]
    """The first one chooses the rate."""
    batch: int
    networks: tuple[NetworkDesign, ...]


def read_design(path: Path) -> Design:
    """Read and check a design. Raises InputError, UsageError (a ρ outside (0, 1])."""
    try:
        document = tomllib.loads(path.read_text())
        networks = [_network(path, name, table) for name, table in document.pop("network").items()]
        design = Design(networks=tuple(networks), **_fields(path, Design, document, {"networks"}))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no design of a study: {error}") from None
    if unknown := [name for name in design.policies if name not in POLICIES]:
        raise InputError(f"{path}: no policy is called {unknown[0]!r} ({', '.join(POLICIES)})")
    if not (design.seeds and design.rates and min(design.rates) > 0 and design.batch > 0):
        raise InputError(f"{path}: a study takes a seed, a positive learning rate and a positive batch at least")
    return design


def _network(path: Path, name: str, table: dict[str, Any]) -> NetworkDesign:
    network = NetworkDesign(name=name, **_fields(path, NetworkDesign, table, {"name"}))
    for rho in network.rhos:
        check_rho(rho, f"{path}, {name}: rhos")
    if min(network.image, network.train, network.validation, network.test, network.epochs) < 1:
        raise InputError(f"{path}, {name}: sizes and epochs are positive")
    return network


def _fields(path: Path, of: type, table: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """The values of a table as the fields of a dataclass, lists as tuples."""
    wanted = {field.name: str(field.type) for field in fields(of) if field.name not in given}
    if wanted.keys() != table.keys():
        odd = sorted(wanted.keys() ^ table.keys())
        raise InputError(f"{path}: {', '.join(odd)}: missing, or not known; a {of.__name__} has {', '.join(wanted)}")
    for name, value in table.items():
        if not _fits(wanted[name], value):
            raise InputError(f"{path}: {name} is {value!r}, expected {wanted[name]}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


def _fits(kind: str, value: Any) -> bool:
    """Whether a TOML value is of the annotated type: str, int, or a tuple of str, int or float."""
    if kind.startswith("tuple["):
        return isinstance(value, list) and all(_fits(kind[6:].split(",")[0], one) for one in value)
    kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
    return isinstance(value, kinds[kind]) and not isinstance(value, bool)
