#include "kept_call.hpp"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "runtime/registry.hpp"

namespace infini {
namespace {

namespace fs = std::filesystem;

std::string quoted(const std::string &text) {
    std::string out = "\"";
    for (const char c : text) {
        const unsigned char byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            out += '\\';
        }
        out += byte < 0x20 ? ' ' : c;
    }
    return out + '"';
}

std::string number(double value) { // as Python's json reads it
    if (!std::isfinite(value)) {
        return std::isnan(value) ? "NaN" : value < 0 ? "-Infinity" : "Infinity";
    }
    char text[40];
    std::snprintf(text, sizeof text, "%.17g", value);
    return text;
}

template <class Range, class Text> std::string list(const Range &range, Text &&text) {
    std::string out;
    for (const auto &item : range) {
        out += (out.empty() ? "" : ", ") + text(item);
    }
    return "[" + out + "]";
}

template <class T> std::string numbers(const T *values, size_t count) {
    return list(std::vector<T>(values, values + count), [](T v) { return std::to_string(v); });
}

void write_npy(const fs::path &path, const char *dtype, const char *bytes, size_t size, size_t count) {
    std::string header =
        std::string("{'descr': '") + dtype + "', 'fortran_order': False, 'shape': (" + std::to_string(count) + ",), }";
    header += std::string(64 - (10 + header.size() + 1) % 64, ' ') + '\n';
    std::ofstream file(path, std::ios::binary);
    file.write("\x93NUMPY\x01\x00", 8);
    const char length[2] = {static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
    file.write(length, 2);
    file << header;
    file.write(bytes, static_cast<std::streamsize>(size));
    file.close();
    if (!file) {
        throw std::runtime_error("cannot write " + path.string());
    }
}

const char *npy_dtype(const AttrSchema &attr) {
    const std::string_view ctype = attr.ctype;
    if (ctype == "float" || ctype == "double") {
        return ctype == "float" ? "<f4" : "<f8";
    }
    const bool is_unsigned = ctype[0] == 'u' || ctype == "size_t";
    return attr.element_size == 4 ? (is_unsigned ? "<u4" : "<i4") : (is_unsigned ? "<u8" : "<i8");
}

std::string attr_text(const KeptCall &call, size_t index, const fs::path &folder) {
    const AttrSchema &attr = call.desc.schema->attrs[index];
    const infiniopValue &value = call.attrs[index];
    if (attr.kind != AttrKind::array) {
        return attr.kind == AttrKind::real ? number(value.f) : std::to_string(value.i);
    }
    size_t bytes;
    if (array_bytes(*call.desc.schema, attr, value, call.desc.binding.env(call.attrs), &bytes)) {
        throw std::runtime_error(std::string("cannot read ") + attr.name);
    }
    const std::string name = std::string("attr_") + attr.name + ".npy";
    write_npy(folder / name, npy_dtype(attr), static_cast<const char *>(value.p), bytes, bytes / attr.element_size);
    return "{\"file\": " + quoted(name) + "}";
}

std::string tensor_text(const KeptCall &call, size_t index) {
    const infiniopTensorView *view = call.desc.binding.tensors[index];
    const std::string name = "{\"name\": " + quoted(call.desc.schema->tensors[index].name);
    if (!view) {
        return name + "}";
    }
    std::string text = name + ", \"dtype\": " + quoted(dtype_name(view->dtype)) +
                       ", \"shape\": " + numbers(view->shape, view->ndim) +
                       ", \"strides\": " + numbers(view->strides, view->ndim);
    if (call.tensors[index].memory < call.memories.size()) {
        text += ", \"memory\": " + std::to_string(call.tensors[index].memory) +
                ", \"offset\": " + std::to_string(call.tensors[index].offset);
    }
    return text + "}";
}

void write_json(const KeptCall &call, const fs::path &folder) {
    const OperatorSchema &schema = *call.desc.schema;
    std::ofstream file(folder / "call.json");
    file << "{\"op\": " << quoted(schema.name) << ", \"schema_version\": " << schema.version
         << ",\n \"backend\": " << quoted(call.backend) << ", \"against\": " << quoted(call.against)
         << ", \"device\": " << quoted(device_name(call.desc.device)) << ", \"device_id\": " << call.desc.device_id
         << ",\n \"difference\": " << quoted(call.difference) << ",\n \"attrs\": {";
    for (size_t a = 0; a < schema.nattrs; ++a) {
        file << (a ? ", " : "") << quoted(schema.attrs[a].name) << ": " << attr_text(call, a, folder);
    }
    file << "},\n \"tensors\": [";
    for (size_t i = 0; i < schema.ntensors; ++i) {
        file << (i ? ",\n  " : "\n  ") << tensor_text(call, i);
    }
    file << "],\n \"memory\": " << list(call.memories, [](const KeptMemory &m) {
        return "{\"misaligned\": " + std::to_string(m.address % 64) + "}";
    }) << "}\n";
    file.close();
    if (!file) {
        throw std::runtime_error("cannot write call.json");
    }
}

fs::path new_folder(const fs::path &parent, const std::string &op) {
    fs::create_directories(parent);
    for (int i = 1;; ++i) {
        const fs::path folder = parent / (op + "-" + std::to_string(i));
        if (fs::create_directory(folder)) {
            return fs::absolute(folder);
        }
    }
}

} // namespace

std::string keep_call(const KeptCall &call, const std::string &parent) {
    try {
        const fs::path folder = new_folder(parent, call.desc.schema->name);
        for (size_t m = 0; m < call.memories.size(); ++m) {
            const KeptMemory &memory = call.memories[m];
            write_npy(folder / ("memory" + std::to_string(m) + ".npy"), "|u1", memory.bytes, memory.size, memory.size);
        }
        write_json(call, folder);
        return folder.string();
    } catch (const std::exception &error) {
        log(INFINIOP_LOG_WARNING, (std::string("verify: the call could not be kept: ") + error.what()).c_str());
        return {};
    }
}

} // namespace infini
