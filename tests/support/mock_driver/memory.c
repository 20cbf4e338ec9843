// A mock of the CUDA driver: device memory and page-locked host memory.

#include <stdlib.h>
#include <string.h>

#include "mock.h"

static Block *blocks;

// The block that contains these bytes, or NULL.
Block *block_at(const void *address, size_t size, int on_device) {
    const char *start = address;
    for (Block *b = blocks; b; b = b->next)
        if (b->on_device == on_device && b->start <= start && start + size <= b->start + b->size) return b;
    return NULL;
}

static char *allocate(size_t size, int on_device, CUcontext context) {
    Block *block = malloc(sizeof *block);
    void *start;
    if (posix_memalign(&start, 4096, size ? size : 1)) abort();
    memset(start, 0xFF, size);  // FF FF is a NaN in FP16, FF FF FF FF in FP32
    *block = (Block){.start = start, .size = size, .on_device = on_device, .context = context, .next = blocks};
    blocks = block;
    return start;
}

static CUresult release(void *address, int on_device, const char *function, CUcontext context) {
    for (Block **at = &blocks; *at; at = &(*at)->next) {
        Block *block = *at;
        if (block->start != address || block->on_device != on_device) continue;
        if (block->context != context) violation("%s in another context", function);
        check_unused(block);
        memset(block->start, 0xA5, block->size);
        if (on_device) ledger.device_blocks--, ledger.device_bytes -= (long)block->size;
        else ledger.pinned_blocks--;
        *at = block->next;
        free(block->start);
        free(block);
        return CUDA_SUCCESS;
    }
    violation("%s of memory that is not allocated", function);
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemAlloc(CUdeviceptr *address, size_t size) {
    LOCKED;
    NEED_CONTEXT;
    NOT_WHILE_CAPTURING;
    if (size == 0) return CUDA_ERROR_INVALID_VALUE;
    if (refuse_allocation(size)) return CUDA_ERROR_OUT_OF_MEMORY;
    *address = (CUdeviceptr)allocate(size, 1, context);
    ledger.device_blocks++;
    ledger.device_bytes += (long)size;
    return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr address) {
    LOCKED;
    NEED_CONTEXT;
    NOT_WHILE_CAPTURING;
    return release((void *)address, 1, __func__, context);
}

CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    LOCKED;
    NEED_CONTEXT;
    NOT_WHILE_CAPTURING;
    (void)flags;
    if (size == 0) return CUDA_ERROR_INVALID_VALUE;
    if (refuse_allocation(0)) return CUDA_ERROR_OUT_OF_MEMORY;
    *address = allocate(size, 0, context);
    ledger.pinned_blocks++;
    return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void *address) {
    LOCKED;
    NEED_CONTEXT;
    NOT_WHILE_CAPTURING;
    return release(address, 0, __func__, context);
}
