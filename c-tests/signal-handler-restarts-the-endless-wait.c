/* A wait that has neither a deadline nor a cancel_fd is flock(2) itself: a handler without SA_RESTART ends
 * it with -EINTR, and after one with SA_RESTART it goes on, and gets the lock. */
#include "test.h"

static pthread_t waiter;
static atomic_int handled;

static void handle(int number) {
  (void)number;
  if (pthread_equal(pthread_self(), waiter)) atomic_fetch_add(&handled, 1);
}

static void *send_signal(void *unused) {
  int before = atomic_load(&handled);
  await_blocked(getpid());
  CHECK_OK(pthread_kill(waiter, SIGUSR1));
  AWAIT(atomic_load(&handled) == before + 1);
  return unused;
}

static void *send_signals_and_kill(void *holder) {
  for (int n = 0; n < 5; n++) send_signal(NULL);
  /* The restarted call stands in the queue again. */
  await_blocked(getpid());
  kill_and_reap(*(pid_t *)holder);
  return NULL;
}

static int wait_beside(int flags, void *(*body)(void *), void *argument, session_lock_handle *lock) {
  struct sigaction action = {.sa_handler = handle, .sa_flags = flags};
  pthread_t thread;
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  CHECK_OK(pthread_create(&thread, NULL, body, argument));
  int error = session_lock_wait(".", "s", -1, -1, lock);
  CHECK_OK(pthread_join(thread, NULL));
  return error;
}

int main(void) {
  session_lock_handle lock = 1;
  waiter = pthread_self();
  pid_t holder = start_holder();
  struct left before = count_left();
  CHECK_IS(wait_beside(0, send_signal, NULL, &lock), -EINTR);
  CHECK(lock == 0);
  check_left(before);

  CHECK_OK(wait_beside(SA_RESTART, send_signals_and_kill, &holder, &lock));
  CHECK(!is_free("s.lock"));
  CHECK_OK(session_lock_release(lock));
  CHECK(is_free("s.lock"));
  CHECK_IS(handled, 6);
}
