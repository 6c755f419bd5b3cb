/* A process that holds the lock, has one thread only, and would wait for that lock with neither a deadline
 * nor a cancel_fd, would wait for ever: -EDEADLK. Where anything could end the wait, it waits. */
#include "test.h"

static session_lock_handle held;

static void *release_when_blocked(void *unused) {
  await_blocked(getpid());
  CHECK_OK(session_lock_release(held));
  return unused;
}

/* The host closes all descriptors: the lock is a stranger's, who can release it. */
static void lose_it(void) {
  session_lock_handle lock;
  CHECK_OK(session_lock_acquire(".", "s", &held));
  for (int fd = 3; fd < 1024; fd++) close(fd);
  struct hint locked = new_hint();
  pid_t waiter = getpid(), stranger = start();
  if (stranger == 0) {
    CHECK(stranger_locks("s.lock") != -1);
    tell(locked);
    await_blocked(waiter);
    _exit(0);
  }
  hear(locked);
  CHECK_OK(session_lock_wait(".", "s", -1, -1, &lock));
  finish(stranger);
  CHECK_IS(session_lock_release(held), -ESTALE);
  CHECK_OK(session_lock_check(lock));
  CHECK_OK(session_lock_release(lock));
  end_hint(locked);
}

int main(void) {
  session_lock_handle lock = 1;
  char here[4096];
  CHECK(getcwd(here, sizeof here) != NULL);
  int cancel = eventfd(0, EFD_CLOEXEC), cancelled = eventfd(1, EFD_CLOEXEC);
  CHECK_OK(session_lock_acquire(".", "s", &held));

  alarm(20);
  CHECK_IS(session_lock_wait(".", "s", -1, -1, &lock), -EDEADLK);
  CHECK(lock == 0);
  CHECK_IS(session_lock_wait(here, "s", -1, -1, &lock), -EDEADLK);
  CHECK(lock == 0);
  alarm(LIMIT_S);
  CHECK_OK(session_lock_check(held));
  CHECK(!is_free("s.lock"));

  CHECK_IS(session_lock_wait(".", "s", 0, -1, &lock), -ETIMEDOUT);
  CHECK_IS(session_lock_wait(".", "s", 20, -1, &lock), -ETIMEDOUT);
  CHECK_IS(session_lock_wait(".", "s", 20, cancel, &lock), -ETIMEDOUT);
  CHECK_IS(session_lock_wait(".", "s", -1, cancelled, &lock), -ECANCELED);

  /* A forked child does not hold it: its parent can release it. */
  pid_t child = start();
  if (child == 0) {
    CHECK_OK(session_lock_wait(".", "s", -1, -1, &lock));
    CHECK_OK(session_lock_release(lock));
    _exit(0);
  }
  await_blocked(child);
  CHECK_OK(session_lock_release(held));
  finish(child);

  /* Another thread can release it, too. */
  pthread_t thread;
  CHECK_OK(session_lock_acquire(".", "s", &held));
  CHECK_OK(pthread_create(&thread, NULL, release_when_blocked, NULL));
  CHECK_OK(session_lock_wait(".", "s", -1, -1, &lock));
  CHECK_OK(pthread_join(thread, NULL));
  CHECK_OK(session_lock_release(lock));
  close(cancel);
  close(cancelled);
  /* The kernel lists a thread for a moment after it has been joined. */
  AWAIT(count_threads() == 1);
  lose_it();
}
