"""The receiver: real HTTP on loopback, by the same client that sends callbacks."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from callbacks.receiver import Received, Receiver, is_genuine
from callbacks.signing import SigningKeys, callback_headers, new_secret
from runflow.lib.outbound import Answer, post
from tests.threads import InThread, wait_until

ROOT = Path(__file__).resolve().parents[2]
SECRET = new_secret()
BATCH = "01a20c33-30d3-737b-a193-fcc95c0215a8"
BODY = (
    b'{"event": "batch.partial_succeeded", "batch_id": "%b", "status": "partial_succeeded",'
    b' "output": {"items": [], "succeeded": 2, "failed": 1, "cancelled": 0, "total": 3}}' % BATCH.encode()
)


@pytest.fixture(autouse=True)
def _loopback_is_open(settings: Settings) -> None:
    settings.OUTBOUND_ALLOW = (ip_network("127.0.0.0/8"),)


def signed(*secrets: str, message_id: str = "d-1", age: int = 0, body: bytes = BODY) -> dict[str, str]:
    """The headers of a callback that was sent `age` seconds ago, the first secret being the current one."""
    return callback_headers(
        keys=SigningKeys(current=secrets[0] if secrets else None, active=secrets),
        message_id=message_id,
        timestamp=int(time.time()) - age,
        body=body,
        request_id="r-1",
    )


def send(url: str, headers: dict[str, str], body: bytes = BODY) -> Answer:
    return post(url, body=body, headers=headers, total_timeout=10, max_answer_bytes=8192)


def exchange(url: str, raw: bytes) -> bytes:
    """Send bytes that need not be HTTP and read until the receiver hangs up."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# --- Genuine or not ----------------------------------------------------------------------------------------------------

NOW = 1_795_504_642
AT_NOW = callback_headers(
    keys=SigningKeys(current=SECRET, active=(SECRET,)), message_id="d-1", timestamp=NOW, body=BODY, request_id="r-1"
)
LOWER = {name.lower(): value for name, value in AT_NOW.items()}
MARK = LOWER["webhook-signature"]


@pytest.mark.parametrize(
    ("changed", "now", "expected"),
    [
        ({}, NOW, True),
        ({}, NOW + 300, True),
        ({}, NOW - 300, True),
        ({}, NOW + 301, False),
        ({}, NOW - 301, False),
        ({"webhook-signature": f"v1,{'A' * 43}= {MARK}"}, NOW, True),
        ({"webhook-signature": f"{MARK} v2,other"}, NOW, True),
        ({"runflow-signature": "0" * 64}, NOW, True),  # another secret may be the current one
        ({"webhook-signature": MARK.removeprefix("v1,")}, NOW, False),
        ({"webhook-signature": MARK.replace("v1,", "v2,")}, NOW, False),
        ({"webhook-signature": MARK[:-1]}, NOW, False),
        ({"webhook-signature": ""}, NOW, False),
        ({"webhook-signature": "v1,\u00fc"}, NOW, False),
        ({"webhook-id": "d-2"}, NOW, False),
        ({"webhook-id": ""}, NOW, False),
        ({"webhook-timestamp": str(NOW + 1)}, NOW, False),
        ({"webhook-timestamp": ""}, NOW, False),
        ({"webhook-timestamp": "soon"}, NOW, False),
        ({"webhook-timestamp": f"{NOW}.0"}, NOW, False),
        ({"webhook-timestamp": f"+{NOW}"}, NOW, False),
        ({"webhook-timestamp": "9" * 5000}, NOW, False),
    ],
)
def test_a_callback_is_genuine_if_one_signature_and_the_time_are(
    changed: dict[str, str], now: int, expected: bool
) -> None:
    assert is_genuine(secret=SECRET, headers=LOWER | changed, body=BODY, now=now) is expected


def test_a_callback_without_the_headers_is_not_genuine() -> None:
    assert is_genuine(secret=SECRET, headers={}, body=BODY, now=NOW) is False


def test_a_callback_by_another_secret_or_with_another_body_is_not_genuine() -> None:
    assert is_genuine(secret=new_secret(), headers=LOWER, body=BODY, now=NOW) is False
    assert is_genuine(secret=SECRET, headers=LOWER, body=BODY + b" ", now=NOW) is False


