// Manifests: <libdir>/infiniop/backends.d/*.json, one flat object each.
#include <dlfcn.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>

#include "plugin.hpp"

namespace infini {
namespace {

namespace fs = std::filesystem;

// A flat object of strings and integers, strictly: no nesting, no duplicates, nothing behind the end.
class FlatJson {
public:
    explicit FlatJson(std::string text) : text_(std::move(text)) {
        expect('{');
        if (!accept('}')) {
            do {
                member();
            } while (accept(','));
            expect('}');
        }
        skip_space();
        if (at_ != text_.size()) {
            error("the end");
        }
    }

    std::map<std::string, std::string> strings;
    std::map<std::string, int64_t> integers;

private:
    [[noreturn]] void error(const std::string &expected) const {
        throw std::runtime_error("expected " + expected + " at offset " + std::to_string(at_));
    }
    void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }
    bool accept(char c) {
        skip_space();
        const bool there = at_ < text_.size() && text_[at_] == c;
        at_ += there;
        return there;
    }
    void expect(char c) {
        if (!accept(c)) {
            error(std::string("'") + c + "'");
        }
    }
    void member() {
        skip_space();
        const std::string key = string();
        if (strings.count(key) || integers.count(key)) {
            error("no second \"" + key + "\"");
        }
        expect(':');
        skip_space();
        if (at_ < text_.size() && text_[at_] == '"') {
            strings[key] = string();
        } else {
            integers[key] = integer();
        }
    }
    std::string string() {
        expect('"');
        std::string value;
        while (at_ < text_.size() && text_[at_] != '"') {
            char c = text_[at_++];
            if (static_cast<unsigned char>(c) < 0x20) {
                error("no control character in a string");
            }
            if (c == '\\') {
                c = at_ < text_.size() ? text_[at_++] : '\0';
                if (c != '"' && c != '\\' && c != '/') {
                    error("one of the escapes \\\" \\\\ \\/");
                }
            }
            value += c;
        }
        if (at_ == text_.size()) {
            error("'\"'");
        }
        ++at_;
        return value;
    }
    int64_t integer() {
        const size_t begin = at_;
        at_ = std::min(text_.find_first_not_of("-0123456789", at_), text_.size());
        const std::string digits = text_.substr(begin, at_ - begin);
        size_t used = 0;
        try {
            const int64_t value = std::stoll(digits, &used);
            const size_t first = digits[0] == '-' ? 1 : 0;
            if (used == digits.size() && (digits[first] != '0' || digits.size() == first + 1)) {
                return value;
            }
        } catch (const std::logic_error &) {
        }
        at_ = begin;
        error("a string or an integer");
    }

    std::string text_;
    size_t at_ = 0;
};

std::string resolve_library(const fs::path &manifest, const std::string &library, const std::string &libdir) {
    if (fs::path(library).is_absolute()) {
        return library;
    }
    const fs::path path = (manifest.parent_path() / library).lexically_normal();
    const fs::path inside = path.lexically_relative(fs::path(libdir).lexically_normal());
    if (inside.empty() || *inside.begin() == "..") {
        throw std::runtime_error("library: expected a path inside " + libdir + ", got " + library);
    }
    return path.string();
}

Manifest read_manifest(const fs::path &path, const std::string &libdir) {
    Manifest manifest;
    manifest.library = path.string();
    manifest.name = path.stem().string();
    try {
        std::ifstream file(path, std::ios::binary);
        if (!file) {
            throw std::runtime_error("cannot be read");
        }
        FlatJson json({std::istreambuf_iterator<char>(file), {}});
        for (const char *key : {"name", "library", "device"}) {
            if (json.strings[key].empty()) {
                throw std::runtime_error(std::string("expected a string \"") + key + "\"");
            }
        }
        manifest.name = json.strings["name"];
        manifest.device = json.strings["device"];
        const auto priority = json.integers.find("priority");
        if (priority != json.integers.end()) {
            if (priority->second < INT32_MIN || priority->second > INT32_MAX) {
                throw std::runtime_error("priority: expected 32 bits, got " + std::to_string(priority->second));
            }
            manifest.priority = static_cast<int32_t>(priority->second);
        }
        manifest.library = resolve_library(path, json.strings["library"], libdir);
    } catch (const std::exception &error) {
        manifest.error = path.string() + ": " + error.what();
    }
    return manifest;
}

} // namespace

std::string library_directory() {
    static const char here = 0;
    Dl_info info{};
    if (!dladdr(&here, &info) || !info.dli_fname) {
        return {};
    }
    std::error_code error;
    return fs::absolute(info.dli_fname, error).parent_path().lexically_normal().string();
}

std::vector<Manifest> read_manifests(const std::string &libdir) {
    std::vector<fs::path> paths;
    std::error_code error;
    const fs::path folder = fs::path(libdir) / "infiniop" / "backends.d";
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
        if (it->path().extension() == ".json") {
            paths.push_back(it->path());
        }
    }
    std::sort(paths.begin(), paths.end());
    std::vector<Manifest> manifests;
    for (const fs::path &path : paths) {
        manifests.push_back(read_manifest(path, libdir));
    }
    return manifests;
}

} // namespace infini
