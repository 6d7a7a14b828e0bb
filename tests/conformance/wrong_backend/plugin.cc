// The plugin's table, and the faults that any operator can have.
#include "wrong.h"

#include <algorithm>
#include <cfenv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "lazy.h"

namespace wrong {

const infiniopHost *host = nullptr;
bool lazy = false;

Status fail(Status status, const char *op, const char *argument, const char *expected, const std::string &got) {
    const infiniopError error = {sizeof error, status, op, argument, expected, got.c_str(), nullptr};
    host->set_error(&error);
    return status;
}

namespace {

// ---- memory
const Fault before("*", "writes-before", "the byte before an output changes");
const Fault after("*", "writes-after", "the byte behind an output changes");
const Fault between("*", "writes-between", "the first byte between an output's rows changes");
const Fault input("*", "input-changed", "a byte of an input changes");
const Fault tail("*", "tail-unwritten", "elements that do not fill eight lanes are not written");
const Fault unit("*", "extent-1-unwritten", "nothing is done where an axis has extent 1");
const Fault empty("*", "empty-refused", "tensors without elements are an error");
const Fault misaligned("*", "misaligned-wrong", "the first element is wrong unless all pointers are multiples of 16");

const Fault in_32_bits("*", "offset-in-32-bits", "offsets in bytes are kept in 32 bits", Seen::far_away);

// ---- values
const Fault power("*", "power-of-two-wrong", "the first element is wrong where the last extent is a power of two");
const Fault bf16("*", "bf16-wrong", "the first element is wrong in BF16");

// ---- workspace
const Fault overrun("*", "workspace-overrun", "eight bytes behind the stated workspace change");
const Fault zeroed("*", "workspace-taken-for-zero", "the first element is wrong unless the workspace is zero");
const Fault carried("*", "workspace-carried", "a second call relies on what the first left in the workspace");

// ---- state
const Fault second("*", "second-call-wrong", "a descriptor's second call is wrong");
const Fault pointers("*", "pointers-kept", "a descriptor's second call writes where the first did");
const Fault one_state("*", "one-state-for-all", "a descriptor is wrong once another one has been made");
const Fault bound("*", "bound-to-a-thread", "another thread than the one that made the descriptor gets wrong results");
const Fault views("*", "views-kept", "shapes are read where create got them, after it has returned");
const Fault call_kept("*", "call-kept", "the call is read after create has returned");
const Fault leak("*", "state-leaked", "destroy frees nothing");
const Fault leaked_call("*", "memory-leaked-per-call", "calculate allocates and forgets");

// ---- threads
const Fault race_state("*", "race-in-descriptor", "two calls at once on one descriptor share scratch memory");
const Fault race_static("*", "race-between-descriptors", "two calls at once on two descriptors share scratch memory");
const Fault race_create("*", "race-in-create", "two creates at once share scratch memory");
const Fault rounding("*", "rounding-mode-left", "the rounding mode stays upwards");
#ifdef __x86_64__
const Fault flushing("*", "flush-to-zero-left", "subnormal numbers count as 0 from then on");
#endif

// ---- supports
const Fault promised("*", "supported-but-refused", "supports takes BF16, create does not");
const Fault denied("*", "refused-but-supported", "supports refuses BF16, create takes it");
const Fault silent("*", "refused-without-a-word", "supports refuses BF16 without a message");

// ---- streams, on a device that has some
const Fault no_stream("*", "stream-ignored", "the kernel runs at once, whatever its stream has still to do",
                      Seen::on_streams);
const Fault default_stream("*", "default-stream-taken", "the kernel runs on the default stream", Seen::on_streams);
const Fault early("*", "input-read-early", "the last input is read when the call is made", Seen::on_streams);

struct State {
    const Operator *op;
    std::vector<View> views;
    size_t nattrs, workspace;
    unsigned calls = 0;
    std::atomic<int> inside{0};
    std::thread::id maker = std::this_thread::get_id();
    std::vector<char *> first_data;
    bool torn = false;             // made while another was made
    const size_t *shape = nullptr; // of the first tensor, as create was given it
    const infiniopCall *call = nullptr;
    size_t ntensors = 0;
};

std::mutex guard; // of the three below, and of State::calls
std::set<const State *> running;
const State *latest = nullptr;
int creating = 0;

void pause() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

bool is_output(const Job &job, const Operator &op, size_t tensor) {
    return op.outputs >> tensor & 1 && job.views[tensor].present && job.data[tensor] && job.views[tensor].count();
}

// Changes the first element of the first output.
void spoil(const Job &job, const Operator &op) {
    for (size_t i = 0; i < job.views.size(); i++) {
        if (is_output(job, op, i)) {
            job.at(i, job.views[i].offset(0))[job.views[i].size() - 1] ^= 0x40;
            return;
        }
    }
}

void flip(char *byte) { *byte = char(~*byte); }

// The lowest offset between the first and the last element that belongs to none.
ptrdiff_t gap(const View &view) {
    std::vector<bool> used(size_t(view.high() - view.low() + 1));
    for (size_t i = 0; i < view.count(); i++) {
        used[size_t(view.offset(i) - view.low())] = true;
    }
    for (size_t i = 0; i < used.size(); i++) {
        if (!used[i]) {
            return ptrdiff_t(i) + view.low();
        }
    }
    return PTRDIFF_MAX;
}

void write_outside(const Job &job, const Operator &op) {
    for (size_t i = 0; i < job.views.size(); i++) {
        const View &view = job.views[i];
        if (!job.data[i] || !view.present || !view.count()) {
            continue;
        }
        if (!is_output(job, op, i)) {
            if (input.in(op.name)) {
                flip(job.at(i, view.low()));
            }
            continue;
        }
        if (before.in(op.name)) {
            flip(job.at(i, view.low()) - 1);
        } else if (after.in(op.name)) {
            flip(job.at(i, view.high() + 1));
        } else if (between.in(op.name) && view.high() - view.low() < 1 << 20 && gap(view) != PTRDIFF_MAX) {
            flip(job.at(i, gap(view)));
        }
    }
}

bool wrong_by_argument(const Job &job, const Operator &op) {
    const View &result = job.views[0];
    bool odd = false, half = false;
    for (size_t i = 0; i < job.views.size(); i++) {
        odd |= job.views[i].present && job.views[i].count() && reinterpret_cast<uintptr_t>(job.data[i]) % 16 != 0;
        half |= job.views[i].dtype == INFINI_DTYPE_BF16;
    }
    const size_t last = result.rank() ? result.last() : 0;
    return (misaligned.in(op.name) && odd) || (bf16.in(op.name) && half) ||
           (power.in(op.name) && last > 1 && (last & (last - 1)) == 0);
}

bool wrong_by_workspace(const State &state, const Job &job) {
    const char *name = state.op->name;
    if (!overrun.in(name) && !zeroed.in(name) && !carried.in(name)) {
        return false;
    }
    constexpr char mark[] = "here I was";
    char *own = job.workspace + state.workspace - 64;
    if (overrun.in(name)) {
        std::memset(own + 64, 0x55, 8);
        return false;
    }
    if (zeroed.in(name)) {
        return *own != 0;
    }
    const bool lost = !job.first && std::memcmp(own, mark, sizeof mark) != 0;
    std::memcpy(own, mark, sizeof mark);
    return lost;
}

bool wrong_by_state(const State &state) {
    const char *name = state.op->name;
    return (second.in(name) && state.calls == 1) || (one_state.in(name) && latest != &state) ||
           (bound.in(name) && state.maker != std::this_thread::get_id()) || (race_create.in(name) && state.torn) ||
           (views.in(name) && !std::equal(state.views[0].shape.begin(), state.views[0].shape.end(), state.shape)) ||
           (call_kept.in(name) && state.call->ntensors != state.ntensors);
}

void leave_behind(const char *name) {
    if (leaked_call.in(name)) {
        static std::atomic<void *> forgotten;
        forgotten = std::malloc(64);
    }
    if (rounding.in(name)) {
        std::fesetround(FE_UPWARD);
    }
#ifdef __x86_64__
    if (flushing.in(name)) {
        __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040);
    }
#endif
}

// ---- one call

// Elements that do not fill eight lanes, as they were.
std::vector<std::vector<char>> tails(const Job &job, const Operator &op) {
    std::vector<std::vector<char>> kept(job.views.size());
    for (size_t t = 0; t < job.views.size() && tail.in(op.name); t++) {
        const size_t n = is_output(job, op, t) ? job.views[t].count() : 0;
        for (size_t i = n / 8 * 8; n > 8 && i < n; i++) {
            const char *at = job.at(t, job.views[t].offset(i));
            kept[t].insert(kept[t].end(), at, at + job.views[t].size());
        }
    }
    return kept;
}

void restore(const Job &job, const std::vector<std::vector<char>> &kept) {
    for (size_t t = 0; t < kept.size(); t++) {
        const size_t size = job.views[t].size(), n = job.views[t].count();
        for (size_t i = 0; i < kept[t].size() / size; i++) {
            std::memcpy(job.at(t, job.views[t].offset(n - kept[t].size() / size + i)), &kept[t][i * size], size);
        }
    }
}

bool extent_1(const View &view) {
    for (size_t extent : view.shape) {
        if (extent == 1) {
            return view.count() > 0;
        }
    }
    return false;
}

// Whether another call was under way that shares this one's scratch memory.
class Scratch {
public:
    explicit Scratch(State &state) : state_(state) {
        const std::lock_guard<std::mutex> lock(guard);
        met = (race_state.in(state.op->name) && state.inside > 0) ||
              (race_static.in(state.op->name) && running.size() > running.count(&state));
        state_.inside++;
        running.insert(&state);
    }
    ~Scratch() {
        if (race_state.in(state_.op->name) || race_static.in(state_.op->name)) {
            pause();
        }
        const std::lock_guard<std::mutex> lock(guard);
        if (--state_.inside == 0) {
            running.erase(&state_);
        }
    }
    bool met;

private:
    State &state_;
};

Status perform(State &state, Job &job) {
    const Operator &op = *state.op;
    Scratch scratch(state);
    if (pointers.in(op.name)) {
        state.first_data.resize(state.first_data.empty() ? 0 : job.data.size());
        if (job.first) {
            state.first_data = job.data;
        }
        for (size_t i = 0; i < job.data.size(); i++) {
            job.data[i] = op.outputs >> i & 1 ? state.first_data[i] : job.data[i];
        }
    }
    if (unit.in(op.name) && extent_1(job.views[0])) {
        return INFINI_STATUS_SUCCESS;
    }
    const bool wrong =
        scratch.met || wrong_by_argument(job, op) || wrong_by_workspace(state, job) || wrong_by_state(state);
    const auto kept = tails(job, op);
    const Status status = op.run(job);
    restore(job, kept);
    write_outside(job, op);
    if (wrong) {
        spoil(job, op);
    }
    leave_behind(op.name);
    return status;
}

// ---- the kernel's functions

Status supports(void *, const infiniopCall *call) {
    Fault::choose();
    if (!denied.in(call->op) && !silent.in(call->op)) {
        return INFINI_STATUS_SUCCESS;
    }
    for (size_t i = 0; i < call->ntensors; i++) {
        if (call->tensors[i] && call->tensors[i]->dtype == INFINI_DTYPE_BF16) {
            return silent.in(call->op) ? INFINI_STATUS_BAD_TENSOR_DTYPE
                                       : fail(INFINI_STATUS_BAD_TENSOR_DTYPE, call->op, "dtype", "not BF16", "BF16");
        }
    }
    return INFINI_STATUS_SUCCESS;
}

View copy_of(const infiniopTensorView *from) {
    View view;
    if (from) {
        view.present = true;
        view.dtype = from->dtype;
        view.shape.assign(from->shape, from->shape + from->ndim);
        view.strides.assign(from->strides, from->strides + from->ndim);
    }
    return view;
}

void settle(State &state, const infiniopCall *call) {
    state.shape = call->tensors[0]->shape;
    state.call = call;
    state.ntensors = call->ntensors;
    if (race_create.in(call->op)) {
        {
            const std::lock_guard<std::mutex> lock(guard);
            state.torn = creating++ > 0;
        }
        pause();
        const std::lock_guard<std::mutex> lock(guard);
        creating--;
    }
    const std::lock_guard<std::mutex> lock(guard);
    latest = &state;
}

using Handle = std::shared_ptr<State>; // what waits in a stream keeps its descriptor's state

template <const Operator &op> Status create(void *, const infiniopCall *call, void **out, size_t *workspace) {
    Fault::choose();
    std::fesetenv(FE_DFL_ENV); // a fault may have left something
    auto state = std::make_shared<State>();
    state->op = &op;
    state->nattrs = call->nattrs;
    for (size_t i = 0; i < call->ntensors; i++) {
        state->views.push_back(copy_of(call->tensors[i]));
        if (promised.in(op.name) && state->views.back().dtype == INFINI_DTYPE_BF16) {
            return fail(INFINI_STATUS_NOT_IMPLEMENTED, op.name, "dtype", "not BF16", "BF16");
        }
    }
    if (empty.in(op.name) && state->views[0].count() == 0) {
        return fail(INFINI_STATUS_BAD_PARAM, op.name, "shape", "elements", "none");
    }
    settle(*state, call);
    bool extra = overrun.in(op.name) || zeroed.in(op.name) || carried.in(op.name);
    state->workspace = (op.workspace(state->views) + 7) / 8 * 8 + (extra ? 64 : 0);
    *workspace = state->workspace;
    *out = new Handle(std::move(state));
    return INFINI_STATUS_SUCCESS;
}

void enqueue(const Handle &state, Job job, infinirtStream_t stream) {
    const auto copy = std::make_shared<std::vector<char>>();
    for (size_t i = job.views.size(); early.in(state->op->name) && i-- > 0;) {
        const View &view = job.views[i];
        if (!(state->op->outputs >> i & 1) && view.present && view.count()) {
            copy->assign(job.at(i, view.low()), job.at(i, view.high() + 1));
            job.data[i] = copy->data() - view.low() * ptrdiff_t(view.size());
            break;
        }
    }
    const auto task = [state, job, copy] {
        Job own = job;
        perform(*state, own);
    };
    if (no_stream.in(state->op->name)) {
        return task();
    }
    queue(default_stream.in(state->op->name) ? nullptr : stream, task);
}

Status calculate(void *raw, const infiniopRun *run) {
    const Handle &state = *static_cast<Handle *>(raw);
    Job job{state->op->name,
            state->views,
            {},
            {},
            static_cast<char *>(run->workspace),
            false,
            in_32_bits.in(state->op->name)};
    for (size_t i = 0; i < state->views.size(); i++) {
        job.data.push_back(static_cast<char *>(run->data[i]));
    }
    job.attrs.assign(run->attrs, run->attrs + state->nattrs);
    {
        const std::lock_guard<std::mutex> lock(guard);
        job.first = state->calls == 0;
    }
    Status status = INFINI_STATUS_SUCCESS;
    if (lazy) {
        enqueue(state, job, run->stream);
    } else if (status = state->op->check ? state->op->check(job) : status; status == INFINI_STATUS_SUCCESS) {
        status = perform(*state, job);
    }
    const std::lock_guard<std::mutex> lock(guard);
    state->calls++;
    return status;
}

void destroy(void *raw) {
    Handle *state = static_cast<Handle *>(raw);
    if (!leak.in((*state)->op->name)) {
        delete state;
    }
}

// ---- the table

template <const Operator &op> const infiniopKernel *kernel() {
    static const infiniopKernel table = {sizeof table, op.name,   op.version, supports,
                                         create<op>,   calculate, destroy,    nullptr};
    return &table;
}

} // namespace
} // namespace wrong

