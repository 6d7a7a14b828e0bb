// include/infiniop/verify.h
#include "infiniop/verify.h"

#include "runtime/plugin.hpp"
#include "runtime/text.hpp"
#include "runtime/verification.hpp"
#include "shadow.hpp"

using namespace infini;

infiniStatus_t infiniopSetVerify(const infiniopVerifyOptions *options) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infiniopSetVerify";
        keep_first_calls();
        if (!options) {
            set_verification(wanted_by_environment());
            return INFINI_STATUS_SUCCESS;
        }
        if (options->struct_size < sizeof options->struct_size) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "struct_size", "the struct's size, set by the caller",
                        std::to_string(options->struct_size));
        }
        const infiniopVerifyOptions known = known_part(options);
        Verification wanted;
        wanted.against = split(known.against, ',');
        wanted.keep_going = known.keep_going != 0;
        wanted.tolerance = known.tolerance > 0 ? known.tolerance : 1;
        wanted.folder = known.folder && *known.folder ? known.folder : wanted.folder;
        for (const std::string &name : wanted.against) {
            if (!find_backend(name)) {
                return fail(INFINI_STATUS_BAD_PARAM, op, "against", "backends that are loaded", name);
            }
        }
        set_verification(wanted.against.empty() ? nullptr : std::make_shared<const Verification>(std::move(wanted)));
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t infiniopGetVerifyCounts(infiniopVerifyCounts *counts) {
    return guarded(__func__, [&] {
        return counts ? give("infiniopGetVerifyCounts", verify_counts(), counts)
                      : fail_null("infiniopGetVerifyCounts", "counts");
    });
}

infiniStatus_t infiniopSetVerifyJudge(infiniopVerifyJudge_t judge) {
    set_judge(judge);
    return INFINI_STATUS_SUCCESS;
}
