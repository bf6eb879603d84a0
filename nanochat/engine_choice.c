/* Scores to tokens: what sampling.py says, for one token of each row.

   Between two steps of the model PyTorch makes twenty calls on cold caches to choose among a few
   thousand numbers: a fifth of a step's time. Temperature first, then top-k, then top-p, then a die
   points at one of what is left; tests compare the two. Called by engine_kernel.py.
   Read: Wish -> choose -> kth_best -> nucleus -> draw. V vocabulary. */

#include <stdlib.h>

#include "engine_numbers.h"

#define COLDEST 1e-30f

typedef struct {
    double temperature, top_p, die; /* 0: the best token; 1: off; from [0, 1) */
    int64_t top_k;                  /* 0: off */
} Wish;

static int is_finite(const float *scores, int count) {
    int broken = 0;
    for (int i = 0; i < count; i++) broken |= !(scores[i] - scores[i] == 0);
    return !broken;
}

static int best_of(const float *scores, int count) {
    float most = scores[0];
    for (int i = 0; i < count; i++) most = scores[i] > most ? scores[i] : most;
    int at = 0;
    while (scores[at] < most) at++; /* of equals the first */
    return at;
}

/* Put `moved` into a heap (no parent above its children) at place i or below. */
static void sink(float *heap, int size, int i, float moved) {
    for (int child; (child = 2 * i + 1) < size; i = child) {
        if (child + 1 < size && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= moved) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

/* The k-th best: the k best so far stand in a heap, the least of them on top. */
static float kth_best(const float *scores, int count, int k, float *heap) {
    memcpy(heap, scores, k * sizeof(float));
    for (int i = k / 2; i-- > 0;) sink(heap, k, i, heap[i]);
    for (int i = k; i < count; i++)
        if (scores[i] > heap[0]) sink(heap, k, 0, scores[i]);
    return heap[0];
}

/* scores -> softmax of them, into `chances`. */
static void soften(const float *scores, int count, float *chances) {
    float most = scores[best_of(scores, count)], sum = 0;
    for (int i = 0; i < count; i++) chances[i] = exponential(scores[i] - most);
    for (int i = 0; i < count; i++) sum += chances[i];
    for (int i = 0; i < count; i++) chances[i] /= sum;
}

static int falling(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* The least score among the fewest best ones that together hold at least p. */
static float nucleus(const float *scores, int count, double p, float *ranked, float *chances) {
    memcpy(ranked, scores, count * sizeof(float));
    qsort(ranked, count, sizeof(float), falling);
    soften(ranked, count, chances);
    double ahead = chances[0];
    int kept = 1;
    while (kept < count && ahead < p) ahead += chances[kept++];
    return ranked[kept - 1];
}

/* Scores and tokens that are at least `floor` move to the front; how many there are. */
static int keep(float floor, float *scores, int32_t *tokens, int count) {
    int kept = 0;
    for (int i = 0; i < count; i++)
        if (scores[i] >= floor) scores[kept] = scores[i], tokens[kept++] = tokens[i];
    return kept;
}

/* The tokens lie side by side, each as wide as its chance; the die points at one of them. */
static int draw(const float *chances, int count, double die) {
    double total = 0, edge = 0;
    for (int i = 0; i < count; i++) total += chances[i];
    for (int i = 0; i < count - 1; i++)
        if ((edge += chances[i]) > die * total) return i;
    return count - 1;
}

/* room: 3 V floats and V tokens, kept by the caller. -1 when a score is no finite number. */
static int32_t choose(const float *logits, int V, const Wish *wish, float *room, int32_t *tokens) {
    if (!is_finite(logits, V)) return -1;
    if (wish->temperature == 0) return best_of(logits, V);
    float *scores = room, *ranked = room + V, *chances = room + 2 * V;
    float heat = wish->temperature < COLDEST ? COLDEST : (float)wish->temperature;
    int count = V;
    for (int i = 0; i < V; i++) scores[i] = logits[i] / heat, tokens[i] = i;
    if (wish->top_k && wish->top_k < V)
        count = keep(kth_best(scores, V, (int)wish->top_k, ranked), scores, tokens, V);
    if (wish->top_p < 1)
        count = keep(nucleus(scores, count, wish->top_p, ranked, chances), scores, tokens, count);
    soften(scores, count, chances);
    return tokens[draw(chances, count, wish->die)];
}

/* A token for each row of logits (rows, V), or -1 where its scores are no finite numbers. */
void kernel_choose(const float *logits, int32_t rows, int32_t V, const Wish *wishes, float *room,
                   int32_t *chosen) {
    for (int r = 0; r < rows; r++)
        chosen[r] = choose(logits + (int64_t)r * V, V, &wishes[r], room, (int32_t *)(room + 3 * V));
}
