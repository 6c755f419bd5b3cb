/* A thousand processes wait in the kernel's queue behind a holder, with and without a deadline and a
 * cancel_fd. Each gets the lock once, one after the other, whether the one before it released the lock or
 * died with it; and the lock is free in the end. */
#include "test.h"

static void wait_for_a_turn(int number, int cancel, atomic_int *inside) {
  session_lock_handle lock;
  int64_t timeout_ms = number % 2 == 0 ? -1 : LIMIT_S * 1000;
  CHECK_OK(session_lock_wait(".", "s", timeout_ms, number % 4 < 2 ? -1 : cancel, &lock));
  CHECK(atomic_fetch_add(inside, 1) == 0);
  CHECK_OK(session_lock_check(lock));
  CHECK(atomic_fetch_sub(inside, 1) == 1);
  if (number % 8 < 4) CHECK_OK(session_lock_release(lock));
  _exit(0);
}

int main(void) {
  int count = rounds_up_to(1000, 1000);
  int cancel = eventfd(0, EFD_CLOEXEC);
  atomic_int *inside = shared(sizeof *inside);
  session_lock_handle lock;
  pid_t holder = start_holder();
  int64_t begin = now_us();
  for (int number = 0; number < count; number++) {
    if (start() == 0) wait_for_a_turn(number, cancel, inside);
  }
  AWAIT(waiters() == count);
  int64_t queued = now_us();
  kill_and_reap(holder);
  for (int number = 0; number < count; number++) {
    int status;
    CHECK(wait(&status) > 0);
    CHECK_IS(status, 0);
  }
  printf("%d processes in the queue after %jd ms, all done %jd ms later\n", count,
         (intmax_t)(queued - begin) / 1000, (intmax_t)(now_us() - queued) / 1000);
  CHECK(is_free("s.lock"));
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK_OK(session_lock_release(lock));
  close(cancel);
}