extern "C" __attribute__((visibility("default"))) const infiniopBackend *
infiniop_backend_init(const infiniopHost *given) {
    using namespace wrong;
    host = given;
    const char *device = std::getenv("WRONG_BACKEND_DEVICE");
    lazy = device && !std::strcmp(device, "lazy");
    static const infiniopKernel *const kernels[] = {
        kernel<add>(),  kernel<relu>(),          kernel<rms_norm>(),        kernel<add_rms_norm>(), kernel<softmax>(),
        kernel<gemm>(), kernel<paged_caching>(), kernel<paged_attention>(), kernel<sample>()};
    static infiniopBackend backend = {};
    backend.struct_size = sizeof backend;
    backend.abi_major = INFINIOP_BACKEND_ABI_MAJOR;
    backend.abi_minor = INFINIOP_BACKEND_ABI_MINOR;
    backend.name = lazy ? "wrong-lazy" : "wrong";
    backend.device_name = lazy ? "lazy" : "cpu";
    backend.version = "1";
    backend.priority = -100;
    backend.flags = lazy ? 0 : INFINIOP_BACKEND_EXPLICIT_ONLY;
    backend.runtime = lazy ? &runtime : nullptr;
    backend.nkernels = sizeof kernels / sizeof *kernels;
    backend.kernels = kernels;
    return &backend;
}

// The list of faults, one a line: op, name, where it is seen, what it does.
extern "C" __attribute__((visibility("default"))) const char *wrong_backend_faults() {
    static std::string text;
    text.clear();
    for (const wrong::Fault *f = wrong::Fault::first; f; f = f->next) {
        const char *const seen[] = {"anywhere", "on_streams", "far_away"};
        text += std::string(f->op) + "\t" + f->name + "\t" + seen[int(f->seen)] + "\t" + f->what + "\n";
    }
    return text.c_str();
}
