#include "error.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace infini {
namespace {

struct ThreadErrors {
    Failure last;
    bool from_plugin = false; // set by a plugin and not yet claimed by the call that failed
};

ThreadErrors &thread_errors() {
    thread_local ThreadErrors errors;
    return errors;
}

std::string compose(const Failure &failure) {
    std::string text;
    for (const std::string *part : {&failure.op, &failure.argument}) {
        if (!part->empty()) {
            text += *part + ": ";
        }
    }
    if (!failure.expected.empty()) {
        text += "expected " + failure.expected + (failure.got.empty() ? "" : ", ");
    }
    if (!failure.got.empty()) {
        text += "got " + failure.got;
    }
    if (failure.expected.empty() && failure.got.empty()) {
        text += status_name(failure.status);
    }
    return text;
}

infiniStatus_t store(Failure &&failure) {
    ThreadErrors &errors = thread_errors();
    errors.last = std::move(failure);
    errors.from_plugin = false;
    return errors.last.status;
}

infiniopLogLevel log_threshold() {
    static constexpr std::array<const char *, 4> names{"debug", "info", "warning", "error"};
    const char *wanted = std::getenv("INFINIOP_LOG_LEVEL");
    for (size_t i = 0; wanted && i < names.size(); ++i) {
        if (std::strcmp(wanted, names[i]) == 0 || (wanted[0] == static_cast<char>('0' + i) && wanted[1] == '\0')) {
            return static_cast<infiniopLogLevel>(i);
        }
    }
    return INFINIOP_LOG_WARNING;
}

} // namespace

Failure &last_failure() { return thread_errors().last; }

infiniStatus_t fail(infiniStatus_t status, std::string_view op, std::string_view message) {
    Failure failure;
    failure.status = status;
    failure.op = op;
    failure.message = op.empty() ? std::string(message) : std::string(op) + ": " + std::string(message);
    return store(std::move(failure));
}

infiniStatus_t fail(infiniStatus_t status, std::string_view op, std::string_view argument, std::string_view expected,
                    std::string_view got) {
    Failure failure{status, std::string(op), std::string(argument), std::string(expected), std::string(got), {}};
    failure.message = compose(failure);
    return store(std::move(failure));
}

infiniStatus_t fail_null(std::string_view op, std::string_view argument) {
    return fail(INFINI_STATUS_NULL_POINTER, op, argument, "a pointer", "NULL");
}

infiniStatus_t fail_exception(std::string_view op) noexcept {
    try {
        try {
            throw;
        } catch (const std::bad_alloc &) {
            return fail(INFINI_STATUS_INTERNAL_ERROR, op, "out of memory");
        } catch (const std::exception &error) {
            return fail(INFINI_STATUS_INTERNAL_ERROR, op, error.what());
        } catch (...) {
            return fail(INFINI_STATUS_INTERNAL_ERROR, op, "unknown exception");
        }
    } catch (...) { // no memory for the message either
        Failure &last = thread_errors().last;
        last.message.clear();
        last.status = INFINI_STATUS_INTERNAL_ERROR;
        return INFINI_STATUS_INTERNAL_ERROR;
    }
}

void expect_plugin() noexcept { thread_errors().from_plugin = false; }

infiniStatus_t plugin_said(infiniStatus_t otherwise) noexcept {
    const ThreadErrors &errors = thread_errors();
    return errors.from_plugin && errors.last.status != INFINI_STATUS_SUCCESS ? errors.last.status : otherwise;
}

infiniStatus_t plugin_failed(int status, std::string_view op, std::string_view plugin) {
    ThreadErrors &errors = thread_errors();
    if (!status_name(status)) {
        return fail(INFINI_STATUS_INTERNAL_ERROR, op,
                    "backend " + std::string(plugin) + " answered status " + std::to_string(status) +
                        ", which is none");
    }
    if (!errors.from_plugin || errors.last.status != status) {
        return fail(static_cast<infiniStatus_t>(status), op,
                    "backend " + std::string(plugin) + " answered " + status_name(status));
    }
    errors.from_plugin = false;
    if (errors.last.op.empty()) {
        errors.last.op = op;
        errors.last.message = std::string(op) + ": " + errors.last.message;
    }
    return errors.last.status;
}

void set_error(const infiniopError *error) noexcept {
    if (!error || error->struct_size < offsetof(infiniopError, op)) {
        return;
    }
    try {
        infiniopError known{};
        std::memcpy(&known, error, std::min(error->struct_size, sizeof known));
        const auto text = [](const char *s) { return std::string(s ? s : ""); };
        Failure failure{known.status,         text(known.op),  text(known.argument),
                        text(known.expected), text(known.got), text(known.message)};
        if (failure.message.empty()) {
            failure.message = compose(failure);
        }
        store(std::move(failure));
        thread_errors().from_plugin = true;
    } catch (...) {
        fail_exception("set_error");
    }
}

void log(infiniopLogLevel level, const char *text) noexcept {
    static const infiniopLogLevel threshold = log_threshold();
    static constexpr std::array<const char *, 4> names{"debug", "info", "warning", "error"};
    const int number = raw(level);
    if (text && number >= threshold && number < static_cast<int>(names.size())) {
        std::fprintf(stderr, "infiniop %s: %s\n", names[static_cast<size_t>(number)], text);
    }
}

const char *status_name(int status) {
    switch (status) {
    case INFINI_STATUS_SUCCESS:
        return "SUCCESS";
    case INFINI_STATUS_INTERNAL_ERROR:
        return "INTERNAL_ERROR";
    case INFINI_STATUS_NOT_IMPLEMENTED:
        return "NOT_IMPLEMENTED";
    case INFINI_STATUS_BAD_PARAM:
        return "BAD_PARAM";
    case INFINI_STATUS_NULL_POINTER:
        return "NULL_POINTER";
    case INFINI_STATUS_DEVICE_TYPE_NOT_SUPPORTED:
        return "DEVICE_TYPE_NOT_SUPPORTED";
    case INFINI_STATUS_DEVICE_NOT_FOUND:
        return "DEVICE_NOT_FOUND";
    case INFINI_STATUS_DEVICE_NOT_INITIALIZED:
        return "DEVICE_NOT_INITIALIZED";
    case INFINI_STATUS_DEVICE_ARCHITECTURE_NOT_SUPPORTED:
        return "DEVICE_ARCHITECTURE_NOT_SUPPORTED";
    case INFINI_STATUS_BAD_TENSOR_DTYPE:
        return "BAD_TENSOR_DTYPE";
    case INFINI_STATUS_BAD_TENSOR_SHAPE:
        return "BAD_TENSOR_SHAPE";
    case INFINI_STATUS_BAD_TENSOR_STRIDES:
        return "BAD_TENSOR_STRIDES";
    case INFINI_STATUS_INSUFFICIENT_WORKSPACE:
        return "INSUFFICIENT_WORKSPACE";
    }
    return nullptr;
}

} // namespace infini
