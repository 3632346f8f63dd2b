/* Preloaded into a process: fails, or kills it at, its Nth operation that writes below a folder.

   Counted are: opening for writing or making a file or folder, writing, syncing, changing a mode,
   renaming and linking. Everything else passes through, and so does what a child process does:
   only fault_arm(), called in the process itself, switches it on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long count, target;
static int error_number, lasting, armed;

/* error: 0 kills the process. sticky: every later operation that needs room fails too. */
void fault_arm(const char *below, long nth, int error, int sticky) {
  snprintf(root, sizeof root, "%s", below);
  count = 0;
  target = nth;
  error_number = error;
  lasting = sticky;
  armed = 1;
}

long fault_disarm(void) {
  armed = 0;
  return count;
}

static int fails(const char *path, int needs_room) {
  if (!armed || strncmp(path, root, strlen(root)) != 0) return 0;
  ++count;
  if (count < target || (count > target && !(lasting && needs_room))) return 0;
  if (error_number == 0) {
    if (count == target) raise(SIGKILL);
    return 0;
  }
  errno = error_number;
  return 1;
}

static int fails_open(int fd, int needs_room) {
  char link[64], path[PATH_MAX];
  if (!armed) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return fails(path, needs_room);
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define WRITES(flags) ((flags) & (O_CREAT | O_WRONLY | O_RDWR))

#define OPEN(name)                                               \
  int name(const char *path, int flags, ...) {                   \
    REAL(name);                                                  \
    va_list rest;                                                \
    va_start(rest, flags);                                       \
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                \
    if (WRITES(flags) && fails(path, 1)) return -1;              \
    return real(path, flags, mode);                              \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                             \
  int name(int at, const char *path, int flags, ...) {           \
    REAL(name);                                                  \
    va_list rest;                                                \
    va_start(rest, flags);                                       \
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                \
    if (WRITES(flags) && fails(path, 1)) return -1;              \
    return real(at, path, flags, mode);                          \
  }
OPENAT(openat)
OPENAT(openat64)

#define ON_HANDLE(type, name, needs_room, arguments, passed)     \
  type name arguments {                                          \
    REAL(name);                                                  \
    if (fails_open(fd, needs_room)) return -1;                   \
    return real passed;                                          \
  }
ON_HANDLE(ssize_t, write, 1, (int fd, const void *data, size_t size), (fd, data, size))
ON_HANDLE(ssize_t, writev, 1, (int fd, const struct iovec *parts, int n), (fd, parts, n))
ON_HANDLE(ssize_t, pwrite, 1, (int fd, const void *data, size_t size, off_t at),
          (fd, data, size, at))
ON_HANDLE(ssize_t, pwrite64, 1, (int fd, const void *data, size_t size, off64_t at),
          (fd, data, size, at))
ON_HANDLE(int, fsync, 0, (int fd), (fd))
ON_HANDLE(int, fdatasync, 0, (int fd), (fd))
ON_HANDLE(int, fchmod, 0, (int fd, mode_t mode), (fd, mode))

int chmod(const char *path, mode_t mode) {
  REAL(chmod);
  return fails(path, 0) ? -1 : real(path, mode);
}

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  return fails(path, 1) ? -1 : real(path, mode);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  return fails(to, 0) ? -1 : real(from, to);
}

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
  REAL(renameat2);
  return fails(to, 0) ? -1 : real(from_at, from, to_at, to, flags);
}

int link(const char *from, const char *to) {
  REAL(link);
  return fails(to, 1) ? -1 : real(from, to);
}
