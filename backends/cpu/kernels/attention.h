// All items of an attention operator, and their distribution over threads.
#pragma once

#include "attention_tile.h"
#include "lanes.h"

namespace infiniop::cpu {

constexpr size_t max_query_rows = 8 * tile_rows; // of an item

// Neighbouring tokens of one sequence.
struct TokenTile {
    size_t sequence, token, tokens;
};

class AttentionPlan {
public:
    AttentionPlan() = default;
    // tokens, keys: of a sequence, at most
    AttentionPlan(size_t sequences, size_t heads, size_t kv_heads, HeadSizes head, size_t tokens, size_t keys)
        : kv_heads_(kv_heads), group_(kv_heads ? heads / kv_heads : 0), lanes_(thread_count()) {
        heads_ = std::clamp<size_t>(group_, 1, max_query_rows);
        tile_tokens = std::clamp<size_t>(max_query_rows / heads_, 1, std::max<size_t>(tokens, 1));
        scratch_ = {head, heads_ * tile_tokens};
        items_ = sequences * kv_heads_ * head_chunks();
        if (tokens <= tile_tokens && items_ > 0) {
            splits_ = std::min(std::clamp<size_t>(split_items / items_, 1, max_splits),
                               std::max<size_t>(keys / split_keys, 1));
        }
    }

    size_t tile_tokens = 1; // of a TokenTile, at most

    size_t workspace() const {
        const size_t counters = splits_ > 1 ? items_ * sizeof(Counter) : 0;
        return (lanes_ * lane_floats() + parts_floats()) * sizeof(float) + counters + vector_bytes;
    }

    // Problem: tiles(), tile(i), queries(tile, head, heads), locate(sequence, kv_head), k_last, v_last; extra is added
    // to the denominator; rows that see no key stay as they are (keep_empty) or become 0.
    template <class T, class Problem>
    void run(void *workspace, const Problem &problem, float extra, bool keep_empty) const {
        float *scratch = reinterpret_cast<float *>(round_up(reinterpret_cast<uintptr_t>(workspace), vector_bytes));
        float *parts = scratch + lanes_ * lane_floats();
        Counter *finished = reinterpret_cast<Counter *>(parts + parts_floats());
        const size_t items = problem.tiles() * kv_heads_ * head_chunks();
        if (items == 0) {
            return; // no query heads: nothing to divide by
        }
        for (size_t i = 0; splits_ > 1 && i < items; i++) {
            new (&finished[i]) Counter{0};
        }
        const size_t pieces = items * splits_,
                     together = std::clamp<size_t>(pieces / (16 * lanes_), 1, items_at_once());
        for_tasks(div_up(pieces, together), lanes_, [&](size_t lane, size_t task) {
            const size_t begin = task * together, end = std::min(begin + together, pieces);
            Piece<T> piece = make_piece<T>(problem, begin);
            for (size_t i = begin; i < end; i++) {
                const Piece<T> next = i + 1 < end ? make_piece<T>(problem, i + 1) : Piece<T>{};
                run_piece(problem, piece, next, scratch + lane * lane_floats(), parts, finished, extra, keep_empty);
                piece = next;
            }
        });
    }

private:
    using Counter = std::atomic<uint32_t>; // pieces of an item that are computed

    // A long context is split when there are few items; by shape and length alone, never by the threads.
    static constexpr size_t split_items = 256, max_splits = 64, split_keys = 256;

    // Some of an item's keys.
    template <class T> struct Piece {
        Queries<T> queries;
        size_t item, sequence, kv_head;
        size_t number, pieces; // of the item
        size_t begin, end;     // keys
    };

    size_t head_chunks() const { return div_up(group_, heads_); }
    size_t lane_floats() const { return round_up(scratch_.floats(), width); }
    size_t part_floats() const { return scratch_.rows * (scratch_.head.padded_v() + width); }
    size_t parts_floats() const { return splits_ > 1 ? items_ * splits_ * part_floats() : 0; }
    size_t items_at_once() const { return kv_heads_ * head_chunks(); } // of one tile
    size_t pieces_at_once() const { return items_at_once() * splits_; }

    template <class T, class Problem>
    void run_piece(const Problem &problem, const Piece<T> &piece, const Piece<T> &next, float *scratch, float *parts,
                   Counter *finished, float extra, bool keep_empty) const {
        if (piece.number >= piece.pieces) {
            return;
        }
        const auto keys_of = [&](const Piece<T> &p) {
            return KeyRange<decltype(problem.locate(0, 0))>{p.begin, p.end, problem.locate(p.sequence, p.kv_head)};
        };
        Attend<T> attend(scratch_, scratch, piece.queries, problem.k_last, problem.v_last);
        const auto following = keys_of(next);
        attend.run(keys_of(piece), next.begin < next.end ? &following : nullptr);
        if (piece.pieces > 1) {
            float *first = parts + piece.item * splits_ * part_floats();
            attend.write_part(first + piece.number * part_floats());
            if (finished[piece.item].fetch_add(1, std::memory_order_acq_rel) + 1 < piece.pieces) {
                return;
            }
            attend.merge(first, piece.pieces, part_floats());
        }
        attend.write(extra, keep_empty);
    }

    // Neighbouring pieces are the heads of the same keys: in a paged cache those lie together. The last tiles see the
    // most keys: they come first.
    template <class T, class Problem> Piece<T> make_piece(const Problem &problem, size_t i) const {
        const size_t chunks = head_chunks(), per_tile = kv_heads_ * chunks;
        Piece<T> piece{};
        piece.item = i / pieces_at_once() * items_at_once() + i % items_at_once();
        piece.number = i % pieces_at_once() / items_at_once();
        const TokenTile tile = problem.tile(problem.tiles() - 1 - piece.item / per_tile);
        const size_t kv_head = piece.item % per_tile / chunks, from = piece.item % chunks * heads_;
        piece.queries = problem.queries(tile, kv_head * group_ + from, std::min(heads_, group_ - from));
        piece.sequence = tile.sequence;
        piece.kv_head = kv_head;
        const size_t keys = size_t(std::max<int64_t>(piece.queries.last_limit(), 0));
        const size_t most = std::clamp<size_t>(keys / split_keys, 1, splits_);
        const size_t length = std::max(round_up(div_up(keys, most), key_tile), key_tile);
        piece.pieces = std::max<size_t>(div_up(keys, length), 1);
        piece.begin = std::min(piece.number * length, keys);
        piece.end = std::min(piece.begin + length, keys);
        return piece;
    }

    size_t kv_heads_ = 0, group_ = 0, heads_ = 1, lanes_ = 1, items_ = 0, splits_ = 1;
    AttentionScratch scratch_{};
};

} // namespace infiniop::cpu
