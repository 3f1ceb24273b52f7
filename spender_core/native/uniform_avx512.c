/* The kernels of nearly uniform grids with AVX-512, sixteen pixels at a time.

   Neighbouring pixels look into neighbouring cells, so that what sixteen of them need fits into
   two registers, or four, and is picked from there by permutation; memory is gathered only where
   it does not. See resample.h for shapes. */

#include "resample.h"

#if SPENDER_X86

#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define AVX512_INLINE AVX512 static inline __attribute__((always_inline))

int spender_has_avx512(void) {
    static int known = -1;
#ifdef SPENDER_PLAIN
    known = 0;
#endif
    if (known < 0)
        known = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return known;
}

/* What a layout needs, known when a loop is compiled. */
typedef struct {
    int flux, shift, curve;
} traits;

typedef struct {
    __m512i cell;
    __m512 share;
} places;

/* How to read a table at sixteen increasing cells, and at those after them. */
typedef struct {
    int kind; /* 1: two registers from low; 2: two from low, two from high; 0: gather */
    int32_t low, high;
    __m512i cell, at, next;
} window;

AVX512_INLINE int32_t lane0(__m512i v) { return _mm512_cvtsi512_si32(v); }

AVX512_INLINE int32_t lane8(__m512i v) {
    return _mm_cvtsi128_si32(_mm512_extracti32x4_epi32(v, 2));
}

AVX512_INLINE int32_t lane15(__m512i v) {
    return _mm_extract_epi32(_mm512_extracti32x4_epi32(v, 3), 3);
}

/* Look from the cells in begin, up to one after those in end, into tables of some size. */
AVX512_INLINE window look(__m512i begin, __m512i end, int64_t size) {
    window w;
    w.low = lane0(begin);
    w.high = lane8(begin);
    w.cell = begin;
    const int32_t last = lane15(end), middle = _mm_extract_epi32(_mm512_extracti32x4_epi32(end, 1), 3);
    if (last - w.low <= 30 && w.low + 32 <= size) {
        w.kind = 1;
        w.at = _mm512_sub_epi32(begin, _mm512_set1_epi32(w.low));
    } else if (middle - w.low <= 30 && last - w.high <= 30 && w.high + 32 <= size) {
        w.kind = 2;
        __m512i base = _mm512_mask_set1_epi32(_mm512_set1_epi32(w.low), 0xff00, w.high);
        w.at = _mm512_sub_epi32(begin, base);
    } else {
        w.kind = 0;
        w.at = begin;
    }
    w.next = _mm512_add_epi32(w.at, _mm512_set1_epi32(1));
    return w;
}

/* Read two values for each pixel: at positions relative to the window, as in window.at. */
AVX512_INLINE void read2(const window *w, const float *table, __m512i first, __m512i second,
                         __m512 *a, __m512 *b) {
    if (w->kind == 0) {
        *a = _mm512_i32gather_ps(first, table, 4);
        *b = _mm512_i32gather_ps(second, table, 4);
        return;
    }
    __m512 r0 = _mm512_loadu_ps(table + w->low), r1 = _mm512_loadu_ps(table + w->low + 16);
    *a = _mm512_permutex2var_ps(r0, first, r1);
    *b = _mm512_permutex2var_ps(r0, second, r1);
    if (w->kind == 2) {
        __m512 r2 = _mm512_loadu_ps(table + w->high), r3 = _mm512_loadu_ps(table + w->high + 16);
        *a = _mm512_mask_blend_ps(0xff00, *a, _mm512_permutex2var_ps(r2, first, r3));
        *b = _mm512_mask_blend_ps(0xff00, *b, _mm512_permutex2var_ps(r2, second, r3));
    }
}

