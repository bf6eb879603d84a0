/* The order in which each gradient is added up.

   value.py walks the graph depth first and then adds contributions in reverse order of the walk.
   Floating-point addition depends on order, so the same walk is made here, over units. Only its
   result matters: a key for every contribution. Each gradient adds its members by falling key.
   Picks (the row of a token, the probability of the target) change the walk. It is then redone,
   and only the lists that hold a unit whose key changed are sorted again.

   Keys: a unit takes the next number when it is done. A sum takes two for every term, one for the
   product and one for its addition, as soon as the term's operands are done. When all operands
   were done before, its keys are consecutive, and it keeps only the first.
   Read: walk -> enter -> step_inside | sort_again. */
#include "tape.h"

#include <stdlib.h>
#include <string.h>

static int32_t n_terms(const Program *p, int32_t unit) {
    return p->kind[unit] <= MUL ? p->first[unit + 1] - p->first[unit] : 0;
}

static int32_t chosen(const Program *p, int32_t pick_unit) {
    return p->choice[p->rows.right[p->row_of[pick_unit]]];
}

static int32_t chosen_row(const Program *p, int32_t pick_unit) {
    return p->rows.lists[p->rows.left[p->row_of[pick_unit]] + 1 + chosen(p, pick_unit)];
}

/* ---- the walk ---- */

static void note_change(Program *p, int32_t unit) { p->changed[p->n_changed++] = unit; }

/* All operands of `unit` are done: give it consecutive keys. */
static int32_t key_by_unit(Program *p, int32_t unit, int32_t next) {
    if (p->keyed[unit] != BY_UNIT || p->key[unit] != next) note_change(p, unit);
    p->keyed[unit] = BY_UNIT;
    p->key[unit] = next;
    return next + 2 * n_terms(p, unit) + 1;
}

/* Terms up to `end` of a sum are done. */
static int32_t key_terms(Program *p, Frame *f, int32_t end, int32_t next) {
    int32_t *keys = p->term_key + p->first[f->unit];
    for (; f->term < end; f->term++, next += 2) {
        f->changed |= keys[f->term] != next;
        keys[f->term] = next;
    }
    return next;
}

/* The next operand of the unit at the top of the stack that was not seen yet, or NONE. */
static int32_t step_inside(Program *p, Frame *f, int32_t *next) {
    int32_t list = p->visit_list[f->unit];
    if (p->kind[f->unit] == PICK) {
        int32_t unit = f->visit++ ? NONE : p->unit_of[chosen_row(p, f->unit)];
        int fresh = unit != NONE && p->reach[unit] && p->seen[unit] != p->now;
        return fresh ? unit : NONE;
    }
    for (; f->visit < p->list_end[list]; f->visit++) {
        Visit v = p->visits[f->visit];
        if (p->seen[v.unit] == p->now) continue;
        if (n_terms(p, f->unit)) *next = key_terms(p, f, v.term, *next);
        f->visit++;
        return v.unit;
    }
    return NONE;
}

/* Come to a unit that was not seen yet. Returns whether there is something to walk into. */
static int enter(Program *p, int32_t unit, Frame *f, int32_t *next) {
    if (p->seen[unit] != p->now - 1) p->keyed[unit] = NOT_KEYED; /* its keys are of an older walk */
    p->seen[unit] = p->now;
    int32_t list = p->visit_list[unit];
    if (p->kind[unit] != PICK
        && (p->list_at[list] == p->list_end[list] || p->list_seen[list] == p->now)) {
        *next = key_by_unit(p, unit, *next);
        return 0;
    }
    Frame frame = {unit, p->kind[unit] == PICK ? 0 : p->list_at[list], 0,
                   p->keyed[unit] != BY_TERM};
    *f = frame;
    return 1;
}

static void leave(Program *p, Frame *f, int32_t *next) {
    int32_t terms = n_terms(p, f->unit);
    if (p->kind[f->unit] != PICK) p->list_seen[p->visit_list[f->unit]] = p->now;
    if (!terms) {
        *next = key_by_unit(p, f->unit, *next);
        return;
    }
    *next = key_terms(p, f, terms, *next) + 1;
    if (f->changed) note_change(p, f->unit);
    p->keyed[f->unit] = BY_TERM;
}

static void walk_from_root(Program *p) {
    int32_t next = 0, top = 0;
    top += enter(p, p->unit_of[p->root], p->stack, &next);
    while (top) {
        int32_t unit = step_inside(p, &p->stack[top - 1], &next);
        if (unit == NONE) leave(p, &p->stack[--top], &next);
        else top += enter(p, unit, &p->stack[top], &next);
    }
}

/* ---- sorting what changed ---- */

static int32_t key_of(const Program *p, Member m) { /* -1: not in this walk */
    if (p->seen[m.unit] != p->now) return -1;
    if (p->kind[m.unit] == PICK) return chosen(p, m.unit) == m.place ? p->key[m.unit] : -1;
    if (p->keyed[m.unit] == BY_TERM)
        return p->term_key[p->first[m.unit] + m.place / 2] + m.place % 2;
    return p->key[m.unit] + m.place;
}

static int32_t first_key(const Program *p, int32_t unit) {
    if (p->seen[unit] != p->now) return -1;
    return p->keyed[unit] == BY_TERM ? p->term_key[p->first[unit]] : p->key[unit];
}

static int32_t last_key(const Program *p, int32_t unit) {
    int32_t terms = n_terms(p, unit);
    return p->keyed[unit] == BY_TERM ? p->term_key[p->first[unit] + terms - 1] + 1
                                     : p->key[unit] + 2 * terms;
}

static int falling(const void *a, const void *b) {
    int32_t x = ((const Keyed *)a)->key, y = ((const Keyed *)b)->key;
    return (x < y) - (x > y);
}