# --- The server --------------------------------------------------------------------------------------------------------


def test_a_genuine_callback_is_recorded_and_answered_204() -> None:
    headers = signed(SECRET)
    before = time.time()
    with Receiver(secret=SECRET) as receiver:
        assert send(receiver.url, headers) == Answer(status=204, body=b"", retry_after=None)
        [received] = receiver.received
    assert received == Received(
        headers=received.headers, body=BODY, received_at=received.received_at, is_genuine=True, answered=204
    )
    assert received.headers.items() >= {name.lower(): value for name, value in headers.items()}.items()
    assert before <= received.received_at <= time.time()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (signed(new_secret()), BODY),
        (signed(SECRET), BODY + b" "),
        (signed(SECRET, age=400), BODY),
        (signed(), BODY),
        ({}, BODY),
    ],
    ids=["another secret", "another body", "old", "unsigned", "bare"],
)
def test_what_is_not_genuine_is_recorded_and_refused(headers: dict[str, str], body: bytes) -> None:
    with Receiver(secret=SECRET, answers=[200]) as receiver:
        assert send(receiver.url, headers, body).status == 401
        assert [(each.is_genuine, each.answered, each.body) for each in receiver.received] == [(False, 401, body)]
        # Nor does it use up an answer.
        assert send(receiver.url, signed(SECRET)).status == 200


def test_either_secret_of_a_rotation_is_genuine() -> None:
    new = new_secret()
    for known in (SECRET, new):
        with Receiver(secret=known) as receiver:
            assert send(receiver.url, signed(SECRET, new)).status == 204
            assert receiver.received[0].is_genuine is True


def test_without_a_secret_nothing_is_checked_and_nothing_refused() -> None:
    with Receiver(secret=None) as receiver:
        assert send(receiver.url, signed(SECRET)).status == 204
        assert send(receiver.url, {}).status == 204
        assert [each.is_genuine for each in receiver.received] == [None, None]


def test_given_answers_come_first_and_in_order() -> None:
    with Receiver(secret=None, answers=[500, 302, 410, 599]) as receiver:
        statuses = [send(receiver.url, {}).status for _ in range(6)]
        assert statuses == [500, 302, 410, 599, 204, 204]
        assert [each.answered for each in receiver.received] == statuses


def test_every_path_takes_callbacks() -> None:
    with Receiver(secret=None) as receiver:
        assert send(receiver.url + "a/b?c=d", {}).status == 204
        assert len(receiver.received) == 1


def test_a_hundred_callbacks_at_once_are_all_recorded_and_each_answer_is_given_once() -> None:
    bodies = [b"%d" % i for i in range(100)]
    pause = threading.Event()

    def slowly() -> Iterator[int]:
        # A generator that two threads enter at once is a ValueError.
        for status in range(300, 400):
            pause.wait(0.001)
            yield status

    with Receiver(secret=None, answers=slowly()) as receiver, ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(lambda body: send(receiver.url, {}, body).status, bodies))
        assert sorted(each.body for each in receiver.received) == sorted(bodies)
        assert [each.answered for each in receiver.received] == list(range(300, 400))
    assert sorted(statuses) == list(range(300, 400))


def test_a_callback_is_recorded_and_told_of_before_it_is_answered() -> None:
    told: list[Received] = []
    may_answer = threading.Event()

    def hold(received: Received) -> None:
        told.append(received)
        assert may_answer.wait(10)

    with Receiver(secret=None, on_receive=hold) as receiver, InThread(lambda: send(receiver.url, {})) as sending:
        wait_until(lambda: bool(told), what="the callback to be told of")
        assert receiver.received == told
        assert not sending.is_done
        may_answer.set()
        assert sending.result.status == 204


def test_leaving_waits_until_what_was_taken_is_answered() -> None:
    told, left = threading.Event(), threading.Event()
    had_left: list[bool] = []

    def hold(_received: Received) -> None:
        told.set()
        wait_until(lambda: "callback-receiver" not in {each.name for each in threading.enumerate()}, what="the end")
        had_left.append(left.wait(0.3))

    with Receiver(secret=None, on_receive=hold) as receiver:
        sending = InThread(lambda: send(receiver.url, {})).start()
        assert told.wait(10)
    left.set()
    assert had_left == [False]
    assert sending.result.status == 204