/* As spender_place, for sixteen points; also says how to read tables at them. */
AVX512_INLINE places place(const spender_job *job, traits is, __m512d scale, __m512d offset,
                           int64_t from, window *w) {
    /* added to it, rounding down, the lowest bits of a double are its floor */
    const __m512d magic = _mm512_set1_pd(6755399441055744.0);
    const __m512i even =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i top = _mm512_set1_epi32((int32_t)job->cells - 1), one = _mm512_set1_epi32(1);
    places p;
    __m512d u0 = _mm512_fmadd_pd(_mm512_loadu_pd(job->point + from), scale, offset);
    __m512d u1 = _mm512_fmadd_pd(_mm512_loadu_pd(job->point + from + 8), scale, offset);
    __m512d t0 = _mm512_add_round_pd(u0, magic, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512d t1 = _mm512_add_round_pd(u1, magic, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m256 s0 = _mm512_cvtpd_ps(_mm512_sub_pd(u0, _mm512_sub_pd(t0, magic)));
    __m256 s1 = _mm512_cvtpd_ps(_mm512_sub_pd(u1, _mm512_sub_pd(t1, magic)));
    __m512i floor = _mm512_permutex2var_epi32(_mm512_castpd_si512(t0), even, _mm512_castpd_si512(t1));
    p.cell = _mm512_max_epi32(_mm512_min_epi32(floor, top), _mm512_setzero_si512());
    p.share = _mm512_insertf32x8(_mm512_castps256_ps512(s0), s1, 1);
    /* rounding may put a point outside of the grid by a whole cell less next to nothing */
    __m512i off = _mm512_sub_epi32(floor, p.cell);
    __mmask16 out = _mm512_test_epi32_mask(off, off);
    if (out) p.share = _mm512_mask_add_ps(p.share, out, p.share, _mm512_cvtepi32_ps(off));
    *w = look(p.cell, p.cell, job->cells);
    if (is.shift) {
        __m512 here, after, inverse, unused;
        read2(w, job->shift, w->at, w->next, &here, &after);
        __mmask16 over = _mm512_cmp_ps_mask(p.share, _mm512_add_ps(after, _mm512_set1_ps(1)),
                                            _CMP_GT_OQ) &
                         _mm512_cmplt_epi32_mask(p.cell, top);
        __mmask16 under = _mm512_cmp_ps_mask(p.share, here, _CMP_LE_OQ) &
                          _mm512_cmpgt_epi32_mask(p.cell, _mm512_setzero_si512());
        if (over | under) { /* a node lies between the point and the cell found by arithmetic */
            p.cell = _mm512_mask_add_epi32(p.cell, over, p.cell, one);
            p.cell = _mm512_mask_sub_epi32(p.cell, under, p.cell, one);
            p.share = _mm512_mask_sub_ps(p.share, over, p.share, _mm512_set1_ps(1));
            p.share = _mm512_mask_add_ps(p.share, under, p.share, _mm512_set1_ps(1));
            *w = look(p.cell, p.cell, job->cells);
            read2(w, job->shift, w->at, w->at, &here, &unused);
        }
        read2(w, job->inverse, w->at, w->at, &inverse, &unused);
        p.share = _mm512_mul_ps(_mm512_sub_ps(p.share, here), inverse);
    }
    if (is.curve) {
        __m512 less = _mm512_sub_ps(p.share, _mm512_set1_ps(1));
        __m512 bend = _mm512_fmadd_ps(less, _mm512_set1_ps(0.5f * job->curve), _mm512_set1_ps(1));
        p.share = _mm512_mul_ps(p.share, bend);
    }
    return p;
}

/* Sixteen pixels: their first cells, the share of what is after them, and both values. */
typedef struct {
    __m512i cell;
    __m512 share, left, right;
    __mmask16 parted; /* flux only: which pixels reach into a second cell */
    int wide;         /* flux only: whether any pixel reaches into a third one */
} pixels;

AVX512_INLINE pixels interpolated(const float *x, const places *p, const window *w) {
    pixels out = {p->cell, p->share, _mm512_setzero_ps(), _mm512_setzero_ps(), 0xffff, 0};
    read2(w, x, w->at, w->next, &out.left, &out.right);
    return out;
}

AVX512_INLINE __m512 widths(const spender_job *job, traits is, const window *w, __m512i at) {
    if (!is.shift) return _mm512_set1_ps(1);
    __m512 inverse, unused;
    read2(w, job->inverse, at, at, &inverse, &unused);
    return _mm512_div_ps(_mm512_set1_ps(1), inverse);
}

/* Pixels between the points in from and those in to. */
AVX512_INLINE pixels averaged(const spender_job *job, traits is, const float *x,
                              const places *from, const places *to) {
    pixels out = {from->cell, _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), 0, 0};
    const __m512i many = _mm512_sub_epi32(to->cell, from->cell);
    out.parted = _mm512_cmpgt_epi32_mask(many, _mm512_setzero_si512());
    out.wide = _mm512_cmpgt_epi32_mask(many, _mm512_set1_epi32(1)) != 0;
    if (out.wide) return out;
    window w = look(from->cell, to->cell, job->rest);
    __m512i end = _mm512_add_epi32(w.at, many);
    read2(&w, x, w.at, end, &out.left, &out.right);
    __m512 before = _mm512_mul_ps(_mm512_sub_ps(_mm512_set1_ps(1), from->share),
                                  widths(job, is, &w, w.at));
    __m512 after = _mm512_mul_ps(_mm512_mul_ps(to->share, _mm512_set1_ps(job->growth)),
                                 widths(job, is, &w, end));
    out.share = _mm512_maskz_div_ps(out.parted, after, _mm512_add_ps(before, after));
    return out;
}

AVX512_INLINE places one_later(const spender_job *job, int64_t row, int64_t from,
                               const places *now, const places *then, int known) {
    places last = *then;
    if (!known) {
        spender_places edge;
        spender_place(job, row, from + 16, 1, &edge);
        last.cell = _mm512_set1_epi32(edge.cell[0]);
        last.share = _mm512_set1_ps(edge.share[0]);
    }
    places out;
    out.cell = _mm512_alignr_epi32(last.cell, now->cell, 1);
    out.share = _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(last.share),
                                                        _mm512_castps_si512(now->share), 1));
    return out;
}

