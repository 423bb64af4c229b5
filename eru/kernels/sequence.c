/* An LSTM's recurrence over a whole sequence in float32, its products included, in one call.
 *
 * R recurrent groups: block r of every gate's H / R units reads slice r of h (P / R features). So the sequences of a
 * batch know nothing of each other, nor do the groups where no projection mixes them. Every thread takes some of them
 * through all steps, and no thread waits for another. The numbers do not depend on how they are shared out.
 */
#include <stdlib.h>

#include "elementwise.h"

/* Products are made in tiles of at most TILE rows and one panel of columns. A row's sums stay in two registers, of
 * the 16 that processors have, or of the 32 of those with AVX-512 and of ARM's. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE 12
#else
#define TILE 6
#endif
enum { PANEL = 2 * WIDTH, MOST_ROWS = 72, LINE = 64, AHEAD = 8 };

typedef struct {
    size_t steps, batch, size, out, groups; /* T, B, H, P (H without a projection), R */
} Shape;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static size_t ceiling(size_t a, size_t b) { return (a + b - 1) / b; }

/* Columns with those that fill up the last register. */
static size_t padded(size_t columns) { return ceiling(columns, WIDTH) * WIDTH; }

/* So many numbers, from the beginning of a line of the processor's cache: a register's numbers then lie in one. */
static float *numbers(size_t count) {
#if defined(_WIN32) /* where there is no such function; nothing but speed depends on it */
    return malloc(count * sizeof(float));
#else
    return aligned_alloc(LINE, ceiling(count * sizeof(float), LINE) * LINE);
#endif
}

/* Where the numbers of a matrix lie. Its rows are `segments` of `length`, its columns `blocks` of `columns`. */
typedef struct {
    size_t segments, length, segment_apart, row_apart;
    size_t blocks, columns, block_apart, column_apart;
} Matrix;

/* A matrix as panels of columns, filled up with zeros; the last one is half as wide where that is enough. */
static void pack(int threads, float *to, Matrix m, const float *from) {
    const size_t columns = m.blocks * m.columns, rows = m.segments * m.length;
#pragma omp parallel for num_threads(threads) if (columns * rows > 1 << 17)
    for (size_t panel = 0; panel < ceiling(columns, PANEL); panel++) {
        const size_t first = panel * PANEL, wide = smaller(padded(columns) - first, PANEL);
        float *at = to + first * rows;
        size_t begins[PANEL];
        for (size_t j = 0; j < wide; j++)
            begins[j] = (first + j) / m.columns * m.block_apart + (first + j) % m.columns * m.column_apart;
        for (size_t s = 0; s < m.segments; s++)
            for (size_t k = 0; k < m.length; k++, at += wide)
                for (size_t j = 0; j < wide; j++)
                    at[j] = first + j < columns ? from[s * m.segment_apart + k * m.row_apart + begins[j]] : 0.0f;
    }
}

INLINE void tile(size_t rows, size_t vectors, size_t segments, size_t length, const float *a, size_t row_apart,
                 size_t segment_apart, const float *packed, float *to, size_t to_apart) {
    vector sums[TILE][2] = {{{0}}};
    for (size_t s = 0; s < segments; s++, a += segment_apart)
        for (size_t k = 0; k < length; k++, packed += vectors * WIDTH) {
            vector part[2];
#pragma GCC unroll 2
            for (size_t v = 0; v < vectors; v++) {
                if (WIDTH == 16) __builtin_prefetch(packed + (AHEAD * vectors + v) * WIDTH); /* a whole line */
                part[v] = *(const vector *)(packed + v * WIDTH);
            }
#pragma GCC unroll 12
            for (size_t row = 0; row < rows; row++) {
                const float x = a[row * row_apart + k];
#pragma GCC unroll 2
                for (size_t v = 0; v < vectors; v++) sums[row][v] += x * part[v];
            }
        }
#pragma GCC unroll 12
    for (size_t row = 0; row < rows; row++)
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++) *(vector *)(to + row * to_apart + v * WIDTH) = sums[row][v];
}

