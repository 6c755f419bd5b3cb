"""A process that locks FILE with one of Python's libraries, as it is told on standard input: see compare.py."""

import os
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), "../../bindings/python"))


class SessionLock:
    def __init__(self, file):
        import session_lock

        self.held = session_lock.LockHeld
        self.lock = session_lock.SessionLock.for_file(file)

    def take(self, seconds):
        try:
            self.lock.acquire(timeout=seconds)
        except self.held:
            return False
        return True

    def release(self):
        try:
            self.lock.release()
        except OSError:
            pass  # The file was deleted: see is_told.

    def is_told(self):
        try:
            self.lock.check()
        except OSError:
            return True
        return False


class FileLock:
    def __init__(self, file):
        import filelock

        self.timeout = filelock.Timeout
        self.lock = filelock.FileLock(file)

    def take(self, seconds):
        try:
            self.lock.acquire(timeout=seconds)
        except self.timeout:
            return False
        return True

    def release(self):
        self.lock.release()


class Fasteners:
    def __init__(self, file):
        import fasteners

        self.lock = fasteners.InterProcessLock(file)

    def take(self, seconds):
        return self.lock.acquire(blocking=seconds > 0, timeout=seconds or None)

    def release(self):
        self.lock.release()


class Portalocker:
    def __init__(self, file):
        import portalocker

        self.error = portalocker.exceptions.LockException
        # The mode "a" does not truncate.
        self.lock = portalocker.Lock(file, mode="a", fail_when_locked=False)

    def take(self, seconds):
        try:
            self.lock.acquire(timeout=seconds, fail_when_locked=seconds == 0)
        except self.error:
            return False
        return True

    def release(self):
        self.lock.release()


def main(library, file):
    lock = {
        "session-lock": SessionLock,
        "filelock": FileLock,
        "fasteners": Fasteners,
        "portalocker": Portalocker,
    }[library](file)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "take":
            answer = "yes" if lock.take(float(argument)) else "no"
        elif command == "release":
            lock.release()
            answer = "yes"
        elif command == "told":
            answer = "yes" if hasattr(lock, "is_told") and lock.is_told() else "no"
        elif command == "fork":
            # A child that lives on, and one that releases what it has inherited.
            child = os.fork()
            if child == 0:
                if argument == "release":
                    try:
                        lock.release()
                    except Exception:
                        pass
                    os._exit(0)
                while True:
                    os.read(0, 0) or __import__("signal").pause()
            if argument == "release":
                os.waitpid(child, 0)
            answer = str(child)
        print(answer, flush=True)


main(*sys.argv[1:])
