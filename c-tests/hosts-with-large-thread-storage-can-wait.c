/* A host program with much thread-local storage can wait: the storage is taken from the stack of each
 * thread, the one that a wait starts among them. STORAGE is its size in KiB. */
#include "test.h"

static _Thread_local char storage[STORAGE * 1024];

int main(void) {
  session_lock_handle lock;
  memset(storage, 1, sizeof storage);
  pid_t holder = start_holder();
  struct left before = count_left();
  for (int n = 0; n < 5; n++) CHECK_IS(session_lock_wait(".", "s", 2, -1, &lock), -ETIMEDOUT);
  check_left(before);
  kill_and_reap(holder);
  CHECK(storage[sizeof storage - 1] == 1);
}
