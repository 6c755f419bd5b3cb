/* The host program closes all descriptors, as closefrom(3) does, while another thread waits. The wait does
 * not get the lock, nor does it outlast its deadline; and the files that have the numbers by then are left
 * alone. */
#include "test.h"

enum { FILES = 8 };

static const char precious[] = "precious";
static int answer;
static int64_t took_us;

static void *wait_for_it(void *timeout_ms) {
  session_lock_handle lock = 1;
  int64_t begin = now_us();
  answer = session_lock_wait(".", "s", *(int64_t *)timeout_ms, -1, &lock);
  took_us = now_us() - begin;
  CHECK(lock == 0);
  return NULL;
}

static void check_wait(int64_t timeout_ms, bool numbers_are_taken) {
  pthread_t thread;
  int files[FILES];
  pid_t holder = start_holder();
  CHECK_OK(pthread_create(&thread, NULL, wait_for_it, &timeout_ms));
  await_blocked(getpid());
  for (int fd = 3; fd < 1024; fd++) close(fd);
  for (int n = 0; numbers_are_taken && n < FILES; n++) {
    files[n] = open("hosts", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(files[n] == 3 + n && pwrite(files[n], precious, sizeof precious, 0) == sizeof precious);
  }
  if (timeout_ms == -1) kill_and_reap(holder);
  CHECK_OK(pthread_join(thread, NULL));
  CHECK(answer == -EBADF || answer == -ESTALE);
  if (timeout_ms != -1) {
    CHECK(took_us < timeout_ms * 1000 + 1000000);
    kill_and_reap(holder);
  }
  CHECK(is_free("s.lock"));
  for (int n = 0; numbers_are_taken && n < FILES; n++) {
    char text[64];
    CHECK(pread(files[n], text, sizeof text, 0) == sizeof precious);
    CHECK(memcmp(text, precious, sizeof precious) == 0);
    CHECK(lseek(files[n], 0, SEEK_CUR) == 0);
    CHECK(close(files[n]) == 0);
  }
}

int main(void) {
  int64_t timeouts_ms[] = {-1, 200};
  for (int taken = 0; taken < 2; taken++) {
    for (int n = 0; n < 2; n++) check_wait(timeouts_ms[n], taken);
  }
}
