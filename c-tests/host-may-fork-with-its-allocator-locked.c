/* The host program has an allocator of its own, which locks itself around fork(2), as jemalloc does: what the
 * library keeps a fork waiting for needs no memory. Nothing hangs. */
#include "test.h"

static atomic_bool over;
static atomic_int turns[3];

#ifdef __GLIBC__

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Not with CHECK, which may need memory itself. */
static void lock_allocator(void) {
  if (pthread_mutex_lock(&mutex) != 0) abort();
}

static void unlock_allocator(void) {
  if (pthread_mutex_unlock(&mutex) != 0) abort();
}

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

#define LOCKED(type, call)                                                                           \
  lock_allocator();                                                                                  \
  type result = call;                                                                                \
  unlock_allocator();                                                                                \
  return result

void *malloc(size_t size) {
  LOCKED(void *, __libc_malloc(size));
}

void *calloc(size_t count, size_t size) {
  LOCKED(void *, __libc_calloc(count, size));
}

void *realloc(void *memory, size_t size) {
  LOCKED(void *, __libc_realloc(memory, size));
}

void *aligned_alloc(size_t alignment, size_t size) {
  LOCKED(void *, __libc_memalign(alignment, size));
}

int posix_memalign(void **memory, size_t alignment, size_t size) {
  *memory = aligned_alloc(alignment, size);
  return *memory == NULL ? ENOMEM : 0;
}

void free(void *memory) {
  lock_allocator();
  __libc_free(memory);
  unlock_allocator();
}

/* Later than the library, which does it as it is loaded: so the allocator is locked before it is asked. */
static void add_fork_handlers(void) {
  CHECK_OK(pthread_atfork(lock_allocator, unlock_allocator, unlock_allocator));
}

#else

static void add_fork_handlers(void) {
  skip("this C library's own allocator has no other name");
}

#endif

static void *lock_all_the_time(void *number) {
  enum { LOCKS = 24 };
  int own = *(int *)number;
  while (!atomic_load(&over)) {
    session_lock_handle locks[LOCKS];
    for (int n = 0; n < LOCKS; n++) {
      char name[32];
      snprintf(name, sizeof name, "%d-%d", own, n);
      CHECK_OK(session_lock_acquire(".", name, &locks[n]));
    }
    for (int n = 0; n < LOCKS; n++) CHECK_OK(session_lock_check(locks[n]));
    for (int n = 0; n < LOCKS; n++) CHECK_OK(session_lock_release(locks[n]));
    atomic_fetch_add(&turns[own], 1);
  }
  return NULL;
}

static void *wait_all_the_time(void *number) {
  while (!atomic_load(&over)) {
    session_lock_handle lock;
    CHECK_IS(session_lock_wait(".", "s", 1, -1, &lock), -ETIMEDOUT);
    atomic_fetch_add(&turns[*(int *)number], 1);
  }
  return NULL;
}

int main(void) {
  static int numbers[] = {0, 1, 2};
  pthread_t threads[3];
  add_fork_handlers();
  pid_t holder = start_holder();
  for (int n = 0; n < 3; n++) {
    void *(*entry)(void *) = n < 2 ? lock_all_the_time : wait_all_the_time;
    CHECK_OK(pthread_create(&threads[n], NULL, entry, &numbers[n]));
  }
  for (int n = 0; n < 3; n++) AWAIT(atomic_load(&turns[n]) > 0);
  for (int forks = 0; forks < rounds_up_to(10000, 500); forks++) {
    pid_t child = fork();
    CHECK(child != -1);
    if (child == 0) _exit(0);
    finish(child);
  }
  atomic_store(&over, true);
  for (int n = 0; n < 3; n++) CHECK_OK(pthread_join(threads[n], NULL));
  kill_and_reap(holder);
}
