// The kernels for AVX2 with VNNI on a machine without it.
#include "backend/emulated/avx512.h"

#define __AVXVNNI__ 1
#define kernels_avxvnni kernels_avxvnni_emulated
#include "backend/cpu/kernels_avxvnni.cc"
