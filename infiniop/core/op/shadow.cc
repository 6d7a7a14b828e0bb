#include "shadow.hpp"

#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>

#include "compare.hpp"
#include "kept_call.hpp"
#include "runtime/devices.hpp"
#include "runtime/graph.hpp"
#include "runtime/verification.hpp"

namespace infini {
namespace {

constexpr size_t absent = static_cast<size_t>(-1);
constexpr int poison = 0xff; // NaN in every float dtype

thread_local bool in_twin = false; // what a twin's kernel calls itself is nobody's business

// ---- what happened so far ---------------------------------------------------------------------------------

struct Ledger {
    std::mutex mutex;
    infiniopVerifyCounts counts{sizeof(infiniopVerifyCounts), 0, 0, 0};
    std::map<std::string, uint64_t> unverified;                             // by operator and reason
    std::set<std::string> kept;                                             // operators of which a call is on disk
    std::map<std::pair<const Backend *, size_t>, std::vector<char>> packed; // a twin's, by the hash of the original's
    std::atomic<infiniopVerifyJudge_t> judge{nullptr};
};

void print_summary();

Ledger &ledger() {
    static Ledger *const forever = [] {
        std::atexit(print_summary);
        return new Ledger;
    }();
    return *forever;
}

void print_summary() {
    Ledger &l = ledger();
    const std::lock_guard lock(l.mutex);
    std::fprintf(stderr, "infiniop verify: %llu calls agree, %llu differ, %llu not verified\n",
                 static_cast<unsigned long long>(l.counts.verified),
                 static_cast<unsigned long long>(l.counts.differing),
                 static_cast<unsigned long long>(l.counts.unverified));
    for (const auto &[why, times] : l.unverified) {
        std::fprintf(stderr, "infiniop verify: not verified, %llu times: %s\n", static_cast<unsigned long long>(times),
                     why.c_str());
    }
}

void note_unverified(const char *op, const std::string &why) {
    Ledger &l = ledger();
    const std::lock_guard lock(l.mutex);
    ++l.counts.unverified;
    ++l.unverified[std::string(op) + ": " + why];
}

// ---- memory here and there --------------------------------------------------------------------------------

void check(infiniStatus_t status, const char *what) {
    if (raw(status) != INFINI_STATUS_SUCCESS) {
        throw std::runtime_error(std::string(what) + " gave " +
                                 (status_name(raw(status)) ? status_name(raw(status)) : "no status"));
    }
}

bool is_host(const Device &device) { return device.type == INFINI_DEVICE_CPU; }

void download(const Device &from, char *host, const char *there, size_t size) {
    is_host(from)
        ? void(std::memcpy(host, there, size))
        : check(from.backend->runtime.memcpy(from.id, host, there, size, INFINIRT_MEMCPY_D2H), "a copy to the host");
}

void upload(const Device &to, char *there, const char *host, size_t size) {
    is_host(to)
        ? void(std::memcpy(there, host, size))
        : check(to.backend->runtime.memcpy(to.id, there, host, size, INFINIRT_MEMCPY_H2D), "a copy to the device");
}

void fill(const Device &on, char *there, size_t size) {
    is_host(on) ? void(std::memset(there, poison, size))
                : check(on.backend->runtime.memset(on.id, there, poison, size), "a memset");
}

void wait(const Device &device, infinirtStream_t stream) {
    if (!is_host(device)) {
        check(device.backend->runtime.stream_synchronize(device.id, stream), "waiting for the stream");
    }
}

// Host memory at the same place of a cache line as the original.
class Copy {
public:
    Copy() = default;
    Copy(const char *like, size_t size) : storage_(size + 64) {
        const size_t shift = (reinterpret_cast<uintptr_t>(like) - reinterpret_cast<uintptr_t>(storage_.data())) % 64;
        data_ = storage_.data() + shift;
    }
    char *data() const { return data_; }

private:
    std::vector<char> storage_;
    char *data_ = nullptr;
};

// Memory of another device, while a twin runs there.
class Lent {
public:
    Lent(const Device &device, size_t size) : device_(device) {
        if (size) {
            check(device.backend->runtime.malloc(device.id, &data_, size), "an allocation");
        }
    }
    Lent(Lent &&other) noexcept : device_(other.device_), data_(std::exchange(other.data_, nullptr)) {}
    Lent(const Lent &) = delete;
    Lent &operator=(const Lent &) = delete;
    ~Lent() {
        if (data_) {
            device_.backend->runtime.free(device_.id, data_);
        }
    }
    char *data() const { return static_cast<char *>(data_); }

private:
    Device device_;
    void *data_ = nullptr;
};

class OnDevice {
public:
    explicit OnDevice(const Device &device) {
        check(current_device("verify", &before_), "the current device");
        check(infinirtSetDevice(device.type, device.id), "infinirtSetDevice");
    }
    OnDevice(const OnDevice &) = delete;
    OnDevice &operator=(const OnDevice &) = delete;
    ~OnDevice() { infinirtSetDevice(before_.type, before_.id); }

private:
    Device before_;
};

// ---- one descriptor ---------------------------------------------------------------------------------------

// The same descriptor on another backend.
struct Twin {
    const Kernel *kernel;
    Device device;
    void *state = nullptr;
    size_t workspace_size = 0;

