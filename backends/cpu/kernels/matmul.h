// Blocked matrix product for many rows: both operands are packed into f32 panels in the workspace, then macro tiles are
// computed by whichever thread is free. The order of a sum depends on k alone, so results do not depend on the threads.
#pragma once

#include "lanes.h"
#include "tile.h"

namespace infiniop::cpu {

class BlockedProduct {
public:
    BlockedProduct() = default;
    // b_across: neighbours in memory are neighbours in a row of B, not along k.
    BlockedProduct(size_t batch, size_t m, size_t n, size_t k, bool b_across = false)
        : batch_(batch), m_(m), n_(n), k_(k), lanes_(thread_count()), b_across_(b_across) {
        depth_ = std::min(k, max_depth);
        const size_t share = std::max<size_t>(1, std::min<size_t>(lanes_ / 2, 8));
        rows_ = block(m, tile_rows, macro_rows, max_a / std::max<size_t>(depth_, 1));
        columns_ = block(n, tile_columns, macro_columns, share * max_b / std::max<size_t>(depth_, 1));
        mc_ = std::min(rows_, macro_rows);
        nc_ = std::min(columns_, macro_columns);
        if (rows_ >= m && columns_ >= n && depth_ == k) {
            group_ =
                std::clamp<size_t>(max_b / std::max<size_t>((rows_ + columns_) * k, 1), 1, std::max<size_t>(batch, 1));
        }
        while (tiles() < 4 * lanes_ && (mc_ > tile_rows || nc_ > tile_columns)) {
            if (nc_ > tile_columns && nc_ * 2 > mc_) {
                nc_ = round_up(nc_ / 2, tile_columns);
            } else {
                mc_ = round_up(mc_ / 2, tile_rows);
            }
        }
    }

    size_t workspace() const { return (a_floats() + b_floats() + sum_floats()) * sizeof(float) + vector_bytes; }

    // pack_a(dst, batch, row, rows, k, count) fills one panel [count][tile_rows], pack_b likewise
    // [count][tile_columns]; finish(batch, row, column, count, sums) stores a piece of a row of the result.
    template <class PackA, class PackB, class Finish>
    void run(void *workspace, PackA &&pack_a, PackB &&pack_b, Finish &&finish) const {
        Block at{};
        at.a = reinterpret_cast<float *>(round_up(reinterpret_cast<uintptr_t>(workspace), vector_bytes));
        at.b = at.a + a_floats();
        at.sums = at.b + b_floats();
        for (at.batch = 0; at.batch < batch_; at.batch += group_) {
            at.batches = std::min(group_, batch_ - at.batch);
            for (at.row = 0; at.row < m_; at.row += rows_) {
                at.rows = std::min(rows_, m_ - at.row);
                for (at.column = 0; at.column < n_; at.column += columns_) {
                    at.columns = std::min(columns_, n_ - at.column);
                    run_block(at, pack_a, pack_b, finish);
                }
            }
        }
    }

private:
    static constexpr size_t macro_rows = (vector_bytes == 64 ? 12 : 20) * tile_rows;
    static constexpr size_t macro_columns = vector_bytes == 64 ? 256 : 192;
    static constexpr size_t depth_step = 256; // a panel of B stays in L1
    static constexpr size_t max_depth = 8192;
    static constexpr size_t across_panels = 16, across_step = 64; // packed together, so that B is read in long rows
    static constexpr size_t max_a = 4u << 20, max_b = 2u << 20;   // floats that are packed at a time

    // What is packed at a time.
    struct Block {
        float *a, *b, *sums;
        size_t batch, batches, row, rows, column, columns, k, depth;
    };

    // Even blocks of at most `limit` (but at least one macro tile).
    static size_t block(size_t n, size_t unit, size_t macro, size_t limit) {
        const size_t most = std::max(limit / macro * macro, macro);
        return n <= most ? round_up(std::max<size_t>(n, 1), unit) : round_up(div_up(n, div_up(n, most)), unit);
    }

    bool split() const { return k_ > depth_; }
    size_t a_floats() const { return round_up(group_ * rows_ * depth_, width); }
    size_t b_floats() const { return round_up(group_ * columns_ * depth_, width); }
    // Sums of a macro tile per lane; of the whole block when the depth is split.
    size_t sum_floats() const { return split() ? rows_ * columns_ : lanes_ * mc_ * nc_; }
    size_t tiles() const { return std::min(group_, batch_) * div_up(rows_, mc_) * div_up(columns_, nc_); }

