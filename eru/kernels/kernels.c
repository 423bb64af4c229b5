/* Element-wise work between matrix products, fused: an LSTM's step forward and backward, and a row of the softmax.
 *
 * Tensors are contiguous, float32 or bfloat16 (`half`: as bits, sums in float32). Everything is one thread's work.
 * Built without -ffast-math, so NaN and infinity pass through.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE float from_bits(uint32_t bits) { float x; memcpy(&x, &bits, sizeof x); return x; }
INLINE uint32_t to_bits(float x) { uint32_t bits; memcpy(&bits, &x, sizeof bits); return bits; }

INLINE float load(const void *p, size_t n, int half) {
    return half ? from_bits((uint32_t)((const uint16_t *)p)[n] << 16) : ((const float *)p)[n];
}

INLINE void store(void *p, size_t n, float x, int half) {
    if (half) {
        uint32_t bits = to_bits(x), even = (bits >> 16) & 1;
        /* To the nearest, ties to even; a NaN must not round to infinity. */
        uint32_t rounded = (bits + 0x7fff + even) >> 16;
        ((uint16_t *)p)[n] = (uint16_t)(x == x ? rounded : 0x7fc0);
    } else {
        ((float *)p)[n] = x;
    }
}

/* exp(x) for x in about [-87, 88], clamped outside: 2^n exp(r) with |r| <= log(2) / 2; within 2 units of the last place. */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounds to an integer */
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * from_bits((uint32_t)((int32_t)n + 127) << 23);
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

INLINE float hyperbolic_tangent(float x) {
    float far = 1.0f - 2.0f / (1.0f + exponential(2.0f * x));
    /* Near 0 the above loses digits; its Taylor series does not. */
    float s = x * x;
    float near = x + x * s * (-3.33333333e-1f + s * (1.33333333e-1f + s * (-5.39682540e-2f + s * 2.18694885e-2f)));
    return s < 0.0625f ? near : far;
}

/* The raw gates are the sum of two arrays: what came from the input and what came from the last hidden state. */
INLINE void forward(size_t rows, size_t size, const void *restrict input, const void *restrict recurrent,
                    const float *restrict before, float *restrict activated, float *restrict cells,
                    void *restrict hidden, int half) {
    for (size_t row = 0; row < rows; row++) {
        const size_t at = row * size, gate = 4 * at;
#pragma omp simd
        for (size_t n = 0; n < size; n++) {
            float i = sigmoid(load(input, gate + n, half) + load(recurrent, gate + n, half));
            float f = sigmoid(load(input, gate + size + n, half) + load(recurrent, gate + size + n, half));
            float g = hyperbolic_tangent(load(input, gate + 2 * size + n, half) + load(recurrent, gate + 2 * size + n, half));
            float o = sigmoid(load(input, gate + 3 * size + n, half) + load(recurrent, gate + 3 * size + n, half));
            float c = f * before[at + n] + i * g;
            activated[gate + n] = i;
            activated[gate + size + n] = f;
            activated[gate + 2 * size + n] = g;
            activated[gate + 3 * size + n] = o;
            cells[at + n] = c;
            store(hidden, at + n, o * hyperbolic_tangent(c), half);
        }
    }
}

INLINE void backward(size_t rows, size_t size, const void *restrict grad_hidden, float *restrict grad_cells,
                     const float *restrict activated, const float *restrict before, const float *restrict cells,
                     void *restrict grad_raw, int half) {
    for (size_t row = 0; row < rows; row++) {
        const size_t at = row * size, gate = 4 * at;
#pragma omp simd
        for (size_t n = 0; n < size; n++) {
            float i = activated[gate + n], f = activated[gate + size + n];
            float g = activated[gate + 2 * size + n], o = activated[gate + 3 * size + n];
            float tanh_c = hyperbolic_tangent(cells[at + n]);
            float dh = load(grad_hidden, at + n, half);
            float dc = grad_cells[at + n] + dh * o * (1.0f - tanh_c * tanh_c);
            store(grad_raw, gate + n, dc * g * i * (1.0f - i), half);
            store(grad_raw, gate + size + n, dc * before[at + n] * f * (1.0f - f), half);
            store(grad_raw, gate + 2 * size + n, dc * i * (1.0f - g * g), half);
            store(grad_raw, gate + 3 * size + n, dh * tanh_c * o * (1.0f - o), half);
            grad_cells[at + n] = dc * f;
        }
    }
}

/* Rows of products (without the bias) become the gradient of their summed cross-entropy, times `scale`, whose sum over
 * the rows is added to `grad_bias`; returns the summed cross-entropy itself. */
INLINE double cross_entropy(size_t rows, size_t size, void *restrict products, const float *restrict bias,
                            const int64_t *restrict targets, float scale, float *restrict grad_bias,
                            float *restrict scratch, int half) {
    double total = 0;
    for (size_t row = 0; row < rows; row++) {
        char *scores = (char *)products + row * size * (half ? 2 : 4);
        const size_t wanted = (size_t)targets[row];
        float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
        for (size_t n = 0; n < size; n++) {
            float x = load(scores, n, half) + bias[n];
            scratch[n] = x;
            most = x > most ? x : most;
        }
        total += most - scratch[wanted];
#pragma omp simd reduction(+ : sum)
        for (size_t n = 0; n < size; n++) {
            float x = exponential(scratch[n] - most);
            scratch[n] = x;
            sum += x;
        }
        total += log((double)sum);
        const float factor = scale / sum;
        const float correct = scratch[wanted] * factor - scale;
#pragma omp simd
        for (size_t n = 0; n < size; n++) {
            float x = scratch[n] * factor;
            grad_bias[n] += x;
            store(scores, n, x, half);
        }
        grad_bias[wanted] -= scale;
        store(scores, wanted, correct, half);
    }
    return total;
}

#define BOTH(suffix, half)                                                                                          \
    void lstm_forward_##suffix(size_t rows, size_t size, const void *input, const void *recurrent,                  \
                               const float *before, float *activated, float *cells, void *hidden) {                 \
        forward(rows, size, input, recurrent, before, activated, cells, hidden, half);                              \
    }                                                                                                               \
    void lstm_backward_##suffix(size_t rows, size_t size, const void *grad_hidden, float *grad_cells,               \
                                const float *activated, const float *before, const float *cells, void *grad_raw) {  \
        backward(rows, size, grad_hidden, grad_cells, activated, before, cells, grad_raw, half);                    \
    }                                                                                                               \
    double cross_entropy_##suffix(size_t rows, size_t size, void *products, const float *bias,                      \
                                  const int64_t *targets, float scale, float *grad_bias, float *scratch) {          \
        return cross_entropy(rows, size, products, bias, targets, scale, grad_bias, scratch, half);                 \
    }

BOTH(float32, 0)
BOTH(bfloat16, 1)
