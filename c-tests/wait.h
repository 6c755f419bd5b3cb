/*
 * What the programs that wait for a lock share. Each of them is one claim, told by its file name; it
 * exits with 0 (it holds), 1 (it does not) or 77 (this machine cannot tell). The lock is that of
 * session "s" in $SESSION_LOCK_DIR.
 */
#ifndef WAIT_H
#define WAIT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "session_lock.h"

#define CHECK(claim) check((claim), #claim, __FILE__, __LINE__)

static inline void check(bool holds, const char *claim, const char *file, int line)
{
	if (holds)
		return;
	fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", file, line, claim, errno);
	exit(1);
}

/* The lock file's path. */
static char path[4096];

static inline void begin(void)
{
	/* "Nobody waits for ever": who does is killed, which is a failure. */
	alarm(170);
	CHECK(session_lock_path(NULL, "s", path, sizeof path) == 0);
	session_lock_handle lock;
	CHECK(session_lock_acquire(NULL, "s", &lock) == 0);
	CHECK(session_lock_release(lock) == 0);
}

static inline int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static inline void sleep_until(int64_t us)
{
	struct timespec at = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) {
	}
}

/* Between two looks at something that the kernel does not tell us about by itself. */
static inline void look_again(int64_t since)
{
	if (now_us() - since > 60 * 1000000) {
		fprintf(stderr, "this has not come in a minute\n");
		exit(1);
	}
	sleep_until(now_us() + 200);
}

#define AWAIT(state)                                          \
	do {                                                  \
		for (int64_t since_ = now_us(); !(state);)    \
			look_again(since_);                   \
	} while (0)

static inline int entries(const char *directory)
{
	DIR *dir = opendir(directory);
	int count = 0;
	CHECK(dir != NULL);
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
		count += entry->d_name[0] != '.';
	closedir(dir);
	return count;
}

static inline int threads(void)
{
	return entries("/proc/self/task");
}

/* The listing's own descriptor is counted, too: every time. */
static inline int descriptors(void)
{
	return entries("/proc/self/fd");
}

/* A lock that is nothing of the library's; -1 if somebody else has it. */
static inline int plain_lock(void)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd != -1 && flock(fd, LOCK_EX | LOCK_NB) == -1) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static inline bool is_free(void)
{
	int fd = plain_lock();
	if (fd != -1)
		close(fd);
	return fd != -1;
}

/* fork, but the child does not outlive a program that fails. */
static inline pid_t fork_child(void)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	CHECK(pid != -1);
	if (pid == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent))
		_exit(1);
	return pid;
}

/* A process that holds the lock until it is killed. Only async-signal-safe calls in the child. */
static inline pid_t start_holder(void)
{
	int held[2];
	char byte = 0;
	CHECK(pipe2(held, O_CLOEXEC) == 0);
	pid_t pid = fork_child();
	if (pid == 0) {
		if (plain_lock() == -1 || write(held[1], "h", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(held[1]);
	CHECK(read(held[0], &byte, 1) == 1);
	close(held[0]);
	return pid;
}

/* Once it is reaped, its lock is gone. */
static inline void kill_holder(pid_t pid)
{
	CHECK(kill(pid, SIGKILL) == 0);
	CHECK(waitpid(pid, NULL, 0) == pid);
}

/* Whether a thread is blocked in a system call. */
static inline bool is_in(pid_t process, pid_t thread, long call)
{
	char name[64], text[32] = "";
	snprintf(name, sizeof name, "/proc/%d/task/%d/syscall", process, thread);
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd == -1)
		return false;
	ssize_t length = read(fd, text, sizeof text - 1);
	close(fd);
	return length > 0 && text[0] >= '0' && text[0] <= '9' && atol(text) == call;
}

/* How many calls of flock wait for the file now, in all processes. */
static inline int waiters(void)
{
	struct stat file;
	/* A waiter's line is indented by one for each before it in the queue. */
	char line[8192], inode[32];
	int count = 0;
	CHECK(stat(path, &file) == 0);
	snprintf(inode, sizeof inode, ":%ju ", (uintmax_t)file.st_ino);
	FILE *locks = fopen("/proc/locks", "re");
	CHECK(locks != NULL);
	while (fgets(line, sizeof line, locks) != NULL)
		count += strstr(line, "->") != NULL && strstr(line, inode) != NULL;
	fclose(locks);
	return count;
}

/* Nothing of the calls before is left: no thread, no descriptor. (The kernel lists a thread for a
 * moment after it has been joined.) */
static inline void nothing_left(int threads_before, int descriptors_before)
{
	AWAIT(threads() == threads_before);
	CHECK(descriptors() == descriptors_before);
}

#endif
