/* A program that is executed, in place or by a child, has no descriptor of the lock; executed in place
 * it finds the lock free. */
#include "test.h"

#include <spawn.h>

static int lock_files_open(void) {
  int count = 0;
  for (int fd = 0; fd < 1024; fd++) {
    char link[64], target[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, target, sizeof target - 1) > 0 && strstr(target, ".lock") != NULL) count++;
  }
  return count;
}

int main(int argc, char **argv) {
  session_lock_handle lock;
  if (argc == 2) {
    CHECK(lock_files_open() == 0);
    int expected = strcmp(argv[1], "in-place") == 0 ? 0 : -EWOULDBLOCK;
    CHECK_IS(session_lock_acquire(".", "s", &lock), expected);
    if (expected == 0) CHECK_OK(session_lock_release(lock));
    return 0;
  }
  char child[] = "child", in_place[] = "in-place";
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK(lock_files_open() == 1);
  pid_t pid = start();
  if (pid == 0) {
    execv(argv[0], (char *[]){argv[0], child, NULL});
    fail();
  }
  finish(pid);
  /* No fork hook runs for this one: close-on-exec alone must do. */
  char *arguments[] = {argv[0], child, NULL};
  CHECK_OK(posix_spawn(&pid, argv[0], NULL, NULL, arguments, environ));
  finish(pid);
  CHECK_OK(session_lock_check(lock));
  execv(argv[0], (char *[]){argv[0], in_place, NULL});
  fail();
}