/* Resample the pixels of a row in blocks of sixteen; return the first that is left. */
AVX512_INLINE int64_t forward(const spender_job *job, traits is, int64_t row) {
    const float *x = (const float *)job->x + row * job->rest;
    float *y = (float *)job->y + row * job->observed;
    const __m512d scale = _mm512_set1_pd(job->scale[row]), offset = _mm512_set1_pd(job->offset[row]);
    int64_t i = job->first[row];
    const int64_t last = job->last[row];
    places now, then = {_mm512_setzero_si512(), _mm512_setzero_ps()};
    window w;
    if (is.flux && i + 16 <= last) then = place(job, is, scale, offset, i, &w);
    for (; i + 16 <= last; i += 16) {
        pixels p;
        if (is.flux) {
            const int known = i + 32 <= last;
            now = then;
            if (known) then = place(job, is, scale, offset, i + 16, &w);
            places to = one_later(job, row, i, &now, &then, known);
            p = averaged(job, is, x, &now, &to);
            if (p.wide) {
                spender_forward_block(job, row, i, 16);
                continue;
            }
        } else {
            now = place(job, is, scale, offset, i, &w);
            p = interpolated(x, &now, &w);
        }
        __m512 step = _mm512_sub_ps(p.right, p.left);
        _mm512_storeu_ps(y + i, _mm512_fmadd_ps(p.share, step, p.left));
    }
    return i;
}

/* Sums that are not complete until the next pixels are added: of a cell and of the one after. */
typedef struct {
    int32_t cell;
    __m512 sums; /* lanes 0 and 1 */
} carry;

/* Add values of pixels to their cells, and others to the cells after them.

   Pixels of one cell are neighbours: they are added up within the register. What is stored is
   never read again soon, since a processor waits long for what it has just written in other
   pieces. */
