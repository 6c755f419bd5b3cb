"""ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...

Runs COMMAND while no other process holds the lock of SESSION, and then publishes COMMAND's output. That
step must not run twice, so it only happens if the lock is still held.

Exit status: COMMAND's; 75 if another process has the lock; 125 if the lock fails or was lost; 2 for wrong
usage. (If this program is killed, COMMAND runs on, without the lock. To tie the lock to the command itself,
use `session-lock run`.)
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import List

from session_lock import Holder, LockError, LockHeld, LockStale, SessionLock

USAGE, HELD, FAILED, NOT_EXECUTABLE, NOT_FOUND = 2, 75, 125, 126, 127


def say(session: str, what: str) -> None:
    line = f"ensure: {session}: {what}\n"
    sys.stderr.buffer.write(os.fsencode(line))
    sys.stderr.flush()


def work(lock: SessionLock, command: List[str]) -> int:
    """What is done while the lock is held; the exit status."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        print(f"ensure: {error}", file=sys.stderr)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    if done.returncode != 0:
        return done.returncode if done.returncode > 0 else 128 - done.returncode
    lock.check()
    sys.stdout.buffer.write(done.stdout)
    sys.stdout.flush()
    return 0


def ensure(session: str, wait: float, command: List[str]) -> int:
    def waiting(who: Holder) -> None:
        say(session, f"waiting; holder: {who}")

    try:
        with SessionLock(session, timeout=wait, on_wait=waiting) as lock:
            return work(lock, command)
    except LockHeld as error:
        say(session, f"{error.strerror}")
        return HELD


def main(arguments: List[str]) -> int:
    try:
        session, *rest = arguments
        wait = 0.0
        if rest[0] == "--wait-lock":
            wait = float(rest[1])
            rest = rest[2:]
        dashes, *command = rest
        if dashes != "--" or not command or not 0 <= wait <= 1e9:
            raise ValueError
    except (ValueError, IndexError):
        print("usage: ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...", file=sys.stderr)
        return USAGE
    try:
        return ensure(session, wait, command)
    except LockStale as error:
        say(session, f"not published, the lock was lost: {error.strerror}")
        return FAILED
    except LockError as error:
        say(session, f"{error.strerror}")
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
