"""The connection to one device: commands, files there and back; made anew when it breaks."""

from __future__ import annotations

import errno
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TypeVar

from adb_shell.exceptions import (
    AdbCommandFailureException,
    AdbTimeoutError,
    DeviceAuthError,
    InvalidChecksumError,
    InvalidCommandError,
    InvalidResponseError,
    PushFailedError,
    TcpTimeoutException,
    UsbReadFailedError,
    UsbWriteFailedError,
)

from android_harness.errors import (
    ConnectionLostError,
    DeviceAnswerError,
    DeviceFullError,
    NoDeviceError,
    UnauthorisedError,
)
from android_harness.keys import signers
from android_harness.transport import Device, WholeTcpTransport
from signatures.errors import CapabilityError, UsageError

try:
    from adb_shell.transport.usb_transport import UsbTransport
    from usb1 import USBError
except (ImportError, OSError):  # without libusb there is TCP
    UsbTransport = None

    class USBError(Exception):  # type: ignore[no-redef]
        """Never raised."""


REST = ".rest"
"""What the missing end of a file is called on the device while it is fetched."""
_ANSWER_S = 20.0
"""How long a device may be silent."""
_CONNECT_S = 10.0
_ATTEMPTS = 6
"""How often one operation is begun on a connection that keeps breaking."""
_MODE = 0o100644
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (
    OSError,
    KeyError,  # adb-shell looks up what a garbled message calls itself
    ValueError,
    AdbTimeoutError,
    InvalidChecksumError,
    InvalidCommandError,
    InvalidResponseError,
    TcpTimeoutException,
    UsbReadFailedError,
    UsbWriteFailedError,
    USBError,
)

T = TypeVar("T")


def _tcp_address(serial: str | None) -> tuple[str, int] | None:
    """HOST:PORT, taken apart; None for USB. UsageError for a port that is none."""
    if serial is None or ":" not in serial:
        return None
    host, _, port = serial.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--serial {serial}: not HOST:PORT, and USB serial numbers have no colon")
    return host.strip("[]"), int(port)


@dataclass(frozen=True)
class Output:
    """What a command on the device printed, stdout and stderr together, and its exit code."""

    text: str
    code: int


