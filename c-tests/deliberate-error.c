/* No claim: the errors that each tool is to catch, so that its silence about the others means something.
 * The driver demands that it does. */
#include "test.h"

static int counter;

static void *count(void *unused) {
  for (int n = 0; n < 1000; n++) counter++;
  return unused;
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  session_lock_handle lock;
  CHECK_OK(session_lock_acquire(".", "s", &lock));
  if (strcmp(argv[1], "use-after-free") == 0) {
    char *volatile memory = malloc(8);
    free(memory);
    printf("%d\n", memory[1]);
  } else if (strcmp(argv[1], "leak") == 0) {
    void *volatile memory = malloc(8);
    memory = NULL;
    CHECK(memory == NULL);
  } else if (strcmp(argv[1], "overflow") == 0) {
    volatile int large = INT32_MAX;
    large = large + 1;
  } else if (strcmp(argv[1], "race") == 0) {
    pthread_t threads[2];
    for (int n = 0; n < 2; n++) CHECK_OK(pthread_create(&threads[n], NULL, count, NULL));
    for (int n = 0; n < 2; n++) CHECK_OK(pthread_join(threads[n], NULL));
  } else if (strcmp(argv[1], "descriptor") == 0) {
    return 0; /* with the lock file still open */
  }
  CHECK_OK(session_lock_release(lock));
}
