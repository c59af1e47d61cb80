"""Settings of the device come back: whoever was interrupted, and wherever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import pytest

from android_harness.errors import DeviceAnswerError
from android_harness.link import Link
from android_harness.settings import Setting, change, restore
from signatures.errors import CapabilityError


def kept_in(path: Path, wanted: str) -> Setting:
    """A setting that is a file; no file reads as "null"."""
    name = quote(str(path))
    return Setting(
        path.name, f"cat {name} 2>/dev/null || echo null", f"echo {{}} > {name}", wanted, unset=f"rm -f {name}"
    )


@pytest.fixture
def journal(link: Link, tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "a journal"
    yield str(path)
    restore(link, str(path))


def test_there_and_back(link: Link, tmp_path: Path, journal: str) -> None:
    one, other, same = tmp_path / "one", tmp_path / "the other", tmp_path / "same"
    one.write_text("it's $HOME; 'quoted'\n")
    same.write_text("wanted\n")
    settings = [kept_in(one, "1"), kept_in(other, "2"), kept_in(same, "wanted")]
    changed = change(link, settings, journal)
    assert changed == ("one: it's $HOME; 'quoted' → 1", "the other: null → 2")
    assert (one.read_text(), other.read_text()) == ("1\n", "2\n")
    assert restore(link, journal) == 2
    assert one.read_text() == "it's $HOME; 'quoted'\n"
    assert not other.exists()
    assert not Path(journal).exists()
    assert restore(link, journal) == 0


def test_the_first_value_is_the_one_that_comes_back(link: Link, tmp_path: Path, journal: str) -> None:
    """Two runs that could not put back what they changed, one after the other."""
    path = tmp_path / "x"
    path.write_text("first\n")
    change(link, [kept_in(path, "second")], journal)
    change(link, [kept_in(path, "third")], journal)
    restore(link, journal)
    assert path.read_text() == "first\n"


def test_one_that_cannot_be_changed_does_not_keep_the_others_from_coming_back(
    link: Link, tmp_path: Path, journal: str
) -> None:
    path = tmp_path / "x"
    path.write_text("before\n")
    forbidden = Setting("forbidden", "echo value", "echo SecurityException; false {}", "wanted")
    with pytest.raises(CapabilityError, match="cannot set forbidden to wanted: SecurityException"):
        change(link, [kept_in(path, "meanwhile"), forbidden], journal)
    assert path.read_text() == "meanwhile\n"
    assert restore(link, journal) == 2  # the one that was never changed stands as it stood
    assert path.read_text() == "before\n"


def test_one_that_cannot_be_read(link: Link, tmp_path: Path, journal: str) -> None:
    path = tmp_path / "x"
    path.write_text("before\n")
    with pytest.raises(DeviceAnswerError, match=r"settings: (command )?not found"):
        change(link, [kept_in(path, "meanwhile"), Setting("y", "settings get y", "", "")], journal)
    restore(link, journal)
    assert path.read_text() == "before\n"


def test_a_line_that_came_twice_or_before_its_change(link: Link, tmp_path: Path, journal: str) -> None:
    path = tmp_path / "x"
    path.write_text("before\n")
    change(link, [kept_in(path, "meanwhile")], journal)
    line = Path(journal).read_text()
    Path(journal).write_text(line + line)
    restore(link, journal)
    assert path.read_text() == "before\n"
    Path(journal).write_text(line)
    assert restore(link, journal) == 1
    assert path.read_text() == "before\n"


def test_what_cannot_be_put_back_is_told_when_the_others_are(link: Link, tmp_path: Path, journal: str) -> None:
    path = tmp_path / "x"
    path.write_text("before\n")
    change(link, [kept_in(path, "meanwhile")], journal)
    Path(journal).write_text(f"{Path(journal).read_text()}echo no; false\n")
    with pytest.raises(DeviceAnswerError, match=r"could not be put back: `echo no; false` \(no\)"):
        restore(link, journal)
    assert path.read_text() == "before\n"
    Path(journal).unlink()
