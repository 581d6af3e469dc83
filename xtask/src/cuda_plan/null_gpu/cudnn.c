// cuDNN of the null GPU: a reduction is counted and computes nothing. The provider looks functions up by name
// when it first needs one; a function that is not here is an error of the provider. Declarations are our own.

#include <stddef.h>

enum { SUCCESS = 0 };

int null_gpu_launch(void);

static int described;

static int handle(void **made) { return *made = &described, SUCCESS; }

size_t cudnnGetVersion(void) { return 91000; }
int cudnnCreate(void **made) { return handle(made); }
int cudnnDestroy(void) { return SUCCESS; }
int cudnnSetStream(void) { return SUCCESS; }
const char *cudnnGetErrorString(int status) { return status == SUCCESS ? "success" : "error"; }

int cudnnCreateTensorDescriptor(void **made) { return handle(made); }
int cudnnSetTensorNdDescriptor(void) { return SUCCESS; }
int cudnnDestroyTensorDescriptor(void) { return SUCCESS; }
int cudnnCreateReduceTensorDescriptor(void **made) { return handle(made); }
int cudnnSetReduceTensorDescriptor(void) { return SUCCESS; }
int cudnnDestroyReduceTensorDescriptor(void) { return SUCCESS; }

int cudnnGetReductionIndicesSize(void *cudnn, void *reduction, void *input, void *output, size_t *bytes) {
    (void)cudnn, (void)reduction, (void)input, (void)output;
    *bytes = 0;
    return SUCCESS;
}

int cudnnGetReductionWorkspaceSize(void *cudnn, void *reduction, void *input, void *output, size_t *bytes) {
    return cudnnGetReductionIndicesSize(cudnn, reduction, input, output, bytes);
}

int cudnnReduceTensor(void) { return null_gpu_launch(); }
