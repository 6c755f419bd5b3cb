/* A lock that is granted when the caller has already given up, but not yet stopped its thread, is not
 * lost: the call ends with it. */
#include "test.h"

#include <dlfcn.h>

static pid_t holder;
static int cancelled, threads_before;

/* The library's calls come here. */
int pthread_cancel(pthread_t thread) {
  int (*real)(pthread_t);
  *(void **)&real = dlsym(RTLD_NEXT, "pthread_cancel");
  cancelled++;
  kill_and_reap(holder);
  AWAIT(waiters() == 0 && !is_free("s.lock"));
  /* A busy machine may take longer than the caller's patience to end it. */
  AWAIT(count_threads() == threads_before);
  return real(thread);
}

int main(void) {
  session_lock_handle lock;
  for (int round = 1; round <= rounds(20); round++) {
    holder = start_holder();
    struct left before = count_left();
    threads_before = before.threads;
    int error;
    /* On a busy machine the time can be over before the thread is started. */
    do error = session_lock_wait(".", "s", 2, -1, &lock);
    while (error == -ETIMEDOUT && cancelled < round);
    CHECK_OK(error);
    CHECK_IS(cancelled, round);
    CHECK_OK(session_lock_check(lock));
    CHECK(!is_free("s.lock"));
    CHECK_OK(session_lock_release(lock));
    CHECK(is_free("s.lock"));
    check_left(before);
  }
}
