"""One at a time, under load: processes with threads and event loops, cancelled and killed at random.

    stress.py SECONDS [PROCESSES [THREADS]]

Each process runs THREADS threads and an event loop with as many tasks; all want the same session.
Waits are cancelled, run out of time, or are interrupted; holders are killed with SIGKILL. Afterwards
nobody is stuck and nobody holds the lock.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

import session_lock
from session_lock import LockTimeout, SessionLock

# Longer than any wait for a turn takes: a turn is a few milliseconds, on a busy machine some more.
STUCK = 60


class Inside:
    """What the lock protects: a file that holds who is inside, and nobody else's name."""

    # It never gets shorter: ext4 writes a file that was truncated to the disk when it is closed, and the next
    # truncation waits for that, with the lock held (`auto_da_alloc`, ext4(5)).
    SIZE = 64

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, "inside")
        open(self.path, "ab").close()

    def enter(self, who: bytes) -> None:
        # Who was killed inside has left a name; they are dead, or it is a violation.
        with open(self.path, "rb+", buffering=0) as file:
            before = file.read().strip()
            if before:
                pid = int(before.split()[0])
                if pid == os.getpid() or is_alive(pid):
                    os.write(2, b"VIOLATION: %s, %s\n" % (before, who))
                    os._exit(9)
            os.pwrite(file.fileno(), who.ljust(self.SIZE), 0)

    def leave(self, who: bytes) -> None:
        with open(self.path, "rb+", buffering=0) as file:
            if file.read().strip() != who:
                os.write(2, b"VIOLATION: %s left\n" % who)
                os._exit(9)
            os.pwrite(file.fileno(), b" " * self.SIZE, 0)


def is_alive(pid: int) -> bool:
    exiting = 0x4  # PF_EXITING: who is killed frees its locks some time before it is a zombie
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in (b"Z", b"X") and not int(fields[5]) & exiting


def play(directory: str, threads: int) -> None:
    """One process, until its standard input is closed."""
    ending = threading.Event()
    inside = Inside(directory)
    shared = SessionLock("s", directory=directory, timeout=STUCK)
    shared_by_tasks = SessionLock("s", directory=directory, timeout=STUCK)
    counts = {"turns": 0, "late": 0, "cancelled": 0}

    def lock() -> SessionLock:
        return SessionLock("s", directory=directory, timeout=STUCK)

    def failed(error: BaseException) -> None:
        os.write(2, f"{os.getpid()}: {error!r}\n".encode())
        os._exit(8)

    def work(number: int) -> None:
        who = b"%d thread %d" % (os.getpid(), number)
        try:
            while not ending.is_set():
                mine = shared if random.random() < 0.5 else lock()
                if random.random() < 0.2:
                    try:
                        mine.acquire(random.random() / 100)
                    except LockTimeout:
                        counts["late"] += 1
                        continue
                else:
                    mine.acquire()
                with mine:  # again
                    inside.enter(who)
                    time.sleep(random.random() / 2000)
                    inside.leave(who)
                mine.release()
                counts["turns"] += 1
        except BaseException as error:
            failed(error)

    async def turn(who: bytes) -> None:
        async with shared_by_tasks if random.random() < 0.5 else lock():
            inside.enter(who)
            await asyncio.sleep(random.random() / 2000)
            inside.leave(who)
            counts["turns"] += 1

    async def work_async(number: int) -> None:
        who = b"%d task %d" % (os.getpid(), number)
        while not ending.is_set():
            if random.random() < 0.5:
                await turn(who)
                continue
            lonely = lock()
            task = asyncio.ensure_future(lonely.acquire_async())
            await asyncio.sleep(random.random() / 50)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                counts["cancelled"] += 1
                assert not lonely.held
            else:
                lonely.release()

    async def loop() -> None:
        await asyncio.gather(*(work_async(number) for number in range(threads)))

    def run_loop() -> None:
        try:
            asyncio.run(loop())
        except BaseException as error:
            failed(error)

    # The main thread waits, too, under a periodic signal.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    workers.append(threading.Thread(target=run_loop))
    for worker in workers:
        worker.start()

    def end() -> None:
        sys.stdin.read()
        ending.set()

    threading.Thread(target=end, daemon=True).start()
    work(-1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for worker in workers:
        worker.join()
    print(*counts.values(), flush=True)


def main(seconds: float, processes: int = 4, threads: int = 8) -> None:
    directory = tempfile.mkdtemp(prefix="session-lock-stress-")

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-W", "error", __file__, "--play", directory, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    running = [start() for _ in range(processes)]
    killed = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(random.random() * 2, max(0.0, end - time.monotonic())))
        for process in running:
            assert process.poll() is None, f"a process has failed: {process.returncode}"
        victim = random.choice(running)
        victim.kill()
        victim.communicate()
        running.remove(victim)
        running.append(start())
        killed += 1
    totals = [0, 0, 0]
    for process in running:
        told, _ = process.communicate(timeout=2 * STUCK)
        assert process.returncode == 0, f"a process has failed: {process.returncode}"
        totals = [total + int(count) for total, count in zip(totals, told.split())]
    who = session_lock.holder("s", directory=directory)
    assert who.state is session_lock.State.FREE, f"still held: {who}"
    with SessionLock("s", directory=directory):
        pass
    subprocess.run(["rm", "-r", directory], check=True)
    print(
        f"{killed} killed; of the survivors: {totals[0]} turns, {totals[1]} timed out, "
        f"{totals[2]} cancelled; nobody stuck, the lock is free"
    )


if __name__ == "__main__":
    if sys.argv[1] == "--play":
        play(sys.argv[2], int(sys.argv[3]))
    else:
        main(float(sys.argv[1]), *(int(argument) for argument in sys.argv[2:]))
