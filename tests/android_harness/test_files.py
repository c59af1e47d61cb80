"""Folders kept equal by content: what is sent, what is not, and that it arrives whole whatever is called what."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from android_harness.errors import DeviceAnswerError, DeviceFullError
from android_harness.files import PARTIAL, File, digests, fetch_folder, inventory, mirror, plan
from android_harness.link import Link, Output
from android_harness.places import AdbPlace
from signatures.errors import InputError
from tests.android_harness.device import Device

NAMES = ["plain", "with space", "ünïcode ✓", "quo'te\"s", "-dash", "$HOME", "a;b&c|d", "*", "sub/dir/deep", "sub/two"]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    folder = tmp_path / "ours"
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"what {name} holds\n")
    (folder / "empty").write_bytes(b"")
    (folder / ".hidden").write_text("no")
    return folder


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_device_holds_what_we_hold(link: Link, ours: Path, tmp_path: Path) -> None:
    there = tmp_path / "the device's"
    first = mirror(link, inventory(ours), str(there))
    assert len(first.send) == len(NAMES) + 1
    expected = held(ours)
    del expected[".hidden"]
    assert held(there) == expected
    assert digests(AdbPlace(link), str(there)) == {n: hashlib.sha256(c).hexdigest() for n, c in expected.items()}

    assert mirror(link, inventory(ours), str(there)).send == ()

    (ours / "plain").write_text("changed")
    (ours / "sub" / "two").unlink()
    (ours / "new").write_text("new")
    second = mirror(link, inventory(ours), str(there))
    assert [file.remote for file in second.send] == ["new", "plain"]
    assert second.remove == ("sub/two",)
    assert held(there) == {name: content for name, content in held(ours).items() if name != ".hidden"}

    fetch_folder(AdbPlace(link), str(there), tmp_path / "back")
    assert held(tmp_path / "back") == held(there)


def test_a_damaged_file_is_sent_again(link: Link, ours: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    mirror(link, inventory(ours), str(there))
    (there / "plain").write_text("what plain hoLds\n")
    assert [file.remote for file in mirror(link, inventory(ours), str(there)).send] == ["plain"]


def test_a_file_that_was_not_put_in_its_place_is_not_sent_again(link: Link, ours: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    mirror(link, inventory(ours), str(there))
    (there / "plain").rename(there / f"plain{PARTIAL}")
    (there / f"half{PARTIAL}").write_text("ha")
    transfer = mirror(link, inventory(ours), str(there))
    assert transfer.send == ()
    assert held(there) == {name: content for name, content in held(ours).items() if name != ".hidden"}


@pytest.mark.parametrize("cut", range(1500, 16_000, 2400))
def test_a_broken_connection_leaves_whole_files(device: Device, ours: Path, tmp_path: Path, cut: int) -> None:
    there = tmp_path / "there"
    with device.on(cut) as on, Link(on.serial, device.keys, 5, 30) as link:
        mirror(link, inventory(ours), str(there))
        assert held(there) == {name: content for name, content in held(ours).items() if name != ".hidden"}
        fetch_folder(AdbPlace(link), str(there), tmp_path / "back")
    assert held(tmp_path / "back") == held(there)


@pytest.mark.parametrize("name", ["back\\slash", "line\nbreak", "tab\tname", f"x{PARTIAL}"])
def test_names_that_lists_cannot_hold(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match="rename it"):
        inventory(tmp_path)


def test_nothing_to_send(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no files in it"):
        inventory(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        inventory(tmp_path / "missing")


def test_a_file_that_changes_meanwhile(link: Link, ours: Path, tmp_path: Path) -> None:
    files = inventory(ours)
    (ours / "plain").write_text("changed")
    with pytest.raises(DeviceAnswerError, match="is not what was sent"):
        mirror(link, files, str(tmp_path / "there"))
    assert not (tmp_path / "there" / "plain").exists()


def test_no_room_is_noticed_before_anything_is_sent(link: Link, tmp_path: Path) -> None:
    # A file larger than any disk that tests run on, without its content.
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 43)
    huge = File(tmp_path / "large", "large", 1 << 43, "0" * 64)
    with pytest.raises(DeviceFullError, match="MiB are needed"):
        mirror(link, [huge], str(tmp_path / "there"))


class Answers:
    """A place whose commands all answer the same."""

    name = "adb"
    own_user = True

    def __init__(self, text: str) -> None:
        self._output = Output(text, 0)

    def shell(self, command: str, timeout_s: float = 0) -> Output:
        return self._output

    def fetch(self, remote: str, local: Path) -> None:
        raise AssertionError(f"asked for {remote}")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("answer", ["no list", "0" * 64, f"{'0' * 64}  /etc/passwd", f"{'g' * 64}  ./a"])
def test_an_answer_that_is_no_list(answer: str) -> None:
    with pytest.raises(DeviceAnswerError, match="sha256sum answered"):
        digests(Answers(answer), "/folder")


@pytest.mark.parametrize("path", ["../out", "a/../../out", "/etc/passwd"])
def test_a_device_cannot_make_us_write_elsewhere(path: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceAnswerError, match="leads out of it"):
        fetch_folder(Answers(f"{'0' * 64}  ./{path}\n"), "/folder", tmp_path)


names = st.sampled_from(["a", "b", "c/d", "c/e"])
kinds = st.sampled_from(["1" * 64, "2" * 64])


@given(
    st.dictionaries(names, kinds, min_size=1),
    st.dictionaries(st.builds(str.__add__, names, st.sampled_from(["", PARTIAL])), kinds),
)
def test_a_plan_makes_both_sides_equal(ours: dict[str, str], theirs: dict[str, str]) -> None:
    transfer = plan([File(Path(name), name, 1, digest) for name, digest in ours.items()], theirs)
    after = {name: digest for name, digest in theirs.items() if name not in transfer.remove}
    after |= {file.remote + PARTIAL: file.sha256 for file in transfer.send}
    for name in [name for name in after if name.endswith(PARTIAL)]:
        after[name.removesuffix(PARTIAL)] = after.pop(name)
    assert after == ours
    assert len(transfer.send) + transfer.unchanged == len(ours)
    # Nothing is sent that is there, in its place or beside it.
    for file in transfer.send:
        assert file.sha256 not in (theirs.get(file.remote), theirs.get(file.remote + PARTIAL))


def test_another_kind_of_dataset_takes_the_place(link: Link, tmp_path: Path) -> None:
    """No folder of the old one stays: an empty one would be a class without images, and one may become a file."""
    for name in ("old/train/cats/1", "old/train/dogs/1", "old/test/cats/1", "new/train/cats/1", "new/test"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    mirror(link, inventory(tmp_path / "old"), str(tmp_path / "there"))
    mirror(link, inventory(tmp_path / "new"), str(tmp_path / "there"))
    assert sorted(p.relative_to(tmp_path / "there").as_posix() for p in (tmp_path / "there").rglob("*")) == [
        "test", "train", "train/cats", "train/cats/1"
    ]  # fmt: skip


def test_linked_folders_are_sent_as_folders(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1").write_text("x")
    (tmp_path / "ours" / "sub").mkdir(parents=True)
    (tmp_path / "ours" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "ours" / "sub" / "back").symlink_to(tmp_path / "ours")
    (tmp_path / "ours" / "nowhere").symlink_to(tmp_path / "missing")
    assert [file.remote for file in inventory(tmp_path / "ours")] == ["linked/1"]
