/* Line spread functions: matrices given by their diagonals, and Gaussians of each pixel.

   Written once for both types: the file includes itself. What is computed, and the names of the
   arguments, are those of spender_core/ops/lsf. A spectrum `row` takes the matrix or the widths
   of row `row % matrices`, so that one of them can serve many spectra. */

#ifndef REAL

#include "portable.h"

#define TILE 512
/* Pixels that are worked on together, so that they stay in the nearest cache. */
#define NARROW 128
/* The same, where there are several arrays of double. */
#define LANES 16
/* Maxima that are found side by side. */
#define GROUP 8
/* Diagonals whose sums are taken together. */
#define SHARPEST 0.02
/* Widths below this, in pixels, count as this: exp(-1 / (2 * 0.02^2)) is 0. */

#define LONGEST 4
/* Spectra that a Gaussian may be long, on either side; a bound for widths that make no sense. */

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* exp(x) for x <= 0 to 2e-16, 0 below -700: the series of exp to degree 12 on |r| <= ln 2 / 2,
   and a power of 2 put together from its bits. Compilers vectorise it, unlike that of libm. */
static inline double falling_exp(double x) {
    const double shift = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to an integer */
    double bounded = x < -700.0 ? -700.0 : x;
    double n = bounded * 1.4426950408889634 + shift;
    int64_t bits;
    memcpy(&bits, &n, sizeof bits);
    n -= shift;
    double r = (bounded - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
    double e = 1.0 / 479001600;
    e = e * r + 1.0 / 39916800;
    e = e * r + 1.0 / 3628800;
    e = e * r + 1.0 / 362880;
    e = e * r + 1.0 / 40320;
    e = e * r + 1.0 / 5040;
    e = e * r + 1.0 / 720;
    e = e * r + 1.0 / 120;
    e = e * r + 1.0 / 24;
    e = e * r + 1.0 / 6;
    e = e * r + 0.5;
    e = e * r + 1.0;
    e = e * r + 1.0;
    int64_t power = (int64_t)((uint64_t)(bits + 1023) << 52);
    double two_n;
    memcpy(&two_n, &power, sizeof two_n);
    return x < -700.0 ? 0.0 : e * two_n;
}

#define REAL float
#define NAME(stem) stem##_f32
#include "lsf.c"
#undef REAL
#undef NAME
#define REAL double
#define NAME(stem) stem##_f64
#include "lsf.c"

#else

/* out[i] = sum over k of data[k, i + offsets[k]] y[i + offsets[k]], or its transpose
   out[j] = sum over k of data[k, j] y[j - offsets[k]]; what is beyond the ends counts as 0. */
SPENDER_API SPENDER_CLONES void NAME(spender_banded)(
    const REAL *data, int64_t matrix_stride, int64_t diagonal_stride, int64_t matrices,
    const int64_t *offsets, int64_t diagonals, const REAL *y, int64_t pixels, int transposed,
    REAL *out, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const REAL *matrix = data + row % matrices * matrix_stride;
        const REAL *from = y + row * pixels;
        REAL *to = out + row * pixels;
        for (int64_t start = 0; start < pixels; start += TILE) {
            int64_t stop = least(start + TILE, pixels);
            memset(to + start, 0, (size_t)(stop - start) * sizeof(REAL));
            for (int64_t k = 0; k < diagonals; k++) {
                int64_t shift = transposed ? -offsets[k] : offsets[k];
                const REAL *band = matrix + k * diagonal_stride + (transposed ? 0 : shift);
                const REAL *near = from + shift;
                int64_t a = most(start, -shift), b = least(stop, pixels - shift);
                for (int64_t i = a; i < b; i++) to[i] += band[i] * near[i];
            }
        }
    }
}

/* out[matrix, k, j] = sum over its rows of x[row, j] y[row, j - offsets[k]], summed in double.
   An item is a tile of one matrix: item = matrix * tiles + tile. */
SPENDER_API SPENDER_CLONES void NAME(spender_banded_outer)(
    const REAL *x, const REAL *y, int64_t rows, int64_t pixels, const int64_t *offsets,
    int64_t diagonals, int64_t matrices, REAL *out, int64_t first, int64_t last) {
    int64_t tiles = (pixels + NARROW - 1) / NARROW;
    for (int64_t item = first; item < last; item++) {
        int64_t matrix = item / tiles, start = item % tiles * NARROW;
        int64_t stop = least(start + NARROW, pixels);
        for (int64_t group = 0; group < diagonals; group += GROUP) {
            int64_t end = least(group + GROUP, diagonals);
            double total[GROUP][NARROW];
            memset(total, 0, sizeof total);
            for (int64_t row = matrix; row < rows; row += matrices) {
                const REAL *from = x + row * pixels + start;
                for (int64_t k = group; k < end; k++) {
                    double *sum = total[k - group];
                    const REAL *near = y + row * pixels + start - offsets[k];
                    int64_t a = most(0, offsets[k] - start);
                    int64_t b = least(stop, pixels + offsets[k]) - start;
                    for (int64_t j = a; j < b; j++) sum[j] += (double)from[j] * near[j];
                }
            }
            for (int64_t k = group; k < end; k++) {
                REAL *to = out + (matrix * diagonals + k) * pixels + start;
                for (int64_t j = 0; j < stop - start; j++) to[j] = (REAL)total[k - group][j];
            }
        }
    }
}

