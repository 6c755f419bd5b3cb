/*
 * What the C tests share. Each program is one claim, which its file name states: it exits with 0 if the
 * claim holds, 1 if it does not, and 77 if this machine cannot tell (then it has said why). It works
 * in the current directory, which is its own, on the lock files there: session "s" is "./s.lock".
 *
 * Nothing here sleeps to "make sure": processes shake hands over pipes, and await_blocked() looks at
 * the kernel's own table.
 */
#ifndef TEST_H
#define TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <session_lock.h>

#define UNUSED __attribute__((unused))

/* A program that hangs is ended; far beyond what any takes, under valgrind on a busy machine too. */
#define LIMIT_S 120

static pid_t test_pid;

static void a_child_failed(int number) {
  (void)number;
  _exit(1);
}

__attribute__((constructor)) static void begin(void) {
  test_pid = getpid();
  signal(SIGTERM, a_child_failed);
  alarm(LIMIT_S);
}

/* How often to repeat what `usual` repetitions show: the driver asks for fewer where everything is slow
 * (under valgrind and the sanitizers) and for more in a long run. */
UNUSED static int rounds(int usual) {
  const char *percent = getenv("ROUNDS_PERCENT");
  int count = percent == NULL ? usual : usual * atoi(percent) / 100;
  return count > 0 ? count : 1;
}

/* A failure anywhere, in a child too, is the whole program's. */
__attribute__((noreturn)) static void fail(void) {
  if (getpid() != test_pid) kill(test_pid, SIGTERM);
  _exit(1);
}

#define CHECK(claim)                                                                                 \
  do {                                                                                               \
    if (!(claim)) {                                                                                  \
      fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #claim, errno);          \
      fail();                                                                                        \
    }                                                                                                \
  } while (0)

/* For a call that returns 0 or a negative errno. */
#define CHECK_IS(call, expected)                                                                     \
  do {                                                                                               \
    long long is_ = (call), expected_ = (expected);                                                  \
    if (is_ != expected_) {                                                                          \
      fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #call, is_, expected_);   \
      fail();                                                                                        \
    }                                                                                                \
  } while (0)

#define CHECK_OK(call) CHECK_IS(call, 0)

__attribute__((noreturn)) UNUSED static void skip(const char *why) {
  fprintf(stderr, "%s\n", why);
  exit(77);
}

/* ---------------------------------------------------------------------------------- processes */

/* fork(), but the child does not outlive its parent. */
UNUSED static pid_t start(void) {
  pid_t parent = getpid(), pid = fork();
  CHECK(pid != -1);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
  }
  return pid;
}

/* The child must have ended by itself, without a failure. */
UNUSED static void finish(pid_t pid) {
  int status;
  CHECK(waitpid(pid, &status, 0) == pid);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

UNUSED static void kill_and_reap(pid_t pid) {
  int status;
  CHECK(kill(pid, SIGKILL) == 0);
  CHECK(waitpid(pid, &status, 0) == pid);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* A pipe over which processes and threads tell each other that they have come to a certain point:
 * each tell() lets one hear() through. */
struct hint {
  int fds[2];
};

UNUSED static struct hint new_hint(void) {
  struct hint hint;
  CHECK(pipe2(hint.fds, O_CLOEXEC) == 0);
  return hint;
}

UNUSED static void tell(struct hint hint) {
  CHECK(write(hint.fds[1], "", 1) == 1);
}

UNUSED static void hear(struct hint hint) {
  char byte;
  ssize_t count;
  do count = read(hint.fds[0], &byte, 1);
  while (count == -1 && errno == EINTR);
  CHECK(count == 1);
}

UNUSED static void end_hint(struct hint hint) {
  close(hint.fds[0]);
  close(hint.fds[1]);
}

/* Zeroed memory that the children share. */
UNUSED static void *shared(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  return memory;
}

UNUSED static void nap(void) {
  nanosleep(&(struct timespec){.tv_nsec = 200 * 1000}, NULL);
}

/* How many times the process stands in the kernel's queue for a flock(2). */
static int blocked(pid_t pid) {
  FILE *table = fopen("/proc/locks", "re");
  CHECK(table != NULL);
  char line[256];
  int count = 0, waiter;
  while (fgets(line, sizeof line, table) != NULL) {
    if (sscanf(line, "%*d: -> FLOCK %*s %*s %d", &waiter) == 1 && waiter == pid) count++;
  }
  fclose(table);
  return count;
}

UNUSED static void await_blocked(pid_t pid) {
  while (blocked(pid) == 0) nap();
}

UNUSED static void await_not_blocked(pid_t pid) {
  while (blocked(pid) > 0) nap();
}

/* Whether a stranger's open of the file can take the lock at this moment. */
UNUSED static bool is_free(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(fd != -1);
  bool free = flock(fd, LOCK_EX | LOCK_NB) == 0;
  close(fd);
  return free;
}

/* ----------------------------------------------------------------------------------- resources */

UNUSED static ino_t inode(const char *path) {
  struct stat stat;
  CHECK(lstat(path, &stat) == 0);
  return stat.st_ino;
}

UNUSED static bool is_open(int fd) {
  return fcntl(fd, F_GETFD) != -1;
}

/* The number that the next open() gets. */
UNUSED static int next_fd(void) {
  int fd = open("/", O_RDONLY | O_CLOEXEC);
  CHECK(fd != -1);
  close(fd);
  return fd;
}

UNUSED static int count_fds(void) {
  int count = 0;
  for (int fd = 0; fd < 1024; fd++) count += is_open(fd);
  return count;
}

/* After a wait that failed: on a busy machine its thread may need a moment more for its last steps. */
UNUSED static void await_fds(int expected) {
  while (count_fds() != expected) nap();
}

UNUSED static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

#endif
