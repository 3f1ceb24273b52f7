/* Redshift and resample spectra: on nearly uniform grids by arithmetic, on others by walking along
   both grids, which increase. See resample.h for shapes. */

#include "resample.h"

/* Of what the library was compiled. */
SPENDER_API const char *spender_sources(void) { return SPENDER_SOURCES; }

/* ---- float32 on nearly uniform grids ---- */

/* Not cloned for AVX2: with it GCC 12 reads tables by gather instructions, and the whole then took
   28 ms instead of 5 (256 DESI spectra, a Xeon of model 207, -march=x86-64-v3). */

/* The masses of the cells that a pixel covers, for n = last - first of its cells. */
static inline float mass_first(const spender_job *job, const spender_places *at, int k) {
    return (1.0f - at->share[k]) * spender_width(job, at->cell[k]);
}

static float mean_of_cells(const spender_job *job, const float *x, const spender_places *at, int k) {
    int32_t cell = at->cell[k], end = at->cell[k + 1];
    if (cell == end) return x[cell];
    float mass = mass_first(job, at, k), total = mass, growth = 1.0f;
    float sum = mass * x[cell];
    for (int32_t j = cell + 1; j <= end; j++) {
        growth *= job->growth;
        mass = growth * spender_width(job, j) * (j == end ? at->share[k + 1] : 1.0f);
        sum += mass * x[j];
        total += mass;
    }
    return sum / total;
}

void spender_forward_block(const spender_job *job, int64_t row, int64_t from, int count) {
    const float *x = (const float *)job->x + row * job->rest;
    float *y = (float *)job->y + row * job->observed + from;
    spender_places at;
    spender_place(job, row, from, count + job->flux, &at);
    if (job->flux) {
        for (int k = 0; k < count; k++) y[k] = mean_of_cells(job, x, &at, k);
        return;
    }
    for (int k = 0; k < count; k++) {
        const float *left = x + at.cell[k];
        y[k] = left[0] + at.share[k] * (left[1] - left[0]);
    }
}

static void scatter_mean(const spender_job *job, float *grad_x, float grad,
                         const spender_places *at, int k) {
    int32_t cell = at->cell[k], end = at->cell[k + 1];
    if (cell == end) {
        grad_x[cell] += grad;
        return;
    }
    float total = mass_first(job, at, k), growth = 1.0f;
    for (int32_t j = cell + 1; j <= end; j++) {
        growth *= job->growth;
        total += growth * spender_width(job, j) * (j == end ? at->share[k + 1] : 1.0f);
    }
    float unit = grad / total;
    grad_x[cell] += unit * mass_first(job, at, k);
    growth = 1.0f;
    for (int32_t j = cell + 1; j <= end; j++) {
        growth *= job->growth;
        grad_x[j] += unit * growth * spender_width(job, j) * (j == end ? at->share[k + 1] : 1.0f);
    }
}

void spender_backward_block(const spender_job *job, int64_t row, int64_t from, int count,
                            double *slope) {
    const float *x = (const float *)job->x + row * job->rest;
    const float *grad_y = (const float *)job->grad_y + row * job->observed + from;
    float *grad_x = job->grad_x ? (float *)job->grad_x + row * job->rest : 0;
    spender_places at;
    spender_place(job, row, from, count + job->flux, &at);
    if (job->flux) {
        for (int k = 0; k < count; k++) {
            if (grad_x) scatter_mean(job, grad_x, grad_y[k], &at, k);
            if (!job->grad_z) continue;
            float x0 = x[at.cell[k]], x1 = x[at.cell[k + 1]];
            float less = x0 - mean_of_cells(job, x, &at, k);
            *slope += (double)grad_y[k] * ((double)(x1 - x0) * job->lever[from + k] + less);
        }
        return;
    }
    if (grad_x)
        for (int k = 0; k < count; k++) {
            float *left = grad_x + at.cell[k];
            float right = at.share[k] * grad_y[k];
            left[0] += grad_y[k] - right;
            left[1] += right;
        }
    if (job->grad_z)
        for (int k = 0; k < count; k++) {
            const float *left = x + at.cell[k];
            float step = grad_y[k] * (left[1] - left[0]);
            if (job->shift) step *= job->inverse[at.cell[k]];
            *slope += job->curve != 0.0f
                          ? (double)(step * (1.0f + (at.share[k] - 0.5f) * job->curve))
                          : (double)step * job->point[from + k];
        }
}

static void clear(const spender_job *job, int64_t row, int64_t size) {
    char *y = (char *)job->y + row * job->observed * size;
    uint8_t *valid = job->valid + row * job->observed;
    int64_t first = job->first[row], last = job->last[row];
    memset(y, 0, (size_t)(first * size));
    memset(y + last * size, 0, (size_t)((job->observed - last) * size));
    memset(valid, 0, (size_t)first);
    memset(valid + first, 1, (size_t)(last - first));
    memset(valid + last, 0, (size_t)(job->observed - last));
}

static void forward_rest(const spender_job *job, int64_t row, int64_t from) {
    for (int64_t i = from; i < job->last[row]; i += BLOCK) {
        int64_t left = job->last[row] - i;
        spender_forward_block(job, row, i, left < BLOCK ? (int)left : BLOCK);
    }
}

static void backward_rest(const spender_job *job, int64_t row, int64_t from, double *slope) {
    for (int64_t i = from; i < job->last[row]; i += BLOCK) {
        int64_t left = job->last[row] - i;
        spender_backward_block(job, row, i, left < BLOCK ? (int)left : BLOCK, slope);
    }
}

SPENDER_API void spender_uniform_forward(const spender_job *job, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        clear(job, row, sizeof(float));
        int64_t from = job->first[row];
#if SPENDER_X86
        if (spender_has_avx512()) from = spender_forward_avx512(job, row);
#endif
        forward_rest(job, row, from);
    }
}

SPENDER_API void spender_uniform_backward(const spender_job *job, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        double slope = 0;
        int64_t from = job->first[row];
        if (job->grad_x)
            memset((float *)job->grad_x + row * job->rest, 0, (size_t)job->rest * sizeof(float));
#if SPENDER_X86
        if (spender_has_avx512()) from = spender_backward_avx512(job, row, &slope);
#endif
        backward_rest(job, row, from, &slope);
        if (job->grad_z) job->grad_z[row] = slope * job->slope[row];
    }
}

/* ---- any grid, float32 and float64 ---- */

#define REAL float
#define NAMED(name) name##_f32
#include "walk.h"
#undef REAL
#undef NAMED
#define REAL double
#define NAMED(name) name##_f64
#include "walk.h"
