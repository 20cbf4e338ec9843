// A mock of the CUDA driver: modules, and the kernels of scale.cu, which is compiled here for the processor.

#include <cstddef>
#include <cstdlib>
#include <cstring>

extern "C" {
#include "mock.h"
}

struct Index {
    unsigned x, y, z;
};
static thread_local Index blockIdx, blockDim, threadIdx;
#define __global__
#define __device__
#include "scale.cu"

struct CUmod_st {
    char *image;
};

static Index index_of(const unsigned *xyz) { return {xyz[0], xyz[1], xyz[2]}; }

static int spoiled;

// Whether the kernels are wrong for this call. Such an error shows only in some regions.
static bool spoils(const Scaling &scaling) {
    return (spoiled == 3 && scaling.taps_x > 4) || (spoiled == 4 && scaling.channels == 1) ||
           (spoiled == 5 && scaling.region_width > 500) || (spoiled == 6 && blockIdx.z > 0);
}

template <void (*kernel)(Scaling)>
static void run(const void *parameters, const unsigned *block, const unsigned *thread, const unsigned *size) {
    Scaling scaling;
    memcpy(&scaling, parameters, sizeof scaling);
    blockIdx = index_of(block);
    threadIdx = index_of(thread);
    blockDim = index_of(size);
    if (spoils(scaling)) scaling.taps_x = 1;
    kernel(scaling);
}

static struct {
    const char *name, *entry;
    struct CUfunc_st function;
} kernels[] = {
    {"scale_rows", ".entry scale_rows(", {run<scale_rows>, sizeof(Scaling)}},
    {"scale_columns", ".entry scale_columns(", {run<scale_columns>, sizeof(Scaling)}},
};

extern "C" {

// From now on the driver refuses modules (1), or compiles kernels that do nothing (2) or are wrong for strong shrinking (3), for
// grey images (4), for wide regions (5), or for all tiles but the first (6).
void mock_spoil_kernels(int how) { spoiled = how; }

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned, CUjit_option *, void **) {
    LOCKED;
    NEED_CONTEXT;
    NOT_WHILE_CAPTURING;
    if (spoiled == 1) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    if (refuse_allocation(0)) return CUDA_ERROR_OUT_OF_MEMORY;
    *module = (CUmodule)malloc(sizeof **module);
    (*module)->image = strdup((const char *)image);
    ledger.modules++;
    return CUDA_SUCCESS;
}

static void nothing(const void *, const unsigned *, const unsigned *, const unsigned *) {}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    LOCKED;
    NEED_CONTEXT;
    static struct CUfunc_st idle = {nothing, sizeof(Scaling)};
    for (auto &kernel : kernels)
        if (!strcmp(kernel.name, name) && strstr(module->image, kernel.entry)) {
            *function = spoiled == 2 ? &idle : &kernel.function;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}

CUresult cuFuncSetBlockShape(CUfunction, int, int, int) { return CUDA_SUCCESS; }  // pycuda calls it, and a launch repeats it

CUresult cuModuleUnload(CUmodule module) {
    LOCKED;
    NEED_CONTEXT;
    ledger.modules--;
    free(module->image);
    free(module);
    return CUDA_SUCCESS;
}
}
