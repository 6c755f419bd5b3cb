/* Process 1 of a PID namespace, forked by process 1 of another: what the library knows of the parent's
 * identity does not go into the child's label. */
#include "test.h"

/* The value of a "key=value" line of the label in "./s.lock". */
static unsigned long long label(const char *key) {
  char line[4096];
  unsigned long long value = 0;
  bool found = false;
  FILE *file = fopen("s.lock", "re");
  CHECK(file != NULL);
  while (fgets(line, sizeof line, file) != NULL) {
    size_t length = strlen(key);
    if (strncmp(line, key, length) != 0 || line[length] != '=') continue;
    value = strtoull(line + length + 1, NULL, 10);
    found = true;
  }
  fclose(file);
  CHECK(found);
  return value;
}

/* Field 22 of proc_pid_stat(5): when the process started. */
static unsigned long long start_time(void) {
  char line[4096];
  unsigned long long value;
  FILE *stat = fopen("/proc/self/stat", "re");
  CHECK(stat != NULL && fgets(line, sizeof line, stat) != NULL);
  fclose(stat);
  char *at = strrchr(line, ')');
  CHECK(at != NULL);
  CHECK(sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &value) == 1);
  return value;
}

static void check_label(void) {
  session_lock_handle lock;
  struct stat namespace;
  CHECK(stat("/proc/self/ns/pid", &namespace) == 0);
  CHECK_IS(getpid(), 1);
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  CHECK(label("pidns") == namespace.st_ino);
  CHECK(label("start") == start_time());
  CHECK_OK(session_lock_release(lock));
}

/* As start(), in a new namespace; its child has no other process there to be told of a failure. */
static void in_a_namespace(void (*body)(void)) {
  CHECK(unshare(CLONE_NEWPID) == 0);
  pid_t child = fork();
  CHECK(child != -1);
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    test_pid = getpid();
    body();
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK_IS(status, 0);
}

static void parent(void) {
  check_label();
  /* Another start time than the child's, in clock ticks. */
  unsigned long long before = start_time();
  while (true) {
    pid_t child = fork();
    CHECK(child != -1);
    if (child == 0) _exit(start_time() > before ? 0 : 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (status == 0) break;
  }
  in_a_namespace(check_label);
}

int main(void) {
  if (geteuid() != 0) skip("a PID namespace needs root");
  pid_t child = start();
  if (child == 0) {
    in_a_namespace(parent);
    _exit(0);
  }
  finish(child);
}