LARGE = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (8 * 1024 * 1024 + 1)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", None),
        (b"\r\n", None),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)), 400),  # TLS
        (b"GET / HTTP/1.1\r\n\r\n", 501),
        (b"POST / HTTP/9.9\r\n\r\n", 505),
        (b"POST /" + b"a" * 70_000, 414),
        (b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 411),
        (LARGE, 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc", 400),
    ],
)
def test_a_bad_request_is_refused_and_the_next_good_one_is_taken(
    raw: bytes, status: int | None, capfd: pytest.CaptureFixture[str]
) -> None:
    with Receiver(secret=None) as receiver:
        answer = exchange(receiver.url, raw)
        assert answer == b"" if status is None else re.search(rb"\b%d\b" % status, answer)
        assert receiver.received == []
        assert send(receiver.url, {}).status == 204
        assert len(receiver.received) == 1
    assert capfd.readouterr().err == ""


def test_a_client_that_resets_its_connection_harms_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    with Receiver(secret=None) as receiver:
        host, port = receiver.url.removeprefix("http://").rstrip("/").split(":")
        connection = socket.create_connection((host, int(port)))
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
        assert send(receiver.url, {}).status == 204
    assert [each.body for each in receiver.received] == [BODY]
    assert capfd.readouterr().err == ""


def test_a_fault_in_on_receive_is_printed_and_the_next_callback_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(received: Received) -> None:
        if received.body == b"first":
            raise RuntimeError("a fault of the test")

    with Receiver(secret=None, on_receive=fail) as receiver:
        assert exchange(receiver.url, b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nfirst") == b""
        assert send(receiver.url, {}).status == 204
        assert len(receiver.received) == 2
    assert "RuntimeError: a fault of the test" in capfd.readouterr().err


def test_after_leaving_nobody_listens_and_the_port_can_be_used_again() -> None:
    with Receiver(secret=None) as receiver:
        send(receiver.url, {})
    port = int(receiver.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        exchange(receiver.url, b"")
    with Receiver(secret=None, port=port) as again:
        assert again.url == receiver.url
        assert send(again.url, {}).status == 204


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "secret", SECRET.removeprefix("whsec_"), SECRET[:-1], SECRET + "\n", "whsec_" + "\u00fc" * 44],
)
def test_a_secret_of_another_form_is_refused_at_once(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        Receiver(secret=secret)


# --- The command -------------------------------------------------------------------------------------------------------


class Listening:
    """`manage.py callback_receiver` in a thread, at a free port."""

    def __init__(self, *args: str) -> None:
        self._out = io.StringIO()
        self.thread = InThread(lambda: call_command("callback_receiver", "--port=0", *args, stdout=self._out)).start()
        wait_until(lambda: "Ctrl-C" in self.text, what="the command to listen")
        self.introduction = self.text
        self.url = re.findall(r'"callback_url": "(\S+)"', self.introduction)[0]

    @property
    def text(self) -> str:
        return self._out.getvalue()

    def told(self) -> str:
        """What it printed about callbacks until it ended, with the times as T."""
        assert not self.thread.result
        return re.sub(r"^\d\d:\d\d:\d\dZ", "T", self.text[len(self.introduction) :], flags=re.MULTILINE)


@pytest.fixture(autouse=True)
def _no_secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALLBACK_SECRET", raising=False)


def test_the_command_tells_what_came_and_ends_after_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBACK_SECRET", SECRET)
    run = b'{"event": "run.failed", "run_id": "r-9", "status": "failed", "output": null}'
    listening = Listening("--answer", "500", "--count", "5")
    assert "a callback that is not genuine is answered 401" in listening.introduction
    assert "OUTBOUND_ALLOW=127.0.0.0/8" in listening.introduction
    statuses = [
        send(listening.url, headers, body).status
        for headers, body in [
            (signed(SECRET), BODY),
            (signed(SECRET), BODY),
            (signed(new_secret(), message_id="d-2"), BODY),
            (signed(SECRET, message_id="d-3", body=run), run),
            ({}, b"\xff"),
        ]
    ]
    assert statuses == [500, 204, 401, 204, 401]
    assert (
        listening.told()
        == f"""\
T  batch.partial_succeeded  batch {BATCH}
           status partial_succeeded, 3 items: 2 succeeded, 1 failed, 0 cancelled
           signature verified, answered 500
           delivery d-1
T  batch.partial_succeeded  batch {BATCH}
           status partial_succeeded, 3 items: 2 succeeded, 1 failed, 0 cancelled
           signature verified, answered 204
           delivery d-1 (seen before)
T  batch.partial_succeeded  batch {BATCH}
           status partial_succeeded, 3 items: 2 succeeded, 1 failed, 0 cancelled
           signature NOT genuine, answered 401
           delivery d-2
T  run.failed  run r-9
           status failed
           signature verified, answered 204
           delivery d-3
T  not a callback: 1 byte(s)
           signature NOT genuine, answered 401
           delivery -
Stopped after 5 callback(s).
"""
    )


def test_without_a_secret_the_command_says_that_it_checks_nothing() -> None:
    listening = Listening("--count", "1")
    assert "no secret (--secret or CALLBACK_SECRET)" in listening.introduction
    send(listening.url, {})
    assert "signature not checked (no secret), answered 204" in listening.told()


def test_the_secret_may_be_an_option() -> None:
    listening = Listening("--secret", SECRET, "--count", "1")
    assert send(listening.url, signed(new_secret())).status == 401
    assert "signature NOT genuine" in listening.told()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b'{"event": NaN}',
        b"[" * 100_000,
        b'{"event": null}',
        b'{"event": {"a": []}, "batch_id": 1, "output": [], "status": 7}',
        b'{"event": "e", "output": {"total": "many"}}',
    ],
)
def test_the_command_survives_any_body(body: bytes) -> None:
    listening = Listening("--count", "2")
    send(listening.url, {}, body)
    send(listening.url, {})
    assert listening.told().count("answered 204") == 2


