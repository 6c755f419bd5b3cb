/* Threads with the smallest stacks can wait: 16 KiB is the least that glibc allows. */
#include "test.h"

static pid_t holder;

static void *wait_for_it(void *unused) {
  session_lock_handle lock;
  CHECK_IS(session_lock_wait(".", "s", 5, -1, &lock), -ETIMEDOUT);
  kill_and_reap(holder);
  CHECK_OK(session_lock_wait(".", "s", LIMIT_S * 1000, -1, &lock));
  CHECK_OK(session_lock_release(lock));
  return unused;
}

int main(void) {
  size_t least = (size_t)sysconf(_SC_THREAD_STACK_MIN);
  /* musl allows 2 KiB, in which no function has room for the name of a file. */
  if (least < 16 * 1024) least = 16 * 1024;
  for (size_t size = least; size <= 128 * 1024; size *= 2) {
    pthread_attr_t attributes;
    pthread_t thread;
    holder = start_holder();
    CHECK_OK(pthread_attr_init(&attributes));
    CHECK_OK(pthread_attr_setstacksize(&attributes, size));
    CHECK_OK(pthread_create(&thread, &attributes, wait_for_it, NULL));
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_OK(pthread_attr_destroy(&attributes));
  }
}
