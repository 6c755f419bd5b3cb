/* One thread is in an open(2) that takes long, as on a network filesystem, and another forks meanwhile:
 * session_lock_release() of any other lock waits for neither. */
#include "test.h"

#include <dlfcn.h>
#include <stdarg.h>

static struct hint opening, go_on;
static session_lock_handle lock;
static atomic_int forking_thread;
static atomic_bool slow, released, forked;

/* The library's calls come here, by one name or the other. */
static int slow_open(const char *name, const char *path, int flags, mode_t mode) {
  int (*real)(const char *, int, ...);
  *(void **)&real = dlsym(RTLD_NEXT, name);
  const char *file = strrchr(path, '/');
  if (file != NULL && strcmp(file, "/slow.lock") == 0 && atomic_exchange(&slow, false)) {
    tell(opening);
    hear(go_on);
  }
  return real(path, flags, mode);
}

#define DEFINE_OPEN(name)                                                                            \
  int name(const char *path, int flags, ...) {                                                       \
    va_list rest;                                                                                    \
    va_start(rest, flags);                                                                           \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                        \
    va_end(rest);                                                                                    \
    return slow_open(#name, path, flags, mode);                                                      \
  }

DEFINE_OPEN(open)
#ifndef open64 /* in musl's header another word for open */
DEFINE_OPEN(open64)
#endif

static void *open_slowly(void *unused) {
  session_lock_handle own;
  CHECK_OK(session_lock_acquire(".", "slow", &own));
  CHECK_OK(session_lock_release(own));
  return unused;
}

static void *fork_once(void *begun) {
  atomic_store(&forking_thread, gettid());
  tell(*(struct hint *)begun);
  pid_t child = fork();
  CHECK(child != -1);
  if (child == 0) _exit(0);
  finish(child);
  atomic_store(&forked, true);
  return NULL;
}

static void *release_it(void *unused) {
  CHECK_OK(session_lock_release(lock));
  atomic_store(&released, true);
  return unused;
}

int main(void) {
  pthread_t threads[3];
  struct hint begun = new_hint();
  opening = new_hint(), go_on = new_hint();
  for (int with_fork = 0; with_fork < 2; with_fork++) {
    atomic_store(&slow, true);
    atomic_store(&released, false);
    CHECK_OK(session_lock_acquire(".", "s", &lock));
    CHECK_OK(pthread_create(&threads[0], NULL, open_slowly, NULL));
    hear(opening);
    if (with_fork) {
      CHECK_OK(pthread_create(&threads[1], NULL, fork_once, &begun));
      hear(begun);
      AWAIT(atomic_load(&forked) || is_in(getpid(), atomic_load(&forking_thread), SYS_futex));
    }
    CHECK_OK(pthread_create(&threads[2], NULL, release_it, NULL));
    AWAIT(atomic_load(&released));
    CHECK(is_free("s.lock"));
    tell(go_on);
    for (int n = 0; n < 3; n++) {
      if (n != 1 || with_fork) CHECK_OK(pthread_join(threads[n], NULL));
    }
  }
  end_hint(opening);
  end_hint(go_on);
  end_hint(begun);
}
