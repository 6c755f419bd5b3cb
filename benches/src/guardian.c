/*
 * guardian FILE COMMAND [ARG]...: the floor of `session-lock run`.
 *
 * A label is written, a process without an exit signal holds the lock, clears the label and unlocks when
 * COMMAND has ended. No error is looked at, and nothing is found out for the label.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

static char label[512];

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    int lock = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (flock(lock, LOCK_EX | LOCK_NB) != 0)
        return 75;
    if (pwrite(lock, label, sizeof label, 0) < 0)
        return 125;
    int command = syscall(SYS_pidfd_open, getpid(), 0);
    if (syscall(SYS_clone, 0, 0, 0, 0, 0) != 0) {
        execvp(argv[2], argv + 2);
        return 127;
    }
    setsid();
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    struct pollfd polled = { command, POLLIN, 0 };
    poll(&polled, 1, -1);
    if (pwrite(lock, label, sizeof label, 0) < 0)
        return 125;
    flock(lock, LOCK_UN);
    _exit(0);
}
