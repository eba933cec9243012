// The compiled operator's interface: plain C structures, all fields of 8 bytes, filled by modules/native.py.
//
// Shapes: B streams, C frames of a segment, R of right context, W = C + R, L left-context frames, M memory vectors,
// D channels, K taps of the depthwise convolution. Tensors are float32, row-major and contiguous. Nothing here allocates
// memory or writes to anything but what the caller gives, so any number of threads may call it at once.
#pragma once
#include <cstdint>

#define EXPORT __attribute__((visibility("default")))

extern "C" {

// Weights of a linear layer in panels of 32 outputs: [outputs / 32, inputs, 32], or of int8
// [outputs / 32, inputs / 4, 32, 4]; the last panel, and the last group of 4, are filled up with zeros.
struct Linear {
  const void* weights;
  const float* scales;   // int8: [outputs] of each output's weights
  const int32_t* sums;   // int8: [outputs] of each output's weights, as integers
  const float* bias;     // [outputs] or null
  int64_t kind, inputs, outputs;
};
enum Kind : int64_t { SINGLE = 0, HALF = 1, INT8 = 2 };

struct Norm {
  const float *weight, *bias;  // [D]; null: there is no norm
  double epsilon;
};

struct Layer {
  Norm attention_norm, convolution_input_norm, convolution_norm, feed_forward_norm, output_norm;
  Linear key_value, query, output, gated, convolution_output, expand, contract;
  const float *depthwise, *depthwise_bias;  // [K, D], by tap; [D]; null: there is no convolution
};

struct Stack {
  const Layer* layers;
  int64_t count, dim, heads, hidden, kernel;
  int64_t gelu;     // else SiLU
  int64_t attends;  // memory of kind 'attention', else 'mean'
  int64_t tanh;     // bounds memory vectors, else a clamp to [-10, 10]
};

// One segment of B streams; see modules/emformer_step.py, which computes the same.
struct Step {
  const float* x;                // [B, W, D]
  const int64_t* past_segments;  // [B]
  const float *left_context, *memory, *convolution;  // [B, layers, L, 2D], [B, layers, M, 2D], [B, layers, K - 1, D]
  const float *cosine, *sine;    // [L + W, D / 2 heads] from position -L on; null: no rotary position
  float* out;                    // [B, C, D]
  float *next_left_context, *next_memory, *next_convolution;  // null: not wanted, or empty
  int64_t batch, frames, width, segment_frames, left_frames, memory_size;
};

// Convolutions as linear layers [channels, 3 * 3 * inputs] of float32, by frame, band and input.
struct Subsampling {
  Linear first, second, projection;
  Norm norm;
  int64_t channels;
};

// Of `features` frames of x, those that were kept among them, and `hidden` frames of the first convolution that were
// kept; see modules/subsampling.py. S, r: frames that come out, and frames of the first convolution that are kept next.
struct SubsamplingStep {
  const float* x;     // [B, features, bands]
  const float* past;  // [B, channels, hidden, bands / 2]
  float* out;         // [B, S, D]
  float* next;        // [B, channels, r, bands / 2]
  int64_t batch, features, bands, hidden;
};

enum Path : int64_t { PORTABLE = 0, AVX2 = 1, AVX512 = 2, AVX512_VNNI = 3 };

EXPORT int64_t echostream_version();
EXPORT int64_t echostream_has_path(int64_t path);  // can this processor take it?
EXPORT int64_t echostream_linear_workspace(const Linear* linear, int64_t rows);  // bytes
EXPORT void echostream_linear(int64_t path, const Linear* linear, const float* x, int64_t rows, float* out,
                              void* workspace);
EXPORT int64_t echostream_step_workspace(const Stack* stack, const Step* step);  // bytes
EXPORT void echostream_step(int64_t path, const Stack* stack, const Step* step, void* workspace);
EXPORT int64_t echostream_subsampling_workspace(const Subsampling* network, const SubsamplingStep* step);  // bytes
EXPORT void echostream_subsampling(int64_t path, const Subsampling* network, const SubsamplingStep* step,
                                   void* workspace);
}
