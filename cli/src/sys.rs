//! The only calls into libc of the helper program, one small function each, and `main`: becoming
//! another program and leaving a process behind is beyond what the standard library does safely.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

unsafe extern "C" {
    static environ: *mut *mut c_char;
}

/// The arguments as `main` got them: where `ps` finds them.
static ARGUMENTS: AtomicPtr<*mut c_char> = AtomicPtr::new(ptr::null_mut());

/// The C `main`, instead of the standard library's: that one ignores SIGPIPE and opens closed
/// standard descriptors before it can be asked not to, and COMMAND would inherit both.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, argv: *mut *mut c_char) -> c_int {
    ARGUMENTS.store(argv, Ordering::Relaxed);
    fill_standard_descriptors();
    let code = std::panic::catch_unwind(crate::session_lock).unwrap_or(crate::FAILED);
    c_int::from(code)
}

/// Where standard input, output or error is closed, opens `/dev/null` until COMMAND is executed: a
/// lock file must not get its number and then be written to.
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
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process::id(), 0) };
    let fd = check(fd as c_int)?;
    // SAFETY: the call has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// While it lives: no signal but SIGCHLD reaches this process, nor a child that it forks (SIGKILL
/// and SIGSTOP apart), and the end of a child can be waited for, whatever was inherited.
pub struct Undisturbed {
    mask: libc::sigset_t,
    child: libc::sigaction,
}

impl Undisturbed {
    pub fn new() -> Undisturbed {
        let mut all = MaybeUninit::uninit();
        // SAFETY: the call fills the set that it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // A blocked SIGCHLD would be kept for COMMAND; one that is not blocked is ignored by default.
        // SAFETY: the set was filled above.
        unsafe { libc::sigdelset(all.as_mut_ptr(), libc::SIGCHLD) };
        // SAFETY: the set was filled above.
        let mask = change_mask(libc::SIG_SETMASK, unsafe { all.assume_init_ref() });
        // SAFETY: all zeros is a valid sigaction: the default action, an empty mask, no flags.
        let default = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        let mut child = MaybeUninit::uninit();
        // SAFETY: both structs are of the type that the call reads and fills.
        unsafe { libc::sigaction(libc::SIGCHLD, &raw const default, child.as_mut_ptr()) };
        // SAFETY: sigaction with a valid signal does not fail, so it has filled the struct.
        let child = unsafe { child.assume_init() };
        Undisturbed { mask, child }
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        // SAFETY: the struct was filled by sigaction.
        unsafe { libc::sigaction(libc::SIGCHLD, &raw const self.child, ptr::null_mut()) };
        change_mask(libc::SIG_SETMASK, &self.mask);
    }
}

/// `fork(2)`; whether this is the child. To be called only while this process has no other thread.
pub fn fork() -> io::Result<bool> {
    // SAFETY: with a single thread the child is a whole copy; no lock is left taken in it.
    check(unsafe { libc::fork() }).map(|child| child == 0)
}

