//! What the standard library and `nix` have no safe function for, one small function each, and `main`:
//! becoming another program and leaving a process behind.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_long};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::unistd::{getpgrp, tcgetpgrp};

fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: c_long) -> io::Result<c_int> {
    // Numbers of descriptors and processes.
    check(result as c_int)
}

// -------------------------------------------------------------------------------- start and end

/// The C `main`, instead of the standard library's: that one ignores SIGPIPE and opens closed
/// standard descriptors before it can be asked not to, and COMMAND would inherit both.
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *mut *mut c_char) -> c_int {
    fill_standard_descriptors();
    // Not from `std::env::args_os`: with this `main` that has none where the C library is musl.
    let words = (0..usize::try_from(argc).unwrap_or(0)).map(|n| {
        // SAFETY: `argv` has `argc` elements.
        let word = unsafe { argv.add(n) };
        // SAFETY: as above.
        let word = unsafe { *word };
        // SAFETY: each is a NUL-terminated string, which nobody changes.
        let word = unsafe { CStr::from_ptr(word) };
        OsStr::from_bytes(word.to_bytes()).to_owned()
    });
    let words = words.collect();
    let code = std::panic::catch_unwind(|| crate::session_lock(words)).unwrap_or(crate::FAILED);
    c_int::from(code)
}

/// Where standard input, output or error is closed, opens `/dev/null` until COMMAND is executed: a
/// lock file must not get its number and then be written to.
fn fill_standard_descriptors() {
    for number in 0..3 {
        // SAFETY: asks whether the number is open, and changes nothing.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
            // SAFETY: the path is NUL-terminated. The lowest free number is this one, and nobody owns
            // it: no other code has run in this process.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        }
    }
}

/// Ends this process without running what it, or the process it was forked from, has registered for its
/// end.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: does not return, so nothing depends on what it leaves undone.
    unsafe { libc::_exit(c_int::from(code)) }
}

// ------------------------------------------------------------------------------------ processes

/// A child of this process that sends no signal when it ends, and that `wait(2)` for any child does not
/// find (without `__WALL` or `__WCLONE`, see wait(2)). Its PID; `None` in the child.
///
/// # Errors
///
/// Also where another system or a filter allows no child without an exit signal.
///
/// # Safety
///
/// This process has no other thread. In the child no exit handler and no fork handler is run: it must
/// leave by [`exit_now`], and must not use what depends on either.
pub unsafe fn clone_without_exit_signal() -> io::Result<Option<u32>> {
    // Both `flags` and `stack` are 0 (so their order, which is not the same on all processors, does not
    // matter): no exit signal, and a copy of this stack.
    // SAFETY: with nothing shared the child is a whole copy of this only thread, as after fork(2).
    let cloned = check_long(unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) });
    // The error that tells more is the first one.
    // SAFETY: as above.
    let child = cloned.or_else(|error| unsafe { clone3(0) }.map_err(|_| error))?;
    Ok(u32::try_from(child).ok().filter(|&pid| pid > 0))
}

/// `clone3(2)` with nothing but an exit signal.
///
/// # Safety
///
/// This process has no other thread.
unsafe fn clone3(exit_signal: c_int) -> io::Result<c_int> {
    // The struct `clone_args` begins with eight numbers; the fifth is the signal.
    let mut arguments = [0_u64; 8];
    arguments[4] = exit_signal as u64;
    let size = mem::size_of_val(&arguments);
    // SAFETY: the pointer and the size are the array's; the caller's promise for what is copied.
    check_long(unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size) })
}

/// `fork(2)`; the child's PID, `None` in the child.
///
/// # Safety
///
/// This process has no other thread.
pub unsafe fn fork() -> io::Result<Option<u32>> {
    // SAFETY: the caller's promise: no lock of another thread's is left taken in the child.
    let child = check(unsafe { libc::fork() }).or_else(|error| {
        // SAFETY: as above. That no fork handler runs is no loss: there is nothing for them to do.
        unsafe { clone3(libc::SIGCHLD) }.map_err(|_| error)
    })?;
    Ok(u32::try_from(child).ok().filter(|&pid| pid > 0))
}

