/* What the host hands to the kernels, in constant memory. Read by both compilers: OpenCL C's and the host's. */
#ifndef PARAMS_H
#define PARAMS_H

#ifdef __OPENCL_C_VERSION__
typedef long i64;
#else
#include <stdint.h>
typedef int64_t i64;
#endif

#define MAX_RANK 12
#define MAX_OPERANDS 4

/* Axes that up to four operands share; strides in elements. */
typedef struct Nest {
    i64 count, rank;
    i64 shape[MAX_RANK];
    i64 stride[MAX_OPERANDS][MAX_RANK];
} Nest;

typedef struct ElementwiseParams {
    Nest nest;
    i64 second; /* silu_and_mul: from the gate to what it multiplies */
} ElementwiseParams;

/* Rows along one axis. */
typedef struct RowParams {
    Nest rows;
    i64 d, step[MAX_OPERANDS]; /* elements of a row; their strides */
    i64 weight_step, bias_step;
    float epsilon;
} RowParams;

typedef struct SoftmaxParams {
    Nest rows; /* causal: without the axis of queries */
    i64 d, step[2];
    i64 queries, query_step[2]; /* causal: row i of s keeps the first d - s + 1 + i */
} SoftmaxParams;

typedef struct CopyParams {
    Nest rows;
    i64 d, step[2], source_row; /* elements of a row; their strides; from row to row of what is copied */
    i64 limit;                  /* rows there are */
} CopyParams;

/* New keys and values [outer.. , heads, rows, d] into a cache. Strides: k cache, v cache, k, v. */
typedef struct CachingParams {
    i64 sequences, heads, tokens, d, dv;
    i64 places, block_size;                       /* rows of a sequence (static) or of the cache (paged) */
    i64 sequence[4], head[4], row[4], element[4]; /* strides; paged: `sequence` of a cache is that of a block */
} CachingParams;

typedef struct RopeParams {
    i64 batch, tokens, heads, half_d, positions;
    i64 y[3], x[3], position[2]; /* strides of batch, token, head */
} RopeParams;

typedef struct ProductParams {
    i64 batch, m, n, k;
    i64 c[3], a[3], b[3]; /* strides of batch, row, column */
} ProductParams;

/* A packed weight: the header, the rows' values, then scales (f32) and zeros (i16) of each row and group. */
typedef struct PackedParams {
    i64 n, k, group_size, groups;
    i64 size, format, dtype, layout;       /* bytes; the header's fields */
    i64 weight_row, scales_row, zeros_row; /* linear_pack: strides of the rows */
    i64 m, y_row, x_row;                   /* linear */
    i64 room;                              /* linear: bytes that the packed tensor has */
} PackedParams;

#define PACKED_HEADER 64
#define PACKED_MAGIC 0x4b50494e49464e49 /* "INFINIPK" */
#define PACKED_OWN 0x6f636c00           /* this backend's layouts: floats as they are, */
#define PACKED_SCALES 0x6f636c01        /* quantised, */
#define PACKED_ZEROS 0x6f636c02         /* quantised with zeros */

/* Strides by sequence (or block), head, token, element. */
typedef struct AttentionParams {
    i64 sequences, heads, group, rows, d, dv; /* group: query heads of a key head; rows: queries of a sequence */
    i64 out[4], q[4], k[4], v[4];
    i64 nseq, block_size, blocks, table_width, table_row, table_step; /* paged; nseq: of packed queries */
    i64 keys, length_step, causal;                                    /* flash_attention */
    i64 past;                                                         /* attention: tokens before the new ones */
    float scale, epsilon;
} AttentionParams;

typedef struct TopKParams {
    Nest rows; /* values, indices, input */
    i64 n, k, step[3];
    i64 largest, sorted;
} TopKParams;

typedef struct SampleParams {
    i64 vocab, token_size;
    i64 row, token; /* strides from row to row of the logits, from token to token of the result */
    i64 step[6];    /* of the parameters' tensors */
} SampleParams;

/* What random_sample is given at run. */
typedef struct Draw {
    i64 row;
    float random_val, topp, temperature;
    int topk;
} Draw;

#endif
