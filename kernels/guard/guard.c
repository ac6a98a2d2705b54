/* Refuses requests that tritonserver 2.51 does not survive.
 *
 * Loaded into tritonserver before its own libraries (LD_PRELOAD), so that the program's calls of
 * three functions of its C API come here first:
 *
 *   TRITONSERVER_ServerModelBatchProperties   is called for one thing only: to make classes of an
 *       output. The program then divides by the size of an element, which for text is 0. Mended
 *       upstream in 2.60.
 *   TRITONSERVER_InferenceRequestAddInput     takes shapes whose size in bytes overflows.
 *   TRITONSERVER_ErrorMessage                 shows clients the names of shared-memory regions.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INVALID_ARG 3          /* of TRITONSERVER_Error_Code */
#define MAX_ELEMENTS (1 << 30) /* of an input; a prompt has far fewer */

typedef void Error;

/* Weak: the programs that start tritonserver load this file as well, and lack it. */
extern Error *TRITONSERVER_ErrorNew(int code, const char *message) __attribute__((weak));

Error *TRITONSERVER_ServerModelBatchProperties(void *server, const char *model, int64_t version,
                                               uint32_t *flags, void **pointer) {
  (void)server, (void)model, (void)version, (void)flags, (void)pointer;
  return TRITONSERVER_ErrorNew(
      INVALID_ARG, "classification: outputs cannot be had as classes [invalid_argument]");
}

static int is_too_large(const int64_t *shape, uint64_t dimensions) {
  int64_t elements = 1;
  for (uint64_t i = 0; i < dimensions; ++i) {
    if (shape[i] < 0 || shape[i] > MAX_ELEMENTS) return 1;
    elements *= shape[i]; /* at most 2^60 */
    if (elements > MAX_ELEMENTS) return 1;
  }
  return 0;
}

Error *TRITONSERVER_InferenceRequestAddInput(void *request, const char *name, int datatype,
                                             const int64_t *shape, uint64_t dimensions) {
  static Error *(*add)(void *, const char *, int, const int64_t *, uint64_t);
  if (is_too_large(shape, dimensions))
    return TRITONSERVER_ErrorNew(
        INVALID_ARG, "shape: an input has at most 2^30 elements [invalid_argument]");
  if (!add) *(void **)&add = dlsym(RTLD_NEXT, "TRITONSERVER_InferenceRequestAddInput");
  return add(request, name, datatype, shape, dimensions);
}

const char *TRITONSERVER_ErrorMessage(Error *error) {
  static const char *(*message_of)(Error *);
  if (!message_of) *(void **)&message_of = dlsym(RTLD_NEXT, "TRITONSERVER_ErrorMessage");
  const char *message = message_of(error);
  if (message && strstr(message, "shared memory") && strstr(message, "cold-server-"))
    return "the server is short of shared memory; try again in about 1 s [unavailable]";
  return message;
}
