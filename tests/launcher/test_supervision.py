from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from launcher import lock, supervision
from launcher.serve import bind
from launcher.supervision import Supervision
from service.errors import PortInUse, SettingsInvalid, StateDirBusy, StateDirUnusable
from service.settings import Settings


def test_a_folder_has_one_holder(tmp_path: Path) -> None:
    with (
        lock.hold(tmp_path / "state"),
        pytest.raises(StateDirBusy, match=f"process id {os.getpid()}"),
        lock.hold(tmp_path / "state"),
    ):
        pass
    with lock.hold(tmp_path / "state"):
        pass  # free again


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirUnusable), lock.hold(tmp_path / "file" / "state"):
        pass


def test_looking_at_a_lock_makes_nothing(tmp_path: Path) -> None:
    lock.check_free(tmp_path / "state")
    assert not (tmp_path / "state").exists()
    with lock.hold(tmp_path / "state"), pytest.raises(StateDirBusy):
        lock.check_free(tmp_path / "state")


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.1", "a..b"])
def test_an_address_that_is_not_ours_is_no_taken_port(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsInvalid, match="cannot listen on") as caught:
        bind(Settings(state_dir=tmp_path, host=host, port=0))
    assert "ROME_HOST" in caught.value.remedy


def test_a_taken_port(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, port=0)
    with bind(settings) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortInUse, match=f"127.0.0.1:{port}"):
            bind(settings.model_copy(update={"port": port}))


def _script(tmp_path: Path, body: str) -> list[str]:
    """A stand-in for the supervisor that writes its process ids to a named pipe."""
    os.mkfifo(tmp_path / "said")
    code = textwrap.dedent(f"""
        import os, signal, sys, time
        def say(text):
            with open({str(tmp_path / "said")!r}, "w") as pipe:
                pipe.write(text + "\\n")
        {body}
    """)
    return [sys.executable, "-c", code]


def _heard(tmp_path: Path) -> str:
    return (tmp_path / "said").read_text().strip()


def test_a_supervisor_that_dies_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_SECONDS", 0.01)
    supervised = Supervision()
    supervised.command = _script(tmp_path, "say(str(os.getpid())); sys.stdin.read()")
    with supervised:
        first = int(_heard(tmp_path))
        assert (supervised.alive, supervised.pid) == (True, first)
        os.kill(first, signal.SIGKILL)
        second = int(_heard(tmp_path))
        assert second != first
        assert supervised.pid == second
    assert not supervised.alive


def test_leaving_drains_and_then_kills(tmp_path: Path) -> None:
    supervised = Supervision(drain_seconds=0.05)
    supervised.command = _script(
        tmp_path,
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); say(str(os.getpid())); time.sleep(600)",
    )
    with supervised:
        pid = int(_heard(tmp_path))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_interrupt_while_draining_ends_it_at_once(tmp_path: Path) -> None:
    child = _script(
        tmp_path,
        'signal.signal(signal.SIGTERM, lambda *_: say("draining"));'
        " say(str(os.getpid())); [time.sleep(600) for _ in range(9)]",
    )
    parent = _parent(child)
    pid = int(_heard(tmp_path))
    parent.send_signal(signal.SIGINT)
    assert _heard(tmp_path) == "draining"
    parent.send_signal(signal.SIGINT)
    assert parent.wait() == 130
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_supervisor_leaves_with_a_killed_parent(tmp_path: Path) -> None:
    process = _parent(_script(tmp_path, 'say("up"); sys.stdin.read(); say("gone")'))
    assert _heard(tmp_path) == "up"
    process.kill()
    process.wait()
    assert _heard(tmp_path) == "gone"


def _parent(child: list[str]) -> subprocess.Popen[bytes]:
    """A process that supervises `child` until it is told otherwise, and is about to sleep.

    Were it interrupted while it starts, it would end without draining anything.
    """
    code = textwrap.dedent(f"""
        import signal, sys, time
        from launcher.supervision import Supervision
        # A shell's background job, and so its tests, would ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        supervised = Supervision()
        supervised.command = {child!r}
        try:
            with supervised:
                print("supervising", flush=True)
                time.sleep(600)
        except KeyboardInterrupt:
            sys.exit(130)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as told:
        assert told.readline() == b"supervising\n"
    return process
