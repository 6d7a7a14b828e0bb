// The descriptors that the operator functions keep: a bounded set per operator and thread, by signature.
#pragma once

#include "operator.hpp"

namespace infiniop::detail {

// An attribute as it enters a signature.
template <class T> uint64_t word(T value) {
    if constexpr (std::is_floating_point_v<T>) {
        const double wide = value;
        uint64_t bits;
        static_assert(sizeof bits == sizeof wide);
        std::memcpy(&bits, &wide, sizeof bits);
        return bits;
    } else {
        return static_cast<uint64_t>(value);
    }
}

struct SignatureRef {
    const uint64_t *words;
    size_t count;
    uint64_t hash;
};

// What decides which descriptor serves a call: device, stream (for workspaces are not shared between streams), layouts,
// and the attributes given at create.
template <size_t Tensors, size_t Attrs> class Signature {
public:
    Signature(StreamRef stream, const std::array<const ConstTensor *, Tensors> &tensors,
              const std::array<uint64_t, Attrs> &attrs) {
        Device device;
        infinirtGetDevice(&device.type, &device.id);
        add(static_cast<uint64_t>(device.type) << 32 | static_cast<uint32_t>(device.id));
        add(reinterpret_cast<uintptr_t>(stream.get()));
        for (const ConstTensor *tensor : tensors) {
            const size_t rank = tensor->rank() < max_rank ? tensor->rank() : max_rank;
            add(static_cast<uint64_t>(tensor->dtype()) << 32 | tensor->rank());
            for (size_t i = 0; i < rank; ++i) {
                add(tensor->shape()[i]);
                add(static_cast<uint64_t>(tensor->strides()[i]));
            }
        }
        for (const uint64_t attr : attrs) {
            add(attr);
        }
    }
    operator SignatureRef() const noexcept { return {words_.data(), count_, hash_}; }

private:
    void add(uint64_t word) noexcept {
        words_[count_++] = word;
        hash_ += word * factor_; // independent products: no word waits for the one before it
        factor_ += 0x9e3779b97f4a7c16;
    }

    std::array<uint64_t, 2 + Tensors * (1 + 2 * max_rank) + Attrs> words_; // written up to count_
    size_t count_ = 0;
    uint64_t hash_ = 0, factor_ = 0xbf58476d1ce4e5b9;
};

class Cache {
public:
    static constexpr size_t capacity = 64;

    struct Entry {
        std::vector<uint64_t> words;
        std::string backend;
        Descriptor op;
        int running = 0; // calls that are on the way: a kernel may call operators itself
    };

    Cache() = default;
    Cache(const Cache &) = delete;
    Cache &operator=(const Cache &) = delete;
    ~Cache() {
        for (const std::unique_ptr<Entry> &entry : entries_) {
            settle(*entry);
        }
    }

    Entry *find(const SignatureRef &signature, const char *backend) const noexcept {
        for (size_t i = 0; i < hashes_.size(); ++i) {
            if (hashes_[i] == signature.hash && matches(*entries_[i], signature, backend)) {
                return entries_[i].get();
            }
        }
        return nullptr;
    }

    Entry *keep(const SignatureRef &signature, const char *backend, Descriptor op) {
        std::unique_ptr<Entry> entry(
            new Entry{{signature.words, signature.words + signature.count}, backend ? backend : "", std::move(op), 0});
        const size_t place = free_place();
        hashes_[place] = signature.hash;
        entries_[place] = std::move(entry);
        return entries_[place].get();
    }

private:
    static bool matches(const Entry &entry, const SignatureRef &signature, const char *backend) noexcept {
        return entry.words.size() == signature.count &&
               std::memcmp(entry.words.data(), signature.words, signature.count * sizeof *signature.words) == 0 &&
               entry.backend == (backend ? backend : "");
    }
    // A descriptor may go when its device has done what it was asked to. The CPU has when a call returns.
    static bool settle(const Entry &entry) noexcept {
        const Device device = entry.op.device();
        if (device.type == INFINI_DEVICE_CPU) {
            return true;
        }
        const OnDevice here(device);
        return infinirtDeviceSynchronize() == success;
    }
    // Where the oldest idle descriptor was, or a new place: also while a capture forbids to wait for the device.
    size_t free_place() {
        for (size_t i = 0; entries_.size() >= capacity && i < capacity; ++i) {
            const size_t place = next_++ % capacity;
            if (!entries_[place]->running) {
                if (settle(*entries_[place])) {
                    return place;
                }
                break;
            }
        }
        hashes_.push_back(0);
        entries_.emplace_back();
        return entries_.size() - 1;
    }

    std::vector<uint64_t> hashes_;
    std::vector<std::unique_ptr<Entry>> entries_;
    size_t next_ = 0;
};

// The workspace of a kept descriptor: its own, or the graph's where the call is captured.
inline Result<Workspace> scratch(nothrow_t, Descriptor &op, StreamRef stream) {
    int capturing = 0;
    if (const infiniStatus_t status = infinirtStreamIsCapturing(stream.get(), &capturing)) {
        return failed(nothrow, status);
    }
    if (!capturing) {
        return op.own_workspace(nothrow);
    }
    const std::vector<CaptureState *> &open = captures();
    if (open.empty()) {
        const infiniopError error{sizeof error,
                                  INFINI_STATUS_BAD_PARAM,
                                  "infiniop::Capture",
                                  "workspace",
                                  "a capture that owns it, or run() with one that lives as long as the graph",
                                  "a call on a stream that somebody else captures",
                                  nullptr};
        infiniopGetHost()->set_error(&error);
        return failed(nothrow, error.status);
    }
    const auto found = std::find_if(open.begin(), open.end(), [&](auto *c) { return c->stream == stream.get(); });
    CaptureState &capture = **(found == open.end() ? open.end() - 1 : found); // a joined stream has none of its own
    Result<Memory<>> memory = Memory<>::create(nothrow, op.workspace_size());
    if (!memory) {
        return failed(memory);
    }
    capture.workspaces.push_back(*std::move(memory));
    return Workspace(capture.workspaces.back());
}

// An operator function: find or make the descriptor, then run it.
template <class Create, class Run>
Result<void> call(Cache &cache, const SignatureRef &signature, StreamRef stream, const char *backend,
                  const Create &create, const Run &run) {
    Cache::Entry *entry = cache.find(signature, backend);
    if (!entry) {
        const Result<Handle> handle = Handle::create(nothrow, backend);
        if (!handle) {
            return failed(handle);
        }
        auto made = create(*handle);
        if (!made) {
            return failed(made);
        }
        entry = cache.keep(signature, backend, *std::move(made));
    }
    Workspace workspace;
    if (entry->op.workspace_size()) {
        const Result<Workspace> found = scratch(nothrow, entry->op, stream);
        if (!found) {
            return failed(found);
        }
        workspace = *found;
    }
    ++entry->running;
    const infiniStatus_t status = run(entry->op.get(), workspace);
    --entry->running;
    return done(nothrow, status);
}

} // namespace infiniop::detail
