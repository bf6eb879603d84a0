/* The C side of tape.py: what its four parts share.

   build.c      once per program: fuse rows into units, give values their places, plan the work
   gradients.c  once per program: who adds to which gradient
   walk.c       once per set of picks: put those additions into the reference order
   run.c        once per replay: forward, backward, and the Adam step

   The one promise: the same bits as value.py, for any graph. Hence no reassociation, no fused
   multiply-add, libm's own pow, exp, log and tanh, and gradients added up in the order of the
   depth-first walk. Speed comes from what leaves bits alone: one flat instruction list instead of
   objects, sums of products as one instruction, several independent sums side by side. */
#ifndef TAPE_H
#define TAPE_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

/* The operations, numbered as in rows.py. */
enum { PARAMETER, INPUT, CONSTANT, ADD, MUL, POW, EXP, LOG, RELU, TANH, PICK, DROP };

#define NONE (-1)
#define LANES 8 /* independent sums computed side by side */

typedef struct { /* the recording; the arrays belong to Python and outlive the program */
    int32_t count, n_parameters, n_inputs, n_picks, n_lists, n_constants;
    const uint8_t *op;
    const int32_t *left, *right, *lists;
    const double *constants;
} Rows;

typedef struct { /* one product of a sum: X[x] * Y[y] */
    int32_t x, y;
} Pair;

typedef struct { /* one function call, pick or maximum of the forward pass */
    int32_t in, out, slope, extra; /* extra: exponent of a power, number of a pick */
} Item;

typedef struct { /* `count` alike things to do; their outputs are outs[start_out ...] */
    int32_t kind, count, length, start, start_out;
} Step;

typedef struct { /* one addition into a gradient: slope at `slope` times the gradient of `unit` */
    int32_t unit, place, slope; /* place: 2 * term, + 1 if the addition itself adds it;
                                   of a pick: which option */
} Member;

typedef struct { /* an operand to walk into before term `term` of a unit is done */
    int32_t unit, term;
} Visit;

typedef struct { /* a member being sorted */
    int32_t key, index;
} Keyed;

typedef struct { /* a unit that the walk is inside of */
    int32_t unit, visit, term, changed;
} Frame;

typedef struct Block { /* header of an allocation, so that one call frees all of a program's */
    struct Block *next, **link;
} Block;

typedef struct {
    Rows rows;
    Block *blocks;
    jmp_buf no_memory;

    /* Units: what remains of the rows when sums and their products are fused. U units, T terms. */
    int32_t n_units, n_terms;
    int32_t *unit_of;          /* (rows) NONE for leaves and fused rows */
    int32_t *row_of;           /* (U) */
    uint8_t *kind;             /* (U) the operation of that row */
    int32_t *first;            /* (U + 1) first term of each unit */
    int32_t *term_x, *term_y;  /* (T) rows; y is NONE for a plain term */
    uint8_t *from_zero;        /* (U) the sum starts from 0.0, not from its first term */

    /* Values: parameters, inputs, the number one, constants, then the units in order of work. */
    int32_t n_slots, *slot, *slope; /* slot (rows), slope (U): places in `values` */
    double *values;
    int32_t n_forward, n_results, *results, *list_slots, *forward_outs;
    Step *forward;
    Pair *forward_pairs;
    Item *items;

    /* Gradients: one list of additions for each unit and parameter. M lists.
       Lists that the same units add to, in the same order, form a class and are sorted as one. */
    int32_t root, n_grads, n_backward, n_classes;
    int32_t *grad_of;                    /* (rows) NONE where no gradient arrives */
    int32_t *grad_row;                   /* (M) */
    int32_t *first_member;               /* (M + 1) */
    Member *members;
    int32_t *class_of, *class_first, *class_lists; /* (M), (classes + 1), (M) */
    int32_t *unit_first, *unit_classes;  /* (U + 1), classes of the lists a unit adds to */
    uint8_t *split;                      /* (classes) must be sorted list by list */
    uint8_t *loose;                      /* (M) the members depend on picks */
    int32_t *pair_at, *pair_step, *length; /* (M) where a list's pairs stand, how far apart */
    uint8_t *reach;                      /* (U) 0 no gradient, 1 it depends on a pick, 2 yes */
    double *grads;                       /* (M) */
    Step *backward;
    Pair *backward_pairs;
    int32_t *backward_lists, *backward_outs;

    /* The order of the walk, redone when picks change. */
    int32_t now, n_changed, n_dirty, n_pick_units, n_unsure;
    int32_t *choice, *walked_choice;     /* (picks) as given; as of the last walk */
    int32_t *seen, *key, *term_key;      /* (U) number of the last walk that came by; (U); (T) */
    uint8_t *keyed;                      /* (U) BY_UNIT, BY_TERM or NOT_KEYED */
    int32_t *visit_list;                 /* (U) which list of operands; alike units share one */
    int32_t *list_at, *list_end, *list_seen; /* for each such list: its visits, its last walk */
    Visit *visits;
    Frame *stack;
    int32_t *changed, *dirty, *pick_units, *unsure;
    uint8_t *is_dirty;                   /* (classes) */
    Keyed *sorting;                      /* scratch, as long as the longest list */
    Member *sorted;
} Program;

/* build.c */
void *take(Program *p, size_t count, size_t size);
void give(void *memory);
void sort_by(Program *p, int32_t *ids, int32_t count, const int32_t *key);

/* gradients.c */
void plan_backward(Program *p);

/* walk.c */
void walk(Program *p);

enum { BY_UNIT, BY_TERM, NOT_KEYED };

/* Kinds of Step. Forward also uses POW .. DROP. */
enum { SUM_FROM_ZERO = 100, SUM, GRADS, LOOSE_GRADS, PARAMETERS, LOOSE_PARAMETERS };

#endif
