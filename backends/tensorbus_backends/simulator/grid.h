/* Kernels in CUDA C++ or HIP C++ on the executor: what the drivers of both do alike. */
#ifndef TENSORBUS_GRID_H
#define TENSORBUS_GRID_H

#include "executor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The text to give to tbs_compile for a source, malloc'ed: behind it an entry for each kernel that
   is `extern "C"`, and each `extern __shared__` array of a function taken from the memory that the
   launch asks for.  Put `tbs_text_grid_kernel` (embed grid_kernel.h) and the family's own words in
   front of it. */
char *tbs_grid_text(const char *source);

typedef struct {
    void (*enter)(void *arguments);
    const uint32_t *info;       /* number of arguments, bytes of all, most threads of a group, then
                                   offset and size of each argument */
} tbs_grid_kernel;

/* TBS_INVALID if the module has no such kernel. */
tbs_status tbs_grid_find(tbs_module *module, const char *name, tbs_grid_kernel *kernel);

/* Put a launch into a stream.  Arguments come as one pointer for each (`parameters`), or packed, as
   key and value pairs (`extra`: 1 and the address, 2 and the address of the size, then 0 or 3);
   they are copied.  TBS_INVALID if they do not fit the kernel, or a size is 0 or a group has more
   threads than the kernel's __launch_bounds__ (or 1024). */
tbs_status tbs_grid_launch(tbs_stream *stream, int device, tbs_module *module,
                           const tbs_grid_kernel *kernel, const uint32_t groups[3],
                           const uint32_t threads[3], size_t dynamic, void **parameters,
                           void **extra, int flush);

#ifdef __cplusplus
}
#endif
#endif
