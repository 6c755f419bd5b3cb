/*
 * session_lock.h - named, crash-safe locks between processes
 *
 * A session is any name that processes agree on. Its lock is an exclusive flock(2) on one small file,
 * <dir>/<session>.lock, and nothing else.
 *
 *   #include <session_lock.h>
 *
 *   session_lock_handle lock;
 *   int error = session_lock_acquire(NULL, "nightly-build", &lock);
 *   if (error == -EWOULDBLOCK) ...            // already locked
 *   if (error != 0) fprintf(stderr, "%s\n", strerror(-error));
 *   ...
 *   error = session_lock_check(lock);         // before the step that must not run twice
 *   ...
 *   session_lock_release(lock);
 *
 *   cc program.c -lsession_lock
 *
 * How it works:
 *
 *   - The kernel is the truth. When a holder dies, however it dies, the kernel releases its lock. There
 *     are no stale locks, so there is nothing to clean up and nothing to steal.
 *   - The lock file is never deleted, renamed or replaced. An unlocked lock file means nothing.
 *   - What is written in the file is a label: it tells people and tools who holds the lock. No lock is
 *     ever granted because of what it says.
 *   - Asking who holds a lock never takes it.
 *   - The lock belongs to the process that acquired it: not to its forked children, not to the
 *     programs that it starts.
 *
 * Conventions:
 *
 *   - Every function but session_lock_version() returns 0 or a negative errno. There is no last error
 *     and no message table: use strerror(-error).
 *   - You never have to free anything. A handle is a number; session_lock_release() ends it. Strings are
 *     borrowed for the duration of the call.
 *   - A bad argument is -EINVAL, never a crash. A failure inside the library that should be impossible
 *     is -ENOTRECOVERABLE, never an abort of the program.
 *   - Every function may be called from any thread at any time, but not from a signal handler. A signal
 *     handler that interrupts one of them must not fork; a fork in another thread waits while a lock
 *     file is being opened.
 *   - After fork() the child holds nothing: its copies of the descriptors are closed as it starts,
 *     including those of waits in progress in other threads. There, the parent's handles give -EPERM.
 *     (No fork hook runs for a bare clone(2) or _Fork(3): such a child keeps the lock while it lives, but
 *     cannot release it.) After exec nothing is inherited.
 *   - dlclose(3) leaves the library mapped.
 */


#ifndef SESSION_LOCK_H
#define SESSION_LOCK_H

/* Generated from src/ffi.rs by `cargo test --test header`: change it there. */

#include <stddef.h>
#include <stdint.h>

/**
 * Whether a session is locked; see session_lock_holder().
 */
enum session_lock_state {
  /**
   * Nobody holds the lock. Only returned when that is certain.
   */
  SESSION_LOCK_FREE = 0,
  /**
   * Somebody holds the lock.
   */
  SESSION_LOCK_HELD = 1,
  /**
   * It cannot be determined from here.
   */
  SESSION_LOCK_UNKNOWN = 2,
};

/**
 * A lock that this process holds. 0 is never a lock, and a number is never used twice in a process:
 * a released handle stays invalid for ever.
 */
typedef uint64_t session_lock_handle;

/**
 * Who holds a session's lock; see session_lock_holder(). 160 bytes; grows only at its end.
 */
struct session_lock_holder_info {
  /**
   * An enum session_lock_state.
   */
  uint32_t state;
  /**
   * Who took the lock, as seen from the caller's PID namespace; 0 = not visible.
   */
  int32_t pid;
  /**
   * 1: that process is dead, and one that it started still holds the lock.
   */
  uint32_t orphaned;
  /**
   * 1: the kernel's lock table says so; 0: only the label in the file does.
   */
  uint32_t confirmed;
  /**
   * When the lock was taken, in milliseconds since the Unix epoch; 0 = unknown.
   */
  int64_t acquired_at_ms;
  /**
   * The holder's command line, NUL-terminated, cut if longer; "" = unknown. Any bytes: another
   * process wrote them. Escape control characters before you print it.
   */
  char command[64];
  /**
   * The holder's host, NUL-terminated, cut if longer; "" = unknown.
   */
  char host[64];
  /**
   * How many processes wait for the lock in the kernel's queue, as far as they are visible.
   */
  uint32_t waiters;
  /**
   * 1: the holder is stopped (SIGSTOP, Ctrl-Z, a debugger).
   */
  uint32_t suspended;
};

/**
 * What session_lock_list() calls for each session.
 *
 * @param context   The pointer that was passed to session_lock_list().
 * @param session   The session's name, NUL-terminated. Valid during the call only.
 * @param info      Who holds it. Valid during the call only.
 * @param info_size sizeof *info in the library: fields beyond it are not there.
 *
 * @return 0 to go on; anything else ends the walk, and session_lock_list() returns it.
 */
