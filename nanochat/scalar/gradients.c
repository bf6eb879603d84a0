/* Which rows get a gradient, who adds to it, and the plan of the backward pass. Once per program.

   Every gradient is a list of members, each a slope times the gradient of a unit further up. Lists
   whose members depend on a pick are loose: done one by one. All others stand in blocks, as in
   build.c. The order within a list is the walk's business (walk.c).
   Read: operand -> member -> find_reach -> make_lists -> plan -> make_visits -> plan_backward. */
#include "tape.h"

#include <string.h>

#define TAKE(count, type) take(p, (size_t)(count), sizeof(type))

/* ---- operands of a unit: x and y of each term, or the options of a pick ---- */

static int32_t n_operands(const Program *p, int32_t unit) {
    if (p->kind[unit] == PICK) return p->rows.lists[p->rows.left[p->row_of[unit]]];
    return 2 * (p->first[unit + 1] - p->first[unit]); /* a maximum has no terms: no gradient */
}

static int32_t operand(const Program *p, int32_t unit, int32_t k) { /* a row, or NONE */
    if (p->kind[unit] == PICK) return p->rows.lists[p->rows.left[p->row_of[unit]] + 1 + k];
    return (k & 1 ? p->term_y : p->term_x)[p->first[unit] + k / 2];
}

static int32_t operand_grad(const Program *p, int32_t unit, int32_t k) {
    int32_t row = operand(p, unit, k);
    return row == NONE ? NONE : p->grad_of[row];
}

/* The member that operand k of `unit` receives. */
static Member member(const Program *p, int32_t unit, int32_t k) {
    int32_t one = p->rows.n_parameters + p->rows.n_inputs, op = p->kind[unit];
    int32_t t = p->first[unit] + k / 2;
    Member m = {unit, 0, one};
    if (op == PICK) {
        m.place = k;
    } else if (op > MUL) {
        m.slope = p->slope[unit];
    } else if (p->term_y[t] == NONE) { /* the first two terms are added by one addition */
        m.place = 2 * (k == 0 && !p->from_zero[unit] ? 1 : k / 2) + 1;
    } else {
        m.place = 2 * (k / 2);
        m.slope = p->slot[k & 1 ? p->term_x[t] : p->term_y[t]];
    }
    return m;
}

/* ---- which rows get a gradient, and from whom ---- */

static void find_reach(Program *p) {
    p->reach[p->unit_of[p->root]] = 2;
    for (int32_t u = p->n_units - 1; u >= 0; u--) {
        if (!p->reach[u]) continue;
        uint8_t how = p->kind[u] == PICK ? 1 : p->reach[u];
        for (int32_t k = 0; k < n_operands(p, u); k++) {
            int32_t row = operand(p, u, k);
            if (row == NONE) continue;
            int32_t v = p->unit_of[row];
            if (v != NONE && p->kind[v] != DROP && p->reach[v] < how) p->reach[v] = how;
            if (p->rows.op[row] == PARAMETER) p->grad_of[row] = 0; /* numbered below */
        }
    }
    for (int32_t i = 0; i < p->rows.count; i++) {
        int32_t u = p->unit_of[i];
        int wanted = p->rows.op[i] == PARAMETER ? p->grad_of[i] == 0 : u != NONE && p->reach[u];
        p->grad_of[i] = wanted ? p->n_grads++ : NONE;
    }
}

static void make_lists(Program *p) {
    int32_t *fill = p->first_member = TAKE(p->n_grads + 2, int32_t);
    for (int32_t pass = 0; pass < 2; pass++) { /* count, then fill */
        for (int32_t u = 0; u < p->n_units; u++) {
            if (!p->reach[u]) continue;
            for (int32_t k = 0; k < n_operands(p, u); k++) {
                int32_t g = operand_grad(p, u, k);
                if (g == NONE) continue;
                if (pass) p->members[fill[g + 1]] = member(p, u, k);
                fill[g + 1 + !pass]++;
                if (p->reach[u] == 1 || p->kind[u] == PICK) p->loose[g] = 1;
            }
        }
        if (pass) break; /* filling has moved each start to the next one's place */
        for (int32_t g = 0; g < p->n_grads; g++) fill[g + 2] += fill[g + 1];
        p->members = TAKE(fill[p->n_grads + 1], Member);
    }
}

/* ---- classes: lists that the same units add to ---- */

static int same_units(const Program *p, int32_t a, int32_t b) {
    int32_t i = p->first_member[a], j = p->first_member[b], end = p->first_member[a + 1];
    if (end - i != p->first_member[b + 1] - j) return 0;
    while (i < end)
        if (p->members[i++].unit != p->members[j++].unit) return 0;
    return 1;
}

/* A hash of the units that add to a list; 0 if it must stay alone: picks depend on the row, and a
   unit that adds twice must be looked at in detail. Members stand in the order of their units. */
