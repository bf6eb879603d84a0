/* One replay: forward, backward, and the Adam step.
   Read: square -> add_up -> program_forward -> program_backward -> adam_step. */
#include "tape.h"

#include <math.h>
#include <string.h>

/* ---- x**2 and x**0.5 with libm's bits ----

   Python's x**2 is libm's pow(x, 2), which is not always the correctly rounded x*x. glibc promises
   an error of less than 0.54 units in the last place. So where the exact square lies within 0.45
   units of x*x, pow can only return x*x too, at a tenth of the cost; elsewhere pow is called. The
   same for the root. Other libraries promise less: there pow is always called. */

#if defined(__GLIBC__) && (defined(__x86_64__) || defined(__aarch64__))
#define POW_IS_CLOSE (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 28)
#else
#define POW_IS_CLOSE 0
#endif

/* Is y the nearest double to y + error / scale, by a margin? `y` positive. A power of two is refused
   (the doubles below it stand closer), and so are sizes near the ends of the range. */
static inline int is_clear(double y, double error, double scale) {
    union {
        double number;
        uint64_t bits;
    } of_y = {y}, unit; /* unit: from y to the next double */
    unit.bits = (of_y.bits & 0x7ff0000000000000u) - (52ull << 52);
    double limit = 0.45 * unit.number * scale;
    return (of_y.bits & 0x000fffffffffffffu) && y > 1e-140 && y < 1e140 && error < limit
           && -error < limit;
}

/* x*x - y without rounding (Dekker 1971): x in two halves whose products are exact. */
static inline double square_error(double x, double y) {
    double c = 134217729.0 * x, high = c - (c - x), low = x - high;
    return ((high * high - y) + 2.0 * high * low) + low * low;
}

static inline double square_if_clear(double x, double y, double error) {
    if (x == 0.0) return 0.0;
    return POW_IS_CLOSE && is_clear(y, error, 1.0) ? y : pow(x, 2.0);
}

static inline double root_if_clear(double x, double y, double error) { /* error: x - y*y */
    if (x == 0.0) return 0.0;
    return POW_IS_CLOSE && is_clear(y, error, 2.0 * y) ? y : pow(x, 0.5);
}

static double square(double x) { return square_if_clear(x, x * x, square_error(x, x * x)); }

static double power(double x, double k) { return k == 1.0 ? x : k == 2.0 ? square(x) : pow(x, k); }

/* ---- sums of products ---- */

typedef struct {
    const double *x, *y; /* what the pairs point into */
    double *out;
} Arrays;

/* One block of `lanes` sums, interleaved: lanes are independent, each adds up in its own order. */
static inline void add_block(const Pair *pair, const int32_t *outs, int lanes, int32_t length,
                             Arrays a, int resume, double start) {
    double sum[LANES];
    for (int l = 0; l < lanes; l++) sum[l] = resume ? a.out[outs[l]] : start;
    for (int32_t k = 0; k < length; k++, pair += lanes)
        for (int l = 0; l < lanes; l++) sum[l] += a.x[pair[l].x] * a.y[pair[l].y];
    for (int l = 0; l < lanes; l++) a.out[outs[l]] = sum[l];
}

static inline void add_up(const Step *step, const Pair *pairs, const int32_t *outs, Arrays a,
                          int resume, double start) {
    const Pair *pair = pairs + step->start;
    int32_t left = step->count, length = step->length;
    for (outs += step->start_out; left >= LANES; left -= LANES, outs += LANES) {
        add_block(pair, outs, LANES, length, a, resume, start);
        pair += (ptrdiff_t)LANES * length;
    }
    if (left) add_block(pair, outs, left, length, a, resume, start);
}

/* Lists whose lengths change with the picks, one by one; the empty ones were left out. */
static void add_loose(const Program *p, const Step *step, Arrays a, int leaf) {
    for (int32_t i = step->start_out; i < step->start_out + step->length; i++) {
        int32_t g = p->backward_outs[i], out = leaf ? p->rows.left[p->grad_row[g]] : g;
        const Pair *pair = p->backward_pairs + p->pair_at[g];
        double sum = leaf ? a.out[out] : 0.0;
        for (int32_t k = 0; k < p->length[g]; k++) sum += a.x[pair[k].x] * a.y[pair[k].y];
        a.out[out] = sum;
    }
}

/* ---- forward ---- */

static double minus_max(const Program *p, int32_t list) {
    const int32_t *slot = p->list_slots + list + 1;
    double most = p->values[slot[0]];
    for (int32_t k = 1; k < p->rows.lists[list]; k++)
        if (p->values[slot[k]] > most) most = p->values[slot[k]];
    return -most;
}

static void apply(const Program *p, int32_t op, const Item *item, int32_t count) {
    double *v = p->values, k;
    for (; count--; item++) {
        switch (op) {
            case POW:
                k = p->rows.constants[item->extra];
                v[item->slope] = k * power(v[item->in], k - 1.0);
                v[item->out] = power(v[item->in], k);
                break;
            case EXP: v[item->out] = exp(v[item->in]); break;
            case LOG:
                v[item->slope] = 1.0 / v[item->in];
                v[item->out] = log(v[item->in]);
                break;
            case RELU:
                v[item->slope] = v[item->in] > 0.0 ? 1.0 : 0.0;
                v[item->out] = v[item->in] > 0.0 ? v[item->in] : 0.0;
                break;
            case TANH:
                v[item->out] = tanh(v[item->in]);
                v[item->slope] = 1.0 - v[item->out] * v[item->out];
                break;
            case PICK:
                v[item->out] = v[p->list_slots[item->in + 1 + p->choice[item->extra]]];
                break;
            default: v[item->out] = minus_max(p, item->in);
        }
    }
}

