/* A thread that has its own table of descriptors (unshare(2)) waits. The host's descriptors that have the same
 * numbers elsewhere are left alone: by a fork, by another wait, and when the waits end. */
#include "test.h"

enum { FILES = 20 };

static int cancel, files[FILES];

static void *wait_apart(void *unused) {
  session_lock_handle lock;
  CHECK(unshare(CLONE_FILES) == 0);
  /* So that the numbers are the host's elsewhere. */
  for (int n = 0; n < FILES / 2; n++) CHECK(dup(cancel) != -1);
  CHECK_IS(session_lock_wait(".", "s", -1, cancel, &lock), -ECANCELED);
  return unused;
}

static void *wait_here(void *cancel_here) {
  session_lock_handle lock;
  CHECK_IS(session_lock_wait(".", "t", -1, *(int *)cancel_here, &lock), -ECANCELED);
  return NULL;
}

static void check_files(void) {
  for (int n = 0; n < FILES; n++) CHECK_IS(lseek(files[n], 0, SEEK_CUR), n);
}

static void check_files_of_a_child(void) {
  pid_t child = start();
  if (child == 0) {
    check_files();
    _exit(0);
  }
  finish(child);
}

int main(void) {
  pthread_t apart, here;
  pid_t holder = start_holder();
  int others = stranger_locks("t.lock"), cancel_here = eventfd(0, EFD_CLOEXEC);
  cancel = eventfd(0, EFD_CLOEXEC);
  CHECK(others != -1 && cancel != -1 && cancel_here != -1);
  int threads = count_threads();
  CHECK_OK(pthread_create(&apart, NULL, wait_apart, NULL));
  /* Each has a thread that helps it, which it starts last. */
  AWAIT(count_threads() == threads + 2);
  for (int n = 0; n < FILES; n++) {
    files[n] = open("hosts", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(files[n] != -1 && lseek(files[n], n, SEEK_SET) == n);
  }
  check_files_of_a_child();
  check_files();

  CHECK_OK(pthread_create(&here, NULL, wait_here, &cancel_here));
  AWAIT(count_threads() == threads + 4);
  check_files_of_a_child();
  CHECK(eventfd_write(cancel, 1) == 0);
  CHECK_OK(pthread_join(apart, NULL));
  check_files();
  CHECK(eventfd_write(cancel_here, 1) == 0);
  CHECK_OK(pthread_join(here, NULL));
  check_files();
  for (int n = 0; n < FILES; n++) close(files[n]);
  kill_and_reap(holder);
  close(others);
  close(cancel);
  close(cancel_here);
}
