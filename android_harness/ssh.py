"""A user of the device reached by ssh, through the adb connection: Termux' sshd, or any other on the device's loopback.

adb-shell has no public call for a stream to a port of the device, so this uses what it keeps to itself (0.4.4;
pyproject.toml admits no 0.5).
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import paramiko
from adb_shell import constants
from adb_shell.adb_message import AdbMessage
from adb_shell.hidden_helpers import _AdbTransactionInfo

from android_harness.errors import (
    ConnectionLostError,
    DeviceAnswerError,
    MissingPackageError,
    NoDeviceError,
    UnauthorisedError,
)
from android_harness.link import Link, Output
from android_harness.places import SHORT_S
from android_harness.transport import Device, WholeTcpTransport
from signatures.errors import CapabilityError

TERMUX_PORT = 8022
STALL_S = 20.0
"""How long adb's daemon or the sshd may be silent when it has something to answer."""
_MESSAGE_S = 600.0
"""How long one message of adb, at most a MiB, may take to come, as long as it comes."""
_JOIN_S = 5.0
_CHUNK = 1 << 14
_PIECE = 1 << 15
"""What an SFTP server has to give at once."""
_ATTEMPTS = 6
"""How often one operation is begun on a connection that keeps breaking."""
_BROKEN = (paramiko.SSHException, EOFError, OSError)

T = TypeVar("T")

