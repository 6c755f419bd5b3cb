/* session_lock_path() says where the lock is, encoded; a buffer that is too small is -ERANGE and stays
 * as it was. It creates nothing. */
#include "test.h"

static void check_path(const char *dir, const char *session, const char *expected) {
  char path[512];
  size_t needed = strlen(expected) + 1;
  for (size_t size = 0; size <= needed + 1; size++) {
    memset(path, '#', sizeof path);
    CHECK_IS(session_lock_path(dir, session, path, size), size < needed ? -ERANGE : 0);
    size_t written = size < needed ? 0 : needed;
    CHECK(memcmp(path, expected, written) == 0);
    for (size_t rest = written; rest < sizeof path; rest++) CHECK(path[rest] == '#');
  }
}

int main(void) {
  char expected[64];
  check_path("/no/such", "s", "/no/such/s.lock");
  check_path("/d", "a/b", "/d/a%2Fb.lock");
  check_path("/d", "a--b", "/d/a--b.lock");
  check_path("/d", "..", "/d/%2E..lock");
  check_path("/d", "\xff\n %", "/d/%FF%0A%20%25.lock");
  CHECK(setenv("SESSION_LOCK_DIR", "/from/the/environment", 1) == 0);
  check_path(NULL, "s", "/from/the/environment/s.lock");
  check_path("/d", "s", "/d/s.lock");
  CHECK(setenv("SESSION_LOCK_DIR", "", 1) == 0);
  snprintf(expected, sizeof expected, "/tmp/session-lock-%u/s.lock", geteuid());
  check_path(NULL, "s", expected);
  CHECK(unsetenv("SESSION_LOCK_DIR") == 0);
  check_path(NULL, "s", expected);
  CHECK(access("s.lock", F_OK) == -1);
}
