/* More tokens for several conversations: gpt.py's mathematics, written for few positions.

   Writing gives each row one new token; reading a prompt gives a row many. PyTorch spends half of
   such a step in calls and copies; here new positions are dealt out in blocks, and a thread takes a
   block through the whole model. A position is computed in the same order of operations whoever
   stands beside it and however a prompt was cut: its scores have the same bits in any company.
   Compiled and called by engine_kernel.py, compared with gpt.py by tests.

   Read: Model -> product -> attend -> store -> attention -> forward (a block) -> kernel_step.
   C channels, H query heads, G key/value heads, D head size, S slots of a row of the cache, T new
   tokens of each row: position p is token p % T of row p / T.
   Not covered: SwiGLU and formats other than fp32; gpt.py has them. */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "engine_numbers.h"

#define PANEL (2 * LANES)     /* outputs of a matrix that are summed together */
#define MOST_ROWS (LANES / 2) /* positions that are: as many as keep their sums in registers */
#define BLOCK 32              /* most positions in a block: as many share one look at a matrix */

typedef struct {
    const float *q, *k, *v, *out, *up, *down; /* in panels, as engine_kernel.py lays matrices */
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
    const int64_t *tokens, *lengths; /* (rows, T) new tokens; (rows) how many came before them */
    const LayerCache *cache;         /* of each layer */
    float *last, *scores;            /* (rows, C) embeddings for smear, (rows, V) what comes out */
    int32_t rows, count;             /* count is T */
} Batch;

static float inverse_rms(const float *x, int count) {
    float rms = sqrtf(dot(x, x, count)) / sqrtf((float)count);
    return 1 / (rms < 1e-6f ? 1e-6f : rms);
}

static void normalise(const float *x, int count, float *y) {
    float scale = inverse_rms(x, count);
    for (int i = 0; i < count; i++) y[i] = x[i] * scale;
}

/* ---- matrices ---- */

/* One panel of W for at most MOST_ROWS rows: y = x W^T, or y += that. */
INLINE void tile(int rows, int adds, const float *x, const float *w, int in, int out, float *y) {
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
        Vector *to = (Vector *)(y + r * out);
        to[0] = adds ? to[0] + left[r] : left[r];
        to[1] = adds ? to[1] + right[r] : right[r];
    }
}

#define CASE(n) \
    case n: \
        tile(n, adds, x, w, in, out, y); \
        break;

/* A version for each number of rows: only then do the sums stay in registers. */
static void any_tile(int rows, int adds, const float *x, const float *w, int in, int out,
                     float *y) {
    switch (rows) {
        CASE(1) CASE(2) CASE(3)
#if MOST_ROWS == 8
        CASE(4) CASE(5) CASE(6) CASE(7)
#endif
        default: tile(MOST_ROWS, adds, x, w, in, out, y);
    }
}

