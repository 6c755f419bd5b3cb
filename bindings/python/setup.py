"""Builds the library into the package, and the library's source into the sdist.

$SESSION_LOCK_LIBRARY is a library to take instead of building one.

$SESSION_LOCK_GLIBC, such as 2.28, builds with `cargo zigbuild` for that version of glibc and later
ones, and tags the wheel with it.
"""

import os
import platform
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
# An sdist has the crate in itself, a clone of the repository is it.
IN_SDIST = HERE / "crate"
CRATE = IN_SDIST if IN_SDIST.exists() else HERE.parents[1]
LIBRARY = "libsession_lock.so.0"
CARGO = os.environ.get("CARGO", "cargo")
TARGET = HERE / "build" / "cargo"
GLIBC = os.environ.get("SESSION_LOCK_GLIBC")

VENDORED = """\
[source.crates-io]
replace-with = "vendored"

[source.vendored]
directory = "vendor"
"""


def run(*command, **options):
    try:
        return subprocess.run(command, check=True, **options)
    except FileNotFoundError as error:
        raise SystemExit(
            f"{error.filename} was not found: to build session-lock, install Rust (1.85 or later; for "
            "$SESSION_LOCK_GLIBC also cargo-zigbuild), or install a wheel that was built elsewhere"
        ) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"session-lock was not built: {error}") from None


class Build(build_py):
    """With the library, as `make install` builds it."""

    def run(self):
        super().run()
        if self.editable_mode:
            # The package is where it is; so the library goes there.
            directory = HERE / "session_lock"
        else:
            directory = Path(self.build_lib, "session_lock")
            directory.mkdir(parents=True, exist_ok=True)
        built = build_library()
        # Another file in its place: whoever has the old one loaded keeps it.
        shutil.copy2(built, directory / (LIBRARY + ".new"))
        os.replace(directory / (LIBRARY + ".new"), directory / LIBRARY)


def build_library():
    if "SESSION_LOCK_LIBRARY" in os.environ:
        return Path(os.environ["SESSION_LOCK_LIBRARY"])
    options = ["--locked", "--release", "--package=session-lock", "--lib", "--crate-type=cdylib"]
    if CRATE == IN_SDIST:
        options.append("--offline")
    program, release = CARGO, TARGET / "release"
    if GLIBC:
        triple = f"{platform.machine()}-unknown-linux-gnu"
        options.append(f"--target={triple}.{GLIBC}")
        program, release = "cargo-zigbuild", TARGET / triple / "release"
    # A symbol that this glibc lacks must fail here, and not on somebody else's machine.
    options += [f"--target-dir={TARGET}", "--", "-Cstrip=symbols", "-Clink-arg=-Wl,-z,defs"]
    run(program, "rustc", *options, cwd=CRATE)
    return release / "libsession_lock.so"


class Wheel(bdist_wheel):
    """For any Python 3: what is native is loaded by ctypes."""

    def get_tag(self):
        _, _, tag = super().get_tag()
        if GLIBC:
            tag = f"manylinux_{GLIBC.replace('.', '_')}_{platform.machine()}"
        return "py3", "none", tag


class Source(sdist):
    """With the crate and what it depends on, so that it builds offline."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        crate = Path(base_dir, "crate")
        if CRATE == IN_SDIST:
            shutil.copytree(CRATE, crate)
            return
        copy_crate(crate)
        for licence in CRATE.glob("LICENSE*"):
            # In place of a link that leads out of it.
            Path(base_dir, licence.name).unlink()
            shutil.copy2(licence, base_dir)


def copy_crate(to):
    options = ["--package=session-lock", "--allow-dirty", "--no-verify", "--quiet"]
    run(CARGO, "package", *options, f"--target-dir={TARGET}", cwd=CRATE)
    archive = TARGET / "package" / f"session-lock-{VERSION}.crate"
    wanted = re.compile(r"[^/]+/(src/.*|build\.rs|Cargo\.(toml|lock)|LICENSE.*)")
    to.mkdir(parents=True)
    with tarfile.open(archive) as packed:
        for member in packed:
            if member.isfile() and wanted.fullmatch(member.name):
                path = to / member.name.split("/", 1)[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(packed.extractfile(member).read())
    # What only its tests need is left out.
    manifest = to / "Cargo.toml"
    tables = re.split(r"(?m)^(?=\[)", manifest.read_text())
    tables = [table for table in tables if not table.startswith("[dev-dependencies")]
    # Not a member of a workspace that the sdist may have been unpacked in.
    manifest.write_text("".join(tables) + "\n[workspace]\n")
    run(CARGO, "vendor", "--quiet", cwd=to, stdout=subprocess.DEVNULL)
    (to / ".cargo").mkdir()
    (to / ".cargo" / "config.toml").write_text(VENDORED)


class Native(Distribution):
    def has_ext_modules(self):
        return True


def version():
    manifest = (CRATE / "Cargo.toml").read_text()
    return re.search(r'^version = "(.*)"', manifest, re.MULTILINE).group(1)


VERSION = version()

setup(
    version=VERSION,
    license="MIT OR Apache-2.0",
    distclass=Native,
    cmdclass={"build_py": Build, "bdist_wheel": Wheel, "sdist": Source},
)
