/* Another process has a lease on the lock file (fcntl(2), F_SETLEASE), as a file server may: an open has
 * to wait until it lets go. A single try says -EWOULDBLOCK, a wait waits, and keeps its deadline. */
#include "test.h"

static struct hint taken, asked, let_go, gone;
static pid_t waiter;

static void is_asked(int number) {
  (void)number;
  tell(asked);
}

/* Takes a lease, is asked to give it up, and does so when it is told to. */
static void lend(void) {
  signal(SIGIO, is_asked);
  int fd = open("s.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  CHECK(fd != -1);
  if (fcntl(fd, F_SETLEASE, F_WRLCK) == -1) _exit(77);
  tell(taken);
  hear(let_go);
  CHECK(fcntl(fd, F_SETLEASE, F_UNLCK) == 0);
  close(fd);
  tell(gone);
  _exit(0);
}

static bool sleeps(void) {
  return is_in(getpid(), waiter, SYS_ppoll) || is_in(getpid(), waiter, SYS_clock_nanosleep);
}

static void *let_go_when_it_waits(void *unused) {
  AWAIT(sleeps());
  tell(let_go);
  return unused;
}

static void check_delayed(int64_t timeout_ms, int cancel_fd) {
  session_lock_handle lock = 1;
  pthread_t thread;
  pid_t lender = start();
  if (lender == 0) lend();
  struct pollfd ready = {.fd = taken.fds[0], .events = POLLIN};
  while (poll(&ready, 1, 10) == 0) {
    int status;
    if (waitpid(lender, &status, WNOHANG) == lender) skip("this filesystem has no leases");
  }
  hear(taken);
  CHECK_IS(session_lock_acquire(".", "s", &lock), -EWOULDBLOCK);
  CHECK(lock == 0);
  hear(asked);
  CHECK_IS(session_lock_wait(".", "s", 0, -1, &lock), -ETIMEDOUT);
  int64_t begin = now_us();
  CHECK_IS(session_lock_wait(".", "s", 50, -1, &lock), -ETIMEDOUT);
  CHECK(now_us() - begin >= 50000);
  CHECK_OK(pthread_create(&thread, NULL, let_go_when_it_waits, NULL));
  CHECK_OK(session_lock_wait(".", "s", timeout_ms, cancel_fd, &lock));
  CHECK_OK(pthread_join(thread, NULL));
  hear(gone);
  CHECK_OK(session_lock_check(lock));
  CHECK(!is_free("s.lock"));
  CHECK_OK(session_lock_release(lock));
  finish(lender);
}

int main(void) {
  int cancel = eventfd(0, EFD_CLOEXEC);
  waiter = gettid();
  taken = new_hint(), asked = new_hint(), let_go = new_hint(), gone = new_hint();
  check_delayed(-1, -1);
  check_delayed(LIMIT_S * 1000, -1);
  check_delayed(-1, cancel);
  end_hint(taken);
  end_hint(asked);
  end_hint(let_go);
  end_hint(gone);
  close(cancel);
}
