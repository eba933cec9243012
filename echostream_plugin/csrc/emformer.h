// The streaming step of an Emformer stack for one segment; the reference is modules/emformer_step.py.

INLINE int64_t newest(int64_t done, int64_t size) { return done < size ? done : size; }

const int64_t SPARE = 8;  // keys that fill the last ones up to KEYS, the most of any path

// Memory of a step, cut from what the caller gives; with no base it only counts.
struct Arena {
  char* base;
  int64_t used;

  template <class T>
  T* take(int64_t count) {
    const int64_t begin = used;
    used += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
    return base ? (T*)(base + begin) : nullptr;
  }
};

INLINE void copy(float* to, const float* from, int64_t count) {
  if (count) __builtin_memcpy(to, from, sizeof(float) * count);
}

struct Buffers {  // rows: those of all streams' frames, then one for each stream's memory vector or summary
  float *x, *normed, *keys_values, *queries, *attended, *output, *written, *gated, *sequence, *mixed, *hidden, *rotated;
  float *scratch;
  const float **keys, **values;
  void* bytes;

  Buffers(const Stack& stack, const Step& step, Arena& arena) {
    const int64_t frames = step.batch * step.width, rows = frames + step.batch, dim = stack.dim;
    const int64_t window = step.memory_size + step.left_frames + step.width;
    const int64_t widest = dim > stack.hidden ? dim : stack.hidden;
    x = arena.take<float>(frames * dim);
    normed = arena.take<float>(rows * dim);
    keys_values = arena.take<float>(rows * 2 * dim);
    queries = arena.take<float>(rows * dim);
    attended = arena.take<float>(rows * dim);
    output = arena.take<float>(rows * dim);
    written = arena.take<float>(step.batch * dim);
    gated = arena.take<float>(frames * 2 * dim);
    sequence = arena.take<float>((stack.kernel + step.width) * dim);
    mixed = arena.take<float>(frames * dim);
    hidden = arena.take<float>(frames * stack.hidden);
    rotated = arena.take<float>(window * dim);
    scratch = arena.take<float>((dim / stack.heads + window + SPARE) * QUERIES);
    keys = arena.take<const float*>(window + SPARE);
    values = arena.take<const float*>(window + SPARE);
    bytes = arena.take<char>(rows * (grouped(widest) + int64_t(sizeof(float))));
  }
};

static void normalize(const Norm& norm, const float* x, int64_t rows, int64_t dim, float* out) {
  for (int64_t r = 0; r < rows; r++, x += dim, out += dim) {
    Vec total = {}, squares = {};
    each(dim, [&](int64_t i, auto part) { total += load(x + i, part); });
    const float mean = sum(total) / dim;
    each(dim, [&](int64_t i, auto part) {
      Vec centred = load(x + i, part) - mean;
      store(out + i, centred, part);
    });
    each(dim, [&](int64_t i, auto part) {
      Vec centred = load(out + i, part);
      squares += centred * centred;
    });
    const float scale = 1.0f / __builtin_sqrtf(sum(squares) / dim + float(norm.epsilon));
    each(dim, [&](int64_t i, auto part) {
      store(out + i, load(out + i, part) * scale * load(norm.weight + i, part) + load(norm.bias + i, part), part);
    });
  }
}

static void mean_of(const float* x, int64_t rows, int64_t dim, float* out) {
  each(dim, [&](int64_t i, auto part) {
    Vec total = {};
    for (int64_t r = 0; r < rows; r++) total += load(x + r * dim + i, part);
    store(out + i, total * (1.0f / rows), part);
  });
}

// what the layer above gets of a memory vector
static void bound(const Stack& stack, const float* x, float* out) {
  each(stack.dim, [&](int64_t i, auto part) {
    Vec v = load(x + i, part);
    store(out + i, stack.tanh ? tanh_of(v) : smallest(largest(v, set(-10.0f)), set(10.0f)), part);
  });
}

template <class Function>
INLINE void apply(float* x, int64_t count, Function function) {
  each(count, [&](int64_t i, auto part) { store(x + i, function(load(x + i, part)), part); });
}

INLINE void add(float* x, const float* more, int64_t count) {
  each(count, [&](int64_t i, auto part) { store(x + i, load(x + i, part) + load(more + i, part), part); });
}