/* Gaussians by their widths in pixels, taps divided by their sum; or, if order is 1, their
   derivatives. Every pixel spreads over its neighbours with its own width, as far as `reach`
   widths; transposed, it gathers them instead. */
SPENDER_API SPENDER_CLONES void NAME(spender_gaussian)(
    const REAL *sigma, int64_t matrices, double reach, int order, const REAL *y, int64_t pixels,
    int transposed, REAL *out, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const REAL *width = sigma + row % matrices * pixels;
        const REAL *from = y + row * pixels;
        REAL *to = out + row * pixels;
        memset(to, 0, (size_t)pixels * sizeof(REAL));
        for (int64_t start = 0; start < pixels; start += NARROW) {
            int64_t n = least(NARROW, pixels - start);
            double width_of[NARROW], ratio[NARROW], tap[NARROW], step[NARROW], sum[NARROW];
            double square[NARROW], centre[NARROW], curve[NARROW], widest[LANES] = {0};
            for (int64_t j = 0; j < NARROW; j++) {
                double s = j < n ? (double)width[start + j] : 0;
                s = s < 0 ? -s : s;
                width_of[j] = s < SHARPEST ? SHARPEST : s;
            }
            /* several maxima at a time: compilers do not vectorise one, because of NaN */
            for (int64_t j = 0; j < NARROW; j += LANES)
                for (int64_t i = 0; i < LANES; i++)
                    widest[i] = width_of[j + i] > widest[i] ? width_of[j + i] : widest[i];
            for (int64_t i = 1; i < LANES; i++)
                widest[0] = widest[i] > widest[0] ? widest[i] : widest[0];
            double far = reach * widest[0];
            int64_t radius = far < (double)(LONGEST * pixels) ? (int64_t)far + 1 : LONGEST * pixels;
            for (int64_t j = 0; j < NARROW; j++) {
                tap[j] = falling_exp(-0.5 / (width_of[j] * width_of[j]));
                ratio[j] = tap[j] * tap[j];
                step[j] = ratio[j] * tap[j];
                sum[j] = square[j] = 0;
            }
            for (int64_t k = 1; k <= radius; k++) {
                double kk = (double)k * k;
                for (int64_t j = 0; j < NARROW; j++) {
                    sum[j] += tap[j];
                    square[j] += kk * tap[j];
                    tap[j] *= step[j];
                    step[j] *= ratio[j];
                }
            }
            /* tap k is (centre + curve k^2) exp(-k^2 / (2 sigma^2)) */
            for (int64_t j = 0; j < NARROW; j++) {
                double whole = 1 + 2 * sum[j], mean = 2 * square[j] / whole, s = width_of[j];
                curve[j] = order ? 1 / (s * s * s * whole) : 0;
                centre[j] = order ? -mean * curve[j] : 1 / whole;
                tap[j] = falling_exp(-0.5 / (s * s));
                step[j] = ratio[j] * tap[j];
            }
            for (int64_t j = 0; j < n; j++) to[start + j] += (REAL)(centre[j] * from[start + j]);
            for (int64_t k = 1; k <= radius; k++) {
                double kk = (double)k * k;
                REAL weight[NARROW];
                for (int64_t j = 0; j < NARROW; j++) {
                    weight[j] = (REAL)((centre[j] + kk * curve[j]) * tap[j]);
                    tap[j] *= step[j];
                    step[j] *= ratio[j];
                }
                int64_t a = most(0, k - start), b = least(n, pixels - k - start);
                const REAL *here = from + start;
                REAL *there = to + start;
                if (transposed) {
                    for (int64_t j = 0; j < b; j++) there[j] += weight[j] * here[j + k];
                    for (int64_t j = a; j < n; j++) there[j] += weight[j] * here[j - k];
                } else {
                    for (int64_t j = 0; j < b; j++) there[j + k] += weight[j] * here[j];
                    for (int64_t j = a; j < n; j++) there[j - k] += weight[j] * here[j];
                }
            }
        }
    }
}

#endif
