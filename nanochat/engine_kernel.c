/* One more token for several conversations: gpt.py's mathematics, written for few rows.

   A step multiplies 16 or fewer rows by every matrix and reads all cached keys and values once. In
   PyTorch half of its time goes into calls and into copies; here the rows are dealt out to threads,
   and each takes its own through the whole model, so threads meet only at the end. A row is
   computed in the same order of operations whoever stands beside it: its scores have the same bits
   in any batch. Compiled and called by engine_kernel.py, compared with gpt.py by tests.

   Read: Model -> product -> attend -> layer -> forward (one block of rows) -> decode_step -> Team.
   C channels, H query heads, G key/value heads, D head size, S slots of a row of the cache.
   Not covered: SwiGLU, formats other than fp32, several new tokens at once; gpt.py has them. */

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#define MOST_ROWS 8 /* as many as keep their sums in registers */
#else
#define LANES 8
#define MOST_ROWS 4
#endif
#define PANEL (2 * LANES) /* outputs of a matrix that are summed together */
#ifndef PATIENCE
#define PATIENCE 2000 /* looks at a flag before a thread falls asleep: waking it takes far longer */
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float Eight __attribute__((vector_size(32)));

typedef struct {
    const float *q, *k, *v, *out, *up, *down; /* matrices in panels, as engine_kernel.py lays them */
    const float *gate, *values;               /* (G, gate_channels), (V, G D); or none */
    float residual, input;
    int32_t window;
} Layer;

typedef struct {
    const float *embed, *head, *cosines, *sines, *smear_gate; /* tables; smear_gate may be none */
    const Layer *layer;
    float qk_scale, softcap, smear, backout;
    int32_t channels, heads, groups, head_size, hidden, padded_vocabulary, vocabulary, layers;
    int32_t smear_channels, gate_channels, capacity;
} Model;

typedef struct {
    float *keys, *values; /* (rows, G, S, D), from the first row of the batch on */
    int64_t slots;
} LayerCache;

typedef struct {
    const int64_t *tokens, *lengths; /* of each row: its newest token, tokens before that */
    const LayerCache *cache;         /* of each layer */
    float *last, *scores;            /* (rows, C) embeddings for smear, (rows, V) what comes out */
    int32_t rows;
} Batch;

/* ---- numbers ---- */

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

