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
#include "subsampling.h"

}  // namespace

int64_t linear_workspace(const Linear& linear, int64_t rows) {
  return linear_bytes(linear, rows);
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

int64_t subsampling_workspace(const Subsampling& network, const SubsamplingStep& step) {
  return Subsampler(network, step, {nullptr, 0}).used;
}

void subsampling(const Subsampling& network, const SubsamplingStep& step, void* workspace) {
  Subsampler(network, step, {(char*)workspace, 0}).run();
}

}  // namespace PATH
