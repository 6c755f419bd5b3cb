"""Against the real library, with real processes: python3 -m unittest"""

import asyncio
import copy
import ctypes
import doctest
import errno
import faulthandler
import gc
import math
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest
import warnings
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, Optional
from unittest import mock

import session_lock
from session_lock import (
    Holder,
    LockDeadlock,
    LockError,
    LockHeld,
    LockNotOwned,
    LockPermissionError,
    LockStale,
    LockTimeout,
    SessionLock,
    State,
    _errors,
    _library,
    _wait,
)


class Interrupted(Exception):
    pass


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: object
) -> unittest.TestSuite:
    """The examples in the documentation are tests, too."""
    tests.addTests(doctest.DocTestSuite(session_lock))
    readme = Path(__file__).with_name("README.md")
    if readme.exists():
        tests.addTests(doctest.DocFileSuite(str(readme), module_relative=False))
    return tests


def until(what: str, condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.001)


def waiters(pid: int) -> int:
    """How many threads of the process are blocked in flock(2)."""
    with open("/proc/locks") as table:
        return len(re.findall(rf"-> FLOCK +ADVISORY +WRITE {pid} ", table.read()))


def has_a_waiting_thread() -> bool:
    return "session-lock" in [thread.name for thread in threading.enumerate()]


def has(name: str) -> bool:
    return hasattr(_library._library, name)


class Elsewhere:
    """Another process, which holds the lock until it is told to release it, or killed."""

    def __init__(self, lock: SessionLock) -> None:
        ready, held = os.pipe()
        told, self._tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._tell)
                with lock:
                    os.write(held, b"held")
                    os.read(told, 1)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(held)
        os.close(told)
        answer = os.read(ready, 4)
        os.close(ready)
        assert answer == b"held"

    def release(self) -> None:
        os.write(self._tell, b".")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        if self._tell != -1:
            os.waitpid(self.pid, 0)
            os.close(self._tell)
            self._tell = -1

    def end(self) -> None:
        if self._tell != -1:
            self.kill()
            self.wait()


class Case(unittest.TestCase):
    def setUp(self) -> None:
        faulthandler.dump_traceback_later(300, exit=True)  # a wait that does not end
        self.addCleanup(faulthandler.cancel_dump_traceback_later)
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)

    def lock(self, **options: Any) -> SessionLock:
        return SessionLock("s", directory=self.directory, **options)

    def state(self) -> State:
        return session_lock.holder("s", directory=self.directory).state

    def hold_elsewhere(self) -> Elsewhere:
        holder = Elsewhere(self.lock())
        self.addCleanup(holder.end)
        return holder

    def in_thread(self, work: Callable[[], object]) -> "Thread":
        thread = Thread(work)
        self.addCleanup(thread.join)
        thread.start()
        return thread

    def when_waiting(self, action: Callable[[], object]) -> None:
        """Does it as soon as this process is blocked in flock(2)."""

        def watch() -> None:
            until("nobody waits", lambda: waiters(os.getpid()) > 0)
            action()

        self.in_thread(watch)

    def set_environment(self, name: str, value: str) -> None:
        change = mock.patch.dict(os.environ, {name: value})
        change.start()
        self.addCleanup(change.stop)

    def handle(self, number: int, handler: Any) -> None:
        self.addCleanup(signal.signal, number, signal.signal(number, handler))

    def forked(self, child: Callable[[], object]) -> None:
        """Does it in a forked child, which must not fail."""
        pid = os.fork()
        if pid == 0:
            try:
                child()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def assert_nothing_left(self, descriptors: List[str]) -> None:
        """Soon, for on a busy machine the library leaves a thread to itself before it has ended."""

        def left() -> bool:
            return (
                os.listdir("/proc/self/fd") != descriptors
                or has_a_waiting_thread()
                or waiters(os.getpid()) > 0
            )

        until("something is left", lambda: not left())