# A connection that breaks is our business; without a handler paramiko's threads print tracebacks about it to stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Tunnel:
    """A stream to a TCP port of the device's own loopback: `socket` is its end here, until the connection breaks.

    It takes over the connection. Raises MissingPackageError where nothing listens on the port, ConnectionResetError.
    """

    def __init__(self, device: Device, transport: WholeTcpTransport, port: int, stall_s: float) -> None:
        self.lost: Exception | None = None
        """What broke adb's connection; None while it holds, and where the sshd hung up."""
        self._device = device
        self._transport = transport
        self._stall_s = stall_s
        self._chunk = min(_CHUNK, device._maxdata)
        self._stream = _AdbTransactionInfo(1, None, stall_s, _MESSAGE_S)
        try:
            opened = self._opened(port)
        except Exception as error:
            device.close()
            raise ConnectionResetError(f"adb: {error}") from None
        if not opened:
            device.close()
            raise MissingPackageError(
                f"nothing listens on port {port} of the device: in Termux, `pkg install openssh` and start `sshd`"
            )
        self._wire = socket.socket(fileno=os.dup(transport.fileno()))
        self.socket, self._inner = socket.socketpair()
        self._thread = threading.Thread(target=self._pump, name=f"tunnel to port {port}", daemon=True)
        self._thread.start()

    def cut(self, reason: str) -> None:
        """Break the connection off, whatever it is waiting for."""
        self.lost = self.lost or TimeoutError(reason)
        for end in (self._wire, self.socket):
            with suppress(OSError):  # it is closed already
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the stream and its connection."""
        self.cut("closed")
        self._thread.join(_JOIN_S)
        self.socket.close()

    def _opened(self, port: int) -> bool:
        opening = AdbMessage(constants.OPEN, self._stream.local_id, 0, b"tcp:%d\0" % port)
        self._device._io_manager.send(opening, self._stream)
        # adb-shell's own _open() does not see a refusal, and waits for the end of its patience.
        answer = self._device._io_manager.read([constants.OKAY, constants.CLSE], self._stream)
        command, self._stream.remote_id, _, _ = answer
        return bool(command == constants.OKAY)

    def _pump(self) -> None:
        sent: float | None = None  # when the last message went, until it is acknowledged: none may follow before
        try:
            while True:
                watched: list[Any] = [self._transport, *([self._inner] if sent is None else [])]
                limit_s = None if sent is None else max(0.0, sent + self._stall_s - time.monotonic())
                ready, _, _ = select.select(watched, [], [], limit_s)
                if not ready:
                    raise TimeoutError(f"the device took nothing for {self._stall_s:g} s")
                if self._inner in ready:
                    data = self._inner.recv(self._chunk)
                    if not data:
                        break
                    message = AdbMessage(constants.WRTE, self._stream.local_id, self._stream.remote_id, data)
                    self._device._io_manager.send(message, self._stream)
                    sent = time.monotonic()
                if self._transport in ready:
                    expected = [constants.OKAY, constants.WRTE, constants.CLSE]
                    command, data = self._device._read_until(expected, self._stream)
                    if command == constants.CLSE:
                        break
                    if command == constants.OKAY:
                        sent = None
                    else:
                        self._inner.sendall(data)
        except Exception as error:  # whatever it is: the ssh client sees the end of its stream, and asks why
            self.lost = self.lost or error
        finally:
            with suppress(Exception):
                self._device.close()
            self._wire.close()
            self._inner.close()


class SshPlace:
    """A user behind an sshd on the device, with the keys of ~/.ssh and of the agent; no passwords.

    The host key seen first is kept in `known_hosts`; another one is refused. A connection that breaks is made anew for
    as long as the link is patient, and what was under way is begun again; of a file only the rest is fetched. Raises
    UnauthorisedError for both sides' refusals, MissingPackageError where nothing listens, ConnectionLostError where the
    way stays broken.
    """

    name = "ssh"
    own_user = False

    def __init__(self, link: Link, user: str, port: int, known_hosts: Path, stall_s: float = STALL_S) -> None:
        self._link = link
        self._user = user
        self._port = port
        self._known_hosts = known_hosts
        self._stall_s = stall_s
        self._connection: _Connection | None = None
        self._lost = ""
        """Why the way is gone for good; a second wait for it would be in vain."""
        self._through(lambda connection: None)

    def shell(self, command: str, timeout_s: float = SHORT_S) -> Output:
        """Run `command` in the user's shell. Raises DeviceAnswerError where it takes longer: it is not begun twice."""

        def run(connection: _Connection) -> Output:
            deadline = time.monotonic() + timeout_s
            with connection.shell(f"(\n{command}\n) 2>&1") as channel:
                try:
                    text = _all_of(channel, deadline).decode(errors="backslashreplace")
                except TimeoutError:
                    if connection.answers():
                        raise DeviceAnswerError(f"`{command[:80]}` took more than {timeout_s:g} s") from None
                    raise
                if channel.exit_status < 0:
                    if connection.answers():
                        raise DeviceAnswerError(f"`{command[:80]}` ended without an exit code, by a signal")
                    raise EOFError("the connection broke before the exit code")
                return Output(text, channel.exit_status)

        return self._through(run)

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file that this user can read.

        Raises DeviceAnswerError where it cannot, CapabilityError where `local` cannot be written.
        """
        partial = local.with_name(f"{local.name}.partial")

        def copy(connection: _Connection) -> None:
            files = connection.files
            try:
                _append_rest(files, remote, partial)
            except TimeoutError:
                raise
            except (OSError, paramiko.SFTPError) as error:
                # Some refusals of SFTP look like a connection that breaks.
                refused = isinstance(error, (FileNotFoundError, PermissionError))
                if refused or (not files.get_channel().closed and connection.answers()):
                    raise DeviceAnswerError(f"cannot read {remote} by ssh: {error}") from None
                raise EOFError(str(error)) from None

        try:
            with _on_this_computer():
                partial.write_bytes(b"")
            self._through(copy)
            with _on_this_computer():
                partial.replace(local)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the session and the way there."""
        connection, self._connection = self._connection, None
        if connection:
            connection.close()

    def _through(self, operation: Callable[[_Connection], T]) -> T:
        """The operation's result, begun anew on a new connection where the old one breaks."""
        cause: Exception | None = None
        for _ in range(_ATTEMPTS):
            if self._connection is None:
                self._connection = self._reconnected(cause)
            try:
                return operation(self._connection)
            except _BROKEN as error:
                cause = self._connection.tunnel.lost or error
                self.close()
        raise ConnectionLostError(f"ssh through adb broke {_ATTEMPTS} times in a row ({cause})")

    def _reconnected(self, cause: Exception | None) -> _Connection:
        if self._lost:
            raise ConnectionLostError(self._lost)
        deadline = time.monotonic() + self._link.patience_s
        pause_s = 0.1
        while True:
            try:
                return self._connected()
            except (NoDeviceError, *_BROKEN) as error:
                if time.monotonic() + pause_s > deadline:
                    before = f" after it was lost ({cause})" if cause else ""
                    self._lost = (
                        f"no ssh connection through adb{before} within {self._link.patience_s:g} s "
                        f"({error}): look whether its network and its sshd are on, then go on with `pull` or clean up "
                        f"with `restore`"
                    )
                    raise ConnectionLostError(self._lost) from None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 2.0)

    def _connected(self) -> _Connection:
        client = paramiko.SSHClient()
        with _on_this_computer():
            self._known_hosts.touch(mode=0o600)
            client.load_host_keys(str(self._known_hosts))
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        connection = _Connection(client, Tunnel(*self._link.another(), self._port, self._stall_s), self._stall_s)
        try:
            self._log_in(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _log_in(self, connection: _Connection) -> None:
        client, tunnel = connection.client, connection.tunnel
        host = self._link.serial.replace(":", "-")  # a colon means a port to what reads the list of known hosts
        try:
            with connection.limited("the sshd did not let us in or refuse us"):
                long_s = 2 * self._stall_s  # the limit around all of it comes first
                client.connect(
                    host, self._port, username=self._user, sock=tunnel.socket,
                    timeout=long_s, banner_timeout=long_s, auth_timeout=long_s,
                )  # fmt: skip
        except paramiko.BadHostKeyException as error:
            raise UnauthorisedError(
                f"the sshd on port {self._port} is not the one known from before ({error}); if it was "
                f"installed anew, remove its line from {self._known_hosts}"
            ) from None
        except _BROKEN as error:
            if tunnel.lost:
                raise ConnectionResetError(str(tunnel.lost)) from None
            transport = client.get_transport()
            if transport is None or not transport.initial_kex_done:
                raise
            if isinstance(error, OSError) and error.filename:
                raise CapabilityError(f"on this computer: {error}") from None
            # The way holds and the sshd has shown its key: this is about us.
            raise UnauthorisedError(
                f"sshd refused {self._user!r} ({error}); add a public key of ~/.ssh to "
                f"~/.ssh/authorized_keys there (in Termux too), and load it into the agent if it has a passphrase"
            ) from None
        client.get_transport().set_keepalive(max(1, int(self._stall_s / 4)))  # so that a dead way is noticed in silence


class _Connection:
    """A client and its tunnel, opened and closed together."""

    def __init__(self, client: paramiko.SSHClient, tunnel: Tunnel, stall_s: float) -> None:
        self.client = client
        self.tunnel = tunnel
        self._stall_s = stall_s

    def close(self) -> None:
        """Close both, and wait for their threads."""
        self.tunnel.cut("closed")
        with suppress(Exception):  # whatever a broken connection says when it is closed
            if transport := self.client.get_transport():
                transport.join(_JOIN_S)
            self.client.close()
        self.tunnel.close()

    @contextmanager
    def limited(self, reason: str) -> Iterator[None]:
        """Cut the connection where the body takes longer than the stall: paramiko waits for some answers for ever."""
        timer = threading.Timer(self._stall_s, self.tunnel.cut, [f"{reason} for {self._stall_s:g} s"])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def answers(self) -> bool:
        """Whether the sshd still answers: it has to, to what it does not know."""
        transport = self.client.get_transport()
        with self.limited("the sshd did not answer"):
            transport.global_request("keepalive@openssh.com", wait=True)
        return bool(transport.is_active()) and self.tunnel.lost is None

    @contextmanager
    def shell(self, command: str) -> Iterator[paramiko.Channel]:
        """The channel on which `command` runs, closed in the end. Raises DeviceAnswerError where the sshd refuses."""

        def begun(channel: paramiko.Channel) -> paramiko.Channel:
            channel.exec_command(command)
            return channel

        channel = self._granted(begun, "shell")
        try:
            yield channel
        finally:
            with suppress(Exception):
                channel.close()

    @cached_property
    def files(self) -> paramiko.SFTPClient:
        """The session of SFTP. Raises DeviceAnswerError where the sshd refuses.

        One for all files: Dropbear 2022.83 closes channels that are opened while a session of SFTP is closing.
        """

        def begun(channel: paramiko.Channel) -> paramiko.SFTPClient:
            channel.invoke_subsystem("sftp")
            channel.settimeout(self._stall_s)
            return paramiko.SFTPClient(channel)

        return self._granted(begun, "SFTP")

    def _granted(self, begun: Callable[[paramiko.Channel], T], what: str) -> T:
        try:
            with self.limited(f"the sshd gave no {what}"):
                return begun(self.client.get_transport().open_session())
        except (paramiko.SSHException, paramiko.SFTPError) as error:
            if not self.answers():
                raise
            raise DeviceAnswerError(f"the sshd refuses {what}: {error}") from None


def _all_of(channel: paramiko.Channel, deadline: float) -> bytes:
    """What comes until the command has ended. TimeoutError if that is later than `deadline`, of time.monotonic()."""
    text = bytearray()

    def left_s() -> float:
        return max(1e-3, deadline - time.monotonic())

    while True:
        channel.settimeout(left_s())
        data = channel.recv(_PIECE)
        if not data:
            break
        text += data
        if time.monotonic() > deadline:
            raise TimeoutError
    if not channel.status_event.wait(left_s()):
        raise TimeoutError
    return bytes(text)


def _append_rest(files: paramiko.SFTPClient, remote: str, local: Path) -> None:
    """Add to `local` what it lacks. No paramiko prefetch: its threads outlive a connection that breaks."""
    with _on_this_computer():
        target = local.open("ab")
    with target:
        source = files.open(remote, "rb")  # not by `with`: on a dead way closing waits as long again as reading did
        size = source.stat().st_size
        source.seek(target.tell())
        while data := source.read(_PIECE):
            with _on_this_computer():
                target.write(data)
                target.flush()
        source.close()
        if target.tell() < (size or 0):  # to paramiko some broken connections are the end of the file
            raise EOFError(f"{remote} broke off after {target.tell():,} of {size:,} bytes")


@contextmanager
def _on_this_computer() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CapabilityError(f"on this computer: {error}") from None
