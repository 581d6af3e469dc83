// The CUDA runtime of a GPU that computes nothing: memory is the host's, and a launched kernel does nothing.
//
// Declarations are our own. Structures are byte buffers, written at the offsets that CUDA 13 documents by the
// order of their fields. A copy to the host writes zeros: the numbers of the null GPU mean nothing, and zeros
// are finite and valid indices.
//
// Each call that moves bytes, launches or allocates is counted. The counters are 64-bit integers in the order
// of `enum counter`, in the file named by NULL_GPU_COUNTERS. It is mapped: a reader sees each count at once.

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SUCCESS = 0, OUT_OF_MEMORY = 2 };

enum counter {
    BYTES_TO_DEVICE,
    BYTES_TO_HOST,
    BYTES_ON_DEVICE,
    COPIES_TO_DEVICE,
    COPIES_TO_HOST,
    COPIES_ON_DEVICE,
    LAUNCHES,
    ALLOCATIONS,
    ALLOCATED_BYTES,
    WAITS,
    UNKNOWN_CALLS,
    COUNTERS
};

static _Atomic uint64_t unmapped[COUNTERS];
static _Atomic uint64_t *counters = unmapped;

__attribute__((constructor)) static void map_counters(void) {
    const char *path = getenv("NULL_GPU_COUNTERS");
    int file = path ? open(path, O_RDWR | O_CREAT, 0644) : -1;
    if (file < 0 || ftruncate(file, sizeof unmapped) != 0) return;
    void *mapped = mmap(NULL, sizeof unmapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) counters = mapped;
}

static void count(enum counter counter, uint64_t amount) {
    atomic_fetch_add_explicit(&counters[counter], amount, memory_order_relaxed);
}

// Counts a kernel or a library product. The other libraries call it too.
int null_gpu_launch(void) {
    count(LAUNCHES, 1);
    return SUCCESS;
}

// Reports a call of a function that the null GPU does not have. The other libraries call it too.
void null_gpu_unknown(const char *name) {
    count(UNKNOWN_CALLS, 1);
    fprintf(stderr, "the null GPU does not have %s\n", name);
}

static void put32(void *structure, size_t offset, int32_t value) {
    memcpy((char *)structure + offset, &value, sizeof value);
}

static void put64(void *structure, size_t offset, uint64_t value) {
    memcpy((char *)structure + offset, &value, sizeof value);
}

// The device.

enum { MAJOR = 9, MINOR = 0, MULTIPROCESSORS = 132, WARP = 32, BLOCK_THREADS = 1024, CUDA_VERSION = 13000 };
enum { BLOCK_SHARED = 48 << 10, BLOCK_SHARED_OPTIN = 227 << 10, MULTIPROCESSOR_SHARED = 228 << 10 };
static const uint64_t DEVICE_MEMORY = UINT64_C(80) << 30;

int cudaGetDeviceCount(int *devices) { return *devices = 1, SUCCESS; }
int cudaGetDevice(int *device) { return *device = 0, SUCCESS; }
int cudaSetDevice(int device) { return (void)device, SUCCESS; }
int cudaDriverGetVersion(int *version) { return *version = CUDA_VERSION, SUCCESS; }
int cudaRuntimeGetVersion(int *version) { return *version = CUDA_VERSION, SUCCESS; }

int cudaMemGetInfo(size_t *available, size_t *total) {
    *available = *total = DEVICE_MEMORY;
    return SUCCESS;
}

