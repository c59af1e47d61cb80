"""The ADB daemon packet by packet: the handshake, flow control, cut connections, and what adb-shell does not speak."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from adb_shell.auth.sign_cryptography import CryptographySigner

from tests.device.adb_daemon.fuse import Fuse
from tests.device.adb_daemon.process import Daemon
from tests.device.raw_client import MAX_PAYLOAD_BYTES, VERSION, VERSION_WITH_CHECKSUMS, RawClient, RawStream, packed

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN, WINDOW_SIZE = range(6)
LARGEST_SENT_BYTES = 24 + 256
"""Of the packets that log in and open a shell: the signature."""


@pytest.fixture
def client(daemon: Daemon, signer: CryptographySigner) -> Iterator[RawClient]:
    with RawClient(daemon.port) as client:
        client.log_in(signer)
        yield client


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def runs(process: int) -> bool:
    """Whether it does, and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class TestHandshake:
    @pytest.mark.parametrize("version", [VERSION_WITH_CHECKSUMS, VERSION])
    def test_the_older_version_has_checksums(self, daemon: Daemon, signer: CryptographySigner, version: int) -> None:
        with RawClient(daemon.port, version) as client:
            banner = client.log_in(signer)
            assert (banner.arg0, banner.arg1) == (VERSION, MAX_PAYLOAD_BYTES)
            assert banner.payload.startswith(b"device::ro.product.name=adb_daemon;")
            assert banner.payload.endswith(b";features=shell_v2")
            assert client.open(b"shell:echo hello").read_all() == b"hello\n"

    def test_the_banner_tells_given_properties(self, key: Path, signer: CryptographySigner, tmp_path: Path) -> None:
        (tmp_path / "props").write_text("ro.product.model=Pixel=9\n\nro.product.device=tokay\n")
        options = ["--props", str(tmp_path / "props")]
        with Daemon(keys=key.with_suffix(".pub"), options=options) as daemon, RawClient(daemon.port) as client:
            assert b"ro.product.model=Pixel=9;ro.product.device=tokay;" in client.log_in(signer).payload

    def test_each_wrong_signature_is_answered_by_a_new_token(self, daemon: Daemon, signer: CryptographySigner) -> None:
        with RawClient(daemon.port) as client:
            tokens = [client.greet()]
            for signature in (bytes(256), b"", signer.Sign(bytes(20))):
                client.send(b"AUTH", 2, 0, signature)
                tokens.append(client.expect(b"AUTH").payload)
            assert len(set(tokens)) == 4
            assert {len(token) for token in tokens} == {20}
            client.send(b"AUTH", 2, 0, signer.Sign(tokens[0]))
            client.expect(b"AUTH")

    def test_a_public_key_is_met_with_silence(self, daemon: Daemon, key: Path) -> None:
        with RawClient(daemon.port) as client:
            client.greet()
            client.send(b"AUTH", 3, 0, key.with_suffix(".pub").read_bytes() + b"\0")
            assert client.is_quiet()

    def test_nothing_can_be_opened_before(self, daemon: Daemon) -> None:
        with RawClient(daemon.port) as client:
            client.send_bytes(packed(b"OPEN", 1, 0, b"shell:echo no\0"))
            client.greet()
            client.send(b"OPEN", 2, 0, b"shell:echo no\0")
            assert client.is_quiet()

    @pytest.mark.parametrize(
        "packet",
        [
            packed(b"CNXN", VERSION, MAX_PAYLOAD_BYTES, b"host::", magic=0),
            packed(b"CNXN", VERSION, MAX_PAYLOAD_BYTES, b"host::", check=1),
            packed(b"CNXN", VERSION, 0, b"host::"),
            packed(b"CNXN", VERSION, MAX_PAYLOAD_BYTES, b"h" * (MAX_PAYLOAD_BYTES + 1)),
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ],
        ids=["magic", "checksum", "no payload", "large", "http"],
    )
    def test_a_malformed_packet_ends_the_connection(self, daemon: Daemon, packet: bytes) -> None:
        with RawClient(daemon.port) as client:
            client.send_bytes(packet)
            assert client.is_closed()


