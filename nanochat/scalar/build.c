/* From rows to a program. Called once by tape_c.py for each result that is asked for.
   Read: find_live -> fuse -> make_units -> share_twins -> plan_forward -> program_new.

   A chain of additions ((0 + a*b) + c*d) + e is one unit with the terms (a,b) (c,d) (e): the parts
   are used nowhere else, so nothing can tell the difference. */
#include "tape.h"

#include <stdlib.h>
#include <string.h>

/* ---- memory: zeroed, freed together, and one way out when there is none ---- */

void *take(Program *p, size_t count, size_t size) {
    Block *block = calloc(1, sizeof(Block) + (count ? count : 1) * size);
    if (!block) longjmp(p->no_memory, 1);
    block->next = p->blocks;
    block->link = &p->blocks;
    if (p->blocks) p->blocks->link = &block->next;
    p->blocks = block;
    return block + 1;
}

void give(void *memory) {
    Block *block = (Block *)memory - 1;
    *block->link = block->next;
    if (block->next) block->next->link = block->link;
    free(block);
}

#define TAKE(count, type) take(p, (size_t)(count), sizeof(type))

/* Stable counting sort of ids by key[id], smallest first. */
void sort_by(Program *p, int32_t *ids, int32_t count, const int32_t *key) {
    int32_t most = 0;
    for (int32_t i = 0; i < count; i++)
        if (key[ids[i]] > most) most = key[ids[i]];
    int32_t *start = TAKE(most + 2, int32_t), *sorted = TAKE(count, int32_t);
    for (int32_t i = 0; i < count; i++) start[key[ids[i]] + 1]++;
    for (int32_t k = 0; k < most; k++) start[k + 1] += start[k];
    for (int32_t i = 0; i < count; i++) sorted[start[key[ids[i]]]++] = ids[i];
    memcpy(ids, sorted, (size_t)count * sizeof(int32_t));
    give(start);
    give(sorted);
}

/* ---- which rows the results need, and how often each is used ---- */

static void find_live(Program *p, int32_t *uses) {
    const Rows *r = &p->rows;
    for (int32_t k = 0; k < p->n_results; k++) uses[p->results[k]] += 2; /* 2: never fuse it away */
    for (int32_t i = r->count - 1; i >= 0; i--) {
        if (!uses[i] || r->op[i] < ADD) continue;
        if (r->op[i] == PICK || r->op[i] == DROP) {
            const int32_t *list = r->lists + r->left[i];
            for (int32_t k = 1; k <= list[0]; k++) uses[list[k]] += 2;
            continue;
        }
        uses[r->left[i]]++;
        if (r->op[i] <= MUL) uses[r->right[i]]++;
    }
}

/* Mark the additions and products that disappear into the one sum that uses them. */
static void fuse(const Program *p, const int32_t *uses, uint8_t *fused) {
    const Rows *r = &p->rows;
    for (int32_t i = 0; i < r->count; i++) {
        if (!uses[i] || r->op[i] != ADD) continue;
        int32_t a = r->left[i], b = r->right[i];
        if (uses[a] == 1 && (r->op[a] == ADD || r->op[a] == MUL)) fused[a] = 1;
        if (uses[b] == 1 && r->op[b] == MUL) fused[b] = 1;
    }
}

static int is_zero(const Rows *r, int32_t row) { /* +0.0 exactly */
    uint64_t bits;
    if (r->op[row] != CONSTANT) return 0;
    memcpy(&bits, r->constants + r->left[row], sizeof bits);
    return bits == 0;
}

/* ---- units and their terms ---- */

static void add_term(Program *p, int32_t row, const uint8_t *fused) {
    int product = p->rows.op[row] == MUL && fused[row];
    p->term_x[p->n_terms] = product ? p->rows.left[row] : row;
    p->term_y[p->n_terms] = product ? p->rows.right[row] : NONE;
    p->n_terms++;
}

/* The terms of the sum that ends in row `i`, first to last; `chain` is scratch for its rows. */
static void add_sum(Program *p, int32_t i, const uint8_t *fused, int32_t *chain) {
    const Rows *r = &p->rows;
    int32_t links = 0;
    for (chain[links++] = i; r->op[r->left[i]] == ADD && fused[r->left[i]]; i = r->left[i])
        chain[links++] = r->left[i];
    int32_t head = r->left[i], second = r->right[i];
    int drop_head = is_zero(r, head), drop_second = !drop_head && is_zero(r, second);
    p->from_zero[p->n_units] = drop_head || drop_second;
    if (!drop_head) add_term(p, head, fused);
    if (!drop_second) add_term(p, second, fused);
    for (int32_t k = links - 2; k >= 0; k--) add_term(p, r->right[chain[k]], fused);
}

