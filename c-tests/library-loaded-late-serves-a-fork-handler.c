/* The library is loaded by dlopen(3), after the host program has registered its fork handlers: what prepares a
 * fork runs after the library's own then. It can check and release locks all the same. */
#include "test.h"

#include <dlfcn.h>

static int (*acquire)(const char *, const char *, session_lock_handle *);
static int (*release)(session_lock_handle);
static int (*check)(session_lock_handle);
static session_lock_handle kept, passing;
static int prepared;

static void find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  CHECK(symbol != NULL);
  memcpy(function, &symbol, sizeof symbol);
}

static void prepare(void) {
  prepared++;
  CHECK_OK(check(kept));
  CHECK_OK(check(passing));
  CHECK_OK(release(passing));
  CHECK_IS(check(passing), -EBADF);
}

int main(void) {
  CHECK_OK(pthread_atfork(prepare, NULL, NULL));
  void *library = dlopen("libsession_lock.so.0", RTLD_NOW);
  if (library == NULL) fprintf(stderr, "%s\n", dlerror());
  CHECK(library != NULL);
  find(library, "session_lock_acquire", &acquire);
  find(library, "session_lock_release", &release);
  find(library, "session_lock_check", &check);

  alarm(20);
  CHECK_OK(acquire(".", "kept", &kept));
  int before = count_fds();
  for (int round = 1; round <= 3; round++) {
    CHECK_OK(acquire(".", "passing", &passing));
    CHECK_IS(count_lock_files(), 2);
    pid_t child = fork();
    CHECK(child != -1);
    if (child == 0) {
      CHECK_IS(count_lock_files(), 0);
      CHECK_IS(check(kept), -EPERM);
      _exit(0);
    }
    finish(child);
    CHECK_IS(prepared, round);
    CHECK(is_free("passing.lock") && !is_free("kept.lock"));
    CHECK_IS(count_fds(), before);
  }
  CHECK_OK(release(kept));
}