class TestStreams:
    def test_a_service_that_is_not_there_is_refused(self, client: RawClient) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            closed = b"tcp:%d" % nobody.getsockname()[1]
            for name in (b"reverse:list-forward", b"jdwp:1", b"tcp:", b"tcp:99999", b"sync:x", b"", closed):
                client.send(b"OPEN", 7, 0, name + b"\0")
                answer = client.expect(b"CLSE")
                assert (answer.arg0, answer.arg1) == (0, 7)

    def test_several_are_open_at_once(self, client: RawClient) -> None:
        streams = [client.open(b"shell:cat") for _ in range(5)]
        for round_ in range(3):
            for number, stream in enumerate(streams):
                stream.write(b"%d %d" % (round_, number))
                assert stream.read() == b"%d %d" % (round_, number)
        for stream in streams:
            stream.close()

    def test_the_device_waits_until_its_data_was_taken(self, client: RawClient) -> None:
        stream = client.open(b"exec:head -c 300000 /dev/zero")
        size = 0
        while size < 300_000:
            size += len(client.expect(b"WRTE").payload)
            if size < 300_000:
                assert size > 65536 or client.is_quiet()
                stream.acknowledge()
        client.expect(b"CLSE")

    def test_data_is_taken_when_there_is_room_for_more(self, client: RawClient) -> None:
        stream = client.open(b"exec:sleep 30")
        stream.write(bytes(200_000))  # more than the pipe to the process holds
        stream.send(bytes(10))
        assert client.is_quiet()
        stream.send(bytes(10))
        assert client.is_closed()

    def test_empty_data_is_taken_too(self, client: RawClient) -> None:
        stream = client.open(b"exec:cat")
        stream.write(b"")
        stream.write(b"x")
        assert stream.read() == b"x"
        stream.close()

    def test_packets_of_streams_that_are_not_open_mean_nothing(self, client: RawClient) -> None:
        stream = client.open(b"exec:cat")
        for command in (b"OKAY", b"WRTE", b"CLSE"):
            client.send(command, 77, 77, b"x" * (command == b"WRTE"))
            client.send(command, stream.local + 1, stream.remote, b"x" * (command == b"WRTE"))
        client.send(b"SYNC", 1, 1)
        assert client.is_quiet()
        stream.close()

    def test_greeting_again_closes_all(self, client: RawClient, signer: CryptographySigner) -> None:
        client.open(b"exec:cat")
        client.log_in(signer)
        assert client.open(b"exec:echo again").read_all() == b"again\n"