static float dot(const float *x, const float *y, int count) {
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
    int32_t n = (int32_t)(x * 1.44269504f + (x < 0 ? -0.5f : 0.5f));
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

static float inverse_rms(const float *x, int count) {
    float rms = sqrtf(dot(x, x, count)) / sqrtf((float)count);
    return 1 / (rms < 1e-6f ? 1e-6f : rms);
}

static void normalise(const float *x, int count, float *y) {
    float scale = inverse_rms(x, count);
    for (int i = 0; i < count; i++) y[i] = x[i] * scale;
}

/* ---- matrices ---- */

/* y (rows, out) = x (rows, in) W^T, or y += that. Each panel of W is read once for all rows. */
INLINE void panels(int rows, int adds, const float *x, const float *w, int in, int out, float *y) {
    for (int column = 0; column < out; column += PANEL) {
        Vector left[MOST_ROWS] = {{0}}, right[MOST_ROWS] = {{0}};
        for (int i = 0; i < in; i++, w += PANEL) {
            Vector a = load(w), b = load(w + LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                left[r] += x[r * in + i] * a;
                right[r] += x[r * in + i] * b;
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            Vector *to = (Vector *)(y + r * out + column);
            to[0] = adds ? to[0] + left[r] : left[r];
            to[1] = adds ? to[1] + right[r] : right[r];
        }
    }
}

#define CASE(n) \
    case n: \
        if (adds) panels(n, 1, x, w, in, out, y); \
        else panels(n, 0, x, w, in, out, y); \
        break;

static void product(int rows, int adds, const float *x, const float *w, int in, int out, float *y) {
    switch (rows) { /* a version for each number of rows: only then do the sums stay in registers */
        CASE(1) CASE(2) CASE(3) CASE(4)
#if MOST_ROWS == 8
        CASE(5) CASE(6) CASE(7) CASE(8)
#endif
    }
}

/* ---- attention ---- */

/* y (D) = the mean of `count` values, weighted by softmax(q keys / sqrt(D)); position `first` is
   the oldest that is seen, and position p lives in slot p % S. */
INLINE void attend(int D, const float *q, const float *keys, const float *values, int first,
                   int count, int slots, float *weights, float *y) {
    float scale = 1 / sqrtf((float)D), most = -INFINITY, sum = 0;
    int oldest = first % slots;
    for (int s = 0, slot = oldest; s < count; s++, slot = slot + 1 == slots ? 0 : slot + 1) {
        Vector product = {0};
        for (int i = 0; i < D; i += LANES) product += load(q + i) * load(keys + slot * D + i);
        weights[s] = sum_of(product) * scale;
        most = weights[s] > most ? weights[s] : most;
    }
    for (int s = 0; s < count; s++) weights[s] = exponential(weights[s] - most);
    for (int s = 0; s < count; s++) sum += weights[s];
    Vector mean[128 / LANES]; /* D is at most 128 where the compiler knows it, else see below */
    for (int part = 0; part < D; part += 128) {
        int width = D - part < 128 ? D - part : 128;
        for (int i = 0; i < width / LANES; i++) mean[i] = (Vector){0};
        for (int s = 0, slot = oldest; s < count; s++, slot = slot + 1 == slots ? 0 : slot + 1) {
            const float *value = values + slot * D + part;
            for (int i = 0; i < width / LANES; i++) mean[i] += weights[s] * load(value + i * LANES);
        }
        for (int i = 0; i < width / LANES; i++) ((Vector *)(y + part))[i] = mean[i] / sum;
    }
}

static void attend_any(int D, const float *q, const float *keys, const float *values, int first,
                       int count, int slots, float *weights, float *y) {
    if (D == 128) attend(128, q, keys, values, first, count, slots, weights, y);
    else if (D == 64) attend(64, q, keys, values, first, count, slots, weights, y);
    else attend(D, q, keys, values, first, count, slots, weights, y);
}

/* x (D) = scale norm(x turned by its position's angles), as fused.RotateNorm. */
static void rotate(float *x, const float *cosines, const float *sines, int D, float scale) {
    float size = inverse_rms(x, D) * scale;
    for (int i = 0; i < D / 2; i++) {
        float a = x[i], b = x[i + D / 2];
        x[i] = (a * cosines[i] + b * sines[i]) * size;
        x[i + D / 2] = (b * cosines[i] - a * sines[i]) * size;
    }
}

/* ---- the model ---- */

typedef struct { /* what one thread works on: MOST_ROWS rows of each */
    float *x, *x0, *saved, *inner, *q, *k, *v, *y, *wide, *weights;
} Desk;

static void attention(const Model *m, int index, const Batch *b, int first, int rows, Desk *d) {
    const Layer *l = &m->layer[index];
    const LayerCache *cache = &b->cache[index];
    int C = m->channels, D = m->head_size, G = m->groups, slots = (int)cache->slots;
    product(rows, 0, d->inner, l->q, C, C, d->q);
    product(rows, 0, d->inner, l->k, C, G * D, d->k);
    product(rows, 0, d->inner, l->v, C, G * D, d->v);
    for (int r = 0; r < rows; r++) {
        int64_t row = first + r, token = b->tokens[row], place = b->lengths[row];
        const float *cosines = m->cosines + place * (D / 2), *sines = m->sines + place * (D / 2);
        int seen = place + 1 < l->window + 1 ? (int)place + 1 : l->window + 1;
        for (int g = 0; g < G; g++) {
            float *k = d->k + (r * G + g) * D, *v = d->v + (r * G + g) * D;
            if (l->gate) {
                const float *value = l->values + (token * G + g) * D;
                const float *gate = l->gate + g * m->gate_channels;
                float share = 3 * sigmoid(dot(gate, d->inner + r * C, m->gate_channels));
                for (int i = 0; i < D; i++) v[i] += share * value[i];
            }
            rotate(k, cosines, sines, D, m->qk_scale);
            float *keys = cache->keys + (row * G + g) * slots * D;
            float *values = cache->values + (row * G + g) * slots * D;
            memcpy(keys + place % slots * D, k, D * sizeof(float));
            memcpy(values + place % slots * D, v, D * sizeof(float));
            for (int h = g * (m->heads / G); h < (g + 1) * (m->heads / G); h++) {
                float *q = d->q + r * C + h * D, *y = d->y + r * C + h * D;
                rotate(q, cosines, sines, D, m->qk_scale);
                attend_any(D, q, keys, values, (int)place + 1 - seen, seen, slots, d->weights, y);
            }
        }
    }
    product(rows, 1, d->y, l->out, C, C, d->x);
}

static void mlp(const Model *m, const Layer *l, int rows, Desk *d) {
    product(rows, 0, d->inner, l->up, m->channels, m->hidden, d->wide);
    for (int i = 0; i < rows * m->hidden; i++) {
        float positive = d->wide[i] < 0 ? 0 : d->wide[i]; /* NaN stays NaN */
        d->wide[i] = positive * positive;
    }
    product(rows, 1, d->wide, l->down, m->hidden, m->channels, d->x);
}

static void embed(const Model *m, const Batch *b, int row, float *x) {
    int C = m->channels;
    normalise(m->embed + b->tokens[row] * C, C, x);
    if (!m->smear_gate) return;
    float *before = b->last + row * C;
    float share = m->smear * sigmoid(dot(m->smear_gate, x, m->smear_channels));
    for (int i = 0; i < C; i++) {
        float own = x[i];
        x[i] = own + share * before[i];
        before[i] = own;
    }
}

/* Rows first..first+rows-1 of the batch, from token to scores. */
static void forward(const Model *m, const Batch *b, int first, int rows, Desk *d) {
    int C = m->channels, all = rows * C, V = m->vocabulary;
    for (int r = 0; r < rows; r++) embed(m, b, first + r, d->x + r * C);
    memcpy(d->x0, d->x, all * sizeof(float));
    for (int index = 0; index < m->layers; index++) {
        const Layer *l = &m->layer[index];
        for (int i = 0; i < all; i++) d->x[i] = l->residual * d->x[i] + l->input * d->x0[i];
        for (int r = 0; r < rows; r++) normalise(d->x + r * C, C, d->inner + r * C);
        attention(m, index, b, first, rows, d);
        for (int r = 0; r < rows; r++) normalise(d->x + r * C, C, d->inner + r * C);
        mlp(m, l, rows, d);
        if (index == m->layers / 2) memcpy(d->saved, d->x, all * sizeof(float));
    }
    for (int i = 0; i < all; i++) d->x[i] -= m->backout * d->saved[i];
    for (int r = 0; r < rows; r++) normalise(d->x + r * C, C, d->inner + r * C);
    product(rows, 0, d->inner, m->head, C, m->padded_vocabulary, d->wide);
    float cap = m->softcap;
    for (int r = 0; r < rows; r++) {
        const float *z = d->wide + r * m->padded_vocabulary;
        float *scores = b->scores + (int64_t)(first + r) * V;
        for (int i = 0; i < V; i++) /* cap tanh(z / cap) */
            scores[i] = cap ? cap - 2 * cap / (exponential(2 / cap * z[i]) + 1) : z[i];
    }
}

/* ---- threads ---- */

/* The caller and threads - 1 helpers. Each step deals the rows out anew. */
typedef struct Team Team;
typedef struct {
    Team *team;
    int number;
    pthread_t thread;
    float *memory;
    Desk desk;
} Member;

struct Team {
    Model model;
    const Batch *batch;
    pthread_mutex_t lock;
    pthread_cond_t begun, ended;
    int size;
    atomic_int round, busy, closing; /* steps begun; helpers still at it; nobody needs them more */
    Member member[];
};

static void take_rows(Member *member) {
    const Team *team = member->team;
    int rows = team->batch->rows, share = (rows + team->size - 1) / team->size;
    share = share < MOST_ROWS ? share : MOST_ROWS;
    for (int first = member->number * share; first < rows; first += team->size * share)
        forward(&team->model, team->batch, first, rows - first < share ? rows - first : share,
                &member->desk);
}

static void *help(void *argument) {
    Member *member = argument;
    Team *team = member->team;
    for (int round = 1;; round++) {
        for (int i = 0; i < PATIENCE && team->round < round; i++) sched_yield();
        pthread_mutex_lock(&team->lock);
        while (team->round < round && !team->closing) pthread_cond_wait(&team->begun, &team->lock);
        pthread_mutex_unlock(&team->lock);
        if (team->closing) return NULL;
        take_rows(member);
        pthread_mutex_lock(&team->lock);
        if (!--team->busy) pthread_cond_signal(&team->ended);
        pthread_mutex_unlock(&team->lock);
    }
}

void decode_step(Team *team, const Batch *batch) {
    int helpers = batch->rows > 1 ? team->size - 1 : 0; /* one row is one thread's work */
    pthread_mutex_lock(&team->lock);
    team->batch = batch;
    if (helpers) {
        team->busy = helpers;
        team->round++;
        pthread_cond_broadcast(&team->begun);
    }
    pthread_mutex_unlock(&team->lock);
    take_rows(&team->member[0]);
    for (int i = 0; i < PATIENCE && team->busy; i++) sched_yield();
    if (!team->busy) return;
    pthread_mutex_lock(&team->lock);
    while (team->busy) pthread_cond_wait(&team->ended, &team->lock);
    pthread_mutex_unlock(&team->lock);
}

int32_t decode_panel(void) { return PANEL; }

static int seat(Member *member, const Model *m) {
    int64_t C = m->channels, kv = (int64_t)m->groups * m->head_size, R = MOST_ROWS;
    int64_t widest = m->hidden > m->padded_vocabulary ? m->hidden : m->padded_vocabulary;
    float *at = member->memory = calloc(R * (6 * C + 2 * kv + widest) + m->capacity, sizeof(float));
    if (!at) return 0;
    Desk *d = &member->desk;
    float **parts[] = {&d->x, &d->x0, &d->saved, &d->inner, &d->q, &d->y};
    for (int i = 0; i < 6; i++, at += R * C) *parts[i] = at;
    d->k = at, d->v = at + R * kv, d->wide = at + 2 * R * kv;
    d->weights = d->wide + R * widest;
    return 1;
}

void decode_close(Team *team) {
    pthread_mutex_lock(&team->lock);
    team->closing = 1;
    pthread_cond_broadcast(&team->begun);
    pthread_mutex_unlock(&team->lock);
    for (int i = 0; i < team->size; i++) {
        if (i) pthread_join(team->member[i].thread, NULL);
        free(team->member[i].memory);
    }
    free(team);
}

/* NULL when there is no memory or no thread to be had. */
Team *decode_open(const Model *model, int32_t threads) {
    Team *team = calloc(1, sizeof(Team) + threads * sizeof(Member));
    if (!team) return NULL;
    team->model = *model;
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->begun, NULL);
    pthread_cond_init(&team->ended, NULL);
    for (int i = 0; i < threads; i++) {
        Member *member = &team->member[i];
        member->team = team, member->number = i;
        int seated = seat(member, model);
        if (!seated || (i && pthread_create(&member->thread, NULL, help, member))) {
            free(member->memory);
            decode_close(team);
            return NULL;
        }
        team->size = i + 1;
    }
    return team;
}
