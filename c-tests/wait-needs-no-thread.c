/* Where no thread can be started, the wait still obeys deadline, cancellation and signals, and gets the
 * lock: once because pthread_create(3) says so, once because the system does (RLIMIT_NPROC, by root, who
 * becomes somebody else for it). */
#include "test.h"

#include <dlfcn.h>

enum { NOBODY_AT_ALL = 54321 };

typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static bool refuse;
static int refused;
static volatile sig_atomic_t handled;

static void handle(int number) {
  (void)number;
  handled++;
}

/* The library's calls come here. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *),
                   void *argument) {
  create *real;
  *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
  int error = refuse ? EAGAIN : real(thread, attributes, entry, argument);
  refused += error == EAGAIN;
  return error;
}

/* Does what it is told by a byte as soon as the waiter waits. */
static void assist(pid_t waiter, pid_t holder, int steps, int cancel) {
  char step;
  while (read(steps, &step, 1) == 1) {
    AWAIT(is_in(waiter, waiter, SYS_ppoll));
    if (step == 'c') CHECK(eventfd_write(cancel, 1) == 0);
    if (step == 's') CHECK(kill(waiter, SIGUSR1) == 0);
    if (step == 'k') CHECK(kill(holder, SIGKILL) == 0);
  }
  _exit(0);
}

static void check_waits(void (*allow_none)(void)) {
  struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
  session_lock_handle lock;
  int cancel = eventfd(0, EFD_CLOEXEC), steps[2];
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  CHECK(pipe2(steps, O_CLOEXEC) == 0);
  pid_t waiter = getpid(), holder = start_holder(), assistant = start();
  if (assistant == 0) {
    close(steps[1]);
    assist(waiter, holder, steps[0], cancel);
  }
  allow_none();
  struct left before = count_left();

  for (int64_t timeout_ms = 0; timeout_ms <= 100; timeout_ms = timeout_ms * 3 + 1) {
    int64_t begin = now_us();
    CHECK_IS(session_lock_wait(".", "s", timeout_ms, -1, &lock), -ETIMEDOUT);
    int64_t took = now_us() - begin;
    CHECK(lock == 0);
    CHECK(took >= timeout_ms * 1000 && took <= timeout_ms * 1000 + 10000000);
  }
  for (int round = 0; round < rounds(20); round++) {
    CHECK(write(steps[1], "s", 1) == 1);
    CHECK_IS(session_lock_wait(".", "s", LIMIT_S * 1000, -1, &lock), -EINTR);
    CHECK(lock == 0);
    CHECK_IS(handled, round + 1);
  }
  CHECK(write(steps[1], "c", 1) == 1);
  CHECK_IS(session_lock_wait(".", "s", -1, cancel, &lock), -ECANCELED);
  CHECK(lock == 0);

  CHECK(write(steps[1], "k", 1) == 1);
  CHECK_OK(session_lock_wait(".", "s", LIMIT_S * 1000, -1, &lock));
  CHECK(!is_free("s.lock"));
  CHECK_OK(session_lock_release(lock));
  CHECK(is_free("s.lock"));
  CHECK(refused > 0);
  check_left(before);
  close(steps[0]);
  close(steps[1]);
  close(cancel);
  finish(assistant);
  CHECK(waitpid(holder, NULL, 0) == holder);
}

static void refuse_it(void) {
  refuse = true;
}

static void *nothing(void *unused) {
  return unused;
}

static void limit_processes(void) {
  struct rlimit none = {0, 0};
  pthread_t thread;
  CHECK(setrlimit(RLIMIT_NPROC, &none) == 0);
  CHECK_IS(pthread_create(&thread, NULL, nothing, NULL), EAGAIN);
}

int main(void) {
  bool root = geteuid() == 0;
  pid_t child = root ? start() : 0;
  if (root && child == 0) {
    CHECK(chown(".", NOBODY_AT_ALL, NOBODY_AT_ALL) == 0);
    CHECK(setgid(NOBODY_AT_ALL) == 0 && setuid(NOBODY_AT_ALL) == 0);
    /* So that /proc tells us about ourselves. */
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
    check_waits(limit_processes);
    _exit(0);
  }
  if (root) finish(child);
  check_waits(refuse_it);
  if (!root) skip("RLIMIT_NPROC needs root");
}
