// Blocked matrix product for many rows. A is packed into panels in the workspace; tasks of some rows and columns, each
// taken by whichever thread is free, multiply it with panels of B. The order of a sum depends on k alone, so results do
// not depend on the threads.
#pragma once

#include "lanes.h"
#include "tile.h"

namespace infiniop::cpu {

// How the panels of B come about.
enum class Source {
    along,  // neighbours in memory are neighbours along k: packed by the task that uses them
    across, // neighbours are neighbours in a row of B: packed before, in long rows
    packed, // they lie ready, or the task that uses them unpacks them
};

class BlockedProduct {
public:
    BlockedProduct() = default;
    // word: elements along k in a word of the panels.
    BlockedProduct(size_t batch, size_t m, size_t n, size_t k, size_t word, Source source)
        : batch_(batch), m_(m), n_(n), terms_(k), k_(div_up(k, word)), lanes_(thread_count()), source_(source) {
        depth_ = std::min(k_, max_depth);
        tall_ = div_up(std::max<size_t>(m, 1), div_up(std::max<size_t>(m, 1), tile_rows));
        rows_ = block(m, tall_, tall_, max_a / std::max<size_t>(depth_, 1));
        columns_ = n;
        mc_ = round_up(div_up(rows_, div_up(rows_, macro_rows)), tall_);
        nc_ = std::min(round_up(std::max<size_t>(n, 1), tile_columns), macro_columns);
        while (tasks() < 8 * lanes_ && (mc_ > tall_ || nc_ > tile_columns)) {
            if (nc_ > tile_columns) {
                nc_ = round_up(nc_ / 2, tile_columns);
            } else {
                mc_ = round_up(mc_ / 2, tall_);
            }
        }
        ahead_ = source == Source::across || (source == Source::along && (rows_ > mc_ || m > rows_));
        if (ahead_ || split()) {
            const size_t limit =
                std::min(ahead_ ? max_b / std::max<size_t>(depth_, 1) : n, split() ? max_sums / rows_ : n);
            columns_ = block(n, tile_columns, nc_, limit);
        }
        if (rows_ >= m && columns_ >= n && !split()) {
            const size_t words = std::max<size_t>((rows_ + (ahead_ ? columns_ : 0)) * k_, 1);
            group_ = std::clamp<size_t>(max_b / words, 1, std::max<size_t>(batch, 1));
        }
    }

    size_t workspace() const { return (a_words() + b_words() + sum_words()) * sizeof(float) + vector_bytes; }

    // P: what the panels hold. pack_a(dst, batch, row, rows, k, count) fills one panel of A, [words][tile_rows];
    // panel_b(dst, batch, column, columns, k, count) fills one of B, [words][tile_columns], and returns it, or returns
    // memory of its own; finish(batch, row, column, count, sums) stores a piece of a row of the result.
    template <class P, class PackA, class PanelB, class Finish>
    void run(void *workspace, PackA &&pack_a, PanelB &&panel_b, Finish &&finish) const {
        char *memory = reinterpret_cast<char *>(round_up(reinterpret_cast<uintptr_t>(workspace), vector_bytes));
        Block<P> at{};
        at.a = reinterpret_cast<P *>(memory);
        at.b = reinterpret_cast<P *>(memory + a_words() * sizeof(float));
        at.sums = reinterpret_cast<float *>(memory + (a_words() + b_words()) * sizeof(float));
        for (at.batch = 0; at.batch < batch_; at.batch += group_) {
            at.batches = std::min(group_, batch_ - at.batch);
            for (at.row = 0; at.row < m_; at.row += rows_) {
                at.rows = std::min(rows_, m_ - at.row);
                for (at.column = 0; at.column < n_; at.column += columns_) {
                    at.columns = std::min(columns_, n_ - at.column);
                    run_block(at, pack_a, panel_b, finish);
                }
            }
        }
    }

private:
    static constexpr size_t macro_rows = 512;
    static constexpr size_t macro_columns = 4 * tile_columns;
    static constexpr size_t depth_step = vector_bytes == 64 ? 128 : 256; // a panel of B stays in L1
    static constexpr size_t task_depth = 1024;                           // packed by a task at a time
    static constexpr size_t max_depth = 8192;
    static constexpr size_t across_panels = 16, across_step = 64; // packed together, so that B is read in long rows
    static constexpr size_t max_a = 4u << 20, max_b = 4u << 20;   // words that are packed at a time
    static constexpr size_t max_sums = 4u << 20;

