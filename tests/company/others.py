"""Holders that know nothing of this library: others.py KIND LOCK SECONDS COMMAND [ARG]...

Runs COMMAND under the lock again and again for so long; prints how often.
"""

import fcntl
import subprocess
import sys
import time

kind, path, seconds, *command = sys.argv[1:]
end = time.monotonic() + float(seconds)
rounds = 0
while time.monotonic() < end:
    if kind == "fcntl":
        with open(path, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            subprocess.run(command, check=True)
    else:
        from filelock import FileLock

        with FileLock(path):
            subprocess.run(command, check=True)
    rounds += 1
    time.sleep(0.001)  # or it would have the lock again before anybody who waits has woken up
print(rounds)
