// AVX-512 with VNNI, products of bytes.
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#endif
#define PATH avx512_vnni
#define LANES 16
#define MOST_ROWS 14
#define VNNI
#include "path.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