    // What is packed at a time. k and depth are in words.
    template <class P> struct Block {
        P *a, *b;
        float *sums;
        size_t batch, batches, row, rows, column, columns, k, depth;
    };

    // Even blocks of about `limit` rows or columns, at least `least` but for the last.
    static size_t block(size_t n, size_t unit, size_t least, size_t limit) {
        const size_t most = std::max(limit / least * least, least);
        return n <= most ? round_up(std::max<size_t>(n, 1), unit) : round_up(div_up(n, div_up(n, most)), unit);
    }

    bool split() const { return k_ > depth_; }
    size_t panels(size_t rows) const { return div_up(rows, tall_); }
    size_t a_words() const { return round_up(group_ * panels(rows_) * tile_rows * depth_, width); }
    size_t b_words() const {
        return ahead_ ? group_ * round_up(columns_, tile_columns) * depth_ : lanes_ * lane_words();
    }
    size_t lane_words() const { return nc_ * std::min(depth_, task_depth); }
    size_t sum_row() const { return round_up(split() ? columns_ : nc_, tile_columns); }
    // Sums of a task per lane; of the whole block when the depth is split.
    size_t sum_words() const { return (split() ? rows_ : lanes_ * mc_) * sum_row(); }
    size_t tasks() const { return std::min(group_, batch_) * div_up(rows_, mc_) * div_up(columns_, nc_); }

    template <class P, class PackA, class PanelB, class Finish>
    void run_block(Block<P> &at, PackA &pack_a, PanelB &panel_b, Finish &finish) const {
        at.k = 0;
        do {
            at.depth = std::min(depth_, k_ - at.k);
            pack(at, at.column == 0 || split(), pack_a, panel_b);
            const size_t down = div_up(at.rows, mc_), across = div_up(at.columns, nc_);
            for_tasks(at.batches * down * across, lanes_, [&](size_t lane, size_t i) {
                const size_t row = i % down * mc_, column = i / down % across * nc_;
                const Task task{lane,   i / (down * across),          row,
                                column, std::min(mc_, at.rows - row), std::min(nc_, at.columns - column)};
                float *sums = at.sums + (split() ? row * sum_row() + column : lane * mc_ * sum_row());
                add_product(at, task, sums, panel_b);
                if (at.k + at.depth == k_) {
                    for (size_t r = 0; r < task.rows; r++) {
                        finish(at.batch + task.g, at.row + row + r, at.column + column, task.columns,
                               sums + r * sum_row());
                    }
                }
            });
            at.k += at.depth;
        } while (at.k < k_);
    }

    template <class P, class PackA, class PanelB>
    void pack(const Block<P> &at, bool with_a, PackA &pack_a, PanelB &panel_b) const {
        const bool across = source_ == Source::across;
        const size_t side = across ? across_panels : 1, step = across ? across_step : std::max<size_t>(at.depth, 1);
        const size_t a_panels = with_a ? panels(at.rows) : 0;
        const size_t b_pieces = ahead_ ? div_up(at.columns, side * tile_columns) * div_up(at.depth, step) : 0;
        const size_t all = a_panels + b_pieces;
        parallel_for(at.depth ? at.batches * all : 0, grain_for(side * step * tile_columns * 4),
                     [&](size_t begin, size_t end) {
                         for (size_t i = begin; i < end; i++) {
                             const size_t g = i / all, piece = i % all;
                             if (piece < a_panels) {
                                 const size_t row = piece * tall_;
                                 pack_a(a_panel(at, g, row), at.batch + g, at.row + row, std::min(tall_, at.rows - row),
                                        first<P>(at.k), count<P>(at.k, at.depth));
                             } else {
                                 pack_piece(at, g, piece - a_panels, side * tile_columns, step, panel_b);
                             }
                         }
                     });
    }

