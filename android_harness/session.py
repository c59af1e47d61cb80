"""One device as the commands see it: the connection, the folders there, and who may run what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from android_harness.errors import DeviceAnswerError, DeviceError
from android_harness.facts import DeviceFacts, parse_facts
from android_harness.files import inventory, mirror
from android_harness.link import Link
from android_harness.places import TERMUX, AdbPlace, Place, TermuxPlace
from android_harness.ssh import TERMUX_PORT, SshPlace
from signatures.errors import CapabilityError, UsageError

PLACES = ("adb", "run-as", "ssh")
SCRIPTS = ("job.sh", "facts.sh", "python_facts.py", "setup_termux.sh")
NAME = "adabet"
"""Of our folder on the device: removing it whole removes nothing else."""
_FACTS_S = 60.0
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Address:
    """Which device, and how to get in: serial, keys, confirm_s, patience_s (see Link), user and port of an sshd on it.

    work: folder on the device in which to make ours, which is called adabet; None finds one.
    """

    serial: str | None
    keys: Path
    confirm_s: float
    patience_s: float
    work: str | None
    ssh_user: str
    ssh_port: int = TERMUX_PORT


@dataclass(frozen=True)
class Session:
    """A connected device. work: the folder there that all of ours lies in, written by adb's user."""

    link: Link
    adb: AdbPlace
    work: str
    address: Address

    @property
    def scripts(self) -> str:
        """Where job.sh and the others are."""
        return self.inputs("harness")

    @property
    def journal(self) -> str:
        """What settings were before they were changed."""
        return f"{self.work}/journal"

    def inputs(self, name: str) -> str:
        """Where the device has its copy of something of ours."""
        return f"{self.work}/inputs/{name}"

    def own_folder(self, place: Place) -> str:
        """A folder that the place's user writes: runs, caches. Noted, so that `restore` finds it."""
        if place.own_user:
            return f"{self.work}/own"
        home = place.shell("cd && pwd").text.strip()
        if not home.startswith("/"):
            raise DeviceAnswerError(f"{place.name} has no home folder: {home[:100]!r}")
        self.link.checked(
            f"cd {quote(self.work)} && grep -qx {place.name} places 2>/dev/null || echo {place.name} >> places"
        )
        return f"{home}/.adabet"

    def places_used(self) -> tuple[str, ...]:
        """The places other than adb's whose own folders hold something of ours."""
        noted = self.link.shell(f"cat {quote(self.work)}/places 2>/dev/null").text.split()
        return tuple(name for name in PLACES if name in noted)

    def place(self, name: str) -> Place:
        """A place by its name. CapabilityError where the device does not have it."""
        if name == "adb":
            return self.adb
        if name == "ssh":
            known_hosts = self.address.keys / "adabet_known_hosts"
            return SshPlace(self.link, self.address.ssh_user, self.address.ssh_port, known_hosts)
        output = self.link.shell(f"run-as {TERMUX} true")
        if output.code:
            raise CapabilityError(
                f"run-as {TERMUX}: {output.text.strip()[-200:] or 'no word'}; only builds of Termux "
                f"that can be debugged allow it: start sshd in Termux and take --place ssh"
            )
        return TermuxPlace(self.link, f"{self.work}/staging")

    def push_scripts(self) -> None:
        """Have the device hold the scripts of this folder."""
        mirror(self.link, inventory(_HERE, SCRIPTS.__contains__), self.scripts)

    def facts(self) -> DeviceFacts:
        """What the device tells of itself; `push_scripts` comes before."""
        return parse_facts(self.link.checked(f"sh {quote(self.scripts)}/facts.sh facts", _FACTS_S))


@contextmanager
def connected(address: Address) -> Iterator[Session]:
    """The device at `address`, with the scripts on it. Raises what Link raises, and what `push_scripts` does.

    Whatever goes wrong with the device in the block, its message begins with the device's name.
    """
    try:
        if address.work is not None and not address.work.startswith("/"):
            raise UsageError(f"--work {address.work}: not an absolute path")
        with Link(address.serial, address.keys, address.confirm_s, address.patience_s) as link:
            work = f"{(address.work or _writable_folder(link)).rstrip('/')}/{NAME}"
            session = Session(link, AdbPlace(link), work, address)
            _make_ours(link, work)
            session.push_scripts()
            yield session
    except DeviceError as error:
        error.args = (f"{address.serial or 'the device at USB'}: {error}",)
        raise


def _make_ours(link: Link, work: str) -> None:
    """Make our folder, which will hold images, for adb's user alone. CapabilityError if it is somebody else's."""
    made = link.shell(f'umask 077; mkdir -p {quote(work)} && {{ [ -O {quote(work)} ] || [ "$(id -u)" = 0 ]; }}')
    if made.code:
        raise CapabilityError(
            f"{work} cannot be made on the device, or belongs to another user {made.text.strip()[-200:]}; name another "
            "folder by --work"
        )


def _writable_folder(link: Link) -> str:
    """Where adb's user may write: /data/local/tmp on phones, the home folder on boards."""
    found = link.shell(
        'for d in /data/local/tmp "$HOME" /tmp; do '
        '[ -d "$d" ] && [ -w "$d" ] && [ "$d" != / ] && echo "$d" && break; done'
    ).text.strip()
    if not found.startswith("/"):
        raise CapabilityError("adb's user can write nowhere; name a folder by --work")
    return found