    Twin(const Kernel *k, const Device &d) : kernel(k), device(d) {}
    Twin(const Twin &) = delete;
    Twin &operator=(const Twin &) = delete;
    ~Twin() {
        if (kernel->destroy && created) {
            guarded(kernel->op, [&] { return kernel->destroy(state), INFINI_STATUS_SUCCESS; });
        }
    }
    const std::string &name() const { return kernel->backend->name; }

    bool created = false;
};

struct Shadow {
    const InfiniopDescriptor &desc;
    Device device;
    infiniStatus_t (*calculate)(void *state, const infiniopRun *run);
    void (*destroy)(void *state);
    void *state;
    std::vector<std::unique_ptr<Twin>> twins;

    infiniStatus_t run(const infiniopRun &run, const Verification &wanted) const;
};

// Memory that tensors of one call share, or one tensor has for itself.
struct Region {
    char *begin;
    size_t size;
    size_t tensors = 0, elements = 0; // elements in bytes
    bool written = false, poisoned = false;
    Copy before, after;
};

size_t bytes_of(const infiniopTensorView &view) {
    size_t bytes = element_size(view.dtype);
    for (size_t axis = 0; axis < view.ndim; ++axis) {
        bytes *= view.shape[axis];
    }
    return bytes;
}

// ---- one call ---------------------------------------------------------------------------------------------

class Trial {
public:
    Trial(const Shadow &shadow, const infiniopRun &run, const Verification &wanted)
        : shadow_(shadow), run_(run), wanted_(wanted), schema_(*shadow.desc.schema),
          views_(shadow.desc.binding.tensors), places_(schema_.ntensors), against_(shadow.twins.front()->name()) {
        find_regions();
        wait(shadow.device, run.stream);
        for (Region &r : regions_) {
            if (r.size / 16 > r.elements + (size_t{4} << 20)) {
                throw std::runtime_error("its elements are too far apart to be copied");
            }
            r.before = Copy(r.begin, r.size);
            download(shadow.device, r.before.data(), r.begin, r.size);
        }
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            poison_output(i);
        }
    }

    // The call failed: its outputs are as they were.
    void undo() {
        for (const Region &r : regions_) {
            if (r.poisoned) {
                upload(shadow_.device, r.begin, r.before.data(), r.size);
            }
        }
    }

    // What differs from the first backend that disagrees; "": nothing.
    std::string judge() {
        wait(shadow_.device, run_.stream);
        for (Region &r : regions_) {
            r.after = Copy(r.begin, r.size);
            download(shadow_.device, r.after.data(), r.begin, r.size);
        }
        std::string found = changed_input();
        for (auto twin = shadow_.twins.begin(); found.empty() && twin != shadow_.twins.end(); ++twin) {
            found = compare_with(**twin);
        }
        return found;
    }

