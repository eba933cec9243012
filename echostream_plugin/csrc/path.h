// Everything that is computed, compiled once for each instruction set: the file that includes this says which.
//
// PATH: a namespace of its own; LANES: floats in a vector; MOST_ROWS: rows of a product that fit into the registers.
// Nothing of the standard library's templates is used: their code would be shared between the instruction sets.
#include "operator.h"

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

namespace PATH {
namespace {

#include "vector.h"
#include "product.h"
#include "attention.h"
#include "emformer.h"

}  // namespace

int64_t linear_workspace(const Linear& linear, int64_t rows) {
  return linear.kind == INT8 ? rows * (grouped(linear.inputs) + int64_t(sizeof(float))) : 0;
}

void linear(const Linear& linear, const float* x, int64_t rows, float* out, void* workspace) {
  product(linear, x, rows, out, false, workspace);
}

int64_t step_workspace(const Stack& stack, const Step& step) {
  Arena arena = {nullptr, 0};
  Buffers counted(stack, step, arena);
  return arena.used;
}

void step(const Stack& stack, const Step& step, void* workspace) {
  Segment(stack, step, {(char*)workspace, 0}).run();
}

}  // namespace PATH
