"""Python's ways to lock, as actors: see src/actor.rs. `peers.py` names those that are installed,
`peers.py NAME DIR` plays one."""

import fcntl
import importlib.util
import os
import sys
import time


sys.path.append(os.path.join(os.path.dirname(__file__), "../../bindings/python"))


class Bare:
    def __init__(self, path):
        self.path = path

    def acquire(self):
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def release(self):
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)

    def __enter__(self):
        self.acquire()

    def __exit__(self, *_):
        self.release()


def session_lock_lock(path):
    """With a deadline, which filelock and portalocker have, too."""
    return session_lock.SessionLock("s", directory=os.path.dirname(path), timeout=600)


def filelock_lock(path):
    return filelock.FileLock(path, timeout=600)


def fasteners_lock(path):
    return fasteners.InterProcessLock(path)


def portalocker_lock(path):
    # The mode "a" does not truncate.
    return portalocker.Lock(path, mode="a", timeout=600, fail_when_locked=False)


WAYS = {
    "fcntl": Bare,
    "session_lock": session_lock_lock,
    "filelock": filelock_lock,
    "fasteners": fasteners_lock,
    "portalocker": portalocker_lock,
}


def play(lock):
    for line in sys.stdin:
        command, _, count = line.strip().partition(" ")
        if command == "acquire":
            lock.acquire()
            answer = time.monotonic_ns()
        elif command == "release":
            answer = time.monotonic_ns()
            lock.release()
        elif command == "cycles":
            before = time.monotonic_ns()
            for _ in range(int(count)):
                with lock:
                    pass
            answer = (time.monotonic_ns() - before) // int(count)
        print(answer, flush=True)


if len(sys.argv) == 1:
    print(*(name for name in WAYS if importlib.util.find_spec(name)))
else:
    name, path = sys.argv[1:]
    globals()[name] = __import__(name)
    play(WAYS[name](path))
