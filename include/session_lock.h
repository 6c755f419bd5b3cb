/*
 * session_lock.h - at most one process at a time works on a session
 *
 * A session's lock is an exclusive flock(2) on one small file, <dir>/<session>.lock, and nothing else.
 *
 *   #include <session_lock.h>
 *
 *   session_lock_handle lock;
 *   int error = session_lock_acquire(NULL, "nightly-build", &lock);
 *   if (error == -EWOULDBLOCK) ...            // somebody else is at it
 *   if (error != 0) fprintf(stderr, "%s\n", strerror(-error));
 *   ...
 *   error = session_lock_check(lock);         // before the step that must not run twice
 *   ...
 *   session_lock_release(lock);
 *
 *   cc program.c -lsession_lock
 *
 * What it stands on:
 *
 *   - The kernel is the truth. When a holder dies, however it dies, the kernel releases its lock. There
 *     is no stale lock, so there is nothing to clean up and nothing to steal.
 *   - The lock file is never deleted, renamed or replaced. An unlocked lock file means nothing.
 *   - What is written in it is a label. No decision to acquire, wait or give up reads it.
 *   - Asking who holds a lock never takes it.
 *   - The lock belongs to the process that acquired it: not to its forked children, not to the
 *     programs that it starts.
 *
 * Conventions:
 *
 *   - Every function but session_lock_version() returns 0 or a negative errno. There is no last error
 *     and no message table: strerror(-error) says it.
 *   - Nothing is ever given that the caller must free. A handle is a number; it ends with
 *     session_lock_release(). Strings are borrowed for the length of the call.
 *   - A bad argument is -EINVAL, never a crash. A failure inside the library that should be impossible
 *     is -ENOTRECOVERABLE, never an abort of the program.
 *   - Every function may be called from any thread at any time, but not from a signal handler. A signal
 *     handler that interrupts one of them must not fork; a fork in another thread waits while a lock
 *     file is being opened.
 *   - After fork() the child holds nothing: its copies of the descriptors are closed as it starts, those
 *     of waits in progress in other threads, too. A handle of the parent answers -EPERM there. (No hook
 *     runs for a bare clone(2) or _Fork(3): such a child keeps the lock while it lives, but cannot
 *     release it.) After exec nothing is inherited.
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
   * Nobody holds the lock. Only said when it is known.
   */
  SESSION_LOCK_FREE = 0,
  /**
   * Somebody holds the lock.
   */
  SESSION_LOCK_HELD = 1,
  /**
   * It cannot be known from here.
   */
  SESSION_LOCK_UNKNOWN = 2,
};

/**
 * A lock that this process holds. 0 is never a lock, and a number is never used twice in a process:
 * a handle that was released stays invalid for ever.
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
   * How many processes wait for the lock in the kernel's queue, as far as visible.
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
 * @param context   As it was given to session_lock_list().
 * @param session   The session's name, NUL-terminated. Borrowed for the call.
 * @param info      Who holds it. Borrowed for the call.
 * @param info_size sizeof *info, as the library was compiled: fields beyond it are not there.
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
 *                 namespace sees it. A missing directory is created, parents too, with mode 0700. A
 *                 file is created with mode 0600; whoever else may write the directory may read and
 *                 write the file, too, whatever the umask. Borrowed for the call.
 * @param session  The session's name: any bytes but NUL, at least one. Borrowed for the call.
 * @param lock     Where the handle goes; set to 0 before anything can fail. Not NULL.
 *
 * @return 0, and the lock is held until session_lock_release() or the end of the process. Or:
 *         -EWOULDBLOCK   another holder has it, in this process or in another one;
 *         -EINVAL        session or lock is NULL, session or dir is empty;
 *         -ENAMETOOLONG  the encoded file name would pass 255 bytes;
 *         -EPERM         the directory or the file is not safe to trust: a default directory that is
 *                        not the caller's own and closed to others, a directory that everybody can
 *                        write without the sticky bit, a file that is not regular or has several hard
 *                        links. Or dir is NULL, and the user's other processes would find another
 *                        directory: $SESSION_LOCK_DIR is not an absolute path, or is set in a program
 *                        with raised privileges (set-user-ID, set-group-ID, file capabilities); or it
 *                        is not set, and /tmp is the service's own (systemd's PrivateTmp=) or the user
 *                        has no number outside of the user namespace: set $SESSION_LOCK_DIR, or name
 *                        a directory;
 *         -ELOOP         the lock file is a symbolic link;
 *         or the errno of the system call that failed (-EACCES, -EMFILE, -ENOSPC, ...). A
 *         filesystem that cannot flock is an error, never a success.
 *         After a failure nothing is left open, locked or written.
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   Only as long as open(2) does; not interrupted by signals; no cancellation point.
 * @fork/exec  A child of fork() holds nothing: its copy of the descriptor is closed as it starts, and
 *             the handle answers -EPERM there. The descriptor is close-on-exec.
 * @see        flock(2), open(2)
 */
