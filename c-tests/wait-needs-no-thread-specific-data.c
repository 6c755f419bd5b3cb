/* There is no memory for what would tell of the end of the thread that helps a wait (a host with many keys
 * of its own may need some there). The wait still obeys deadline and cancellation, and gets the lock. */
#include "test.h"

#include <dlfcn.h>

static atomic_bool refuse;
static atomic_int refused;
static int64_t refuse_at_us;

/* The library's calls come here. */
int pthread_setspecific(pthread_key_t key, const void *value) {
  int (*real)(pthread_key_t, const void *);
  if (atomic_load(&refuse) && gettid() != getpid()) {
    /* Without a call that a cancelled thread would end in: the function itself is none. */
    while (now_us() < refuse_at_us) sched_yield();
    atomic_fetch_add(&refused, 1);
    return ENOMEM;
  }
  *(void **)&real = dlsym(RTLD_NEXT, "pthread_setspecific");
  return real(key, value);
}

/* Does it as soon as the waiter waits, which has found out by then that it must do without. */
static pid_t start_assistant(pid_t holder, int cancel) {
  pid_t waiter = getpid(), assistant = start();
  if (assistant != 0) return assistant;
  AWAIT(is_in(waiter, waiter, SYS_ppoll));
  if (holder != 0) CHECK(kill(holder, SIGKILL) == 0);
  if (holder == 0) CHECK(eventfd_write(cancel, 1) == 0);
  _exit(0);
}

int main(void) {
  session_lock_handle lock;
  int cancel = eventfd(0, EFD_CLOEXEC);
  pid_t holder = start_holder();
  struct left before = count_left();
  atomic_store(&refuse, true);
  alarm(30);
  CHECK_IS(session_lock_wait(".", "s", 20, -1, &lock), -ETIMEDOUT);
  CHECK(lock == 0);
  check_left(before);
  /* The thread finds out when the wait is already over. */
  refuse_at_us = now_us() + 100000;
  CHECK_IS(session_lock_wait(".", "s", 20, -1, &lock), -ETIMEDOUT);
  CHECK(lock == 0 && now_us() >= refuse_at_us);
  check_left(before);
  int usual = atomic_load(&refused);
  CHECK(usual > 0);

  pid_t assistant = start_assistant(0, cancel);
  CHECK_IS(session_lock_wait(".", "s", -1, cancel, &lock), -ECANCELED);
  CHECK(lock == 0 && atomic_load(&refused) == usual + 1);
  finish(assistant);
  eventfd_t value;
  CHECK(eventfd_read(cancel, &value) == 0);
  check_left(before);

  assistant = start_assistant(holder, cancel);
  CHECK_OK(session_lock_wait(".", "s", -1, cancel, &lock));
  CHECK(atomic_load(&refused) == usual + 2 && !is_free("s.lock"));
  CHECK_OK(session_lock_release(lock));
  CHECK(is_free("s.lock"));
  check_left(before);
  finish(assistant);
  CHECK(waitpid(holder, NULL, 0) == holder);
  close(cancel);
}