static uint32_t hash_units(const Program *p, int32_t g) {
    uint32_t h = 0;
    for (int32_t i = p->first_member[g]; i < p->first_member[g + 1]; i++) {
        int32_t unit = p->members[i].unit;
        if (p->kind[unit] == PICK) return 0;
        if (i > p->first_member[g] && unit == p->members[i - 1].unit) return 0;
        h = (h ^ (uint32_t)unit) * 2654435761u + 1;
    }
    return h | 1;
}

static void make_classes(Program *p) {
    int32_t n = p->n_grads;
    uint32_t size = 64;
    while (size < 2u * (uint32_t)n) size *= 2;
    int32_t *table = TAKE(size, int32_t); /* first list of a class, + 1 */
    p->class_of = TAKE(n, int32_t);
    for (int32_t g = 0; g < n; g++) {
        uint32_t hash = hash_units(p, g), h = hash & (size - 1);
        p->class_of[g] = NONE;
        for (; hash && table[h]; h = (h + 1) & (size - 1))
            if (same_units(p, table[h] - 1, g)) {
                p->class_of[g] = p->class_of[table[h] - 1];
                break;
            }
        if (p->class_of[g] != NONE) continue;
        p->class_of[g] = p->n_classes++;
        if (hash) table[h] = g + 1;
    }
    give(table);
    int32_t *fill = p->class_first = TAKE(p->n_classes + 2, int32_t);
    p->class_lists = TAKE(n, int32_t);
    for (int32_t g = 0; g < n; g++) fill[p->class_of[g] + 2]++;
    for (int32_t c = 0; c < p->n_classes; c++) fill[c + 2] += fill[c + 1];
    for (int32_t g = 0; g < n; g++) p->class_lists[fill[p->class_of[g] + 1]++] = g;
}

/* For each unit, the classes of the lists it adds to, each once. */
static void make_unit_classes(Program *p) {
    int32_t *last = TAKE(p->n_classes, int32_t);
    int32_t *fill = p->unit_first = TAKE(p->n_units + 2, int32_t);
    for (int32_t pass = 0; pass < 2; pass++) { /* count, then fill */
        for (int32_t u = 0; u < p->n_units; u++) {
            for (int32_t k = 0; p->reach[u] && k < n_operands(p, u); k++) {
                int32_t g = operand_grad(p, u, k), mark = 2 * u + pass + 1;
                if (g == NONE || last[p->class_of[g]] == mark) continue;
                last[p->class_of[g]] = mark;
                if (pass) p->unit_classes[fill[u + 1]] = p->class_of[g];
                fill[u + 1 + !pass]++;
            }
        }
        if (pass) break;
        for (int32_t u = 0; u < p->n_units; u++) fill[u + 2] += fill[u + 1];
        p->unit_classes = TAKE(fill[p->n_units + 1], int32_t);
    }
    give(last);
}

/* ---- the backward plan ---- */

static void find_grad_levels(Program *p, int32_t *level, int32_t *code) {
    int32_t top = 0;
    for (int32_t u = p->n_units - 1; u >= 0; u--) {
        if (!p->reach[u]) continue;
        int32_t mine = level[p->grad_of[p->row_of[u]]];
        if (mine > top) top = mine;
        for (int32_t k = 0; k < n_operands(p, u); k++) {
            int32_t g = operand_grad(p, u, k);
            if (g != NONE && level[g] <= mine) level[g] = mine + 1;
        }
    }
    for (int32_t g = 0; g < p->n_grads; g++) {
        if (p->rows.op[p->grad_row[g]] == PARAMETER) level[g] = top + 1;
        code[g] = p->loose[g] ? 0 : 1 + p->first_member[g + 1] - p->first_member[g];
    }
}

static void place_lists(Program *p, const int32_t *lists, int32_t count, int32_t at, int blocks) {
    for (int32_t i = 0; i < count; i++) {
        int32_t g = lists[i], size = p->first_member[g + 1] - p->first_member[g];
        int32_t block = i - i % LANES, lanes = count - block < LANES ? count - block : LANES;
        p->pair_at[g] = blocks ? at + block * size + i % LANES : at;
        p->pair_step[g] = blocks ? lanes : 1;
        if (!blocks) at += size;
    }
}

static void plan(Program *p) {
    int32_t *level = TAKE(p->n_grads, int32_t), *code = TAKE(p->n_grads, int32_t);
    int32_t *order = p->backward_lists = TAKE(p->n_grads, int32_t);
    int32_t count = 0, pairs = 0;
    find_grad_levels(p, level, code);
    for (int32_t g = 0; g < p->n_grads; g++)
        if (p->grad_row[g] != p->root) order[count++] = g;
    sort_by(p, order, count, code);
    sort_by(p, order, count, level);
    p->backward = TAKE(count, Step);
    p->backward_outs = TAKE(count, int32_t);
    for (int32_t i = 0, j; i < count; i = j) {
        int32_t c = code[order[i]], leaf = p->rows.op[p->grad_row[order[i]]] == PARAMETER, size = 0;
        for (j = i; j < count && level[order[j]] == level[order[i]] && code[order[j]] == c; j++) {
            int32_t g = order[j];
            size += p->first_member[g + 1] - p->first_member[g];
            p->backward_outs[j] = leaf ? p->rows.left[p->grad_row[g]] : g;
        }
        Step step = {c ? leaf ? PARAMETERS : GRADS : leaf ? LOOSE_PARAMETERS : LOOSE_GRADS,
                     j - i, c - 1, pairs, i};
        p->backward[p->n_backward++] = step;
        place_lists(p, order + i, j - i, pairs, c != 0);
        pairs += size;
    }
    p->backward_pairs = TAKE(pairs, Pair);
    give(level);
    give(code);
}

