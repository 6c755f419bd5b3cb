#!/usr/bin/env python3
"""Measures what docs/comparison.md says: `python3 benches/comparison/compare.py`, from anywhere.

Each library locks a file in processes of their own (actor.*), which are told over pipes what to do; the
programs run a shell. What is not installed is left out. NODE_PATH says where proper-lockfile is, and GOPATH
where gofrs/flock is, if not where Debian puts it.
"""

import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DEBUG = ROOT / "target/debug"
os.environ.setdefault("SESSION_LOCK_LIBRARY", str(DEBUG / "libsession_lock.so"))
scratch = pathlib.Path(tempfile.mkdtemp())
number = 0


def new_file():
    """A file that nobody has used, in a directory that nobody has used."""
    global number
    number += 1
    directory = scratch / str(number)
    directory.mkdir(mode=0o700)
    return directory / "s.lock"


class Actor:
    def __init__(self, command, file):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([*command, str(file)], stdin=pipe, stdout=pipe, text=True)

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        return self.process.stdout.readline().strip()

    def ask(self, line):
        self.tell(line)
        return self.hear()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def libraries():
    python = [sys.executable, str(HERE / "actor.py")]
    rust = str(DEBUG / "examples/actor")
    subprocess.run(["cargo", "build", "-q", "-p", "session-lock-benches", "--example", "actor"], cwd=ROOT, check=True)
    yield "session-lock (Python)", [*python, "session-lock"]
    yield "session-lock (Rust)", [rust, "session-lock"]
    for name in "filelock", "fasteners", "portalocker":
        if subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True).returncode == 0:
            yield name, [*python, name]
    if shutil.which("go"):
        actor = scratch / "actor-go"
        environment = {"GOPATH": "/usr/share/gocode", **os.environ, "GO111MODULE": "off"}
        built = subprocess.run(["go", "build", "-o", actor, HERE / "actor.go"], env=environment, capture_output=True)
        if built.returncode == 0:
            yield "gofrs/flock Lock", [str(actor), "Lock"]
            yield "gofrs/flock TryLockContext", [str(actor), "TryLockContext"]
    yield "std File::lock", [rust, "std"]
    yield "fd-lock", [rust, "fd-lock"]
    node = ["node", str(HERE / "actor.js")]
    if shutil.which("node") and not subprocess.run(["node", "-e", "require('proper-lockfile')"], capture_output=True).returncode:
        yield "proper-lockfile", node


def free_after(actor, limit):
    """How long it takes until an actor gets the lock, in seconds; None if longer than the limit."""
    begin = time.monotonic()
    while time.monotonic() - begin < limit:
        if actor.ask("take 0") == "yes":
            return f"{time.monotonic() - begin:.1f} s"
        time.sleep(0.01)
    return f"not within {limit} s"


def answers(output):
    """Whether there is an answer within 3 seconds."""
    return bool(select.select([output], [], [], 3)[0])


def until_asleep(process):
    """A waiter that polls or is in the kernel's queue: it sleeps, and has done so for a moment."""
    time.sleep(0.5)
    assert process.poll() is None


def measure_library(command):
    can_fork = not any(part.endswith(("actor.js", "actor-go")) for part in command)
    results = {}

    file = new_file()
    with Actor(command, file) as a, Actor(command, file) as b:
        assert (a.ask("take 0"), b.ask("take 0")) == ("yes", "no")
        a.kill()
        results["holder killed: free after"] = free_after(b, 15)

    if can_fork:
        file = new_file()
        with Actor(command, file) as a, Actor(command, file) as b:
            a.ask("take 0")
            child = int(a.ask("fork"))
            a.kill()
            results["... its child lives: free after"] = free_after(b, 3)
            os.kill(child, signal.SIGKILL)

        file = new_file()
        with Actor(command, file) as a, Actor(command, file) as b:
            a.ask("take 0")
            a.ask("fork release")
            results["a forked child releases: lock is"] = "lost" if b.ask("take 0") == "yes" else "kept"

    for what, action in [
        ("deleted", lambda file: shutil.rmtree(file) if file.is_dir() else file.unlink()),
        ("moved away", lambda file: file.rename(file.with_name("moved"))),
    ]:
        on_disk = lambda: next(path for path in file.parent.iterdir() if path.name != "moved")
        file = new_file()
        with Actor(command, file) as a, Actor(command, file) as b:
            a.ask("take 0")
            # proper-lockfile tells apart what was locked in different seconds.
            time.sleep(1.5)
            action(on_disk())
            taken = b.ask("take 0")
            told = a.ask("told")
            results[f"file {what} while held"] = f"next one gets it: {taken}; holder can find out: {told}"

        file = new_file()
        with Actor(command, file) as a, Actor(command, file) as b, Actor(command, file) as c:
            a.ask("take 0")
            b.tell("take 30")
            until_asleep(b.process)
            action(on_disk())
            c_has_it = c.ask("take 0") == "yes"
            a.ask("release")
            if c_has_it:
                two = answers(b.process.stdout) and b.hear() == "yes"
                results[f"file {what} while one waits"] = "two holders" if two else "one holder"
            else:
                # The waiter was faster.
                results[f"file {what} while one waits"] = "one holder" if b.hear() == "yes" else "none"

    file = new_file()
    with Actor(command, file) as a, Actor(command, file) as b:
        a.ask("take 0")
        b.tell("take 60")
        until_asleep(b.process)
        before = switches(b.process.pid)
        time.sleep(5)
        results["wake-ups in 5 s of waiting"] = switches(b.process.pid) - before
    return results


