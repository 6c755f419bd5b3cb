/* deny CALL=ERRNO COMMAND...: executes COMMAND under a filter that denies a system call. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct { const char *name; int number; } calls[] = {
#define CALL(name) {#name, SYS_##name}
    CALL(pidfd_open), CALL(close_range), CALL(clone), CALL(clone3), CALL(setsid), CALL(ppoll),
    CALL(signalfd4), CALL(socketpair), CALL(eventfd2), CALL(statx), CALL(pidfd_send_signal),
};

int main(int argc, char **argv) {
  size_t name = strcspn(argv[1], "=");
  int number = -1;
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    if (!strncmp(calls[i].name, argv[1], name) && !calls[i].name[name]) number = calls[i].number;
  if (argc < 3 || number < 0) return 99;
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | atoi(argv[1] + name + 1)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return 98;
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 97;
  execvp(argv[2], argv + 2);
  return 96;
}