static void make_units(Program *p, const int32_t *uses, const uint8_t *fused) {
    const Rows *r = &p->rows;
    int32_t *chain = TAKE(r->count, int32_t);
    for (int32_t i = 0; i < r->count; i++) {
        p->unit_of[i] = NONE;
        if (!uses[i] || fused[i] || r->op[i] < ADD) continue;
        p->first[p->n_units] = p->n_terms;
        if (r->op[i] == ADD) {
            add_sum(p, i, fused, chain);
        } else if (r->op[i] < PICK) { /* a product or a function: one term */
            p->term_x[p->n_terms] = r->left[i];
            p->term_y[p->n_terms++] = r->op[i] == MUL ? r->right[i] : NONE;
        }
        p->row_of[p->n_units] = i;
        p->kind[p->n_units] = r->op[i];
        p->unit_of[i] = p->n_units++;
        p->first[p->n_units] = p->n_terms;
    }
    give(chain);
}

/* ---- equal function calls are computed once ---- */

/* What a function is applied to: a unit, or a leaf as a negative number. */
static int32_t argument(const Program *p, const int32_t *twin, int32_t unit) {
    int32_t row = p->rows.left[p->row_of[unit]];
    return p->unit_of[row] == NONE ? -1 - row : twin[p->unit_of[row]];
}

/* twin[u]: the first unit that applies the same function to the same value, u itself if none.
   Only the value is shared. As graph nodes they stay apart, each with its own gradient. */
static void share_twins(Program *p, int32_t *twin) {
    const Rows *r = &p->rows;
    uint32_t size = 64;
    while (size < 2u * (uint32_t)p->n_units) size *= 2;
    int32_t *table = TAKE(size, int32_t); /* unit + 1 */
    for (int32_t u = 0; u < p->n_units; u++) {
        int32_t row = p->row_of[u];
        twin[u] = u;
        if (r->op[row] < POW || r->op[row] > TANH) continue;
        uint32_t h = (uint32_t)argument(p, twin, u) * 2654435761u ^ r->op[row] * 40503u
                     ^ (uint32_t)r->right[row] * 97u;
        for (h &= size - 1; table[h]; h = (h + 1) & (size - 1)) {
            int32_t v = table[h] - 1, other = p->row_of[v];
            if (r->op[other] == r->op[row] && argument(p, twin, v) == argument(p, twin, u)
                && (r->op[row] != POW || r->right[other] == r->right[row])) {
                twin[u] = v;
                break;
            }
        }
        if (twin[u] == u) table[h] = u + 1;
    }
    give(table);
}

/* ---- the forward plan: levels of independent units, alike ones side by side ---- */

static int32_t level_after(const Program *p, const int32_t *level, int32_t row, int32_t so_far) {
    int32_t unit = row == NONE ? NONE : p->unit_of[row];
    return unit != NONE && level[unit] >= so_far ? level[unit] + 1 : so_far;
}

static void find_levels(const Program *p, int32_t *level, int32_t *code) {
    const Rows *r = &p->rows;
    for (int32_t u = 0; u < p->n_units; u++) {
        int32_t row = p->row_of[u], op = r->op[row], deepest = 0;
        for (int32_t t = p->first[u]; t < p->first[u + 1]; t++) {
            deepest = level_after(p, level, p->term_x[t], deepest);
            deepest = level_after(p, level, p->term_y[t], deepest);
        }
        if (op >= PICK)
            for (int32_t k = 1; k <= r->lists[r->left[row]]; k++)
                deepest = level_after(p, level, r->lists[r->left[row] + k], deepest);
        level[u] = deepest;
        code[u] = op > MUL ? op : 16 + 2 * (p->first[u + 1] - p->first[u]) + p->from_zero[u];
    }
}

/* Sums stand in blocks of LANES (the last block is as wide as what is left): the first products
   of all lanes, then their second products, and so on. */
static void place_pairs(Program *p, const int32_t *units, int32_t count, int32_t at) {
    int32_t one = p->rows.n_parameters + p->rows.n_inputs;
    for (int32_t done = 0; done < count; done += LANES) {
        int32_t lanes = count - done < LANES ? count - done : LANES;
        int32_t length = p->first[units[done] + 1] - p->first[units[done]];
        for (int32_t k = 0; k < length; k++)
            for (int32_t lane = 0; lane < lanes; lane++) {
                int32_t t = p->first[units[done + lane]] + k;
                p->forward_pairs[at].x = p->slot[p->term_x[t]];
                p->forward_pairs[at++].y = p->term_y[t] == NONE ? one : p->slot[p->term_y[t]];
            }
    }
}

static void place_items(Program *p, const int32_t *units, int32_t count, int32_t at) {
    const Rows *r = &p->rows;
    for (int32_t i = 0; i < count; i++, at++) {
        int32_t row = p->row_of[units[i]], op = r->op[row];
        Item item = {op >= PICK ? r->left[row] : p->slot[r->left[row]], p->slot[row],
                     p->slope[units[i]], r->right[row]};
        p->items[at] = item;
    }
}

