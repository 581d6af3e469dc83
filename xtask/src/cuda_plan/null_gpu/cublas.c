// cuBLAS of the null GPU: a product is counted and computes nothing. Declarations are our own.

#include <stddef.h>

enum { SUCCESS = 0 };

int null_gpu_launch(void);

static int cublas;

int cublasCreate_v2(void **handle) { return *handle = &cublas, SUCCESS; }
int cublasDestroy_v2(void *handle) { return (void)handle, SUCCESS; }
int cublasSetStream_v2(void) { return SUCCESS; }
int cublasSetMathMode(void) { return SUCCESS; }
int cublasGetMathMode(void *handle, int *mode) { return (void)handle, *mode = 0, SUCCESS; }
const char *cublasGetStatusName(int status) { return status == SUCCESS ? "success" : "error"; }
const char *cublasGetStatusString(int status) { return cublasGetStatusName(status); }

int cublasSgemm_v2(void) { return null_gpu_launch(); }
int cublasSgemmBatched(void) { return null_gpu_launch(); }
int cublasSgemmStridedBatched(void) { return null_gpu_launch(); }
int cublasGemmEx(void) { return null_gpu_launch(); }
int cublasGemmBatchedEx(void) { return null_gpu_launch(); }
int cublasGemmStridedBatchedEx(void) { return null_gpu_launch(); }
int cublasSgeam(void) { return null_gpu_launch(); }
int cublasScopy_v2(void) { return null_gpu_launch(); }
int cublasSscal_v2(void) { return null_gpu_launch(); }
