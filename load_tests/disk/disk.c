/* A folder on a disk that hangs, is slow or fails, for the process that loads this (LD_PRELOAD).
 *
 * Without privileges there is no mount of such a kind. COLD_DISK_FOLDER is what paths there begin with,
 * COLD_DISK_STATE a file whose first letter says how its disk is: h hangs, s takes 50 ms for
 * everything, e fails when it is read; anything else, or no file: well.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 65536
#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static char ours[FILES]; /* open files of the folder */

static int is_open(int file) { return file >= 0 && file < FILES && ours[file]; }

static int is_inside(int directory, const char *path) {
  const char *folder = getenv("COLD_DISK_FOLDER");
  if (!folder || !path) return 0;
  if (path[0] != '/') return is_open(directory);
  return !strncmp(path, folder, strlen(folder));
}

static ssize_t real_read(int file, void *to, size_t size) {
  REAL(read);
  return real(file, to, size);
}

static int real_open(const char *path) {
  static int (*real)(const char *, int, ...);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "open64");
  return real(path, O_RDONLY | O_CLOEXEC);
}

static int real_close(int file) {
  REAL(close);
  return real(file);
}

static char state(void) {
  const char *path = getenv("COLD_DISK_STATE");
  int file = path ? real_open(path) : -1;
  char letter = 0;
  if (file < 0) return 0;
  if (real_read(file, &letter, 1) != 1) letter = 0;
  real_close(file);
  return letter;
}

/* Takes as long as the disk does; whether it fails. */
static int disturb(void) {
  for (;;) {
    char now = state();
    if (now == 's') usleep(50000);
    if (now != 'h') return now == 'e';
    usleep(20000);
  }
}

static int note(int file, int inside) {
  if (file >= 0 && file < FILES) ours[file] = inside;
  return file;
}

#define FAIL_IF(condition, result) \
  if (condition) { \
    errno = EIO; \
    return result; \
  }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(name); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = va_arg(rest, mode_t); \
    va_end(rest); \
    int inside = is_inside(AT_FDCWD, path); \
    if (inside) disturb(); \
    return note(real(path, flags, mode), inside); \
  }
#define OPENAT(name) \
  int name(int directory, const char *path, int flags, ...) { \
    REAL(name); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = va_arg(rest, mode_t); \
    va_end(rest); \
    int inside = is_inside(directory, path); \
    if (inside) disturb(); \
    return note(real(directory, path, flags, mode), inside); \
  }
#define STAT(name, kind) \
  int name(const char *path, struct kind *to) { \
    REAL(name); \
    if (is_inside(AT_FDCWD, path)) disturb(); \
    return real(path, to); \
  }
#define FSTATAT(name, kind) \
  int name(int directory, const char *path, struct kind *to, int flags) { \
    REAL(name); \
    if (is_inside(directory, path)) disturb(); \
    return real(directory, path, to, flags); \
  }
#define PREAD(name, offset_t) \
  ssize_t name(int file, void *to, size_t size, offset_t offset) { \
    REAL(name); \
    FAIL_IF(is_open(file) && disturb(), -1) \
    return real(file, to, size, offset); \
  }
#define MMAP(name, offset_t) \
  void *name(void *at, size_t size, int access, int flags, int file, offset_t offset) { \
    REAL(name); \
    FAIL_IF(!(flags & MAP_ANONYMOUS) && is_open(file) && disturb(), MAP_FAILED) \
    return real(at, size, access, flags, file, offset); \
  }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)
FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)
PREAD(pread, off_t)
PREAD(pread64, off64_t)
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

int statx(int directory, const char *path, int flags, unsigned mask, struct statx *to) {
  REAL(statx);
  if (is_inside(directory, path)) disturb();
  return real(directory, path, flags, mask, to);
}

ssize_t read(int file, void *to, size_t size) {
  FAIL_IF(is_open(file) && disturb(), -1)
  return real_read(file, to, size);
}

int close(int file) {
  note(file, 0);
  return real_close(file);
}
