//! System calls that this process is denied, as by a container's filter or an old kernel.

use std::ffi::{c_int, c_long};
use std::io;

/// From now on the call fails with this errno, in this process and in what it starts.
pub fn deny(call: c_long, errno: c_int) {
    install(&[
        load(0),
        jump(libc::BPF_JEQ, number(call), 0, 1),
        fail(errno),
        answer(libc::SECCOMP_RET_ALLOW),
    ]);
}

/// The same only where an argument, counted from 0, has one of these bits.
pub fn deny_with_flag(call: c_long, argument: u32, bits: u32, errno: c_int) {
    // The arguments have 64 bits each, of which the lower half comes first.
    let offset = u32::try_from(std::mem::offset_of!(libc::seccomp_data, args)).unwrap();
    install(&[
        load(0),
        jump(libc::BPF_JEQ, number(call), 0, 3),
        load(offset + 8 * argument),
        jump(libc::BPF_JSET, bits, 0, 1),
        fail(errno),
        answer(libc::SECCOMP_RET_ALLOW),
    ]);
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).unwrap()
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn jump(test: u32, value: u32, if_so: u8, if_not: u8) -> libc::sock_filter {
    let mut jump = statement(libc::BPF_JMP | test | libc::BPF_K, value);
    (jump.jt, jump.jf) = (if_so, if_not);
    jump
}

fn fail(errno: c_int) -> libc::sock_filter {
    answer(libc::SECCOMP_RET_ERRNO | errno.unsigned_abs())
}

fn answer(answer: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, answer)
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf: 0, k }
}

fn install(filter: &[libc::sock_filter]) {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: no memory is involved.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0, "prctl: {}", io::Error::last_os_error());
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program and its statements live through the call, which only reads them.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!(result, 0, "prctl: {}", io::Error::last_os_error());
}
