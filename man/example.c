#include <errno.h>
#include <inttypes.h>
#include <session_lock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
main(void)
{
    int error;
    struct session_lock_holder_info info;
    session_lock_handle lock;

    /* Wait for 2.5 seconds at most. */
    error = session_lock_wait(NULL, "nightly-build", 2500, -1, &lock);
    if (error == -ETIMEDOUT &&
        session_lock_holder(NULL, "nightly-build", &info, sizeof info) == 0)
    {
        fprintf(stderr, "still locked by process %" PRId32 "\n", info.pid);
        exit(75);
    }
    if (error != 0) {
        fprintf(stderr, "nightly-build: %s\n", strerror(-error));
        exit(EXIT_FAILURE);
    }

    puts("At most one process is here.");

    /* Before the step that must not run twice. */
    error = session_lock_check(lock);
    session_lock_release(lock);
    exit(error == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}