// the newest `size` rows of `past` [size] and then `added` rows of `from`; `width`: numbers in a row
static void shift(const float* past, int64_t size, const float* from, int64_t added, int64_t width, float* next) {
  const int64_t kept = added < size ? size - added : 0, taken = size - kept;
  copy(next, past + (size - kept) * width, kept * width);
  copy(next + kept * width, from + (added - taken) * width, taken * width);
}

class Segment {
 public:
  Segment(const Stack& stack, const Step& step, Arena arena)
      : stack(stack), step(step), to(stack, step, arena), dim(stack.dim), frames(step.batch * step.width),
        memories(step.memory_size ? step.batch : 0), attends(memories && stack.attends) {}

  void run() {
    copy(to.x, step.x, frames * dim);
    for (int64_t b = 0; b < memories; b++) mean_of(frame(to.x, b), step.frames, dim, to.written + b * dim);
    for (int64_t index = 0; index < stack.count; index++) {
      const Layer& layer = stack.layers[index];
      attention(layer, index);
      if (layer.depthwise) convolution(layer, index);
      feed_forward(layer);
      if (layer.output_norm.weight) normalize(layer.output_norm, to.x, frames, dim, to.x);
    }
    for (int64_t b = 0; b < step.batch; b++)
      copy(step.out + b * step.frames * dim, frame(to.x, b), step.frames * dim);
  }

 private:
  const Stack& stack;
  const Step& step;
  const Buffers to;
  const int64_t dim, frames, memories;
  const bool attends;

  // the first frame of stream b
  float* frame(float* rows, int64_t b, int64_t parts = 1) const { return rows + b * step.width * parts * dim; }
  // its memory vector or summary
  float* extra(float* rows, int64_t b, int64_t parts = 1) const { return rows + (frames + b) * parts * dim; }

  void multiply(const Linear& linear, const float* x, int64_t rows, float* out, bool add = false) const {
    product(linear, x, rows, out, add, to.bytes);
  }

  void attention(const Layer& layer, int64_t index) const {
    normalize(layer.attention_norm, to.x, frames, dim, to.normed);
    copy(extra(to.normed, 0), to.written, memories * dim);
    multiply(layer.key_value, to.normed, frames + memories, to.keys_values);
    multiply(layer.query, to.normed, frames, to.queries);
    for (int64_t b = 0; b < step.batch; b++) {
      if (attends)  // the map is affine: the summary's query is the mean of the segment's, not turned
        mean_of(frame(to.queries, b), step.frames, dim, extra(to.queries, b));
      stream_attention(index, b);
      keep(index, b);
    }
    multiply(layer.output, to.attended, frames + (attends ? memories : 0), to.output);
    add(to.x, to.output, frames * dim);
    for (int64_t b = 0; b < memories; b++) {
      if (!attends) mean_of(frame(to.normed, b), step.frames, dim, to.written + b * dim);
      bound(stack, attends ? extra(to.output, b) : to.written + b * dim, to.written + b * dim);
    }
  }

  int64_t past(int64_t size, int64_t index, int64_t b) const { return (b * stack.count + index) * size; }

  // the memory and the left context that stream b has, and its own frames
  Window window(int64_t index, int64_t b) const {
    const int64_t row = 2 * dim, done = step.past_segments[b];
    const int64_t memory = newest(done, step.memory_size);
    const int64_t left = newest(done * step.segment_frames, step.left_frames);
    const float* bank = step.memory + past(step.memory_size, index, b) * row;
    const float* before = step.left_context + past(step.left_frames, index, b) * row;
    int64_t count = 0;
    for (int64_t i = step.memory_size - memory; i < step.memory_size; i++) to.keys[count++] = bank + i * row;
    for (int64_t i = step.left_frames - left; i < step.left_frames; i++) to.keys[count++] = before + i * row;
    for (int64_t i = 0; i < step.width; i++) to.keys[count++] = frame(to.keys_values, b, 2) + i * row;
    for (int64_t k = 0; k < count; k++) to.values[k] = to.keys[k] + dim;
    return {to.keys, to.values, count, memory, dim, stack.heads};
  }

