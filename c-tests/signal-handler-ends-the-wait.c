/* A handler that runs in the waiting thread ends a wait that has a deadline or a cancel_fd with -EINTR,
 * whatever it was installed with, so that Ctrl-C works. It runs in that thread alone. */
#include "test.h"

static pthread_t waiter;
static atomic_int handled;

static void handle(int number) {
  (void)number;
  if (pthread_equal(pthread_self(), waiter)) atomic_fetch_add(&handled, 1);
}

/* One signal does: it is not lost from the first try on. */
static void *send_signal(void *unused) {
  await_blocked(getpid());
  CHECK_OK(pthread_kill(waiter, SIGUSR1));
  return unused;
}

static void check_interrupted(int64_t timeout_ms, int cancel_fd) {
  pthread_t thread;
  session_lock_handle lock = 1;
  atomic_store(&handled, 0);
  CHECK_OK(pthread_create(&thread, NULL, send_signal, NULL));
  CHECK_IS(session_lock_wait(".", "s", timeout_ms, cancel_fd, &lock), -EINTR);
  CHECK(lock == 0);
  CHECK_IS(handled, 1);
  CHECK_OK(pthread_join(thread, NULL));
  await_not_blocked(getpid());
}

int main(void) {
  waiter = pthread_self();
  int cancel = eventfd(0, EFD_CLOEXEC);
  pid_t holder = start_holder();
  struct left before = count_left();
  for (int round = 0; round < rounds(20); round++) {
    for (int restarted = 0; restarted < 2; restarted++) {
      struct sigaction action = {.sa_handler = handle, .sa_flags = restarted ? SA_RESTART : 0};
      CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
      check_interrupted(LIMIT_S * 1000, -1);
      check_interrupted(-1, cancel);
      check_interrupted(LIMIT_S * 1000, cancel);
      check_left(before);
    }
  }
  kill_and_reap(holder);
  close(cancel);
}
