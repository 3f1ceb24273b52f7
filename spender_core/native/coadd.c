/* Spectra of several cameras, as files hold them, joined to one. */

#include <float.h>

#include "portable.h"

/* One camera: flux and ivar (rows, pixels), a byte for each pixel that is not 0 where masked, and
   the first pixel of the joined spectrum that it sees. */
typedef struct {
    const uint8_t *flux, *ivar, *mask;
    int64_t start, pixels;
} spender_camera;

/* A stretch of the joined spectrum that two cameras see. */
typedef struct {
    int64_t one, other, first, last;
} spender_overlap;

static inline float real(const uint8_t *at, int swap) {
    uint32_t bits;
    float value;
    memcpy(&bits, at, 4);
    if (swap) bits = bits >> 24 | (bits >> 8 & 0xff00) | (bits << 8 & 0xff0000) | bits << 24;
    memcpy(&value, &bits, 4);
    return value;
}

static inline int finite_f32(float value) { return value >= -FLT_MAX && value <= FLT_MAX; }

/* Whether a pixel is held for good, but its values cannot be. */
static inline int lost_pixel(float flux, float ivar, int masked) {
    const int sound = finite_f32(flux) & finite_f32(ivar) & (ivar > 0);
    return !masked & (ivar != 0) & !sound;
}

static inline __attribute__((always_inline)) int64_t copy_row(
    const uint8_t *restrict flux, const uint8_t *restrict ivar, const uint8_t *restrict mask,
    int64_t pixels, float least, int swap, float *restrict out_flux, float *restrict out_ivar) {
    int32_t broken = 0;
    for (int64_t k = 0; k < pixels; k++) {
        const float f = real(flux + 4 * k, swap), v = real(ivar + 4 * k, swap);
        const int masked = mask[k] != 0, lost = lost_pixel(f, v, masked);
        const int shown = finite_f32(f) & !lost;
        out_flux[k] = shown ? f : 0;
        out_ivar[k] = shown & !masked & (v > least) ? v : 0;
        broken += lost;
    }
    return broken;
}

static inline __attribute__((always_inline)) int64_t mean_row(
    const spender_camera *a, const spender_camera *b, const spender_overlap *over, int64_t row,
    double least, int swap, float *restrict out_flux, float *restrict out_ivar) {
    const int64_t from_a = row * a->pixels - a->start, from_b = row * b->pixels - b->start;
    int32_t broken = 0;
    for (int64_t k = over->first; k < over->last; k++) {
        const int64_t i = from_a + k, j = from_b + k;
        const float fa = real(a->flux + 4 * i, swap), fb = real(b->flux + 4 * j, swap);
        const float va = real(a->ivar + 4 * i, swap), vb = real(b->ivar + 4 * j, swap);
        const double wa = a->mask[i] ? 0 : va, wb = b->mask[j] ? 0 : vb, sum = wa + wb;
        const double light = (wa > 0 ? wa * fa : 0) + (wb > 0 ? wb * fb : 0);
        const int lost = lost_pixel(fa, va, a->mask[i] != 0) | lost_pixel(fb, vb, b->mask[j] != 0);
        const float f = sum > 0 ? (float)(light / sum) : 0, v = (float)sum;
        const int shown = finite_f32(f) & !lost;
        out_flux[k] = shown ? f : 0;
        out_ivar[k] = shown & (sum > least) & finite_f32(v) ? v : 0;
        broken += lost;
    }
    return broken;
}

/* Write flux and ivar (rows, pixels) where a camera sees them; mark rows with lost pixels.

   least: no pixel with less inverse variance is good; least_f32 is it, rounded down. swap: the
   cameras' numbers are in the other order of bytes. */
#define JOIN(SWAP)                                                                              \
    for (int64_t row = first; row < last; row++) {                                              \
        float *const f = flux + row * pixels, *const v = ivar + row * pixels;                   \
        int64_t lost = 0;                                                                       \
        for (int64_t c = 0; c < cameras; c++) {                                                 \
            const spender_camera *const it = camera + c;                                        \
            const int64_t at = row * it->pixels;                                                \
            lost += copy_row(it->flux + 4 * at, it->ivar + 4 * at, it->mask + at, it->pixels,   \
                             least_f32, SWAP, f + it->start, v + it->start);                    \
        }                                                                                       \
        for (int64_t k = 0; k < overlaps; k++) {                                                \
            const spender_overlap *const it = overlap + k;                                      \
            lost += mean_row(camera + it->one, camera + it->other, it, row, least, SWAP, f, v); \
        }                                                                                       \
        broken[row] = lost > 0;                                                                 \
    }

SPENDER_API SPENDER_CLONES void spender_join_cameras(
    const spender_camera *camera, int64_t cameras, const spender_overlap *overlap,
    int64_t overlaps, int64_t pixels, double least, float least_f32, int32_t swap, float *flux,
    float *ivar, uint8_t *broken, int64_t first, int64_t last) {
    if (swap) {
        JOIN(1)
    } else {
        JOIN(0)
    }
}