int cudaGetDeviceProperties(void *properties, int device) {
    (void)device;
    memset(properties, 0, 1008);
    strcpy(properties, "null GPU");
    put64(properties, 288, DEVICE_MEMORY);           // totalGlobalMem
    put64(properties, 296, BLOCK_SHARED);            // sharedMemPerBlock
    put32(properties, 304, 65536);                   // regsPerBlock
    put32(properties, 308, WARP);                    // warpSize
    put32(properties, 320, BLOCK_THREADS);           // maxThreadsPerBlock
    put32(properties, 324, BLOCK_THREADS);           // maxThreadsDim
    put32(properties, 328, BLOCK_THREADS);
    put32(properties, 332, 64);
    put32(properties, 336, INT32_MAX);               // maxGridSize
    put32(properties, 340, 65535);
    put32(properties, 344, 65535);
    put64(properties, 352, 65536);                   // totalConstMem
    put32(properties, 360, MAJOR);                   // major
    put32(properties, 364, MINOR);                   // minor
    put32(properties, 384, MULTIPROCESSORS);         // multiProcessorCount
    put32(properties, 560, 1);                       // concurrentKernels
    put32(properties, 588, 1);                       // unifiedAddressing
    put32(properties, 596, 50 << 20);                // l2CacheSize
    put32(properties, 604, 2048);                    // maxThreadsPerMultiProcessor
    put64(properties, 624, MULTIPROCESSOR_SHARED);   // sharedMemPerMultiprocessor
    put32(properties, 632, 65536);                   // regsPerMultiprocessor
    put64(properties, 672, BLOCK_SHARED_OPTIN);      // sharedMemPerBlockOptin
    put32(properties, 688, 32);                      // maxBlocksPerMultiProcessor
    return SUCCESS;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 1: *value = BLOCK_THREADS; break;           // max threads per block
    case 8: *value = BLOCK_SHARED; break;            // max shared memory per block
    case 10: *value = WARP; break;                   // warp size
    case 16: *value = MULTIPROCESSORS; break;        // multiprocessors
    case 39: *value = 2048; break;                   // max threads per multiprocessor
    case 75: *value = MAJOR; break;                  // compute capability
    case 76: *value = MINOR; break;
    case 81: *value = MULTIPROCESSOR_SHARED; break;  // max shared memory per multiprocessor
    case 97: *value = BLOCK_SHARED_OPTIN; break;     // max shared memory per block, on request
    case 115: *value = 0; break;                     // memory pools
    default: *value = 1;
    }
    return SUCCESS;
}

// Memory.

static int allocate(void **memory, size_t bytes) {
    size_t rounded = (bytes + 255) / 256 * 256;
    *memory = aligned_alloc(256, rounded ? rounded : 256);
    if (!*memory) return OUT_OF_MEMORY;
    memset(*memory, 0, rounded);
    count(ALLOCATIONS, 1);
    count(ALLOCATED_BYTES, bytes);
    return SUCCESS;
}

int cudaMalloc(void **memory, size_t bytes) { return allocate(memory, bytes); }
int cudaMallocHost(void **memory, size_t bytes) { return allocate(memory, bytes); }

int cudaHostAlloc(void **memory, size_t bytes, unsigned flags) {
    (void)flags;
    return allocate(memory, bytes);
}

int cudaFree(void *memory) { return free(memory), SUCCESS; }
int cudaFreeHost(void *memory) { return free(memory), SUCCESS; }

int cudaPointerGetAttributes(void *attributes, const void *memory) {
    memset(attributes, 0, 88);
    put32(attributes, 0, 2);                         // type: device memory
    put64(attributes, 8, (uintptr_t)memory);         // devicePointer
    return SUCCESS;
}

// The directions of cudaMemcpyKind; any other is within the device.
enum { TO_DEVICE = 1, TO_HOST = 2 };

static void copy(void *target, const void *source, size_t bytes, int direction) {
    if (direction == TO_HOST) memset(target, 0, bytes);
    else memmove(target, source, bytes);
}

static int counted(size_t bytes, int direction) {
    int place = direction == TO_DEVICE ? 0 : direction == TO_HOST ? 1 : 2;
    count(BYTES_TO_DEVICE + place, bytes);
    count(COPIES_TO_DEVICE + place, 1);
    return SUCCESS;
}

int cudaMemcpy(void *target, const void *source, size_t bytes, int direction) {
    copy(target, source, bytes, direction);
    return counted(bytes, direction);
}

int cudaMemcpyAsync(void *target, const void *source, size_t bytes, int direction, void *stream) {
    return (void)stream, cudaMemcpy(target, source, bytes, direction);
}

