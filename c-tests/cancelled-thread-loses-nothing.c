/* pthread_cancel(3) of a thread inside session_lock_wait() takes effect only after the call: the wait
 * goes on, what it gets is handed out, and the thread ends at its next cancellation point. */
#include "test.h"

static session_lock_handle got;
static int result, cancel;
static atomic_bool returned;

static void *wait_and_end(void *timeout_ms) {
  result = session_lock_wait(".", "s", *(int64_t *)timeout_ms, cancel, &got);
  atomic_store(&returned, true);
  pthread_testcancel();
  CHECK(!"the cancellation was lost");
  return NULL;
}

static void check_cancelled(int64_t timeout_ms, bool in_vain) {
  session_lock_handle holder;
  pthread_t thread;
  void *value;
  CHECK_OK(session_lock_acquire(".", "s", &holder));
  atomic_store(&returned, false);
  CHECK_OK(pthread_create(&thread, NULL, wait_and_end, &timeout_ms));
  if (!in_vain) await_blocked(getpid());
  CHECK_OK(pthread_cancel(thread));
  if (!in_vain) {
    CHECK(!atomic_load(&returned));
    CHECK(blocked(getpid()) > 0);
    CHECK_OK(session_lock_release(holder));
  }
  CHECK_OK(pthread_join(thread, &value));
  CHECK(value == PTHREAD_CANCELED && atomic_load(&returned));
  CHECK_IS(result, in_vain ? -ETIMEDOUT : 0);
  /* Gone, not only given up: at the release the kernel would give it the lock for a moment. */
  await_not_blocked(getpid());
  CHECK_OK(session_lock_check(in_vain ? holder : got));
  CHECK_OK(session_lock_release(in_vain ? holder : got));
  CHECK(is_free("s.lock"));
}

int main(void) {
  int before = count_fds();
  for (int round = 0; round < rounds(5); round++) {
    cancel = -1;
    check_cancelled(-1, false);
    check_cancelled(LIMIT_S * 1000, false);
    check_cancelled(20, true);
    cancel = eventfd(0, EFD_CLOEXEC);
    check_cancelled(-1, false);
    close(cancel);
  }
  await_fds(before);
}
