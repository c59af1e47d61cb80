"""Documents come back as they were written; anything else is refused by the name of the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.documents import read_document, write_document
from signatures.errors import InputError


@dataclass(frozen=True)
class Inner:
    name: str
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Outer:
    path: Path
    inner: Inner
    several: tuple[Inner, ...]
    by_name: Mapping[str, tuple[int, ...]]
    rate: float
    flag: bool
    perhaps: float | None


NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1)
INNERS = st.builds(Inner, st.text(), st.lists(NUMBERS, max_size=3).map(tuple))
OUTERS = st.builds(
    Outer,
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map(Path),
    INNERS,
    st.lists(INNERS, max_size=3).map(tuple),
    st.dictionaries(st.text(), st.lists(NUMBERS, max_size=2).map(tuple), max_size=2),
    st.floats(-1e18, 1e18),
    st.booleans(),
    st.none() | st.floats(-1e18, 1e18),
)
GOOD = Outer(Path("a/b"), Inner("x", (1, 2)), (Inner("y", ()),), {"k": (3,)}, 0.5, True, None)


@given(OUTERS)
def test_what_was_written_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Outer) -> None:
    path = tmp_path_factory.mktemp("documents") / "d.json"
    write_document(value, path, "thing", 3)
    assert read_document(Outer, path, "thing", 3) == value


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("rate", "0.5", "rate is '0.5', no float"),
        ("rate", True, "rate is 'True', no float"),
        ("rate", float("nan"), "rate is 'nan', no float"),
        ("rate", 10**400, "rate is"),
        ("flag", 1, "flag is '1', no bool"),
        ("perhaps", [], "perhaps is"),
        ("path", "a\0b", "path is"),
        ("inner", {"name": "x"}, "inner does not hold exactly name, sizes"),
        ("inner", {"name": "x", "sizes": [1, 2.5]}, r"inner.sizes\[1\] is '2.5', no int"),
        ("inner", {"name": "x", "sizes": [2**63]}, r"inner.sizes\[0\] is"),
        ("inner", {"name": "x", "sizes": [True]}, r"inner.sizes\[0\] is"),
        ("several", {}, "several is"),
        ("several", [[]], r"several\[0\] does not hold exactly"),
        ("by_name", {"k": 3}, "by_name.k is"),
        ("more", 1, "it does not hold exactly"),
        ("format", "other", "no document of format 'thing'"),
        ("version", 4, "has version 4; this program reads version 3"),
    ],
)
def test_what_was_not_is_refused(tmp_path: Path, field: str, value: object, said: str) -> None:
    path = tmp_path / "d.json"
    write_document(GOOD, path, "thing", 3)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(InputError, match=said):
        read_document(Outer, path, "thing", 3)


@pytest.mark.parametrize("content", [b"", b"[1]", b"[" * 100_000, b"\xff\xfe", b'{"format": "thing"'])
def test_what_is_no_document(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.json").write_bytes(content)
    with pytest.raises(InputError, match=r"d\.json"):
        read_document(Outer, tmp_path / "d.json", "thing", 3)
    with pytest.raises(InputError, match="cannot read"):
        read_document(Outer, tmp_path / "none.json", "thing", 3)


def test_other_types_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no JSON type"):
        write_document(Inner("x", (object(),)), tmp_path / "d.json", "thing", 3)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