/// Ends this process without running what the parent has registered for its own end.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: no memory is involved.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// Runs `work` in a child of its own, which shares this process's memory, and nothing else: no page
/// has to be copied. This process does nothing until the child has ended. The child's exit code; `None`
/// if a signal ended it.
pub fn in_a_child(mut work: &mut dyn FnMut() -> u8) -> io::Result<Option<u8>> {
    extern "C" fn entry(work: *mut c_void) -> c_int {
        // SAFETY: the pointer below, and nobody else uses it meanwhile.
        let work = unsafe { &mut *work.cast::<&mut dyn FnMut() -> u8>() };
        c_int::from(work())
    }
    let mut stack = vec![0_u128; 64 * 1024 / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end.cast();
    // Without CLONE_VFORK, with which this process would be woken twice: here and by `waitpid`.
    let flags = libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the stack and `work` live until `waitpid` below says that the child has ended; the stack
    // grows downwards on all that Linux runs on but PA-RISC.
    let child = check(unsafe { libc::clone(entry, top, flags, (&raw mut work).cast()) })?;
    let mut status = 0;
    // SAFETY: `status` is the integer that the call fills.
    while let Err(error) = check(unsafe { libc::waitpid(child, &raw mut status, 0) }) {
        if error.kind() != io::ErrorKind::Interrupted {
            // It cannot be; but if it is, the child may still be there.
            exit_now(crate::FAILED);
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

/// What `ps` shows as this process's command line from now on; cut if there is no room. For a process
/// that asks for neither its arguments nor its environment any more: it is written over them.
pub fn set_title(title: &str) {
    let arguments = ARGUMENTS.load(Ordering::Relaxed);
    if arguments.is_null() {
        return;
    }
    // SAFETY: the array that `main` got has at least its null pointer.
    let start = unsafe { *arguments };
    let arguments_end = strings_end(arguments, start);
    // SAFETY: nothing in this program changes the environment.
    let end = strings_end(unsafe { environ }, arguments_end);
    let room = end as usize - start as usize;
    if room == 0 {
        return;
    }
    let used = title.len().min(room - 1);
    // SAFETY: `used` bytes are within the strings, which are this process's own memory.
    unsafe { ptr::copy_nonoverlapping(title.as_ptr().cast(), start, used) };
    // The kernel shows what stands where the arguments were; and if that does not end with a NUL, what
    // follows up to the next one.
    let padding = (arguments_end as usize - start as usize).max(used + 1) - used;
    // SAFETY: `used` is less than the size of the strings.
    let rest = unsafe { start.add(used) };
    // SAFETY: neither the arguments' end nor the byte behind the title is beyond the strings.
    unsafe { ptr::write_bytes(rest, 0, padding) };
}

/// Where the strings of a null-terminated array end, of those that follow one another from `end` on.
fn strings_end(mut strings: *mut *mut c_char, mut end: *mut c_char) -> *mut c_char {
    loop {
        // SAFETY: `strings` has not passed the null pointer at the array's end.
        let string = unsafe { *strings };
        if string.is_null() || string != end {
            return end;
        }
        // SAFETY: an argument or a variable, NUL-terminated.
        let length = unsafe { libc::strlen(string) };
        // SAFETY: one behind the string's NUL.
        end = unsafe { string.add(length + 1) };
        // SAFETY: the null pointer has not been reached.
        strings = unsafe { strings.add(1) };
    }
}

/// Waits until one of two descriptors is readable or hung up, at most for `timeout`.
pub fn poll(fds: [Option<BorrowedFd<'_>>; 2], timeout: Option<Duration>) -> io::Result<[bool; 2]> {
    // A negative number is skipped by the kernel.
    let mut polled = fds.map(|fd| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let timeout = timeout.map_or(-1, |timeout| timeout.as_millis().try_into().unwrap_or(-1));
    loop {
        // SAFETY: `polled` has two elements.
        match check(unsafe { libc::poll(polled.as_mut_ptr(), 2, timeout) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(|_| polled.map(|fd| fd.revents != 0)),
        }
    }
}

/// Signals that are held back from this thread, and from those that it starts, while this lives.
pub struct Held {
    /// Readable while one of them is pending.
    pub pending: OwnedFd,
    mask: libc::sigset_t,
}

impl Held {
    /// What a terminal or its user sends.
    pub const SIGNALS: [c_int; 5] =
        [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP, libc::SIGTSTP];

    pub fn new() -> io::Result<Held> {
        let set = signal_set(&Held::SIGNALS);
        // SAFETY: the set is filled.
        let fd = check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) })?;
        // SAFETY: the call has just given us this descriptor; nobody else owns it.
        let pending = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Held { pending, mask: change_mask(libc::SIG_BLOCK, &set) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        change_mask(libc::SIG_SETMASK, &self.mask);
    }
}

/// Lets pending signals do what they do, in this thread, and holds them back again.
pub fn let_signals_in(signals: [c_int; 5]) {
    let mask = change_mask(libc::SIG_UNBLOCK, &signal_set(&signals));
    change_mask(libc::SIG_SETMASK, &mask);
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the call fills the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was filled above.
    let mut set = unsafe { set.assume_init() };
    for &signal in signals {
        // SAFETY: the set is filled; a number that is no signal is refused.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// Changes this thread's signal mask; the one that was there before.
fn change_mask(how: c_int, set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = MaybeUninit::uninit();
    // SAFETY: `before` has the size of the set that the call fills; with a valid `how` it cannot
    // fail.
    unsafe { libc::pthread_sigmask(how, set, before.as_mut_ptr()) };
    // SAFETY: the call has filled it.
    unsafe { before.assume_init() }
}

/// Whether what this process writes to a terminal does not disturb another job; true for what is
/// not its controlling terminal.
pub fn in_foreground(terminal: BorrowedFd<'_>) -> bool {
    // SAFETY: no memory is involved.
    let group = unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) };
    // SAFETY: cannot fail, and no memory is involved.
    group == -1 || group == unsafe { libc::getpgrp() }
}

/// The width of the terminal behind a descriptor; `None` if it is none.
pub fn terminal_width(fd: BorrowedFd<'_>) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the struct is the one that the call fills.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }).ok()?;
    // A terminal that does not know its size says 0.
    Some(if size.ws_col == 0 { 80 } else { size.ws_col.into() })
}
