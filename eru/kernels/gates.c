/* The input map of an ERU: EESP units, one for each gate or one for all of them, whose reduce R, branches D and expand E
 * are one matrix together, E D R. Few rows are taken one by one, in float32 or bfloat16 (`half`: as bits, sums in
 * float32), and so is one step of a cell; the matrix and its gradients are made in float32.
 *
 * Weights are laid out as in eru/gates.py: the reduce by (group, unit, feature), the branches' taps by (branch, unit,
 * group), the expand by (unit, group, gate, output).
 */
#include <stdlib.h>

#include "elementwise.h"

/* Up to so many units a thread would take longer to wake than to work. */
enum { MOST_BRANCHES = 16, FEW_UNITS = 48 };

typedef struct {
    /* EESP units, gates of each, size H of a gate, M inputs, width d, K branches, groups of the reduce, of the branches
     * and of the expand, taps of a branch, and whether the branches are summed up. */
    size_t units, gates, size, inputs, width, branches, reduce_groups, groups, expand_groups, taps, fusion;
    size_t dilations[MOST_BRANCHES];
} Unit;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t fan_in(Unit u) { return u.branches * u.width / u.expand_groups; }
static size_t fan_out(Unit u) { return (u.size + u.expand_groups - 1) / u.expand_groups; }

typedef uint32_t words __attribute__((vector_size(4 * WIDTH)));

INLINE vector load_vector(const void *p, size_t n, int half) {
    if (!half) return *(const vector *)((const float *)p + n);
    words bits;
    for (size_t j = 0; j < WIDTH; j++) bits[j] = ((const uint16_t *)p)[n + j];
    return (vector)(bits << 16);
}

/* The weights from `first` on, times b. Four sums side by side, for one alone would wait for itself at every addition. */
INLINE float dot(size_t size, const void *weights, size_t first, const float *b, int half) {
    vector sums[4] = {{0}};
    size_t n = 0;
    for (; n + 4 * WIDTH <= size; n += 4 * WIDTH)
        for (size_t j = 0; j < 4; j++)
            sums[j] += load_vector(weights, first + n + j * WIDTH, half) * *(const vector *)(b + n + j * WIDTH);
    for (; n + WIDTH <= size; n += WIDTH) sums[0] += load_vector(weights, first + n, half) * *(const vector *)(b + n);
    const vector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float sum = 0;
    for (size_t j = 0; j < WIDTH; j++) sum += all[j];
    for (; n < size; n++) sum += load(weights, first + n, half) * b[n];
    return sum;
}

INLINE void add(size_t size, float factor, const float *a, float *to) {
#pragma omp simd
    for (size_t n = 0; n < size; n++) to[n] += factor * a[n];
}

INLINE void widen(size_t size, const void *from, size_t first, float *to, int half) {
#pragma omp simd
    for (size_t n = 0; n < size; n++) to[n] = load(from, first + n, half);
}

INLINE void narrow(size_t size, const float *from, void *to, size_t first, int half) {
#pragma omp simd
    for (size_t n = 0; n < size; n++) store(to, first + n, from[n], half);
}

/* Where the row of the reduce's weight begins that makes feature j of a unit's reduced vector. */
static size_t reduce_row(Unit u, size_t unit, size_t j) {
    const size_t length = u.width / u.reduce_groups;
    return ((j / length * u.units + unit) * length + j % length) * (u.inputs / u.reduce_groups);
}

/* The inputs that make feature j: where those of its group begin. */
static size_t first_input(Unit u, size_t j) {
    return j / (u.width / u.reduce_groups) * (u.inputs / u.reduce_groups);
}

/* The row of the expand's weight that makes output h of a gate of a unit. */
static size_t expand_row(Unit u, size_t unit, size_t gate, size_t h) {
    const size_t group = h / fan_out(u);
    return ((unit * u.expand_groups + group) * u.gates + gate) * fan_out(u) + h % fan_out(u);
}

/* Gates (S H) of one row x (M), given room for (1 + K) d numbers. */
INLINE void row_gates(Unit u, const float *x, const void *reduce, const void *branch, const void *expand, float *room,
                      float *gates, int half) {
    const size_t length = u.width / u.groups, read = u.inputs / u.reduce_groups;
    float *reduced = room, *fused = room + u.width;
    for (size_t unit = 0; unit < u.units; unit++) {
        for (size_t j = 0; j < u.width; j++)
            reduced[j] = dot(read, reduce, reduce_row(u, unit, j), x + first_input(u, j), half);
        for (size_t b = 0; b < u.branches; b++) {
            float *sums = fused + b * u.width;
            for (size_t j = 0; j < u.width; j++) sums[j] = u.fusion && b ? sums[j - u.width] : 0.0f;
            for (size_t group = 0; group < u.groups; group++)
                for (size_t k = 0; k < u.taps; k++) {
                    const float tap = load(branch, ((b * u.units + unit) * u.groups + group) * u.taps + k, half);
                    const ptrdiff_t shift = ((ptrdiff_t)k - (ptrdiff_t)(u.taps / 2)) * (ptrdiff_t)u.dilations[b];
                    const size_t reach = (size_t)(shift < 0 ? -shift : shift);
                    if (reach >= length) continue; /* the tap only ever meets the padding */
                    add(length - reach, tap, reduced + group * length + (shift > 0 ? reach : 0),
                        sums + group * length + (shift < 0 ? reach : 0));
                }
        }
        for (size_t gate = 0; gate < u.gates; gate++)
            for (size_t h = 0; h < u.size; h++)
                gates[(unit * u.gates + gate) * u.size + h] =
                    dot(fan_in(u), expand, expand_row(u, unit, gate, h) * fan_in(u), fused + h / fan_out(u) * fan_in(u),
                        half);
    }
}

