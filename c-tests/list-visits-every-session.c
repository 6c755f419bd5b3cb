/* session_lock_list calls the visitor once for each session, held ones first, then by name. */

#include "test.h"

struct seen {
  int count, stop_at;
  char names[8][32];
  struct session_lock_holder_info info[8];
};

static int visit(void *context, const char *session, const struct session_lock_holder_info *info,
                 size_t info_size) {
  struct seen *seen = context;
  CHECK(seen->count < 8 && info_size == sizeof *info);
  strcpy(seen->names[seen->count], session);
  seen->info[seen->count] = *info;
  /* The visitor may call the library. */
  CHECK_IS(session_lock_holder(".", session, &seen->info[7], sizeof *info), 0);
  CHECK_IS((int)seen->info[7].state, (int)info->state);
  return ++seen->count == seen->stop_at ? 42 : 0;
}

int main(void) {
  session_lock_handle lock, held;
  struct seen seen = {0};
  CHECK_OK(session_lock_list(".", visit, &seen));
  CHECK_IS(seen.count, 0);

  const char *sessions[] = {"c", "a/b", "a"};
  for (int n = 0; n < 3; n++) {
    CHECK_OK(session_lock_acquire(".", sessions[n], n == 1 ? &held : &lock));
    if (n != 1) CHECK_OK(session_lock_release(lock));
  }
  CHECK_OK(session_lock_acquire(".", "c", &lock));
  CHECK_OK(session_lock_list(".", visit, &seen));
  CHECK_IS(seen.count, 3);
  CHECK(!strcmp(seen.names[0], "a/b") && !strcmp(seen.names[1], "c") && !strcmp(seen.names[2], "a"));
  for (int n = 0; n < 3; n++) {
    CHECK_IS((int)seen.info[n].state, n < 2 ? SESSION_LOCK_HELD : SESSION_LOCK_FREE);
    CHECK_IS(seen.info[n].pid, n < 2 ? getpid() : 0);
    CHECK_IS(seen.info[n].waiters, 0);
  }

  seen = (struct seen){.stop_at = 2};
  CHECK_IS(session_lock_list(".", visit, &seen), 42);
  CHECK_IS(seen.count, 2);
  CHECK_IS(session_lock_list(".", NULL, &seen), -EINVAL);
  CHECK_IS(session_lock_list("", visit, &seen), -EINVAL);
  seen = (struct seen){0};
  CHECK_OK(session_lock_list("./no-such-directory", visit, &seen));
  CHECK(seen.count == 0 && access("no-such-directory", F_OK) == -1);
  CHECK_OK(session_lock_release(held));
  CHECK_OK(session_lock_release(lock));
}