AVX512_INLINE void scatter(float *grad_x, int64_t rest, __m512i cell, __m512 own, __m512 next,
                           carry *held) {
    const __m512i none = _mm512_set1_epi32(-1);
    const __m512i ascending =
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const int32_t low = lane0(cell), high = lane15(cell);
    const __m512i before = _mm512_alignr_epi32(cell, none, 15);
    const __mmask16 heads = _mm512_cmpneq_epi32_mask(cell, before);
    const int count = __builtin_popcount(heads);
    if (high - low + 1 != count || low < held->cell || low > held->cell + 1) {
        float left[16], right[16];
        int32_t at[16];
        _mm512_storeu_ps(left, own);
        _mm512_storeu_ps(right, next);
        _mm512_storeu_si512(at, cell);
        for (int k = 0; k < 16; k++) {
            grad_x[at[k]] += left[k];
            if (at[k] + 1 < rest) grad_x[at[k] + 1] += right[k];
        }
        held->cell = high;
        held->sums = _mm512_maskz_loadu_ps((__mmask16)(high + 1 < rest ? 3 : 1), grad_x + high);
        return;
    }
    for (int reach = 1; count < 16 && reach < 16; reach *= 2) {
        __m512i beyond, own_beyond, next_beyond;
#define SHIFT(r)                                                                        \
    beyond = _mm512_alignr_epi32(none, cell, r);                                        \
    own_beyond = _mm512_alignr_epi32(none, _mm512_castps_si512(own), r);                \
    next_beyond = _mm512_alignr_epi32(none, _mm512_castps_si512(next), r)
        if (reach == 1) { SHIFT(1); }
        else if (reach == 2) { SHIFT(2); }
        else if (reach == 4) { SHIFT(4); }
        else { SHIFT(8); }
#undef SHIFT
        __mmask16 same = _mm512_cmpeq_epi32_mask(cell, beyond);
        if (!same) break;
        own = _mm512_mask_add_ps(own, same, own, _mm512_castsi512_ps(own_beyond));
        next = _mm512_mask_add_ps(next, same, next, _mm512_castsi512_ps(next_beyond));
    }
    own = _mm512_maskz_compress_ps(heads, own);
    next = _mm512_maskz_compress_ps(heads, next);
    /* values of cell low + k in lane k: its own, and those of the pixels in the cell before */
    __m512i shifted = _mm512_alignr_epi32(_mm512_castps_si512(next), _mm512_setzero_si512(), 15);
    __m512 sums = _mm512_add_ps(own, _mm512_castsi512_ps(shifted));
    __m512 kept = low == held->cell ? held->sums
                                    : _mm512_castsi512_ps(_mm512_alignr_epi32(
                                          _mm512_setzero_si512(),
                                          _mm512_castps_si512(held->sums), 1));
    sums = _mm512_add_ps(sums, kept);
    _mm512_mask_storeu_ps(grad_x + low, (__mmask16)((1u << count) - 1), sums);
    /* lanes count - 1 and count become lanes 0 and 1 of what is held */
    const __m512i lanes = _mm512_add_epi32(_mm512_set1_epi32(count - 1), ascending);
    held->cell = high;
    held->sums = _mm512_maskz_permutex2var_ps(3, sums, lanes, _mm512_castsi512_ps(
                     _mm512_alignr_epi32(_mm512_setzero_si512(), _mm512_castps_si512(next), 15)));
    _mm512_mask_storeu_ps(grad_x + high, (__mmask16)(high + 1 < rest ? 3 : 1), held->sums);
}

