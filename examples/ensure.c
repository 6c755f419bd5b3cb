/*
 * ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...
 *
 * Runs COMMAND while no other process holds the lock of SESSION, and then publishes COMMAND's output. That
 * step must not run twice, so it only happens if the lock is still held.
 *
 * Exit status: COMMAND's; 75 if another process has the lock; 125 if the lock fails or was lost; 2 for wrong
 * usage. (If this program is killed, COMMAND runs on, without the lock. To tie the lock to the command itself, use
 * `session-lock run`.)
 *
 *   cc ensure.c $(pkg-config --cflags --libs session_lock) -o ensure
 */

#define _POSIX_C_SOURCE 200809L

#include <ctype.h>
#include <errno.h>
#include <session_lock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { USAGE = 2, HELD = 75, FAILED = 125, NOT_EXECUTABLE = 126, NOT_FOUND = 127 };

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Says who has the lock. The answer may be out of date: it is for the reader, not for decisions. */
static void say_who(const char *session, const char *what) {
  struct session_lock_holder_info info;
  fprintf(stderr, "ensure: %s: %s", session, what);
  if (session_lock_holder(NULL, session, &info, sizeof info) == 0 && info.pid != 0) {
    /* Another process wrote the command: it may be anything. */
    for (char *c = info.command; *c != '\0'; c++) {
      if (iscntrl((unsigned char)*c)) {
        *c = '?';
      }
    }
    fprintf(stderr, " by PID %d (%s)", info.pid, info.command);
  }
  fputc('\n', stderr);
}

/* Takes the lock; waits for it if `seconds` is not negative. */
static int take(const char *session, double seconds, session_lock_handle *lock) {
  int error = session_lock_acquire(NULL, session, lock);
  if (error != -EWOULDBLOCK || seconds < 0) {
    return error;
  }
  say_who(session, "waiting, locked");
  const int64_t deadline = now_ms() + (int64_t)(seconds * 1000 + 0.999);
  do {
    const int64_t left = deadline - now_ms();
    error = session_lock_wait(NULL, session, left > 0 ? left : 0, -1, lock);
  } while (error == -EINTR); /* a signal handler ran, if this program had one */
  return error;
}

/* Runs the command with its standard output in `output`; its exit status, as a shell would say it. */
static int run(char *const command[], FILE *output) {
  const pid_t child = fork();
  if (child == 0) {
    dup2(fileno(output), STDOUT_FILENO);
    execvp(command[0], command);
    const int error = errno;
    fprintf(stderr, "ensure: %s: %s\n", command[0], strerror(error));
    _exit(error == ENOENT ? NOT_FOUND : NOT_EXECUTABLE);
  }
  int status;
  while (child == -1 || waitpid(child, &status, 0) == -1) {
    if (child == -1 || errno != EINTR) {
      perror("ensure");
      return FAILED;
    }
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int publish(FILE *output) {
  char buffer[4096];
  size_t length;
  rewind(output);
  while ((length = fread(buffer, 1, sizeof buffer, output)) > 0) {
    fwrite(buffer, 1, length, stdout);
  }
  if (ferror(output) || fflush(stdout) != 0) {
    perror("ensure");
    return FAILED;
  }
  return 0;
}

/* What is done while the lock is held. */
static int work(const char *session, session_lock_handle lock, char *const command[]) {
  FILE *output = tmpfile();
  if (output == NULL) {
    perror("ensure");
    return FAILED;
  }
  int status = run(command, output);
  if (status == 0) {
    const int error = session_lock_check(lock);
    if (error == 0) {
      status = publish(output);
    } else {
      fprintf(stderr, "ensure: %s: not published, the lock was lost: %s\n", session,
              strerror(-error));
      status = FAILED;
    }
  }
  fclose(output);
  return status;
}

static int usage(void) {
  fputs("usage: ensure SESSION [--wait-lock SECONDS] -- COMMAND [ARG]...\n", stderr);
  return USAGE;
}

int main(int argc, char *argv[]) {
  double seconds = -1;
  int next = 2;
  if (next + 1 < argc && strcmp(argv[next], "--wait-lock") == 0) {
    char *end;
    seconds = strtod(argv[next + 1], &end);
    if (end == argv[next + 1] || *end != '\0' || !(seconds >= 0 && seconds <= 1e9)) {
      return usage();
    }
    next += 2;
  }
  if (next + 1 >= argc || strcmp(argv[next], "--") != 0) {
    return usage();
  }
  const char *session = argv[1];

  session_lock_handle lock;
  const int error = take(session, seconds, &lock);
  if (error == -EWOULDBLOCK || error == -ETIMEDOUT) {
    say_who(session, error == -ETIMEDOUT ? "still locked" : "locked");
    return HELD;
  }
  if (error != 0) {
    fprintf(stderr, "ensure: %s: %s\n", session, strerror(-error));
    return FAILED;
  }
  const int status = work(session, lock, argv + next + 1);
  session_lock_release(lock);
  return status;
}