    std::string keep(const std::string &text) const {
        KeptCall call{shadow_.desc, run_.attrs, shadow_.desc.kernel->backend->name, against_, text, {}, {}};
        for (const Region &r : regions_) {
            call.memories.push_back({r.before.data(), r.size, reinterpret_cast<uintptr_t>(r.begin)});
        }
        for (const Place &p : places_) {
            call.tensors.push_back({p.region, p.offset});
        }
        return keep_call(call, wanted_.folder);
    }

    bool compared() const { return compared_; }

private:
    struct Place {
        size_t region = absent, offset = 0;
    };

    void find_regions() {
        struct Extent {
            char *begin, *end;
            size_t tensor;
        };
        std::vector<Extent> extents;
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            if (!run_.data[i]) {
                continue;
            }
            const infiniopTensorView &view = *views_[i];
            ptrdiff_t low = 0, high = 1;
            for (size_t axis = 0; axis < view.ndim; ++axis) {
                const ptrdiff_t last = static_cast<ptrdiff_t>(view.shape[axis] - 1) * view.strides[axis];
                (last < 0 ? low : high) += last;
            }
            const ptrdiff_t size = static_cast<ptrdiff_t>(element_size(view.dtype));
            char *first = static_cast<char *>(run_.data[i]);
            extents.push_back({first + low * size, first + high * size, i});
        }
        std::sort(extents.begin(), extents.end(), [](const Extent &a, const Extent &b) { return a.begin < b.begin; });
        for (const Extent &e : extents) {
            if (regions_.empty() || e.begin >= regions_.back().begin + regions_.back().size) {
                regions_.push_back({e.begin, 0, 0, 0, false, false, {}, {}});
            }
            Region &r = regions_.back();
            r.size = std::max(r.size, static_cast<size_t>(e.end - r.begin));
            r.written |= schema_.tensors[e.tensor].role != Role::in;
            ++r.tensors;
            r.elements += bytes_of(*views_[e.tensor]);
            places_[e.tensor] = {regions_.size() - 1,
                                 static_cast<size_t>(static_cast<char *>(run_.data[e.tensor]) - r.begin)};
        }
    }

    // So that what nobody writes is not right by chance.
    void poison_output(size_t i) {
        if (!schema_.tensors[i].whole || places_[i].region == absent) {
            return;
        }
        Region &r = regions_[places_[i].region];
        if (r.tensors == 1 && r.elements == r.size) {
            fill(shadow_.device, r.begin, r.size);
            r.poisoned = true;
        }
    }

