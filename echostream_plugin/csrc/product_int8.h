// Products of int8 weights with inputs rounded to 7 bits, which no sum of two overflows, one scale per row; the sums are
// of integers, so every path has the same.

const int LARGEST = 63, CENTRE = 64;  // inputs lie from 1 to 127
const int64_t GROUP = 4;              // inputs in one instruction

INLINE int64_t grouped(int64_t inputs) { return (inputs + GROUP - 1) / GROUP * GROUP; }

// x [count] in steps of its largest number's 63rd part; returns the step
static float quantize(const float* x, int64_t count, uint8_t* to) {
  Vec top = set(1e-12f), broken = {};
  each(count, [&](int64_t i, auto part) {
    Vec v = load(x + i, part);
    top = largest(top, largest(v, -v));
    broken += v - v;  // nothing of numbers
  });
  float most = top[0];
  for (int i = 1; i < LANES; i++) most = top[i] > most ? top[i] : most;
  each(count, [&](int64_t i, auto part) {
    Vec steps = load(x + i, part) / most * float(LARGEST) + (ROUND + CENTRE);
    ByteVec bytes = __builtin_convertvector((BitVec)steps & 0xffu, ByteVec);
    uint8_t all[LANES];
    __builtin_memcpy(all, &bytes, sizeof all);
    const int64_t left = count - i;
    if (left >= LANES) __builtin_memcpy(to + i, all, LANES);
    else __builtin_memcpy(to + i, all, left);
  });
  for (int64_t i = count; i < grouped(count); i++) to[i] = CENTRE;
  return most / LARGEST + sum(broken);
}

// sums of 4 products in each lane; x: 4 inputs, the same for all lanes
INLINE IntVec add_products(IntVec sums, const uint8_t* x, const int8_t* weights) {
#if LANES == 4
  for (int lane = 0; lane < LANES; lane++)
    for (int i = 0; i < GROUP; i++) sums[lane] += x[i] * weights[lane * GROUP + i];
  return sums;
#else
  int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
#if defined(VNNI)
  return (IntVec)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(four), _mm512_loadu_si512(weights));
#elif LANES == 16
  __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi32(four), _mm512_loadu_si512(weights));
  return sums + (IntVec)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#else
  __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(four), _mm256_loadu_si256((const __m256i*)weights));
  return sums + (IntVec)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
#endif
}

struct ByteRows {
  const uint8_t* x;
  const float* steps;  // [rows]
  int64_t x_stride;
  float* out;
  int64_t out_stride;
  const float *scales, *bias;
  const int32_t* sums;
  int64_t columns;
  bool add;
};

template <int R>
static __attribute__((noinline)) void int8_kernel(const ByteRows& rows, const int8_t* weights, int64_t groups) {
  IntVec sums[R][VECTORS] = {};
  for (int64_t i = 0; i < groups; i++, weights += PANEL * GROUP) {
    fetch(weights);
    fetch(weights + 64);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++)
        sums[r][v] = add_products(sums[r][v], rows.x + r * rows.x_stride + i * GROUP, weights + v * LANES * GROUP);
  }
  each_vector<1>(rows.columns, [&](int v, int64_t column, auto part) {
    Vec scales = load(rows.scales + column, part), bias = {};
    if (rows.bias) bias = load(rows.bias + column, part);
    IntVec centre = (IntVec)load((const float*)rows.sums + column, part) * CENTRE;
    for (int r = 0; r < R; r++) {
      float* out = rows.out + r * rows.out_stride + column;
      Vec value = __builtin_convertvector(sums[r][v] - centre, Vec) * (scales * rows.steps[r]) + bias;
      store(out, rows.add ? value + load(out, part) : value, part);
    }
  });
}

template <int R>
INLINE void int8_with_rows(int64_t count, const ByteRows& rows, const int8_t* weights, int64_t groups) {
  if constexpr (R > 0) {
    if (count == R) return int8_kernel<R>(rows, weights, groups);
    int8_with_rows<R - 1>(count, rows, weights, groups);
  }
}

static void int8_product(const Linear& linear, const float* x, int64_t rows, float* out, bool add, void* workspace) {
  const int64_t inputs = grouped(linear.inputs), blocks = (rows + MOST_ROWS - 1) / MOST_ROWS;
  float* steps = (float*)workspace;
  uint8_t* bytes = (uint8_t*)(steps + rows);
  for (int64_t r = 0; r < rows; r++) steps[r] = quantize(x + r * linear.inputs, linear.inputs, bytes + r * inputs);
  for (int64_t column = 0; column < linear.outputs; column += TILE) {
    const int8_t* weights = (const int8_t*)linear.weights + column / PANEL * PANEL * inputs;
    const int64_t left = linear.outputs - column;
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t begin = rows * b / blocks, end = rows * (b + 1) / blocks;
      ByteRows block = {bytes + begin * inputs, steps + begin, inputs, out + begin * linear.outputs + column,
                        linear.outputs, linear.scales + column, linear.bias ? linear.bias + column : nullptr,
                        linear.sums + column, left < TILE ? left : TILE, add};
      int8_with_rows<MOST_ROWS>(end - begin, block, weights + column % PANEL * GROUP, inputs / GROUP);
    }
  }
}