/* ---- the walk's map: what to visit before each term of a unit is done ---- */

static int same_visits(const Program *p, int32_t list, int32_t at, int32_t end) {
    return p->list_end[list] - p->list_at[list] == end - at
           && !memcmp(p->visits + p->list_at[list], p->visits + at,
                      (size_t)(end - at) * sizeof(Visit));
}

static void make_visits(Program *p) {
    int32_t n = p->n_units, lists = 0, at = 0;
    uint32_t size = 64;
    while (size < 2u * (uint32_t)n) size *= 2;
    int32_t *table = TAKE(size, int32_t); /* list + 1 */
    p->visit_list = TAKE(n, int32_t);
    p->list_at = TAKE(n, int32_t);
    p->list_end = TAKE(n, int32_t);
    p->list_seen = TAKE(n, int32_t);
    p->visits = TAKE(2 * (size_t)p->n_terms, Visit);
    for (int32_t u = 0; u < n; u++) {
        int32_t end = at, list;
        uint32_t h = 0;
        if (!p->reach[u] || p->kind[u] == PICK) continue;
        for (int32_t k = 0; k < n_operands(p, u); k++) {
            int32_t row = operand(p, u, k), v = row == NONE ? NONE : p->unit_of[row];
            if (v == NONE || p->kind[v] == DROP) continue;
            Visit visit = {v, k / 2};
            p->visits[end++] = visit;
            h = (h ^ (uint32_t)v ^ (uint32_t)k << 20) * 2654435761u;
        }
        for (h &= size - 1; (list = table[h] - 1) != NONE; h = (h + 1) & (size - 1))
            if (same_visits(p, list, at, end)) break;
        if (list == NONE) {
            list = lists++;
            table[h] = list + 1;
            p->list_at[list] = at;
            p->list_end[list] = at = end;
        }
        p->visit_list[u] = list;
    }
    give(table);
}

/* What walk.c works with. */
static void prepare_walk(Program *p) {
    int32_t longest = 0;
    for (int32_t g = 0; g < p->n_grads; g++)
        if (p->first_member[g + 1] - p->first_member[g] > longest)
            longest = p->first_member[g + 1] - p->first_member[g];
    p->sorting = TAKE(longest, Keyed);
    p->sorted = TAKE(longest, Member);
    p->seen = TAKE(p->n_units, int32_t);
    p->key = TAKE(p->n_units, int32_t);
    p->term_key = TAKE(p->n_terms, int32_t);
    p->keyed = TAKE(p->n_units, uint8_t);
    p->stack = TAKE(p->n_units, Frame);
    p->changed = TAKE(p->n_units, int32_t);
    p->dirty = TAKE(p->n_classes, int32_t);
    p->is_dirty = TAKE(p->n_classes, uint8_t);
    p->split = TAKE(p->n_classes, uint8_t);
    p->pick_units = TAKE(p->n_units, int32_t);
    p->unsure = TAKE(p->n_units, int32_t);
    for (int32_t u = 0; u < p->n_units; u++) {
        if (p->reach[u] && p->kind[u] == PICK) p->pick_units[p->n_pick_units++] = u;
        if (p->reach[u] == 1) p->unsure[p->n_unsure++] = u;
    }
    p->now = 1;
}

/* Everything about gradients of results[0]. A leaf as the result is left to run.c. */
void plan_backward(Program *p) {
    p->root = p->results[0];
    if (p->unit_of[p->root] == NONE || p->rows.op[p->root] == DROP) return;
    p->reach = TAKE(p->n_units, uint8_t);
    p->grad_of = TAKE(p->rows.count, int32_t);
    memset(p->grad_of, 0xff, (size_t)p->rows.count * sizeof(int32_t));
    find_reach(p);
    p->grad_row = TAKE(p->n_grads, int32_t);
    for (int32_t i = 0; i < p->rows.count; i++)
        if (p->grad_of[i] != NONE) p->grad_row[p->grad_of[i]] = i;
    p->loose = TAKE(p->n_grads, uint8_t);
    make_lists(p);
    make_classes(p);
    make_unit_classes(p);
    p->pair_at = TAKE(p->n_grads, int32_t);
    p->pair_step = TAKE(p->n_grads, int32_t);
    p->length = TAKE(p->n_grads, int32_t);
    p->grads = TAKE(p->n_grads, double);
    plan(p);
    make_visits(p);
    prepare_walk(p);
}