/* to (rows, padded columns) = a (rows, segments of length) times a packed matrix. */
static void multiply(size_t rows, size_t columns, size_t segments, size_t length, const float *a, size_t row_apart,
                     size_t segment_apart, const float *packed, float *to, size_t to_apart) {
    const size_t tiles = ceiling(rows, TILE);
    for (size_t column = 0; column < columns; column += PANEL)
        for (size_t n = 0; n < tiles; n++) { /* of about as many rows each */
            const size_t row = rows * n / tiles, count = rows * (n + 1) / tiles - row;
            const float *from = a + row * row_apart, *panel = packed + column * segments * length;
            float *at = to + row * to_apart + column;
            switch (columns - column > WIDTH ? count : TILE + count) { /* so that the compiler knows both sizes */
#define TILED(rows, vectors) tile(rows, vectors, segments, length, from, row_apart, segment_apart, panel, at, to_apart)
#define ROWS(n) case n: TILED(n, 2); break; case TILE + n: TILED(n, 1); break;
#if TILE > 6
                ROWS(12) ROWS(11) ROWS(10) ROWS(9) ROWS(8) ROWS(7)
#endif
                ROWS(6) ROWS(5) ROWS(4) ROWS(3) ROWS(2) ROWS(1)
                default: abort(); /* no other number of rows comes here */
#undef ROWS
#undef TILED
            }
        }
}

/* What a thread takes at a time: some rows of some groups. */
typedef struct {
    size_t rows, groups, row_parts, parts;
} Share;

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
    const size_t units = n.size / n.groups, read = n.out / n.groups, wide = padded(4 * units);
    const size_t out_wide = padded(n.out), raw_apart = (last - first) * wide;
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
        for (size_t group = first; group < last; group++) /* its four gates at once */
            multiply(rows, 4 * units, 1, read, h + group * read, n.out, 0, packed + group * read * wide,
                     raw + (group - first) * wide, raw_apart);
        float *m = packed_hr ? unprojected : hidden + (t * n.batch + begin) * n.out;
        for (size_t row = 0; row < rows; row++)
            for (size_t group = first; group < last; group++) {
                const size_t unit = group * units, b = begin + row;
                const float *before = t ? cells + (t - 1) * cells_kept : c0;
                step_forward(units, gates + (t * n.batch + b) * 4 * n.size + unit, n.size,
                             raw + row * raw_apart + (group - first) * wide, units, before + b * n.size + unit,
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
    const size_t units = n.size / n.groups, read = n.out / n.groups, wide = padded(4 * units);
    const Share each = share(n, threads, weight_hr != NULL);
    float *packed = numbers(n.groups * read * wide);
    const Matrix gates_of_group = {.segments = 1, .length = read, .row_apart = 1,
                                   .blocks = 4, .columns = units, .block_apart = n.size * read, .column_apart = read};
    for (size_t group = 0; group < n.groups; group++)
        pack(threads, packed + group * read * wide, gates_of_group, weight_hh + group * units * read);
    float *packed_hr = NULL;
    if (weight_hr) {
        packed_hr = numbers(n.size * padded(n.out));
        const Matrix projection = {.segments = 1, .length = n.size, .row_apart = 1,
                                   .blocks = 1, .columns = n.out, .column_apart = n.size};
        pack(threads, packed_hr, projection, weight_hr);
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t part = 0; part < each.parts; part++) {
        const size_t begin = part % each.row_parts * each.rows, first = part / each.row_parts * each.groups;
        const size_t last = smaller(first + each.groups, n.groups);
        float *scratch = numbers(each.rows * (each.groups * wide + n.out + n.size + padded(n.out)));
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
    const size_t units = n.size / n.groups, read = n.out / n.groups, wide = padded(read);
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
            dm_apart = padded(n.size);
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
    const size_t units = n.size / n.groups, read = n.out / n.groups, wide = padded(read);
    const Share each = share(n, threads, weight_hr != NULL);
    float *packed = numbers(4 * n.size * wide);
    const Matrix gates_of_group = {.segments = 4, .length = units, .segment_apart = n.size * read, .row_apart = read,
                                   .blocks = 1, .columns = read, .column_apart = 1};
    for (size_t group = 0; group < n.groups; group++)
        pack(threads, packed + group * 4 * units * wide, gates_of_group, weight_hh + group * units * read);
    float *packed_hr = NULL;
    if (weight_hr) {
        packed_hr = numbers(n.out * padded(n.size));
        const Matrix back = {.segments = 1, .length = n.out, .row_apart = n.size,
                             .blocks = 1, .columns = n.size, .column_apart = 1};
        pack(threads, packed_hr, back, weight_hr);
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t part = 0; part < each.parts; part++) {
        const size_t begin = part % each.row_parts * each.rows, first = part / each.row_parts * each.groups;
        const size_t last = smaller(first + each.groups, n.groups);
        float *scratch = numbers(each.rows * (each.groups * wide + padded(n.size)));
        backward_rows(n, begin, smaller(each.rows, n.batch - begin), first, last, grad_hidden, grad_c, c0, mask, ends,
                      packed, packed_hr, activated, cells, grad_gates, projected, grad_h0, grad_c0, scratch);
        free(scratch);
    }
    free(packed_hr);
    free(packed);
}