/* Rows of x (rows, M) one by one: gates (rows, S H). */
INLINE void gates_rows(Unit u, size_t rows, const void *x, const void *reduce, const void *branch, const void *expand,
                       void *gates, int half) {
    const size_t made = u.units * u.gates * u.size, room = (1 + u.branches) * u.width;
    float *row = malloc((u.inputs + room + made) * sizeof(float)), *sums = row + u.inputs + room;
    for (size_t n = 0; n < rows; n++) {
        widen(u.inputs, x, n * u.inputs, row, half);
        row_gates(u, row, reduce, branch, expand, row + u.inputs, sums, half);
        narrow(made, sums, gates, n * made, half);
    }
    free(row);
}

/* One gate's E D as a matrix (d, H), given the expand's weight turned to (K d, outputs of a group). Backward, what is
 * given is the gradient of that matrix, and those of both weights are made. A tap of a branch joins a feature of the
 * reduced vector to feature `to` of its own branch, and with fusion of all later ones. */
INLINE void compose(Unit u, size_t unit, const float *branch, const float *turned, float *matrix,
                    float *grad_branch, float *grad_turned, int backward) {
    const size_t length = u.width / u.groups, outputs = fan_out(u);
    for (size_t b = 0; b < u.branches; b++)
        for (size_t group = 0; group < u.groups; group++)
            for (size_t k = 0; k < u.taps; k++) {
                const size_t index = ((b * u.units + unit) * u.groups + group) * u.taps + k;
                const ptrdiff_t shift = ((ptrdiff_t)k - (ptrdiff_t)(u.taps / 2)) * (ptrdiff_t)u.dilations[b];
                float sum = 0;
                for (size_t later = b; later < (u.fusion ? u.branches : b + 1); later++)
                    for (size_t p = 0; p < length; p++) {
                        const ptrdiff_t other = (ptrdiff_t)p + shift;
                        if (other < 0 || other >= (ptrdiff_t)length) continue;
                        const size_t to = later * u.width + group * length + p, first = to / fan_in(u) * outputs;
                        const size_t count = first < u.size ? smaller(outputs, u.size - first) : 0;
                        float *row = matrix + (group * length + (size_t)other) * u.size + first;
                        if (backward) {
                            add(count, branch[index], row, grad_turned + to * outputs);
                            sum += dot(count, turned, to * outputs, row, 0);
                        } else {
                            add(count, branch[index], turned + to * outputs, row);
                        }
                    }
                if (backward) grad_branch[index] = sum;
            }
}

/* The expand's weight of one gate, from (groups, outputs, K d / groups) to (K d, outputs), or back. */
INLINE void turn(Unit u, size_t unit, size_t gate, float *expand, float *turned, int back) {
    for (size_t group = 0; group < u.expand_groups; group++)
        for (size_t o = 0; o < fan_out(u); o++)
            for (size_t f = 0; f < fan_in(u); f++) {
                float *a = expand + expand_row(u, unit, gate, group * fan_out(u) + o) * fan_in(u) + f;
                float *b = turned + (group * fan_in(u) + f) * fan_out(u) + o;
                if (back) *a = *b; else *b = *a;
            }
}

/* The whole map as one matrix (S H, M). */
void gates_dense(const Unit *sizes, int threads, const float *reduce, const float *branch, const float *expand,
                 float *dense) {
    const Unit u = *sizes;
    const size_t read = u.inputs / u.reduce_groups, kept = u.branches * u.width * fan_out(u);
    memset(dense, 0, u.units * u.gates * u.size * u.inputs * sizeof(float));
#pragma omp parallel for num_threads(threads) if (u.size > FEW_UNITS)
    for (size_t gate = 0; gate < u.units * u.gates; gate++) {
        const size_t unit = gate / u.gates;
        float *turned = malloc((kept + u.width * u.size) * sizeof(float)), *matrix = turned + kept;
        turn(u, unit, gate % u.gates, (float *)expand, turned, 0);
        memset(matrix, 0, u.width * u.size * sizeof(float));
        compose(u, unit, branch, turned, matrix, NULL, NULL, 0);
        for (size_t h = 0; h < u.size; h++)
            for (size_t j = 0; j < u.width; j++)
                add(read, matrix[j * u.size + h], reduce + reduce_row(u, unit, j),
                    dense + (gate * u.size + h) * u.inputs + first_input(u, j));
        free(turned);
    }
}

