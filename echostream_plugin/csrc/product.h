// Matrix products with packed weights. Every output is a sum in the order of its inputs, whatever rows are beside it.

struct Single {
  typedef float Number;
  static INLINE_MEMBER Vec load_weights(const float* from) { return load(from); }
};
struct Half {
  typedef uint16_t Number;
  static INLINE_MEMBER Vec load_weights(const uint16_t* from) { return widened(from); }
};

const int PANEL = 32;               // outputs that lie together
const int TILE = LANES < 16 ? LANES * 2 : PANEL;  // of them at once
const int VECTORS = TILE / LANES;
const int AHEAD = 2560;  // bytes of weights fetched before they are needed

struct Rows {  // what a kernel reads and writes: rows of x and out, from one column of out on
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t out_stride;
  const float* bias;  // or null
  int64_t columns;    // of out that there are
  bool add;           // to what out holds
};

INLINE void fetch(const void* weights) { __builtin_prefetch((const void*)((uintptr_t)weights + AHEAD)); }

// call(v, column, Whole or Part) for the vectors of P panels, at offset `first` in each
template <int P, class Call>
INLINE void each_vector(int64_t columns, Call call) {
#pragma GCC unroll 16
  for (int v = 0; v < P * VECTORS; v++) {
    int64_t column = v / VECTORS * PANEL + v % VECTORS * LANES;
    if (column + LANES <= columns) call(v, column, Whole{});
    else if (column < columns) call(v, column, Part{columns - column});
  }
}

// R rows by a tile of each of P panels
template <class Weights, int R, int P>
static __attribute__((noinline)) void kernel(const Rows& rows, const typename Weights::Number* weights, int64_t panel, int64_t inputs) {
  Vec sums[R][P * VECTORS] = {};
  each_vector<P>(rows.columns, [&](int v, int64_t column, auto part) {
    for (int r = 0; r < R; r++) {
      if (rows.bias) sums[r][v] = load(rows.bias + column, part);
      if (rows.add) sums[r][v] += load(rows.out + r * rows.out_stride + column, part);
    }
  });
  for (int64_t i = 0; i < inputs; i++, weights += PANEL) {
    Vec w[P * VECTORS];
#pragma GCC unroll 16
    for (int v = 0; v < P * VECTORS; v++)
      w[v] = Weights::load_weights(weights + v / VECTORS * panel + v % VECTORS * LANES);
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) fetch(weights + p * panel);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      Vec x = set(rows.x[r * rows.x_stride + i]);
#pragma GCC unroll 16
      for (int v = 0; v < P * VECTORS; v++) sums[r][v] += x * w[v];
    }
  }
  each_vector<P>(rows.columns, [&](int v, int64_t column, auto part) {
    for (int r = 0; r < R; r++) store(rows.out + r * rows.out_stride + column, sums[r][v], part);
  });
}

// few rows leave registers free, and need more sums at once to hide the time of one
constexpr int panels_of(int rows) { return rows == 1 ? 4 : rows <= (LANES == 16 ? 3 : 2) ? 2 : 1; }

template <class Weights, int R>
INLINE void with_rows(int64_t count, bool several, const Rows& rows, const typename Weights::Number* weights,
                      int64_t panel, int64_t inputs) {
  if constexpr (R > 0) {
    if (count != R) return with_rows<Weights, R - 1>(count, several, rows, weights, panel, inputs);
    if (several) return kernel<Weights, R, panels_of(R)>(rows, weights, panel, inputs);
    return kernel<Weights, R, 1>(rows, weights, panel, inputs);
  }
}

template <class Weights>
static void float_product(const Linear& linear, const float* x, int64_t rows, float* out, bool add) {
  const auto* weights = (const typename Weights::Number*)linear.weights;
  const int64_t panel = linear.inputs * PANEL, blocks = (rows + MOST_ROWS - 1) / MOST_ROWS;
  const int64_t panels = (linear.outputs + PANEL - 1) / PANEL;
  for (int64_t p = 0, step; p < panels; p += step) {
    step = blocks == 1 && p + panels_of(rows) <= panels ? panels_of(rows) : 1;
    for (int64_t first = 0; first < PANEL; first += TILE) {
      const int64_t column = p * PANEL + first, columns = linear.outputs - column;
      if (columns <= 0) break;
      // of several panels every vector is there; of one, no more than the tile
      const int64_t there = step > 1 ? columns : columns < TILE ? columns : TILE;
      for (int64_t b = 0; b < blocks; b++) {
        const int64_t begin = rows * b / blocks, end = rows * (b + 1) / blocks;
        Rows block = {x + begin * linear.inputs, linear.inputs, out + begin * linear.outputs + column, linear.outputs,
                      linear.bias ? linear.bias + column : nullptr, there, add};
        with_rows<Weights, MOST_ROWS>(end - begin, step > 1, block, weights + p * panel + first, panel, linear.inputs);
      }
    }
  }
}

#include "product_int8.h"

// bytes that `product` needs beside its arguments
INLINE int64_t linear_bytes(const Linear& linear, int64_t rows) {
  return linear.kind == INT8 ? rows * (grouped(linear.inputs) + int64_t(sizeof(float))) : 0;
}

// out [rows, outputs] = x [rows, inputs] times the weights + bias; add: to what out holds
static void product(const Linear& linear, const float* x, int64_t rows, float* out, bool add, void* workspace) {
  if (linear.kind == INT8) return int8_product(linear, x, rows, out, add, workspace);
  if (linear.kind == HALF) return float_product<Half>(linear, x, rows, out, add);
  float_product<Single>(linear, x, rows, out, add);
}
