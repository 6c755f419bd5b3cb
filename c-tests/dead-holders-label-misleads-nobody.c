/* A holder dies and leaves its label. Contenders, some trying and some waiting, are let loose at the
 * same instant. Exactly one holds the lock at any time, every waiter gets its turn, and the lock file
 * is the same file afterwards.
 *
 * Compiled with -DBROKEN this is the test of the test: the contenders then use a protocol that removes
 * the file of a dead holder, and the program must fail. */
#include "test.h"

enum { TRYING = 4, WAITING = 4 };

struct oracle {
  atomic_int inside; /* how many hold the lock */
  atomic_int tried;  /* how many of those that only try have their answer */
  atomic_int got;    /* how many have had the lock */
  atomic_int misled; /* how many take the file for a dead holder's */
};

static struct oracle *oracle;

#ifdef BROKEN
#include "broken.h"
#define session_lock_wait broken_wait
#define session_lock_acquire broken_acquire
#define session_lock_release broken_release
#endif

static void contend(bool waits) {
  session_lock_handle lock;
  int error = waits ? session_lock_wait(".", "s", -1, -1, &lock)
                    : session_lock_acquire(".", "s", &lock);
  if (!waits) atomic_fetch_add(&oracle->tried, 1);
  if (error == -EWOULDBLOCK && !waits) return;
  CHECK_OK(error);
  CHECK(atomic_fetch_add(&oracle->inside, 1) == 0);
  atomic_fetch_add(&oracle->got, 1);
  /* The lock is kept until everybody who only tries has tried: none of them can have it as well. */
  while (atomic_load(&oracle->tried) < TRYING) {
    CHECK(atomic_load(&oracle->inside) == 1);
    nap();
  }
  CHECK(atomic_fetch_sub(&oracle->inside, 1) == 1);
  CHECK_OK(session_lock_release(lock));
}

/* Leaves the label of a process that is dead. */
static pid_t dead_holder(void) {
  struct hint held = new_hint();
  pid_t pid = start();
  if (pid == 0) {
    session_lock_handle lock;
    CHECK_OK(session_lock_acquire(".", "s", &lock));
    tell(held);
    for (;;) pause();
  }
  hear(held);
  kill_and_reap(pid);
  end_hint(held);
  return pid;
}

static int first_line(void) {
  FILE *file = fopen("s.lock", "re");
  int pid;
  CHECK(file != NULL);
  CHECK(fscanf(file, "%d", &pid) == 1);
  fclose(file);
  return pid;
}

int main(void) {
  oracle = shared(sizeof *oracle);
  for (int round = 0; round < rounds(10); round++) {
    CHECK(dead_holder() == first_line());
    *oracle = (struct oracle){0};
    ino_t file = inode("s.lock");
    int go[2];
    CHECK(pipe2(go, O_CLOEXEC) == 0);
    pid_t pids[TRYING + WAITING];
    for (int contender = 0; contender < TRYING + WAITING; contender++) {
      pids[contender] = start();
      if (pids[contender] != 0) continue;
      char byte;
      close(go[1]);
      CHECK(read(go[0], &byte, 1) == 0); /* the end of the pipe lets all of them loose */
      contend(contender % 2 == 0);
      _exit(0);
    }
    close(go[1]);
    for (int contender = 0; contender < TRYING + WAITING; contender++) finish(pids[contender]);
    close(go[0]);
    CHECK(atomic_load(&oracle->got) >= WAITING);
    CHECK(inode("s.lock") == file);
    CHECK(is_free("s.lock"));
  }
}