/// A descriptor of a process, readable once it has ended, whatever it executes until then. Linux 5.3.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: two numbers; no memory of ours is read or written.
    let fd = check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the call has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the process of a descriptor, and to no other one that has got its number since.
/// Linux 5.1.
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    let (fd, no_info) = (process.as_raw_fd(), ptr::null::<libc::siginfo_t>());
    // SAFETY: a null pointer stands for what kill(2) would send.
    check_long(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) })
        .map(drop)
}

/// `kill(2)`.
pub fn kill(pid: u32, signal: c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: a signal to a process; no memory of ours is read or written.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Asks for a signal when the parent ends (more exactly: the thread that made this process).
pub fn signal_at_parents_end(signal: c_int) {
    // SAFETY: PR_SET_PDEATHSIG takes one number.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
}

/// What `ps` and `top` show as this process's name: at most 15 bytes.
pub fn set_name(name: &CStr) {
    // SAFETY: the string is NUL-terminated, and copied.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Maps the program's code into this process, as far as it is in memory: after a fork each page of it would
/// otherwise be looked up when it is first used. Linux 5.14; without it nothing is lost but a moment.
pub fn populate_code() {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
    let start = start & !0xFFF;
    // SAFETY: reads pages of the program's own mapping, and changes nothing in them.
    unsafe {
        libc::madvise(ptr::without_provenance_mut(start), end - start, libc::MADV_POPULATE_READ)
    };
}

/// Closes every descriptor but two, whoever owns it.
///
/// # Safety
///
/// Nothing that this process still does uses another descriptor.
pub unsafe fn close_all_but(keep: [BorrowedFd<'_>; 2]) {
    let mut keep = keep.map(|fd| fd.as_raw_fd());
    keep.sort_unstable();
    let gaps = [(0, keep[0] - 1), (keep[0] + 1, keep[1] - 1), (keep[1] + 1, RawFd::MAX)];
    for (first, last) in gaps {
        if first > last {
            continue;
        }
        // SAFETY: the caller's promise.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        if closed == -1 {
            // Before Linux 5.9, or denied by a filter.
            for fd in open_descriptors().filter(|fd| (first..=last).contains(fd)) {
                // SAFETY: the caller's promise.
                unsafe { libc::close(fd) };
            }
        }
    }
}

/// The numbers of the open descriptors, and perhaps some that are not open.
fn open_descriptors() -> impl Iterator<Item = RawFd> {
    let number =
        |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    // As a list: the directory's own descriptor is one of them.
    let listed: Option<Vec<RawFd>> =
        std::fs::read_dir("/proc/self/fd").ok().map(|fds| fds.filter_map(number).collect());
    let end = if listed.is_some() { 0 } else { descriptor_limit() };
    listed.into_iter().flatten().chain(0..end)
}

fn descriptor_limit() -> RawFd {
    // SAFETY: one number in, one out.
    let limit = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) };
    RawFd::try_from(limit).ok().filter(|&limit| limit > 0).unwrap_or(1 << 20)
}

// -------------------------------------------------------------------------------------- signals

/// Signals that are held back from this thread, and from the threads and processes that it starts, while
/// this lives.
pub struct BlockedSignals {
    mask: SigSet,
}

impl BlockedSignals {
    pub fn new(signals: &SigSet) -> io::Result<BlockedSignals> {
        let mask = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(BlockedSignals { mask })
    }

    /// SIGKILL and SIGSTOP apart.
    pub fn all() -> io::Result<BlockedSignals> {
        BlockedSignals::new(&SigSet::all())
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        let _ = self.mask.thread_set_mask();
    }
}

/// Lets pending signals do what they do, in this thread, and holds them back again.
pub fn let_signals_in(signals: &SigSet) {
    let mut before = SigSet::empty();
    if pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(signals), Some(&mut before)).is_ok() {
        let _ = before.thread_set_mask();
    }
}

