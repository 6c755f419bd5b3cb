/* A wait for a lock that stays held ends with -ETIMEDOUT, never early, and leaves no descriptor and no
 * lock; one whose lock comes free in time has it. */
#include "test.h"

static void *release_when_blocked(void *lock) {
  await_blocked(getpid());
  CHECK_OK(session_lock_release(*(session_lock_handle *)lock));
  return NULL;
}

int main(void) {
  session_lock_handle holder, lock;
  CHECK_OK(session_lock_acquire(".", "s", &holder));
  int before = count_fds();
  const int64_t timeouts[] = {0, 1, 10, 100};
  for (int n = 0; n < 4; n++) {
    int64_t begin = now_us();
    CHECK_IS(session_lock_wait(".", "s", timeouts[n], -1, &lock), -ETIMEDOUT);
    int64_t took = now_us() - begin;
    /* The upper bound is for a busy machine. */
    CHECK(took >= timeouts[n] * 1000 && took < timeouts[n] * 1000 + 10000000);
    CHECK(lock == 0);
    await_not_blocked(getpid());
  }
  await_fds(before);
  CHECK_OK(session_lock_check(holder));

  pthread_t thread;
  CHECK_OK(pthread_create(&thread, NULL, release_when_blocked, &holder));
  CHECK_OK(session_lock_wait(".", "s", LIMIT_S * 1000, -1, &lock));
  CHECK_OK(pthread_join(thread, NULL));
  CHECK_OK(session_lock_release(lock));
  /* Free: no deadline matters, not even one beyond all clocks. */
  CHECK_OK(session_lock_wait(".", "s", 0, -1, &lock));
  CHECK_OK(session_lock_release(lock));
  CHECK_OK(session_lock_wait(".", "s", INT64_MAX, -1, &lock));
  CHECK_OK(session_lock_release(lock));
}
