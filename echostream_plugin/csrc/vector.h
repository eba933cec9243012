// Vectors of LANES floats, as wide as the path that includes this has registers, and functions of them.

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef uint32_t BitVec __attribute__((vector_size(4 * LANES)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * LANES)));
typedef uint8_t ByteVec __attribute__((vector_size(LANES)));

struct Whole {};  // LANES numbers
struct Part {     // fewer, at the end of a row
  int64_t count;
};

INLINE Vec set(float value) { return value - Vec{}; }  // minus 0 is nothing to do, plus 0 is an addition

INLINE Vec load(const float* from, Whole = {}) {
  Vec v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
INLINE Vec load(const float* from, Part part) {
  float all[LANES] = {};
  __builtin_memcpy(all, from, 4 * part.count);
  return load(all);
}
INLINE void store(float* to, Vec v, Whole = {}) { __builtin_memcpy(to, &v, sizeof v); }
INLINE void store(float* to, Vec v, Part part) {
  float all[LANES];
  store(all, v);
  __builtin_memcpy(to, all, 4 * part.count);
}

// work(i, Whole or Part) for the vectors of a row of `count` numbers
template <class Work>
INLINE void each(int64_t count, Work work) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) work(i, Whole{});
  if (i < count) work(i, Part{count - i});
}

// of an `a` that is not a number, that: what is broken is to be seen
INLINE Vec largest(Vec a, Vec b) { return a < b ? b : a; }
INLINE Vec smallest(Vec a, Vec b) { return a > b ? b : a; }

INLINE float sum(Vec v) {
#if LANES == 16
  return _mm512_reduce_add_ps((__m512)v);
#else
  float total = 0;
  for (int i = 0; i < LANES; i++) total += v[i];
  return total;
#endif
}

// weights in half precision to float32
INLINE Vec widened(const uint16_t* from) {
#if LANES == 16
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif LANES == 8
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
  HalfVec half;
  __builtin_memcpy(&half, from, sizeof half);
  BitVec bits = __builtin_convertvector(half, BitVec);
  // the exponents differ by 112; the product is right for subnormal numbers too
  Vec size = (Vec)((bits & 0x7fffu) << 13) * 5.192296858534828e33f;
  BitVec beyond = (BitVec)((bits & 0x7c00u) == 0x7c00u) & 0x7f800000u;  // infinite, or not a number
  return (Vec)((BitVec)size | beyond | (bits & 0x8000u) << 16);
#endif
}

const float ROUND = 12582912.0f;  // 1.5 * 2^23: added, it leaves the nearest integer in the low bits

// e^x to 2 units in the last place for -87 <= x <= 88, beyond them their values (Cephes' expf)
INLINE Vec exponential(Vec x) {
  x = smallest(largest(x, set(-87.0f)), set(88.0f));
  Vec shifted = x * 1.44269504f + ROUND;
  Vec whole = shifted - ROUND;
  Vec rest = x - whole * 0.693359375f;
  rest = rest + whole * 2.12194440e-4f;
  Vec power = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  power = power * rest + 8.3334519073e-3f;
  power = power * rest + 4.1665795894e-2f;
  power = power * rest + 1.6666665459e-1f;
  power = power * rest + 5.0000001201e-1f;
  power = power * (rest * rest) + rest + 1.0f;
  return (Vec)((BitVec)power + ((BitVec)shifted << 23));
}

INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE Vec silu(Vec x) { return x * sigmoid(x); }
INLINE Vec tanh_of(Vec x) { return 1.0f - 2.0f / (exponential(x + x) + 1.0f); }

// x times the normal distribution's function, by erfc to 1.5e-7 (Abramowitz and Stegun 7.1.26)
INLINE Vec gelu(Vec x) {
  Vec size = largest(x, -x) * 0.70710678f;
  Vec t = 1.0f / (1.0f + 0.3275911f * size);
  Vec tail = t * 1.061405429f - 1.453152027f;
  tail = tail * t + 1.421413741f;
  tail = tail * t - 0.284496736f;
  tail = (tail * t + 0.254829592f) * t * exponential(-size * size) * 0.5f;
  return x * (x > 0.0f ? 1.0f - tail : tail);
}
