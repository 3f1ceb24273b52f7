/* Amplitudes of spectra, and division by them. */

#include <float.h>
#include <math.h>

#include "portable.h"

/* Return the first pixel whose restframe wavelength is beyond a limit, or reaches it.

   The quotient grows with the pixel, so that what the comparison says changes once. */
static int64_t pixel_beyond(const double *wave, int64_t pixels, double stretch, double limit,
                            int reaches) {
    int64_t low = 0, high = pixels;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const double rest = wave[middle] / stretch;
        if (reaches ? rest >= limit : rest > limit)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Medians: the lower of two, as torch has it, of the pixels with ivar > 0 whose restframe
   wavelength is between two limits; NaN where there is none.

   flux, ivar (B, L); keep (L), 1, or 0 where a pixel is never used; z (B), NaN where unknown;
   room (B, L) is written to. */
#define MEDIANS(NAME, REAL)                                                                      \
    static REAL NAME##_select(REAL *v, int64_t count, int64_t k) {                               \
        int64_t low = 0, high = count - 1;                                                       \
        while (low < high) {                                                                     \
            const REAL a = v[low], b = v[low + (high - low) / 2], c = v[high];                   \
            const REAL pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b); \
            int64_t i = low, j = high;                                                           \
            while (i <= j) {                                                                     \
                while (v[i] < pivot) i++;                                                        \
                while (v[j] > pivot) j--;                                                        \
                if (i <= j) {                                                                    \
                    const REAL kept = v[i];                                                      \
                    v[i++] = v[j];                                                               \
                    v[j--] = kept;                                                               \
                }                                                                                \
            }                                                                                    \
            if (k <= j)                                                                          \
                high = j;                                                                        \
            else if (k >= i)                                                                     \
                low = i;                                                                         \
            else                                                                                 \
                break;                                                                           \
        }                                                                                        \
        return v[k];                                                                             \
    }                                                                                            \
    SPENDER_API void NAME(const REAL *flux, const REAL *ivar, const uint8_t *keep,               \
                          const double *wave, const double *z, double low, double high,          \
                          REAL *room, REAL *median, int64_t pixels, int64_t first,               \
                          int64_t last) {                                                        \
        for (int64_t row = first; row < last; row++) {                                           \
            const REAL *const f = flux + row * pixels, *const v = ivar + row * pixels;           \
            const double stretch = 1 + z[row];                                                   \
            REAL *const found = room + row * pixels;                                             \
            int64_t count = 0;                                                                   \
            median[row] = (REAL)NAN;                                                             \
            if (!(stretch > 0)) continue;                                                        \
            const int64_t end = pixel_beyond(wave, pixels, stretch, high, 1);                    \
            for (int64_t k = pixel_beyond(wave, pixels, stretch, low, 0); k < end; k++) {        \
                found[count] = f[k];                                                             \
                count += (v[k] > 0) & (f[k] == f[k]) & keep[k];                       \
            }                                                                                    \
            if (count) median[row] = NAME##_select(found, count, (count - 1) / 2);               \
        }                                                                                        \
    }

MEDIANS(spender_medians_f32, float)
MEDIANS(spender_medians_f64, double)

/* Divide spectra by their amplitude. What is not finite then becomes a masked pixel.

   tally (B, 3): pixels with ivar > 0, of those that are kept, before and after; and how many
   were not finite. */
#define SCALE(NAME, REAL, MOST)                                                              \
    SPENDER_API SPENDER_CLONES void NAME(                                                    \
        const REAL *flux, const REAL *ivar, const uint8_t *keep, const REAL *norm,           \
        REAL *out_flux, REAL *out_ivar, int64_t *tally, int64_t pixels, int64_t first,       \
        int64_t last) {                                                                      \
        for (int64_t row = first; row < last; row++) {                                       \
            const REAL *restrict f = flux + row * pixels, *restrict v = ivar + row * pixels; \
            REAL *restrict to_f = out_flux + row * pixels;                                   \
            REAL *restrict to_v = out_ivar + row * pixels;                                   \
            const REAL scale = norm[row], square = scale * scale;                            \
            int32_t before = 0, after = 0, over = 0;                                         \
            for (int64_t k = 0; k < pixels; k++) {                                           \
                const REAL kept = keep[k] ? v[k] : 0;                               \
                const REAL y = f[k] / scale, w = kept * square;                              \
                const int sound = (y >= -MOST) & (y <= MOST) & (w >= -MOST) & (w <= MOST);   \
                to_f[k] = sound ? y : 0;                                                     \
                to_v[k] = sound ? w : 0;                                                     \
                before += kept > 0;                                                          \
                after += sound & (w > 0);                                                    \
                over += !sound;                                                              \
            }                                                                                \
            tally[3 * row] = before;                                                         \
            tally[3 * row + 1] = after;                                                      \
            tally[3 * row + 2] = over;                                                       \
        }                                                                                    \
    }

SCALE(spender_scale_f32, float, FLT_MAX)
SCALE(spender_scale_f64, double, DBL_MAX)
