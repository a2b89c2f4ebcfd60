from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from keras_lc.errors import CheckpointError, LockedError, StoreError
from keras_lc.listing import list_checkpoints
from keras_lc.loader import load_named
from keras_lc.store import lock, process
from keras_lc.store.directory import LocalDirectory
from keras_lc.store.locate import directory_at
from keras_lc.store.lock import Writer
from tests.toy import file_names, run, same, save, temporaries, toy_checkpointer, walk, warned

ROOT = Path(__file__).parents[2]
OTHER = {
    "host": "node7",
    "process": 1,
    "started": None,
    "since": "2025-01-01 00:00:00+00:00",
    "job": "",
    "attempt": 0,
}
HOLDS = """
import sys
from pathlib import Path
from keras_lc.store.locate import directory_at
from keras_lc.store.lock import Writer
writer = Writer(directory_at(sys.argv[1]))
with writer.writing():
    print("holds", flush=True)
input()
"""


@contextmanager
def holder(directory: Path, code: str = HOLDS) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the directory."""
    command = [sys.executable, "-c", code, str(directory)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "holds\n"
        yield child
        child.kill()


def put(directory: Path, age: float = 0.0, **fields: Any) -> Path:
    """The lock of someone else."""
    owner = OTHER | fields
    path = directory / f"{lock.PREFIX}{owner['process']}@{owner['host']}-0"
    path.write_text(json.dumps(owner))
    os.utime(path, (time.time() - age,) * 2)
    return path


def take(directory: Path | str) -> None:
    writer = Writer(directory_at(directory))
    try:
        with writer.writing():
            pass
    finally:
        writer.release()


def locks(directory: Path) -> set[str]:
    return {name for name in file_names(directory) if name.startswith(lock.PREFIX)}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host is watched for less than a second."""
    monkeypatch.setattr(lock, "_SILENT", 0.6)
    monkeypatch.setattr(lock, "_BEAT", 0.1)
    monkeypatch.setattr(lock, "_PAUSE", 0.05)


def test_a_second_live_process_is_refused_and_told_whose_the_directory_is(tmp_path: Path) -> None:
    with holder(tmp_path) as child:
        (file,) = locks(tmp_path)
        with pytest.raises(LockedError) as caught:
            take(tmp_path)
        told = json.loads((tmp_path / file).read_text())
        for word in (str(child.pid), process.HOST, told["since"], str(tmp_path / file), "delete"):
            assert word in str(caught.value)
        assert isinstance(caught.value, CheckpointError)
        assert locks(tmp_path) == {file}
        child.communicate("\n")
    assert not locks(tmp_path)
    take(tmp_path)


def test_the_lock_of_a_process_that_was_killed_is_taken_over_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as child:
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert locks(tmp_path)
        take(tmp_path)  # its parent has not asked for it yet
        assert not locks(tmp_path)


@pytest.mark.skipif(process.started(os.getpid()) is None, reason="the system does not tell")
def test_a_later_process_of_the_same_number_is_another(tmp_path: Path) -> None:
    with holder(tmp_path) as child:
        start = process.started(child.pid)
        for other in ("an earlier boot 12", str(start) + "0"):
            assert process.is_dead(child.pid, other)
        assert not process.is_dead(child.pid, start)
        assert not process.is_dead(child.pid)
    for number in (os.getpid(), os.getppid()):
        path = put(tmp_path, host=process.HOST, process=number, started="an earlier boot 12")
        take(tmp_path)
        assert not path.exists()
        put(tmp_path, host=process.HOST, process=os.getppid(), started=process.started(number))


def test_the_lock_of_another_host_is_stale_when_it_is_renewed_no_more(
    tmp_path: Path, hasty: None
) -> None:
    path = put(tmp_path, age=0.7)
    take(tmp_path)
    assert not path.exists()
    path = put(tmp_path)
    begin = time.monotonic()
    take(tmp_path)
    assert not path.exists()
    assert time.monotonic() - begin > 0.5


def test_the_lock_of_another_host_that_is_renewed_is_respected(tmp_path: Path, hasty: None) -> None:
    path, done = put(tmp_path), threading.Event()

    def beat() -> None:
        while not done.wait(0.05):
            os.utime(path)

    beating = threading.Thread(target=beat)
    beating.start()
    with pytest.raises(LockedError, match=r"process 1 on node7 .* since 2025"):
        take(tmp_path)
    done.set()
    beating.join()
    assert locks(tmp_path) == {path.name}


