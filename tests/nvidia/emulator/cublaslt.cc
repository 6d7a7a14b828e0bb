// A stand-in for libcublasLt on the emulator: the part of its interface that backends/nvidia/cublaslt.cc uses, checked
// strictly, and products of columns in f32. INFINIOP_CUBLASLT names it. INFINIOP_EMULATOR_CUBLASLT_ALIGNMENT: there is
// no algorithm for memory aligned to less.
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int success = 0, invalid = 7, unsupported = 15;

struct Product {
    int transposed[2] = {}, epilogue = 1;
    const char *bias = nullptr;
};

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t leading;
    int32_t batch = 1;
    int64_t stride = 0;
};

struct Preference {
    uint32_t alignments[4] = {256, 256, 256, 256}, reductions = 7;
};

struct Heuristic {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

size_t size_of(int type) { return type == 0 ? 4 : 2; }

float get(int type, const char *p) {
    float value;
    if (type == 0) {
        memcpy(&value, p, 4);
    } else if (type == 2) {
        _Float16 half;
        memcpy(&half, p, 2);
        value = float(half);
    } else {
        uint16_t bits;
        memcpy(&bits, p, 2);
        const uint32_t wide = uint32_t(bits) << 16;
        memcpy(&value, &wide, 4);
    }
    return value;
}

void put(int type, char *p, float value) {
    if (type == 0) {
        memcpy(p, &value, 4);
    } else if (type == 2) {
        const _Float16 half = _Float16(value);
        memcpy(p, &half, 2);
    } else {
        uint32_t wide;
        memcpy(&wide, &value, 4);
        const uint16_t bits = value != value ? 0x7fff : uint16_t((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
        memcpy(p, &bits, 2);
    }
}

const char *at(const Layout &m, const void *base, int batch, uint64_t row, uint64_t column) {
    return static_cast<const char *>(base) +
           (batch * m.stride + int64_t(column) * m.leading + int64_t(row)) * int64_t(size_of(m.type));
}

template <class T> T read(const void *p) {
    T value;
    memcpy(&value, p, sizeof(value));
    return value;
}

} // namespace

extern "C" {

int cublasLtCreate(void **handle) {
    static int one;
    *handle = &one;
    return success;
}

int cublasLtMatmulDescCreate(void **made, int compute, int scale_type) {
    *made = new Product;
    return (compute == 68 || compute == 77) && scale_type == 0 ? success : unsupported;
}

int cublasLtMatmulDescSetAttribute(void *product, int attribute, const void *value, size_t size) {
    Product &p = *static_cast<Product *>(product);
    if (attribute == 8 && size == sizeof(void *)) {
        p.bias = read<const char *>(value);
    } else if ((attribute == 3 || attribute == 4) && size == 4) {
        p.transposed[attribute - 3] = read<int>(value);
    } else if (attribute == 7 && size == 4) {
        p.epilogue = read<int>(value);
    } else {
        return invalid;
    }
    return success;
}

int cublasLtMatmulDescDestroy(void *product) {
    delete static_cast<Product *>(product);
    return success;
}

int cublasLtMatrixLayoutCreate(void **made, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    *made = new Layout{type, rows, columns, leading};
    return leading >= int64_t(rows) ? success : invalid;
}

int cublasLtMatrixLayoutSetAttribute(void *layout, int attribute, const void *value, size_t size) {
    Layout &m = *static_cast<Layout *>(layout);
    if (attribute == 5 && size == 4) {
        m.batch = read<int32_t>(value);
    } else if (attribute == 6 && size == 8) {
        m.stride = read<int64_t>(value);
    } else {
        return invalid;
    }
    return success;
}

int cublasLtMatrixLayoutDestroy(void *layout) {
    delete static_cast<Layout *>(layout);
    return success;
}

int cublasLtMatmulPreferenceCreate(void **made) {
    *made = new Preference;
    return success;
}

int cublasLtMatmulPreferenceSetAttribute(void *preference, int attribute, const void *value, size_t size) {
    if (attribute >= 5 && attribute <= 8 && size == 4) {
        static_cast<Preference *>(preference)->alignments[attribute - 5] = read<uint32_t>(value);
        return success;
    }
    if (attribute == 3 && size == 4) {
        static_cast<Preference *>(preference)->reductions = read<uint32_t>(value);
        return success;
    }
    return attribute == 1 && size == sizeof(size_t) ? success : invalid;
}

int cublasLtMatmulPreferenceDestroy(void *preference) {
    delete static_cast<Preference *>(preference);
    return success;
}

int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *preference, int,
                                   Heuristic *found, int *count) {
    const Preference &wanted = *static_cast<Preference *>(preference);
    const char *least = getenv("INFINIOP_EMULATOR_CUBLASLT_ALIGNMENT");
    *found = {};
    *count = 0;
    for (int i = 0; i < 4; i++) {
        if (wanted.reductions != 2 || (least && wanted.alignments[i] < uint32_t(atoi(least)))) {
            return unsupported;
        }
        found->algorithm[i] = wanted.alignments[i];
    }
    found->workspace = 64;
    *count = 1;
    return success;
}

int cublasLtMatmul(void *, void *product, const float *alpha, const void *a, void *a_layout, const void *b,
                   void *b_layout, const float *beta, const void *c, void *c_layout, void *d, void *d_layout,
                   const uint64_t *algorithm, void *workspace, size_t workspace_size, void *) {
    const Product &p = *static_cast<Product *>(product);
    const Layout &ma = *static_cast<Layout *>(a_layout), &mb = *static_cast<Layout *>(b_layout);
    const Layout &mc = *static_cast<Layout *>(c_layout), &md = *static_cast<Layout *>(d_layout);
    const uint64_t rows = md.rows, columns = md.columns, terms = p.transposed[0] ? ma.rows : ma.columns;
    const void *pointers[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        if (reinterpret_cast<uintptr_t>(pointers[i]) % algorithm[i] != 0) {
            return invalid;
        }
    }
    const bool shapes = (p.transposed[0] ? ma.columns : ma.rows) == rows &&
                        (p.transposed[1] ? mb.rows : mb.columns) == columns &&
                        (p.transposed[1] ? mb.columns : mb.rows) == terms;
    if (!shapes || !workspace || reinterpret_cast<uintptr_t>(workspace) % 256 != 0 || workspace_size != 64 ||
        ma.batch != md.batch || mb.batch != md.batch) {
        return invalid;
    }
    memset(workspace, 0xff, workspace_size);
    for (int g = 0; g < md.batch; g++) {
        for (uint64_t i = 0; i < rows; i++) {
            for (uint64_t j = 0; j < columns; j++) {
                float sum = 0;
                for (uint64_t k = 0; k < terms; k++) {
                    sum += get(ma.type, p.transposed[0] ? at(ma, a, g, k, i) : at(ma, a, g, i, k)) *
                           get(mb.type, p.transposed[1] ? at(mb, b, g, j, k) : at(mb, b, g, k, j));
                }
                float value = *alpha * sum;
                if (*beta != 0) {
                    value += *beta * get(mc.type, at(mc, c, g, i, j));
                }
                if (p.epilogue == 4) {
                    value += get(md.type, p.bias + i * size_of(md.type));
                }
                put(md.type, const_cast<char *>(at(md, d, g, i, j)), value);
            }
        }
    }
    return success;
}
}