int session_lock_acquire(const char *dir,
                         const char *session,
                         session_lock_handle *lock);

/**
 * Waits for a session's lock, in the kernel's own queue: a blocked flock(2), with or without a
 * deadline. While nothing happens nothing wakes up.
 *
 * @param dir        As for session_lock_acquire().
 * @param session    As for session_lock_acquire().
 * @param timeout_ms How long to wait at most, in milliseconds of CLOCK_MONOTONIC: -1 for ever, 0 one
 *                   try.
 * @param cancel_fd  A descriptor that ends the wait when it becomes readable or is hung up (an
 *                   eventfd, a pipe, a socket: whatever poll(2) takes), or -1. If it is so
 *                   already, the lock is not taken even if it is free. Borrowed for the call,
 *                   never read from.
 * @param lock       As for session_lock_acquire().
 *
 * @return 0, and the lock is held. Or:
 *         -ETIMEDOUT  the time ran out: never early, at most 10 ms late;
 *         -ECANCELED  cancel_fd became readable or was hung up;
 *         -EINTR      a signal handler ran in this thread; call again with the time that is left;
 *         -EDEADLK    the wait could never end: the lock is held until this very process ends (by
 *                     the guardian of `session-lock run` or `acquire`); or this process, which has
 *                     one thread only, holds the lock, and there is neither a deadline nor a
 *                     cancel_fd;
 *         -EINVAL     also: timeout_ms < -1, cancel_fd < -1 or not open;
 *         or as session_lock_acquire(), but not -EWOULDBLOCK. After a failure nothing is left open,
 *         locked or written, and no thread.
 *
 * @threads    From any thread. Not from a signal handler. With a deadline or a cancel_fd, and only
 *             when the lock is not free, a helper thread blocks in flock(2) for the length of the
 *             call. It runs no signal handler; the library installs none and sends no signal.
 * @blocking   Yes. A signal handler in the calling thread ends it with -EINTR; without deadline and
 *             cancel_fd only a handler that was installed without SA_RESTART (flock(2) is restarted
 *             after the others, see signal(7)). No cancellation point: pthread_cancel(3) takes
 *             effect after the call.
 * @fork/exec  As session_lock_acquire(). A child that is forked while another thread waits has no part
 *             in the wait.
 * @see        flock(2), ppoll(2)
 */
int session_lock_wait(const char *dir,
                      const char *session,
                      int64_t timeout_ms,
                      int cancel_fd,
                      session_lock_handle *lock);

/**
 * Frees a lock at once, even where a child still has a copy of the descriptor, and ends the handle,
 * whatever is returned.
 *
 * @param lock  The handle.
 *
 * @return 0. Or:
 *         -EBADF   no such handle: never given, or released already;
 *         -EPERM   it was acquired by the process that this one was forked from: nobody's lock is
 *                  touched;
 *         -ESTALE  the path no longer names the file that was locked (somebody deleted, renamed or
 *                  replaced it, or closed the descriptor): exclusion may have been lost. The lock is
 *                  released, too;
 *         or the errno of the system call that failed.
 *
 * @threads    From any thread, not only the one that acquired. Not from a signal handler.
 * @blocking   No; no cancellation point.
 * @fork/exec  See -EPERM.
 * @see        flock(2), LOCK_UN
 */
