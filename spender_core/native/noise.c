/* Noise for a few pixels of many spectra, in one pass over them. */

#include "portable.h"

/* Add noise to pixels, and its square to their variances: 1 / (1 / ivar + noise^2), also for 0.

   flux, ivar (B, L); valid (B, L), or none; hits (H) in the flattened spectra, in order, with
   noise unit (H) times sigma (B). */
#define ADD_NOISE(NAME, REAL)                                                                  \
    SPENDER_API void NAME(REAL *flux, REAL *ivar, const uint8_t *valid, const int64_t *hits,   \
                          const REAL *unit, const REAL *sigma, int64_t pixels, int64_t count) { \
        int64_t row = 0, end = pixels;                                                         \
        for (int64_t k = 0; k < count; k++) {                                                  \
            const int64_t at = hits[k];                                                        \
            while (at >= end) {                                                                \
                row++;                                                                         \
                end += pixels;                                                                 \
            }                                                                                  \
            if (valid && !valid[at]) continue;                                                 \
            const REAL noise = unit[k] * sigma[row];                                           \
            flux[at] += noise;                                                                 \
            ivar[at] /= ivar[at] * noise * noise + 1;                                          \
        }                                                                                      \
    }

ADD_NOISE(spender_add_noise_f32, float)
ADD_NOISE(spender_add_noise_f64, double)
