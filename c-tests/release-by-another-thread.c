/* A lock is the process's, not the thread's: any thread may check and release it. Of many that release
 * one handle at the same time, exactly one succeeds, and none frees a lock that was taken since. */
#include "test.h"

enum { THREADS = 4 };

static pthread_barrier_t barrier;
static session_lock_handle lock;
static atomic_int released;

static void *release(void *unused) {
  pthread_barrier_wait(&barrier);
  int error = session_lock_release(lock);
  if (error == 0) {
    atomic_fetch_add(&released, 1);
    session_lock_handle next;
    CHECK_OK(session_lock_wait(".", "s", -1, -1, &next));
    CHECK_OK(session_lock_check(next));
    CHECK(!is_free("s.lock"));
    CHECK_OK(session_lock_release(next));
  } else {
    CHECK_IS(error, -EBADF);
  }
  return unused;
}

int main(void) {
  CHECK_OK(pthread_barrier_init(&barrier, NULL, THREADS));
  for (int round = 0; round < rounds(50); round++) {
    CHECK_OK(session_lock_acquire(".", "s", &lock));
    released = 0;
    pthread_t threads[THREADS];
    for (int n = 0; n < THREADS; n++) CHECK_OK(pthread_create(&threads[n], NULL, release, NULL));
    for (int n = 0; n < THREADS; n++) CHECK_OK(pthread_join(threads[n], NULL));
    CHECK_IS(released, 1);
    CHECK_IS(session_lock_check(lock), -EBADF);
  }
  CHECK_OK(pthread_barrier_destroy(&barrier));
}
