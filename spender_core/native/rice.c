/* Compressed tiles of whole numbers, by the coding of Rice: Pence, White & Seaman 2010, PASP 122, 1065;
   section 10.4.1 of the FITS standard 4.0.

   A tile begins with its first pixel. Each block of pixels begins with a code of its own: 0 for
   pixels like the last one; the largest for differences as they are; else each difference is a
   number of 0s, a 1, and code - 1 bits. Nothing is read beyond the end of a tile. */

#include "portable.h"

typedef struct {
    const uint8_t *next, *end;
    uint64_t bits; /* those to come, from the highest on; 0 behind them */
    int held;      /* how many of them are of the tile */
} reader;

static inline void refill(reader *in) {
    while (in->held <= 56 && in->next < in->end) {
        in->bits |= (uint64_t)*in->next++ << (56 - in->held);
        in->held += 8;
    }
}

/* Return some bits, 1 to 32 of them. Where the tile has ended, held becomes negative. */
static inline uint32_t take(reader *in, int count) {
    refill(in);
    uint32_t value = (uint32_t)(in->bits >> (64 - count));
    in->bits <<= count;
    in->held -= count;
    return value;
}

/* Return the number of 0s before the next 1, which is taken too; -1 if there is none. */
static inline int64_t zeros(reader *in) {
    int64_t count = 0;
    refill(in);
    while (in->bits == 0) {
        if (in->held <= 0 || in->next == in->end) return -1;
        count += in->held;
        in->held = 0;
        refill(in);
    }
    const int some = __builtin_clzll(in->bits);
    in->bits <<= some;
    in->bits <<= 1;
    in->held -= some + 1;
    return in->held < 0 ? -1 : count + some;
}

/* Decode tiles [first, last), each of some pixels of type REAL, a whole number without a sign. With a
   ZERO, out is 1 where a pixel is not zero, else 0. bad is 1 for tiles that do not hold their
   pixels. */
#define DECODE(NAME, TYPE, OUT, STORE, FILL, WIDTH, PLAIN)                                          \
    static int NAME##_tile(reader *in, OUT *out, int64_t pixels, int block, TYPE zero) {            \
        const int size = 8 * (int)sizeof(TYPE);                                                     \
        (void)zero;                                                                                 \
        TYPE pixel = (TYPE)take(in, size);                                                          \
        if (in->held < 0) return 1;                                                                 \
        for (int64_t from = 0; from < pixels; from += block) {                                      \
            const int64_t to = from + block < pixels ? from + block : pixels;                       \
            const int code = (int)take(in, WIDTH) - 1;                                              \
            if (in->held < 0) return 1;                                                             \
            if (code < 0) {                                                                         \
                FILL;                                                                               \
            } else if (code > PLAIN) {                                                              \
                return 1;                                                                           \
            } else if (code == PLAIN) {                                                             \
                for (int64_t k = from; k < to; k++) {                                               \
                    const TYPE step = (TYPE)take(in, size);                                         \
                    pixel = (TYPE)(pixel + (TYPE)((step >> 1) ^ (TYPE)(0 - (step & 1))));           \
                    STORE;                                                                          \
                }                                                                                   \
            } else {                                                                                \
                for (int64_t k = from; k < to; k++) {                                               \
                    const int64_t high = zeros(in);                                                 \
                    if (high < 0) return 1;                                                         \
                    const uint32_t low = code ? take(in, code) : 0;                                 \
                    const TYPE step = (TYPE)(((uint32_t)high << code) | low);                       \
                    pixel = (TYPE)(pixel + (TYPE)((step >> 1) ^ (TYPE)(0 - (step & 1))));           \
                    STORE;                                                                          \
                }                                                                                   \
            }                                                                                       \
            if (in->held < 0) return 1;                                                             \
        }                                                                                           \
        return 0;                                                                                   \
    }                                                                                               \
    SPENDER_API void NAME(const uint8_t *content, const int64_t *place, const int64_t *length,      \
                          int64_t pixels, int block, uint32_t zero, OUT *out, uint8_t *bad,         \
                          int64_t first, int64_t last) {                                            \
        for (int64_t tile = first; tile < last; tile++) {                                           \
            const uint8_t *from = content + place[tile];                                            \
            reader in = {from, from + length[tile], 0, 0};                                          \
            bad[tile] = (uint8_t)NAME##_tile(&in, out + tile * pixels, pixels, block, (TYPE)zero);  \
        }                                                                                           \
    }

#define KEEP out[k] = pixel
#define FILL_KEEP for (int64_t k = from; k < to; k++) KEEP
#define TELL out[k] = pixel != zero
#define FILL_TELL memset(out + from, pixel != zero, (size_t)(to - from))

DECODE(spender_rice_8, uint8_t, uint8_t, KEEP, FILL_KEEP, 3, 6)
DECODE(spender_rice_16, uint16_t, uint16_t, KEEP, FILL_KEEP, 4, 14)
DECODE(spender_rice_32, uint32_t, uint32_t, KEEP, FILL_KEEP, 5, 25)
DECODE(spender_rice_mask_8, uint8_t, uint8_t, TELL, FILL_TELL, 3, 6)
DECODE(spender_rice_mask_16, uint16_t, uint8_t, TELL, FILL_TELL, 4, 14)
DECODE(spender_rice_mask_32, uint32_t, uint8_t, TELL, FILL_TELL, 5, 25)
