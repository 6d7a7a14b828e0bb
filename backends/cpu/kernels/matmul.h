// Blocked matrix product for many rows. A is packed into panels in the workspace; tasks of some rows and columns, each
// taken by whichever thread is free, multiply it with panels of B. The order of a sum depends on k alone, so results do
// not depend on the threads.
#pragma once

#include "lanes.h"
#include "tile.h"

namespace infiniop::cpu {

// Memory that a panel comes from: rows, `stride` bytes apart.
struct Rows {
    const void *data;
    size_t rows, bytes;
    ptrdiff_t stride;
};

// Fetches rows into the cache bit by bit, while something else is computed.
class Fetch {
public:
    Fetch() = default;
    explicit Fetch(const Rows &rows)
        : at_(static_cast<const char *>(rows.data)), lines_(div_up(rows.bytes, line)), all_(rows.rows * lines_),
          gap_(rows.stride - ptrdiff_t(lines_ * line)) {}

    // The part-th of so many parts.
    void step(size_t part, size_t parts) {
        for (const size_t end = all_ * (part + 1) / parts; done_ < end; done_++, at_ += line) {
            if (in_row_ == lines_) {
                at_ += gap_;
                in_row_ = 0;
            }
            in_row_++;
            __builtin_prefetch(at_, 0, 2);
        }
    }

private:
    static constexpr size_t line = 64;

    const char *at_ = nullptr;
    size_t lines_ = 0, all_ = 0, done_ = 0, in_row_ = 0;
    ptrdiff_t gap_ = 0;
};

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
    // memory of its own; rows_b(batch, column, columns, k, count) says what that reads; finish(batch, row, column,
    // count, sums) stores a piece of a row of the result.
    template <class P, class PackA, class PanelB, class RowsB, class Finish>
    void run(void *workspace, PackA &&pack_a, PanelB &&panel_b, RowsB &&rows_b, Finish &&finish) const {
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
                    run_block(at, pack_a, panel_b, rows_b, finish);
                }
            }
        }
    }

