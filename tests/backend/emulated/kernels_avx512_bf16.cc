// The kernels for AVX-512 with VNNI and BF16 on a machine without them.
#include "backend/emulated/avx512.h"

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#define __AVX512VNNI__ 1
#define __AVX512BF16__ 1
#define kernels_avx512_bf16 kernels_avx512_bf16_emulated
#include "backend/cpu/kernels_avx512_bf16.cc"