@pytest.mark.parametrize(
    ("ours", "theirs", "stale"),
    [
        (("77", "1"), ("77", 0), True),
        (("77", "3"), ("77", 1), True),
        (("77", "1"), ("77", 1), False),
        (("77", None), ("77", 0), False),
        (("78", "1"), ("77", 0), False),
        ((None, None), ("", 0), False),
        (("77", "x"), ("77", 0), False),
    ],
)
def test_an_earlier_attempt_of_the_same_job_is_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ours: tuple[str | None, str | None],
    theirs: tuple[str, int],
    stale: bool,
) -> None:
    for name, value in zip(("SLURM_JOB_ID", "SLURM_RESTART_COUNT"), ours, strict=True):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(lock, "_BEAT", -lock._SILENT)  # nobody is watched
    put(tmp_path, job=theirs[0], attempt=theirs[1])
    if stale:
        take(tmp_path)
        assert not locks(tmp_path)
    else:
        with pytest.raises(LockedError):
            take(tmp_path)


def test_writers_of_one_process_share_its_lock_until_the_last_is_released(tmp_path: Path) -> None:
    first, second = (
        Writer(directory_at(path)) for path in (tmp_path, f"{tmp_path}/../{tmp_path.name}")
    )
    with first.writing(), second.writing():
        assert len(locks(tmp_path)) == 1
    first.release()
    assert len(locks(tmp_path)) == 1
    first.release()
    second.release()
    assert not locks(tmp_path)
    with first.writing():
        assert len(locks(tmp_path)) == 1
    first.release()


def test_a_writer_that_was_forgotten_does_not_hold_the_lock(tmp_path: Path) -> None:
    forgotten, second = Writer(directory_at(tmp_path)), Writer(directory_at(tmp_path))
    with forgotten.writing(), second.writing():
        pass
    del forgotten
    gc.collect()
    second.release()
    assert not locks(tmp_path)


def test_threads_of_one_process_write_one_after_another(tmp_path: Path) -> None:
    alone, wrong = threading.Lock(), []

    def work() -> None:
        writer = Writer(directory_at(tmp_path))
        for _ in range(20):
            with writer.writing():
                if not alone.acquire(blocking=False):
                    wrong.append(1)
                time.sleep(0.0005)
                alone.release()
            writer.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not locks(tmp_path)


def test_a_lock_is_renewed_while_nothing_is_written(tmp_path: Path, hasty: None) -> None:
    writer = Writer(directory_at(tmp_path))
    with writer.writing():
        pass
    (file,) = locks(tmp_path)
    path = tmp_path / file
    os.utime(path, (0, 0))
    end = time.monotonic() + 20
    while not path.stat().st_mtime and time.monotonic() < end:
        time.sleep(0.01)
    assert path.stat().st_mtime
    writer.release()


def test_a_lock_that_was_deleted_is_written_again_unless_another_has_come(tmp_path: Path) -> None:
    writer = Writer(directory_at(tmp_path))
    with writer.writing():
        pass
    (file,) = locks(tmp_path)
    (tmp_path / file).unlink()
    with writer.writing():
        assert len(locks(tmp_path)) == 1
    (file,) = locks(tmp_path)
    (tmp_path / file).unlink()
    with holder(tmp_path), pytest.raises(LockedError), writer.writing():
        pass
    writer.release()


def test_a_forked_child_has_not_the_lock_of_its_parent_and_leaves_it_alone(tmp_path: Path) -> None:
    code = HOLDS.replace(
        "input()",
        """
import os
from keras_lc.errors import LockedError
child = os.fork()
if not child:
    try:
        with writer.writing():
            code = 1
    except LockedError:
        code = 0
    writer.release()
    sys.exit(code)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
input()
""",
    )
    with holder(tmp_path, code) as child:
        assert child.stdout
        assert child.stdout.readline() == "0\n"
        assert len(locks(tmp_path)) == 1
        child.communicate("\n")
    assert not locks(tmp_path)


CONTENDS = """
import os, sys, time
from pathlib import Path
from keras_lc.errors import LockedError
from keras_lc.store.locate import directory_at
from keras_lc.store.lock import Writer
directory = Path(sys.argv[1])
won = 0
print("holds", flush=True)
end = time.monotonic() + 3
while time.monotonic() < end:
    writer = Writer(directory_at(directory))
    try:
        with writer.writing():
            os.close(os.open(directory / "alone", os.O_CREAT | os.O_EXCL))
            time.sleep(0.002)
            os.unlink(directory / "alone")
            won += 1
        if won % 3 == 0:
            (directory / ".keras_lc.writer-1@stale-0").write_text("{}")
            os.utime(directory / ".keras_lc.writer-1@stale-0", (0, 0))
    except LockedError:
        pass
    writer.release()
print(won, flush=True)
"""


def test_of_many_that_take_over_at_the_same_time_never_two_win(tmp_path: Path) -> None:
    put(tmp_path, age=1e6)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDS, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    results = [child.communicate() for child in children]
    assert all(child.returncode == 0 for child in children), results
    assert sum(int(out.split()[1]) for out, _ in results) > 3


