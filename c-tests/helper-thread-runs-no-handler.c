/* The thread that a wait starts never runs a signal handler of the host program: it has everything
 * blocked that can be, whatever the mask of the caller is. */
#include "test.h"

static atomic_int handled, by_others;
static pid_t main_thread, holder;

static void handle(int number) {
  (void)number;
  atomic_fetch_add(&handled, 1);
  if (gettid() != main_thread) atomic_fetch_add(&by_others, 1);
}

static uint64_t blocked_signals(pid_t thread) {
  char name[64], line[256];
  uint64_t mask = 0;
  snprintf(name, sizeof name, "/proc/self/task/%d/status", thread);
  FILE *status = fopen(name, "re");
  CHECK(status != NULL);
  while (fgets(line, sizeof line, status) != NULL) {
    if (strncmp(line, "SigBlk:", 7) == 0) mask = strtoull(line + 7, NULL, 16);
  }
  fclose(status);
  return mask;
}

/* 0 if there is none yet. The caller of the wait tries once without blocking: that is not the one. */
static pid_t waiting_thread(void) {
  int count;
  pid_t thread = thread_in(SYS_flock, &count);
  return thread == main_thread ? 0 : thread;
}

static void *shower(void *unused) {
  /* SIGKILL and SIGSTOP cannot be blocked; with those below SIGRTMIN the C library cancels threads and
   * changes their credentials. */
  uint64_t open = 1ull << 8 | 1ull << 18;
  for (int number = 32; number < SIGRTMIN; number++) open |= 1ull << (number - 1);
  pid_t thread;
  AWAIT((thread = waiting_thread()) != 0);
  CHECK(blocked_signals(thread) == ~open);
  for (int n = 0; n < 1000; n++) {
    CHECK(kill(getpid(), SIGUSR1) == 0);
    CHECK(kill(getpid(), SIGRTMIN + n % 20) == 0 || errno == EAGAIN);
  }
  AWAIT(waiting_thread() != 0);
  CHECK_IS(handled, 0);
  kill_and_reap(holder);
  return unused;
}

int main(void) {
  struct sigaction action = {.sa_handler = handle};
  session_lock_handle lock;
  sigset_t all, before;
  pthread_t thread;
  main_thread = gettid();
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  for (int number = SIGRTMIN; number <= SIGRTMAX; number++) {
    CHECK(sigaction(number, &action, NULL) == 0);
  }
  holder = start_holder();
  /* Nobody but the helper thread could take a signal now. */
  sigfillset(&all);
  CHECK_OK(pthread_sigmask(SIG_SETMASK, &all, &before));
  CHECK_OK(pthread_create(&thread, NULL, shower, NULL));
  uint64_t mask = blocked_signals(main_thread);
  CHECK_OK(session_lock_wait(".", "s", LIMIT_S * 1000, -1, &lock));
  CHECK(blocked_signals(main_thread) == mask);
  CHECK_OK(pthread_join(thread, NULL));
  CHECK_IS(handled, 0);
  /* They were there all the time. */
  CHECK_OK(pthread_sigmask(SIG_SETMASK, &before, NULL));
  AWAIT(handled > 0);
  CHECK_IS(by_others, 0);
  CHECK_OK(session_lock_release(lock));
}
