"""One run of a job that must not overlap with itself: job.py DIRECTORY

It may be killed at any moment: the lease names a run, the count is replaced at once.
"""

import os
import sys
import time

from session_lock import SessionLock

os.chdir(sys.argv[1])
me = str(os.getpid())
with SessionLock("job", timeout=600) as lock:
    with open("lease", "w") as lease:
        lease.write(me)
    with open("count") as file:
        count = int(file.read())
    time.sleep(0.002)
    with open("count." + me, "w") as file:
        file.write(str(count + 1))
    lock.check()
    os.rename("count." + me, "count")
    with open("lease") as lease:
        who = lease.read()
    if who != me:
        sys.exit(f"{me} met {who}")