typedef int (*session_lock_visitor)(void *context,
                                    const char *session,
                                    const struct session_lock_holder_info *info,
                                    size_t info_size);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Takes a session's lock if it is free; does not wait.
 *
 * @param dir      The directory of the lock files. NULL: $SESSION_LOCK_DIR, or else
 *                 /tmp/session-lock-UID with the effective user ID, as the parent of the caller's user
 *                 namespace sees it. A missing directory is created with mode 0700, and its parents
 *                 too. The file is created with mode 0600; anyone else who may write to the directory
 *                 may also read and write the file, whatever the umask. Borrowed for the call.
 * @param session  The session's name: any bytes but NUL, at least one. Borrowed for the call.
 * @param lock     Where to store the handle; set to 0 before anything can fail. Not NULL.
 *
 * @return 0, and the lock is held until session_lock_release() or the end of the process. Or:
 *         -EWOULDBLOCK   another holder has it, in this process or in another one;
 *         -EINVAL        session or lock is NULL, session or dir is empty;
 *         -ENAMETOOLONG  the encoded file name would be longer than 255 bytes;
 *         -EPERM         the directory or the file is not safe to trust: a default directory that does
 *                        not belong to the caller or is open to others, a world-writable directory
 *                        without the sticky bit, a file that is not regular or has several hard
 *                        links. Or dir is NULL, and the user's other processes would use a different
 *                        directory: $SESSION_LOCK_DIR is not an absolute path, or is set in a program
 *                        with raised privileges (set-user-ID, set-group-ID, file capabilities); or it
 *                        is not set, and /tmp is private to the service (systemd's PrivateTmp=) or the
 *                        user has no ID outside the user namespace: set $SESSION_LOCK_DIR, or pass
 *                        a directory;
 *         -ELOOP         the lock file is a symbolic link;
 *         or the errno of the system call that failed (-EACCES, -EMFILE, -ENOSPC, ...). A
 *         filesystem that cannot flock is an error, never a success.
 *         After a failure nothing is left open, locked or written.
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   Only as long as open(2) does; not interrupted by signals; not a cancellation point.
 * @fork/exec  A child of fork() holds nothing: its copy of the descriptor is closed as it starts, and
 *             there the handle gives -EPERM. The descriptor is close-on-exec.
 * @see        flock(2), open(2)
 */
int session_lock_acquire(const char *dir,
                         const char *session,
                         session_lock_handle *lock);

/**
 * Waits for a session's lock. The caller queues in the kernel, in a blocked flock(2), even with a
 * deadline; nothing polls.
 *
 * @param dir        As for session_lock_acquire().
 * @param session    As for session_lock_acquire().
 * @param timeout_ms How long to wait at most, in milliseconds of CLOCK_MONOTONIC: -1 for ever, 0 one
 *                   try.
 * @param cancel_fd  A descriptor that ends the wait when it becomes readable or is hung up (an
 *                   eventfd, a pipe, a socket: anything poll(2) takes), or -1. If it is already
 *                   readable, the lock is not taken even if it is free. Borrowed for the call,
 *                   never read from.
 * @param lock       As for session_lock_acquire().
 *
 * @return 0, and the lock is held. Or:
 *         -ETIMEDOUT  the time ran out: never early, at most 10 ms late;
 *         -ECANCELED  cancel_fd became readable or was hung up;
 *         -EINTR      a signal handler ran in this thread; call again with the time that is left;
 *         -EDEADLK    the wait could never end: `session-lock run` or `session-lock acquire` holds
 *                     the lock until this very process ends; or this process holds the lock itself,
 *                     has only one thread, and gave neither a deadline nor a cancel_fd;
 *         -EINVAL     also: timeout_ms < -1, cancel_fd < -1 or not open;
 *         or as session_lock_acquire(), but not -EWOULDBLOCK. After a failure nothing is left open,
 *         locked or written, and no thread is left running.
 *
 * @threads    From any thread. Not from a signal handler. If there is a deadline or a cancel_fd and
 *             the lock is not free, a helper thread blocks in flock(2) for the duration of the
 *             call. It runs no signal handlers; the library installs none and sends no signals.
 * @blocking   Yes. A signal handler in the calling thread ends it with -EINTR; without deadline and
 *             cancel_fd only a handler that was installed without SA_RESTART (after the others,
 *             flock(2) is restarted; see signal(7)). Not a cancellation point: pthread_cancel(3)
 *             takes effect after the call (a thread that has set PTHREAD_CANCEL_ASYNCHRONOUS
 *             must not call the library).
 *             If another thread closes the library's descriptors (closefrom(3)), the wait fails.
 * @fork/exec  As session_lock_acquire(). A child that is forked while another thread waits does not
 *             take part in the wait.
 * @see        flock(2), ppoll(2)
 */
int session_lock_wait(const char *dir,
                      const char *session,
                      int64_t timeout_ms,
                      int cancel_fd,
                      session_lock_handle *lock);

/**
 * Releases a lock at once, even if a child still has a copy of the descriptor. The handle is invalid
 * afterwards, whatever is returned.
 *
 * @param lock  The handle.
 *
 * @return 0. Or:
 *         -EBADF   no such handle: never issued, or already released;
 *         -EPERM   it was acquired by the process this one was forked from; no lock is touched;
 *         -ESTALE  the path no longer names the file that was locked (somebody deleted, renamed or
 *                  replaced it, or closed the descriptor): exclusion may have been lost. The lock is
 *                  released all the same;
 *         or the errno of the system call that failed.
 *
 * @threads    From any thread, not only the one that acquired it. Not from a signal handler.
 * @blocking   No; not a cancellation point.
 * @fork/exec  See -EPERM.
 * @see        flock(2), LOCK_UN
 */
int session_lock_release(session_lock_handle lock);

/**
 * Checks that the locked file is still the one at its path, so that the lock still excludes everyone
 * else. Call it before a step that must not run twice. It changes nothing, and takes two system calls
 * on a local filesystem.
 *
 * On a filesystem that is shared with other hosts it also detects that the filesystem took the lock
 * away: the host was cut off, its lease expired, and another process may hold the lock. The label, read
 * past caches as far as possible, must still be this holder's, and on NFS the kernel must still grant
 * the lock.
 *
 * The path is resolved as this process sees it now. After setuid(2) it may be out of reach (-EACCES).
 * After chroot(2), or in another mount namespace, the same path names another file or none, which looks
 * just like a deleted file: -ESTALE. The lock is still held then, and session_lock_release() releases
 * it, whatever it returns.
 *
 * @param lock  The handle.
 *
 * @return 0 if it is. Or:
 *         -EBADF   no such handle: never issued, or already released;
 *         -EPERM   it was acquired by the process this one was forked from;
 *         -ESTALE  the path no longer names the file that was locked (somebody deleted, renamed or
 *                  replaced it, or closed the descriptor), or the filesystem took the lock away:
 *                  exclusion may have been lost. On a shared filesystem, once -ESTALE means
 *                  always -ESTALE;
 *         or the errno of the system call that failed (-EACCES).
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   No; not a cancellation point. On a filesystem that is shared with other hosts, as long as
 *             that takes: a host that was cut off may hang for a minute or more.
 * @fork/exec  -EPERM in a child.
 * @see        stat(2)
 */
int session_lock_check(session_lock_handle lock);

/**
 * The fencing token of a lock: a number larger than that of every earlier holder of the session, on any
 * host that shares the directory. Pass it to the resource that the lock protects, and let the resource
 * refuse any token smaller than the largest it has seen. Then a holder that lost the lock without
 * noticing (its host was cut off, somebody deleted the file) can do no harm.
 *
 * It is max(last token + 1, nanoseconds since the epoch), and is kept in the label even while the lock
 * is free. So it keeps rising if somebody deletes the file, provided that clocks are right.
 *
 * @param lock   The handle.
 * @param token  Where to store the token; set to 0 before anything can fail. Not NULL.
 *
 * @return 0. Or:
 *         -EINVAL   token is NULL;
 *         -EBADF    no such handle: never given, or released already;
 *         -EPERM    it was acquired by the process that this one was forked from;
 *         -ESTALE   the descriptor was closed behind the library's back;
 *         -ENODATA  the label could not be read or written (a full disk, a read-only file), so there
 *                   is no token.
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   No; not a cancellation point.
 * @fork/exec  -EPERM in a child.
 */
int session_lock_token(session_lock_handle lock,
                       uint64_t *token);

/**
 * Tells who holds a session's lock. It never takes the lock, not even for a moment, so it cannot make
 * another process's attempt fail, and it creates nothing. The answer may be out of date by the time you
 * read it: never use it to decide whether to go ahead.
 *
 * The kernel's word wins. A holder that does not use this library (flock(1), Python's fcntl.flock, even
 * with a shared lock) is reported as well; what a dead process left in the file is not a holder. Where a
 * guardian, the small process that session-lock(1) starts, keeps the lock for another process, that
 * other process is the holder; once it has ended, the session does not count as held.
 * SESSION_LOCK_FREE is only returned when that is certain. What decides, in this order:
 *
 * - the descriptor that the label names has the lock (/proc/PID/fdinfo): held. This takes some 40
 *   microseconds, however many locks there are;
 * - the kernel's table (/proc/locks) names who took the lock: held. The table is read once, which takes
 *   about a microsecond for each lock on the machine, as it does to count the waiters;
 * - the table names nobody, and is short (some 35 locks on the machine), so it is known to be complete:
 *   free;
 * - the table is longer: the descriptors of all processes are searched, which takes some milliseconds.
 *   Held if one has the lock; free if none has, and all of them could be examined.
 *
 * Where the kernel cannot show every holder (inside a PID namespace, on a FUSE or network filesystem,
 * alongside processes of other users) and does not name one, the label in the file decides:
 *
 * - cleared, or no file: SESSION_LOCK_FREE, confirmed 0;
 * - of a process of this host, this boot and this PID namespace that is alive and has the same start
 *   time: SESSION_LOCK_HELD, confirmed 0;
 * - anything else: SESSION_LOCK_UNKNOWN, with the label's contents filled in.
 *
 * @param dir        As for session_lock_acquire(), but nothing is created.
 * @param session    As for session_lock_acquire(). One that was never locked is free.
 * @param info       Where to store the answer. Not NULL. After a failure its state is
 *                   SESSION_LOCK_UNKNOWN.
 * @param info_size  sizeof *info in the calling program: an older, shorter struct is filled as far
 *                   as it goes, the unknown end of a newer, longer one is zeroed (as with openat2(2)).
 *
 * @return 0. Or:
 *         -EINVAL        session or info is NULL, session or dir is empty, info_size < 16 (or larger
 *                        than the struct will ever be);
 *         -ENAMETOOLONG  the encoded file name would be longer than 255 bytes;
 *         -EPERM         as for session_lock_acquire();
 *         -ELOOP         the lock file is a symbolic link;
 *         or the errno of the system call that failed (-EACCES, -ENOTDIR, ...).
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   No; not a cancellation point. With a struct that ends before the field waiters, the
 *             table is not read if the label names the holder.
 * @fork/exec  Works in a child just as anywhere else.
 * @see        proc_locks(5)
 */
int session_lock_holder(const char *dir,
                        const char *session,
                        struct session_lock_holder_info *info,
                        size_t info_size);

/**
 * Lists every session that has a lock file in a directory, and who holds it: held ones first, then by
 * name. Like session_lock_holder() it never takes a lock and creates nothing. A missing directory has no
 * sessions. A lock file with more than one hard link, for which session_lock_holder() returns -EPERM, is
 * SESSION_LOCK_UNKNOWN.
 *
 * @param dir      As for session_lock_acquire(), but nothing is created.
 * @param visit    Called once for each session, in the calling thread, with no lock of the library held:
 *                 it may call any function. Not NULL.
 * @param context  Passed on to visit.
 *
 * @return 0, or whatever visit returned other than 0. Or:
 *         -EINVAL  visit is NULL, dir is empty;
 *         -EPERM   the directory is not safe to trust, as for session_lock_acquire();
 *         or the errno of the system call that failed (-EACCES, also if the directory may be read but
 *         not searched; -ENOTDIR, ...); visit has not been called then.
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   As long as it takes to read the directory and the label of each file. Not interrupted
 *             by signals; not a cancellation point, except in visit.
 * @fork/exec  Works in a child just as anywhere else.
 */
int session_lock_list(const char *dir,
                      session_lock_visitor visit,
                      void *context);

/**
 * Stores the path of a session's lock file, for use with other tools such as flock(1). Creates nothing,
 * and does not check whether the directory is safe to trust.
 *
 * @param dir        As for session_lock_acquire().
 * @param session    As for session_lock_acquire().
 * @param path       Where to store the path, NUL-terminated; unchanged after a failure. Not NULL.
 * @param path_size  The size of that buffer, in bytes.
 *
 * @return 0. Or:
 *         -ERANGE        the buffer is too small;
 *         -EINVAL        session or path is NULL, session or dir is empty;
 *         -ENAMETOOLONG  the encoded file name would be longer than 255 bytes;
 *         -EPERM         dir is NULL, and the user's other processes would use a different directory:
 *                        as for session_lock_acquire().
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   No; not a cancellation point.
 * @fork/exec  Works in a child just as anywhere else.
 */
int session_lock_path(const char *dir,
                      const char *session,
                      char *path,
                      size_t path_size);

/**
 * Returns the library's version, "MAJOR.MINOR.PATCH", in static storage: never freed, never NULL.
 *
 * @threads    From any thread, and from a signal handler.
 * @blocking   No.
 */
const char *session_lock_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SESSION_LOCK_H */