def test_a_body_cannot_drive_the_terminal_or_fill_it() -> None:
    listening = Listening("--count", "1")
    body = b'{"event": "a\\u001b[2J\\nb", "batch_id": "%b", "status": "s"}' % (b"x" * 1000)
    send(listening.url, {"webhook-id": "d"}, body)
    assert listening.told().splitlines()[:2] == [f"T  a?[2J?b  batch {'x' * 100}", "           status s"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--secret", "whsec_short"], "whsec_ and 44 characters"),
        (["--host", "192.0.2.1"], "Cannot listen at 192.0.2.1:0"),
        (["--port", "65536"], "Cannot listen at 127.0.0.1:65536"),
        (["--answer", "500,abc"], "--answer: HTTP statuses"),
        (["--answer", "100"], "--answer: HTTP statuses"),
        (["--answer", ""], "--answer: HTTP statuses"),
        (["--count", "0"], "--count: a number from 1"),
        (["--count", "-1"], "--count: a number from 1"),
    ],
)
def test_the_command_says_what_is_wrong_with_its_options(args: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=re.escape(message)):
        call_command("callback_receiver", "--port=0", *args)


def test_a_port_that_is_taken_is_said_to_be() -> None:
    with Receiver(secret=None) as receiver:
        port = receiver.url.rstrip("/").rpartition(":")[2]
        with pytest.raises(CommandError, match=f"Cannot listen at 127.0.0.1:{port}"):
            call_command("callback_receiver", f"--port={port}")


def test_ctrl_c_ends_the_command_in_order(tmp_path: Path) -> None:
    log = tmp_path / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "callback_receiver", "--port=0"],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONUNBUFFERED": ""},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: b"Ctrl-C" in log.read_bytes(), what="the command to listen", deadline=60)
        url = re.findall(r'"callback_url": "(\S+)"', log.read_text())[0]
        assert send(url, signed()).status == 204
        wait_until(lambda: b"delivery d-1" in log.read_bytes(), what="the callback to be printed, although to a file")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert log.read_text().endswith("Stopped after 1 callback(s).\n")
    assert "Traceback" not in log.read_text()