int cudaMemcpy2DAsync(char *target, size_t target_pitch, const char *source, size_t source_pitch,
                      size_t width, size_t height, int direction, void *stream) {
    (void)stream;
    for (size_t row = 0; row < height; row++)
        copy(target + row * target_pitch, source + row * source_pitch, width, direction);
    return counted(width * height, direction);
}

int cudaMemset(void *memory, int byte, size_t bytes) { return memset(memory, byte, bytes), SUCCESS; }

int cudaMemsetAsync(void *memory, int byte, size_t bytes, void *stream) {
    return (void)stream, cudaMemset(memory, byte, bytes);
}

// Streams, events and errors. All work is done when it is ordered, so there is nothing to wait for.

static int handle(void **made) { return *made = &unmapped, SUCCESS; }
static int waited(void) { return count(WAITS, 1), SUCCESS; }

int cudaStreamCreate(void **stream) { return handle(stream); }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return (void)flags, handle(stream); }
int cudaStreamDestroy(void *stream) { return (void)stream, SUCCESS; }
int cudaStreamIsCapturing(void *stream, int *status) { return (void)stream, *status = 0, SUCCESS; }
int cudaStreamSynchronize(void *stream) { return (void)stream, waited(); }
int cudaStreamWaitEvent(void) { return SUCCESS; }
int cudaDeviceSynchronize(void) { return waited(); }
int cudaEventCreate(void **event) { return handle(event); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return (void)flags, handle(event); }
int cudaEventDestroy(void *event) { return (void)event, SUCCESS; }
int cudaEventRecord(void) { return SUCCESS; }
int cudaEventRecordWithFlags(void) { return SUCCESS; }
int cudaEventSynchronize(void *event) { return (void)event, waited(); }
int cudaEventElapsedTime(float *milliseconds) { return *milliseconds = 0, SUCCESS; }
int cudaGetLastError(void) { return SUCCESS; }
int cudaPeekAtLastError(void) { return SUCCESS; }
const char *cudaGetErrorName(int error) { return error == SUCCESS ? "success" : "error of the null GPU"; }
const char *cudaGetErrorString(int error) { return cudaGetErrorName(error); }

int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *argument) {
    (void)stream;
    function(argument);
    return SUCCESS;
}

// Kernels.

void **__cudaRegisterFatBinary(void *binary) {
    static void *registered;
    return (void)binary, &registered;
}

void __cudaRegisterFatBinaryEnd(void **registered) { (void)registered; }
void __cudaUnregisterFatBinary(void **registered) { (void)registered; }
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
unsigned __cudaPushCallConfiguration(void) { return SUCCESS; }

int __cudaPopCallConfiguration(void *grid, void *block, size_t *shared, void **stream) {
    uint32_t one[3] = {1, 1, 1};
    memcpy(grid, one, sizeof one);
    memcpy(block, one, sizeof one);
    *shared = 0;
    *stream = NULL;
    return SUCCESS;
}

int __cudaGetKernel(void **kernel, const void *function) { return *kernel = (void *)function, SUCCESS; }
int __cudaLaunchKernel(void) { return null_gpu_launch(); }
int cudaLaunchKernel(void) { return null_gpu_launch(); }
int cudaLaunchKernelExC(void) { return null_gpu_launch(); }
int cudaLaunchCooperativeKernel(void) { return null_gpu_launch(); }
int cudaFuncSetAttribute(void) { return SUCCESS; }
int cudaKernelSetAttributeForDevice(void) { return SUCCESS; }

int cudaFuncGetAttributes(void *attributes, const void *function) {
    (void)function;
    memset(attributes, 0, 144);
    put32(attributes, 24, BLOCK_THREADS);            // maxThreadsPerBlock
    put32(attributes, 28, 32);                       // numRegs
    put32(attributes, 32, MAJOR * 10 + MINOR);       // ptxVersion
    put32(attributes, 36, MAJOR * 10 + MINOR);       // binaryVersion
    return SUCCESS;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) { return *blocks = 1, SUCCESS; }