/* By falling key. Lists are nearly sorted except the first time. */
static void sort_keys(Keyed *k, int32_t n) {
    int64_t moves = 0;
    for (int32_t i = 1; i < n; i++) {
        Keyed it = k[i];
        int32_t j = i;
        for (; j && k[j - 1].key < it.key; j--, moves++) k[j] = k[j - 1];
        k[j] = it;
        if (moves < 16 * (int64_t)n + 64) continue;
        qsort(k, (size_t)n, sizeof(Keyed), falling);
        return;
    }
}

/* Put the members of a list into the order of p->sorting; the first `alive` of them count. */
static void reorder(Program *p, int32_t grad, int32_t alive) {
    Member *m = p->members + p->first_member[grad];
    int32_t n = p->first_member[grad + 1] - p->first_member[grad];
    Pair *pair = p->backward_pairs + p->pair_at[grad];
    for (int32_t k = 0; k < n; k++) p->sorted[k] = m[p->sorting[k].index];
    memcpy(m, p->sorted, (size_t)n * sizeof(Member));
    for (int32_t k = 0; k < alive; k++, pair += p->pair_step[grad]) {
        pair->x = m[k].slope;
        pair->y = p->grad_of[p->row_of[m[k].unit]];
    }
    p->length[grad] = alive;
}

/* Take keys into p->sorting; returns how many are alive, or NONE if they already are in order. */
static int32_t take_keys(Program *p, int32_t grad, int by_member) {
    const Member *m = p->members + p->first_member[grad];
    int32_t n = p->first_member[grad + 1] - p->first_member[grad], alive = 0, in_order = 1;
    for (int32_t k = 0; k < n; k++) {
        int32_t key = by_member ? key_of(p, m[k]) : first_key(p, m[k].unit);
        if (k && key > p->sorting[k - 1].key) in_order = 0;
        alive += key >= 0;
        p->sorting[k].key = key;
        p->sorting[k].index = k;
    }
    return in_order && alive == p->length[grad] ? NONE : alive;
}

static void sort_list(Program *p, int32_t grad) {
    int32_t alive = take_keys(p, grad, 1);
    if (alive == NONE) return;
    sort_keys(p->sorting, p->first_member[grad + 1] - p->first_member[grad]);
    reorder(p, grad, alive);
}

/* Whether no two units of a list overlap in the walk: then their order holds for all terms. */
static int units_apart(const Program *p, int32_t grad, int32_t alive) {
    const Member *m = p->members + p->first_member[grad];
    for (int32_t k = 0; k + 1 < alive; k++)
        if (last_key(p, m[k + 1].unit) >= first_key(p, m[k].unit)) return 0;
    return 1;
}

static void sort_class(Program *p, int32_t class) {
    const int32_t *list = p->class_lists + p->class_first[class];
    int32_t count = p->class_first[class + 1] - p->class_first[class];
    if (count > 1 && !p->split[class]) {
        int32_t alive = take_keys(p, list[0], 0);
        if (alive != NONE) {
            sort_keys(p->sorting, p->first_member[list[0] + 1] - p->first_member[list[0]]);
            for (int32_t k = 0; k < count; k++) reorder(p, list[k], alive);
        }
        if (units_apart(p, list[0], p->length[list[0]])) return;
        p->split[class] = 1;
    }
    for (int32_t k = 0; k < count; k++) sort_list(p, list[k]);
}

static void mark(Program *p, int32_t class) {
    if (p->is_dirty[class]) return;
    p->is_dirty[class] = 1;
    p->dirty[p->n_dirty++] = class;
}

static void mark_option(Program *p, int32_t row) {
    if (p->grad_of[row] != NONE) mark(p, p->class_of[p->grad_of[row]]);
}

/* Bring the lists that have members to the front of their loose steps. */
static void gather_loose(Program *p) {
    for (Step *s = p->backward; s < p->backward + p->n_backward; s++) {
        if (s->kind != LOOSE_GRADS && s->kind != LOOSE_PARAMETERS) continue;
        s->length = 0;
        for (int32_t k = 0; k < s->count; k++) {
            int32_t g = p->backward_lists[s->start_out + k];
            if (p->length[g]) p->backward_outs[s->start_out + s->length++] = g;
            else p->grads[g] = 0.0;
        }
    }
}

/* Redo the order for p->choice. Cheap when few picks moved. */
void walk(Program *p) {
    p->now++;
    p->n_changed = p->n_dirty = 0;
    walk_from_root(p);
    for (int32_t i = 0; i < p->n_unsure; i++) /* walked last time, not this time */
        if (p->seen[p->unsure[i]] == p->now - 1) note_change(p, p->unsure[i]);
    for (int32_t i = 0; i < p->n_changed; i++) {
        const int32_t *of = p->unit_first + p->changed[i];
        for (int32_t k = of[0]; k < of[1]; k++) mark(p, p->unit_classes[k]);
    }
    for (int32_t i = 0; i < p->n_pick_units; i++) {
        int32_t row = p->row_of[p->pick_units[i]], pick = p->rows.right[row];
        const int32_t *options = p->rows.lists + p->rows.left[row] + 1;
        if (p->walked_choice[pick] == p->choice[pick]) continue;
        mark_option(p, options[p->walked_choice[pick]]);
        mark_option(p, options[p->choice[pick]]);
    }
    for (int32_t i = 0; i < p->n_dirty; i++) {
        sort_class(p, p->dirty[i]);
        p->is_dirty[p->dirty[i]] = 0;
    }
    gather_loose(p);
    memcpy(p->walked_choice, p->choice, (size_t)p->rows.n_picks * sizeof(int32_t));
}
