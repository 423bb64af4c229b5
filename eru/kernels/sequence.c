/* An LSTM's recurrence over a whole sequence in float32, its products included, in one call.
 *
 * R recurrent groups: block r of every gate's H / R units reads slice r of h (P / R features). So the sequences of a
 * batch know nothing of each other, nor do the groups where no projection mixes them. Every thread takes some of them
 * through all steps, and no thread waits for another. The numbers do not depend on how they are shared out.
 */
#include <stdlib.h>

#include "elementwise.h"

/* Products are made in tiles of at most TILE rows and one panel of columns. A row's sums stay in two registers, of
 * the 16 that processors have, or of the 32 of those with AVX-512. */
#if defined(__AVX512F__)
enum { TILE = 8 };
#else
enum { TILE = 6 };
#endif
enum { PANEL = 2 * WIDTH, MOST_ROWS = 72 };

typedef struct {
    size_t steps, batch, size, out, groups; /* T, B, H, P (H without a projection), R */
} Shape;

static size_t panels(size_t columns) { return (columns + PANEL - 1) / PANEL; }

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* A matrix as panels of columns, filled up with zeros. Its rows are `segments` of `length`. */
static void pack(int threads, float *to, size_t columns, size_t segments, size_t length, const float *from,
                 size_t segment_apart, size_t row_apart, size_t column_apart) {
    const size_t count = panels(columns);
#pragma omp parallel for num_threads(threads) if (columns * segments * length > 1 << 17)
    for (size_t panel = 0; panel < count; panel++) {
        float *at = to + panel * segments * length * PANEL;
        for (size_t s = 0; s < segments; s++)
            for (size_t k = 0; k < length; k++, at += PANEL)
                for (size_t j = 0; j < PANEL; j++) {
                    const size_t column = panel * PANEL + j;
                    const size_t n = s * segment_apart + k * row_apart + column * column_apart;
                    at[j] = column < columns ? from[n] : 0.0f;
                }
    }
}

INLINE void tile(size_t rows, size_t segments, size_t length, const float *a, size_t row_apart, size_t segment_apart,
                 const float *packed, float *to, size_t to_apart) {
    vector sums[TILE][2] = {{{0}}};
    for (size_t s = 0; s < segments; s++, a += segment_apart)
        for (size_t k = 0; k < length; k++, packed += PANEL) {
            const vector left = *(const vector *)packed, right = *(const vector *)(packed + WIDTH);
#pragma GCC unroll 8
            for (size_t row = 0; row < rows; row++) {
                const float x = a[row * row_apart + k];
                sums[row][0] += x * left;
                sums[row][1] += x * right;
            }
        }
#pragma GCC unroll 8
    for (size_t row = 0; row < rows; row++) {
        *(vector *)(to + row * to_apart) = sums[row][0];
        *(vector *)(to + row * to_apart + WIDTH) = sums[row][1];
    }
}

/* to (rows, columns in whole panels) = a (rows, segments of length) times a packed matrix. */
static void multiply(size_t rows, size_t columns, size_t segments, size_t length, const float *a, size_t row_apart,
                     size_t segment_apart, const float *packed, float *to, size_t to_apart) {
    for (size_t panel = 0; panel < panels(columns); panel++, packed += segments * length * PANEL, to += PANEL)
        for (size_t row = 0; row < rows; row += TILE) {
            const float *from = a + row * row_apart;
            float *at = to + row * to_apart;
            switch (smaller(rows - row, TILE)) { /* each with its own number of rows, known to the compiler */
#define ROWS(n) tile(n, segments, length, from, row_apart, segment_apart, packed, at, to_apart)
#if defined(__AVX512F__)
                case 8: ROWS(8); break;
                case 7: ROWS(7); break;
#endif
                case 6: ROWS(6); break;
                case 5: ROWS(5); break;
                case 4: ROWS(4); break;
                case 3: ROWS(3); break;
                case 2: ROWS(2); break;
                default: ROWS(1);
#undef ROWS
            }
        }
}

/* What a thread takes at a time: some rows of some groups. */
typedef struct {
    size_t rows, groups, row_parts, parts;
} Share;

static size_t ceiling(size_t a, size_t b) { return (a + b - 1) / b; }

static Share share(Shape n, int threads, int projects) {
    /* Groups first, so that each thread has fewer weights to read; but a projection reads all groups. */
    const size_t group_parts = projects ? 1 : smaller(n.groups, threads);
    const size_t groups = ceiling(n.groups, group_parts);
    const size_t rows = smaller(ceiling(n.batch, ceiling(threads, group_parts)), MOST_ROWS);
    const size_t row_parts = rows ? ceiling(n.batch, rows) : 0;
    return (Share){rows, groups, row_parts, row_parts * ceiling(n.groups, groups)};
}