/// Whether a signal would end a process, so that PID 1 has to end itself: neither ignored nor handled.
pub fn has_default_action(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with a null pointer nothing is changed; `action` is the struct that the call fills.
    let asked = unsafe { libc::sigaction(signal as c_int, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: it was filled, as the call has succeeded.
    asked == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_DFL
}

/// Takes back a signal that is blocked and pending.
pub fn forget_pending(signal: Signal) {
    let set = *AsRef::<libc::sigset_t>::as_ref(&SigSet::from(signal));
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set and the time are filled; with a null pointer nothing is written.
    unsafe { libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const at_once) };
}

/// Runs a handler at a signal.
///
/// # Safety
///
/// The handler does only what signal-safety(7) allows.
pub unsafe fn handle_signal(signal: c_int, handler: extern "C" fn(c_int)) {
    // SAFETY: all zeros is a valid sigaction: no flags, an empty mask.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    // SAFETY: the struct is filled, and the caller vouches for the handler.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

/// Waits until a descriptor is readable or hung up, a handler of one of the signals has run, or the time
/// is over. All other signals are held back. Whether it is the descriptor.
pub fn wait_for(fd: Option<BorrowedFd<'_>>, signals: &[c_int], timeout: Duration) -> bool {
    let mut mask = MaybeUninit::uninit();
    // SAFETY: the call fills the set that it is given.
    unsafe { libc::sigfillset(mask.as_mut_ptr()) };
    for &signal in signals {
        // SAFETY: the set was filled above.
        unsafe { libc::sigdelset(mask.as_mut_ptr(), signal) };
    }
    // A negative number is skipped by the kernel.
    let fd = fd.map_or(-1, |fd| fd.as_raw_fd());
    let mut polled = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let time = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i32::MAX.into()),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: one pollfd, a time and a set that were filled above.
    let result = check(unsafe { libc::ppoll(&raw mut polled, 1, &raw const time, mask.as_ptr()) });
    if result.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
        // Denied by a filter: the signals are looked for a little later.
        let milliseconds = timeout.as_millis().min(50) as c_int;
        // SAFETY: one pollfd, filled above.
        unsafe { libc::poll(&raw mut polled, 1, milliseconds) };
        let mut before = MaybeUninit::uninit();
        // SAFETY: the set was filled above, and `before` is one.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: the call above has filled it.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    polled.revents != 0
}

// ------------------------------------------------------------------------- descriptors, terminals

/// Waits until descriptors are readable or hung up, at most for `timeout`: which of them are.
pub fn wait_for_any<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let timeout =
        timeout.map_or(PollTimeout::NONE, |timeout| timeout.try_into().unwrap_or(PollTimeout::MAX));
    loop {
        match poll(&mut polled, timeout) {
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(polled.map(|fd| fd.any().unwrap_or(true))),
        }
    }
}

/// Whether a write of a few bytes would not wait, at this moment.
pub fn is_writable(fd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::ZERO).is_ok() && polled[0].any().unwrap_or(true)
}

/// Writes to a socket what there is room for, and never waits.
pub fn send_nonblocking(socket: BorrowedFd<'_>, text: &[u8]) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and the length are those of one slice.
    let sent = unsafe { libc::send(socket.as_raw_fd(), text.as_ptr().cast(), text.len(), flags) };
    if sent == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether what this process writes to a terminal does not disturb another job; true for what is
/// not its controlling terminal.
pub fn in_foreground(terminal: impl AsFd) -> bool {
    tcgetpgrp(terminal).map_or(true, |group| group == getpgrp())
}

/// The width of the terminal behind a descriptor; `None` if it is none.
pub fn terminal_width(fd: BorrowedFd<'_>) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the struct is the one that the call fills.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }).ok()?;
    // A terminal that does not know its size says 0.
    Some(if size.ws_col == 0 { 80 } else { size.ws_col.into() })
}
