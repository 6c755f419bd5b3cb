/* Two copies of the library in one process, as a program and its plugin may bring them: what one has given
 * out the other does not know (-EBADF), and a lock that one holds the other does not get. If the host closes
 * the descriptor of one's lock, and the number is that of another's by then, that one is left alone. */
#include "test.h"

#include <dlfcn.h>

static int (*acquire)(const char *, const char *, session_lock_handle *);
static int (*release)(session_lock_handle);
static int (*check)(session_lock_handle);

static void find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  CHECK(symbol != NULL);
  memcpy(function, &symbol, sizeof symbol);
}

static void copy_library(const char *path) {
  Dl_info ours;
  int (*ask)(session_lock_handle) = session_lock_check;
  void *address;
  memcpy(&address, &ask, sizeof address);
  CHECK(dladdr(address, &ours) != 0);
  int from = open(ours.dli_fname, O_RDONLY | O_CLOEXEC);
  int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
  CHECK(from != -1 && to != -1);
  char buffer[65536];
  for (ssize_t length; (length = read(from, buffer, sizeof buffer)) != 0;) {
    CHECK(length > 0 && write(to, buffer, (size_t)length) == length);
  }
  close(from);
  close(to);
}

struct copy {
  int (*acquire)(const char *, const char *, session_lock_handle *);
  int (*release)(session_lock_handle);
  int (*check)(session_lock_handle);
};

/* All copies have given as many handles before: what these have in common, they have of the same call. */
static void lose_one_to_another(struct copy *one, struct copy *another) {
  session_lock_handle lost, lock;
  for (int fd = 3; fd < 1024; fd++) close(fd);
  CHECK_OK(one->acquire(".", "lost", &lost));
  int number = next_fd() - 1;
  for (int fd = 3; fd < 1024; fd++) close(fd);
  CHECK_OK(another->acquire(".", "t", &lock));
  CHECK(is_open(number));
  CHECK_IS(one->check(lost), -ESTALE);
  CHECK_IS(one->release(lost), -ESTALE);
  CHECK_OK(another->check(lock));
  CHECK(!is_free("t.lock"));
  CHECK_OK(another->release(lock));
}

static void check_each_pair(void) {
  /* Of any five numbers, two have the same last two bits. */
  enum { COPIES = 5 };
  struct copy copies[COPIES];
  for (int n = 0; n < COPIES; n++) {
    char path[32];
    snprintf(path, sizeof path, "./copy-%d.so", n);
    copy_library(path);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    find(library, "session_lock_acquire", &copies[n].acquire);
    find(library, "session_lock_release", &copies[n].release);
    find(library, "session_lock_check", &copies[n].check);
  }
  for (int one = 0; one < COPIES; one++) {
    for (int other = 0; other < one; other++) {
      lose_one_to_another(&copies[one], &copies[other]);
      for (int n = 0; n < COPIES; n++) {
        session_lock_handle lock;
        if (n == one || n == other) continue;
        CHECK_OK(copies[n].acquire(".", "in-step", &lock));
        CHECK_OK(copies[n].release(lock));
      }
    }
  }
}

int main(void) {
  session_lock_handle one, other, none;
  copy_library("./copy.so");
  void *library = dlopen("./copy.so", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) fprintf(stderr, "%s\n", dlerror());
  CHECK(library != NULL);
  find(library, "session_lock_acquire", &acquire);
  find(library, "session_lock_release", &release);
  find(library, "session_lock_check", &check);
  CHECK(check != session_lock_check);

  for (int round = 0; round < rounds(20); round++) {
    CHECK_OK(session_lock_acquire(".", "s", &one));
    CHECK_OK(acquire(".", "t", &other));
    CHECK(one != other);
    CHECK_IS(check(one), -EBADF);
    CHECK_IS(release(one), -EBADF);
    CHECK_IS(session_lock_check(other), -EBADF);
    CHECK_IS(session_lock_release(other), -EBADF);
    CHECK_IS(acquire(".", "s", &none), -EWOULDBLOCK);
    CHECK_IS(session_lock_acquire(".", "t", &none), -EWOULDBLOCK);
    pid_t child = start();
    if (child == 0) {
      CHECK_IS(session_lock_release(one), -EPERM);
      CHECK_IS(release(other), -EPERM);
      _exit(0);
    }
    finish(child);
    CHECK_OK(session_lock_check(one));
    CHECK_OK(check(other));
    CHECK_OK(session_lock_release(one));
    CHECK(is_free("s.lock") && !is_free("t.lock"));
    CHECK_OK(release(other));
    CHECK(is_free("t.lock"));
  }
  check_each_pair();
}
