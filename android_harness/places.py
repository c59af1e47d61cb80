"""Where a Python lives on the device, and how commands and files reach it: as adb's own user, as Termux, by ssh."""

from __future__ import annotations

import secrets
from pathlib import Path
from shlex import quote
from typing import Protocol

from android_harness.link import REST, Link, Output

TERMUX = "com.termux"
_TERMUX_PREFIX = f"/data/data/{TERMUX}/files/usr"
TERMUX_ENVIRONMENT = (
    f"export PREFIX={_TERMUX_PREFIX} HOME=/data/data/{TERMUX}/files/home TMPDIR={_TERMUX_PREFIX}/tmp LANG=en_US.UTF-8 "
    f"PATH={_TERMUX_PREFIX}/bin:$PATH LD_PRELOAD={_TERMUX_PREFIX}/lib/libtermux-exec.so"
)
SHORT_S = 30.0


class Place(Protocol):
    """One user of the device."""

    name: str
    """As --place takes it."""
    own_user: bool
    """Whether this is the user that adb writes files as, so that nobody else has to read them."""

    def shell(self, command: str, timeout_s: float = SHORT_S) -> Output:
        """Run `command` in sh as this user."""

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file that this user can read."""

    def close(self) -> None:
        """Give up what this way alone needs; the connection stays."""


class AdbPlace:
    """The user that adb's daemon runs as: `shell` on a phone, whoever started it on a board."""

    name = "adb"
    own_user = True

    def __init__(self, link: Link) -> None:
        self._link = link

    def shell(self, command: str, timeout_s: float = SHORT_S) -> Output:
        """Run `command` in sh as this user."""
        return self._link.shell(command, timeout_s)

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file that this user can read."""
        self._link.pull(remote, local)

    def close(self) -> None:
        """Nothing: the connection is the session's."""


class TermuxPlace:
    """Termux' user, through run-as: builds of Termux that can be debugged allow that, those of the stores do not.

    `staging` is a folder that adb's user can write and read.
    """

    name = "run-as"
    own_user = False

    def __init__(self, link: Link, staging: str) -> None:
        self._link = link
        self._staging = staging

    def shell(self, command: str, timeout_s: float = SHORT_S) -> Output:
        """Run `command` in sh as this user, in Termux' environment."""
        return self._link.shell(f"run-as {TERMUX} sh -c {quote(f'{TERMUX_ENVIRONMENT}; {command}')}", timeout_s)

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file that this user can read, by a pipe to adb's user: neither may read the other's folders.

        Nor does SELinux let an app write a file of adb's user that it was handed open.
        """
        staged = f"{self._staging}/{secrets.token_hex(8)}"
        read = f"run-as {TERMUX} cat {quote(remote)}"
        piped = f"{{ {{ {read}; echo $? >&3; }} | cat > {quote(staged)}; }} 3>&1"  # a pipe hides how its start ended
        try:
            self._link.checked(f"mkdir -p {quote(self._staging)} && code=$({piped}) && exit $code", timeout_s=600)
            self._link.pull(staged, local)
        finally:
            self._link.shell(f"rm -f {quote(staged)} {quote(staged + REST)}")

    def close(self) -> None:
        """Nothing: the connection is the session's."""