  void stream_attention(int64_t index, int64_t b) const {
    const Window seen = window(index, b);
    const int64_t half = dim / stack.heads / 2;
    float* queries = frame(to.queries, b);
    if (step.cosine) {
      const int64_t own = step.left_frames;  // the row of the segment's first frame
      for (int64_t k = seen.hidden; k < seen.count; k++) {
        const int64_t position = (own + step.width - seen.count + k) * half;
        rotate(to.keys[k], step.cosine + position, step.sine + position, dim, stack.heads, to.rotated + k * dim);
        to.keys[k] = to.rotated + k * dim;
      }
      for (int64_t r = 0; r < step.width; r++) {
        const int64_t position = (own + r) * half;
        float* query = queries + r * dim;
        rotate(query, step.cosine + position, step.sine + position, dim, stack.heads, query);
      }
    }
    for (int64_t k = seen.count; k % KEYS; k++) to.keys[k] = to.keys[seen.count - 1];
    attend(seen, queries, step.width, false, frame(to.attended, b), to.scratch);
    if (attends) attend(seen, extra(to.queries, b), 1, true, extra(to.attended, b), to.scratch);
  }

  // the next past of stream b: keys and values of its own frames and of the memory vector
  void keep(int64_t index, int64_t b) const {
    const int64_t row = 2 * dim, left = past(step.left_frames, index, b) * row;
    if (step.next_left_context)
      shift(step.left_context + left, step.left_frames, frame(to.keys_values, b, 2), step.frames, row,
            step.next_left_context + left);
    const int64_t bank = past(step.memory_size, index, b) * row;
    if (step.next_memory)
      shift(step.memory + bank, step.memory_size, extra(to.keys_values, b, 2), 1, row, step.next_memory + bank);
  }

  void convolution(const Layer& layer, int64_t index) const {
    const int64_t before = stack.kernel - 1;
    normalize(layer.convolution_input_norm, to.x, frames, dim, to.normed);
    multiply(layer.gated, to.normed, frames, to.gated);
    for (int64_t b = 0; b < step.batch; b++) {
      const int64_t kept = past(before, index, b) * dim;
      copy(to.sequence, step.convolution + kept, before * dim);
      gate(frame(to.gated, b, 2), to.sequence + before * dim);
      if (step.next_convolution)
        shift(step.convolution + kept, before, to.sequence + before * dim, step.frames, dim,
              step.next_convolution + kept);
      each(dim, [&](int64_t i, auto part) { depthwise(layer, i, frame(to.mixed, b), part); });
    }
    normalize(layer.convolution_norm, to.mixed, frames, dim, to.normed);
    apply(to.normed, frames * dim, [](Vec v) { return silu(v); });
    multiply(layer.convolution_output, to.normed, frames, to.x, true);
  }

  void gate(const float* pairs, float* out) const {
    for (int64_t r = 0; r < step.width; r++, pairs += 2 * dim, out += dim)
      each(dim, [&](int64_t i, auto part) {
        store(out + i, load(pairs + i, part) * sigmoid(load(pairs + dim + i, part)), part);
      });
  }

  template <class Size>
  INLINE_MEMBER void depthwise(const Layer& layer, int64_t channel, float* out, Size part) const {
    const int64_t together = 8;
    for (int64_t first = 0; first < step.width; first += together) {
      const int64_t rows = step.width - first < together ? step.width - first : together;
      Vec sums[together];
      for (auto& one : sums) one = load(layer.depthwise_bias + channel, part);
      for (int64_t tap = 0; tap < stack.kernel; tap++) {
        const Vec weight = load(layer.depthwise + tap * dim + channel, part);
        const float* in = to.sequence + (first + tap) * dim + channel;
        if (rows == together)
#pragma GCC unroll 8
          for (int64_t r = 0; r < together; r++) sums[r] += weight * load(in + r * dim, part);
        else
          for (int64_t r = 0; r < rows; r++) sums[r] += weight * load(in + r * dim, part);
      }
      for (int64_t r = 0; r < rows; r++) store(out + (first + r) * dim + channel, sums[r], part);
    }
  }

  void feed_forward(const Layer& layer) const {
    normalize(layer.feed_forward_norm, to.x, frames, dim, to.normed);
    multiply(layer.expand, to.normed, frames, to.hidden);
    if (stack.gelu) apply(to.hidden, frames * stack.hidden, [](Vec v) { return gelu(v); });
    else apply(to.hidden, frames * stack.hidden, [](Vec v) { return silu(v); });
    multiply(layer.contract, to.hidden, frames, to.x, true);
  }
};