    std::string changed_input() const {
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            if (places_[i].region == absent || regions_[places_[i].region].written) {
                continue;
            }
            const Region &r = regions_[places_[i].region];
            const std::string text = difference(*views_[i], r.before.data() + places_[i].offset,
                                                r.after.data() + places_[i].offset, {nullptr, 1});
            if (!text.empty()) {
                return std::string(schema_.tensors[i].name) + ": an input was changed: " + text;
            }
        }
        return {};
    }

    // ---- the call on another backend, in memory of its own

    std::string compare_with(const Twin &twin) {
        against_ = twin.name();
        std::vector<Copy> work;
        std::vector<char *> host;
        for (const Region &r : regions_) {
            host.push_back(r.before.data());
            if (r.written) {
                work.emplace_back(r.begin, r.size);
                host.back() = work.back().data();
                r.poisoned ? std::memset(host.back(), poison, r.size)
                           : std::memcpy(host.back(), r.before.data(), r.size);
            }
        }
        const std::string refused = run_twin(twin, host);
        if (!refused.empty()) {
            note_unverified(schema_.name, twin.name() + " refuses the call: " + refused);
            return {};
        }
        compared_ = true;
        remember_packed(twin, host);
        return compare_outputs(host);
    }

    // What the twin said; "": it ran.
    std::string run_twin(const Twin &twin, const std::vector<char *> &host) {
        const OnDevice here(twin.device);
        std::vector<Lent> lent;
        std::vector<char *> there = host;
        std::vector<char> scratch(is_host(twin.device) ? twin.workspace_size : 0);
        void *workspace = scratch.data();
        if (!is_host(twin.device)) {
            lent.emplace_back(twin.device, twin.workspace_size);
            workspace = lent.back().data();
            for (size_t r = 0; r < regions_.size(); ++r) {
                lent.emplace_back(twin.device, regions_[r].size);
                there[r] = lent.back().data();
                upload(twin.device, there[r], host[r], regions_[r].size);
            }
        }
        std::vector<void *> data(schema_.ntensors, nullptr);
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            if (places_[i].region != absent) {
                data[i] = there[places_[i].region] + places_[i].offset;
            }
        }
        unpack_as(twin, data, lent);
        const infiniopRun run{sizeof run,          twin.workspace_size ? workspace : nullptr,
                              twin.workspace_size, data.data(),
                              run_.attrs,          nullptr};
        in_twin = true;
        expect_plugin();
        const infiniStatus_t status = guarded(schema_.name, [&] { return twin.kernel->calculate(twin.state, &run); });
        in_twin = false;
        if (raw(status) != INFINI_STATUS_SUCCESS) {
            plugin_failed(raw(status), schema_.name, twin.name());
            return last_failure().message;
        }
        wait(twin.device, nullptr);
        for (size_t r = 0; r < regions_.size() && !is_host(twin.device); ++r) {
            if (regions_[r].written) {
                download(twin.device, host[r], there[r], regions_[r].size);
            }
        }
        return {};
    }

    // ---- what backends pack in layouts of their own

    static size_t bytes_hash(const char *bytes, size_t size) {
        return std::hash<std::string_view>{}(std::string_view(bytes, size));
    }

    void remember_packed(const Twin &twin, const std::vector<char *> &host) const {
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            if (places_[i].region == absent || !schema_.tensors[i].opaque || schema_.tensors[i].role == Role::in) {
                continue;
            }
            const Place p = places_[i];
            const size_t size = views_[i]->shape[0];
            const char *theirs = host[p.region] + p.offset;
            Ledger &l = ledger();
            const std::lock_guard lock(l.mutex);
            const size_t ours = bytes_hash(regions_[p.region].after.data() + p.offset, size);
            // The first time only: other threads may be reading it.
            l.packed.try_emplace({twin.kernel->backend, ours}, theirs, theirs + size);
        }
    }

    // Give the twin what it packed itself.
    void unpack_as(const Twin &twin, std::vector<void *> &data, std::vector<Lent> &lent) {
        replaced_.assign(schema_.ntensors, nullptr);
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            const Place p = places_[i];
            const bool bytes = p.region != absent && schema_.tensors[i].role == Role::in &&
                               views_[i]->dtype == INFINI_DTYPE_U8 && views_[i]->ndim == 1;
            Ledger &l = ledger();
            const std::lock_guard lock(l.mutex);
            if (!bytes || l.packed.empty()) {
                continue;
            }
            const size_t size = views_[i]->shape[0];
            const auto own =
                l.packed.find({twin.kernel->backend, bytes_hash(regions_[p.region].before.data() + p.offset, size)});
            if (own == l.packed.end()) {
                continue;
            }
            data[i] = replaced_[i] = own->second.data(); // nodes never move and are never freed
            if (!is_host(twin.device)) {
                lent.emplace_back(twin.device, size);
                upload(twin.device, lent.back().data(), own->second.data(), size);
                data[i] = lent.back().data();
            }
        }
    }

    // ---- the comparison

    std::string compare_outputs(const std::vector<char *> &host) const {
        const Bound bound = bound_of(schema_, views_.data(), wanted_.tolerance);
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            const Place p = places_[i];
            if (p.region == absent || schema_.tensors[i].role == Role::in || schema_.tensors[i].opaque) {
                continue;
            }
            const std::string text =
                difference(*views_[i], host[p.region] + p.offset, regions_[p.region].after.data() + p.offset, bound);
            if (!text.empty()) {
                const std::string whole = std::string(schema_.tensors[i].name) + ": " + text;
                return schema_.own_comparison ? ask_judge(whole, host) : whole;
            }
        }
        return {};
    }

    std::string ask_judge(const std::string &text, const std::vector<char *> &host) const {
        const infiniopVerifyJudge_t judge = ledger().judge;
        if (!judge) {
            note_unverified(schema_.name, "its results differ, and whether they may, only Python knows");
            return {};
        }
        std::vector<void *> before(schema_.ntensors), expected(schema_.ntensors), actual(schema_.ntensors);
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            const Place p = places_[i];
            if (p.region != absent) {
                before[i] = replaced_[i] ? replaced_[i] : regions_[p.region].before.data() + p.offset;
                expected[i] = replaced_[i] ? replaced_[i] : host[p.region] + p.offset;
                actual[i] = regions_[p.region].after.data() + p.offset;
            }
        }
        const infiniopVerifyCase one{sizeof one,    schema_.name,    schema_.ntensors, views_.data(),
                                     before.data(), expected.data(), actual.data(),    run_.attrs};
        expect_plugin();
        if (raw(judge(&one)) == INFINI_STATUS_SUCCESS) {
            return {};
        }
        const std::string said = last_failure().got;
        return said.empty() ? text : said;
    }

    const Shadow &shadow_;
    const infiniopRun &run_;
    const Verification &wanted_;
    const OperatorSchema &schema_;
    const std::vector<const infiniopTensorView *> &views_;
    std::vector<Place> places_; // by tensor
    std::vector<Region> regions_;
    std::vector<char *> replaced_; // by tensor: what the twin packed
    std::string against_;
    bool compared_ = false;
};

