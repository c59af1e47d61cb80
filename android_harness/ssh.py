"""A user of the device reached by ssh, through the adb connection: Termux' sshd, or any other on the device's loopback.

adb-shell has no public call for a stream to a port of the device, so this is the one place that uses what it keeps to
itself (0.4.4; pyproject.toml admits no 0.5).
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import paramiko
from adb_shell import constants
from adb_shell.adb_device import AdbDevice
from adb_shell.adb_message import AdbMessage
from adb_shell.exceptions import AdbTimeoutError, TcpTimeoutException

from android_harness.errors import ConnectionLostError, DeviceAnswerError, MissingPackageError, UnauthorisedError
from android_harness.link import Link, Output
from android_harness.places import SHORT_S
from android_harness.transport import WholeTcpTransport

TERMUX_PORT = 8022
_OPEN_S = 5.0
_CHUNK = 1 << 14
_ATTEMPTS = 4

T = TypeVar("T")


class Tunnel:
    """A stream to a TCP port of the device's own loopback: `socket` is its end here, until the connection breaks.

    Raises MissingPackageError where nothing listens on the port.
    """

    def __init__(self, device: AdbDevice, transport: WholeTcpTransport, port: int) -> None:
        try:
            self._stream = device._open(b"tcp:%d" % port, _OPEN_S, _OPEN_S, None)
        except (AdbTimeoutError, TcpTimeoutException):
            device.close()
            raise MissingPackageError(
                f"nothing listens on port {port} of the device: in Termux, `pkg install openssh` and start `sshd`"
            ) from None
        self._device = device
        self._transport = transport
        self.socket, self._inner = socket.socketpair()
        self._thread = threading.Thread(target=self._pump, name=f"tunnel to port {port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the stream and its connection."""
        self.socket.close()
        self._thread.join(_OPEN_S)

    def _pump(self) -> None:
        acknowledged = True  # adb wants each message acknowledged before the next
        try:
            while True:
                watched: list[Any] = [self._transport, *([self._inner] if acknowledged else [])]
                ready, _, _ = select.select(watched, [], [])
                if self._inner in ready:
                    data = self._inner.recv(_CHUNK)
                    if not data:
                        break
                    message = AdbMessage(constants.WRTE, self._stream.local_id, self._stream.remote_id, data)
                    self._device._io_manager.send(message, self._stream)
                    acknowledged = False
                if self._transport in ready:
                    expected = [constants.OKAY, constants.WRTE, constants.CLSE]
                    command, data = self._device._read_until(expected, self._stream)
                    if command == constants.CLSE:
                        break
                    if command == constants.OKAY:
                        acknowledged = True
                    else:
                        self._inner.sendall(data)
        except Exception:  # whatever breaks the connection, the ssh client sees the end of its stream and says so
            pass
        finally:
            with suppress(Exception):
                self._device.close()
            self._inner.close()


class SshPlace:
    """A user behind an sshd on the device, with the keys of ~/.ssh and of the agent; no passwords.

    The host key seen first is kept in `known_hosts`; another one is refused. Raises UnauthorisedError for both sides'
    refusals, ConnectionLostError where the way stays broken.
    """

    name = "ssh"
    own_user = False

    def __init__(self, link: Link, user: str, port: int, known_hosts: Path) -> None:
        self._link = link
        self._user = user
        self._port = port
        self._known_hosts = known_hosts
        self._client = self._connected()

    def shell(self, command: str, timeout_s: float = SHORT_S) -> Output:
        """Run `command` in the user's shell."""

        def run(client: paramiko.SSHClient) -> Output:
            _, stdout, _ = client.exec_command(f"(\n{command}\n) 2>&1", timeout=timeout_s)
            text = stdout.read().decode(errors="backslashreplace")
            code = stdout.channel.recv_exit_status()
            if code < 0:
                raise EOFError("the command has no exit code: the connection broke")
            return Output(text, code)

        return self._through(run)

    def fetch(self, remote: str, local: Path) -> None:
        """Copy a file that this user can read."""

        def copy(client: paramiko.SSHClient) -> None:
            try:
                with client.open_sftp() as files:
                    files.get(remote, str(local))
            except FileNotFoundError:
                raise DeviceAnswerError(f"cannot read {remote} by ssh: no such file") from None

        self._through(copy)

    def close(self) -> None:
        """Close the session and the way there."""
        with suppress(Exception):
            self._client.close()
        self._tunnel.close()

    def _through(self, operation: Callable[[paramiko.SSHClient], T]) -> T:
        for _ in range(_ATTEMPTS):
            try:
                return operation(self._client)
            except (paramiko.SSHException, EOFError, OSError):
                self.close()
                self._client = self._connected()
        raise ConnectionLostError(f"ssh through adb broke {_ATTEMPTS} times in a row")

    def _connected(self) -> paramiko.SSHClient:
        self._tunnel = Tunnel(*self._link.another(), self._port)
        client = paramiko.SSHClient()
        self._known_hosts.touch(mode=0o600)
        client.load_host_keys(str(self._known_hosts))
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        sock: Any = self._tunnel.socket
        host = self._link.serial.replace(":", "-")  # a colon means a port to what reads the list of known hosts
        try:
            client.connect(host, self._port, username=self._user, sock=sock, timeout=_OPEN_S, banner_timeout=SHORT_S)
        except paramiko.BadHostKeyException as error:
            self._tunnel.close()
            raise UnauthorisedError(
                f"the sshd on port {self._port} is not the one known from before ({error}); if it was "
                f"installed anew, remove its line from {self._known_hosts}"
            ) from None
        except (paramiko.AuthenticationException, paramiko.PasswordRequiredException) as error:
            self._tunnel.close()
            raise UnauthorisedError(
                f"sshd refused {self._user!r} ({error}); add a public key of ~/.ssh to "
                f"~/.ssh/authorized_keys there (in Termux too), and load it into the agent if it has a passphrase"
            ) from None
        return client
