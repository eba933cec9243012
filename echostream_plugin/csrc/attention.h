// Attention of one stream's window: a few queries over memory, left context and the window itself.

const int QUERIES = 16;                  // taken together, a number to each lane
const int WIDE = QUERIES / LANES;        // vectors of them
const int KEYS = LANES == 16 ? 8 : LANES == 8 ? 6 : 2;  // taken together

struct Window {
  const float** keys;    // [count] rows of D, rotated, filled up to a multiple of KEYS with the last one
  const float** values;  // [count] rows of D
  int64_t count, hidden;  // the first `hidden` keys are not for the summary
  int64_t dim, heads;
};

// x [D] turned by position; cosine, sine: [D / 2 heads]
INLINE void rotate(const float* x, const float* cosine, const float* sine, int64_t dim, int64_t heads, float* out) {
  const int64_t size = dim / heads, half = size / 2;
  for (int64_t h = 0; h < heads; h++, x += size, out += size)
    each(half, [&](int64_t i, auto part) {
      Vec a = load(x + i, part), b = load(x + half + i, part);
      Vec c = load(cosine + i, part), s = load(sine + i, part);
      store(out + i, a * c - b * s, part);
      store(out + half + i, b * c + a * s, part);
    });
}

// scores [KEYS, QUERIES] of keys by queries [size, QUERIES]
INLINE void score_block(const float* const* keys, int64_t offset, const float* queries, int64_t size, float* scores) {
  Vec sums[KEYS][WIDE] = {};
  for (int64_t i = 0; i < size; i++) {
    Vec q[WIDE];
    for (int v = 0; v < WIDE; v++) q[v] = load(queries + i * QUERIES + v * LANES);
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++) {
      Vec key = set(keys[k][offset + i]);
      for (int v = 0; v < WIDE; v++) sums[k][v] += key * q[v];
    }
  }
  for (int k = 0; k < KEYS; k++)
    for (int v = 0; v < WIDE; v++) store(scores + k * QUERIES + v * LANES, sums[k][v]);
}

// scores [count, QUERIES] to exponentials; parts [QUERIES]: by what the weighted sums are to be multiplied
INLINE void soften(float* scores, int64_t count, float* parts) {
  for (int v = 0; v < WIDE; v++) {
    float* column = scores + v * LANES;
    Vec top = load(column), total = {};
    for (int64_t k = 1; k < count; k++) top = largest(top, load(column + k * QUERIES));
    for (int64_t k = 0; k < count; k++) {
      Vec weight = exponential(load(column + k * QUERIES) - top);
      store(column + k * QUERIES, weight);
      total += weight;
    }
    store(parts + v * LANES, 1.0f / total);
  }
}

// R queries' weighted sums of values, V vectors from `offset` on
template <int R, int V, class Size>
INLINE void mix(const Window& window, int64_t offset, const float* weights, const float* parts, float* out, Size part) {
  Vec sums[R][V] = {};
  for (int64_t k = 0; k < window.count; k++, weights += QUERIES) {
    Vec value[V];
    for (int v = 0; v < V; v++) value[v] = load(window.values[k] + offset + v * LANES, part);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      Vec weight = set(weights[r]);
      for (int v = 0; v < V; v++) sums[r][v] += weight * value[v];
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(out + r * window.dim + offset + v * LANES, sums[r][v] * parts[r], part);
}

template <int R>
static void mix_rows(int64_t rows, const Window& window, int64_t begin, int64_t end, const float* weights,
                     const float* parts, float* out) {
  if constexpr (R > 0) {
    if (rows != R) return mix_rows<R - 1>(rows, window, begin, end, weights, parts, out);
    int64_t i = begin;
    for (; i + 2 * LANES <= end; i += 2 * LANES) mix<R, 2>(window, i, weights, parts, out, Whole{});
    for (; i + LANES <= end; i += LANES) mix<R, 1>(window, i, weights, parts, out, Whole{});
    if (i < end) mix<R, 1>(window, i, weights, parts, out, Part{end - i});
  }
}

// out [rows, D] of queries [rows, D]; summary: is the last of them one? scratch: [size + count, QUERIES] and KEYS more
static void attend(const Window& window, const float* queries, int64_t rows, bool summary, float* out, float* scratch) {
  const int64_t size = window.dim / window.heads;
  const float scale = 1.0f / __builtin_sqrtf(float(size));
  float *turned = scratch, *scores = scratch + size * QUERIES, parts[QUERIES];
  for (int64_t head = 0; head < window.heads; head++)
    for (int64_t first = 0; first < rows; first += QUERIES) {
      const int64_t offset = head * size, some = rows - first < QUERIES ? rows - first : QUERIES;
      __builtin_memset(turned, 0, sizeof(float) * size * QUERIES);
      for (int64_t r = 0; r < some; r++)
        for (int64_t i = 0; i < size; i++) turned[i * QUERIES + r] = queries[(first + r) * window.dim + offset + i] * scale;
      for (int64_t k = 0; k < window.count; k += KEYS)
        score_block(window.keys + k, offset, turned, size, scores + k * QUERIES);
      if (summary && first + some == rows)
        for (int64_t k = 0; k < window.hidden; k++) scores[k * QUERIES + some - 1] = -1e30f;
      soften(scores, window.count, parts);
      for (int64_t r = 0; r < some; r += MOST_ROWS)
        mix_rows<MOST_ROWS>(some - r < MOST_ROWS ? some - r : MOST_ROWS, window, offset, offset + size, scores + r,
                            parts + r, out + (first + r) * window.dim);
    }
}