/* The gradients of the three weights from that of the matrix. Those of reduce and branches come once for each gate of
 * a unit, (gates, *shape), and are their sums, which leaves every thread its own memory. */
void gates_dense_backward(const Unit *sizes, int threads, const float *grad, const float *reduce, const float *branch,
                          const float *expand, float *grad_reduce, float *grad_branch, float *grad_expand) {
    const Unit u = *sizes;
    const size_t read = u.inputs / u.reduce_groups, kept = u.branches * u.width * fan_out(u);
    const size_t whole = u.width * u.size;
#pragma omp parallel for num_threads(threads) if (u.size > FEW_UNITS)
    for (size_t gate = 0; gate < u.units * u.gates; gate++) {
        const size_t unit = gate / u.gates, part = gate % u.gates;
        float *turned = malloc((2 * kept + 2 * whole) * sizeof(float)), *grad_turned = turned + kept;
        float *matrix = grad_turned + kept, *grad_matrix = matrix + whole;
        turn(u, unit, part, (float *)expand, turned, 0);
        memset(matrix, 0, whole * sizeof(float));
        memset(grad_turned, 0, kept * sizeof(float));
        compose(u, unit, branch, turned, matrix, NULL, NULL, 0);
        for (size_t j = 0; j < u.width; j++) {
            const size_t row = reduce_row(u, unit, j);
            float *grad_row = grad_reduce + part * u.units * u.width * read + row;
            memset(grad_row, 0, read * sizeof(float));
            for (size_t h = 0; h < u.size; h++) {
                const float *from = grad + (gate * u.size + h) * u.inputs + first_input(u, j);
                add(read, matrix[j * u.size + h], from, grad_row);
                grad_matrix[j * u.size + h] = dot(read, reduce, row, from, 0);
            }
        }
        float *grad_taps = grad_branch + part * u.branches * u.units * u.groups * u.taps;
        compose(u, unit, branch, turned, grad_matrix, grad_taps, grad_turned, 1);
        turn(u, unit, part, grad_expand, grad_turned, 1);
        free(turned);
    }
}

/* One evaluated step of a cell of four gates, whose recurrent map has `groups` blocks: the next hidden state and cells
 * of rows (rows, M), with everything in one call. */
INLINE void cell_step(Unit u, size_t rows, size_t groups, const void *x, const void *reduce, const void *branch,
                      const void *expand, const void *bias, const void *weight_hh, const void *h, const void *c,
                      void *next_h, void *next_c, int half) {
    const size_t size = u.size, read = size / groups, room = (1 + u.branches) * u.width;
    float *row = malloc((u.inputs + room + 14 * size) * sizeof(float));
    float *gates = row + u.inputs + room, *recurrent = gates + 4 * size, *activated = recurrent + 4 * size;
    float *hidden = activated + 4 * size, *cells = hidden + size;
    for (size_t n = 0; n < rows; n++) {
        widen(u.inputs, x, n * u.inputs, row, half);
        row_gates(u, row, reduce, branch, expand, row + u.inputs, gates, half);
        widen(size, h, n * size, hidden, half);
        widen(size, c, n * size, cells, half);
        for (size_t k = 0; k < 4 * size; k++)
            recurrent[k] = (bias ? load(bias, k, half) : 0.0f) +
                           dot(read, weight_hh, k * read, hidden + k % size / read * read, half);
        step_forward(size, gates, size, recurrent, size, cells, activated, cells, hidden, 0);
        narrow(size, hidden, next_h, n * size, half);
        narrow(size, cells, next_c, n * size, half);
    }
    free(row);
}

#define BOTH(suffix, half)                                                                                          \
    void gates_rows_##suffix(const Unit *sizes, size_t rows, const void *x, const void *reduce, const void *branch, \
                             const void *expand, void *gates) {                                                     \
        gates_rows(*sizes, rows, x, reduce, branch, expand, gates, half);                                           \
    }                                                                                                               \
    void cell_step_##suffix(const Unit *sizes, size_t rows, size_t groups, const void *x, const void *reduce,       \
                            const void *branch, const void *expand, const void *bias, const void *weight_hh,        \
                            const void *h, const void *c, void *next_h, void *next_c) {                             \
        cell_step(*sizes, rows, groups, x, reduce, branch, expand, bias, weight_hh, h, c, next_h, next_c, half);    \
    }

BOTH(float32, 0)
BOTH(bfloat16, 1)
