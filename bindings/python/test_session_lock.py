"""Against the real library, with real processes: python3 -m unittest"""

import faulthandler
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest

import session_lock
from session_lock import LockHeld, LockNotOwned, LockStale, LockTimeout, SessionLock, State

HOLD = """
import sys, session_lock
with session_lock.SessionLock("s", directory=sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


class Interrupted(Exception):
    pass


class SessionLockTest(unittest.TestCase):
    def setUp(self) -> None:
        faulthandler.dump_traceback_later(60, exit=True)  # a wait that does not end
        self.addCleanup(faulthandler.cancel_dump_traceback_later)
        self.directory = tempfile.mkdtemp()
        self.addCleanup(subprocess.run, ["rm", "-r", self.directory], check=True)

    def lock(self, **options: object) -> SessionLock:
        return SessionLock("s", directory=self.directory, **options)  # type: ignore[arg-type]

    def hold_elsewhere(self) -> "subprocess.Popen[str]":
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdin is not None and holder.stdout is not None
        self.addCleanup(holder.stdin.close)
        self.addCleanup(holder.stdout.close)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        self.assertEqual(holder.stdout.readline(), "held\n")
        return holder

    def when_waiting(self, action: "signal.Signals | subprocess.Popen[str]") -> None:
        """Does it as soon as this process is blocked in flock(2)."""

        def watch() -> None:
            waiting = re.compile(rf"-> FLOCK +ADVISORY +WRITE {os.getpid()} ")
            limit = time.monotonic() + 60
            while time.monotonic() < limit:
                with open("/proc/locks") as table:
                    if waiting.search(table.read()):
                        break
                time.sleep(0.001)
            if isinstance(action, signal.Signals):
                os.kill(os.getpid(), action)
            else:
                action.kill()

        thread = threading.Thread(target=watch)
        thread.start()
        self.addCleanup(thread.join)

    def test_held_elsewhere(self) -> None:
        holder = self.hold_elsewhere()
        with self.assertRaises(LockHeld) as caught:
            self.lock().acquire()
        self.assertEqual(caught.exception.filename, "s")
        with self.assertRaises(LockTimeout):
            self.lock(timeout=0.02).acquire()
        who = session_lock.holder("s", directory=self.directory)
        self.assertEqual((who.state, who.pid), (State.HELD, holder.pid))
        assert who.acquired_at is not None
        self.assertLess(abs(who.acquired_at.timestamp() - time.time()), 600)

    def test_the_holders_death_ends_both_waits(self) -> None:
        for timeout in (None, 60.0):
            holder = self.hold_elsewhere()
            self.when_waiting(holder)
            with self.lock(timeout=timeout) as lock:
                lock.check()

    def test_ctrl_c_ends_both_waits(self) -> None:
        self.hold_elsewhere()
        # A shell starts what it puts in the background with this signal ignored.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, handler)
        before = os.listdir("/proc/self/fd")
        for timeout in (None, 60.0):
            self.when_waiting(signal.SIGINT)
            with self.assertRaises(KeyboardInterrupt):
                self.lock(timeout=timeout).acquire()
            self.assertEqual(signal.set_wakeup_fd(-1), -1)
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_a_handler_that_returns_does_not_end_the_wait(self) -> None:
        holder = self.hold_elsewhere()
        calls = []

        def handler(*_: object) -> None:
            calls.append(1)
            holder.kill()

        self.addCleanup(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, handler))
        self.when_waiting(signal.SIGUSR1)
        with self.lock(timeout=None):
            self.assertEqual(calls, [1])

    def test_a_signal_just_before_the_wait_is_not_lost(self) -> None:
        self.hold_elsewhere()

        def handler(*_: object) -> None:
            raise Interrupted

        self.addCleanup(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, handler))
        # Blocked in this thread, so that another one takes it and the wait is not interrupted.
        released = threading.Event()
        threading.Thread(target=released.wait).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        self.addCleanup(signal.pthread_sigmask, signal.SIG_UNBLOCK, [signal.SIGUSR1])
        self.addCleanup(released.set)
        self.when_waiting(signal.SIGUSR1)
        with self.assertRaises(Interrupted):
            self.lock(timeout=None).acquire()

    def test_a_deleted_file_is_stale(self) -> None:
        with self.assertRaises(LockStale):
            with self.lock() as lock:
                session_lock.path("s", directory=self.directory).unlink()
                with self.assertRaises(LockStale):
                    lock.check()
        with self.assertRaises(ZeroDivisionError):  # which is not hidden
            with self.lock():
                session_lock.path("s", directory=self.directory).unlink()
                raise ZeroDivisionError

    def test_a_forked_child_holds_nothing(self) -> None:
        parent = os.getpid()
        try:
            with self.lock() as lock:
                child = os.fork()
                if child == 0:
                    with self.assertRaises(LockNotOwned):
                        lock.check()
                else:
                    self.assertEqual(os.waitpid(child, 0)[1], 0)
                    lock.check()  # which the child has not touched
            if child == 0:  # it has left the block, and nothing has happened
                os._exit(0)
        finally:
            if os.getpid() != parent:
                traceback.print_exc()
                os._exit(1)

    def test_a_forgotten_lock_is_free(self) -> None:
        self.lock().acquire()
        with self.lock():
            pass

    def test_an_object_holds_one_lock(self) -> None:
        with self.lock(timeout=None) as lock:
            with self.assertRaises(RuntimeError):
                lock.acquire()
        with lock:  # and can be used again
            pass

    def test_a_nul_byte_does_not_end_the_name(self) -> None:
        with self.assertRaises(ValueError):
            SessionLock("s\0t")

    def test_any_thread_waits(self) -> None:
        count = [0]

        def work() -> None:
            with self.lock(timeout=60.0):
                before = count[0]
                time.sleep(0)
                count[0] = before + 1

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(count, [8])


if __name__ == "__main__":
    unittest.main()
