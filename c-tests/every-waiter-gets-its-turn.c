/* Waiters of every kind stand in the kernel's queue behind a holder; each gets the lock once, and the
 * lock is free in the end. */
#include "test.h"

enum { WAITERS = 8 };

int main(void) {
  struct hint turn = new_hint();
  int cancel = eventfd(0, EFD_CLOEXEC);
  atomic_int *inside = shared(sizeof *inside);
  session_lock_handle lock;
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  pid_t pids[WAITERS];
  for (int waiter = 0; waiter < WAITERS; waiter++) {
    pids[waiter] = start();
    if (pids[waiter] != 0) continue;
    int64_t timeout = waiter % 2 == 0 ? -1 : LIMIT_S * 1000;
    int cancel_fd = waiter % 4 < 2 ? -1 : cancel;
    CHECK_OK(session_lock_wait(".", "s", timeout, cancel_fd, &lock));
    CHECK(atomic_fetch_add(inside, 1) == 0);
    tell(turn);
    CHECK(atomic_fetch_sub(inside, 1) == 1);
    CHECK_OK(session_lock_release(lock));
    _exit(0);
  }
  for (int waiter = 0; waiter < WAITERS; waiter++) await_blocked(pids[waiter]);
  CHECK_OK(session_lock_release(lock));
  for (int waiter = 0; waiter < WAITERS; waiter++) {
    hear(turn);
    finish(pids[waiter]);
  }
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK_OK(session_lock_release(lock));
  close(cancel);
  end_hint(turn);
}
