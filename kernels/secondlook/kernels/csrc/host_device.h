// What functions are marked with that run on the host and, compiled by nvcc, on the device too.
#pragma once

#if defined(__CUDACC__)
#define SECONDLOOK_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SECONDLOOK_HOST_DEVICE inline
#endif
