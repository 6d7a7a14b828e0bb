// The calling thread's last failure. It lives here, once, for all three libraries and every plugin.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "infiniop/backend.h"

namespace [[gnu::visibility("default")]] infini {

struct Failure {
    infiniStatus_t status = INFINI_STATUS_SUCCESS;
    std::string op, argument, expected, got, message;
};

Failure &last_failure();

// Both note the failure and give its status back. The second composes "op: argument: expected X, got Y".
infiniStatus_t fail(infiniStatus_t status, std::string_view op, std::string_view message);
infiniStatus_t fail(infiniStatus_t status, std::string_view op, std::string_view argument, std::string_view expected,
                    std::string_view got);
infiniStatus_t fail_null(std::string_view op, std::string_view argument);
infiniStatus_t fail_exception(std::string_view op) noexcept; // inside a catch block

// Around a call into a plugin: forget what it said before; afterwards, pass its status on with a message in any case.
void expect_plugin() noexcept;
infiniStatus_t plugin_said(infiniStatus_t otherwise) noexcept; // the status that it has set since
infiniStatus_t plugin_failed(int status, std::string_view op, std::string_view plugin);

// What plugins call through their host table.
void set_error(const infiniopError *error) noexcept;
void log(infiniopLogLevel level, const char *text) noexcept;

const char *status_name(int status); // nullptr: there is none of that number

// An enum that came in from C or from a plugin holds any int, so it is read as one and never loaded as an enum before
// it is known to be good.
template <class Enum> int raw(const Enum &value) {
    static_assert(sizeof(Enum) == sizeof(int));
    int number;
    __builtin_memcpy(&number, &value, sizeof number);
    return number;
}

// No exception crosses the ABI.
template <class Body> infiniStatus_t guarded(const char *op, Body &&body) noexcept {
    try {
        return body();
    } catch (...) {
        return fail_exception(op);
    }
}

} // namespace infini
