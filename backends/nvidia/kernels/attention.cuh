// What the attention kernels share: the problem, and where its sequences, rows and keys lie.
//
// A row is a query: the token i of a sequence and the query head h of a key/value head's group, at i * group + h, so
// that all heads of a group share the keys that a block loads. Rows come in tiles.
#pragma once

#include "mma.cuh"

namespace infiniop::nvidia {

// Strides of a tensor of heads, in elements.
struct HeadStrides {
    int64_t sequence, token, head, last;
};

// Keys or values: a block table's entry, or the sequence itself where there is no table, names the block.
struct CacheStrides {
    int64_t block, head, row, last;
};

enum class Index : uint8_t { i32, u32, i64 };

struct AttentionParams {
    const void *q, *k, *v, *tables, *lengths, *starts; // (optional) tables, lengths, starts
    void *out;
    const float *slopes; // (optional)
    float *partial;      // of splits: sums [rows][splits][dv], then maximum and total weight [rows][splits][2]
    HeadStrides q_at, out_at;
    CacheStrides k_at, v_at;
    int64_t table_row, length_stride;
    int sequences, nblocks, kv_heads, group, d, dv;
    int tokens; // queries of each sequence; with starts, of all together
    int keys;   // most of a sequence
    int block_size;
    Divisor by_block, by_group; // block_size, group
    int row_tiles;              // of a sequence; with starts, of all together
    int splits, slices;         // of the keys; of dv
    float scale, epsilon;
    Index table_kind, length_kind;
    bool causal;  // the last query sees every key, the one before it all but one …
    bool zeros;   // a query that sees no key gives 0; else its output is untouched
    bool natural; // maxima of splits are exponents of e; else of 2
};

__device__ __forceinline__ int64_t load_index(const void *p, int64_t i, Index kind) {
    return kind == Index::i64   ? static_cast<const int64_t *>(p)[i]
           : kind == Index::i32 ? int64_t(static_cast<const int32_t *>(p)[i])
                                : int64_t(static_cast<const uint32_t *>(p)[i]);
}

// The queries of a sequence and the keys that it has.
struct Sequence {
    int index, start, tokens, length;
    bool valid; // its values make sense

    Sequence() = default;
    __device__ Sequence(const AttentionParams &p, int n) : index(n), start(0), tokens(p.tokens), length(p.keys) {
        const int64_t count = p.lengths ? load_index(p.lengths, n * p.length_stride, p.length_kind) : p.keys;
        valid = count <= p.keys && (p.tables || count >= 0);
        length = count < 0 || !valid ? 0 : int(count);
        if (p.starts) {
            const int64_t from = load_index(p.starts, n, p.table_kind), to = load_index(p.starts, n + 1, p.table_kind);
            valid = valid && 0 <= from && from <= to && to <= p.tokens;
            start = int(from);
            tokens = int(to - from);
        }
    }

    // Keys that the token sees; 0 or less: none.
    __device__ int visible(const AttentionParams &p, int token) const {
        return p.causal ? length - tokens + token + 1 : length;
    }
};

// The blocks of a sequence, in order.
struct BlockTable {
    const char *entries; // nullptr: there is one, whose number is the sequence's
    int bytes;           // of an entry
    int sequence;

    __device__ BlockTable(const AttentionParams &p, int sequence)
        : entries(static_cast<const char *>(p.tables)), bytes(p.table_kind == Index::i64 ? 8 : 4), sequence(sequence) {
        if (entries) {
            entries += sequence * p.table_row * bytes;
        }
    }

    // Block i, which the entry is known to name: its lower half does.
    __device__ __forceinline__ int block(int i) const {
        return entries ? *reinterpret_cast<const int *>(entries + int64_t(i) * bytes) : sequence;
    }

    // Block i; -1 where the entry is none.
    __device__ __forceinline__ int checked_block(const AttentionParams &p, int i) const {
        if (!entries) {
            return sequence;
        }
        const uint32_t *entry = reinterpret_cast<const uint32_t *>(entries + int64_t(i) * bytes);
        return *entry < uint32_t(p.nblocks) && (bytes == 4 || entry[1] == 0) ? int(*entry) : -1;
    }
};

// Where key t of a sequence lies.
struct KeyRow {
    int block = 0, row = 0; // block: -1 where it has been checked and is none

    KeyRow() = default;
    __device__ __forceinline__ KeyRow(const AttentionParams &p, const BlockTable &table, int t, bool checked = false) {
        const int i = t / p.by_block;
        row = t - i * p.block_size;
        block = checked ? table.checked_block(p, i) : table.block(i);
    }

    __device__ __forceinline__ int64_t offset(const CacheStrides &at) const { // elements; neither is negative
        return int64_t(uint32_t(block) * uint64_t(at.block) + uint32_t(row) * uint64_t(at.row));
    }
};

// Whether a used entry of a sequence's table, of the threads of a block or warp, is no block.
__device__ __forceinline__ bool bad_table(const AttentionParams &p, const Sequence &s, int thread, int threads) {
    const BlockTable table(p, s.index);
    const int used = p.tables ? (s.length + p.block_size - 1) / p.by_block : 0;
    bool bad = false;
    for (int i = thread; i < used; i += threads) {
        bad = bad || table.checked_block(p, i) < 0;
    }
    return bad;
}

// The tile of rows that a block works on: which sequence, and the first row. With starts, tiles of sequence n begin
// at start * group / size + n, which leaves each enough of them whatever the starts are.
struct RowTile {
    int sequence, first;

    __device__ RowTile(const AttentionParams &p, int tile, int size) {
        if (!p.starts) {
            sequence = tile / p.row_tiles;
            first = (tile - sequence * p.row_tiles) * size;
            return;
        }
        int low = 0, high = p.sequences - 1;
        while (low < high) {
            const int middle = (low + high + 1) / 2;
            first_tile(p, middle, size) <= tile ? low = middle : high = middle - 1;
        }
        sequence = low;
        first = int(tile - first_tile(p, low, size)) * size;
    }

    __device__ static int64_t first_tile(const AttentionParams &p, int n, int size) {
        return load_index(p.starts, n, p.table_kind) * p.group / size + n;
    }
};

// How a sequence's keys are split: steps of 16, equal shares of at least 16 steps.
struct Split {
    int steps, share, active;

    __device__ Split(const AttentionParams &p, int limit) {
        steps = (limit + 15) / 16;
        share = (steps + p.splits - 1) / p.splits;
        share = share < 16 ? 16 : share;
        active = (steps + share - 1) / share;
    }
};

// A row of the queries or of the output.
template <class T>
__device__ T *row_of(T *base, const AttentionParams &p, const HeadStrides &at, const Sequence &s, int kv_head,
                     int row) {
    const int token = row / p.by_group, head = kv_head * p.group + row - token * p.group;
    return base + s.index * at.sequence + int64_t(s.start + token) * at.token + head * at.head;
}

// Partial sums and weights of a row, by their number among all rows.
__device__ __forceinline__ float *partial_sums(const AttentionParams &p, int64_t row, int split) {
    return p.partial + (row * p.splits + split) * p.dv;
}

__device__ __forceinline__ float *partial_weights(const AttentionParams &p, int64_t row, int split) {
    const int64_t rows = int64_t(p.sequences) * p.kv_heads * p.tokens * p.group;
    return p.partial + rows * p.splits * p.dv + (row * p.splits + split) * 2;
}

} // namespace infiniop::nvidia