// ---- a difference -----------------------------------------------------------------------------------------

bool first_of(const std::string &op) {
    Ledger &l = ledger();
    const std::lock_guard lock(l.mutex);
    ++l.counts.differing;
    return l.kept.insert(op).second;
}

infiniStatus_t report(const Trial &trial, const Shadow &shadow, const std::string &text, const Verification &wanted) {
    const std::string op = shadow.desc.schema->name;
    std::string whole = op + " of backend '" + shadow.desc.kernel->backend->name + "' is wrong: " + text;
    if (first_of(op)) {
        const std::string folder = trial.keep(text);
        whole += folder.empty() ? "" : "; to make the call again: infiniop replay " + folder;
        log(INFINIOP_LOG_ERROR, whole.c_str());
    }
    if (wanted.keep_going) {
        return INFINI_STATUS_SUCCESS;
    }
    const infiniopError error{sizeof error, INFINI_STATUS_INTERNAL_ERROR, op.c_str(), nullptr, nullptr, nullptr,
                              whole.c_str()};
    set_error(&error);
    return INFINI_STATUS_INTERNAL_ERROR;
}

infiniStatus_t Shadow::run(const infiniopRun &run, const Verification &wanted) const {
    std::unique_ptr<Trial> trial;
    const Failure before = last_failure();
    const auto contained = [&](auto &&body) { // trouble of ours is no trouble of the caller's
        try {
            return body();
        } catch (const std::exception &error) {
            note_unverified(desc.schema->name, error.what());
            trial.reset();
            last_failure() = before;
            return INFINI_STATUS_SUCCESS;
        }
    };
    contained([&] {
        trial = std::make_unique<Trial>(*this, run, wanted);
        return INFINI_STATUS_SUCCESS;
    });
    const infiniStatus_t status = calculate(state, &run);
    if (!trial || raw(status) != INFINI_STATUS_SUCCESS) {
        if (trial) {
            contained([&] { return trial->undo(), INFINI_STATUS_SUCCESS; });
        }
        return status;
    }
    return contained([&] {
        const std::string text = trial->judge();
        last_failure() = before;
        if (!text.empty()) {
            return report(*trial, *this, text, wanted);
        }
        const std::lock_guard lock(ledger().mutex);
        ledger().counts.verified += trial->compared();
        return INFINI_STATUS_SUCCESS;
    });
}

// ---- in place of the kernel -------------------------------------------------------------------------------