/* Compute everything; copy the values of the results out. `choice`: one option for each pick. */
void program_forward(Program *p, const double *parameters, const double *inputs,
                     const int32_t *choice, double *results) {
    const Rows *r = &p->rows;
    Arrays a = {p->values, p->values, p->values};
    memcpy(p->values, parameters, (size_t)r->n_parameters * sizeof(double));
    memcpy(p->values + r->n_parameters, inputs, (size_t)r->n_inputs * sizeof(double));
    memcpy(p->choice, choice, (size_t)r->n_picks * sizeof(int32_t));
    for (const Step *s = p->forward; s < p->forward + p->n_forward; s++) {
        if (s->kind == SUM_FROM_ZERO) add_up(s, p->forward_pairs, p->forward_outs, a, 0, 0.0);
        else if (s->kind == SUM) add_up(s, p->forward_pairs, p->forward_outs, a, 0, -0.0);
        else apply(p, s->kind, p->items + s->start, s->count); /* -0.0 + x is x, -0.0 too */
    }
    for (int32_t k = 0; k < p->n_results; k++) results[k] = p->values[p->slot[p->results[k]]];
}

/* ---- backward ---- */

/* Add seed * d(results[0])/d(parameter) to `gradient`. */
void program_backward(Program *p, double *gradient, double seed) {
    int32_t root = p->results[0];
    if (!p->reach) { /* the result is a leaf or a maximum */
        if (p->rows.op[root] == PARAMETER) gradient[p->rows.left[root]] += seed;
        return;
    }
    if (p->now == 1
        || memcmp(p->choice, p->walked_choice, (size_t)p->rows.n_picks * sizeof(int32_t)))
        walk(p);
    p->grads[p->grad_of[root]] = seed;
    Arrays inner = {p->values, p->grads, p->grads}, leaf = {p->values, p->grads, gradient};
    for (const Step *s = p->backward; s < p->backward + p->n_backward; s++) {
        if (s->kind == GRADS) add_up(s, p->backward_pairs, p->backward_outs, inner, 0, 0.0);
        else if (s->kind == PARAMETERS)
            add_up(s, p->backward_pairs, p->backward_outs, leaf, 1, 0.0);
        else if (s->kind == LOOSE_GRADS) add_loose(p, s, inner, 0);
        else add_loose(p, s, leaf, 1);
    }
}

/* ---- the optimizer ---- */

typedef struct {
    double rate, beta1, beta2, rest1, rest2, share1, share2, epsilon, keep;
} Adam;

#define CHUNK 64

/* CHUNK parameters. Every loop is either free of branches, so that a compiler computes several
   numbers at once, or takes the way of square_if_clear. */
static void adam_chunk(double *restrict parameter, const double *restrict gradient,
                       double *restrict mean, double *restrict size, Adam k) {
    double x[CHUNK], y[CHUNK], error[CHUNK];
    for (int i = 0; i < CHUNK; i++) {
        y[i] = gradient[i] * gradient[i];
        error[i] = square_error(gradient[i], y[i]);
    }
    for (int i = 0; i < CHUNK; i++) y[i] = square_if_clear(gradient[i], y[i], error[i]);
    for (int i = 0; i < CHUNK; i++) {
        mean[i] = k.beta1 * mean[i] + k.rest1 * gradient[i];
        size[i] = k.beta2 * size[i] + k.rest2 * y[i];
        x[i] = size[i] / k.share2;
        y[i] = __builtin_sqrt(x[i]);
        double square_of_y = y[i] * y[i];
        error[i] = (x[i] - square_of_y) - square_error(y[i], square_of_y);
    }
    for (int i = 0; i < CHUNK; i++) y[i] = root_if_clear(x[i], y[i], error[i]);
    for (int i = 0; i < CHUNK; i++) {
        double step = k.rate * (mean[i] / k.share1) / (y[i] + k.epsilon);
        parameter[i] = k.keep * parameter[i] - step;
    }
}

/* optimizer.py's Adam in the same order of operations. rest: 1 - beta; share: 1 - beta**step;
   keep: what weight decay leaves of a parameter, 1 without decay. */
void adam_step(int32_t n, double *parameter, const double *gradient, double *mean, double *size,
               const Adam *k) {
    for (; n >= CHUNK; n -= CHUNK) {
        adam_chunk(parameter, gradient, mean, size, *k);
        parameter += CHUNK, gradient += CHUNK, mean += CHUNK, size += CHUNK;
    }
    double p[CHUNK] = {0}, g[CHUNK] = {0}, m[CHUNK] = {0}, s[CHUNK] = {0};
    size_t bytes = (size_t)n * sizeof(double); /* the rest, padded with zeros */
    memcpy(p, parameter, bytes), memcpy(g, gradient, bytes);
    memcpy(m, mean, bytes), memcpy(s, size, bytes);
    adam_chunk(p, g, m, s, *k);
    memcpy(parameter, p, bytes), memcpy(mean, m, bytes), memcpy(size, s, bytes);
}
