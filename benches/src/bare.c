/*
 * The floor: nothing but system calls.
 *
 * plain_*: what a lock is at its barest.
 * same_*:  the calls that the library makes for its first and every later lock, in the same order and
 *          with the same arguments; no error is looked at, nothing is remembered. The benchmark
 *          compares the two sequences with strace.
 * thread_*: what a wait with a deadline is at its barest: a thread that is blocked in flock, and a caller
 *          that polls for it.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FLAGS (O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
#define WANTED (STATX_TYPE | STATX_MODE | STATX_NLINK | STATX_UID | STATX_GID | STATX_INO)

/* Where there are two such calls, the library makes the shorter one. */
#ifdef __x86_64__
#include <sys/syscall.h>
#define GETRLIMIT(resource, limit) syscall(SYS_getrlimit, resource, limit)
#else
#define GETRLIMIT getrlimit
#endif

int plain_acquire(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return flock(fd, LOCK_EX) == 0 ? fd : -1;
}

void plain_release(int fd)
{
    flock(fd, LOCK_UN);
    close(fd);
}

static char label[512], last[512];
static struct statx status;
static struct rlimit limit;
/* What the compiler must not find unused. */
static volatile long sink;

int same_acquire(const char *dir, const char *path, int wait)
{
    sink = statx(AT_FDCWD, dir, 0, WANTED, &status);
    int fd = open(path, FLAGS);
    sink = lseek(fd, 1 << 30, SEEK_SET);
    sink = statx(fd, "", AT_EMPTY_PATH, WANTED, &status);
    if (flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB) != 0)
        return -1;
    sink = statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, WANTED, &status);
    sink = getpid();
    sink = pread(fd, last, sizeof last, 0);
    sink = GETRLIMIT(RLIMIT_FSIZE, &limit);
    sink = pwrite(fd, label, sizeof label, 0);
    return fd;
}

void same_release(int fd, const char *path)
{
    sink = getpid();
    sink = statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, WANTED, &status);
    sink = lseek(fd, 0, SEEK_CUR);
    sink = GETRLIMIT(RLIMIT_FSIZE, &limit);
    sink = pwrite(fd, label, sizeof label, 0);
    flock(fd, LOCK_UN);
    close(fd);
}

static int locked, done;

static void *block(void *unused)
{
    (void)unused;
    uint64_t one = 1;
    flock(locked, LOCK_EX);
    sink = write(done, &one, sizeof one);
    return NULL;
}

int thread_acquire(const char *path)
{
    pthread_attr_t attributes;
    pthread_t thread;
    locked = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (flock(locked, LOCK_EX | LOCK_NB) == 0)
        return locked;
    done = eventfd(0, EFD_CLOEXEC);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 96 * 1024);
    if (pthread_create(&thread, &attributes, block, NULL) != 0)
        return -1;
    struct pollfd polled = { done, POLLIN, 0 };
    poll(&polled, 1, 600000);
    pthread_join(thread, NULL);
    close(done);
    return locked;
}
