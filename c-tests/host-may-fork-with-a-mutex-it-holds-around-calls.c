/* A host program has fork handlers of its own, which take a mutex that its threads hold while they call
 * the library. It registered them before it called the library for the first time. Nothing hangs. */
#include "test.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool over;
static atomic_int locked;

static void lock_mutex(void) {
  CHECK_OK(pthread_mutex_lock(&mutex));
}

static void unlock_mutex(void) {
  CHECK_OK(pthread_mutex_unlock(&mutex));
}

static void *lock_all_the_time(void *unused) {
  while (!atomic_load(&over)) {
    session_lock_handle lock;
    lock_mutex();
    CHECK_OK(session_lock_acquire(".", "s", &lock));
    CHECK_OK(session_lock_check(lock));
    CHECK_OK(session_lock_release(lock));
    unlock_mutex();
    atomic_fetch_add(&locked, 1);
    sched_yield();
  }
  return unused;
}

int main(void) {
  pthread_t thread;
  CHECK_OK(pthread_atfork(lock_mutex, unlock_mutex, unlock_mutex));
  CHECK_OK(pthread_create(&thread, NULL, lock_all_the_time, NULL));
  AWAIT(atomic_load(&locked) > 0);
  for (int forks = 0; forks < rounds_up_to(20000, 500); forks++) {
    pid_t child = fork();
    CHECK(child != -1);
    if (child == 0) _exit(0);
    finish(child);
  }
  atomic_store(&over, true);
  CHECK_OK(pthread_join(thread, NULL));
}
