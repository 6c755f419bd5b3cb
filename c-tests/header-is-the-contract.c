/* The header by itself, in every language that it is for (C99, C11, C++11, C++20): the functions, the
 * struct's layout and the numbers are what programs and bindings have been compiled with. */
#include <session_lock.h>
#include <session_lock.h>

#include <stddef.h>

#define SAME(name, is, expected) typedef char name[(is) == (expected) ? 1 : -1]
#define AT(field, expected) \
  SAME(field##_is_there, offsetof(struct session_lock_holder_info, field), expected)

SAME(a_handle_has_8_bytes, sizeof(session_lock_handle), 8);
SAME(a_handle_is_unsigned, (session_lock_handle)-1 > 0, 1);
SAME(the_struct_has_160_bytes, sizeof(struct session_lock_holder_info), 160);
AT(state, 0);
AT(pid, 4);
AT(orphaned, 8);
AT(confirmed, 12);
AT(acquired_at_ms, 16);
AT(command, 24);
AT(host, 88);
AT(waiters, 152);
AT(suspended, 156);
SAME(free_is_0, (int)SESSION_LOCK_FREE, 0);
SAME(held_is_1, (int)SESSION_LOCK_HELD, 1);
SAME(unknown_is_2, (int)SESSION_LOCK_UNKNOWN, 2);

int main(void) {
  int (*acquire)(const char *, const char *, session_lock_handle *) = session_lock_acquire;
  int (*wait)(const char *, const char *, int64_t, int, session_lock_handle *) = session_lock_wait;
  int (*release)(session_lock_handle) = session_lock_release;
  int (*check)(session_lock_handle) = session_lock_check;
  int (*token)(session_lock_handle, uint64_t *) = session_lock_token;
  int (*list)(const char *, int (*)(void *, const char *, const struct session_lock_holder_info *, size_t),
              void *) = session_lock_list;
  int (*holder)(const char *, const char *, struct session_lock_holder_info *, size_t) =
      session_lock_holder;
  int (*path)(const char *, const char *, char *, size_t) = session_lock_path;
  const char *(*version)(void) = session_lock_version;
  enum session_lock_state state = SESSION_LOCK_FREE;
  struct session_lock_holder_info info;
  uint32_t *is_u32[] = {&info.state, &info.orphaned, &info.confirmed, &info.waiters, &info.suspended};
  int32_t *is_i32 = &info.pid;
  int64_t *is_i64 = &info.acquired_at_ms;
  return !(acquire && wait && release && check && token && holder && list && path && version &&
           is_u32[0] && is_i32 && is_i64 && state == SESSION_LOCK_FREE);
}
