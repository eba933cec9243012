// AVX2, FMA and F16C.
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define PATH avx2
#define LANES 8
#define MOST_ROWS 6
#include "path.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
