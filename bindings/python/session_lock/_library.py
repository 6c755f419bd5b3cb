"""The C library: found, loaded, declared."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any, Callable, List, Optional, Union

Name = Union[str, bytes]
Directory = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]", None]

SONAME = "libsession_lock.so.0"
Handle = ctypes.c_uint64


class Info(ctypes.Structure):
    """struct session_lock_holder_info"""

    _fields_ = [
        ("state", ctypes.c_uint32),
        ("pid", ctypes.c_int32),
        ("orphaned", ctypes.c_uint32),
        ("confirmed", ctypes.c_uint32),
        ("acquired_at_ms", ctypes.c_int64),
        ("command", ctypes.c_char * 64),
        ("host", ctypes.c_char * 64),
        ("waiters", ctypes.c_uint32),
        ("suspended", ctypes.c_uint32),
    ]


Visitor = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
)


def _load() -> ctypes.CDLL:
    beside = Path(__file__).with_name(SONAME)
    name = os.environ.get("SESSION_LOCK_LIBRARY") or (str(beside) if beside.exists() else SONAME)
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise ImportError(
            f"{error}; `pip install` of this package brings the library, `make install` installs it "
            "for all, and $SESSION_LOCK_LIBRARY can name it"
        ) from error


_library = _load()
_library.session_lock_version.argtypes = []
_library.session_lock_version.restype = ctypes.c_char_p


def library_version() -> str:
    text: bytes = _library.session_lock_version()
    return text.decode()


def _function(name: str, *arguments: Any) -> Callable[..., int]:
    try:
        function = getattr(_library, f"session_lock_{name}")
    except AttributeError:

        def missing(*_: object) -> int:
            text = f"libsession_lock {library_version()} has no session_lock_{name}: update it"
            raise OSError(errno.ENOSYS, text, _library._name)

        return missing
    function.argtypes = arguments
    call: Callable[..., int] = function
    return call


_text = ctypes.c_char_p
acquire = _function("acquire", _text, _text, ctypes.POINTER(Handle))
wait = _function(
    "wait", _text, _text, ctypes.c_int64, ctypes.c_int, ctypes.POINTER(Handle)
)
release = _function("release", Handle)
check = _function("check", Handle)
token = _function("token", Handle, ctypes.POINTER(ctypes.c_uint64))
holder = _function("holder", _text, _text, ctypes.POINTER(Info), ctypes.c_size_t)
list_ = _function("list", _text, Visitor, ctypes.c_void_p)
path = _function("path", _text, _text, _text, ctypes.c_size_t)


def encode_session(session: Name) -> bytes:
    return _encode(session, "session")


def encode_directory(directory: Directory) -> Optional[bytes]:
    """Absolute, so that it goes on naming the same directory after a ``chdir``."""
    if directory is None:
        return None
    encoded = _encode(os.fspath(directory), "directory")
    return encoded if encoded.startswith(b"/") else os.path.join(os.getcwdb(), encoded)


def _encode(text: Name, what: str) -> bytes:
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"the {what} must be str or bytes, not {type(text).__name__}")
    encoded = os.fsencode(text)
    if not encoded:
        raise ValueError(f"the {what}'s name is empty")
    if b"\0" in encoded:
        # A C string would end there, and be another one.
        raise ValueError(f"embedded null byte in the {what}'s name")
    return encoded


def path_of(directory: Optional[bytes], session: bytes) -> bytes:
    """The lock file's path; OSError with the library's errno."""
    buffer = ctypes.create_string_buffer(8192)
    code = path(directory, session, buffer, len(buffer))
    if code != 0:
        raise OSError(-code, os.strerror(-code))
    return buffer.value