/* Add up what sixteen pixels contribute to the gradient of z. */
AVX512_INLINE void add_slope(const spender_job *job, traits is, int64_t i, const pixels *p,
                             __m512 grad, __m512d *sum) {
    __m512 step = _mm512_sub_ps(p->right, p->left);
    if (is.flux) {
        __m512 lever = _mm512_sub_ps(_mm512_loadu_ps(job->lever + i), p->share);
        step = _mm512_mul_ps(step, _mm512_maskz_mov_ps(p->parted, lever));
    } else if (is.shift) {
        step = _mm512_mul_ps(step, _mm512_i32gather_ps(p->cell, job->inverse, 4));
    }
    step = _mm512_mul_ps(step, grad);
    if (!is.flux && is.curve) {
        __m512 off = _mm512_sub_ps(p->share, _mm512_set1_ps(0.5f));
        step = _mm512_mul_ps(step, _mm512_fmadd_ps(off, _mm512_set1_ps(job->curve), _mm512_set1_ps(1)));
    }
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(step));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(step, 1));
    if (!is.flux && !is.curve) {
        *sum = _mm512_fmadd_pd(low, _mm512_loadu_pd(job->point + i), *sum);
        *sum = _mm512_fmadd_pd(high, _mm512_loadu_pd(job->point + i + 8), *sum);
    } else {
        *sum = _mm512_add_pd(*sum, _mm512_add_pd(low, high));
    }
}

/* The adjoint of forward, and its derivative by z; returns the first pixel that is left. */
AVX512_INLINE int64_t backward(const spender_job *job, traits is, int64_t row, double *slope) {
    const float *x = (const float *)job->x + row * job->rest;
    const float *grad_y = (const float *)job->grad_y + row * job->observed;
    float *grad_x = job->grad_x ? (float *)job->grad_x + row * job->rest : 0;
    const __m512d scale = _mm512_set1_pd(job->scale[row]), offset = _mm512_set1_pd(job->offset[row]);
    __m512d sum = _mm512_setzero_pd();
    carry held = {-2, _mm512_setzero_ps()};
    int64_t i = job->first[row];
    const int64_t last = job->last[row];
    places now, then = {_mm512_setzero_si512(), _mm512_setzero_ps()};
    window w;
    if (is.flux && i + 16 <= last) then = place(job, is, scale, offset, i, &w);
    for (; i + 16 <= last; i += 16) {
        __m512 grad = _mm512_loadu_ps(grad_y + i);
        pixels p;
        if (is.flux) {
            const int known = i + 32 <= last;
            now = then;
            if (known) then = place(job, is, scale, offset, i + 16, &w);
            places to = one_later(job, row, i, &now, &then, known);
            p = averaged(job, is, x, &now, &to);
            if (p.wide) {
                spender_backward_block(job, row, i, 16, slope);
                held.cell = -2;
                continue;
            }
        } else {
            now = place(job, is, scale, offset, i, &w);
            p = interpolated(x, &now, &w);
        }
        if (grad_x) {
            __m512 next = _mm512_mul_ps(p.share, grad);
            scatter(grad_x, job->rest, p.cell, _mm512_sub_ps(grad, next), next, &held);
        }
        if (job->grad_z) add_slope(job, is, i, &p, grad, &sum);
    }
    *slope += _mm512_reduce_add_pd(sum);
    return i;
}

/* One loop for each kind of layout. */
#define CHOOSE(call)                                                       \
    switch ((job->flux != 0) * 4 + (job->shift != 0) * 2 + (job->curve != 0.0f)) { \
    case 0: { const traits is = {0, 0, 0}; return call; }                  \
    case 1: { const traits is = {0, 0, 1}; return call; }                  \
    case 2: { const traits is = {0, 1, 0}; return call; }                  \
    case 3: { const traits is = {0, 1, 1}; return call; }                  \
    case 4: { const traits is = {1, 0, 0}; return call; }                  \
    case 5: { const traits is = {1, 0, 1}; return call; }                  \
    case 6: { const traits is = {1, 1, 0}; return call; }                  \
    default: { const traits is = {1, 1, 1}; return call; }                 \
    }

AVX512 int64_t spender_forward_avx512(const spender_job *job, int64_t row) {
    CHOOSE(forward(job, is, row))
}

AVX512 int64_t spender_backward_avx512(const spender_job *job, int64_t row, double *slope) {
    CHOOSE(backward(job, is, row, slope))
}

#endif
