// A mock of the CUDA driver: what its files share. `ledger.c` describes the mock.
#ifndef MOCK_H
#define MOCK_H

#include <cuda.h>
#include <pthread.h>
#include <stddef.h>

struct CUctx_st {
    int alive, users;
    unsigned flags;
};

// Device memory, or page-locked host memory.
typedef struct Block {
    char *start;
    size_t size;
    int on_device;
    CUcontext context;
    struct Block *next;
} Block;

typedef enum { TO_DEVICE, FROM_DEVICE, ON_DEVICE, CALL_HOST, LAUNCH_GRAPH, LAUNCH_KERNEL, RECORD_EVENT, WAIT_EVENT } Kind;

// One operation of a stream or a graph.
typedef struct Op {
    Kind kind;
    char *to;
    const char *from;
    size_t size;
    char *snapshot;  // what pageable memory contained when the copy was asked for
    CUhostFn function;
    void *argument;
    CUgraphExec executable;
    CUevent event;
    CUfunction kernel;
    unsigned grid[3], block[3];
    struct Op *next;
} Op;

typedef struct {
    Op *first, *last;
} Queue;

struct CUstream_st {
    int alive, capturing, capture_failed, running;
    CUcontext context;
    Queue queue, captured;
    pthread_t capturer;
    struct CUstream_st *next;
};

struct CUgraph_st {
    int alive;
    Queue ops;
};

struct CUgraphExec_st {
    int alive, waiting;  // waiting: launches that have not run yet
    CUcontext context;
    Queue ops;
};

struct CUevent_st {
    int alive, pending;
    CUstream stream;
};

typedef void (*Kernel)(const void *parameters, const unsigned *block_index, const unsigned *thread_index, const unsigned *size);

struct CUfunc_st {
    Kernel run;
    size_t parameter_bytes;
};

// What exists now, and what was seen. Python reads this struct: `Ledger` in mock_gpu.py has the same fields.
typedef struct {
    long device_blocks, device_bytes, pinned_blocks, streams, events, graphs, executables, modules, contexts;
    long violations, allocations, launches, pageable_copies, waiting_ops;
} Ledger;

extern Ledger ledger;
extern CUstream all_streams;

// Held in every function of the driver; released while a host function runs.
int mock_lock(void);
void mock_unlock(int *);
void mock_wait(pthread_cond_t *condition);
#define LOCKED __attribute__((cleanup(mock_unlock), unused)) int locked_ = mock_lock()

void violation(const char *format, ...) __attribute__((format(printf, 1, 2)));
int refuse_allocation(size_t device_bytes);
CUcontext current_context(const char *function);
int capture_forbids(const char *function);  // in thread-local mode, while this thread captures
Block *block_at(const void *address, size_t size, int on_device);
void run_stream(CUstream stream);
void check_unused(const Block *block);

#define NEED_CONTEXT                                               \
    CUcontext context = current_context(__func__);                 \
    (void)context;                                                 \
    if (!context) return CUDA_ERROR_INVALID_CONTEXT
#define NOT_WHILE_CAPTURING                                  \
    if (capture_forbids(__func__)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED

#endif
