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
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <session_lock.h>

#define UNUSED __attribute__((unused))

/* A program that hangs is ended; far beyond what any takes, under valgrind on a busy machine too. A
 * long run has ten times as long. */
#define LIMIT_S 120

static pid_t test_pid;

static void a_child_failed(int number) {
  (void)number;
  _exit(1);
}

/* How many repetitions the driver wants of a hundred: fewer where everything is slow (under valgrind and
 * the sanitizers), more in a long run. */
static int percent(void) {
  const char *text = getenv("ROUNDS_PERCENT");
  return text == NULL ? 100 : atoi(text);
}

/* How often to repeat what `usual` repetitions show, in a long run at most `most` times. */
UNUSED static int rounds_up_to(int most, int usual) {
  int64_t count = (int64_t)usual * percent() / 100;
  return count > most ? most : count > 0 ? (int)count : 1;
}

UNUSED static int rounds(int usual) {
  return rounds_up_to(INT_MAX, usual);
}

__attribute__((constructor)) static void begin(void) {
  test_pid = getpid();
  signal(SIGTERM, a_child_failed);
  alarm(percent() > 100 ? 10 * LIMIT_S : LIMIT_S);
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

UNUSED static int64_t now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

UNUSED static void sleep_until_us(int64_t us) {
  struct timespec at = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) continue;
}

UNUSED static void nap(void) {
  nanosleep(&(struct timespec){.tv_nsec = 200 * 1000}, NULL);
}

/* For a state that nothing announces. */
#define AWAIT(state)                                                                                 \
  do {                                                                                               \
    for (int64_t since_ = now_us(); !(state); nap()) {                                               \
      if (now_us() - since_ < LIMIT_S / 2 * INT64_C(1000000)) continue;                              \
      fprintf(stderr, "%s:%d: not so in %d s: %s\n", __FILE__, __LINE__, LIMIT_S / 2, #state);       \
      fail();                                                                                        \
    }                                                                                                \
  } while (0)

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

/* ---------------------------------------------------------------------------------------- locks */

/* A stranger's lock on the file, taken without the library: the descriptor, or -1 if it is held. */
static int stranger_locks(const char *path) {
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  CHECK(fd != -1);
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  CHECK(errno == EWOULDBLOCK);
  close(fd);
  return -1;
}

/* Whether a stranger can take the lock at this moment. */
UNUSED static bool is_free(const char *path) {
  CHECK(access(path, F_OK) == 0);
  int fd = stranger_locks(path);
  if (fd != -1) close(fd);
  return fd != -1;
}

/* A process that holds "./s.lock" until it is killed. */
UNUSED static pid_t start_holder(void) {
  struct hint held = new_hint();
  pid_t pid = start();
  if (pid == 0) {
    CHECK(stranger_locks("s.lock") != -1);
    tell(held);
    for (;;) pause();
  }
  hear(held);
  end_hint(held);
  return pid;
}

/* How many calls of flock(2) stand in the kernel's queues: of the process, or of all (0); for the file
 * with this inode number, or for any (0). A waiter's line is indented by one for each before it. */
static int count_blocked(pid_t pid, uintmax_t file) {
  FILE *table = fopen("/proc/locks", "re");
  CHECK(table != NULL);
  char line[8192];
  int count = 0, waiter;
  uintmax_t inode;
  while (fgets(line, sizeof line, table) != NULL) {
    if (sscanf(line, "%*d: -> FLOCK %*s %*s %d %*x:%*x:%ju", &waiter, &inode) != 2) continue;
    count += (pid == 0 || pid == waiter) && (file == 0 || file == inode);
  }
  fclose(table);
  return count;
}

UNUSED static int blocked(pid_t pid) {
  return count_blocked(pid, 0);
}

/* How many wait for "./s.lock". */
UNUSED static int waiters(void) {
  struct stat file;
  CHECK(stat("s.lock", &file) == 0);
  return count_blocked(0, file.st_ino);
}

UNUSED static void await_blocked(pid_t pid) {
  AWAIT(blocked(pid) > 0);
}

UNUSED static void await_not_blocked(pid_t pid) {
  AWAIT(blocked(pid) == 0);
}

/* Whether the thread is in this system call. */
UNUSED static bool is_in(pid_t process, pid_t thread, long call) {
  char name[64], text[32] = "";
  snprintf(name, sizeof name, "/proc/%d/task/%d/syscall", process, thread);
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  if (fd == -1) return false;
  ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  return length > 0 && text[0] >= '0' && text[0] <= '9' && atol(text) == call;
}

/* One of this process's threads that is in the system call, or 0, and how many there are. */
UNUSED static pid_t thread_in(long call, int *count) {
  DIR *tasks = opendir("/proc/self/task");
  CHECK(tasks != NULL);
  pid_t found = 0;
  *count = 0;
  for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
    if (!is_in(getpid(), atoi(task->d_name), call)) continue;
    found = atoi(task->d_name);
    ++*count;
  }
  closedir(tasks);
  return found;
}

/* How many of this process's threads are blocked in flock(2), on a filesystem whose own queue is in no
 * table, too. */
UNUSED static int threads_in_flock(void) {
  int count;
  thread_in(SYS_flock, &count);
  return count;
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

static int count_entries(const char *path) {
  DIR *directory = opendir(path);
  CHECK(directory != NULL);
  int count = 0;
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) count += entry->d_name[0] != '.';
  closedir(directory);
  return count;
}

/* The listing's own descriptor is counted each time. */
UNUSED static int count_fds(void) {
  return count_entries("/proc/self/fd");
}

/* How many of the process's descriptors are those of lock files. */
UNUSED static int count_lock_files(void) {
  DIR *fds = opendir("/proc/self/fd");
  CHECK(fds != NULL);
  int count = 0;
  for (struct dirent *fd; (fd = readdir(fds)) != NULL;) {
    char target[4096];
    ssize_t length = readlinkat(dirfd(fds), fd->d_name, target, sizeof target);
    count += length > 5 && memcmp(target + length - 5, ".lock", 5) == 0;
  }
  closedir(fds);
  return count;
}

UNUSED static int count_threads(void) {
  return count_entries("/proc/self/task");
}

/* After a wait that failed: on a busy machine its thread may need a moment more for its last steps. */
UNUSED static void await_fds(int expected) {
  AWAIT(count_fds() == expected);
}

/* What the process had before a call: to see that nothing of the call is left. */
struct left {
  int threads, fds;
};

UNUSED static struct left count_left(void) {
  return (struct left){count_threads(), count_fds()};
}

UNUSED static void check_left(struct left before) {
  /* The kernel lists a thread for a moment after it has been joined. */
  AWAIT(count_threads() == before.threads);
  await_fds(before.fds);
}

#endif
