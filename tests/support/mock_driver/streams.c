// A mock of the CUDA driver: streams, what runs on them, events, and stream capture.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mock.h"

CUstream all_streams;
static __thread CUstream capturing;  // the stream that this thread captures in thread-local mode
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;

int capture_forbids(const char *function) {
    if (!capturing) return 0;
    violation("%s while this thread captures a stream", function);
    capturing->capture_failed = 1;
    return 1;
}

static int uses(const Op *op, const Block *block) {
    const char *end = block->start + block->size;
    int copies = op->kind <= ON_DEVICE;
    return copies && ((op->to >= block->start && op->to < end) || (op->from >= block->start && op->from < end));
}

void check_unused(const Block *block) {
    for (CUstream s = all_streams; s; s = s->next)
        for (Op *op = s->queue.first; op; op = op->next) {
            if (uses(op, block)) violation("memory was freed while a copy that uses it waits on a stream");
            if (op->kind != LAUNCH_GRAPH) continue;
            for (Op *inner = op->executable->ops.first; inner; inner = inner->next)
                if (uses(inner, block)) violation("memory was freed while a graph that uses it waits on a stream");
        }
}

static int is_mapped(const char *address, size_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)address & ~(page - 1);
    size_t length = (uintptr_t)address + size - start;
    unsigned char *present = malloc(length / page + 2);
    int mapped = mincore((void *)start, length, present) == 0;
    free(present);
    return mapped;
}

static void check_copy(const Op *op, const char *when) {
    if (op->kind != TO_DEVICE && !block_at(op->from, op->size, 1)) violation("%s: a copy reads device memory that is not allocated", when);
    if (op->kind != FROM_DEVICE && !block_at(op->to, op->size, 1)) violation("%s: a copy writes device memory that is not allocated", when);
}

static int is_pageable(const Op *op) {
    return op->kind != ON_DEVICE && !block_at(op->kind == TO_DEVICE ? op->from : op->to, op->size, 0);
}

static void run_copy(Op *op) {
    check_copy(op, "when it ran");
    if (is_pageable(op)) {
        const char *host = op->kind == TO_DEVICE ? op->from : op->to;
        if (!is_mapped(host, op->size)) {
            violation("host memory was freed before its copy ran");
            return;
        }
        if (op->snapshot && memcmp(op->snapshot, op->from, op->size))
            violation("pageable memory was freed or changed before its copy ran");
    }
    memcpy(op->to, op->from, op->size);
}

static void run_kernel(const Op *op) {
    unsigned b[3], t[3];
    for (b[2] = 0; b[2] < op->grid[2]; b[2]++)
        for (b[1] = 0; b[1] < op->grid[1]; b[1]++)
            for (b[0] = 0; b[0] < op->grid[0]; b[0]++)
                for (t[2] = 0; t[2] < op->block[2]; t[2]++)
                    for (t[1] = 0; t[1] < op->block[1]; t[1]++)
                        for (t[0] = 0; t[0] < op->block[0]; t[0]++) op->kernel->run(op->argument, b, t, op->block);
}

static void run(Op *op);

static void run_all(Queue *queue) {
    for (Op *op = queue->first; op; op = op->next) run(op);
}

static void run(Op *op) {
    switch (op->kind) {
        case TO_DEVICE: case FROM_DEVICE: case ON_DEVICE: run_copy(op); break;
        case CALL_HOST:  // it may need Python's lock, which a thread that waits for the mock may hold
            mock_unlock(NULL);
            op->function(op->argument);
            mock_lock();
            break;
        case LAUNCH_GRAPH:
            run_all(&op->executable->ops);
            op->executable->waiting--;
            break;
        case LAUNCH_KERNEL: run_kernel(op); break;
        case RECORD_EVENT: op->event->pending--; break;
        case WAIT_EVENT:
            if (op->event->pending && op->event->stream) run_stream(op->event->stream);
            break;
    }
}

