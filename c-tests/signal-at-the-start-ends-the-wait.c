/* A signal that comes while the helper thread is being started is not lost: the wait, which has not begun
 * yet, ends with -EINTR all the same. (A handler that ran before it would leave the caller to sleep until
 * its deadline.) */
#include "test.h"

#include <dlfcn.h>

typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static bool waiting;
static volatile sig_atomic_t handled;

static void handle(int number) {
  (void)number;
  handled++;
}

/* The library's calls come here. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *),
                   void *argument) {
  create *real;
  *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
  if (waiting) raise(SIGUSR1);
  return real(thread, attributes, entry, argument);
}

int main(void) {
  struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
  session_lock_handle lock;
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  pid_t holder = start_holder();
  waiting = true;
  CHECK_IS(session_lock_wait(".", "s", LIMIT_S * 1000, -1, &lock), -EINTR);
  CHECK_IS(handled, 1);
  kill_and_reap(holder);
  CHECK(is_free("s.lock"));
}
