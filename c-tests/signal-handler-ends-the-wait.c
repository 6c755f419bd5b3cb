/* A handler that runs in the waiting thread ends the wait with -EINTR: always where there is a deadline
 * or a cancel_fd, and without either only if it was installed without SA_RESTART (then flock(2) is not
 * restarted). The handler runs in that thread alone, and a restarted wait still gets the lock. */
#include "test.h"

static pthread_t waiter;
static atomic_int handled;
static atomic_bool ended;

static void handle(int number) {
  (void)number;
  if (pthread_equal(pthread_self(), waiter)) atomic_fetch_add(&handled, 1);
}

/* More than one may be needed: the first can come just before the call that it is to interrupt. */
static void *send_signals(void *unused) {
  await_blocked(getpid());
  while (!atomic_load(&ended)) {
    CHECK_OK(pthread_kill(waiter, SIGUSR1));
    nap();
  }
  return unused;
}

static void *send_signal_and_release(void *lock) {
  await_blocked(getpid());
  CHECK_OK(pthread_kill(waiter, SIGUSR1));
  while (atomic_load(&handled) == 0) nap();
  /* The restarted call stands in the queue again. */
  await_blocked(getpid());
  CHECK_OK(session_lock_release(*(session_lock_handle *)lock));
  return NULL;
}

static void install(int flags) {
  struct sigaction action = {.sa_handler = handle, .sa_flags = flags};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  atomic_store(&handled, 0);
  atomic_store(&ended, false);
}

static void check_interrupted(int flags, int64_t timeout_ms, int cancel_fd) {
  pthread_t thread;
  session_lock_handle lock = 1;
  install(flags);
  CHECK_OK(pthread_create(&thread, NULL, send_signals, NULL));
  CHECK_IS(session_lock_wait(".", "s", timeout_ms, cancel_fd, &lock), -EINTR);
  atomic_store(&ended, true);
  CHECK(lock == 0);
  CHECK_OK(pthread_join(thread, NULL));
  CHECK(handled > 0);
  await_not_blocked(getpid());
}

int main(void) {
  session_lock_handle holder, lock;
  waiter = pthread_self();
  int cancel = eventfd(0, EFD_CLOEXEC);
  CHECK_OK(session_lock_acquire(".", "s", &holder));
  const int flags[] = {0, SA_RESTART};
  for (int n = 0; n < 2; n++) {
    check_interrupted(flags[n], LIMIT_S * 1000, -1);
    check_interrupted(flags[n], -1, cancel);
    check_interrupted(flags[n], LIMIT_S * 1000, cancel);
  }
  check_interrupted(0, -1, -1);

  pthread_t thread;
  install(SA_RESTART);
  CHECK_OK(pthread_create(&thread, NULL, send_signal_and_release, &holder));
  CHECK_OK(session_lock_wait(".", "s", -1, -1, &lock));
  CHECK_OK(pthread_join(thread, NULL));
  CHECK_IS(handled, 1);
  CHECK_OK(session_lock_release(lock));
  close(cancel);
}