// Run what waits on a stream. If another thread runs it already, wait for that thread.
void run_stream(CUstream stream) {
    while (stream->running) mock_wait(&ended);
    stream->running = 1;
    for (Op *op = stream->queue.first; op; op = stream->queue.first) {
        run(op);
        stream->queue.first = op->next;
        if (!op->next) stream->queue.last = NULL;
        free(op->snapshot);
        free(op);
    }
    stream->running = 0;
    pthread_cond_broadcast(&ended);
}

static CUresult put(CUstream stream, Op op) {
    Op *added;
    Queue *queue;
    if (!stream || !stream->alive) {
        violation(stream ? "a destroyed stream is used" : "the default stream is used");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    CUcontext context = current_context("an operation on a stream");
    if (context != stream->context) {
        violation("a stream of another context is used");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (op.kind <= ON_DEVICE) {
        check_copy(&op, "when it was asked for");
        if (is_pageable(&op)) {
            ledger.pageable_copies++;
            if (stream->capturing) violation("a graph copies pageable memory, which may be freed before a launch");
            if (op.kind == TO_DEVICE) op.snapshot = memcpy(malloc(op.size), op.from, op.size);
        }
    }
    if (stream->capturing && !pthread_equal(stream->capturer, pthread_self()))
        violation("two threads use a stream that is captured");
    added = malloc(sizeof *added);
    *added = op;
    queue = stream->capturing ? &stream->captured : &stream->queue;
    if (queue->last) queue->last->next = added;
    else queue->first = added;
    queue->last = added;
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    LOCKED;
    NEED_CONTEXT;
    NOT_WHILE_CAPTURING;
    (void)flags;
    if (refuse_allocation(0)) return CUDA_ERROR_OUT_OF_MEMORY;
    *stream = calloc(1, sizeof **stream);
    **stream = (struct CUstream_st){.alive = 1, .context = context, .next = all_streams};
    all_streams = *stream;
    ledger.streams++;
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
    LOCKED;
    NEED_CONTEXT;
    if (!stream->alive) violation("a stream was destroyed twice");
    if (stream->context != context) violation("a stream was destroyed in another context");
    if (stream->queue.first) violation("a stream was destroyed while work waits on it");
    if (stream->capturing) violation("a stream was destroyed while it is captured");
    stream->alive = 0;
    ledger.streams--;
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) {
    LOCKED;
    NEED_CONTEXT;
    if (stream->capturing) {
        violation("a stream that is captured was waited for");
        stream->capture_failed = 1;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    NOT_WHILE_CAPTURING;
    if (!stream->alive || stream->context != context) {
        violation("a destroyed stream, or one of another context, was waited for");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    run_stream(stream);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
    LOCKED;
    return put(stream, (Op){.kind = TO_DEVICE, .to = (char *)to, .from = from, .size = size});
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size, CUstream stream) {
    LOCKED;
    return put(stream, (Op){.kind = FROM_DEVICE, .to = to, .from = (char *)from, .size = size});
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    LOCKED;
    return put(stream, (Op){.kind = ON_DEVICE, .to = (char *)to, .from = (char *)from, .size = size});
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *argument) {
    LOCKED;
    return put(stream, (Op){.kind = CALL_HOST, .function = function, .argument = argument});
}

CUresult cuLaunchKernel(CUfunction kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared_bytes, CUstream stream, void **parameters, void **extra) {
    LOCKED;
    (void)shared_bytes, (void)parameters;
    size_t size = *(size_t *)extra[3];
    if (size != kernel->parameter_bytes) {
        violation("a kernel takes %zu bytes of parameters and got %zu", kernel->parameter_bytes, size);
        return CUDA_ERROR_INVALID_VALUE;
    }
    void *copy = memcpy(malloc(size), extra[1], size);  // CU_LAUNCH_PARAM_BUFFER_POINTER, pointer, …_SIZE, size
    return put(stream, (Op){.kind = LAUNCH_KERNEL, .kernel = kernel, .argument = copy, .grid = {gx, gy, gz}, .block = {bx, by, bz}});
}

CUresult cuEventCreate(CUevent *event, unsigned flags) {
    LOCKED;
    NEED_CONTEXT;
    NOT_WHILE_CAPTURING;
    (void)context, (void)flags;
    if (refuse_allocation(0)) return CUDA_ERROR_OUT_OF_MEMORY;
    *event = calloc(1, sizeof **event);
    (*event)->alive = 1;
    ledger.events++;
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
    LOCKED;
    NEED_CONTEXT;
    (void)context;
    if (!event->alive) violation("an event was destroyed twice");
    if (event->pending) violation("an event was destroyed before it was recorded");
    event->alive = 0;
    ledger.events--;
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
    LOCKED;
    event->stream = stream;
    event->pending++;
    return put(stream, (Op){.kind = RECORD_EVENT, .event = event});
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
    LOCKED;
    (void)flags;
    return put(stream, (Op){.kind = WAIT_EVENT, .event = event});
}

CUresult cuEventSynchronize(CUevent event) {
    LOCKED;
    NOT_WHILE_CAPTURING;
    if (event->pending) run_stream(event->stream);
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end) {
    LOCKED;
    if (start->pending || end->pending) return CUDA_ERROR_NOT_READY;
    *ms = 1;
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    LOCKED;
    NEED_CONTEXT;
    if (stream->context != context) violation("a stream of another context is captured");
    if (stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capturing = 1;
    stream->capture_failed = 0;
    stream->capturer = pthread_self();
    stream->captured = (Queue){0};
    if (mode != CU_STREAM_CAPTURE_MODE_RELAXED) capturing = stream;
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    LOCKED;
    NEED_CONTEXT;
    (void)context;
    *graph = NULL;
    if (!stream->capturing) {
        violation("a capture was ended that was not begun");
        return CUDA_ERROR_ILLEGAL_STATE;
    }
    if (!pthread_equal(stream->capturer, pthread_self())) return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    stream->capturing = 0;
    capturing = NULL;
    if (stream->capture_failed) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = calloc(1, sizeof **graph);
    **graph = (struct CUgraph_st){.alive = 1, .ops = stream->captured};
    ledger.graphs++;
    return CUDA_SUCCESS;
}

// A library that cannot be captured ends a capture with an error. Tests call this in its place.
void mock_spoil_capture(CUstream stream) {
    LOCKED;
    if (stream->capturing) stream->capture_failed = 1;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
    LOCKED;
    NEED_CONTEXT;
    (void)flags;
    if (!graph || !graph->alive) {
        violation("a graph that does not exist was instantiated");
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (refuse_allocation(0)) return CUDA_ERROR_OUT_OF_MEMORY;
    *executable = calloc(1, sizeof **executable);
    **executable = (struct CUgraphExec_st){.alive = 1, .context = context, .ops = graph->ops};
    ledger.executables++;
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
    LOCKED;
    if (!graph || !graph->alive) {
        violation("a graph was destroyed that does not exist, or twice");
        return CUDA_ERROR_INVALID_VALUE;
    }
    graph->alive = 0;
    ledger.graphs--;
    return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    LOCKED;
    if (!executable->alive) {
        violation("a destroyed graph was launched");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (stream->context != executable->context) violation("a graph was launched in another context");
    ledger.launches++;
    executable->waiting++;
    return put(stream, (Op){.kind = LAUNCH_GRAPH, .executable = executable});
}

CUresult cuGraphExecDestroy(CUgraphExec executable) {
    LOCKED;
    NEED_CONTEXT;
    (void)context;
    if (!executable->alive) {
        violation("a graph was destroyed twice");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (executable->waiting) violation("a graph was destroyed while a launch of it waits");
    executable->alive = 0;
    ledger.executables--;
    return CUDA_SUCCESS;
}