    // Packs `step` words of `side` columns of B.
    template <class P, class PanelB>
    void pack_piece(const Block<P> &at, size_t g, size_t piece, size_t side, size_t step, PanelB &panel_b) const {
        const size_t steps = div_up(at.depth, step), begin = piece / steps * side, k = piece % steps * step;
        for (size_t column = begin; column < std::min(begin + side, at.columns); column += tile_columns) {
            panel_b(b_panel(at, g, column, k), at.batch + g, at.column + column,
                    std::min(tile_columns, at.columns - column), first<P>(at.k + k),
                    count<P>(at.k + k, std::min(step, at.depth - k)));
        }
    }

    // The elements along k of `count` words from k.
    template <class P> static size_t first(size_t k) { return k * word_elements<P>; }
    template <class P> size_t count(size_t k, size_t count) const {
        return std::min(count * word_elements<P>, terms_ - first<P>(k));
    }

    template <class P> P *a_panel(const Block<P> &at, size_t g, size_t row) const {
        return at.a + (g * panels(rows_) + row / tall_) * at.depth * tile_rows * word_elements<P>;
    }
    template <class P> P *b_panel(const Block<P> &at, size_t g, size_t column, size_t k) const {
        return at.b +
               ((g * round_up(columns_, tile_columns) + column) * at.depth + k * tile_columns) * word_elements<P>;
    }

    // A part of a block's result.
    struct Task {
        size_t lane, g, row, column, rows, columns;
    };

    // sums += the product over the block's depth.
    template <class P, class PanelB>
    void add_product(const Block<P> &at, const Task &task, float *sums, PanelB &panel_b) const {
        if (at.k == 0) {
            for (size_t r = 0; r < task.rows; r++) {
                std::fill_n(sums + r * sum_row(), round_up(task.columns, tile_columns), 0.0f);
            }
        }
        for (size_t begin = 0; begin < at.depth; begin += task_depth) {
            const size_t end = std::min(begin + task_depth, at.depth);
            Panel<P> panels[macro_columns / tile_columns];
            for (size_t c = 0; c < task.columns; c += tile_columns) {
                panels[c / tile_columns] = panel(at, task, c, begin, end - begin, panel_b);
            }
            for (size_t k = begin; k < end; k += depth_step) {
                const size_t depth = std::min(depth_step, end - k);
                for (size_t c = 0; c < task.columns; c += tile_columns) {
                    const Panel<P> &b = panels[c / tile_columns];
                    const P *from = b.data + (k - begin) * b.ld * word_elements<P>;
                    const bool narrow = task.columns - c <= width;
                    for (size_t r = 0; r < task.rows; r += tall_) {
                        const P *a = a_panel(at, task.g, task.row + r) + k * tile_rows * word_elements<P>;
                        float *to = sums + r * sum_row() + c;
                        with_count<tile_rows>(std::min(tall_, task.rows - r), [&](auto rows) {
                            constexpr size_t R = decltype(rows)::value;
                            narrow ? multiply_tile<R, 1>(depth, a, 1, tile_rows, from, b.ld, to, sum_row())
                                   : multiply_tile<R, 2>(depth, a, 1, tile_rows, from, b.ld, to, sum_row());
                        });
                    }
                }
            }
        }
    }

    template <class P, class PanelB>
    Panel<P> panel(const Block<P> &at, const Task &task, size_t c, size_t k, size_t depth, PanelB &panel_b) const {
        const size_t column = task.column + c;
        if (ahead_) {
            return {b_panel(at, task.g, column, k)};
        }
        P *own = at.b + (task.lane * lane_words() + c * depth) * word_elements<P>;
        return panel_b(own, at.batch + task.g, at.column + column, std::min(tile_columns, task.columns - c),
                       first<P>(at.k + k), count<P>(at.k + k, depth));
    }

    size_t batch_ = 0, m_ = 0, n_ = 0, terms_ = 0, k_ = 0, lanes_ = 1;
    Source source_ = Source::along;
    size_t tall_ = 1;                                       // rows of a tile
    size_t rows_ = 0, columns_ = 0, depth_ = 0, group_ = 1; // a block: packed at a time
    size_t mc_ = 0, nc_ = 0;                                // of a task
    bool ahead_ = false;                                    // B is packed before the tasks
};

} // namespace infiniop::cpu
