// AVX-512 as of Skylake's server processors.
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define PATH avx512
#define LANES 16
#define MOST_ROWS 14
#include "path.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
