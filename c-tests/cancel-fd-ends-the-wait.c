/* A wait ends with -ECANCELED when its cancel_fd becomes readable or is hung up. Nothing is read from
 * it, and nothing of the wait is left. */
#include "test.h"

static int event, ends[2];

static void *make_readable(void *unused) {
  await_blocked(getpid());
  CHECK(eventfd_write(event, 1) == 0);
  return unused;
}

static void *hang_up(void *unused) {
  await_blocked(getpid());
  close(ends[1]);
  return unused;
}

static void cancelled_by(void *(*body)(void *), int64_t timeout_ms, int cancel_fd) {
  pthread_t thread;
  session_lock_handle lock = 1;
  CHECK_OK(pthread_create(&thread, NULL, body, NULL));
  CHECK_IS(session_lock_wait(".", "s", timeout_ms, cancel_fd, &lock), -ECANCELED);
  CHECK(lock == 0);
  CHECK_OK(pthread_join(thread, NULL));
  await_not_blocked(getpid());
}

int main(void) {
  session_lock_handle holder, lock;
  CHECK_OK(session_lock_acquire(".", "s", &holder));
  for (int round = 0; round < rounds(10); round++) {
    event = eventfd(0, EFD_CLOEXEC);
    CHECK(event != -1 && pipe2(ends, O_CLOEXEC) == 0);
    int before = count_fds();
    cancelled_by(make_readable, round % 2 == 0 ? -1 : LIMIT_S * 1000, event);
    eventfd_t value;
    CHECK(eventfd_read(event, &value) == 0 && value == 1);
    cancelled_by(hang_up, -1, ends[0]);
    await_fds(before - 1);
    CHECK_OK(session_lock_check(holder));
    close(event);
    close(ends[0]);
  }
  CHECK_OK(session_lock_release(holder));
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK_OK(session_lock_release(lock));
}