int session_lock_release(session_lock_handle lock);

/**
 * Checks that the lock that the caller holds is still *the* lock of the session. Call it before a step
 * that must not run twice. It changes nothing, and takes two system calls on a local filesystem.
 *
 * On a filesystem that other hosts share it also sees that the filesystem has taken the lock away: the
 * host was cut off, its lease ran out, and somebody else may hold the lock. The label, read past caches
 * as far as that goes, must still be this holder's, and on NFS the kernel must still grant the lock.
 *
 * The path is looked at as this process sees it now. After setuid(2) it may be out of reach (-EACCES).
 * After chroot(2), or in another mount namespace, the same path names another file or none, which cannot
 * be told from a file that was deleted: -ESTALE. The lock is held all the same, and
 * session_lock_release() releases it, whatever it returns.
 *
 * @param lock  The handle.
 *
 * @return 0: it is. Or:
 *         -EBADF   no such handle: never given, or released already;
 *         -EPERM   it was acquired by the process that this one was forked from;
 *         -ESTALE  the path no longer names the file that was locked (somebody deleted, renamed or
 *                  replaced it, or closed the descriptor), or the filesystem took the lock away:
 *                  exclusion may have been lost. What has failed once on a shared filesystem stays
 *                  -ESTALE;
 *         or the errno of the system call that failed (-EACCES).
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   No; no cancellation point. On a filesystem that other hosts share, as long as that does: a
 *             host that was cut off may hang for a minute and more.
 * @fork/exec  -EPERM in a child.
 * @see        stat(2)
 */
int session_lock_check(session_lock_handle lock);

/**
 * The fencing token of a lock: a number larger than that of every earlier holder of the session, on any
 * host that shares the directory. Pass it to the resource that the lock protects, and let that refuse a
 * token smaller than one that it has seen: then a holder that has lost the lock without knowing (its host
 * was cut off, somebody deleted the file) can do no harm.
 *
 * It is max(last token + 1, nanoseconds since the epoch), kept in the label, also while the lock is
 * free. So it goes on rising when somebody deletes the file, as far as clocks are right.
 *
 * @param lock   The handle.
 * @param token  Where the token goes; set to 0 before anything can fail. Not NULL.
 *
 * @return 0. Or:
 *         -EINVAL   token is NULL;
 *         -EBADF    no such handle: never given, or released already;
 *         -EPERM    it was acquired by the process that this one was forked from;
 *         -ESTALE   the descriptor was closed behind the library's back;
 *         -ENODATA  the label could not be read or written (a full disk, a file that may only be read),
 *                   so there is no token.
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   No; no cancellation point.
 * @fork/exec  -EPERM in a child.
 */
int session_lock_token(session_lock_handle lock,
                       uint64_t *token);

