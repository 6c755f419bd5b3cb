/* A plugin's life: dlopen(3), a lock held and another waited for in a thread, dlclose(3), fork(2). The
 * fork hooks and the waiting thread point into the library, so it must stay; the wait still ends. */
#include "test.h"

#include <dlfcn.h>

static int (*acquire)(const char *, const char *, session_lock_handle *);
static int (*release)(session_lock_handle);
static int (*check)(session_lock_handle);
static int (*wait_for)(const char *, const char *, int64_t, int, session_lock_handle *);

static void find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  CHECK(symbol != NULL);
  memcpy(function, &symbol, sizeof symbol);
}

static void *wait_for_it(void *timeout_ms) {
  session_lock_handle lock;
  CHECK_OK(wait_for(".", "s", *(int64_t *)timeout_ms, -1, &lock));
  CHECK_OK(check(lock));
  CHECK_OK(release(lock));
  return NULL;
}

int main(void) {
  struct hint done = new_hint();
  int64_t timeouts[] = {-1, LIMIT_S * 1000};
  for (int n = 0; n < 2; n++) {
    void *library = dlopen("libsession_lock.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) fprintf(stderr, "%s\n", dlerror());
    CHECK(library != NULL);
    find(library, "session_lock_acquire", &acquire);
    find(library, "session_lock_release", &release);
    find(library, "session_lock_check", &check);
    find(library, "session_lock_wait", &wait_for);
    session_lock_handle lock;
    pthread_t thread;
    CHECK_OK(acquire(".", "s", &lock));
    CHECK_OK(pthread_create(&thread, NULL, wait_for_it, &timeouts[n]));
    await_blocked(getpid());
    CHECK_OK(dlclose(library));
    library = dlopen("libsession_lock.so.0", RTLD_NOW | RTLD_NOLOAD);
    CHECK(library != NULL && dlclose(library) == 0);
    pid_t child = start();
    if (child == 0) {
      CHECK_IS(release(lock), -EPERM);
      tell(done);
      for (;;) pause();
    }
    hear(done);
    /* It has no end of its own: to a leak checker, what the other thread had is lost in it. */
    kill_and_reap(child);
    CHECK_OK(check(lock));
    CHECK_OK(release(lock));
    CHECK_OK(pthread_join(thread, NULL));
    CHECK(is_free("s.lock"));
  }
  end_hint(done);
}
