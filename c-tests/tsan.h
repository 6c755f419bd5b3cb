/*
 * What gcc 12's ThreadSanitizer does not know: pthread_clockjoin_np(3), with which the library waits for
 * a thread that it has cancelled. It would take each of them for never joined, and a later one with the
 * same number for an error. It does know pthread_timedjoin_np(3). The driver includes this file in
 * every program that it builds with -fsanitize=thread.
 */
#ifndef TSAN_H
#define TSAN_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <time.h>

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

/*
 * Of the library, which is not instrumented, TSan sees no access to memory but the calls of memcpy(3) and
 * memmove(3), and not the standard library's mutex, which is a futex: it would take what that guards for
 * unguarded.
 */
const char *__tsan_default_suppressions(void) { return "called_from_lib:libsession_lock"; }

#endif
