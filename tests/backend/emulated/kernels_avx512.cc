// The kernels for AVX-512 on a machine without it.
#include "backend/emulated/avx512.h"

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#define kernels_avx512 kernels_avx512_emulated
#include "backend/cpu/kernels_avx512.cc"