infiniStatus_t shadow_calculate(void *state, const infiniopRun *run) {
    const Shadow &shadow = *static_cast<const Shadow *>(state);
    const std::shared_ptr<const Verification> wanted = in_twin ? nullptr : verification();
    if (!wanted || is_capturing(run->stream)) {
        return shadow.calculate(shadow.state, run);
    }
    return shadow.run(*run, *wanted);
}

void shadow_destroy(void *state) {
    const std::unique_ptr<Shadow> shadow(static_cast<Shadow *>(state));
    if (shadow->destroy) {
        shadow->destroy(shadow->state);
    }
}

infiniStatus_t find_twin_backend(const OperatorSchema &schema, const std::string &name, const Backend **backend) {
    *backend = find_backend(name);
    return *backend ? INFINI_STATUS_SUCCESS
                    : fail(INFINI_STATUS_BAD_PARAM, schema.name, "INFINIOP_VERIFY", "backends that are loaded", name);
}

// nullptr: `why` says why not.
std::unique_ptr<Twin> make_twin(const OperatorSchema &schema, const Backend &backend, infiniopCall call,
                                std::string *why) {
    const Kernel *kernel = backend.kernel(schema.name);
    if (!kernel || kernel->schema_version != schema.version) {
        *why = backend.name + " does not have it";
        return nullptr;
    }
    Device device;
    const int id = backend.device == call.device ? call.device_id : 0;
    if (explicit_device(schema.name, backend.device, id, &device)) {
        *why = last_failure().message;
        return nullptr;
    }
    auto twin = std::make_unique<Twin>(kernel, device);
    call.device = backend.device;
    call.device_id = device.id;
    const OnDevice here(device);
    expect_plugin();
    infiniStatus_t status = kernel->supports ? kernel->supports(kernel->ctx, &call) : INFINI_STATUS_SUCCESS;
    if (raw(status) == INFINI_STATUS_SUCCESS) {
        status = kernel->create(kernel->ctx, &call, &twin->state, &twin->workspace_size);
    }
    twin->created = raw(status) == INFINI_STATUS_SUCCESS;
    if (!twin->created) {
        plugin_failed(raw(status), schema.name, backend.name);
        *why = backend.name + " refuses the descriptor: " + last_failure().message;
        return nullptr;
    }
    return twin;
}

} // namespace

infiniStatus_t shadow(InfiniopDescriptor &desc, const infiniopCall &call) {
    const std::shared_ptr<const Verification> wanted = in_twin ? nullptr : verification();
    if (!wanted) {
        return INFINI_STATUS_SUCCESS;
    }
    const OperatorSchema &schema = *desc.schema;
    auto shadow = std::make_unique<Shadow>(Shadow{desc, {}, desc.calculate, desc.destroy, desc.state, {}});
    if (const infiniStatus_t status = explicit_device(schema.name, desc.device, desc.device_id, &shadow->device)) {
        return status;
    }
    const Failure before = last_failure();
    for (const std::string &name : wanted->against) {
        const Backend *backend;
        if (const infiniStatus_t status = find_twin_backend(schema, name, &backend)) {
            return status;
        }
        if (backend == desc.kernel->backend) {
            continue;
        }
        std::string why;
        if (std::unique_ptr<Twin> twin = make_twin(schema, *backend, call, &why)) {
            shadow->twins.push_back(std::move(twin));
        } else {
            note_unverified(schema.name, why);
        }
    }
    last_failure() = before;
    if (!shadow->twins.empty()) {
        desc.calculate = shadow_calculate;
        desc.destroy = shadow_destroy;
        desc.state = shadow.release();
    }
    return INFINI_STATUS_SUCCESS;
}

void keep_first_calls() {
    const std::lock_guard lock(ledger().mutex);
    ledger().kept.clear();
}

infiniopVerifyCounts verify_counts() {
    const std::lock_guard lock(ledger().mutex);
    return ledger().counts;
}

void set_judge(infiniopVerifyJudge_t judge) { ledger().judge = judge; }

} // namespace infini
