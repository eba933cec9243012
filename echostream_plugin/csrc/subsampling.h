// Two convolutions of kernel 3 and stride 2 over time and bands, each with a ReLU, a linear map and a norm: what
// modules/subsampling.py computes of the next frames. Within, channels lie side by side: [frames, bands, channels].

const int64_t KERNEL = 3, STRIDE = 2;

INLINE int64_t complete(int64_t frames) { return frames < KERNEL ? 0 : (frames - KERNEL) / STRIDE + 1; }
INLINE int64_t halved(int64_t bands) { return (bands + 1) / STRIDE; }

class Subsampler {
 public:
  Subsampler(const Subsampling& network, const SubsamplingStep& step, Arena arena)
      : network(network), step(step), bands(halved(step.bands)), firsts(complete(step.features)),
        inner(step.hidden + firsts), seconds(complete(inner)) {
    const int64_t channels = network.channels, least = halved(bands) * channels;
    first = arena.take<float>((inner + 1) * bands * channels);
    patches = arena.take<float>(bands * KERNEL * KERNEL * channels);
    second = arena.take<float>(least);
    flat = arena.take<float>(step.batch * seconds * least);
    bytes = arena.take<char>(linear_bytes(network.projection, step.batch * seconds));
    used = arena.used;
  }
  int64_t used;  // bytes of the workspace

  void run() {
    const int64_t channels = network.channels, size = bands * channels, rest = inner - STRIDE * seconds;
    const int64_t wide = halved(bands) * channels;
    for (int64_t b = 0; b < step.batch; b++) {
      gather(step.past + b * channels * step.hidden * bands, step.hidden);
      const float* features = step.x + b * step.features * step.bands;
      for (int64_t t = 0; t < firsts; t++)
        convolve(network.first, features + STRIDE * t * step.bands, step.bands, 1, first + (step.hidden + t) * size);
      for (int64_t t = 0; t < seconds; t++) {
        convolve(network.second, first + STRIDE * t * size, bands, channels, second);
        transpose(second, halved(bands), channels, flat + (b * seconds + t) * wide, halved(bands));
      }
      for (int64_t t = 0; t < rest; t++)
        transpose(first + (STRIDE * seconds + t) * size, bands, channels,
                  step.next + (b * channels * rest + t) * bands, rest * bands);
    }
    product(network.projection, flat, step.batch * seconds, step.out, false, bytes);
    normalize(network.norm, step.out, step.batch * seconds, network.projection.outputs, step.out);
  }

 private:
  const Subsampling& network;
  const SubsamplingStep& step;
  const int64_t bands, firsts, inner, seconds;  // bands and frames of the first convolution, with those before
  float *first, *patches, *second, *flat;
  void* bytes;

  // the frames before, [channels, frames, bands], to the beginning of `first`
  void gather(const float* past, int64_t frames) {
    for (int64_t c = 0; c < network.channels; c++)
      for (int64_t t = 0; t < frames; t++)
        for (int64_t i = 0; i < bands; i++) first[(t * bands + i) * network.channels + c] = *past++;
  }

  // [bands, channels] to [channels, bands], rows `stride` apart
  void transpose(const float* from, int64_t width, int64_t channels, float* to, int64_t stride) {
    for (int64_t c = 0; c < channels; c++)
      for (int64_t i = 0; i < width; i++) to[c * stride + i] = from[i * channels + c];
  }

  // a frame [halved bands, channels] of three frames [bands, inputs]
  void convolve(const Linear& weights, const float* frames, int64_t width, int64_t inputs, float* out) {
    float* patch = patches;
    for (int64_t i = 0; i < halved(width); i++)
      for (int64_t t = 0; t < KERNEL; t++)
        for (int64_t tap = 0; tap < KERNEL; tap++, patch += inputs) {
          const int64_t band = STRIDE * i + tap - 1;
          const bool there = band >= 0 && band < width;
          for (int64_t c = 0; c < inputs; c++) patch[c] = there ? frames[(t * width + band) * inputs + c] : 0.0f;
        }
    product(weights, patches, halved(width), out, false, nullptr);
    apply(out, halved(width) * network.channels, [](Vec v) { return largest(v, Vec{}); });
  }
};