def switches(pid):
    count = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                count += int(line.split()[1])
    return count


def programs():
    """Name, the words of one attempt, and those of a wait."""
    ours = [str(DEBUG / "session-lock"), "run", "--dir", "DIR"]
    yield "session-lock run", [*ours, "s", "--"], [*ours, "-w", "s", "--"]
    yield "flock(1)", ["flock", "-n", "FILE"], ["flock", "FILE"]
    yield "flock -o", ["flock", "-n", "-o", "FILE"], ["flock", "-o", "FILE"]
    yield "s6-setlock", ["s6-setlock", "-n", "FILE"], ["s6-setlock", "FILE"]
    yield "with-lock-ex", ["with-lock-ex", "-f", "FILE"], ["with-lock-ex", "-w", "FILE"]


def measure_program(attempt, wait):
    def start(file, *script, template=attempt):
        words = [word.replace("FILE", str(file)).replace("DIR", str(file.parent)) for word in template]
        pipe = subprocess.PIPE
        return subprocess.Popen([*words, *script], stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def is_free(file):
        return start(file, "true").wait() == 0

    def is_free_within(file, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if is_free(file):
                return True
        return False

    results = {}
    hold = ["sh", "-c", "echo $$; read line; exit 7"]
    file = new_file()
    held = start(file, *hold)
    pid = int(held.stdout.readline())
    results["COMMAND is the process that was started"] = "yes" if pid == held.pid else "no"
    busy = start(file, "true")
    _, message = busy.communicate()
    results["refused with"] = f"{busy.returncode}, {message.strip()!r}"
    held.communicate("\n")
    results["COMMAND's exit code 7 becomes"] = held.returncode

    file = new_file()
    held = start(file, *hold)
    pid = int(held.stdout.readline())
    held.kill()
    held.wait()
    lives = pathlib.Path(f"/proc/{pid}").exists() and pid != held.pid
    results["killed: COMMAND lives on"] = "yes" if lives else "no"
    results["... and the lock is free"] = "yes" if is_free_within(file, 1) else "no"
    if lives:
        os.kill(pid, signal.SIGKILL)

    file = new_file()
    held = start(file, *hold)
    pid = int(held.stdout.readline())
    held.terminate()
    held.wait()
    lives = pathlib.Path(f"/proc/{pid}").exists() and pid != held.pid
    results["SIGTERM: COMMAND lives on"] = "yes" if lives else "no"
    if lives:
        os.kill(pid, signal.SIGKILL)

    file = new_file()
    held = start(file, "sh", "-c", "sleep 30 >/dev/null 2>&1 & echo $!")
    child = int(held.stdout.readline())
    held.wait()
    results["COMMAND leaves a process behind: free"] = "yes" if is_free_within(file, 1) else "no"
    os.kill(child, signal.SIGKILL)

    file = new_file()
    first = start(file, *hold)
    first.stdout.readline()
    second = start(file, *hold, template=wait)
    until_asleep(second)
    file.unlink()
    third = start(file, *hold)
    third.stdout.readline()
    first.communicate("\n")
    results["file deleted while one waits"] = "two holders" if answers(second.stdout) else "one holder"
    for process in third, second:
        process.communicate("\n")
    return results


def table(title, columns):
    rows = list(dict.fromkeys(row for results in columns.values() for row in results))
    print(f"\n### {title}\n\n| |" + "".join(f" {name} |" for name in columns) + "\n|" + "---|" * (len(columns) + 1))
    for row in rows:
        print(f"| {row} |" + "".join(f" {results.get(row, '–')} |" for results in columns.values()))


subprocess.run(["cargo", "build", "-q", "--workspace"], cwd=ROOT, check=True)
table("Libraries", {name: measure_library(command) for name, command in libraries()})
table("Programs", {name: measure_program(*ways) for name, *ways in programs() if shutil.which(ways[0][0])})
shutil.rmtree(scratch)
