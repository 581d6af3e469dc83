// cuBLASLt of the null GPU: descriptions are ignored, and a product is counted and computes nothing.
// Declarations are our own.

#include <stddef.h>

enum { SUCCESS = 0 };

int null_gpu_launch(void);

static int described;

static int handle(void **made) { return *made = &described, SUCCESS; }

int cublasLtCreate(void **made) { return handle(made); }
int cublasLtDestroy(void) { return SUCCESS; }
int cublasLtMatmulDescCreate(void **made) { return handle(made); }
int cublasLtMatmulDescSetAttribute(void) { return SUCCESS; }
int cublasLtMatmulDescDestroy(void) { return SUCCESS; }
int cublasLtMatrixLayoutCreate(void **made) { return handle(made); }
int cublasLtMatrixLayoutSetAttribute(void) { return SUCCESS; }
int cublasLtMatrixLayoutDestroy(void) { return SUCCESS; }
int cublasLtMatmulPreferenceCreate(void **made) { return handle(made); }
int cublasLtMatmulPreferenceSetAttribute(void) { return SUCCESS; }
int cublasLtMatmulPreferenceDestroy(void) { return SUCCESS; }
int cublasLtMatmul(void) { return null_gpu_launch(); }