/* All steps of the rows from `begin`, of the groups from `first` to before `last`. `kept` and `cells_kept` are the
 * numbers between two steps of what is kept of every step, or 0 where each step is written over the last. */
static void forward_rows(Shape n, size_t begin, size_t rows, size_t first, size_t last, const float *gates,
                         const float *h0, const float *c0, const float *mask, const float *packed,
                         const float *packed_hr, float *hidden, float *activated, size_t kept, float *cells,
                         size_t cells_kept, float *scratch) {
    const size_t units = n.size / n.groups, read = n.out / n.groups, wide = panels(units) * PANEL;
    const size_t out_wide = panels(n.out) * PANEL;
    const size_t raw_apart = (last - first) * 4 * wide;
    float *raw = scratch, *masked = raw + rows * raw_apart, *unprojected = masked + rows * n.out;
    float *projected = unprojected + rows * n.size;
    for (size_t t = 0; t < n.steps; t++) {
        const float *h = (t ? hidden + (t - 1) * n.batch * n.out : h0) + begin * n.out;
        if (mask) {
            for (size_t row = 0; row < rows; row++)
                for (size_t i = first * read; i < last * read; i++)
                    masked[row * n.out + i] = h[row * n.out + i] * mask[(begin + row) * n.out + i];
            h = masked;
        }
        for (size_t block = 4 * first; block < 4 * last; block++) /* (group, gate) */
            multiply(rows, units, 1, read, h + block / 4 * read, n.out, 0, packed + block * read * wide,
                     raw + (block - 4 * first) * wide, raw_apart);
        float *m = packed_hr ? unprojected : hidden + (t * n.batch + begin) * n.out;
        for (size_t row = 0; row < rows; row++)
            for (size_t group = first; group < last; group++) {
                const size_t unit = group * units, b = begin + row;
                const float *before = t ? cells + (t - 1) * cells_kept : c0;
                step_forward(units, gates + (t * n.batch + b) * 4 * n.size + unit, n.size,
                             raw + row * raw_apart + (group - first) * 4 * wide, wide, before + b * n.size + unit,
                             activated + t * kept + b * 4 * n.size + unit, cells + t * cells_kept + b * n.size + unit,
                             m + row * n.size + unit, 0);
            }
        if (packed_hr) {
            multiply(rows, n.out, 1, n.size, unprojected, n.size, 0, packed_hr, projected, out_wide);
            for (size_t row = 0; row < rows; row++)
                memcpy(hidden + (t * n.batch + begin + row) * n.out, projected + row * out_wide,
                       n.out * sizeof(float));
        }
    }
}

void sequence_forward(size_t steps, size_t batch, size_t size, size_t out, size_t groups, int threads,
                      const float *gates, const float *weight_hh, const float *h0, const float *c0,
                      const float *weight_hr, const float *mask, float *hidden, float *activated, size_t kept,
                      float *cells, size_t cells_kept) {
    const Shape n = {steps, batch, size, out, groups};
    const size_t units = n.size / n.groups, read = n.out / n.groups, wide = panels(units) * PANEL;
    const Share each = share(n, threads, weight_hr != NULL);
    float *packed = malloc(n.groups * 4 * read * wide * sizeof(float));
    for (size_t block = 0; block < 4 * n.groups; block++)
        pack(threads, packed + block * read * wide, units, 1, read,
             weight_hh + (block % 4 * n.size + block / 4 * units) * read, 0, 1, read);
    float *packed_hr = NULL;
    if (weight_hr) {
        packed_hr = malloc(n.size * panels(n.out) * PANEL * sizeof(float));
        pack(threads, packed_hr, n.out, 1, n.size, weight_hr, 0, 1, n.size);
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t part = 0; part < each.parts; part++) {
        const size_t begin = part % each.row_parts * each.rows, first = part / each.row_parts * each.groups;
        const size_t last = smaller(first + each.groups, n.groups);
        const size_t numbers = each.groups * 4 * wide + n.out + n.size + panels(n.out) * PANEL;
        float *scratch = malloc(each.rows * numbers * sizeof(float));
        forward_rows(n, begin, smaller(each.rows, n.batch - begin), first, last, gates, h0, c0, mask, packed,
                     packed_hr, hidden, activated, kept, cells, cells_kept, scratch);
        free(scratch);
    }
    free(packed_hr);
    free(packed);
}

