#include "attention_half.cuh"

namespace infiniop::nvidia {
template Status attend_half<f16>(const AttentionParams &, AttentionForm, const Limits &, infinirtStream_t);
}