def test_two_that_came_at_the_same_time_both_step_back_and_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = put(tmp_path, host=process.HOST, process=os.getppid())
    pauses = []

    def pause(seconds: float) -> None:
        assert locks(tmp_path) == {rival.name}
        pauses.append(seconds)
        rival.unlink()

    monkeypatch.setattr(time, "sleep", pause)
    take(tmp_path)
    assert len(pauses) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"{}", b"[" * 100_000, b"9" * 9000, b"x" * (1 << 20)]
    + [json.dumps(OTHER | fields).encode() for fields in ({"process": "x"}, {"attempt": None})]
    + [json.dumps(OTHER | {"process": float("inf")}).encode()],
    ids=lambda content: repr(content)[:30],
)
def test_a_lock_that_cannot_be_read_is_one_of_another_host(
    tmp_path: Path, hasty: None, content: bytes
) -> None:
    path = tmp_path / f"{lock.PREFIX}1@x-0"
    path.write_bytes(content)
    os.utime(path, (0, 0))
    take(tmp_path)
    assert not path.exists()


@pytest.mark.parametrize("number", [0, -1, 10**30])
def test_an_impossible_process_is_no_error(tmp_path: Path, hasty: None, number: int) -> None:
    put(tmp_path, host=process.HOST, process=number)
    take(tmp_path)
    assert not locks(tmp_path)


def test_readers_need_no_lock(tmp_path: Path) -> None:
    states = walk(2)
    run(tmp_path, states)
    with holder(tmp_path):
        before = file_names(tmp_path)
        assert same(load_named(tmp_path / "cp-0002").decoder.reconstruction, states[1])
        assert len(list_checkpoints(tmp_path)) == 2
        assert file_names(tmp_path) == before


def test_a_checkpointer_is_refused_while_another_process_saves_and_goes_on_after_it(
    tmp_path: Path,
) -> None:
    states = walk(5)
    checkpointer = run(tmp_path, states[:2])
    patient = toy_checkpointer(tmp_path, on_error="warn")
    with holder(tmp_path):
        with pytest.raises(LockedError):
            save(checkpointer, states[2], "cp-0003")
        with warned() as texts:
            save(patient, states[2], "best")
    assert len(texts) == 1
    assert "one process at a time" in texts[0]
    save(checkpointer, states[2], "cp-0003")
    save(patient, states[3], "best")
    kinds = [info.kind for info in list_checkpoints(tmp_path)]
    assert kinds == ["base", "delta", "delta", "base"]
    assert not temporaries(tmp_path)


def test_the_lock_is_held_from_the_first_save_to_the_end(tmp_path: Path) -> None:
    from tests.toy import snapshot

    checkpointer = toy_checkpointer(tmp_path)
    checkpointer.wait()
    assert not locks(tmp_path)
    checkpointer.save(snapshot(walk(1)[0]), "cp-0001", 1)
    checkpointer.wait()
    assert len(locks(tmp_path)) == 1
    checkpointer.close()
    assert not locks(tmp_path)


def test_a_lock_that_cannot_be_renewed_is_a_store_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    writer = Writer(directory_at(tmp_path))
    with writer.writing():
        pass
    monkeypatch.setattr(os, "utime", refused)
    with pytest.raises(StoreError, match="Permission"), writer.writing():
        pass
    writer.release()


def test_when_looking_for_others_fails_the_lock_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: LocalDirectory) -> dict[str, str]:
        raise StoreError("cannot read")

    with monkeypatch.context() as patch:
        patch.setattr(LocalDirectory, "list", refused)
        with pytest.raises(StoreError):
            take(tmp_path)
    assert not locks(tmp_path)


@pytest.mark.parametrize("clock", [True, False])
def test_a_directory_behind_a_url_has_one_writer(
    hasty: None, monkeypatch: pytest.MonkeyPatch, clock: bool
) -> None:
    memory = fsspec.filesystem("memory")
    if not clock:
        monkeypatch.delattr(type(memory), "modified")
    url = "memory://locked/training"
    memory.pipe_file(f"{url}/{lock.PREFIX}1@node7-0", json.dumps(OTHER).encode())
    if clock:
        take(url)  # nobody renews it
        assert memory.find(url) == []
    else:
        with pytest.raises(LockedError, match=url):
            take(url)
    writer = Writer(directory_at(url))
    memory.rm(url, recursive=True)
    with writer.writing():
        (file,) = memory.find(url)
        begin = memory.info(file)["created"]
    end = time.monotonic() + 20
    while memory.info(file)["created"] == begin and time.monotonic() < end:
        time.sleep(0.01)
    assert memory.info(file)["created"] != begin
    writer.release()
    assert memory.find(url) == []
