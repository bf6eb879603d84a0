/* Vectors of the processor's width, and e^x: what engine_kernel.c and engine_choice.c share.

   Read: Vector -> sum_of -> dot -> exponential. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float Eight __attribute__((vector_size(32)));

INLINE Vector load(const float *from) { return *(const Vector *)from; }

INLINE float sum_of(Vector v) {
#if LANES == 16
    Eight s = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7)
              + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    Eight s = v;
#endif
    s += __builtin_shufflevector(s, s, 4, 5, 6, 7, 0, 1, 2, 3);
    s += __builtin_shufflevector(s, s, 2, 3, 0, 1, 6, 7, 4, 5);
    return s[0] + s[1];
}

INLINE float dot(const float *x, const float *y, int count) {
    Vector sum = {0};
    int i = 0;
    for (; i + LANES <= count; i += LANES) sum += load(x + i) * load(y + i);
    float rest = 0;
    for (; i < count; i++) rest += x[i] * y[i];
    return sum_of(sum) + rest;
}

/* e^x = 2^n e^r with |r| <= ln(2) / 2, and e^r by eight terms of its series. NaN stays NaN. */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float whole = x * 1.44269504f + (x < 0 ? -0.5f : 0.5f);
    int32_t n = (int32_t)(whole == whole ? whole : 0); /* NaN has no whole part */
    float r = (x - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f; /* ln 2 in two parts */
    float tail = 1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f + r * (1 / 5040.0f)));
    float series = 1 + r * (1 + r * (1 / 2.0f + r * (1 / 6.0f + r * tail)));
    union {
        int32_t bits;
        float number;
    } power = {(n + 127) << 23};
    return series * power.number;
}

INLINE float sigmoid(float x) { return 1 / (1 + exponential(-x)); }
