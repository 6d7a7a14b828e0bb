// What paged_attention and paged_attention_prefill share: block tables, lengths, and keys by block.
#pragma once

#include "attention.h"

namespace infiniop::cpu {

// Indices of any of the three types that the ABI allows.
template <class F> Status visit_index(infiniDtype_t dtype, F &&f) {
    switch (dtype) {
    case INFINI_DTYPE_I32:
        return f(Type<int32_t>{});
    case INFINI_DTYPE_U32:
        return f(Type<uint32_t>{});
    case INFINI_DTYPE_I64:
        return f(Type<int64_t>{});
    default:
        return unsupported_dtype();
    }
}

struct PagedCache {
    struct Side {
        ptrdiff_t block, head, row, last;
    };

    Side k, v;
    size_t nblocks, block_size;
    ptrdiff_t table_row;
    size_t table_blocks; // entries of a block table

    static PagedCache of(const Call &call, size_t k_cache, size_t v_cache, size_t block_tables) {
        const auto side = [&](size_t t) {
            return Side{call.stride(t, 0), call.stride(t, 1), call.stride(t, 2), call.stride(t, 3)};
        };
        return {side(k_cache),
                side(v_cache),
                call.dim(k_cache, 0),
                call.dim(k_cache, 2),
                call.stride(block_tables, 0),
                call.dim(block_tables, 1)};
    }

    size_t max_keys() const { return table_blocks * block_size; }

    // Whether a sequence's length fits its table, and the entries that it uses name blocks.
    template <class I> Status check(const char *op, const I *tables, const I *lengths, size_t sequence) const {
        const int64_t length = int64_t(lengths[sequence]);
        if (length > int64_t(max_keys())) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "seq_lens", Text("lengths of at most %zu", max_keys()),
                        Text("%lld at [%zu]", (long long)length, sequence));
        }
        const I *table = tables + ptrdiff_t(sequence) * table_row;
        for (int64_t i = 0; i * int64_t(block_size) < length; i++) {
            if (int64_t(table[i]) < 0 || int64_t(table[i]) >= int64_t(nblocks)) {
                return fail(INFINI_STATUS_BAD_PARAM, op, "block_tables", Text("blocks below %zu", nblocks),
                            Text("%lld at [%zu, %lld]", (long long)table[i], sequence, (long long)i));
            }
        }
        return INFINI_STATUS_SUCCESS;
    }

    template <class T, class I>
    void locate(const T *keys, const T *values, const I *table, size_t t, size_t count, const T **k_rows,
                const T **v_rows) const {
        size_t block = t / block_size, row = t % block_size;
        for (size_t i = 0; i < count; block++, row = 0) {
            const ptrdiff_t which = ptrdiff_t(table[block]);
            for (; row < block_size && i < count; row++, i++) {
                k_rows[i] = keys + which * k.block + ptrdiff_t(row) * k.row;
                v_rows[i] = values + which * v.block + ptrdiff_t(row) * v.row;
            }
        }
    }
};

} // namespace infiniop::cpu