/* y (rows, out) = x (rows, in) W^T, or y += that. Each panel of W comes from afar only once. */
static void product(int rows, int adds, const float *x, const float *w, int in, int out, float *y) {
    for (int column = 0; column < out; column += PANEL, w += in * PANEL)
        for (int r = 0; r < rows; r += MOST_ROWS)
            any_tile(rows - r, adds, x + r * in, w, in, out, y + r * out + column);
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

typedef struct { /* what one thread works on: BLOCK positions of each */
    float *x, *x0, *saved, *inner, *q, *y, *k, *v, *wide, *weights;
} Desk;

typedef struct {
    const Batch *batch;
    int first, count, number; /* positions first..first+count-1 are the number-th block */
    atomic_int *stored;       /* of each layer: blocks whose keys and values are in the cache */
} Block;

static void embed(const Model *m, const Block *b, Desk *d) {
    const Batch *batch = b->batch;
    const int64_t *tokens = batch->tokens + b->first;
    int C = m->channels;
    for (int r = 0; r < b->count; r++) normalise(m->embed + tokens[r] * C, C, d->inner + r * C);
    memcpy(d->x, d->inner, b->count * C * sizeof(float));
    for (int r = 0; r < b->count && m->smear_gate; r++) {
        const float *own = d->inner + r * C, *before = own - C;
        int position = b->first + r;
        if (position % batch->count == 0) before = batch->last + position / batch->count * C;
        else if (r == 0) {
            normalise(m->embed + tokens[-1] * C, C, d->y);
            before = d->y;
        }
        float share = m->smear * sigmoid(dot(m->smear_gate, own, m->smear_channels));
        for (int i = 0; i < C; i++) d->x[r * C + i] += share * before[i];
    }
}

/* Keys and values of a block into the cache; back once all that its positions look at is there. */
static void store(const Model *m, int index, const Block *b, Desk *d) {
    const Layer *l = &m->layer[index];
    const LayerCache *cache = &b->batch->cache[index];
    int C = m->channels, D = m->head_size, G = m->groups, T = b->batch->count;
    product(b->count, 0, d->inner, l->k, C, G * D, d->k);
    product(b->count, 0, d->inner, l->v, C, G * D, d->v);
    for (int r = 0; r < b->count; r++) {
        int64_t row = (b->first + r) / T, token = b->batch->tokens[b->first + r];
        int64_t place = b->batch->lengths[row] + (b->first + r) % T;
        const float *cosines = m->cosines + place * (D / 2), *sines = m->sines + place * (D / 2);
        for (int g = 0; g < G; g++) {
            float *k = d->k + (r * G + g) * D, *v = d->v + (r * G + g) * D;
            if (l->gate) {
                const float *value = l->values + (token * G + g) * D;
                const float *gate = l->gate + g * m->gate_channels;
                float share = 3 * sigmoid(dot(gate, d->inner + r * C, m->gate_channels));
                for (int i = 0; i < D; i++) v[i] += share * value[i];
            }
            rotate(k, cosines, sines, D, m->qk_scale);
            int64_t slot = ((row * G + g) * cache->slots + place % cache->slots) * D;
            memcpy(cache->keys + slot, k, D * sizeof(float));
            memcpy(cache->values + slot, v, D * sizeof(float));
        }
    }
    if (T == 1) return; /* nobody looks at another block's positions */
    while (b->stored[index] < b->number) sched_yield();
    b->stored[index] = b->number + 1;
}

static void attention(const Model *m, int index, const Block *b, Desk *d) {
    const Layer *l = &m->layer[index];
    const LayerCache *cache = &b->batch->cache[index];
    int C = m->channels, D = m->head_size, G = m->groups, T = b->batch->count;
    int slots = (int)cache->slots, sharing = m->heads / G;
    product(b->count, 0, d->inner, l->q, C, C, d->q);
    for (int r = 0; r < b->count; r++) {
        int64_t row = (b->first + r) / T, place = b->batch->lengths[row] + (b->first + r) % T;
        const float *cosines = m->cosines + place * (D / 2), *sines = m->sines + place * (D / 2);
        int seen = place < l->window ? (int)place + 1 : l->window + 1;
        for (int h = 0; h < m->heads; h++) {
            int64_t from = (row * G + h / sharing) * slots * D;
            float *q = d->q + r * C + h * D, *y = d->y + r * C + h * D;
            rotate(q, cosines, sines, D, m->qk_scale);
            attend_any(D, q, cache->keys + from, cache->values + from, (int)place + 1 - seen, seen,
                       slots, d->weights, y);
        }
    }
    product(b->count, 1, d->y, l->out, C, C, d->x);
}

static void mlp(const Model *m, const Layer *l, int rows, Desk *d) {
    product(rows, 0, d->inner, l->up, m->channels, m->hidden, d->wide);
    for (int i = 0; i < rows * m->hidden; i++) {
        float positive = d->wide[i] < 0 ? 0 : d->wide[i]; /* NaN stays NaN */
        d->wide[i] = positive * positive;
    }
    product(rows, 1, d->wide, l->down, m->hidden, m->channels, d->x);
}

/* The scores after the last token of each row that ends in this block. */
static void finish(const Model *m, const Block *b, Desk *d) {
    const Batch *batch = b->batch;
    int C = m->channels, V = m->vocabulary, T = batch->count, row = b->first / T, ends = 0;
    for (int r = 0; r < b->count; r++) {
        if ((b->first + r + 1) % T) continue;
        normalise(d->x + r * C, C, d->inner + ends++ * C);
        if (m->smear_gate) /* whoever begins at the old one has long read it: see store */
            normalise(m->embed + batch->tokens[b->first + r] * C, C,
                      batch->last + (b->first + r) / T * C);
    }
    product(ends, 0, d->inner, m->head, C, m->padded_vocabulary, d->wide);
    float cap = m->softcap;
    for (int r = 0; r < ends; r++) {
        const float *z = d->wide + r * m->padded_vocabulary;
        float *scores = batch->scores + (int64_t)(row + r) * V;
        if (!cap) memcpy(scores, z, V * sizeof(float));
        for (int i = 0; i < V && cap; i++) /* cap tanh(z / cap) */
            scores[i] = cap - 2 * cap / (exponential(2 / cap * z[i]) + 1);
    }
}

/* One block, from tokens to scores. */
static void forward(const Model *m, const Block *b, Desk *d) {
    int C = m->channels, all = b->count * C, T = b->batch->count;
    int ends = (b->first + b->count) / T > b->first / T; /* or nobody asks for scores */
    embed(m, b, d);
    memcpy(d->x0, d->x, all * sizeof(float));
    for (int index = 0; index < m->layers; index++) {
        const Layer *l = &m->layer[index];
        for (int i = 0; i < all; i++) d->x[i] = l->residual * d->x[i] + l->input * d->x0[i];
        for (int r = 0; r < b->count; r++) normalise(d->x + r * C, C, d->inner + r * C);
        store(m, index, b, d);
        if (index == m->layers - 1 && !ends) return; /* later positions see only what is stored */
        attention(m, index, b, d);
        for (int r = 0; r < b->count; r++) normalise(d->x + r * C, C, d->inner + r * C);
        mlp(m, l, b->count, d);
        if (index == m->layers / 2) memcpy(d->saved, d->x, all * sizeof(float));
    }
    for (int i = 0; i < all; i++) d->x[i] -= m->backout * d->saved[i];
    finish(m, b, d);
}

/* ---- threads ---- */

/* The caller and threads - 1 helpers. They take blocks in order, so the oldest block that is not
   done never waits for one that nobody has taken. */
typedef struct Team Team;
typedef struct {
    Team *team;
    pthread_t thread;
    float *memory;
    Desk desk;
} Member;

struct Team {
    Model model;
    const Batch *batch;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t begun, ended;
    int size, share, blocks, taken, done, closing; /* share: positions in a block */
    atomic_int *stored;                            /* of each layer, see Block */
    Member member[];
};

/* Take blocks until none is left; the lock is held before and after. */
static void take_blocks(Team *team, Desk *desk) {
    while (team->taken < team->blocks) {
        Block b = {team->batch, team->taken * team->share, team->share, team->taken, team->stored};
        int rest = team->batch->rows * team->batch->count - b.first;
        b.count = rest < b.count ? rest : b.count;
        team->taken++;
        pthread_mutex_unlock(&team->lock);
        forward(&team->model, &b, desk);
        pthread_mutex_lock(&team->lock);
        if (++team->done == team->blocks) pthread_cond_signal(&team->ended);
    }
}

static void *help(void *argument) {
    Member *member = argument;
    Team *team = member->team;
    pthread_mutex_lock(&team->lock);
    while (!team->closing) {
        take_blocks(team, &member->desk); /* lets go of the lock: closing may come meanwhile */
        if (!team->closing) pthread_cond_wait(&team->begun, &team->lock);
    }
    pthread_mutex_unlock(&team->lock);
    return NULL;
}

void kernel_step(Team *team, const Batch *batch) {
    int all = batch->rows * batch->count, rounds = 1 + (all - 1) / (BLOCK * team->size);
    int share = 1 + (all - 1) / (rounds * team->size);
    if (batch->count > 1) share = (share + MOST_ROWS - 1) / MOST_ROWS * MOST_ROWS;
    pthread_mutex_lock(&team->lock);
    for (int i = 0; i < team->model.layers; i++) team->stored[i] = 0;
    team->batch = batch, team->share = share;
    team->blocks = 1 + (all - 1) / share, team->taken = team->done = 0;
    if (team->blocks > 1) pthread_cond_broadcast(&team->begun);
    take_blocks(team, &team->member[0].desk);
    while (team->done < team->blocks) pthread_cond_wait(&team->ended, &team->lock);
    pthread_mutex_unlock(&team->lock);
}

int32_t kernel_panel(void) { return PANEL; }

static int seat(Member *member, const Model *m) {
    int64_t C = m->channels, kv = (int64_t)m->groups * m->head_size, R = BLOCK;
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

void kernel_close(Team *team) {
    pthread_mutex_lock(&team->lock);
    team->closing = 1;
    pthread_cond_broadcast(&team->begun);
    pthread_mutex_unlock(&team->lock);
    for (int i = 0; i < team->size; i++) {
        if (i) pthread_join(team->member[i].thread, NULL);
        free(team->member[i].memory);
    }
    free(team->stored);
    free(team);
}

/* NULL when there is no memory or no thread to be had. */
Team *kernel_open(const Model *model, int32_t threads) {
    Team *team = calloc(1, sizeof(Team) + threads * sizeof(Member));
    if (!team) return NULL;
    team->model = *model;
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->begun, NULL);
    pthread_cond_init(&team->ended, NULL);
    team->stored = calloc(model->layers, sizeof(atomic_int));
    for (int i = 0; i < threads; i++) {
        Member *member = &team->member[i];
        member->team = team;
        int seated = team->stored && seat(member, model);
        if (!seated || (i && pthread_create(&member->thread, NULL, help, member))) {
            free(member->memory);
            kernel_close(team);
            return NULL;
        }
        team->size = i + 1;
    }
    return team;
}
