/* One step of an LSTM over all rows, and the cross-entropy of the softmax, in float32 and bfloat16.
 *
 * Tensors are contiguous. Threads share out the rows where a function takes their number.
 */
#include "elementwise.h"

INLINE void forward(size_t rows, size_t size, const char *input, const char *recurrent, const float *before,
                    float *activated, float *cells, char *hidden, int half) {
    const size_t bytes = half ? 2 : 4;
    for (size_t row = 0; row < rows; row++) {
        const size_t at = row * size, gate = 4 * at;
        step_forward(size, input + gate * bytes, size, recurrent + gate * bytes, size, before + at, activated + gate,
                     cells + at, hidden + at * bytes, half);
    }
}

INLINE void backward(size_t rows, size_t size, const char *grad_hidden, float *grad_cells, const float *activated,
                     const float *before, const float *cells, char *grad_raw, int half) {
    const size_t bytes = half ? 2 : 4;
    for (size_t row = 0; row < rows; row++) {
        const size_t at = row * size, gate = 4 * at;
        step_backward(size, size, grad_hidden + at * bytes, grad_cells + at, activated + gate, before + at, cells + at,
                      grad_raw + gate * bytes, half);
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
