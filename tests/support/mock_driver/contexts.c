// A mock of the CUDA driver: the device and its contexts.

#include <stdio.h>
#include <stdlib.h>

#include "mock.h"

#define DEPTH 16

static struct CUctx_st primary;
static __thread CUcontext stack[DEPTH];
static __thread int depth;
static pthread_key_t at_thread_end;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void check_thread(void *used) {
    (void)used;
    if (depth) violation("a thread ended with a context current");
}

static void make_key(void) { pthread_key_create(&at_thread_end, check_thread); }

CUcontext current_context(const char *function) {
    if (!depth) {
        violation("%s without a current context", function);
        return NULL;
    }
    if (!stack[depth - 1]->alive) {
        violation("%s in a context that has ended", function);
        return NULL;
    }
    return stack[depth - 1];
}

static CUresult push(CUcontext context) {
    if (!context->alive) {
        violation("a context that has ended was pushed");
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    }
    if (depth == DEPTH) {
        violation("contexts were pushed and not popped");
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    pthread_once(&once, make_key);
    pthread_setspecific(at_thread_end, &primary);
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

static void end(CUcontext context) {
    context->alive = 0;
    ledger.contexts--;
    for (CUstream s = all_streams; s; s = s->next)
        if (s->alive && s->context == context) violation("a context ended before its stream was destroyed");
    if (ledger.contexts == 0 && (ledger.device_blocks || ledger.pinned_blocks || ledger.executables || ledger.events))
        violation("the context ended with %ld device blocks, %ld page-locked blocks, %ld graphs and %ld events alive",
                  ledger.device_blocks, ledger.pinned_blocks, ledger.executables, ledger.events);
}

CUresult cuCtxCreate(CUcontext *context, CUctxCreateParams *parameters, unsigned flags, CUdevice device) {
    LOCKED;
    (void)parameters, (void)device;
    if (refuse_allocation(0)) return CUDA_ERROR_OUT_OF_MEMORY;
    *context = calloc(1, sizeof **context);
    **context = (struct CUctx_st){.alive = 1, .users = 1, .flags = flags};
    ledger.contexts++;
    return push(*context);
}

// Ends a context and pops it.
CUresult cuCtxDetach(CUcontext context) {
    LOCKED;
    if (!depth || stack[depth - 1] != context) {
        violation("a context was detached that is not current");
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    depth--;
    end(context);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags) {
    LOCKED;
    (void)device;
    primary.flags = flags;
    return CUDA_SUCCESS;
}

unsigned mock_context_flags(void) { return primary.flags; }

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    LOCKED;
    (void)device;
    if (refuse_allocation(0)) return CUDA_ERROR_OUT_OF_MEMORY;
    if (primary.users++ == 0) {
        primary.alive = 1;
        ledger.contexts++;
    }
    *context = &primary;
    return CUDA_SUCCESS;
}

// Unlike `cuCtxDetach`, this never pops the context.
CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    LOCKED;
    (void)device;
    if (primary.users == 0) {
        violation("the primary context was released more often than it was retained");
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    if (--primary.users == 0) {
        for (int i = 0; i < depth; i++)
            if (stack[i] == &primary) violation("the primary context was released while it is current on this thread");
        end(&primary);
    }
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) {
    LOCKED;
    return push(context);
}

CUresult cuCtxPopCurrent(CUcontext *context) {
    LOCKED;
    if (!depth) {
        violation("a context was popped where none is current");
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    *context = stack[--depth];
    return CUDA_SUCCESS;
}

int mock_depth(void) { return depth; }

CUresult cuCtxGetDevice(CUdevice *device) {
    LOCKED;
    NEED_CONTEXT;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult cuInit(unsigned flags) {
    (void)flags;
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
    (void)device;
    snprintf(name, (size_t)size, "Mock GPU");
    return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    (void)device;
    *major = 8;
    *minor = 7;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    (void)device;
    *value = attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? 8 : 1;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    switch (error) {
        case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
        case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: *text = "operation failed due to a previous error during capture"; break;
        case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: *text = "operation not permitted when stream is capturing"; break;
        default: *text = "error of the mock driver";
    }
    return CUDA_SUCCESS;
}