class TestForwarding:
    @pytest.fixture
    def listener(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(5)
            yield listener

    def test_passes_bytes_both_ways(self, client: RawClient, listener: socket.socket) -> None:
        stream = client.open(b"tcp:%d" % listener.getsockname()[1])
        server, _ = listener.accept()
        with server:
            stream.write(b"there")
            assert server.recv(100) == b"there"
            server.sendall(b"and back")
            assert stream.read() == b"and back"
            stream.write(b"last words")
            stream.close()
            assert server.recv(100) == b"last words"
            assert server.recv(100) == b""

    def test_ends_when_the_server_does(self, client: RawClient, listener: socket.socket) -> None:
        stream = client.open(b"tcp:%d" % listener.getsockname()[1])
        server, _ = listener.accept()
        with server:
            server.sendall(b"bye")
        assert stream.read_all() == b"bye"

    def test_does_not_mix_up_large_data(self, client: RawClient, listener: socket.socket) -> None:
        stream = client.open(b"tcp:%d" % listener.getsockname()[1])
        server, _ = listener.accept()
        data = os.urandom(3_000_000)
        echo = threading.Thread(target=send_back, args=[server])
        echo.start()
        with server:
            received = b""
            for start in range(0, len(data), 100_000):
                stream.send(data[start : start + 100_000])
                taken = False
                while not taken or len(received) < start + 100_000:
                    packet = client.receive()
                    if packet.command == b"OKAY":
                        taken = True
                    else:
                        received += packet.payload
                        stream.acknowledge()
            assert received == data
            stream.close()
            echo.join(5)


def send_back(server: socket.socket) -> None:
    while data := server.recv(1 << 16):
        server.sendall(data)


def unframed(data: bytes) -> dict[int, bytes]:
    """What came, by the number of where it came from."""
    found: dict[int, bytes] = {}
    while data:
        kind, size = struct.unpack_from("<BI", data)
        found[kind] = found.get(kind, b"") + data[5 : 5 + size]
        data = data[5 + size :]
    return found


def framed(kind: int, data: bytes = b"") -> bytes:
    return struct.pack("<BI", kind, len(data)) + data


class TestShellProtocol:
    def test_keeps_stdout_stderr_and_the_exit_code_apart(self, client: RawClient) -> None:
        stream = client.open(b"shell,v2,raw:echo out; echo err >&2; exit 42")
        assert unframed(stream.read_all()) == {STDOUT: b"out\n", STDERR: b"err\n", EXIT: b"\x2a"}

    def test_a_terminal_would_merge_them(self, client: RawClient) -> None:
        stream = client.open(b"shell,v2,TERM=vt100,pty:echo $TERM; echo err >&2")
        assert unframed(stream.read_all()) == {STDOUT: b"vt100\nerr\n", EXIT: b"\0"}

    def test_death_by_a_signal_is_an_exit_code(self, client: RawClient) -> None:
        assert unframed(client.open(b"shell,v2,raw:kill -TERM $$").read_all()) == {EXIT: bytes([128 + 15])}

    def test_stdin_ends_when_the_client_says_so(self, client: RawClient) -> None:
        stream = client.open(b"shell,v2,raw:wc -c; exit 1")
        data = framed(WINDOW_SIZE, b"24x80,0x0") + framed(STDIN, bytes(150_000)) + framed(STDIN, b"end")
        for start in range(0, len(data), 70_001):
            stream.write(data[start : start + 70_001])
        stream.write(framed(CLOSE_STDIN))
        assert unframed(stream.read_all()) == {STDOUT: b"150003\n", EXIT: b"\1"}

    def test_stdin_of_a_command_that_reads_none_is_dropped(self, client: RawClient) -> None:
        stream = client.open(b"shell,v2,raw:exec <&-; sleep 0.3; echo done")
        for _ in range(4):
            stream.write(framed(STDIN, bytes(100_000)))
        assert unframed(stream.read_all()) == {STDOUT: b"done\n", EXIT: b"\0"}

    def test_without_a_command_it_is_a_shell(self, client: RawClient) -> None:
        stream = client.open(b"shell,v2,raw:")
        stream.write(framed(STDIN, b"cd /tmp; pwd; echo err >&2; exit 5\n"))
        assert unframed(stream.read_all()) == {STDOUT: b"/tmp\n", STDERR: b"err\n", EXIT: b"\5"}

    def test_much_of_both_outputs_arrives_whole(self, client: RawClient) -> None:
        stream = client.open(b"shell,v2,raw:seq 1 100000 >&2 & seq 1 100000; wait")
        numbers = b"".join(b"%d\n" % number for number in range(1, 100_001))
        assert unframed(stream.read_all()) == {STDOUT: numbers, STDERR: numbers, EXIT: b"\0"}

    def test_what_is_left_in_the_background_goes_on(self, client: RawClient) -> None:
        stream = client.open(b"shell,v2,raw:sleep 30 >/dev/null 2>&1 & echo $!")
        sleep = int(unframed(stream.read_all())[STDOUT])
        time.sleep(0.1)
        assert runs(sleep)
        os.kill(sleep, signal.SIGKILL)

    def test_a_shell_that_cannot_start_says_so(self, client: RawClient) -> None:
        # 128 KiB is more than Linux passes to a program in one string.
        found = unframed(client.open(b"shell,v2,raw:: " + b"x" * 140_000).read_all())
        assert found == {STDERR: b"error: /bin/sh: Argument list too long\n", EXIT: bytes([126])}


class TestLostConnections:
    @pytest.mark.parametrize("service", [b"shell:", b"shell,v2,raw:", b"exec:"])
    @pytest.mark.parametrize("politely", [True, False], ids=["closed", "lost"])
    def test_hang_up_the_shell(
        self, daemon: Daemon, signer: CryptographySigner, tmp_path: Path, service: bytes, politely: bool
    ) -> None:
        note = tmp_path / "note"
        # A shell says on stderr that what it waits for was hung up, which would be its end: nobody reads it any more.
        command = f"exec 2>/dev/null; trap 'echo hung up >{note}; exit' HUP; echo ready; while :; do sleep 0.02; done"
        with RawClient(daemon.port) as client:
            client.log_in(signer)
            stream = client.open(service + command.encode())
            assert b"ready" in stream.read()
            if politely:
                stream.close()
                assert eventually(note.exists)
        assert eventually(note.exists)

    def test_spare_what_has_a_session_of_its_own(self, daemon: Daemon, signer: CryptographySigner) -> None:
        with RawClient(daemon.port) as client:
            client.log_in(signer)
            stream = client.open(b"shell:sleep 30 & echo $!; setsid sleep 30 & sleep 0.3; echo $!; wait")
            numbers = b""
            while numbers.count(b"\n") < 2:
                numbers += stream.read()
        attached, detached = map(int, numbers.split())
        assert eventually(lambda: not runs(attached))
        assert runs(detached)
        os.kill(detached, signal.SIGKILL)

    def test_close_the_pipes_of_what_ignores_it(
        self, daemon: Daemon, signer: CryptographySigner, tmp_path: Path
    ) -> None:
        note = tmp_path / "note"
        command = f"trap '' HUP PIPE; while echo tick; do sleep 0.02; done 2>/dev/null; echo closed >{note}"
        with RawClient(daemon.port) as client:
            client.log_in(signer)
            client.open(b"shell,v2,raw:" + command.encode()).read()
        assert eventually(note.exists)

    def test_leave_no_half_of_a_file(self, daemon: Daemon, signer: CryptographySigner, tmp_path: Path) -> None:
        path = tmp_path / "half"
        with RawClient(daemon.port) as client:
            client.log_in(signer)
            client.open(b"sync:").write(sync(b"SEND", b"%s,33188" % bytes(path)) + sync(b"DATA", b"half"))
            assert eventually(path.exists)
        assert eventually(lambda: not path.exists())

    def test_the_end_of_the_daemon_is_one(self, key: Path, signer: CryptographySigner) -> None:
        with Daemon(keys=key.with_suffix(".pub")) as daemon, RawClient(daemon.port) as client:
            client.log_in(signer)
            sleep = int(client.open(b"shell:echo $$; sleep 30").read())
            assert runs(sleep)
            assert daemon.stop() == 0
            assert client.is_closed()
        assert eventually(lambda: not runs(sleep))


def sync(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data


class TestSync:
    def test_a_failure_is_told_at_once_and_the_rest_is_read(self, client: RawClient) -> None:
        stream = client.open(b"sync:")
        stream.write(sync(b"SEND", b"/proc/adb_daemon,33188"))
        reason = b"couldn't create file: No such file or directory"
        assert stream.read() == sync(b"FAIL", reason)
        for _ in range(3):
            stream.write(sync(b"DATA", bytes(65536)))
        stream.send(b"DONE\0\0\0\0")
        client.expect(b"OKAY")
        client.expect(b"CLSE")

    @pytest.mark.parametrize(
        ("request_", "reason"),
        [
            (sync(b"WHAT", b"/"), b"unknown command 54414857"),
            (sync(b"STA2", b"/"), b"unknown command 32415453"),
            (sync(b"SEND", b"/tmp/x"), b"missing , in ID_SEND"),
            (sync(b"SEND", b"/tmp/x,rw"), b"bad mode"),
        ],
    )
    def test_a_request_that_makes_no_sense_ends_the_service(
        self, client: RawClient, request_: bytes, reason: bytes
    ) -> None:
        stream = client.open(b"sync:")
        stream.write(request_)
        assert stream.read_all() == sync(b"FAIL", reason)

    def test_quits(self, client: RawClient) -> None:
        stream = client.open(b"sync:")
        stream.write(sync(b"STAT", b"/none") + sync(b"QUIT", b""))
        assert stream.read_all() == b"STAT" + bytes(12)

    @pytest.mark.parametrize("message", [sync(b"DATA", bytes(65537)), sync(b"STAT", b"/")], ids=["large", "other"])
    def test_only_data_can_follow_send(self, client: RawClient, tmp_path: Path, message: bytes) -> None:
        stream = client.open(b"sync:")
        stream.write(sync(b"SEND", b"%s/file,0644" % bytes(tmp_path)) + message + b"DONE\0\0\0\0")
        assert b"data message" in stream.read()
        assert eventually(lambda: list(tmp_path.iterdir()) == [])

    def test_requests_may_arrive_in_any_pieces(self, client: RawClient, tmp_path: Path) -> None:
        stream = client.open(b"sync:")
        path = b"%s/file" % bytes(tmp_path)
        data = sync(b"SEND", path + b",0644") + sync(b"DATA", b"some") + sync(b"DATA", b" text") + b"DONE\1\0\0\0"
        for start in range(len(data)):
            stream.write(data[start : start + 1])
        assert stream.read() == b"OKAY\0\0\0\0"
        stream.write(sync(b"RECV", path))
        assert stream.read() + stream.read() == sync(b"DATA", b"some text") + sync(b"DONE", b"")
        stream.close()


class TestCuts:
    def test_come_after_exactly_so_many_bytes(self, key: Path, signer: CryptographySigner) -> None:
        cuts = [200_000, 77_777, 1]
        with Daemon(keys=key.with_suffix(".pub"), cuts=cuts) as daemon:
            for cut in cuts:
                with RawClient(daemon.port) as client:
                    with pytest.raises((ConnectionError, EOFError)):
                        drain(client, signer)
                    # What the client sent last it counts whole.
                    assert cut <= client.passed_bytes < cut + LARGEST_SENT_BYTES
            with RawClient(daemon.port) as client:
                client.log_in(signer)
                assert len(client.open(b"exec:head -c 500000 /dev/zero").read_all()) == 500_000

    def test_break_what_the_client_sends_too(self, key: Path, signer: CryptographySigner, tmp_path: Path) -> None:
        path = tmp_path / "file"
        with Daemon(keys=key.with_suffix(".pub"), cuts=[1_000_000]) as daemon:
            with RawClient(daemon.port) as client:
                client.log_in(signer)
                stream = client.open(b"sync:")
                stream.write(sync(b"SEND", b"%s,33188" % bytes(path)))
                with pytest.raises((ConnectionError, EOFError)):
                    pour(stream)
            assert eventually(lambda: not path.exists())
            assert daemon.alive

    def test_are_counted_one_after_the_other(self) -> None:
        fuse = Fuse([10, 5])
        assert [fuse.burn(size) for size in (4, 5, 3, 4, 1, 1000)] == [None, None, 1, None, 1, None]


def drain(client: RawClient, signer: CryptographySigner) -> None:
    """Read endless output until something breaks."""
    client.log_in(signer)
    stream = client.open(b"exec:cat /dev/zero")
    while True:
        stream.read()


def pour(stream: RawStream) -> None:
    """Send a file without end until something breaks."""
    while True:
        stream.write(sync(b"DATA", bytes(65536)))
