// Errors of the C++ layer, as exceptions or as values.
//
// Every function that can fail has two faces. Called as it is, it throws infiniop::Error. Called with infiniop::nothrow
// as first argument it returns a Result, which is std::expected<T, infiniop::Error> where the standard library has it;
// classes have `create(nothrow, ...)` beside their constructors. Without exceptions (-fno-exceptions) only the second
// face compiles.
//
// For those who carry this on: a function that returns a Result takes a nothrow_t or is a template, so that its symbol
// names the Result, which is another type in C++23 than in C++17.
#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#if __cplusplus > 202002L && __has_include(<expected>)
#include <expected>
#endif

#include "../registry.h"

namespace infiniop {

// A failed call: its status, and in words what was wrong with which argument.
class [[gnu::visibility("default")]] Error : public std::exception { // caught across libraries
public:
    // What the calling thread's last failing call has left.
    static Error last(infiniStatus_t status) {
        infiniopError info{};
        info.struct_size = sizeof info;
        infiniopGetLastErrorInfo(&info);
        return Error(status,
                     std::make_shared<const Words>(Words{text(info.op), text(info.argument), text(info.expected),
                                                         text(info.got), text(info.message)}));
    }

    infiniStatus_t status() const noexcept { return status_; }
    const std::string &op() const noexcept { return words_->op; } // "paged_caching"
    const std::string &argument() const noexcept { return words_->argument; }
    const std::string &expected() const noexcept { return words_->expected; }
    const std::string &got() const noexcept { return words_->got; }
    const char *what() const noexcept override { return words_->message.c_str(); } // the whole sentence

private:
    struct Words {
        std::string op, argument, expected, got, message;
    };
    Error(infiniStatus_t status, std::shared_ptr<const Words> words) : status_(status), words_(std::move(words)) {}
    static std::string text(const char *words) { return words ? words : ""; }

    infiniStatus_t status_;
    std::shared_ptr<const Words> words_; // shared: copying an exception must not throw
};

#ifdef __cpp_lib_expected
template <class T> using Result = std::expected<T, Error>;
using Unexpected = std::unexpected<Error>;
#else
class Unexpected {
public:
    explicit Unexpected(Error error) : error_(std::move(error)) {}
    Error &&error() && noexcept { return std::move(error_); }

private:
    Error error_;
};

// The part of std::expected<T, Error> that older standards get.
template <class T> class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Unexpected failure) : state_(std::in_place_index<1>, std::move(failure).error()) {}

    bool has_value() const noexcept { return state_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }
    T &operator*() & noexcept { return *std::get_if<0>(&state_); }
    const T &operator*() const & noexcept { return *std::get_if<0>(&state_); }
    T &&operator*() && noexcept { return std::move(*std::get_if<0>(&state_)); }
    T *operator->() noexcept { return std::get_if<0>(&state_); }
    const T *operator->() const noexcept { return std::get_if<0>(&state_); }
    const Error &error() const noexcept { return *std::get_if<1>(&state_); }

private:
    std::variant<T, Error> state_;
};

template <> class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Unexpected failure) : error_(std::move(failure).error()) {}

    bool has_value() const noexcept { return !error_; }
    explicit operator bool() const noexcept { return has_value(); }
    void operator*() const noexcept {}
    const Error &error() const noexcept { return *error_; }

private:
    std::optional<Error> error_;
};
#endif

namespace detail {
template <class Void> struct Nothrow {
    explicit constexpr Nothrow() = default; // `{}` is none
};
} // namespace detail

using nothrow_t = detail::Nothrow<Result<void>>;
inline constexpr nothrow_t nothrow{};

namespace detail {

inline constexpr infiniStatus_t success = INFINI_STATUS_SUCCESS;

template <class T> Unexpected failed(const Result<T> &result) { return Unexpected(result.error()); }
inline Unexpected failed(nothrow_t, infiniStatus_t status) { return Unexpected(Error::last(status)); }

inline Result<void> done(nothrow_t, infiniStatus_t status) {
    if (status != success) {
        return failed(nothrow, status);
    }
    return {};
}

template <class T> Result<T> done(nothrow_t, infiniStatus_t status, T value) {
    if (status != success) {
        return failed(nothrow, status);
    }
    return value;
}

// The throwing face of a result.
#ifdef __cpp_exceptions
template <class T> T value(Result<T> result) {
    if (!result) {
        throw result.error();
    }
    return *std::move(result);
}
#else
template <class T>
[[gnu::error("compiled without exceptions: give infiniop::nothrow as first argument")]] T value(Result<T> result);
#endif

} // namespace detail
} // namespace infiniop
