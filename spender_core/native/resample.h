/* Resampling: what the kernels are given, and how an observed point is placed.

   Shapes: B spectra, R restframe pixels, L observed pixels. There are C cells between nodes:
   R - 1 between the centres of restframe pixels where values are interpolated, R between their
   edges where flux is conserved. There are P points: L centres, or L + 1 edges. */

#ifndef SPENDER_RESAMPLE_H
#define SPENDER_RESAMPLE_H

#include "portable.h"

typedef struct {
    const void *x;         /* (B, R) restframe spectra */
    const double *point;   /* (P) observed points; in cells, of a redshifted grid, or Angstrom */
    const double *node;    /* (C + 1) nodes in Angstrom; walk only */
    const float *shift;    /* (C + 1) distance of a node from its place, cells; or none */
    const float *inverse;  /* (C) one over the width of a cell, in cells; with shift only */
    const float *lever;    /* (L) upper edge over the width of a pixel; flux only */
    const double *scale;   /* (B) coordinate = point * scale + offset */
    const double *offset;  /* (B) uniform only */
    const int32_t *first;  /* (B) pixels [first, last) are reached */
    const int32_t *last;   /* (B) */
    const double *slope;   /* (B) factor of the gradient of z */
    void *y;               /* (B, L) */
    uint8_t *valid;        /* (B, L) */
    const void *grad_y;    /* (B, L) */
    void *grad_x;          /* (B, R), or none */
    double *grad_z;        /* (B), or none */
    int64_t rest, cells, observed;
    float curve;           /* step of a logarithmic grid in ln(wavelength), or 0 */
    float growth;          /* exp(curve): each cell is wider than the one before by that */
    int32_t flux;          /* whether flux is conserved */
} spender_job;

enum { BLOCK = 64 };

/* Where points lie: the cell, and the share of it to their left. */
typedef struct {
    int32_t cell[BLOCK + 1];
    float share[BLOCK + 1];
} spender_places;

static inline float spender_width(const spender_job *job, int32_t cell) {
    return job->shift ? 1.0f / job->inverse[cell] : 1.0f;
}

/* Place count points from one on, of a grid of which the nodes are nearly where arithmetic puts
   them. Truncation is the floor, since no point lies more than rounding below the first node. */
static inline void spender_place(const spender_job *job, int64_t row, int64_t from, int count,
                                 spender_places *out) {
    const double scale = job->scale[row], offset = job->offset[row];
    const double *point = job->point + from;
    const int32_t top = (int32_t)job->cells - 1;
    for (int k = 0; k < count; k++) {
        double u = point[k] * scale + offset;
        int32_t cell = (int32_t)u;
        cell = cell > top ? top : cell < 0 ? 0 : cell;
        out->cell[k] = cell;
        out->share[k] = (float)(u - cell);
    }
    if (job->shift)
        for (int k = 0; k < count; k++) {
            int32_t cell = out->cell[k];
            float part = out->share[k];
            int32_t move = (part > 1.0f + job->shift[cell + 1] && cell < top) -
                           (part <= job->shift[cell] && cell > 0);
            cell += move;
            out->cell[k] = cell;
            out->share[k] = (part - (float)move - job->shift[cell]) * job->inverse[cell];
        }
    if (job->curve != 0.0f) /* linear in wavelength between nodes that are uniform in its log */
        for (int k = 0; k < count; k++)
            out->share[k] *= 1.0f + (out->share[k] - 1.0f) * 0.5f * job->curve;
}

void spender_forward_block(const spender_job *job, int64_t row, int64_t from, int count);
void spender_backward_block(const spender_job *job, int64_t row, int64_t from, int count,
                            double *slope);
#if SPENDER_X86
int spender_has_avx512(void);
int64_t spender_forward_avx512(const spender_job *job, int64_t row);
int64_t spender_backward_avx512(const spender_job *job, int64_t row, double *slope);
#endif

#endif