class Link:
    """One device: `serial` is HOST:PORT for TCP, else a USB serial number; None is whatever is plugged in.

    keys: folder of adbkey. confirm_s: how long the owner has to accept the key on the device's screen. patience_s: how
    long we wait for a device that went away.

    Every operation can be repeated without harm, so that it is begun anew after a broken connection. Raises
    NoDeviceError and UnauthorisedError when opened; ConnectionLostError where a device that answered stays away.
    """

    def __init__(self, serial: str | None, keys: Path, confirm_s: float, patience_s: float) -> None:
        self.serial = serial or "USB"
        self.reconnections = 0
        """How often the connection broke and came back."""
        self._signers = signers(keys)
        self._public_key = keys / "adbkey.pub"
        self.patience_s = patience_s
        self._lost = ""
        """Why the device is gone for good; a second wait for it would be in vain."""
        self._confirm_s = confirm_s
        self._usb_serial = serial
        self._address = _tcp_address(serial)
        self._device = self._connected(self._found())

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        _close(self._device)

    def shell(self, command: str, timeout_s: float = _ANSWER_S) -> Output:
        """Run `command` in the device's sh.

        The exit code is printed behind a mark of our own, since the oldest protocol, which every daemon speaks, has
        none; a command whose mark does not come back was cut off.
        """
        mark = secrets.token_hex(8)

        def run(device: Device) -> Output:
            try:
                text = device.shell(
                    f"(\n{command}\n) 2>&1\nset -- $?\necho; echo {mark} $1",
                    transport_timeout_s=timeout_s, read_timeout_s=timeout_s, timeout_s=timeout_s,
                ).replace("\r\n", "\n")  # fmt: skip
            except (AdbTimeoutError, TcpTimeoutException):
                # The device is there, or its end would have been noticed; what it still does, it would do twice.
                self._reconnect(TimeoutError("silence"))
                raise DeviceAnswerError(f"`{command[:80]}` took more than {timeout_s:g} s") from None
            said, found, code = text.rpartition(f"\n{mark} ")
            if not found or not code.strip().isdigit():
                raise ConnectionResetError("the answer broke off")
            return Output(said, int(code))

        return self._through(run)

    def checked(self, command: str, timeout_s: float = _ANSWER_S) -> str:
        """What `command` printed. Raises DeviceFullError, or DeviceAnswerError with its last words, if it failed."""
        output = self.shell(command, timeout_s)
        if output.code:
            words = output.text.strip()[-400:]
            if _says_full(words):
                raise DeviceFullError(words)
            raise DeviceAnswerError(f"`{command[:80]}` ended with {output.code}: {words or 'no word'}")
        return output.text

    def push(self, local: Path, remote: str) -> None:
        """Send a file to the path `remote`, over whatever is there.

        Raises DeviceFullError where there is no room for it, DeviceAnswerError where it could not be written otherwise.
        """

        def send(device: Device) -> None:
            try:
                device.push(str(local), remote, st_mode=_MODE, read_timeout_s=_ANSWER_S, transport_timeout_s=_ANSWER_S)
            except PushFailedError as error:
                words = bytes(error.args[0]).decode(errors="replace")
                if _says_full(words):
                    raise DeviceFullError(f"{remote}: {words}") from None
                raise DeviceAnswerError(f"cannot write {remote}: {words}") from None

        self._through(send)

    def pull(self, remote: str, local: Path) -> None:
        """Fetch the file `remote`; of one that breaks off only the rest is fetched on the next connection.

        Raises DeviceAnswerError where it cannot be read.
        """
        whole, piece = (local.with_name(f"{local.name}.{kind}") for kind in ("partial", "piece"))
        whole.write_bytes(b"")

        def fetch(device: Device) -> None:
            kept = whole.stat().st_size
            source = remote
            if kept:
                source = f"{remote}{REST}"
                device.shell(f"tail -c +{kept + 1} {quote(remote)} > {quote(source)}", read_timeout_s=_ANSWER_S)
            piece.write_bytes(b"")
            try:
                device.pull(source, str(piece), read_timeout_s=_ANSWER_S, transport_timeout_s=_ANSWER_S)
            except AdbCommandFailureException as error:
                raise DeviceAnswerError(f"cannot read {remote}: {error}") from None
            finally:
                with whole.open("ab") as target, piece.open("rb") as came:
                    shutil.copyfileobj(came, target)
                piece.unlink()

        try:
            before = self.reconnections
            self._through(fetch)
            if self.reconnections > before:
                self.shell(f"rm -f {quote(remote + REST)}")
            whole.replace(local)
        finally:
            whole.unlink(missing_ok=True)

    def another(self) -> tuple[Device, WholeTcpTransport]:
        """A second connection to the same device, and what carries it; CapabilityError at USB, which has only one."""
        if self._address is None:
            raise CapabilityError("ssh needs a second connection: `adb tcpip 5555`, then --serial HOST:5555")
        transport = WholeTcpTransport(*self._address)
        return self._connected(Device(transport)), transport

    def _through(self, operation: Callable[[Device], T]) -> T:
        """The operation's result, begun anew on a new connection where the old one breaks."""
        for _ in range(_ATTEMPTS):
            if self._lost:
                raise ConnectionLostError(self._lost)
            try:
                return operation(self._device)
            except _BROKEN as error:
                if isinstance(error, OSError) and (error.filename or error.errno in _NO_ROOM):
                    raise CapabilityError(f"on this computer: {error}") from None
                self._reconnect(error)
        raise ConnectionLostError(f"the connection broke {_ATTEMPTS} times in a row")

    def _reconnect(self, cause: Exception) -> None:
        _close(self._device)
        deadline = time.monotonic() + self.patience_s
        pause_s = 0.1
        while True:
            try:
                self._device = self._connected(self._found())
            except (UnauthorisedError, NoDeviceError, *_BROKEN) as error:
                if isinstance(error, UnauthorisedError) or time.monotonic() + pause_s > deadline:
                    self._lost = (
                        f"the connection was lost ({cause}) and the device did not come back within "
                        f"{self.patience_s:g} s ({error}). Plug it in or switch its network on, then go on with `pull` "
                        "or clean up with `restore`"
                    )
                    raise ConnectionLostError(self._lost) from None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 2.0)
            else:
                self.reconnections += 1
                return

    def _connected(self, device: Device) -> Device:
        asked = False

        def tell(_: Device) -> None:
            nonlocal asked
            asked = True
            print("confirm this computer's key on the device's screen …", file=sys.stderr, flush=True)

        try:
            device.connect(
                self._signers, transport_timeout_s=_CONNECT_S, auth_timeout_s=self._confirm_s, auth_callback=tell
            )
        except DeviceAuthError as error:
            raise UnauthorisedError(str(error)) from None
        except _BROKEN as error:
            _close(device)
            if asked:
                raise UnauthorisedError(
                    f"the device does not know this computer's key, and nobody confirmed it in {self._confirm_s:g} s. "
                    f"Unlock the screen, run this again and tap Allow; a daemon without a screen has a list of keys, "
                    f"to which {self._public_key} belongs"
                ) from None
            if isinstance(error, InvalidCommandError) and "STLS" in str(error):
                raise CapabilityError(
                    "wireless debugging with pairing (TLS) is not supported; connect over USB, or switch "
                    "to plain TCP with `adb tcpip 5555` once"
                ) from None
            raise NoDeviceError(f"no adb daemon answers ({error})") from None
        return device

    def _found(self) -> Device:
        if self._address is not None:
            return Device(WholeTcpTransport(*self._address))
        if UsbTransport is None:
            raise CapabilityError("USB needs libusb; or connect over TCP by --serial HOST:PORT")
        try:
            found = list(UsbTransport.find_all_adb_devices())
            serials = [transport.serial_number for transport in found]
        except USBError as error:
            raise NoDeviceError(f"cannot look at USB: {error}; that takes a udev rule for the device") from None
        if self._usb_serial is None and len(found) > 1:
            raise UsageError(f"several devices at USB: name one of {', '.join(serials)} by --serial")
        for transport, serial in zip(found, serials, strict=True):
            if self._usb_serial in (None, serial):
                return Device(transport)
        raise NoDeviceError(
            f"there {f'are only {serials}' if serials else 'is no device'} at USB. Plug it in with USB debugging "
            "switched on, or name --serial HOST:PORT; a running adb server keeps it to itself until `adb kill-server`"
        )


def _close(device: Device) -> None:
    with suppress(Exception):  # whatever a broken connection says when it is closed
        device.close()


def _says_full(words: str) -> bool:
    return "No space left" in words or "Disk quota exceeded" in words
