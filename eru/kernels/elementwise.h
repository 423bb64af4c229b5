/* The element-wise work of an LSTM on some units of one row, and the numbers that it is made of.
 *
 * Arrays are float32 or bfloat16 (`half`: as bits, sums in float32). Built without -ffast-math, so NaN and infinity
 * pass through.
 */
#ifndef ELEMENTWISE_H
#define ELEMENTWISE_H

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

/* As many float32 numbers as one register of the processor holds. */
#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

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

/* One step of `size` units. The raw gates are the sum of two arrays: what came from the input and what came from the
 * last hidden state. The gates i, f, g, o of a unit lie `apart` (those of the recurrent product `recurrent_apart`)
 * numbers from each other. `before` and `cells` may be one array. */
INLINE void step_forward(size_t size, const void *input, size_t apart, const void *recurrent, size_t recurrent_apart,
                         const float *before, float *activated, float *cells, void *hidden, int half) {
    const size_t R = recurrent_apart;
#pragma omp simd
    for (size_t n = 0; n < size; n++) {
        float i = sigmoid(load(input, n, half) + load(recurrent, n, half));
        float f = sigmoid(load(input, apart + n, half) + load(recurrent, R + n, half));
        float g = hyperbolic_tangent(load(input, 2 * apart + n, half) + load(recurrent, 2 * R + n, half));
        float o = sigmoid(load(input, 3 * apart + n, half) + load(recurrent, 3 * R + n, half));
        float c = f * before[n] + i * g;
        activated[n] = i;
        activated[apart + n] = f;
        activated[2 * apart + n] = g;
        activated[3 * apart + n] = o;
        cells[n] = c;
        store(hidden, n, o * hyperbolic_tangent(c), half);
    }
}

/* The gradient of the raw gates; `grad_cells` comes in for these cells and goes out for those one step earlier. */
INLINE void step_backward(size_t size, size_t apart, const void *grad_hidden, float *grad_cells,
                          const float *activated, const float *before, const float *cells, void *grad_raw, int half) {
#pragma omp simd
    for (size_t n = 0; n < size; n++) {
        float i = activated[n], f = activated[apart + n];
        float g = activated[2 * apart + n], o = activated[3 * apart + n];
        float tanh_c = hyperbolic_tangent(cells[n]);
        float dh = load(grad_hidden, n, half);
        float dc = grad_cells[n] + dh * o * (1.0f - tanh_c * tanh_c);
        store(grad_raw, n, dc * g * i * (1.0f - i), half);
        store(grad_raw, apart + n, dc * before[n] * f * (1.0f - f), half);
        store(grad_raw, 2 * apart + n, dc * i * (1.0f - g * g), half);
        store(grad_raw, 3 * apart + n, dh * tanh_c * o * (1.0f - o), half);
        grad_cells[n] = dc * f;
    }
}

#endif
