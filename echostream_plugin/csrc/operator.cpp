// The interface: every call goes to the path that it names.
#include "operator.h"

#define DECLARE(PATH)                                                                                    \
  namespace PATH {                                                                                       \
  int64_t linear_workspace(const Linear& linear, int64_t rows);                                          \
  void linear(const Linear& linear, const float* x, int64_t rows, float* out, void* workspace);          \
  int64_t step_workspace(const Stack& stack, const Step& step);                                          \
  void step(const Stack& stack, const Step& step, void* workspace);                                      \
  int64_t subsampling_workspace(const Subsampling& network, const SubsamplingStep& step);                \
  void subsampling(const Subsampling& network, const SubsamplingStep& step, void* workspace);            \
  }

DECLARE(portable)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
DECLARE(avx512_vnni)
#endif

extern "C" {

int64_t echostream_version() { return 1; }

int64_t echostream_has_path(int64_t path) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (path == AVX2) return avx2;
  if (path == AVX512) return avx512;
  if (path == AVX512_VNNI) return avx512 && __builtin_cpu_supports("avx512vnni");
#endif
  return path == PORTABLE;
}

int64_t echostream_linear_workspace(const Linear* linear, int64_t rows) {
  return portable::linear_workspace(*linear, rows);
}

void echostream_linear(int64_t path, const Linear* linear, const float* x, int64_t rows, float* out, void* workspace) {
#if defined(__x86_64__)
  if (path == AVX2) return avx2::linear(*linear, x, rows, out, workspace);
  if (path == AVX512) return avx512::linear(*linear, x, rows, out, workspace);
  if (path == AVX512_VNNI) return avx512_vnni::linear(*linear, x, rows, out, workspace);
#endif
  portable::linear(*linear, x, rows, out, workspace);
}

int64_t echostream_step_workspace(const Stack* stack, const Step* step) {
  return portable::step_workspace(*stack, *step);
}

void echostream_step(int64_t path, const Stack* stack, const Step* step, void* workspace) {
#if defined(__x86_64__)
  if (path == AVX2) return avx2::step(*stack, *step, workspace);
  if (path == AVX512) return avx512::step(*stack, *step, workspace);
  if (path == AVX512_VNNI) return avx512_vnni::step(*stack, *step, workspace);
#endif
  portable::step(*stack, *step, workspace);
}

int64_t echostream_subsampling_workspace(const Subsampling* network, const SubsamplingStep* step) {
  return portable::subsampling_workspace(*network, *step);
}

void echostream_subsampling(int64_t path, const Subsampling* network, const SubsamplingStep* step, void* workspace) {
#if defined(__x86_64__)
  if (path == AVX2) return avx2::subsampling(*network, *step, workspace);
  if (path == AVX512) return avx512::subsampling(*network, *step, workspace);
  if (path == AVX512_VNNI) return avx512_vnni::subsampling(*network, *step, workspace);
#endif
  portable::subsampling(*network, *step, workspace);
}
}
