/* A wait has two descriptors, its lock file and an eventfd; one more is for all waits of a process, also if
 * many begin at the same moment, and a child of fork(2) has its own. */
#include "test.h"

enum { WAITERS = 20 };

static int cancel;
static pthread_barrier_t barrier;

/* The library's call comes here, and takes so long that all waits begin meanwhile. */
int signalfd(int fd, const sigset_t *signals, int flags) {
  int number = (int)syscall(SYS_signalfd4, fd, signals, NSIG / 8, flags);
  sleep_until_us(now_us() + 20000);
  return number;
}

static void *wait_in_vain(void *unused) {
  session_lock_handle lock;
  pthread_barrier_wait(&barrier);
  CHECK_IS(session_lock_wait(".", "s", -1, cancel, &lock), -ECANCELED);
  return unused;
}

static void begin_waits(pthread_t waiters[]) {
  int threads = count_threads();
  for (int n = 0; n < WAITERS; n++) CHECK_OK(pthread_create(&waiters[n], NULL, wait_in_vain, NULL));
  /* Each has a thread that helps it, which it starts last. */
  AWAIT(count_threads() == threads + 2 * WAITERS);
}

static void end_waits(pthread_t waiters[]) {
  CHECK(eventfd_write(cancel, 1) == 0);
  for (int n = 0; n < WAITERS; n++) CHECK_OK(pthread_join(waiters[n], NULL));
  eventfd_t value;
  CHECK(eventfd_read(cancel, &value) == 0);
}

int main(void) {
  pid_t holder = start_holder();
  pthread_t waiters[WAITERS], of_child[WAITERS];
  cancel = eventfd(0, EFD_CLOEXEC);
  CHECK(cancel != -1);
  CHECK_OK(pthread_barrier_init(&barrier, NULL, WAITERS));
  struct left left = count_left();
  int before = left.fds;
  for (int round = 0; round < 2; round++) {
    begin_waits(waiters);
    CHECK_IS(count_fds(), before + 2 * WAITERS + 1);
    pid_t child = start();
    if (child == 0) {
      cancel = eventfd(0, EFD_CLOEXEC);
      CHECK_IS(count_fds(), before + 1);
      begin_waits(of_child);
      CHECK_IS(count_fds(), before + 1 + 2 * WAITERS + 1);
      end_waits(of_child);
      await_fds(before + 1);
      _exit(0);
    }
    finish(child);
    end_waits(waiters);
    check_left(left);
  }
  kill_and_reap(holder);
}
