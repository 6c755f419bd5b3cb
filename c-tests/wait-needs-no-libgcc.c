/* glibc ends the program where a thread is cancelled and libgcc_s.so.1 cannot be loaded, here because there
 * is no descriptor left for it: a wait with a deadline or a cancel_fd ends as anywhere else, or says that
 * it needs descriptors. Built with the static library, for the shared one brings libgcc_s.so.1. */
#include "test.h"

static void check_with_spare(int spare) {
  session_lock_handle lock;
  int cancel = eventfd(0, EFD_CLOEXEC);
  struct rlimit limit = {.rlim_cur = (rlim_t)next_fd() + (rlim_t)spare, .rlim_max = 1024};
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  for (int round = 0; round < 2; round++) {
    int error = session_lock_wait(".", "s", 20, round == 0 ? -1 : cancel, &lock);
    CHECK(lock == 0);
    CHECK_IS(error, spare == 0 ? -EMFILE : -ETIMEDOUT);
  }
  _exit(0);
}

int main(void) {
  pid_t holder = start_holder();
  for (int spare = 0; spare < 8; spare++) {
    pid_t child = start();
    if (child == 0) check_with_spare(spare);
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (status != 0) fprintf(stderr, "with %d descriptors more: status %#x\n", spare, status);
    CHECK_IS(status, 0);
  }
  kill_and_reap(holder);
}
