#include "attention_half.cuh"

namespace infiniop::nvidia {
template Status attend_half<bf16>(const AttentionParams &, AttentionForm, const Limits &, infinirtStream_t);
}