/**
 * Tells who holds a session's lock. It never takes the lock, not even for a moment, so it cannot make
 * somebody else's attempt fail; it creates nothing. The answer can be out of date when it arrives: never
 * gate on it.
 *
 * The kernel's word wins. A holder that is no user of this library (flock(1), Python's fcntl.flock, with
 * a shared lock too) is reported as well; what a dead process left in the file is not a holder. The
 * process that a guardian holds the lock for (session-lock(1)) is the holder; once it has ended, the
 * session does not count as held. SESSION_LOCK_FREE is only said when it is known. What decides, in
 * this order:
 *
 * - the descriptor that the label names has the lock (/proc/PID/fdinfo): held. That takes the same time
 *   however many locks there are;
 * - the kernel's table (/proc/locks) names who took the lock: held. The table is read in whole, which takes
 *   longer the more locks there are;
 * - the table names nobody, and is known to be complete: free. For that it must be read twice with the
 *   same result;
 * - the table does not come to rest: the descriptors of all processes are searched, which takes some
 *   milliseconds. Held if one has the lock; free if none has, and all could be looked at.
 *
 * Where the kernel cannot show every holder (inside a PID namespace, on a FUSE or network filesystem,
 * beside processes of other users) and does not name one, the label in the file decides:
 *
 * - cleared, or no file: SESSION_LOCK_FREE, confirmed 0;
 * - of a process of this host, this boot and this PID namespace that is alive with the same start
 *   time: SESSION_LOCK_HELD, confirmed 0;
 * - anything else: SESSION_LOCK_UNKNOWN, with what the label says filled in.
 *
 * @param dir        As for session_lock_acquire(), but nothing is created.
 * @param session    As for session_lock_acquire(). One that nobody ever locked is free.
 * @param info       Where the answer goes. Not NULL. After a failure its state is
 *                   SESSION_LOCK_UNKNOWN.
 * @param info_size  sizeof *info, as the caller was compiled: a shorter struct gets its prefix, the
 *                   unknown end of a longer one gets zeros (as with openat2(2)).
 *
 * @return 0. Or:
 *         -EINVAL        session or info is NULL, session or dir is empty, info_size < 16 (or beyond
 *                        any version of the struct);
 *         -ENAMETOOLONG  the encoded file name would pass 255 bytes;
 *         -EPERM         as for session_lock_acquire();
 *         -ELOOP         the lock file is a symbolic link;
 *         or the errno of the system call that failed (-EACCES, -ENOTDIR, ...).
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   No; no cancellation point. With a struct that ends before the field waiters, the table is
 *             not read for a holder that the label names.
 * @fork/exec  Works in a child as anywhere else.
 * @see        proc_locks(5)
 */
int session_lock_holder(const char *dir,
                        const char *session,
                        struct session_lock_holder_info *info,
                        size_t info_size);

/**
 * Every session that has a lock file in a directory, and who holds it: held ones first, then by name. As
 * session_lock_holder() it never takes a lock and creates nothing. A missing directory has no sessions.
 *
 * @param dir      As for session_lock_acquire(), but nothing is created.
 * @param visit    Called once for each session, in the calling thread, with no lock of the library held:
 *                 it may call any function. Not NULL.
 * @param context  Passed on to visit.
 *
 * @return 0, or what visit returned other than 0. Or:
 *         -EINVAL  visit is NULL, dir is empty;
 *         -EPERM   the directory is not safe to trust, as for session_lock_acquire();
 *         or the errno of the system call that failed (-EACCES, -ENOTDIR, ...); visit was not called
 *         then.
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   As long as reading the directory and one line of each file takes. Not interrupted by
 *             signals; no cancellation point but in visit.
 * @fork/exec  Works in a child as anywhere else.
 */
int session_lock_list(const char *dir,
                      session_lock_visitor visit,
                      void *context);

/**
 * The path of a session's lock file, for use with other tools (flock(1)). Creates nothing, and does not
 * look whether the directory is safe to trust.
 *
 * @param dir        As for session_lock_acquire().
 * @param session    As for session_lock_acquire().
 * @param path       Where the path goes, NUL-terminated; unchanged after a failure. Not NULL.
 * @param path_size  The size of that buffer, in bytes.
 *
 * @return 0. Or:
 *         -ERANGE        the buffer is too small;
 *         -EINVAL        session or path is NULL, session or dir is empty;
 *         -ENAMETOOLONG  the encoded file name would pass 255 bytes;
 *         -EPERM         dir is NULL, and the user's other processes would find another directory: as
 *                        for session_lock_acquire().
 *
 * @threads    From any thread. Not from a signal handler.
 * @blocking   No; no cancellation point.
 * @fork/exec  Works in a child as anywhere else.
 */
int session_lock_path(const char *dir,
                      const char *session,
                      char *path,
                      size_t path_size);

/**
 * The library's version, "MAJOR.MINOR.PATCH", in static storage: never freed, never NULL.
 *
 * @threads    From any thread, and from a signal handler.
 * @blocking   No.
 */
const char *session_lock_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SESSION_LOCK_H */
