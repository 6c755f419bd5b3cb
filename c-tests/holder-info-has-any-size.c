/* An older caller, whose struct is shorter, gets its prefix and not a byte more; a newer one gets zeros
 * in the fields that this library does not know. */
#include "test.h"

int main(void) {
  session_lock_handle lock;
  struct session_lock_holder_info whole;
  unsigned char buffer[4200];
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK_OK(session_lock_holder(".", "s", &whole, sizeof whole));
  CHECK_IS(whole.state, SESSION_LOCK_HELD);
  CHECK_IS(whole.pid, getpid());
  CHECK_IS(whole.orphaned, 0);
  CHECK_IS(whole.confirmed, 1);
  CHECK(whole.acquired_at_ms > 0);
  CHECK(strstr(whole.command, "holder-info") != NULL || strlen(whole.command) == 63);
  CHECK(whole.host[0] != 0 && memchr(whole.host, 0, sizeof whole.host) != NULL);

  const size_t sizes[] = {15, 16, 17, 24, 88, 152, 159, 160, 161, 200, 4096};
  for (int n = 0; n < 11; n++) {
    size_t size = sizes[n], known = size < sizeof whole ? size : sizeof whole;
    memset(buffer, '#', sizeof buffer);
    struct session_lock_holder_info *info = (void *)buffer;
    if (size == 15) {
      CHECK_IS(session_lock_holder(".", "s", info, size), -EINVAL);
      known = size = 0;
    } else {
      CHECK_OK(session_lock_holder(".", "s", info, size));
    }
    CHECK(memcmp(buffer, &whole, known) == 0);
    for (size_t at = known; at < size; at++) CHECK(buffer[at] == 0);
    for (size_t at = size; at < sizeof buffer; at++) CHECK(buffer[at] == '#');
  }

  CHECK_OK(session_lock_release(lock));
  CHECK_OK(session_lock_holder(".", "s", &whole, sizeof whole));
  CHECK_IS(whole.state, SESSION_LOCK_FREE);
  CHECK_IS(whole.pid, 0);
  CHECK_OK(session_lock_holder(".", "never-locked", &whole, sizeof whole));
  CHECK_IS(whole.state, SESSION_LOCK_FREE);
  CHECK(access("never-locked.lock", F_OK) == -1);
}
