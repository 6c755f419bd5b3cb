//! The only calls into libc of the helper program, one small function each, and `main`: becoming
//! another program and leaving a process behind is beyond what the standard library does safely.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The C `main`, instead of the standard library's: that one ignores SIGPIPE and opens closed
/// standard descriptors before it can be asked not to, and COMMAND would inherit both.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    fill_standard_descriptors();
    let code = std::panic::catch_unwind(crate::session_lock).unwrap_or(crate::FAILED);
    c_int::from(code)
}

/// Where standard input, output or error is closed, opens `/dev/null` until COMMAND is executed: a
/// lock file must not get its number and then be written to.
#[cfg(not(test))]
fn fill_standard_descriptors() {
    for number in 0..3 {
        // SAFETY: no memory is involved.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
            // SAFETY: the path is NUL-terminated. The lowest free number is this one.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        }
    }
}

/// Executes a program in this process; returns only if that fails.
pub fn exec(arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer; their strings live in the caller's slices.
    unsafe { libc::execvpe(arguments[0], arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Lets a descriptor pass to the programs that this process executes.
pub fn make_inheritable(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
}

/// A descriptor of this process, readable once it has ended, whatever it executes until then.
pub fn pidfd_of_myself() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
    let fd = check(fd as c_int)?;
    // SAFETY: the call has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// While it lives: no signal but SIGCHLD reaches this process or a child that it forks (SIGKILL and
/// SIGSTOP apart), and the end of a child can be waited for, whatever was inherited.
pub struct Undisturbed {
    mask: libc::sigset_t,
    child: libc::sigaction,
}

impl Undisturbed {
    pub fn new() -> Undisturbed {
        let mut block = MaybeUninit::uninit();
        // SAFETY: the call fills the set that it is given.
        unsafe { libc::sigfillset(block.as_mut_ptr()) };
        // A blocked SIGCHLD would be kept for COMMAND; one that is not blocked is ignored by default.
        // SAFETY: the set was filled above.
        unsafe { libc::sigdelset(block.as_mut_ptr(), libc::SIGCHLD) };
        let mut mask = MaybeUninit::uninit();
        // SAFETY: `block` was filled above; `mask` has the size of the set that the call fills.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, block.as_ptr(), mask.as_mut_ptr()) };
        // SAFETY: all zeros is a valid sigaction: the default action, an empty mask, no flags.
        let default = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        let mut child = MaybeUninit::uninit();
        // SAFETY: both structs are of the type that the call reads and fills.
        unsafe { libc::sigaction(libc::SIGCHLD, &raw const default, child.as_mut_ptr()) };
        // SAFETY: sigprocmask with a valid `how` does not fail, so it has filled the set.
        let mask = unsafe { mask.assume_init() };
        // SAFETY: sigaction with a valid signal does not fail, so it has filled the struct.
        let child = unsafe { child.assume_init() };
        Undisturbed { mask, child }
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        // SAFETY: the struct was filled by sigaction.
        unsafe { libc::sigaction(libc::SIGCHLD, &raw const self.child, ptr::null_mut()) };
        // SAFETY: the set was filled by sigprocmask.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.mask, ptr::null_mut()) };
    }
}

/// Which side of a fork this is.
pub enum Fork {
    Child,
    Parent(libc::pid_t),
}

/// `fork(2)`. To be called only while this process has no other thread.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: with a single thread the child is a whole copy; no lock is left taken in it.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        child => Ok(Fork::Parent(child)),
    }
}

/// Ends this process without running what the parent has registered for its own end.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: no memory is involved.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// Waits for a child's end: its exit code, `None` if a signal ended it.
pub fn wait_for(child: libc::pid_t) -> io::Result<Option<u8>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is the integer that the call fills.
        match check(unsafe { libc::waitpid(child, &raw mut status, 0) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    Ok(code.and_then(|code| code.try_into().ok()))
}

/// Leaves the terminal, the process group and the session of the parent.
pub fn new_session() -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Closes every descriptor but two, whoever owns it: for a process that runs nothing else any more.
pub fn close_all_but(keep: [BorrowedFd<'_>; 2]) -> io::Result<()> {
    let mut keep = keep.map(|fd| fd.as_raw_fd() as u32);
    keep.sort_unstable();
    let gaps = [(0, keep[0]), (keep[0] + 1, keep[1]), (keep[1] + 1, u32::MAX)];
    for (first, end) in gaps {
        if first < end {
            // SAFETY: no memory is involved; what is closed is not used again in this process.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, end - 1, 0) };
            check(result as c_int)?;
        }
    }
    Ok(())
}

/// Waits until a descriptor is readable or hung up.
pub fn wait_readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: `polled` is one element.
        match check(unsafe { libc::poll(&raw mut polled, 1, -1) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

/// The width of the terminal behind a descriptor; `None` if it is none.
pub fn terminal_width(fd: BorrowedFd<'_>) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the struct is the one that the call fills.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }).ok()?;
    // A terminal that does not know its size says 0.
    Some(if size.ws_col == 0 { 80 } else { size.ws_col.into() })
}
