/* The driver includes this file in every program that it builds with -fsanitize=thread. */
#ifndef TSAN_H
#define TSAN_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stddef.h>
#include <time.h>

/* The library is not instrumented: what its own locks guard, which are futexes, would count as unguarded
 * wherever memcpy(3) or free(3) touches it. */
const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void) {
  return "race:libsession_lock.so\n";
}

/* What gcc 12's ThreadSanitizer does not know: pthread_clockjoin_np(3), with which the library waits for a
 * thread that it has cancelled. It would take each of them for never joined, and a later one with the
 * same number for an error. It does know pthread_timedjoin_np(3). */
int pthread_clockjoin_np(pthread_t thread, void **value, clockid_t clock,
                         const struct timespec *deadline) {
  struct timespec now, end;
  clock_gettime(clock, &now);
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += deadline->tv_sec - now.tv_sec;
  end.tv_nsec += deadline->tv_nsec - now.tv_nsec;
  if (end.tv_nsec < 0) end.tv_sec--, end.tv_nsec += 1000000000;
  if (end.tv_nsec >= 1000000000) end.tv_sec++, end.tv_nsec -= 1000000000;
  return pthread_timedjoin_np(thread, value, &end);
}

static void *do_nothing(void *unused) {
  return unused;
}

/* It starts a thread of its own beside the program's first: here, before any test counts threads. */
__attribute__((constructor)) static void start_its_thread(void) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, do_nothing, NULL) == 0) pthread_join(thread, NULL);
}

#endif