static void give_slots(Program *p, const int32_t *order, int32_t count, const int32_t *twin) {
    const Rows *r = &p->rows;
    int32_t next = r->n_parameters + r->n_inputs + 1 + r->n_constants;
    int32_t first_constant = next - r->n_constants;
    for (int32_t i = 0; i < r->count; i++)
        p->slot[i] = r->op[i] == PARAMETER  ? r->left[i]
                     : r->op[i] == INPUT    ? r->n_parameters + r->left[i]
                     : r->op[i] == CONSTANT ? first_constant + r->left[i]
                                            : NONE;
    for (int32_t k = 0; k < count; k++) p->slot[p->row_of[order[k]]] = next++;
    for (int32_t k = 0; k < count; k++) { /* exp is its own slope; sums and picks need none */
        int32_t u = order[k], op = r->op[p->row_of[u]];
        p->slope[u] = op == EXP ? p->slot[p->row_of[u]] : op > MUL && op < PICK ? next++ : NONE;
    }
    for (int32_t u = 0; u < p->n_units; u++) {
        p->slot[p->row_of[u]] = p->slot[p->row_of[twin[u]]];
        p->slope[u] = p->slope[twin[u]];
    }
    p->n_slots = next;
}

static void plan_forward(Program *p) {
    int32_t n = p->n_units, count = 0, pairs = 0, items = 0;
    int32_t *twin = TAKE(n, int32_t), *level = TAKE(n, int32_t), *code = TAKE(n, int32_t);
    int32_t *order = p->forward_outs = TAKE(n, int32_t);
    share_twins(p, twin);
    find_levels(p, level, code);
    for (int32_t u = 0; u < n; u++)
        if (twin[u] == u) order[count++] = u;
    sort_by(p, order, count, code);
    sort_by(p, order, count, level);
    give_slots(p, order, count, twin);
    for (int32_t i = 0, j; i < count; i = j) { /* i .. j: one level, one kind, one length */
        for (j = i; j < count && level[order[j]] == level[order[i]]
                    && code[order[j]] == code[order[i]];)
            j++;
        int32_t c = code[order[i]], length = c < 16 ? 0 : (c - 16) / 2;
        Step step = {c < 16 ? c : c % 2 ? SUM_FROM_ZERO : SUM, j - i, length,
                     c < 16 ? items : pairs, i};
        p->forward[p->n_forward++] = step;
        if (c < 16) place_items(p, order + i, j - i, items), items += j - i;
        else place_pairs(p, order + i, j - i, pairs), pairs += (j - i) * length;
    }
    for (int32_t k = 0; k < count; k++) p->forward_outs[k] = p->slot[p->row_of[order[k]]];
    for (int32_t k = 0; k < p->rows.n_lists; k++) { /* counts stay where they are unused */
        int32_t row = p->rows.lists[k];
        p->list_slots[k] = row < p->rows.count ? p->slot[row] : NONE;
    }
    give(twin);
    give(level);
    give(code);
}

/* ---- the door ---- */

static void fill_values(Program *p) {
    const Rows *r = &p->rows;
    double *after = p->values + r->n_parameters + r->n_inputs;
    after[0] = 1.0;
    if (r->n_constants) memcpy(after + 1, r->constants, (size_t)r->n_constants * sizeof(double));
}

static void build(Program *p, int gradient) {
    int32_t n = p->rows.count;
    int32_t *uses = TAKE(n, int32_t);
    uint8_t *fused = TAKE(n, uint8_t);
    find_live(p, uses);
    fuse(p, uses, fused);
    int32_t units = 0;
    for (int32_t i = 0; i < n; i++) units += uses[i] && !fused[i] && p->rows.op[i] >= ADD;
    p->unit_of = TAKE(n, int32_t);
    p->slot = TAKE(n, int32_t);
    p->row_of = TAKE(units, int32_t);
    p->kind = TAKE(units, uint8_t);
    p->first = TAKE(units + 1, int32_t);
    p->from_zero = TAKE(units, uint8_t);
    p->slope = TAKE(units, int32_t);
    p->forward = TAKE(units, Step);
    p->items = TAKE(units, Item);
    p->list_slots = TAKE(p->rows.n_lists, int32_t);
    p->term_x = TAKE(2 * (size_t)n, int32_t); /* every row adds two terms at most */
    p->term_y = TAKE(2 * (size_t)n, int32_t);
    make_units(p, uses, fused);
    p->forward_pairs = TAKE(p->n_terms, Pair);
    plan_forward(p);
    p->values = TAKE(p->n_slots, double);
    fill_values(p);
    give(uses);
    give(fused);
    p->choice = TAKE(p->rows.n_picks, int32_t);
    p->walked_choice = TAKE(p->rows.n_picks, int32_t);
    if (gradient) plan_backward(p);
}

void program_free(Program *p) {
    while (p->blocks) give(p->blocks + 1);
    free(p);
}

/* A program for `results`, rows of the recording, and the gradient of the first if wanted;
   NULL when there is no memory for it. */
Program *program_new(const Rows *rows, const int32_t *results, int32_t n_results,
                     int32_t gradient) {
    Program *const p = calloc(1, sizeof(Program));
    if (!p) return NULL;
    if (setjmp(p->no_memory)) {
        program_free(p);
        return NULL;
    }
    p->rows = *rows;
    p->n_results = n_results;
    p->results = TAKE(n_results, int32_t);
    memcpy(p->results, results, (size_t)n_results * sizeof(int32_t));
    build(p, gradient);
    return p;
}
