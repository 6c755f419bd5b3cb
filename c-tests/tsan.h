/* The driver includes this file in every program that it builds with -fsanitize=thread. */
#ifndef TSAN_H
#define TSAN_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stddef.h>

/* The library is not instrumented: what its own locks guard, which are futexes, would count as unguarded
 * wherever memcpy(3) or free(3) touches it. */
const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void) {
  return "race:libsession_lock.so\n";
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