/* The gradients of all steps of these rows and groups. `ends` names each sequence's last step, or is NULL. */
static void backward_rows(Shape n, size_t begin, size_t rows, size_t first, size_t last, const float *grad_hidden,
                          const float *grad_c, const float *c0, const float *mask, const int64_t *ends,
                          const float *packed, const float *packed_hr, const float *activated, const float *cells,
                          float *grad_gates, float *projected, float *grad_h0, float *grad_c0, float *scratch) {
    const size_t units = n.size / n.groups, read = n.out / n.groups, wide = panels(read) * PANEL;
    const size_t back_apart = (last - first) * wide, unit = first * units, count = (last - first) * units;
    float *back = scratch, *unprojected = back + rows * back_apart;
    float *dh = grad_h0 + begin * n.out, *dc = grad_c0 + begin * n.size; /* they end as the gradients of h0 and c0 */
    for (size_t row = 0; row < rows; row++) {
        const size_t at = row * n.out + first * read;
        memcpy(dh + at, grad_hidden + ((n.steps - 1) * n.batch + begin) * n.out + at,
               (last - first) * read * sizeof(float));
        memset(dc + row * n.size + unit, 0, count * sizeof(float));
    }
    for (size_t t = n.steps; t-- > 0;) {
        const float *before = t ? cells + (t - 1) * n.batch * n.size : c0, *now = cells + t * n.batch * n.size;
        const float *dm = dh;
        size_t dm_apart = n.size;
        if (packed_hr) {
            memcpy(projected + (t * n.batch + begin) * n.out, dh, rows * n.out * sizeof(float));
            dm_apart = panels(n.size) * PANEL;
            multiply(rows, n.size, 1, n.out, dh, n.out, 0, packed_hr, unprojected, dm_apart);
            dm = unprojected;
        }
        float *grad = grad_gates + (t * n.batch + begin) * 4 * n.size;
        for (size_t row = 0; row < rows; row++) {
            const size_t b = begin + row;
            if (ends ? (size_t)ends[b] == t : t == n.steps - 1) /* the gradient of the last cells comes in here */
                for (size_t i = unit; i < unit + count; i++) dc[row * n.size + i] += grad_c[b * n.size + i];
            step_backward(count, n.size, dm + row * dm_apart + unit, dc + row * n.size + unit,
                          activated + (t * n.batch + b) * 4 * n.size + unit, before + b * n.size + unit,
                          now + b * n.size + unit, grad + row * 4 * n.size + unit, 0);
        }
        for (size_t group = first; group < last; group++)
            multiply(rows, read, 4, units, grad + group * units, 4 * n.size, n.size,
                     packed + group * 4 * units * wide, back + (group - first) * wide, back_apart);
        for (size_t row = 0; row < rows; row++)
            for (size_t group = first; group < last; group++)
                for (size_t i = 0; i < read; i++) {
                    const size_t at = (begin + row) * n.out + group * read + i;
                    const float x = back[row * back_apart + (group - first) * wide + i];
                    grad_h0[at] = (mask ? x * mask[at] : x) + (t ? grad_hidden[(t - 1) * n.batch * n.out + at] : 0.0f);
                }
    }
}

void sequence_backward(size_t steps, size_t batch, size_t size, size_t out, size_t groups, int threads,
                       const float *grad_hidden, const float *grad_c, const float *weight_hh, const float *c0,
                       const float *weight_hr, const float *mask, const int64_t *ends, const float *activated,
                       const float *cells, float *grad_gates, float *projected, float *grad_h0, float *grad_c0) {
    const Shape n = {steps, batch, size, out, groups};
    const size_t units = n.size / n.groups, read = n.out / n.groups, wide = panels(read) * PANEL;
    const Share each = share(n, threads, weight_hr != NULL);
    float *packed = malloc(4 * n.size * wide * sizeof(float));
    for (size_t group = 0; group < n.groups; group++)
        pack(threads, packed + group * 4 * units * wide, read, 4, units, weight_hh + group * units * read,
             n.size * read, read, 1);
    float *packed_hr = NULL;
    if (weight_hr) {
        packed_hr = malloc(n.out * panels(n.size) * PANEL * sizeof(float));
        pack(threads, packed_hr, n.size, 1, n.out, weight_hr, 0, n.size, 1);
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t part = 0; part < each.parts; part++) {
        const size_t begin = part % each.row_parts * each.rows, first = part / each.row_parts * each.groups;
        const size_t last = smaller(first + each.groups, n.groups);
        float *scratch = malloc(each.rows * (each.groups * wide + panels(n.size) * PANEL) * sizeof(float));
        backward_rows(n, begin, smaller(each.rows, n.batch - begin), first, last, grad_hidden, grad_c, c0, mask, ends,
                      packed, packed_hr, activated, cells, grad_gates, projected, grad_h0, grad_c0, scratch);
        free(scratch);
    }
    free(packed_hr);
    free(packed);
}