class Thread(threading.Thread):
    """One whose failure is the test's."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self.work: Optional[Callable[[], object]] = work
        self.error: Optional[BaseException] = None

    def run(self) -> None:
        assert self.work is not None
        try:
            self.work()
        except BaseException as error:
            self.error = error
        finally:
            self.work = None  # which may have the lock

    def join(self, timeout: Optional[float] = None) -> None:
        super().join(timeout)
        error, self.error = self.error, None
        if error is not None:
            raise error


class TheLock(Case):
    def test_held_elsewhere(self) -> None:
        holder = self.hold_elsewhere()
        with self.assertRaises(LockHeld):
            self.lock().acquire()
        with self.assertRaises(LockTimeout):
            self.lock(timeout=0.02).acquire()
        who = session_lock.holder("s", directory=self.directory)
        self.assertEqual((who.state, who.pid), (State.HELD, holder.pid))
        assert who.acquired_at is not None
        self.assertLess(abs(who.acquired_at.timestamp() - time.time()), 600)

    def test_the_holders_death_ends_both_waits(self) -> None:
        for timeout in (None, 60.0):
            holder = self.hold_elsewhere()
            self.when_waiting(holder.kill)
            with self.lock(timeout=timeout) as lock:
                lock.check()

    def test_a_deleted_file_is_stale(self) -> None:
        with self.assertRaises(LockStale):
            with self.lock() as lock:
                lock.path.unlink()
                with self.assertRaises(LockStale):
                    lock.check()
        with self.assertRaises(ZeroDivisionError) as caught:  # which is not hidden
            with self.lock() as lock:
                lock.path.unlink()
                raise ZeroDivisionError
        if sys.version_info >= (3, 11):
            self.assertRegex("".join(caught.exception.__notes__), "deleted or replaced")

    def test_two_who_hold_a_replaced_file_release_each_their_own(self) -> None:
        lock, other = self.lock(), self.lock()
        lock.acquire()
        lock.path.rename(lock.path.with_suffix(".old"))

        def replace() -> None:
            with lock:  # another file, by the same object
                self.assertEqual(self.state(), State.HELD)
                self.assertRaises(LockHeld, other.acquire)

        self.in_thread(replace).join()
        other.acquire()
        with self.assertRaises(LockStale):
            lock.release()
        self.assertEqual(self.state(), State.HELD)
        other.release()

    def test_held_says_whether_this_object_holds_it(self) -> None:
        lock, other = self.lock(), self.lock()
        self.assertFalse(lock.held)
        with lock:
            self.assertTrue(lock.held)
            self.assertFalse(other.held)
            self.assertIn("(held)", repr(lock))
        self.assertFalse(lock.held)
        self.assertNotIn("(held)", repr(lock))

    def test_a_relative_directory_is_the_one_where_the_object_was_made(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        lock = SessionLock("s", directory="locks")
        os.chdir("/")
        with lock:
            self.assertTrue(os.path.exists(os.path.join(self.directory, "locks", "s.lock")))

    def test_a_name_that_is_none_is_refused_when_given(self) -> None:
        for name in ("s\0t", b"s\0t", "", b""):
            self.assertRaises(ValueError, SessionLock, name)
            self.assertRaises(ValueError, session_lock.holder, name)
        self.assertRaises(ValueError, SessionLock, "s", directory="")
        self.assertRaises(TypeError, SessionLock, 3)
        self.assertRaises(TypeError, SessionLock, None)

    def test_who_waits_is_told_who_holds_it(self) -> None:
        holder = self.hold_elsewhere()
        told: List[Holder] = []
        lock = self.lock(timeout=0.02, on_wait=told.append)
        self.assertRaises(LockTimeout, lock.acquire)
        self.assertEqual([who.pid for who in told], [holder.pid])
        self.assertRaises(LockHeld, lock.acquire, 0)
        self.assertEqual(len(told), 1)  # that was no wait

    def test_what_on_wait_raises_ends_the_attempt(self) -> None:
        self.hold_elsewhere()
        descriptors = os.listdir("/proc/self/fd")

        def refuse(_: Holder) -> None:
            raise Interrupted

        self.assertRaises(Interrupted, self.lock(timeout=None, on_wait=refuse).acquire)
        self.assert_nothing_left(descriptors)

    def test_a_decorated_function_holds_it_during_each_call(self) -> None:
        lock = self.lock()

        @lock
        def work(depth: int) -> int:
            """Works."""
            self.assertTrue(lock.held)
            return work(depth - 1) + 1 if depth else 0

        self.assertFalse(lock.held)
        self.assertEqual(work(3), 3)
        self.assertFalse(lock.held)
        self.assertEqual(work.__doc__, "Works.")

        @lock
        async def work_async() -> bool:
            return lock.held

        self.assertTrue(asyncio.run(work_async()))
        self.assertFalse(lock.held)

    def test_a_generator_cannot_be_decorated(self) -> None:
        def generator() -> Any:
            yield 1

        async def async_generator() -> Any:
            yield 1

        for function in (generator, async_generator):
            with self.assertRaisesRegex(TypeError, "generator"):
                self.lock()(function)

    def test_the_lock_of_a_given_file(self) -> None:
        for name in ("build.lock", "a%2Fb.lock", "%2E..lock", "x.y-z_0.lock"):
            path = Path(self.directory, name)
            with SessionLock.for_file(path) as lock:
                self.assertEqual(lock.path, path)
                self.assertTrue(path.exists())
        self.assertEqual(SessionLock.for_file("/x/a%2Fb.lock").session, "a/b")
        for name in ("build.pid", "a b.lock", ".lock", "a%2fb.lock", "%41.lock", "a%", "%zz.lock"):
            with self.assertRaisesRegex(ValueError, "no session's lock file"):
                SessionLock.for_file(Path(self.directory, name))


class Questions(Case):
    def test_sessions_lists_held_ones_first(self) -> None:
        for name in ("b", "a/x", b"\xff", "c"):
            with SessionLock(name, directory=self.directory):
                pass
        if not has("session_lock_list"):
            with self.assertRaisesRegex(OSError, "no session_lock_list: update it"):
                session_lock.sessions(directory=self.directory)
            self.skipTest("the library is too old")
        with SessionLock("c", directory=self.directory):
            found = session_lock.sessions(directory=self.directory)
        self.assertEqual(list(found), ["c", "a/x", "b", "\udcff"])
        self.assertEqual(found["c"].pid, os.getpid())
        self.assertEqual(found["b"].state, State.FREE)
        self.assertEqual(session_lock.sessions(directory=self.directory + "/none"), {})

    def test_a_token_rises_with_every_holder(self) -> None:
        tokens = []
        for _ in range(3):
            with self.lock() as lock:
                if not has("session_lock_token"):
                    with self.assertRaisesRegex(OSError, "no session_lock_token: update it"):
                        lock.token
                    self.skipTest("the library is too old")
                self.assertEqual(lock.token, lock.token)
                tokens.append(lock.token)
        self.assertEqual(tokens, sorted(set(tokens)))
        self.assertRaises(LockNotOwned, lambda: self.lock().token)

    def test_a_holder_in_words(self) -> None:
        def words(**known: Any) -> str:
            fields: Dict[str, Any] = dict(
                state=State.HELD, pid=1, orphaned=False, confirmed=True, acquired_at=None,
                command="make all", host="",
            )
            return str(Holder(**{**fields, **known}))

        self.assertEqual(words(), "PID 1 (make all)")
        self.assertEqual(words(pid=None, command=""), "PID unknown (unknown command)")
        self.assertEqual(words(command="a\x1b[2J"), "PID 1 (a?[2J)")
        self.assertEqual(words(suspended=True), "PID 1 (make all, suspended)")
        self.assertEqual(words(state=State.UNKNOWN), "unknown")


class Threads(Case):
    def test_threads_that_share_an_object_take_turns(self) -> None:
        lock, count = self.lock(timeout=60), [0]

        def work() -> None:
            for _ in range(25):
                with lock:
                    with lock:  # again
                        before = count[0]
                        time.sleep(0)
                        count[0] = before + 1

        threads = [self.in_thread(work) for _ in range(8)]
        for thread in threads:
            thread.join()
        self.assertEqual(count, [200])
        self.assertEqual(self.state(), State.FREE)

    def test_threads_with_their_own_objects_take_turns(self) -> None:
        count = [0]

        def work() -> None:
            with self.lock(timeout=None):
                before = count[0]
                time.sleep(0)
                count[0] = before + 1

        threads = [self.in_thread(work) for _ in range(8)]
        for thread in threads:
            thread.join()
        self.assertEqual(count, [8])

    def test_a_holder_may_acquire_again(self) -> None:
        lock = self.lock()
        for _ in range(3):
            self.assertTrue(lock.acquire())
        for _ in range(3):
            self.assertEqual(self.state(), State.HELD)
            lock.release()
        self.assertEqual(self.state(), State.FREE)
        self.assertRaises(LockNotOwned, lock.release)

    def test_another_thread_waits_within_its_timeout(self) -> None:
        lock = self.lock()

        def others() -> None:
            self.assertRaises(LockHeld, lock.acquire)
            self.assertRaises(LockTimeout, lock.acquire, 0.02)
            with self.assertRaisesRegex(LockNotOwned, "another thread or task"):
                lock.release()
            lock.check()  # is not the holder's alone

        with lock:
            self.in_thread(others).join()
            self.assertTrue(lock.held)

    def test_a_thread_that_ended_has_left_nothing_to_the_next_one(self) -> None:
        # The next one usually has the same threading.get_ident().
        lock = self.lock()
        self.in_thread(lock.acquire).join()
        for _ in range(5):
            self.in_thread(lambda: self.assertRaises(LockHeld, lock.acquire)).join()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del lock
            gc.collect()
        self.assertEqual(self.state(), State.FREE)

    def test_a_thread_that_waits_for_itself_is_told(self) -> None:
        alias = self.directory + "-alias"
        os.symlink(self.directory, alias)
        self.addCleanup(os.unlink, alias)
        with self.lock():
            for directory in (self.directory, alias):
                for timeout in (None, -1, math.inf):
                    lock = SessionLock("s", directory=directory, timeout=timeout)
                    with self.assertRaisesRegex(LockDeadlock, "this thread holds the lock"):
                        lock.acquire()
            self.assertRaises(LockTimeout, self.lock(timeout=0.02).acquire)
            self.assertRaises(LockHeld, self.lock().acquire)

    def test_a_lost_lock_is_no_deadlock(self) -> None:
        lock = self.lock()
        lock.acquire()
        lock.path.unlink()
        holder = self.hold_elsewhere()
        self.when_waiting(holder.kill)
        with self.lock(timeout=None):
            pass
        self.assertRaises(LockStale, lock.release)

    def test_a_thread_that_waits_for_another_one_is_not_told_so(self) -> None:
        release = threading.Event()

        def hold() -> None:
            with self.lock():
                held.set()
                release.wait()

        held = threading.Event()
        self.in_thread(hold)
        held.wait()
        self.when_waiting(release.set)
        with self.lock(timeout=None):
            pass


class Copies(Case):
    def test_a_copy_is_refused(self) -> None:
        lock = self.lock()
        with lock:
            for make in (copy.copy, copy.deepcopy, pickle.dumps):
                with self.assertRaisesRegex(TypeError, "cannot copy or pickle 'SessionLock'"):
                    make(lock)
            context = multiprocessing.get_context("spawn")
            with self.assertRaises(TypeError):
                context.Process(target=print, args=(lock,)).start()
            self.assertEqual(self.state(), State.HELD)

    def test_one_dropped_while_held_is_released_with_a_warning(self) -> None:
        actions: List[Any] = ["always", "error"]
        for action in actions:
            lock = self.lock()
            lock.acquire()
            caught: Any
            with warnings.catch_warnings(record=action == "always") as caught:
                warnings.simplefilter(action, ResourceWarning)
                hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
                del lock
                gc.collect()
                sys.unraisablehook = hook
            if caught is not None:
                self.assertEqual([warning.category for warning in caught], [ResourceWarning])
                self.assertIn("dropped while held", str(caught[0].message))
            self.assertEqual(self.state(), State.FREE)

    def test_an_object_that_was_never_made_is_dropped_in_silence(self) -> None:
        del [SessionLock.__new__(SessionLock)][0]
        self.assertRaises(ValueError, SessionLock, "")


class Forks(Case):
    def test_a_child_holds_nothing(self) -> None:
        lock = self.lock()
        with lock:

            def child() -> None:
                self.assertFalse(lock.held)
                for call in (lock.check, lock.release, lambda: lock.token):
                    with self.assertRaisesRegex(LockNotOwned, "belongs to the parent"):
                        call()
                # To acquire is a new attempt, and no entry again.
                self.assertRaises(LockHeld, lock.acquire)
                self.assertRaises(LockTimeout, lock.acquire, 0.02)

            self.forked(child)
            lock.check()  # which the child has not touched

    def test_a_child_that_leaves_the_block_changes_nothing(self) -> None:
        parent = os.getpid()
        try:
            with self.lock() as lock:
                child = os.fork()
                if child:
                    self.assertEqual(os.waitpid(child, 0)[1], 0)
                    lock.check()
            if child == 0:
                del lock
                gc.collect()
                os._exit(0)
        finally:
            if os.getpid() != parent:
                traceback.print_exc()
                os._exit(1)

    def test_a_childs_own_attempt_is_its_own_lock(self) -> None:
        lock = self.lock(timeout=None)
        lock.acquire()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                with lock:
                    self.assertTrue(lock.held)
                    os.write(writer, b"held")
                    os._exit(0)
            finally:
                os._exit(1)
        until("the child does not wait", lambda: waiters(pid) > 0)
        lock.release()
        self.assertEqual(os.read(reader, 4), b"held")
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        os.close(reader)
        os.close(writer)
        with lock:
            pass

    def test_a_child_of_a_thread_that_waits_has_no_part_in_it(self) -> None:
        holder = self.hold_elsewhere()
        lock = self.lock(timeout=None)
        thread = self.in_thread(lock.acquire)
        until("nobody waits", lambda: waiters(os.getpid()) > 0)
        self.forked(lambda: self.assertRaises(LockHeld, lock.acquire, 0))
        holder.kill()
        thread.join()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del lock
            gc.collect()

    def test_a_task_that_forks_holds_nothing_in_the_child(self) -> None:
        async def main() -> None:
            async with self.lock() as lock:

                def child() -> None:
                    self.assertFalse(lock.held)
                    self.assertRaises(LockHeld, lock.acquire)

                self.forked(child)
                lock.check()

        asyncio.run(main())

    def test_a_handler_that_forks_disturbs_no_wait(self) -> None:
        holder = self.hold_elsewhere()
        children: List[int] = []

        def handler(*_: object) -> None:
            children.append(os.fork())
            if children[-1]:
                # Back in the queue, it waits on its own once it has left the handler.
                until("the child does not wait", lambda: waiters(children[-1]) > 0)
                holder.kill()

        self.handle(signal.SIGUSR1, handler)
        self.when_waiting(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        try:
            with self.lock(timeout=None) as lock:
                lock.check()
            if children[-1] == 0:
                os._exit(0)
        finally:
            if children and children[-1] == 0:
                traceback.print_exc()
                os._exit(1)
        self.assertEqual(os.waitpid(children[-1], 0)[1], 0)


class Errors(Case):
    def failing(self, call: Callable[[], object]) -> LockError:
        with self.assertRaises(LockError) as caught:
            call()
        return caught.exception

    def test_they_are_of_pythons_own_kinds(self) -> None:
        self.assertTrue(issubclass(LockHeld, BlockingIOError))
        self.assertTrue(issubclass(LockTimeout, (TimeoutError)))
        self.assertTrue(issubclass(LockTimeout, LockHeld))
        self.assertTrue(issubclass(LockPermissionError, PermissionError))
        self.assertTrue(issubclass(LockDeadlock, RuntimeError))
        self.assertTrue(issubclass(LockNotOwned, RuntimeError))
        for name in session_lock.__all__:
            kind = getattr(session_lock, name)
            if isinstance(kind, type) and issubclass(kind, BaseException):
                self.assertTrue(issubclass(kind, LockError) and issubclass(kind, OSError))
                self.assertEqual(kind.__module__, "session_lock")
                error = pickle.loads(pickle.dumps(kind(1, "why", "where")))
                self.assertEqual((type(error), error.errno, error.filename), (kind, 1, "where"))

    def test_they_name_the_file_and_the_holder(self) -> None:
        holder = self.hold_elsewhere()
        path = str(self.lock().path)
        who = session_lock.holder("s", directory=self.directory)
        self.assertEqual(who.pid, holder.pid)
        self.assertNotEqual(who.command, "")
        error = self.failing(self.lock().acquire)
        self.assertEqual((error.errno, error.filename), (errno.EWOULDBLOCK, path))
        self.assertEqual(error.strerror, f"held by {who}")
        error = self.failing(self.lock(timeout=0.02).acquire)
        self.assertEqual((error.errno, error.filename), (errno.ETIMEDOUT, path))
        self.assertEqual(error.strerror, f"still held by {who} after 0.02 s")

    def test_an_untrusted_directory_or_file_has_its_reason(self) -> None:
        directory, lock = self.directory, self.lock()

        def reason(acquire: Callable[[], object]) -> str:
            error = self.failing(acquire)
            self.assertIsInstance(error, PermissionError)
            self.assertEqual(error.errno, errno.EPERM)
            return str(error.strerror)

        os.chmod(directory, 0o777)
        self.assertRegex(reason(lock.acquire), "everybody can write .*, which has no sticky bit")
        os.chmod(directory, 0o700)
        os.mkfifo(lock.path)
        self.assertRegex(reason(lock.acquire), "not a regular file")
        lock.path.unlink()
        lock.path.touch()
        os.link(lock.path, directory + "/other")
        self.assertRegex(reason(lock.acquire), "more than one hard link")
        os.unlink(directory + "/other")
        lock.acquire()
        lock.release()

    def test_a_symbolic_link_is_told(self) -> None:
        lock = self.lock()
        os.symlink("elsewhere", lock.path)
        error = self.failing(lock.acquire)
        self.assertEqual(error.errno, errno.ELOOP)
        self.assertIn("symbolic link", str(error))

    def test_an_untrusted_default_directory_has_its_reason(self) -> None:
        if os.getuid() != 0:
            self.skipTest("needs root, to be another user")

        def child() -> None:
            os.setuid(1_000_000 + os.getpid())  # whose default directory nobody has made
            os.environ.pop("SESSION_LOCK_DIR", None)
            lock = SessionLock("s")
            directory = lock.path.parent
            directory.mkdir()
            try:
                directory.chmod(0o755)
                error = self.failing(lock.acquire)
                self.assertIn("is open to others (chmod 700)", str(error))
                directory.rmdir()
                directory.symlink_to("/")
                error = self.failing(lock.acquire)
                self.assertIn("is a symbolic link", str(error))
                self.assertIsInstance(error, PermissionError)
            finally:
                directory.unlink() if directory.is_symlink() else directory.rmdir()

        self.forked(child)

    def test_a_default_directory_that_is_refused_has_its_reason(self) -> None:
        def refused(error: LockError) -> str:
            self.assertIsInstance(error, LockPermissionError)
            self.assertEqual((error.errno, error.filename), (errno.EPERM, None))
            return str(error.strerror)

        self.set_environment("SESSION_LOCK_DIR", "locks")
        lock = SessionLock("s")
        calls = lock.acquire, lambda: lock.path, session_lock.sessions, lambda: session_lock.holder("s")
        for call in calls:
            text = refused(self.failing(call))
            self.assertEqual(text, "$SESSION_LOCK_DIR is not an absolute path: 'locks'")
        # The library knows it from how the program was started.
        self.set_environment("SESSION_LOCK_DIR", "/locks")
        with mock.patch.object(_library, "path", lambda *_: -errno.EPERM):
            text = refused(_errors.failure(-errno.EPERM, None, b"s"))
        self.assertIn("raised privileges: pass directory=", text)

    def test_a_place_without_a_default_directory_has_its_reason(self) -> None:
        new_user, new_mount = 0x10000000, 0x20000
        unshare = ctypes.CDLL(None, use_errno=True).unshare
        private = self.directory + "/systemd-private-0-a.service-b/tmp"
        os.makedirs(private)

        def refused(reason: str) -> None:
            error = self.failing(SessionLock("s").acquire)
            self.assertIsInstance(error, LockPermissionError)
            self.assertIn(reason, str(error))
            self.assertIn("pass directory= or set $SESSION_LOCK_DIR", str(error))

        def in_a_namespace() -> None:
            os.environ.pop("SESSION_LOCK_DIR", None)
            if unshare(new_user) == 0:
                refused("no ID outside this user namespace")

        def in_a_service() -> None:
            os.environ.pop("SESSION_LOCK_DIR", None)
            if unshare(new_mount) == 0:
                subprocess.run(["mount", "--make-rprivate", "/"], check=True)
                subprocess.run(["mount", "--bind", private, "/tmp"], check=True)
                refused("(PrivateTmp=)")

        self.forked(in_a_namespace)
        self.forked(in_a_service)

    def test_a_wait_for_ones_own_end_is_told(self) -> None:
        if shutil.which("session-lock") is None:
            self.skipTest("needs the program session-lock")
        # Its guardian holds the lock until the program has ended.
        command = ["session-lock", "run", "--dir", self.directory, "s", "--", sys.executable, "-c"]
        wait = "import sys, session_lock as s; s.SessionLock('s', directory=sys.argv[1], timeout=None).acquire()"
        done = subprocess.run([*command, wait, self.directory], stderr=subprocess.PIPE, text=True)
        last = done.stderr.splitlines()[-1]
        self.assertIn("LockDeadlock: [Errno 35] the lock is held until this process ends", last)

    def test_a_directory_that_may_not_be_used_is_a_permission_error(self) -> None:
        if os.getuid() != 0:
            self.skipTest("needs root, to be another user")
        os.chmod(self.directory, 0o700)

        def child() -> None:
            os.setuid(1_000_000)
            error = self.failing(self.lock().acquire)
            self.assertIsInstance(error, PermissionError)
            self.assertEqual(error.errno, errno.EACCES)
            self.assertEqual(error.filename, self.directory + "/s.lock")

        self.forked(child)

    def test_other_errors_have_the_systems_text(self) -> None:
        error = self.failing(SessionLock("x" * 300, directory=self.directory).acquire)
        self.assertEqual(error.errno, errno.ENAMETOOLONG)
        self.assertIn("255 bytes", str(error))
        Path(self.directory, "file").touch()
        error = self.failing(SessionLock("s", directory=self.directory + "/file").acquire)
        self.assertEqual(error.errno, errno.ENOTDIR)

    def test_where_no_descriptor_is_left_it_says_so(self) -> None:
        self.hold_elsewhere()

        def child() -> None:
            lock = self.lock(timeout=0.02)
            loop = asyncio.new_event_loop()
            calls = lock.acquire, lambda: loop.run_until_complete(lock.acquire_async())
            for call in calls:
                self.failing(call)  # once with all that it needs, imports included
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, most))
            used = os.listdir("/proc/self/fd")
            filling = []
            with self.assertRaises(OSError):
                while True:
                    filling.append(os.dup(0))
            for _ in range(10):
                for call in calls:
                    self.assertIn(self.failing(call).errno, (errno.EMFILE, errno.ETIMEDOUT))
                os.close(filling.pop())
            for descriptor in filling:
                os.close(descriptor)
            self.assert_nothing_left(used)

        self.forked(child)

    def test_a_library_that_is_missing_is_told(self) -> None:
        environment = {**os.environ, "SESSION_LOCK_LIBRARY": "/no/such/library.so"}
        command = [sys.executable, "-c", "import session_lock"]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.assertIn("/no/such/library.so: cannot open", done.stderr)
        self.assertIn("pip install", done.stderr)


class Timeouts(Case):
    def test_bad_ones_are_refused_when_given(self) -> None:
        lock = self.lock()  # which is free
        for bad in (-2, -0.5, math.nan, -math.inf):
            self.assertRaises(ValueError, self.lock, timeout=bad)
            self.assertRaises(ValueError, lock.acquire, bad)
            self.assertRaises(ValueError, setattr, lock, "timeout", bad)
        for worse in ("1", True, [1]):
            self.assertRaises(TypeError, self.lock, timeout=worse)
            self.assertRaises(TypeError, lock.acquire, worse)
        self.assertFalse(lock.held)
        self.assertEqual(lock.timeout, 0)

    def test_zero_tries(self) -> None:
        self.hold_elsewhere()
        for zero in (0, 0.0, -0.0):
            self.assertRaises(LockHeld, self.lock(timeout=zero).acquire)
            self.assertRaises(LockHeld, self.lock(timeout=None).acquire, zero)

    def test_others_wait(self) -> None:
        for timeout in (None, -1, math.inf, 1e300, 2**80, 60):
            holder = self.hold_elsewhere()
            self.when_waiting(holder.kill)
            with self.lock(timeout=timeout):
                pass

    def test_one_of_acquires_own_goes_before_the_objects(self) -> None:
        holder = self.hold_elsewhere()
        self.assertRaises(LockTimeout, self.lock(timeout=None).acquire, 0.001)
        lock = self.lock()
        self.when_waiting(holder.kill)
        lock.acquire(timeout=None)
        lock.release()

    def test_it_is_neither_early_nor_late(self) -> None:
        self.hold_elsewhere()
        for start in (self.lock(timeout=0.1).acquire, lambda: asyncio.run(late())):

            async def late() -> None:
                await self.lock(timeout=0.1).acquire_async()

            before = time.monotonic()
            self.assertRaises(LockTimeout, start)
            self.assertTrue(0.1 <= time.monotonic() - before < 5)


class Signals(Case):
    def test_ctrl_c_ends_both_waits(self) -> None:
        self.hold_elsewhere()
        # A shell starts what it puts in the background with this signal ignored.
        self.handle(signal.SIGINT, signal.default_int_handler)
        before = os.listdir("/proc/self/fd")
        for timeout in (None, 60.0):
            self.when_waiting(lambda: os.kill(os.getpid(), signal.SIGINT))
            with self.assertRaises(KeyboardInterrupt):
                self.lock(timeout=timeout).acquire()
            self.assertEqual(signal.set_wakeup_fd(-1), -1)
            self.assert_nothing_left(before)

    def test_a_handler_that_returns_does_not_end_the_wait(self) -> None:
        holder = self.hold_elsewhere()
        calls = []

        def handler(*_: object) -> None:
            calls.append(1)
            holder.kill()

        self.handle(signal.SIGUSR1, handler)
        self.when_waiting(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        with self.lock(timeout=None):
            self.assertEqual(calls, [1])

    def test_a_signal_just_before_the_wait_is_not_lost(self) -> None:
        self.hold_elsewhere()

        def handler(*_: object) -> None:
            raise Interrupted

        self.handle(signal.SIGUSR1, handler)
        # Blocked in this thread, so that another one takes it and the wait is not interrupted.
        released = threading.Event()
        threading.Thread(target=released.wait).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        self.addCleanup(signal.pthread_sigmask, signal.SIG_UNBLOCK, [signal.SIGUSR1])
        self.addCleanup(released.set)
        self.when_waiting(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        with self.assertRaises(Interrupted):
            self.lock(timeout=None).acquire()
        self.assertIn(signal.SIGUSR1, signal.pthread_sigmask(signal.SIG_BLOCK, []))

    def test_a_periodic_signal_leaves_the_wait_its_place_in_the_queue(self) -> None:
        holder = self.hold_elsewhere()
        order: List[str] = []
        ticks = [0]

        def tick(*_: object) -> None:
            ticks[0] += 1

        def come_second() -> None:
            until("the main thread does not wait", lambda: waiters(os.getpid()) == 1)
            seen = ticks[0]
            second = self.in_thread(lambda: self.take(order, "second"))
            until("the second does not wait", lambda: waiters(os.getpid()) == 2)
            until("no signals", lambda: ticks[0] > seen + 50)
            holder.release()
            second.join()

        self.handle(signal.SIGALRM, tick)
        for timeout in (None, 60.0):
            del order[:]
            thread = self.in_thread(come_second)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            try:
                self.take(order, "first", timeout)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            thread.join()
            self.assertEqual(order, ["first", "second"])
            holder = self.hold_elsewhere()

    def test_a_signal_sent_to_the_waiting_thread_does_not_end_its_wait(self) -> None:
        holder = self.hold_elsewhere()
        self.handle(signal.SIGUSR1, lambda *_: None)
        order: List[str] = []

        def come_second() -> None:
            until("the main thread does not wait", lambda: waiters(os.getpid()) == 1)
            second = self.in_thread(lambda: self.take(order, "second"))
            until("the second does not wait", lambda: waiters(os.getpid()) == 2)
            for thread in threading.enumerate():
                if thread.name == "session-lock" or thread is second:
                    assert thread.ident is not None
                    signal.pthread_kill(thread.ident, signal.SIGUSR1)
            holder.kill()
            second.join()

        thread = self.in_thread(come_second)
        self.take(order, "first")
        thread.join()
        self.assertEqual(order, ["first", "second"])

    def take(self, order: List[str], name: str, timeout: Optional[float] = None) -> None:
        with self.lock(timeout=timeout):
            order.append(name)

    def test_a_wait_inside_a_handler_works(self) -> None:
        holder = self.hold_elsewhere()

        def handler(*_: object) -> None:
            with SessionLock("other", directory=self.directory, timeout=None):
                pass
            self.assertRaises(LockTimeout, self.lock(timeout=0.02).acquire)
            holder.kill()

        self.handle(signal.SIGUSR1, handler)
        self.when_waiting(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        with self.lock(timeout=None):
            pass

    def test_where_no_thread_can_be_started_it_waits_all_the_same(self) -> None:
        holder = self.hold_elsewhere()

        def refuse(_: object) -> None:
            raise RuntimeError("can't start new thread")

        self.when_waiting(holder.kill)
        self.addCleanup(setattr, threading.Thread, "start", threading.Thread.start)
        threading.Thread.start = refuse  # type: ignore[assignment]
        with self.lock(timeout=None):
            pass


class Tasks(Case):
    def run_async(self, main: Callable[[], Awaitable[Any]]) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(main(), 280)

        return asyncio.run(bounded())

    async def until_waiting(self, count: int = 1) -> None:
        while waiters(os.getpid()) < count:
            await asyncio.sleep(0.001)

    def test_tasks_take_turns_and_the_loop_goes_on(self) -> None:
        for shared in (True, False):
            one = self.lock(timeout=None)
            inside = [0, 0]

            async def work() -> None:
                async with one if shared else self.lock(timeout=None):
                    inside[0] += 1
                    self.assertEqual(inside[0], 1)
                    await asyncio.sleep(0)
                    inside[0] -= 1
                    inside[1] += 1

            async def main() -> None:
                await asyncio.gather(*(work() for _ in range(50)))

            self.run_async(main)
            self.assertEqual(inside, [0, 50])
            self.assertEqual(self.state(), State.FREE)

    def test_a_task_may_acquire_again(self) -> None:
        async def main() -> None:
            lock = self.lock(timeout=None)
            async with lock:
                async with lock:
                    with lock:
                        self.assertTrue(lock.held)
                self.assertTrue(lock.held)
            self.assertFalse(lock.held)

        self.run_async(main)

    def test_a_task_does_not_enter_a_lock_of_another_task(self) -> None:
        async def main() -> None:
            lock = self.lock(timeout=0)

            async def other() -> None:
                with self.assertRaises(LockHeld):
                    lock.acquire()
                with self.assertRaises(LockHeld):
                    await lock.acquire_async()
                with self.assertRaises(LockTimeout):
                    await lock.acquire_async(0.02)
                with self.assertRaises(LockNotOwned):
                    lock.release()
                with self.assertRaisesRegex(LockDeadlock, "this thread"):
                    lock.acquire(None)  # would stop the loop, and so the holder

            with lock:
                await asyncio.ensure_future(other())
            async with lock:
                await asyncio.ensure_future(other())

        self.run_async(main)

    def test_a_task_that_waits_for_itself_is_told(self) -> None:
        async def main() -> None:
            async with self.lock():
                with self.assertRaisesRegex(LockDeadlock, "this task holds the lock"):
                    await self.lock(timeout=None).acquire_async()
                with self.assertRaises(LockDeadlock):
                    self.lock(timeout=None).acquire()

        self.run_async(main)
        with self.lock(), self.assertRaises(LockDeadlock):  # by the thread that runs the loop
            self.run_async(self.lock(timeout=None).acquire_async)

    def test_the_holders_release_ends_a_wait(self) -> None:
        holder = self.hold_elsewhere()

        async def main() -> None:
            async def end() -> None:
                await self.until_waiting()
                holder.kill()

            ending = asyncio.ensure_future(end())
            async with self.lock(timeout=None) as lock:
                lock.check()
            await ending

        self.run_async(main)

    def test_a_cancelled_wait_takes_no_lock_and_leaves_nothing(self) -> None:
        async def main() -> None:
            descriptors = os.listdir("/proc/self/fd")
            for _ in range(5):
                holder = self.hold_elsewhere()
                before = os.listdir("/proc/self/fd")
                lock = self.lock(timeout=None)
                task = asyncio.ensure_future(lock.acquire_async())
                await self.until_waiting()
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
                self.assert_nothing_left(before)
                with self.assertRaises(asyncio.TimeoutError):
                    await asyncio.wait_for(lock.acquire_async(), 0.01)
                self.assert_nothing_left(before)
                self.assertFalse(lock.held)
                holder.kill()
                holder.wait()
                with self.lock():
                    pass
            self.assertEqual(os.listdir("/proc/self/fd"), descriptors)

        self.run_async(main)

    def test_a_cancellation_that_meets_the_grant_leaves_no_lock(self) -> None:
        async def main() -> None:
            taken = 0
            for round in range(50):
                owner = self.lock()
                owner.acquire()
                lock = self.lock(timeout=None)
                task = asyncio.ensure_future(lock.acquire_async())
                await self.until_waiting()
                owner.release()
                for _ in range(round % 8):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    self.assertFalse(lock.held)
                else:
                    taken += 1
                    lock.release()  # by this task, for the other has ended
                self.assertEqual(self.state(), State.FREE)

        self.run_async(main)

    def test_giving_up_leaves_no_lock_whoever_comes_first(self) -> None:
        file = os.fsencode(self.directory), b"s"

        def give_up_first(*_: object) -> int:
            waiting.give_up()
            return _library.acquire(*file, handle)

        # The grant comes first, and then the other way round.
        for wait_here in (_wait.wait_here, give_up_first):
            self.addCleanup(setattr, _wait, "wait_here", _wait.wait_here)
            setattr(_wait, "wait_here", wait_here)
            handle = _library.Handle()
            waiting = _wait._Wait(file, None, handle)
            waiting.start()
            self.assertEqual(waiting.near.recv(1), b"")
            self.assertEqual((waiting.code, handle.value != 0), (0, True))
            if wait_here is not give_up_first:
                self.assertEqual(self.state(), State.HELD)
                waiting.give_up()
            waiting.close(ended=True)
            self.assertEqual(self.state(), State.FREE)

    def test_who_waits_already_comes_first(self) -> None:
        order: List[str] = []

        async def work(name: str) -> None:
            for _ in range(5):
                async with self.lock(timeout=None):
                    order.append(name)
                    await asyncio.sleep(0)

        async def main() -> None:
            await asyncio.gather(work("a"), work("b"))

        self.run_async(main)
        self.assertEqual("".join(order), "ababababab")

    def test_wait_for_and_then_release(self) -> None:
        async def main() -> None:
            lock = self.lock(timeout=None)
            await asyncio.wait_for(lock.acquire_async(), 10)
            self.assertTrue(lock.held)
            lock.release()
            self.assertFalse(lock.held)

        self.run_async(main)

    def test_a_thousand_waiters_need_one_thread_and_no_pool(self) -> None:
        holder = self.hold_elsewhere()

        async def main() -> None:
            before = len(os.listdir("/proc/self/fd"))
            done = []

            async def work(number: int) -> None:
                async with self.lock(timeout=None):
                    done.append(number)

            tasks = [asyncio.ensure_future(work(number)) for number in range(1000)]
            await self.until_waiting()
            self.assertLess(len(os.listdir("/proc/self/fd")), before + 6)
            self.assertLess(threading.active_count(), 4)
            # The pool is free for others.
            loop = asyncio.get_running_loop()
            self.assertEqual(await loop.run_in_executor(None, lambda: 1), 1)
            for number in range(0, 1000, 3):
                tasks[number].cancel()
            holder.kill()
            await asyncio.gather(*tasks, return_exceptions=True)
            # In the order in which they came.
            self.assertEqual(done, [number for number in range(1000) if number % 3])

        self.run_async(main)
        self.assertEqual(self.state(), State.FREE)

    def test_each_of_many_waiters_has_its_own_deadline(self) -> None:
        holder = self.hold_elsewhere()

        async def main() -> None:
            first = asyncio.ensure_future(self.lock(timeout=None).acquire_async())
            await self.until_waiting()

            async def late(timeout: float) -> None:
                with self.assertRaises(LockTimeout):
                    await self.lock(timeout=timeout).acquire_async()

            await asyncio.gather(*(late(number / 1000) for number in range(1, 50)))
            self.assertFalse(first.done())
            holder.kill()
            await first

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.run_async(main)

    @unittest.skipIf(
        sys.implementation.name == "pypy", "nobody knows when PyPy collects a coroutine"
    )
    def test_a_loop_that_is_closed_leaves_no_lock(self) -> None:
        holder = self.hold_elsewhere()
        lock = self.lock(timeout=None)
        loop = asyncio.new_event_loop()
        task = loop.create_task(lock.acquire_async())
        loop.run_until_complete(self.until_waiting())
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        del task, loop

        def has_ended() -> bool:
            gc.collect()
            return not has_a_waiting_thread()

        until("it waits on", has_ended)
        holder.kill()
        holder.wait()
        until("it is held", lambda: self.state() == State.FREE)


if __name__ == "__main__":
    unittest.main()
