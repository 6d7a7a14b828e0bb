// Loops over tensors of one shape with any strides: axes of extent 1 dropped, axes ordered by the first operand's
// strides, neighbours merged where every operand allows it, negative strides of the first operand turned round.
#pragma once

#include <array>
#include <utility>

#include "cache.h"
#include "cpu.h"
#include "pool.h"
#include "simd.h"

namespace infiniop::cpu {

constexpr size_t max_rank = 64; // axes of extent 2 or more: their number of elements would not fit otherwise

template <size_t N> struct Nest {
    size_t rank = 0; // at least 1 after `finish`; the innermost axis is the last one
    size_t count = 1;
    size_t shape[max_rank];
    ptrdiff_t strides[N][max_rank];
    ptrdiff_t offset[N] = {}; // of the first element, from the data pointers

    size_t inner() const { return shape[rank - 1]; }
    ptrdiff_t inner_stride(size_t operand) const { return strides[operand][rank - 1]; }

    // Appends an axis; strides in any unit.
    void add_axis(size_t extent, const std::array<ptrdiff_t, N> &axis) {
        count *= extent;
        if (extent == 1 || count == 0) {
            return;
        }
        const bool turn = axis[0] < 0;
        for (size_t i = 0; i < N; i++) {
            offset[i] += turn ? ptrdiff_t(extent - 1) * axis[i] : 0;
            strides[i][rank] = turn ? -axis[i] : axis[i];
        }
        shape[rank++] = extent;
    }

    // Orders and merges the axes added so far.
    void finish() {
        sort();
        merge();
        if (rank == 0) {
            shape[0] = 1;
            for (auto &s : strides) {
                s[0] = 1;
            }
            rank = 1;
        }
    }

    // The nest of whole tensors; `skip` leaves one axis out.
    static Status of(const Call &call, const std::array<size_t, N> &tensors, Nest &nest, size_t skip = SIZE_MAX) {
        nest = {};
        const infiniopTensorView &first = call.tensor(tensors[0]);
        for (size_t axis = 0; axis < first.ndim; axis++) {
            if (nest.rank == max_rank) {
                return fail(INFINI_STATUS_NOT_IMPLEMENTED, call.op(), nullptr, "at most 64 axes longer than 1", "more");
            }
            if (axis != skip) {
                std::array<ptrdiff_t, N> strides;
                for (size_t i = 0; i < N; i++) {
                    strides[i] = call.stride(tensors[i], axis);
                }
                nest.add_axis(first.shape[axis], strides);
            }
        }
        nest.finish();
        return INFINI_STATUS_SUCCESS;
    }

private:
    static size_t magnitude(ptrdiff_t stride) { return size_t(stride < 0 ? -stride : stride); }

    // Whether axis a belongs outside axis b.
    bool outside(size_t a, size_t b) const {
        for (size_t i = 0; i < N; i++) {
            if (magnitude(strides[i][a]) != magnitude(strides[i][b])) {
                return magnitude(strides[i][a]) > magnitude(strides[i][b]);
            }
        }
        return false;
    }

    void swap_axes(size_t a, size_t b) {
        std::swap(shape[a], shape[b]);
        for (auto &s : strides) {
            std::swap(s[a], s[b]);
        }
    }

    void sort() {
        for (size_t i = 1; i < rank; i++) {
            for (size_t j = i; j > 0 && outside(j, j - 1); j--) {
                swap_axes(j, j - 1);
            }
        }
    }

    bool mergeable(size_t outer, size_t inner) const {
        for (auto &s : strides) {
            if (s[outer] != s[inner] * ptrdiff_t(shape[inner])) {
                return false;
            }
        }
        return true;
    }

    void merge() {
        size_t kept = 0;
        for (size_t axis = 1; axis < rank; axis++) {
            if (mergeable(kept, axis)) {
                shape[kept] *= shape[axis];
            } else {
                shape[++kept] = shape[axis];
            }
            for (auto &s : strides) {
                s[kept] = s[axis];
            }
        }
        rank = rank ? kept + 1 : 0;
    }
};

// Walks the axes of a nest, from any position on; offsets follow.
template <size_t N> class Odometer {
public:
    // Over the outermost `rank` axes of the nest.
    Odometer(const Nest<N> &nest, size_t rank, size_t position) : nest_(nest), rank_(rank) {
        for (size_t i = 0; i < N; i++) {
            offset[i] = nest.offset[i];
        }
        for (size_t axis = rank; axis-- > 0;) {
            index_[axis] = position % nest.shape[axis];
            position /= nest.shape[axis];
            for (size_t i = 0; i < N; i++) {
                offset[i] += ptrdiff_t(index_[axis]) * nest.strides[i][axis];
            }
        }
    }

    void next() {
        for (size_t axis = rank_; axis-- > 0;) {
            for (size_t i = 0; i < N; i++) {
                offset[i] += nest_.strides[i][axis];
            }
            if (++index_[axis] < nest_.shape[axis]) {
                return;
            }
            for (size_t i = 0; i < N; i++) {
                offset[i] -= ptrdiff_t(nest_.shape[axis]) * nest_.strides[i][axis];
            }
            index_[axis] = 0;
        }
    }

    ptrdiff_t offset[N];

private:
    const Nest<N> &nest_;
    size_t rank_;
    size_t index_[max_rank];
};

// Below so much traffic, some microseconds of work, a second thread costs more than it brings.
constexpr size_t least_parallel = 256 << 10;

constexpr size_t usual_piece = 4096; // items

// Calls f(offsets, n) for pieces of the innermost axis, n <= most, in parallel where there is enough of them;
// offsets[i] is operand i's first element.
template <size_t N, class F>
void parallel_pieces(const Nest<N> &nest, size_t bytes_per_element, F &&f, size_t most = usual_piece) {
    const size_t inner = nest.inner(), pieces = (inner + most - 1) / most;
    const size_t rows = nest.count / (inner ? inner : 1);
    const size_t length = inner < most ? inner : most;
    const bool few = nest.count * bytes_per_element < least_parallel;
    const size_t grain = few ? rows * pieces : grain_for(length * bytes_per_element);
    parallel_for(rows * pieces, grain, [&](size_t begin, size_t end) {
        Odometer<N> row(nest, nest.rank - 1, begin / pieces);
        for (size_t i = begin, piece = begin % pieces; i < end; i++) {
            const size_t start = piece * most;
            ptrdiff_t offset[N];
            for (size_t k = 0; k < N; k++) {
                offset[k] = row.offset[k] + ptrdiff_t(start) * nest.inner_stride(k);
            }
            f(offset, inner - start < most ? inner - start : most);
            if (++piece == pieces) {
                piece = 0;
                row.next();
            }
        }
    });
}

// Calls f(offsets) for every position of the nest, in parallel; `bytes` is what one costs.
template <size_t N, class F> void parallel_positions(const Nest<N> &nest, size_t bytes, F &&f) {
    parallel_for(nest.count, grain_for(bytes), [&](size_t begin, size_t end) {
        Odometer<N> position(nest, nest.rank, begin);
        for (size_t i = begin; i < end; i++, position.next()) {
            f(position.offset);
        }
    });
}

// ---- vectors of strided elements ------------------------------------------------------------------------------

inline size_t lanes_in(All, size_t all) { return all; }
inline size_t lanes_in(First part, size_t) { return part.n; }

// The stride is a compile-time 1 where a kernel has a fast path for it.
struct Unit {
    constexpr operator ptrdiff_t() const { return 1; }
};

template <class T, class Part> vector_t<T> load_strided(const T *p, Unit, Part part) { return load(p, part); }
template <class T, class Part> void store_strided(T *p, Unit, vector_t<T> v, Part part) { store(p, v, part); }

// Neighbours that are written past the caches, whole lines of them.
struct Streamed {
    constexpr operator ptrdiff_t() const { return 1; }
};
template <class T> void store_strided(T *p, Streamed, vector_t<T> v, All) { stream(p, v); }
template <class T> void store_strided(T *p, Streamed, vector_t<T> v, First part) { store(p, v, part); }

// Items of a piece that is written past the caches: at its ends are lines that are written twice.
constexpr size_t streamed_piece = 32768;

// Writes p[0, n) by f(begin, count, stride), stride Unit or Streamed: vectors then lie on lines of the cache.
template <class T, class F> void write_lines(T *p, size_t n, bool past_caches, F &&f) {
    constexpr size_t line = cache_line / sizeof(T);
    if (n < 16 * line && !past_caches) {
        return f(size_t{0}, n, Unit{});
    }
    const size_t before = (-reinterpret_cast<uintptr_t>(p) % cache_line) / sizeof(T), head = before < n ? before : n;
    f(size_t{0}, head, Unit{});
    if (!past_caches) {
        return f(head, n - head, Unit{});
    }
    const size_t body = (n - head) / line * line;
    f(head, body, Streamed{});
    f(head + body, n - head - body, Unit{});
    stream_fence();
}

template <class T, class Part> vector_t<T> load_strided(const T *p, ptrdiff_t stride, Part part) {
    T packed[lanes<T>] = {};
    for (size_t i = 0; i < lanes_in(part, lanes<T>); i++) {
        packed[i] = p[ptrdiff_t(i) * stride];
    }
    return load(packed);
}

template <class T, class Part> void store_strided(T *p, ptrdiff_t stride, vector_t<T> v, Part part) {
    T packed[lanes<T>];
    store(packed, v);
    for (size_t i = 0; i < lanes_in(part, lanes<T>); i++) {
        p[ptrdiff_t(i) * stride] = packed[i];
    }
}

struct Line {
    char bytes[cache_line];
};

// As memcpy, by whole lines of dst. The C library takes `rep movsb` from some KiB on, which is slower here, the more so
// where the two addresses lie alike within their pages.
inline void copy_bytes(char *dst, const char *src, size_t bytes) {
    if (bytes < 4 * sizeof(Line)) {
        std::memcpy(dst, src, bytes);
        return;
    }
    const size_t last = bytes - sizeof(Line);
    std::memcpy(dst, src, sizeof(Line));
    for (size_t i = sizeof(Line) - reinterpret_cast<uintptr_t>(dst) % sizeof(Line); i < last; i += sizeof(Line)) {
        Line line;
        std::memcpy(&line, src + i, sizeof(line));
        std::memcpy(dst + i, &line, sizeof(line));
    }
    std::memcpy(dst + last, src + last, sizeof(Line));
}

// Rows of `bytes`, each contiguous; strides in bytes. For short rows a call of memcpy costs more than the copy itself,
// and keeps too few loads in flight.
inline void copy_rows(char *dst, ptrdiff_t to, const char *src, ptrdiff_t from, size_t rows, size_t bytes) {
    if (to == ptrdiff_t(bytes) && from == to) {
        copy_bytes(dst, src, rows * bytes);
        return;
    }
    const bool lines = bytes % sizeof(Line) == 0 && bytes <= 1024;
    for (size_t r = 0; r < rows; r++, dst += to, src += from) {
        if (!lines) {
            copy_bytes(dst, src, bytes);
            continue;
        }
        for (size_t i = 0; i < bytes; i += sizeof(Line)) {
            std::memcpy(dst + i, src + i, sizeof(Line));
        }
    }
}

// dst[i·to] = src[i·from], bit by bit.
template <class X> void copy_strided(X *dst, ptrdiff_t to, const X *src, ptrdiff_t from, size_t n) {
    if (to == 1 && from == 1) {
        copy_bytes(reinterpret_cast<char *>(dst), reinterpret_cast<const char *>(src), n * sizeof(X));
    } else if (to == 1 && from == 0) {
        const X value = *src;
        for (size_t i = 0; i < n; i++) {
            dst[i] = value;
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            dst[ptrdiff_t(i) * to] = src[ptrdiff_t(i) * from];
        }
    }
}

} // namespace infiniop::cpu
