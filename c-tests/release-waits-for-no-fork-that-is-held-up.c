/* A fork is held up inside the C library, by a thread that has its streams locked: it flushes them to a pipe
 * that is full. Meanwhile locks are checked and released as ever. Then the fork goes on: its child has no
 * descriptor of theirs, but all of the host's, which have their numbers by now. */
#include "test.h"

enum { LOCKS = 3 };

static const char *const names[LOCKS] = {"s", "t", "u"};
static session_lock_handle locks[LOCKS];
static struct hint go_on;
static int hosts_file[LOCKS];
static atomic_bool released;

static void *flush_all(void *thread) {
  atomic_store((atomic_int *)thread, gettid());
  CHECK(fflush(NULL) == 0);
  return NULL;
}

static void *fork_once(void *thread) {
  atomic_store((atomic_int *)thread, gettid());
  pid_t child = fork();
  CHECK(child != -1);
  if (child == 0) {
    CHECK_IS(count_lock_files(), 0);
    for (int n = 0; n < LOCKS; n++) {
      CHECK_IS(lseek(hosts_file[n], 0, SEEK_CUR), n);
      CHECK_IS(session_lock_release(locks[n]), -EBADF);
    }
    _exit(0);
  }
  finish(child);
  return NULL;
}

static void *release_all(void *unused) {
  hear(go_on);
  for (int n = 0; n < LOCKS; n++) CHECK_OK(session_lock_check(locks[n]));
  for (int n = 0; n < LOCKS; n++) {
    CHECK_OK(session_lock_release(locks[n]));
    CHECK_IS(session_lock_check(locks[n]), -EBADF);
    CHECK_IS(session_lock_release(locks[n]), -EBADF);
  }
  atomic_store(&released, true);
  return unused;
}

static bool is_writing(atomic_int *thread) {
  return is_in(getpid(), *thread, SYS_write) || is_in(getpid(), *thread, SYS_writev);
}

int main(void) {
  static atomic_int flushing, forking;
  static char text[65536], buffer[4096];
  pthread_t flusher, forker, releaser;
  int ends[2];
  go_on = new_hint();
  CHECK(pipe2(ends, O_CLOEXEC) == 0);
  int size = fcntl(ends[1], F_SETPIPE_SZ, sizeof buffer);
  CHECK(size > 0 && (size_t)size <= sizeof text);
  FILE *stream = fdopen(ends[1], "w");
  CHECK(stream != NULL && setvbuf(stream, buffer, _IOFBF, sizeof buffer) == 0);
  int before = count_fds();
  for (int round = 0; round < rounds(5); round++) {
    for (int n = 0; n < LOCKS; n++) CHECK_OK(session_lock_acquire(".", names[n], &locks[n]));
    CHECK_IS(count_lock_files(), LOCKS);

    /* Not later: with musl, no thread can be started while a fork is held up. */
    atomic_store(&released, false);
    CHECK_OK(pthread_create(&releaser, NULL, release_all, NULL));
    CHECK(write(ends[1], text, (size_t)size) == size);
    CHECK(fputs("x", stream) >= 0);
    atomic_store(&flushing, 0), atomic_store(&forking, 0);
    CHECK_OK(pthread_create(&flusher, NULL, flush_all, &flushing));
    AWAIT(is_writing(&flushing));
    CHECK_OK(pthread_create(&forker, NULL, fork_once, &forking));
    AWAIT(is_in(getpid(), forking, SYS_futex));

    tell(go_on);
    AWAIT(atomic_load(&released));
    CHECK(is_in(getpid(), forking, SYS_futex));
    CHECK_IS(count_lock_files(), 0);
    CHECK_IS(count_fds(), before);
    for (int n = 0; n < LOCKS; n++) {
      CHECK(is_free((const char *[]){"s.lock", "t.lock", "u.lock"}[n]));
      hosts_file[n] = open("hosts", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
      CHECK(hosts_file[n] != -1 && lseek(hosts_file[n], n, SEEK_SET) == n);
    }

    CHECK(read(ends[0], text, (size_t)size) == size);
    CHECK_OK(pthread_join(flusher, NULL));
    CHECK_OK(pthread_join(forker, NULL));
    CHECK_OK(pthread_join(releaser, NULL));
    CHECK(read(ends[0], text, 1) == 1);
    for (int n = 0; n < LOCKS; n++) {
      CHECK(is_open(hosts_file[n]));
      close(hosts_file[n]);
    }
    CHECK_OK(session_lock_acquire(".", "s", &locks[0]));
    CHECK_OK(session_lock_release(locks[0]));
    CHECK_IS(count_fds(), before);
  }
  fclose(stream);
  close(ends[0]);
  end_hint(go_on);
}