private:
    static constexpr size_t macro_rows = 512;
    static constexpr size_t macro_panels = 4, macro_columns = macro_panels * tile_columns;
    static constexpr size_t depth_step = 256; // of a panel of B, which stays in L1 or near it
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
    size_t lane_words() const { return nc_ * depth_step; }
    size_t sum_row() const { return round_up(split() ? columns_ : nc_, tile_columns); }
    // Sums of a task per lane; of the whole block when the depth is split.
    size_t sum_words() const { return (split() ? rows_ : lanes_ * mc_) * sum_row(); }
    size_t tasks() const { return std::min(group_, batch_) * div_up(rows_, mc_) * div_up(columns_, nc_); }

    template <class P, class PackA, class PanelB, class RowsB, class Finish>
    void run_block(Block<P> &at, PackA &pack_a, PanelB &panel_b, RowsB &rows_b, Finish &finish) const {
        at.k = 0;
        do {
            at.depth = std::min(depth_, k_ - at.k);
            pack(at, at.column == 0 || split(), pack_a, panel_b);
            const size_t down = div_up(at.rows, mc_), across = div_up(at.columns, nc_);
            const auto task = [&](size_t i) {
                const size_t row = i % down * mc_, column = i / down % across * nc_;
                return Task{i / (down * across), row, column, std::min(mc_, at.rows - row),
                            std::min(nc_, at.columns - column)};
            };
            const size_t tasks = at.batches * down * across;
            for_runs(tasks, lanes_, [&](size_t lane, size_t i) {
                const Task t = task(i);
                float *sums = at.sums + (split() ? t.row * sum_row() + t.column : lane * mc_ * sum_row());
                add_product(at, lane, t, task(i + 1 < tasks ? i + 1 : i), sums, panel_b, rows_b);
                if (at.k + at.depth == k_) {
                    for (size_t r = 0; r < t.rows; r++) {
                        finish(at.batch + t.g, at.row + t.row + r, at.column + t.column, t.columns,
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
        size_t g, row, column, rows, columns;
    };

    // sums += the product over the block's depth. `next`: the task that probably follows.
    template <class P, class PanelB, class RowsB>
    void add_product(const Block<P> &at, size_t lane, const Task &task, const Task &next, float *sums, PanelB &panel_b,
                     RowsB &rows_b) const {
        if (at.k == 0) {
            for (size_t r = 0; r < task.rows; r++) {
                std::fill_n(sums + r * sum_row(), round_up(task.columns, tile_columns), 0.0f);
            }
        }
        const size_t tiles = panels(task.rows), across = div_up(task.columns, tile_columns);
        for (size_t k = 0; k < at.depth; k += depth_step) {
            const size_t depth = std::min(depth_step, at.depth - k);
            Panel<P> b[macro_panels];
            Fetch later[macro_panels]; // what the panels after these come from
            for (size_t i = 0; i < across; i++) {
                const size_t c = i * tile_columns;
                b[i] = panel(at, lane, task, c, k, depth, panel_b);
                if (k + depth < at.depth) {
                    later[i] = source(at, task, c, k + depth, rows_b);
                } else if (c < next.columns) {
                    later[i] = source(at, next, c, 0, rows_b);
                }
            }
            for (size_t t = 0; t < tiles; t++) {
                const size_t row = t * tall_, k_words = k * tile_rows * word_elements<P>;
                const P *a = a_panel(at, task.g, task.row + row) + k_words;
                Fetch below;
                if (t + 1 < tiles) {
                    const P *memory = a_panel(at, task.g, task.row + row + tall_) + k_words;
                    below = Fetch({memory, 1, depth * tile_rows * sizeof(float), 0});
                }
                for (size_t i = 0; i < across; i++) {
                    float *to = sums + row * sum_row() + i * tile_columns;
                    multiply(std::min(tall_, task.rows - row), task.columns - i * tile_columns, depth, a, b[i], to);
                    later[i].step(t, tiles);
                    below.step(i, across);
                }
            }
        }
    }

    template <class P>
    void multiply(size_t rows, size_t columns, size_t depth, const P *a, const Panel<P> &b, float *sums) const {
        with_count<tile_rows>(rows, [&](auto count) {
            constexpr size_t R = decltype(count)::value;
            columns <= width ? multiply_tile<R, 1>(depth, a, 1, tile_rows, b.data, b.ld, sums, sum_row())
                             : multiply_tile<R, 2>(depth, a, 1, tile_rows, b.data, b.ld, sums, sum_row());
        });
    }

    template <class P, class PanelB>
    Panel<P> panel(const Block<P> &at, size_t lane, const Task &task, size_t c, size_t k, size_t depth,
                   PanelB &panel_b) const {
        const size_t column = task.column + c;
        if (ahead_) {
            return {b_panel(at, task.g, column, k)};
        }
        return panel_b(at.b + (lane * lane_words() + c * depth) * word_elements<P>, at.batch + task.g,
                       at.column + column, std::min(tile_columns, task.columns - c), first<P>(at.k + k),
                       count<P>(at.k + k, depth));
    }

    // What the panel from k reads.
    template <class P, class RowsB>
    Fetch source(const Block<P> &at, const Task &task, size_t c, size_t k, RowsB &rows_b) const {
        const size_t column = task.column + c, depth = std::min(depth_step, at.depth - k);
        if (ahead_) {
            return Fetch({b_panel(at, task.g, column, k), 1, depth * tile_columns * sizeof(float), 0});
        }
        return Fetch(rows_b(at.batch + task.g, at.column + column, std::min(tile_columns, task.columns - c),
                            first<P>(at.k + k), count<P>(at.k + k, depth)));
    }

    size_t batch_ = 0, m_ = 0, n_ = 0, terms_ = 0, k_ = 0, lanes_ = 1;
    Source source_ = Source::along;
    size_t tall_ = 1;                                       // rows of a tile
    size_t rows_ = 0, columns_ = 0, depth_ = 0, group_ = 1; // a block: packed at a time
    size_t mc_ = 0, nc_ = 0;                                // of a task
    bool ahead_ = false;                                    // B is packed before the tasks
};

} // namespace infiniop::cpu