    template <class PackA, class PackB, class Finish>
    void run_block(Block &at, PackA &pack_a, PackB &pack_b, Finish &finish) const {
        at.k = 0;
        do {
            at.depth = std::min(depth_, k_ - at.k);
            pack(at, at.column == 0 || split(), pack_a, pack_b);
            const size_t down = div_up(at.rows, mc_), across = div_up(at.columns, nc_);
            for_tasks(at.batches * down * across, lanes_, [&](size_t lane, size_t task) {
                tile(at, lane, task / (down * across), task % down * mc_, task / down % across * nc_, finish);
            });
            at.k += at.depth;
        } while (at.k < k_);
    }

    template <class PackA, class PackB> void pack(const Block &at, bool with_a, PackA &pack_a, PackB &pack_b) const {
        const size_t side = b_across_ ? across_panels : 1,
                     step = b_across_ ? across_step : std::max<size_t>(at.depth, 1);
        const size_t a_panels = with_a ? div_up(at.rows, tile_rows) : 0;
        const size_t b_pieces = div_up(at.columns, side * tile_columns) * div_up(at.depth, step);
        const size_t all = a_panels + b_pieces;
        parallel_for(at.depth ? at.batches * all : 0, grain_for(side * step * tile_columns * 4),
                     [&](size_t begin, size_t end) {
                         for (size_t i = begin; i < end; i++) {
                             const size_t g = i / all, piece = i % all;
                             if (piece < a_panels) {
                                 const size_t row = piece * tile_rows;
                                 pack_a(a_panel(at, g, row), at.batch + g, at.row + row,
                                        std::min(tile_rows, at.rows - row), at.k, at.depth);
                             } else {
                                 pack_piece(at, g, piece - a_panels, side * tile_columns, step, pack_b);
                             }
                         }
                     });
    }

    // Packs `step` rows of `side` columns of B.
    template <class PackB>
    void pack_piece(const Block &at, size_t g, size_t piece, size_t side, size_t step, PackB &pack_b) const {
        const size_t steps = div_up(at.depth, step), first = piece / steps * side, k = piece % steps * step;
        for (size_t column = first; column < std::min(first + side, at.columns); column += tile_columns) {
            pack_b(b_panel(at, g, column) + k * tile_columns, at.batch + g, at.column + column,
                   std::min(tile_columns, at.columns - column), at.k + k, std::min(step, at.depth - k));
        }
    }

    float *a_panel(const Block &at, size_t g, size_t row) const { return at.a + (g * rows_ + row) * at.depth; }
    float *b_panel(const Block &at, size_t g, size_t column) const { return at.b + (g * columns_ + column) * at.depth; }

    template <class Finish>
    void tile(const Block &at, size_t lane, size_t g, size_t row, size_t column, Finish &finish) const {
        const size_t rows = std::min(mc_, at.rows - row), columns = std::min(nc_, at.columns - column);
        const size_t ld = split() ? columns_ : nc_;
        float *sums = split() ? at.sums + row * columns_ + column : at.sums + lane * mc_ * nc_;
        if (at.k == 0) {
            for (size_t r = 0; r < rows; r++) {
                std::fill_n(sums + r * ld, round_up(columns, tile_columns), 0.0f);
            }
        }
        for (size_t k = 0; k < at.depth; k += depth_step) {
            const size_t depth = std::min(depth_step, at.depth - k);
            for (size_t c = 0; c < columns; c += tile_columns) {
                const float *b = b_panel(at, g, column + c) + k * tile_columns;
                for (size_t r = 0; r < rows; r += tile_rows) {
                    const float *a = a_panel(at, g, row + r) + k * tile_rows;
                    with_count<tile_rows>(std::min(tile_rows, rows - r), [&](auto count) {
                        multiply_panels<decltype(count)::value>(depth, a, b, sums + r * ld + c, ld);
                    });
                }
            }
        }
        if (at.k + at.depth == k_) {
            for (size_t r = 0; r < rows; r++) {
                finish(at.batch + g, at.row + row + r, at.column + column, columns, sums + r * ld);
            }
        }
    }

    size_t batch_ = 0, m_ = 0, n_ = 0, k_ = 0, lanes_ = 1;
    bool b_across_ = false;
    size_t rows_ = 0, columns_ = 0, depth_ = 0, group_ = 1; // packed at a time
    size_t mc_ = 0, nc_ = 0;                                // macro tile
};

} // namespace infiniop::cpu
