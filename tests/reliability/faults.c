// Preloaded into a process (LD_PRELOAD): counts what it does to files below FAULT_UNDER, and lets one of these
// operations fail, or ends the process at it. For tests of what a full disk, a broken card or a lost process leaves.
//
//   FAULT_UNDER   folder, real path
//   FAULT_TRACE   file that gets a line for each operation: its kind and its path
//   FAULT_AT      number, from 1, of the operation that fails; none or 0: none
//   FAULT_ERRNO   with what error; 0: the process gets SIGKILL
//   FAULT_STICKY  if set, all later operations that need room fail as well
//
// A write that fails has written half of what it should.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long count;
static int failed;

static void absolute(int folder, const char *path, char *out) {
  char at[64];
  ssize_t length = -1;
  if (path[0] == '/') {
    snprintf(out, PATH_MAX, "%s", path);
    return;
  }
  if (folder == AT_FDCWD) {
    snprintf(at, sizeof at, "/proc/self/cwd");
  } else {
    snprintf(at, sizeof at, "/proc/self/fd/%d", folder);
  }
  length = readlink(at, out, PATH_MAX - 2);
  if (length < 0) length = 0;
  snprintf(out + length, PATH_MAX - length, "/%s", path);
}

static void of_descriptor(int descriptor, char *out) {
  char at[64];
  snprintf(at, sizeof at, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(at, out, PATH_MAX - 1);
  out[length < 0 ? 0 : length] = 0;
}

// Whether the operation is to fail; errno says how.
static int fails(const char *kind, const char *path, int needs_room) {
  const char *under = getenv("FAULT_UNDER"), *trace = getenv("FAULT_TRACE"), *at = getenv("FAULT_AT");
  const char *error = getenv("FAULT_ERRNO");
  if (!under || strncmp(path, under, strlen(under))) return 0;
  pthread_mutex_lock(&lock);
  long number = ++count;
  if (trace) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s %s\n", kind, path);
    int file = syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_CREAT | O_APPEND, 0600);
    syscall(SYS_write, file, line, length);
    syscall(SYS_close, file);
  }
  int now = at && atol(at) == number;
  int later = failed && getenv("FAULT_STICKY") && needs_room;
  if (now) failed = 1;
  pthread_mutex_unlock(&lock);
  if (!now && !later) return 0;
  if (!error || !atoi(error)) syscall(SYS_kill, getpid(), SIGKILL);
  errno = atoi(error);
  return 1;
}

#define NEXT(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

#define OPENING(name, signature, folder, call)                                    \
  int name signature {                                                            \
    mode_t mode = 0;                                                              \
    if (flags & O_CREAT) {                                                        \
      va_list more;                                                               \
      va_start(more, flags);                                                      \
      mode = va_arg(more, mode_t);                                                \
      va_end(more);                                                               \
    }                                                                             \
    if (flags & (O_WRONLY | O_RDWR | O_CREAT)) {                                  \
      char whole[PATH_MAX];                                                       \
      absolute(folder, path, whole);                                              \
      if (fails("open", whole, 1)) return -1;                                     \
    }                                                                             \
    return call;                                                                  \
  }
OPENING(open, (const char *path, int flags, ...), AT_FDCWD, NEXT(open)(path, flags, mode))
OPENING(open64, (const char *path, int flags, ...), AT_FDCWD, NEXT(open64)(path, flags, mode))
OPENING(openat, (int folder, const char *path, int flags, ...), folder, NEXT(openat)(folder, path, flags, mode))
OPENING(openat64, (int folder, const char *path, int flags, ...), folder, NEXT(openat64)(folder, path, flags, mode))

ssize_t write(int descriptor, const void *bytes, size_t length) {
  char path[PATH_MAX];
  of_descriptor(descriptor, path);
  if (fails("write", path, 1)) {
    int error = errno;
    NEXT(write)(descriptor, bytes, length / 2);
    errno = error;
    return -1;
  }
  return NEXT(write)(descriptor, bytes, length);
}

#define ON_DESCRIPTOR(name, signature, call)  \
  int name signature {                        \
    char path[PATH_MAX];                      \
    of_descriptor(descriptor, path);          \
    if (fails(#name, path, 0)) return -1;     \
    return call;                              \
  }
ON_DESCRIPTOR(fsync, (int descriptor), NEXT(fsync)(descriptor))
ON_DESCRIPTOR(ftruncate, (int descriptor, off_t length), NEXT(ftruncate)(descriptor, length))
ON_DESCRIPTOR(ftruncate64, (int descriptor, off64_t length), NEXT(ftruncate64)(descriptor, length))

#define ON_PATH(name, signature, needs_room, call) \
  int name signature {                             \
    char whole[PATH_MAX];                          \
    absolute(AT_FDCWD, path, whole);               \
    if (fails(#name, whole, needs_room)) return -1; \
    return call;                                   \
  }
ON_PATH(rename, (const char *path, const char *to), 0, NEXT(rename)(path, to))
ON_PATH(unlink, (const char *path), 0, NEXT(unlink)(path))
ON_PATH(rmdir, (const char *path), 0, NEXT(rmdir)(path))
ON_PATH(mkdir, (const char *path, mode_t mode), 1, NEXT(mkdir)(path, mode))

int unlinkat(int folder, const char *path, int flags) {
  char whole[PATH_MAX];
  absolute(folder, path, whole);
  if (fails("unlinkat", whole, 0)) return -1;
  return NEXT(unlinkat)(folder, path, flags);
}
